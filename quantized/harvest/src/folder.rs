//! The folder: a file for each adapter. Whoever changes one holds the folder's lock, and looks
//! first whether another did: several servers may write to one folder, and prompts may be erased
//! under a running server.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::file::{Header, MARK, Parsed, Place, Sample, aside};
use crate::row::{ROW_BYTES_MAX, Row};
use crate::{Bounds, HarvestError};

/// Lines that are no rows any more, besides a quarter of the rows, before a file is written anew.
const STALE_MAX: usize = 64;
/// The same in bytes, besides as many as the rows have.
const STALE_BYTES_MAX: u64 = 1 << 20;
/// The part of a name that stands in that of its file. units: characters
const STEM_CHARS_MAX: usize = 48;
const ENDING: &str = ".jsonl";

/// What became of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is a row now.
    Added,
    /// It was there already.
    Repeated,
    /// It is not of the sample.
    NotDrawn,
    /// It is longer than [`ROW_BYTES_MAX`].
    TooLong,
}

/// A sample of the prompts of each adapter.
#[derive(Debug)]
pub struct Harvest {
    folder: PathBuf,
    bounds: Bounds,
    files: BTreeMap<String, Known>,
}

/// A file as this writer knows it.
#[derive(Debug)]
struct Known {
    path: PathBuf,
    /// Device and number of the file.
    id: (u64, u64),
    bytes: u64,
    header: Header,
    sample: Sample,
    lines: usize,
    until_first: Option<u64>,
}

/// Held while the folder changes.
struct Lock {
    _file: File,
}

impl Lock {
    fn take(folder: &Path) -> Result<Self, HarvestError> {
        let path = folder.join(".lock");
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let file = options.open(&path).map_err(HarvestError::io(&path))?;
        file.lock().map_err(HarvestError::io(&path))?;
        Ok(Self { _file: file })
    }
}

