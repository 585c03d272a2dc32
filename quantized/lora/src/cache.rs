//! Keeps what was written out of an adapter in another format, for engines that take a path.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use crate::ForeignError;

/// The user's folder for what can be made again.
fn folder() -> Option<PathBuf> {
    let named = |key| std::env::var_os(key).map(PathBuf::from);
    let whole = |path: &PathBuf| path.is_absolute();
    let cache = named("XDG_CACHE_HOME").filter(whole);
    let cache = cache.or_else(|| Some(named("HOME").filter(whole)?.join(".cache")))?;
    Some(cache.join("translora").join("adapters"))
}

/// Keeps a file under the hash of its bytes. A file that is there already is used only if it has
/// these bytes.
pub(crate) fn keep(bytes: &[u8]) -> Result<PathBuf, ForeignError> {
    keep_in(&folder().ok_or(ForeignError::NoCache)?, bytes)
}

/// Finds what was written under a key before, or writes it: a model with an adapter in its weights.
/// The key says what it is made of. A file appears whole or not at all. What `write` fails with is
/// the inner error.
///
/// fails: there is no folder for it, or it cannot be written
pub fn kept<E>(
    key: &str,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<Result<PathBuf, E>, ForeignError> {
    kept_in(&folder().ok_or(ForeignError::NoCache)?, key, write)
}

fn kept_in<E>(
    folder: &Path,
    key: &str,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<Result<PathBuf, E>, ForeignError> {
    let path = folder.join(format!("{}.gguf", hash_of(key.as_bytes())));
    if path.is_file() {
        return Ok(Ok(path));
    }
    let aside = aside(&path);
    let put = || -> io::Result<Result<(), E>> {
        fs::create_dir_all(folder)?;
        let mut file = BufWriter::new(File::create(&aside)?);
        if let Err(error) = write(&mut file) {
            return Ok(Err(error));
        }
        file.flush()?;
        fs::rename(&aside, &path).map(Ok)
    };
    let put = put();
    if !matches!(put, Ok(Ok(()))) {
        _ = fs::remove_file(&aside);
    }
    match put {
        Ok(done) => Ok(done.map(|()| path)),
        Err(source) => Err(ForeignError::Cache { path, source }),
    }
}

fn hash_of(bytes: &[u8]) -> String {
    let start = &Sha256::digest(bytes)[..16];
    start.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of a file that is not whole yet.
fn aside(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = path.file_stem().unwrap_or_default().display();
    path.with_file_name(format!(".{name}.{}.{number}", std::process::id()))
}

fn keep_in(folder: &Path, bytes: &[u8]) -> Result<PathBuf, ForeignError> {
    let path = folder.join(format!("{}.gguf", hash_of(bytes)));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ForeignError::Cache { path, source }
    };
    if fs::read(&path).is_ok_and(|there| there == bytes) {
        return Ok(path);
    }
    fs::create_dir_all(folder).map_err(failed(folder))?;
    let aside = aside(&path);
    let put = fs::write(&aside, bytes).and_then(|()| fs::rename(&aside, &path));
    if put.is_err() {
        _ = fs::remove_file(&aside);
    }
    put.map_err(failed(&path))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_of(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("translora-cache-{name}-{}", std::process::id()))
    }

    #[test]
    fn what_is_made_under_a_key_is_made_once_and_whole() {
        let folder = folder_of("made");
        let make = |key: &str, text: &'static str| {
            kept_in(&folder, key, move |file| {
                let written = file.write_all(text.as_bytes());
                written.expect("the folder is writable");
                (text != "no").then_some(()).ok_or("not made")
            })
            .expect("the folder is writable")
        };
        assert_eq!(make("a", "no"), Err("not made"));
        assert_eq!(fs::read_dir(&folder).expect("it is there").count(), 0);
        let path = make("a", "one").expect("it is made");
        assert_eq!(make("a", "other").expect("it is there"), path);
        assert_eq!(fs::read(&path).expect("it is there"), b"one");
        assert_ne!(make("b", "two").expect("another key"), path);
        fs::remove_dir_all(&folder).expect("it is there");
    }

    #[test]
    fn a_file_is_kept_once_and_mended() {
        let folder = folder_of("kept");
        let path = keep_in(&folder, b"one").expect("the folder is writable");
        assert_eq!(keep_in(&folder, b"one").expect("it is there"), path);
        assert_ne!(keep_in(&folder, b"two").expect("another file"), path);
        fs::write(&path, b"cut").expect("the folder is writable");
        assert_eq!(keep_in(&folder, b"one").expect("it is mended"), path);
        assert_eq!(fs::read(&path).expect("it is there"), b"one");
        assert_eq!(fs::read_dir(&folder).expect("it is there").count(), 2);
        fs::remove_dir_all(&folder).expect("it is there");
    }
}
