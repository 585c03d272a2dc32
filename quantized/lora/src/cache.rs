//! Keeps what was written out of an adapter in another format, for engines that take a path.

use std::fs;
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

fn keep_in(folder: &Path, bytes: &[u8]) -> Result<PathBuf, ForeignError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let hash: String = Sha256::digest(bytes)[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let path = folder.join(format!("{hash}.gguf"));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ForeignError::Cache { path, source }
    };
    if fs::read(&path).is_ok_and(|there| there == bytes) {
        return Ok(path);
    }
    fs::create_dir_all(folder).map_err(failed(folder))?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let aside = folder.join(format!(".{hash}.{}.{number}", std::process::id()));
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

    #[test]
    fn a_file_is_kept_once_and_mended() {
        let folder = std::env::temp_dir().join(format!("translora-cache-{}", std::process::id()));
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