impl Harvest {
    /// Open a folder for writing; it is created where it is missing.
    ///
    /// fails: it cannot be created, or others than its owner may enter it
    pub fn open(folder: &Path, bounds: Bounds) -> Result<Self, HarvestError> {
        let create = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        create.map_err(HarvestError::io(folder))?;
        let mode = fs::metadata(folder)
            .map_err(HarvestError::io(folder))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(HarvestError::Open {
                path: folder.to_owned(),
                mode: mode & 0o7777,
            });
        }
        let _lock = Lock::take(folder)?;
        for leftover in entries(folder, ".jsonl.part")? {
            fs::remove_file(&leftover).map_err(HarvestError::io(&leftover))?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            bounds,
            files: BTreeMap::new(),
        })
    }

    /// How a row of now is kept: when it is erased. units: seconds since 1970
    pub fn until(&self, now: u64) -> u64 {
        now.saturating_add(self.bounds.ttl_seconds)
    }

    /// Rows that are kept of an adapter, as this writer last saw them.
    pub fn rows(&self, adapter: &str) -> usize {
        self.files
            .get(adapter)
            .map_or(0, |known| known.sample.places.len())
    }

    /// Keep a prompt, if the sample takes it. `seed` is of a file that is begun now.
    ///
    /// fails: the folder is full, its file is damaged, or the system refuses; then nothing that was
    /// there is lost
    pub fn keep(&mut self, adapter: &str, row: &Row, seed: u64) -> Result<Kept, HarvestError> {
        let line = row.to_line();
        if line.len() > ROW_BYTES_MAX {
            return Ok(Kept::TooLong);
        }
        let _lock = Lock::take(&self.folder)?;
        self.refresh(adapter, row.at, seed)?;
        let Some(known) = self.files.get_mut(adapter) else {
            return Ok(Kept::NotDrawn);
        };
        let rank = row.rank(known.header.seed);
        if known.sample.places.contains_key(&rank) {
            return Ok(Kept::Repeated);
        }
        let place = Place {
            from: known.bytes as usize,
            bytes: line.len(),
            at: row.at,
            until: row.until,
            answered: row.answer.is_some(),
        };
        if !known.sample.admits(rank, line.len(), &known.header) {
            return Ok(Kept::NotDrawn);
        }
        known.append(&line)?;
        known.sample.take(rank, place, &known.header);
        let first = known.until_first.unwrap_or(row.until);
        known.until_first = Some(first.min(row.until));
        if known.is_stale() {
            self.rewrite(adapter, row.at)?;
        }
        Ok(Kept::Added)
    }

    /// Erase the rows of all adapters whose time is over. Answers how many.
    ///
    /// fails: a file is damaged or the system refuses; the others are looked at all the same
    pub fn expire(&mut self, now: u64) -> Result<usize, HarvestError> {
        let _lock = Lock::take(&self.folder)?;
        let (mut erased, mut failed) = (0, None);
        for path in entries(&self.folder, ENDING)? {
            if !is_ours(&path).map_err(HarvestError::io(&path))? {
                continue;
            }
            match expire_file(&path, now) {
                Ok(count) => erased += count,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        // Files that were written anew are read again before the next row.
        failed.map_or(Ok(erased), Err)
    }

    /// Know the file as it is now; begin it where there is none.
    fn refresh(&mut self, adapter: &str, now: u64, seed: u64) -> Result<(), HarvestError> {
        let path = self.folder.join(file_of(adapter));
        let id = match fs::metadata(&path) {
            Ok(meta) => Some((meta.dev(), meta.ino(), meta.len())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(HarvestError::io(&path)(error)),
        };
        let known = self.files.get(adapter);
        let is_same = |known: &Known| Some((known.id.0, known.id.1, known.bytes)) == id;
        let is_due = |known: &Known| known.until_first.is_some_and(|first| first <= now);
        if known.is_some_and(|known| is_same(known) && !is_due(known)) {
            return Ok(());
        }
        self.files.remove(adapter);
        if id.is_none() {
            let most = self.bounds.adapters_max;
            if entries(&self.folder, ENDING)?.len() >= most {
                return Err(HarvestError::Full {
                    path: self.folder.clone(),
                    adapters_max: most,
                });
            }
            let header = Header::new(adapter, seed, self.bounds.rows_max, self.bounds.bytes_max);
            write_anew(&path, &[&header.to_line()])?;
        } else {
            self.adapt(&path, now)?;
        }
        let known = Known::read(path, now)?;
        self.files.insert(adapter.to_owned(), known);
        Ok(())
    }

    /// Let a file keep to the bounds of this writer, without what is too old and without the half
    /// of a row.
    fn adapt(&self, path: &Path, now: u64) -> Result<(), HarvestError> {
        let mut parsed = Parsed::read(path, now)?;
        let bounds = &self.bounds;
        let (rows_max, bytes_max) = (bounds.rows_max, bounds.bytes_max);
        let header = Header::new(
            &parsed.header.adapter,
            parsed.header.seed,
            rows_max,
            bytes_max,
        );
        let lives = |row: &Row| row.at.saturating_add(bounds.ttl_seconds);
        let mut rows = parsed.rows();
        let is_long = rows.iter().any(|row| row.until > lives(row));
        if header == parsed.header && !is_long && parsed.expired == 0 {
            if parsed.whole < parsed.bytes.len() {
                let file = OpenOptions::new().write(true).open(path);
                let cut = file.and_then(|file| file.set_len(parsed.whole as u64));
                cut.map_err(HarvestError::io(path))?;
            }
            return Ok(());
        }
        for row in &mut rows {
            row.until = row.until.min(lives(row));
        }
        rows.retain(|row| row.until > now);
        parsed.header = header;
        write_rows(path, &parsed.header, &rows)
    }

    /// Write a file anew with the rows that are kept.
    fn rewrite(&mut self, adapter: &str, now: u64) -> Result<(), HarvestError> {
        let path = self.folder.join(file_of(adapter));
        let parsed = Parsed::read(&path, now)?;
        write_rows(&path, &parsed.header, &parsed.rows())?;
        let known = Known::read(path, now)?;
        self.files.insert(adapter.to_owned(), known);
        Ok(())
    }
}

impl Known {
    fn read(path: PathBuf, now: u64) -> Result<Self, HarvestError> {
        let parsed = Parsed::read(&path, now)?;
        let meta = fs::metadata(&path).map_err(HarvestError::io(&path))?;
        Ok(Self {
            path,
            id: (meta.dev(), meta.ino()),
            bytes: meta.len(),
            header: parsed.header,
            sample: parsed.sample,
            lines: parsed.lines,
            until_first: parsed.until_first,
        })
    }

    /// So much of it is no row any more that it is to be written anew.
    fn is_stale(&self) -> bool {
        let rows = self.sample.places.len();
        self.lines > rows + rows / 4 + STALE_MAX
            || self.bytes > 2 * self.sample.bytes() + STALE_BYTES_MAX
    }

    /// Write a line at the end; where that fails in the middle, take back what was written of it.
    fn append(&mut self, line: &[u8]) -> Result<(), HarvestError> {
        let file = OpenOptions::new().append(true).open(&self.path);
        let mut file = file.map_err(HarvestError::io(&self.path))?;
        if let Err(error) = file.write_all(line) {
            // Where not even that is possible, the half has no line feed, and the next writer cuts
            // it off.
            _ = file.set_len(self.bytes);
            return Err(HarvestError::io(&self.path)(error));
        }
        self.bytes += line.len() as u64;
        self.lines += 1;
        Ok(())
    }
}

/// Write a file with these rows, or take it away where there are none.
fn write_rows(path: &Path, header: &Header, rows: &[Row]) -> Result<(), HarvestError> {
    let lines: Vec<Vec<u8>> = rows.iter().map(Row::to_line).collect();
    let head = header.to_line();
    let mut parts: Vec<&[u8]> = vec![&head];
    parts.extend(lines.iter().map(Vec::as_slice));
    write_anew(path, &parts)
}

/// Write a file aside and give it its name: a reader finds the old one or the new one.
fn write_anew(path: &Path, parts: &[&[u8]]) -> Result<(), HarvestError> {
    let part = aside(path);
    let write = || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&part)?;
        file.write_all(&parts.concat())?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    write().map_err(|error| {
        _ = fs::remove_file(&part);
        HarvestError::io(path)(error)
    })
}

/// Take the rows out of a file whose time is over; the file, where none is left.
fn expire_file(path: &Path, now: u64) -> Result<usize, HarvestError> {
    let parsed = Parsed::read(path, now)?;
    if parsed.expired == 0 {
        return Ok(0);
    }
    let rows = parsed.rows();
    if rows.is_empty() {
        fs::remove_file(path).map_err(HarvestError::io(path))?;
    } else {
        write_rows(path, &parsed.header, &rows)?;
    }
    Ok(parsed.expired)
}

/// The files of a folder that end so, in the order of their names.
fn entries(folder: &Path, ending: &str) -> Result<Vec<PathBuf>, HarvestError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(HarvestError::io(folder))? {
        let path = entry.map_err(HarvestError::io(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(ending) && (ending != ENDING || !name.starts_with('.')) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The file of an adapter in a folder: what can be read of its name, and a hash of it.
pub fn file_of(adapter: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || c == '-' || c == '_' {
            c
        } else {
            '_'
        }
    };
    let stem: String = adapter.chars().map(plain).take(STEM_CHARS_MAX).collect();
    let hash: [u8; 32] = Sha256::digest(adapter).into();
    let digits: String = hash[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{stem}-{digits}{ENDING}")
}

/// What a file comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Of whom the prompts are.
    pub adapter: String,
    /// Prompts.
    pub rows: usize,
    /// Of these, those with an answer.
    pub answers: usize,
    /// Size of the file.
    pub bytes: u64,
    /// When the oldest and the newest came. units: seconds since 1970
    pub between: Option<[u64; 2]>,
    /// When the last of them is erased. units: seconds since 1970
    pub until: Option<u64>,
}

/// A file of a folder, and what it comes to or what is wrong with it.
pub type Listed = (PathBuf, Result<Summary, HarvestError>);

/// List the files of a folder.
///
/// fails: the folder cannot be read
pub fn list(folder: &Path, now: u64) -> Result<Vec<Listed>, HarvestError> {
    let summary = |path: &Path| {
        let parsed = Parsed::read(path, now)?;
        let places = || parsed.sample.places.values();
        let (first, last) = (places().map(|p| p.at).min(), places().map(|p| p.at).max());
        Ok(Summary {
            rows: places().count(),
            answers: places().filter(|place| place.answered).count(),
            bytes: parsed.bytes.len() as u64,
            between: first.zip(last).map(|(first, last)| [first, last]),
            until: places().map(|place| place.until).max(),
            adapter: parsed.header.adapter.clone(),
        })
    };
    let files = entries(folder, ENDING)?.into_iter();
    Ok(files.map(|path| (path.clone(), summary(&path))).collect())
}

/// What was erased.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Files that are gone.
    pub files: usize,
    /// Files that look like such by their name and are not.
    pub left: Vec<PathBuf>,
}

/// Erase what is kept of an adapter, or of all. What is no file of kept prompts stays.
///
/// fails: the folder cannot be read, a file cannot be removed
pub fn erase(folder: &Path, adapter: Option<&str>) -> Result<Erased, HarvestError> {
    let mut erased = Erased::default();
    if entries(folder, ENDING)?.is_empty() {
        return Ok(erased);
    }
    let _lock = Lock::take(folder)?;
    let file = adapter.map(|adapter| folder.join(file_of(adapter)));
    for path in entries(folder, ENDING)? {
        if file.as_ref().is_some_and(|file| *file != path) {
            continue;
        }
        if is_ours(&path).map_err(HarvestError::io(&path))? {
            fs::remove_file(&path).map_err(HarvestError::io(&path))?;
            erased.files += 1;
        } else {
            erased.left.push(path);
        }
    }
    Ok(erased)
}

/// It begins as a file of kept prompts, whatever became of the rest.
fn is_ours(path: &Path) -> std::io::Result<bool> {
    let mut first = Vec::new();
    let file = File::open(path)?;
    file.take(MARK.len() as u64).read_to_end(&mut first)?;
    Ok(first == MARK.as_bytes())
}

/// Erase the rows of a folder whose time is over. Answers how many.
///
/// fails: as [`Harvest::expire`]
pub fn erase_expired(folder: &Path, now: u64) -> Result<usize, HarvestError> {
    entries(folder, ENDING)?;
    Harvest::open(folder, Bounds::default())?.expire(now)
}

/// A seed that nobody can foresee.
///
/// fails: the system has none
pub fn random_seed() -> Result<u64, HarvestError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 8];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(HarvestError::io(path))?;
    Ok(u64::from_le_bytes(bytes))
}
