//! Keep what is done, so that a stopped run goes on where it stopped.
//!
//! A folder beside the output: `journal.jsonl` (a header with the hash of the plan and of every
//! input, then a line for each finished stage) and the stages' results. Every file is written aside
//! and renamed, and the folder is synced. A result counts only once its line is there, and only while
//! its bytes have the hash in that line. A stage that is damaged is lost with those after it, and no
//! more. The files hold prompts: only their owner may read them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
#[cfg(unix)]
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::distill::{Checkpoint, Checkpoints, Progress};
use crate::record::{Blame, ContentHash, Fault, Remedy, Restore, Restored, Step};

mod lock;
mod mend;

use lock::Lock;
pub use mend::sweep;
use mend::{folder_of, sealed, sync_folder, take_away, unsealed};

const INDEX: &str = "journal.jsonl";
const VERSION: u32 = 6;
/// The stages that train.
const TRAINING: [&str; 2] = ["distill", "inputs"];

/// What a journal belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Of the journal's format.
    pub version: u32,
    /// The command, such as `transfer`.
    pub command: String,
    /// Of all but the learning rate.
    pub plan: ContentHash,
    /// What a run that is taken up may change, as long as it has not done its training.
    pub lr: Option<f64>,
    /// The hash of every input file, by its name.
    pub inputs: BTreeMap<String, ContentHash>,
}

impl Header {
    /// Describe a run.
    pub fn new(
        command: &str,
        plan: &serde_json::Value,
        inputs: BTreeMap<String, ContentHash>,
    ) -> Self {
        let mut plan = plan.clone();
        let lr = plan
            .as_object_mut()
            .and_then(|plan| plan.remove("lr"))
            .and_then(|rate| rate.as_f64());
        let plan = ContentHash::of(plan.to_string().as_bytes());
        Self {
            version: VERSION,
            command: command.to_owned(),
            plan,
            lr,
            inputs,
        }
    }
}

/// One finished stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    stage: String,
    seconds: f64,
    summary: String,
    /// File name in the folder → hash of its bytes.
    files: BTreeMap<String, ContentHash>,
}

/// A stage's result: one head, many rows, and bytes where there are any.
#[derive(Clone, Debug, PartialEq)]
pub struct Product<H, R> {
    /// The one value.
    pub head: H,
    /// The many values.
    pub rows: Vec<R>,
    /// The bytes, where there are any.
    pub blob: Option<Vec<u8>>,
    /// What it came to, in a sentence.
    pub summary: String,
    /// Where it took time. units: seconds
    pub seconds: f64,
    /// Found in the journal instead of done.
    pub resumed: bool,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// A run was stopped, and this one does not say that it goes on with it.
    #[error("{folder}: an unfinished run lies here")]
    Unfinished {
        /// The journal.
        folder: PathBuf,
    },
    /// Another process works on this run.
    #[error("{folder}: {} works on this run", worker(*process))]
    InUse {
        /// The journal.
        folder: PathBuf,
        /// The number of the process, where it has written it.
        process: Option<u32>,
    },
    /// The run that was stopped had other settings or files.
    #[error("{folder}: this run cannot go on: {what} changed since it was stopped")]
    Changed {
        /// The journal.
        folder: PathBuf,
        /// What differs.
        what: String,
    },
    /// A file of the journal is not what it was.
    #[error("{path}: damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that shows.
        reason: String,
    },
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn worker(process: Option<u32>) -> String {
    process.map_or_else(
        || "another process".to_owned(),
        |number| format!("process {number}"),
    )
}

impl Blame for JournalError {
    fn fault(&self) -> Fault {
        match self {
            Self::Io { .. } => Fault::Machine,
            Self::Unfinished { .. }
            | Self::InUse { .. }
            | Self::Changed { .. }
            | Self::Damaged { .. } => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::Unfinished { folder } => Remedy::or([Remedy::Resume, Remedy::remove(folder)]),
            Self::InUse { .. } => {
                Remedy::or([Step::WaitForEnd.into(), Remedy::choose_other("out")])
            }
            Self::Changed { folder, .. } => {
                Remedy::or([Step::SamePlan.into(), Remedy::remove(folder)])
            }
            Self::Damaged { path, .. } => Remedy::remove(path.parent().unwrap_or(path)),
            // The journal lies beside the output.
            Self::Io { .. } => Step::WritableFolder.into(),
        })
    }
}

