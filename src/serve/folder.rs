//! The folder of adapters: what lies there, and what it is called.
//!
//! What a transfer put there is called `NAME@1.gguf` and so on: the last is live, the one before it
//! is what a rollback brings back. Refused ones carry their verdict in the file's name, and are no
//! adapters.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How the folder of a transfer that has not ended is called, behind its output.
const JOURNAL: &str = ".journal";

/// What a folder holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// Names, numbers and files, in order.
    adapters: Vec<(String, u64, PathBuf)>,
    /// Files that can have no name, with the reason.
    pub left_out: Vec<(PathBuf, String)>,
}

impl Listing {
    /// The names, each as often as it has files.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.adapters.iter().map(|(name, ..)| name.as_str())
    }

    /// The files of a name with their numbers, the last one last.
    pub(super) fn of(&self, name: &str) -> impl DoubleEndedIterator<Item = (u64, &Path)> {
        let files = self
            .adapters
            .iter()
            .filter(move |(known, ..)| known == name);
        files.map(|(_, number, path)| (*number, path.as_path()))
    }
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
    listing.adapters = found;
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
    let listing = list(folder)?;
    let last = listing.of(name).next_back();
    Ok(last.map(|(_, path)| path.to_owned()))
}

/// What a transfer to this file is called where it was refused.
pub(super) fn refused(out: &Path) -> PathBuf {
    out.with_extension("rejected.gguf")
}

/// What a transfer to this file has done so far.
pub(super) fn journal(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(JOURNAL);
    out.with_file_name(name)
}

/// Names and outputs of the transfers whose journals lie in a folder.
///
/// fails: it cannot be read
pub(super) fn unfinished(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let whole = folder.canonicalize()?;
    let mut found = Vec::new();
    for entry in fs::read_dir(&whole)? {
        let name = entry?.file_name();
        let out = name.to_str().and_then(|name| name.strip_suffix(JOURNAL));
        let stem = out.and_then(|out| out.strip_suffix(".gguf"));
        if let Some((out, stem)) = out.zip(stem)
            && !stem.starts_with('.')
        {
            found.push((numbered(stem).0.to_owned(), whole.join(out)));
        }
    }
    found.sort();
    Ok(found)
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
    fn files_are_listed_by_name_and_number_and_what_is_no_adapter_is_not() {
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
            ("a b,c", 0, "a b,c.gguf"),
            ("b", 0, "b.gguf"),
            ("b", 2, "b@2.gguf"),
            ("b", 10, "b@10.gguf"),
            ("peft-v1.5", 0, "peft-v1.5"),
            ("é@one", 0, "é@one.gguf"),
        ];
        let right = right.map(|(name, number, file)| (name.to_owned(), number, folder.join(file)));
        assert_eq!(listing.adapters, right);
        assert_eq!(listing.left_out.len(), 1);
        assert_eq!(listing.left_out[0].0, odd);
    }
}
