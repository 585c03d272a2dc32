//! Takes an adapter file in: a private copy in memory, read and checked before the server's
//! libllama sees it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};
use translora_gguf::{Header, Parts, read_file};
use translora_lora::{Base, Foreign, ForeignError, Lora, LoraError};

use crate::error::AttachError;
use crate::faults;

/// The part of a model's file that is searched for its name.
const HEADER_BYTES_MAX: u64 = 1 << 30;
/// The largest file that is taken.
const BYTES_MAX: u64 = 4 << 30;

/// An adapter file that was found whole. What was checked is what is loaded: the copy cannot
/// change.
#[derive(Debug)]
pub struct Prepared {
    /// The file it was read from.
    pub name: String,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    copy: OwnedFd,
}

impl Prepared {
    /// Read and check a file.
    ///
    /// fails: the file is no sound LoRA adapter, fits no model of this process, or was made for
    /// another, unless `force` says that it may
    pub fn read(path: &Path, force: bool) -> Result<Self, AttachError> {
        let name = path.display().to_string();
        let adapter = || name.clone();
        let bytes = read(path)?;
        if !faults::on("checks") {
            let unsound = |source| AttachError::Unsound {
                adapter: adapter(),
                source,
            };
            let (lora, model) = check(&bytes, &bases()?).map_err(unsound)?;
            if lora.made_for().is_some() && !force {
                lora.is_for(&served(&model)?).map_err(unsound)?;
            }
        }
        let sha256 = hex(&Sha256::digest(&bytes));
        let copy = sealed_copy(&bytes).map_err(|source| AttachError::Memory {
            adapter: adapter(),
            source,
        })?;
        Ok(Self {
            name,
            sha256,
            bytes: bytes.len() as u64,
            copy,
        })
    }

    /// A path under which this process can open the copy.
    pub fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.copy.as_raw_fd())
    }
}

/// Read an adapter as GGUF, wherever it came from.
fn read(path: &Path) -> Result<Vec<u8>, AttachError> {
    let file = |source| AttachError::File {
        adapter: path.display().to_string(),
        source,
    };
    let unsound = |source| match source {
        LoraError::Foreign(ForeignError::File(source)) => file(source),
        source => AttachError::Unsound {
            adapter: path.display().to_string(),
            source,
        },
    };
    let Some(foreign) = Foreign::find(path).map_err(unsound)? else {
        return read_file(path, BYTES_MAX).map_err(file);
    };
    let mut first = None;
    for model in models().iter().filter(|path| Base::open(path).is_ok()) {
        match foreign.for_model(model) {
            Ok(bytes) => return Ok(bytes),
            Err(error) => _ = first.get_or_insert(error),
        }
    }
    Err(first.map_or(AttachError::NoModel, unsound))
}

/// SHA-256 of a file, in hexadecimal.
pub fn sha256_of(path: &Path) -> Option<String> {
    sha256_of_all(&[path.to_owned()])
}

/// SHA-256 of files, one behind another.
fn sha256_of_all(paths: &[PathBuf]) -> Option<String> {
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    for path in paths {
        let mut file = File::open(path).ok()?;
        loop {
            match file.read(&mut piece).ok()? {
                0 => break,
                n => hash.update(&piece[..n]),
            }
        }
    }
    Some(hex(&hash.finalize()))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Check an adapter, and find the one of these bases that it fits.
fn check(bytes: &[u8], bases: &[(PathBuf, Base)]) -> Result<(Lora, PathBuf), LoraError> {
    let lora = Lora::read(bytes)?;
    let mut first = None;
    for (path, base) in bases {
        match lora.fits(base) {
            Ok(()) => return Ok((lora, path.clone())),
            Err(error) => _ = first.get_or_insert(error),
        }
    }
    let nothing = LoraError::Nothing {
        reason: "there is no base",
    };
    Err(first.unwrap_or(nothing))
}

/// What tells a file from one that was put in its place, or written to.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    written: (i64, i64),
}