/// The open journal of one run.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    header: Header,
    lines: Vec<Line>,
    /// What is to be said about it.
    notes: Vec<String>,
    _lock: Lock,
}

impl Journal {
    /// Start a journal beside `out`, or take up the one that lies there.
    ///
    /// fails: one lies there and `resume` is false, another process works on it, or it belongs to
    /// another plan or other inputs
    pub fn open(out: &Path, header: Header, resume: bool) -> Result<Self, JournalError> {
        let folder = Self::folder_beside(out);
        sweep(&folder_of(&folder));
        match create_dir(&folder) {
            Ok(()) => Self::begin(Lock::of(&folder)?, folder, header),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && resume => {
                Self::take_up(Lock::of(&folder)?, folder, header)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Lock::check(&folder)?;
                Err(JournalError::Unfinished { folder })
            }
            Err(source) => Err(JournalError::Io {
                path: folder,
                source,
            }),
        }
    }

    /// Say whether a run that may be taken up lies beside `out`.
    ///
    /// fails: another process works on it
    pub fn lies_beside(out: &Path) -> Result<bool, JournalError> {
        let folder = Self::folder_beside(out);
        if !folder.is_dir() {
            return Ok(false);
        }
        Lock::check(&folder).map(|()| true)
    }

    fn begin(lock: Lock, folder: PathBuf, header: Header) -> Result<Self, JournalError> {
        let journal = Self {
            folder,
            header,
            lines: Vec::new(),
            notes: Vec::new(),
            _lock: lock,
        };
        journal.write_index(&[]).map(|()| journal)
    }

    /// Begin where nothing that lies there can be used.
    fn begin_anew(lock: Lock, folder: PathBuf, header: Header) -> Result<Self, JournalError> {
        mend::remove_others(&folder, &[])?;
        let note = format!(
            "{}: it is damaged or gone: all stages are done again",
            folder.join(INDEX).display()
        );
        let mut journal = Self::begin(lock, folder, header)?;
        journal.notes.push(note);
        Ok(journal)
    }

