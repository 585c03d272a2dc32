//! Takes an adapter file in: a private copy in memory, read and checked before the server's
//! libllama sees it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use translora_gguf::{Header, read_file};
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
    /// fails: the file is no sound LoRA adapter, or fits no model of this process
    pub fn read(path: &Path) -> Result<Self, AttachError> {
        let name = path.display().to_string();
        let adapter = || name.clone();
        let bytes = read(path)?;
        if !faults::on("checks") {
            check(&bytes, &bases()?).map_err(|source| AttachError::Unsound {
                adapter: adapter(),
                source,
            })?;
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
    for base in bases()? {
        match foreign.to_gguf(&base) {
            Ok(bytes) => return Ok(bytes),
            Err(error) => _ = first.get_or_insert(error),
        }
    }
    Err(first.map_or(AttachError::NoModel, unsound))
}

/// SHA-256 of a file, in hexadecimal.
pub fn sha256_of(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece).ok()? {
            0 => return Some(hex(&hash.finalize())),
            n => hash.update(&piece[..n]),
        }
    }
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Check an adapter, and that it fits one of these bases.
fn check(bytes: &[u8], bases: &[Base]) -> Result<(), LoraError> {
    let lora = Lora::read(bytes)?;
    let mut fits = bases.iter().map(|base| lora.fits(base));
    let first = fits.next().unwrap_or(Ok(()));
    if first.is_ok() || fits.any(|fits| fits.is_ok()) {
        Ok(())
    } else {
        first
    }
}

/// The base models of this process: the file that its command line or its environment names as the
/// model, else every model that it has mapped into memory.
///
/// fails: none is found, so that nothing can be compared
fn bases() -> Result<Vec<Base>, AttachError> {
    let bases: Vec<Base> = models()
        .iter()
        .filter_map(|path| Base::open(path).ok())
        .collect();
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

    fn base(wide: u64) -> Base {
        Base::new(
            "llama".into(),
            [("blk.0.attn_q.weight".to_owned(), [wide, 4, 1])],
        )
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
        assert!(check(&adapter(2.0), &[base(8), base(4)]).is_ok());
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
        let error = Prepared::read(Path::new("no-such-file.gguf")).expect_err("there is none");
        assert!(error.to_string().contains("no-such-file.gguf"), "{error}");
        let error = Prepared::read(&std::env::temp_dir()).expect_err("a folder");
        assert!(error.to_string().contains("a folder"), "{error}");
    }
}