/// A model of this process as it was when the server began to answer.
struct Served {
    stamp: Option<Stamp>,
    /// Of the files, where it was wanted.
    sha256: Option<String>,
}

static SERVED: Mutex<BTreeMap<PathBuf, Served>> = Mutex::new(BTreeMap::new());

fn stamp(path: &Path) -> Option<Stamp> {
    let found = path.metadata().ok()?;
    Some(Stamp {
        device: found.dev(),
        inode: found.ino(),
        bytes: found.len(),
        written: (found.mtime(), found.mtime_nsec()),
    })
}

/// Remember the models as they are: the server has just opened them.
pub fn remember_models() {
    let mut known = SERVED.lock().unwrap_or_else(PoisonError::into_inner);
    for path in models() {
        let stamp = stamp(&path);
        let sha256 = None;
        known.entry(path).or_insert(Served { stamp, sha256 });
    }
}

/// SHA-256 of a model that is served, of all its parts.
///
/// fails: the file is another than when the server began, or cannot be read
fn served(model: &Path) -> Result<String, AttachError> {
    let failed = || AttachError::Replaced {
        model: model.to_owned(),
    };
    remember_models();
    let mut known = SERVED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_mut(model).ok_or_else(failed)?;
    if known.stamp.is_none() || stamp(model) != known.stamp {
        return Err(failed());
    }
    if known.sha256.is_none() {
        let files = Parts::files(model, HEADER_BYTES_MAX).map_err(|_| failed())?;
        known.sha256 = Some(sha256_of_all(&files).ok_or_else(failed)?);
    }
    known.sha256.clone().ok_or_else(failed)
}

/// The base models of this process: the file that its command line or its environment names as the
/// model, else every model that it has mapped into memory.
///
/// fails: none is found, so that nothing can be compared
fn bases() -> Result<Vec<(PathBuf, Base)>, AttachError> {
    let open = |path: PathBuf| Base::open(&path).ok().map(|base| (path, base));
    let bases: Vec<(PathBuf, Base)> = models().into_iter().filter_map(open).collect();
    if bases.is_empty() {
        return Err(AttachError::NoModel);
    }
    Ok(bases)
}

/// What the base of this process is called: by its aliases, its path, its file, and its own name.
pub fn base_names() -> Vec<String> {
    let aliases = named(&[b"-a", b"--alias"], "LLAMA_ARG_ALIAS");
    let aliases = aliases.and_then(|names| names.into_string().ok());
    let mut all: Vec<String> = aliases
        .iter()
        .flat_map(|names| names.split(','))
        .map(|name| name.trim().to_owned())
        .collect();
    for path in models() {
        let own = Header::open(&path, HEADER_BYTES_MAX).ok();
        let own = own.and_then(|(header, _)| Some(header.get("general.name")?.as_str()?.to_owned()));
        let text = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
        let parts = [Some(path.as_os_str()), path.file_name(), path.file_stem()];
        all.extend(parts.into_iter().filter_map(text).chain(own));
    }
    all.dedup();
    all
}

/// Their files.
fn models() -> Vec<PathBuf> {
    let named: Vec<PathBuf> = named_model().into_iter().collect();
    if named.is_empty() {
        mapped_files()
    } else {
        named
    }
}

/// The model that the command line or the environment names.
fn named_model() -> Option<PathBuf> {
    let named = named(&[b"-m", b"--model"], "LLAMA_ARG_MODEL");
    named.map(PathBuf::from).filter(|path| path.is_file())
}

/// The value of a flag of this process, or of the variable that stands for it.
fn named(flags: &[&[u8]], variable: &str) -> Option<OsString> {
    let line = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let flag = words
        .iter()
        .position(|word| flags.contains(word));
    let value = flag
        .and_then(|at| words.get(at + 1))
        .map(|word| OsString::from_vec(word.to_vec()));
    value.or_else(|| std::env::var_os(variable))
}