    /// What is to be said about it: which stages are lost.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn folder_beside(out: &Path) -> PathBuf {
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(".journal");
        out.with_file_name(name)
    }

    fn take_up(lock: Lock, folder: PathBuf, header: Header) -> Result<Self, JournalError> {
        let path = folder.join(INDEX);
        let text = match fs::read(&path) {
            // Stopped before the first line was written: nothing was done.
            Err(error) if error.kind() == io::ErrorKind::NotFound && mend::is_bare(&folder) => {
                return Self::begin(lock, folder, header);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Self::begin_anew(lock, folder, header);
            }
            text => text.map_err(|source| JournalError::Io {
                path: path.clone(),
                source,
            })?,
        };
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.lines();
        let first = lines.next().and_then(unsealed);
        let Some(found) = first.and_then(|text| serde_json::from_str::<Header>(text).ok()) else {
            return Self::begin_anew(lock, folder, header);
        };
        if let Some(what) = difference(&found, &header) {
            return Err(JournalError::Changed { folder, what });
        }
        let whole = mend::whole(&folder, lines)?;
        let mut journal = Self {
            folder,
            header,
            lines: whole.lines,
            notes: Vec::new(),
            _lock: lock,
        };
        if let Some(lost) = whole.lost {
            mend::remove_others(&journal.folder, &journal.lines)?;
            journal.write_index(&journal.lines)?;
            journal.notes.push(format!(
                "{}: {lost}: it is done again, and what came after it",
                journal.folder.display()
            ));
        }
        if found.lr == journal.header.lr {
            return Ok(journal);
        }
        let (folder, lines) = (&journal.folder, &journal.lines);
        let finished = |stage: &str| lines.iter().any(|line| line.stage == stage);
        let under_way =
            |stage: &str| !finished(stage) && folder.join(checkpoint_name(stage)).is_file();
        if TRAINING.iter().any(|stage| finished(stage))
            && !TRAINING.iter().any(|stage| under_way(stage))
        {
            return Err(JournalError::Changed {
                folder: folder.clone(),
                what: "the learning rate (and training is over)".into(),
            });
        }
        journal.write_index(&journal.lines).map(|()| journal)
    }

    /// The path of a file in the journal's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Read back a finished stage. Its bytes come back with the head, too: a noun may need them.
    pub fn finished<H: Restored, R: Restored>(
        &self,
        stage: &str,
    ) -> Result<Option<Product<H, R>>, JournalError> {
        let Some(line) = self.lines.iter().find(|line| line.stage == stage) else {
            return Ok(None);
        };
        let path = self.path(&rows_name(stage));
        let damaged = |reason: String| JournalError::Damaged {
            path: path.clone(),
            reason,
        };
        let text = String::from_utf8(self.read(line, &rows_name(stage))?)
            .map_err(|error| damaged(error.to_string()))?;
        let blob_name = blob_name(stage);
        let blob = if line.files.contains_key(&blob_name) {
            Some(self.read(line, &blob_name)?)
        } else {
            None
        };
        let mut lines = text.lines();
        let head = restored(
            lines.next().unwrap_or_default(),
            blob.clone().unwrap_or_default(),
        )
        .map_err(|error| damaged(error.to_string()))?;
        let rows = lines
            .map(|line| restored(line, Vec::new()))
            .collect::<Result<_, _>>()
            .map_err(|error| damaged(error.to_string()))?;
        Ok(Some(Product {
            head,
            rows,
            blob,
            summary: line.summary.clone(),
            seconds: line.seconds,
            resumed: true,
        }))
    }

    fn read(&self, line: &Line, name: &str) -> Result<Vec<u8>, JournalError> {
        let path = self.path(name);
        let bytes = fs::read(&path).map_err(|source| JournalError::Io {
            path: path.clone(),
            source,
        })?;
        if line.files.get(name) == Some(&ContentHash::of(&bytes)) {
            Ok(bytes)
        } else {
            Err(JournalError::Damaged {
                path,
                reason: "its bytes are not those that were written".into(),
            })
        }
    }

    /// Keep a stage's result; it counts once its line is written.
    pub fn finish<H: Serialize, R: Serialize>(
        &mut self,
        stage: &str,
        product: &Product<H, R>,
    ) -> Result<(), JournalError> {
        let path = self.path(&rows_name(stage));
        let unfit = |error: serde_json::Error| JournalError::Damaged {
            path: path.clone(),
            reason: error.to_string(),
        };
        let mut text = serde_json::to_string(&product.head).map_err(unfit)? + "\n";
        for row in &product.rows {
            text += &serde_json::to_string(row).map_err(unfit)?;
            text.push('\n');
        }
        let mut files = BTreeMap::from([(rows_name(stage), text.into_bytes())]);
        files.extend(product.blob.clone().map(|blob| (blob_name(stage), blob)));
        for (name, bytes) in &files {
            self.replace(name, &[bytes])?;
        }
        let files = files
            .into_iter()
            .map(|(name, bytes)| (name, ContentHash::of(&bytes)))
            .collect();
        let mut lines = self.lines.clone();
        lines.push(Line {
            stage: stage.to_owned(),
            seconds: product.seconds,
            summary: product.summary.clone(),
            files,
        });
        self.write_index(&lines)?;
        self.lines = lines;
        Ok(())
    }

    fn write_index(&self, lines: &[Line]) -> Result<(), JournalError> {
        let unfit = |error: serde_json::Error| JournalError::Damaged {
            path: self.path(INDEX),
            reason: error.to_string(),
        };
        let mut text = sealed(&serde_json::to_string(&self.header).map_err(unfit)?);
        for line in lines {
            text += &sealed(&serde_json::to_string(line).map_err(unfit)?);
        }
        self.replace(INDEX, &[text.as_bytes()])
    }

    /// Write a file of the journal in place of the one of that name, whole or not at all.
    pub fn replace(&self, name: &str, parts: &[&[u8]]) -> Result<(), JournalError> {
        let path = self.path(name);
        let temporary = self.path(&format!("{name}.part"));
        let write = |mut file: File| {
            parts
                .iter()
                .try_for_each(|part| file.write_all(part))
                .and_then(|()| file.sync_all())
        };
        let written = create(&temporary).and_then(write);
        written
            .and_then(|()| fs::rename(&temporary, &path))
            .and_then(|()| sync_folder(&self.folder))
            .map_err(|source| JournalError::Io { path, source })
    }

    /// The checkpoint of a training stage, if one was kept.
    pub fn checkpoint(&self, stage: &str) -> Result<Option<Checkpoint>, JournalError> {
        let path = self.path(&checkpoint_name(stage));
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|source| JournalError::Io {
                path: path.clone(),
                source,
            })?,
        };
        let damaged = |reason: &str| JournalError::Damaged {
            path: path.clone(),
            reason: reason.to_owned(),
        };
        let end = bytes
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or_else(|| damaged("it has no header"))?;
        let (progress, sha256, snapshot): (Progress, ContentHash, usize) =
            serde_json::from_slice(&bytes[..end]).map_err(|error| damaged(&error.to_string()))?;
        let rest = &bytes[end + 1..];
        if ContentHash::of(rest) != sha256 || snapshot > rest.len() {
            return Err(damaged("its bytes are not those that were written"));
        }
        let (snapshot, best) = rest.split_at(snapshot);
        Ok(Some(Checkpoint {
            progress,
            snapshot: snapshot.to_vec(),
            best: (!best.is_empty()).then(|| best.into()),
        }))
    }

    /// Take the journal away: the run is over.
    pub fn remove(self) -> Result<(), JournalError> {
        take_away(&self.folder)
    }
}

