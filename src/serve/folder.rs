//! The folder of adapters: what lies there, and what it is called.
//!
//! What a transfer put there is called `NAME@1.gguf` and so on: the last is live, the one before it
//! is what a rollback brings back. Refused ones carry their verdict in the file's name, and are no
//! adapters.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What a folder holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// Names and files in the order in which they are to be loaded, two of a name at most.
    pub adapters: Vec<(String, PathBuf)>,
    /// Files that can have no name, with the reason.
    pub left_out: Vec<(PathBuf, String)>,
}

/// List a folder.
///
/// fails: it cannot be read
pub(super) fn list(folder: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let mut found: Vec<(String, u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(file) = path.file_name().and_then(|file| file.to_str()) else {
            if path.extension().is_some_and(|end| end == "gguf") {
                let reason = "the file's name is not UTF-8: rename it".into();
                listing.left_out.push((path, reason));
            }
            continue;
        };
        if let Some(stem) = stem_of(&path, file) {
            let (name, number) = numbered(stem);
            found.push((name.to_owned(), number, path.clone()));
        }
    }
    found.sort();
    let same_name = found.chunk_by(|a, b| a.0 == b.0);
    listing.adapters = same_name
        .flat_map(|files| &files[files.len().saturating_sub(2)..])
        .map(|(name, _, path)| (name.clone(), path.clone()))
        .collect();
    Ok(listing)
}

/// What an adapter is called, by its file: a GGUF, a safetensors file, or a folder of PEFT or MLX.
/// None is answered for what is no adapter.
fn stem_of<'f>(path: &Path, file: &'f str) -> Option<&'f str> {
    if file.starts_with('.') || file.ends_with(".rejected.gguf") {
        return None;
    }
    let ending = [".gguf", ".safetensors"];
    let stem = ending.into_iter().find_map(|end| file.strip_suffix(end));
    // A folder's name has no ending.
    stem.or_else(|| path.join("adapter_config.json").is_file().then_some(file))
}

/// The file that a name has in a folder, the last one where it has several.
///
/// fails: the folder cannot be read
pub(super) fn find(folder: &Path, name: &str) -> io::Result<Option<PathBuf>> {
    let files = list(folder)?.adapters.into_iter().rev();
    Ok(files
        .filter(|(known, _)| known == name)
        .map(|(_, path)| path)
        .next())
}

/// `task@2` is the second file of `task`; a name without a number comes first.
fn numbered(stem: &str) -> (&str, u64) {
    stem.rsplit_once('@')
        .and_then(|(name, number)| Some((name, number.parse().ok()?)))
        .unwrap_or((stem, 0))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn the_last_two_of_a_name_are_listed_and_what_is_no_adapter_is_not() {
        let folder = std::env::temp_dir().join(format!("translora-folder-{}", std::process::id()));
        fs::create_dir(&folder).expect("a new folder");
        let files = [
            "b.gguf",
            "b@2.gguf",
            "b@10.gguf",
            "a b,c.gguf",
            "x@1.rejected.gguf",
            ".y.gguf",
            "notes.txt",
            "é@one.gguf",
        ];
        fs::create_dir(folder.join("peft-v1.5")).expect("a new folder");
        fs::write(folder.join("peft-v1.5/adapter_config.json"), "{}").expect("writable");
        fs::create_dir(folder.join("other")).expect("a new folder");
        let odd = folder.join(OsStr::from_bytes(b"caf\xe9.gguf"));
        for path in files.map(|file| folder.join(file)).iter().chain([&odd]) {
            fs::write(path, "").expect("writable");
        }
        let listing = list(&folder).expect("readable");
        let found = ["b", "c"].map(|name| find(&folder, name).expect("readable"));
        assert_eq!(found, [Some(folder.join("b@10.gguf")), None]);
        fs::remove_dir_all(&folder).expect("ours");
        let right = [
            ("a b,c", "a b,c.gguf"),
            ("b", "b@2.gguf"),
            ("b", "b@10.gguf"),
            ("peft-v1.5", "peft-v1.5"),
            ("é@one", "é@one.gguf"),
        ];
        let right = right.map(|(name, file)| (name.to_owned(), folder.join(file)));
        assert_eq!(listing.adapters, right);
        assert_eq!(listing.left_out.len(), 1);
        assert_eq!(listing.left_out[0].0, odd);
    }
}