/// The models that this process has mapped, each once.
fn mapped_files() -> Vec<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let path = |line: &str| {
        let path = PathBuf::from(&line[line.find('/')?..]);
        let mut magic = [0; 4];
        File::open(&path).ok()?.read_exact(&mut magic).ok()?;
        (&magic == b"GGUF").then_some(path)
    };
    let mut found: Vec<PathBuf> = maps.lines().filter_map(path).collect();
    found.sort();
    found.dedup();
    found
}

/// A file in memory that nobody can change any more.
fn sealed_copy(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    // SAFETY: a terminated name.
    let number = unsafe {
        libc::memfd_create(
            c"translora-adapter".as_ptr(),
            libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
        )
    };
    if number < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a new number of the system, which nobody else has.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(number) });
    file.write_all(bytes)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;
    // SAFETY: sets seals on an open file of ours.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use translora_gguf::Writer;

    fn adapter(alpha: f32) -> Vec<u8> {
        let mut writer = Writer::new();
        writer
            .set("general.type", "adapter")
            .set("adapter.type", "lora");
        writer
            .set("general.architecture", "llama")
            .set("adapter.lora.alpha", alpha);
        writer.tensor_f32("blk.0.attn_q.weight.lora_a", &[4, 1], &[1.0; 4]);
        writer.tensor_f32("blk.0.attn_q.weight.lora_b", &[1, 4], &[0.5; 4]);
        writer.to_bytes().expect("a small file")
    }

    fn base(wide: u64) -> (PathBuf, Base) {
        let shapes = [("blk.0.attn_q.weight".to_owned(), [wide, 4, 1])];
        let path = format!("{wide}.gguf").into();
        (path, Base::new("llama".into(), shapes))
    }

    #[test]
    fn a_model_that_was_replaced_has_no_hash() {
        let folder = tempfile::tempdir().expect("a folder");
        let model = folder.path().join("model.gguf");
        std::fs::write(&model, "one").expect("writable");
        let remember = |path: &Path| {
            let of = Served {
                stamp: stamp(path),
                sha256: None,
            };
            let mut all = SERVED.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(path.to_owned(), of);
        };
        remember(&model);
        let right = hex(&Sha256::digest(b"one"));
        assert_eq!(served(&model).expect("it is as it was"), right);
        let aside = folder.path().join("new");
        std::fs::write(&aside, "two").expect("writable");
        std::fs::rename(&aside, &model).expect("writable");
        let error = served(&model).expect_err("another file");
        assert!(error.to_string().contains("was replaced"), "{error}");
    }

    #[test]
    fn the_copy_cannot_change() {
        let bytes = adapter(2.0);
        let copy = sealed_copy(&bytes).expect("memory");
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        assert_eq!(std::fs::read(&path).expect("readable"), bytes);
        let writable = std::fs::OpenOptions::new().write(true).open(&path);
        assert!(writable.and_then(|mut file| file.write(b"x")).is_err());
    }

    #[test]
    fn it_must_be_sound_and_fit_one_of_the_models() {
        assert!(check(&adapter(2.0), &[base(4)]).is_ok());
        let found = check(&adapter(2.0), &[base(8), base(4)]).expect("it fits the second");
        assert_eq!(found.1, Path::new("4.gguf"));
        let error = check(&adapter(2.0), &[base(8)]).expect_err("another width");
        assert!(error.is_about_the_base(), "{error}");
        let error = check(&adapter(0.0), &[base(4)]).expect_err("alpha is zero");
        assert!(error.to_string().contains("alpha"), "{error}");
    }

    #[test]
    fn what_is_no_file_and_a_process_without_a_model_are_named() {
        // The test program has mapped none.
        assert_eq!(mapped_files(), Vec::<PathBuf>::new());
        assert!(bases().is_err());
        let error = Prepared::read(Path::new("no-such-file.gguf"), false).expect_err("there is none");
        assert!(error.to_string().contains("no-such-file.gguf"), "{error}");
        let error = Prepared::read(&std::env::temp_dir(), false).expect_err("a folder");
        assert!(error.to_string().contains("a folder"), "{error}");
    }
}