/// Make a journal's folder, for its owner alone, and let it outlast a power cut.
fn create_dir(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    builder.mode(0o700);
    builder.create(folder)?;
    sync_folder(&folder_of(folder))
}

/// Make a file that only its owner may read, or empty the one that is there.
fn create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    #[cfg(unix)]
    options.mode(0o600);
    options.write(true).create(true).truncate(true).open(path)
}

/// Say whether a run that may be taken up lies beside `out`, and no process works on it.
pub fn is_unfinished(out: &Path) -> bool {
    Journal::lies_beside(out).unwrap_or(false)
}

/// Take away the journal beside `out`, of a run that nobody goes on with. Nothing happens where there
/// is none.
///
/// fails: another process works on it, or the system refuses
pub fn discard(out: &Path) -> Result<(), JournalError> {
    let folder = Journal::folder_beside(out);
    if !folder.is_dir() {
        return Ok(());
    }
    let _lock = Lock::of(&folder)?;
    take_away(&folder)
}

/// Lets the recipe keep the checkpoints of a stage in the journal.
pub struct InJournal<'j>(pub &'j Journal, pub &'j str);

impl Checkpoints for InJournal<'_> {
    fn save(&mut self, checkpoint: &Checkpoint) -> io::Result<()> {
        let (snapshot, best) = (
            checkpoint.snapshot.as_slice(),
            checkpoint.best.as_deref().unwrap_or_default(),
        );
        let head = serde_json::to_vec(&(
            &checkpoint.progress,
            ContentHash::of_parts(&[snapshot, best]),
            snapshot.len(),
        ))?;
        self.0
            .replace(&checkpoint_name(self.1), &[&head, b"\n", snapshot, best])
            .map_err(io::Error::other)
    }
}

fn checkpoint_name(stage: &str) -> String {
    format!("{stage}.checkpoint.bin")
}

fn rows_name(stage: &str) -> String {
    format!("{stage}.jsonl")
}

/// The name of a stage's bytes; always an adapter's.
pub fn blob_name(stage: &str) -> String {
    format!("{stage}.gguf")
}

/// Bring one value back from its line.
fn restored<T: Restored>(line: &str, bytes: Vec<u8>) -> Result<T, serde_json::Error> {
    let mut from = serde_json::Deserializer::from_str(line);
    let value = T::restore(&mut from, Restore::from_journal(bytes))?;
    from.end()?;
    Ok(value)
}

/// What differs between two headers, in words.
fn difference(found: &Header, now: &Header) -> Option<String> {
    if found.version != now.version {
        return Some("the journal's format".into());
    }
    if found.command != now.command {
        return Some(format!("the command (it was {})", found.command));
    }
    let changed = now
        .inputs
        .iter()
        .find(|(name, hash)| found.inputs.get(*name) != Some(hash));
    let gone = found
        .inputs
        .keys()
        .find(|name| !now.inputs.contains_key(*name));
    let input = changed
        .map(|(name, _)| name)
        .or(gone)
        .map(|name| format!("the {name} file"));
    input.or_else(|| (found.plan != now.plan).then(|| "the plan".into()))
}

#[cfg(test)]
mod tests;
