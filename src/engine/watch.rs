//! Notices that the file of a model that is served was changed.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use translora_gguf::Parts;
use translora_gguf::limits::MODEL_HEADER_BYTES_MAX;

/// The files of a model as they were when it was opened.
pub struct Watched {
    files: Vec<(PathBuf, File, Stamp)>,
}

/// What changes with the bytes of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    written: Option<SystemTime>,
}

impl From<Metadata> for Stamp {
    fn from(found: Metadata) -> Self {
        Self {
            bytes: found.len(),
            written: found.modified().ok(),
        }
    }
}

impl Watched {
    /// Remember a model's files, all parts where it is split. What cannot be opened is not watched:
    /// whoever opens the model says why.
    pub fn open(model: &Path) -> Self {
        let paths = Parts::files(model, MODEL_HEADER_BYTES_MAX).unwrap_or_default();
        let remember = |path: PathBuf| {
            // One that nobody writes to yet would wait for it.
            let file = path.is_file().then(|| File::open(&path).ok()).flatten()?;
            let stamp = file.metadata().ok()?.into();
            Some((path, file, stamp))
        };
        Self {
            files: paths.into_iter().filter_map(remember).collect(),
        }
    }

    /// The file that was written to since. Its bytes may be mapped, so answers may be wrong. One
    /// that was put in its place by a rename is another: the old one is still there.
    pub fn written(&self) -> Option<&Path> {
        let same = |file: &File, stamp: Stamp| {
            let now = file.metadata().map(Stamp::from);
            now.is_ok_and(|now| now == stamp)
        };
        let changed = self
            .files
            .iter()
            .find(|(_, file, stamp)| !same(file, *stamp));
        changed.map(|(path, ..)| path.as_path())
    }

    /// The file whose path leads to other bytes by now: what reads it next sees another model.
    pub fn replaced(&self) -> Option<&Path> {
        let same = |path: &Path, file: &File, stamp: Stamp| {
            let (now, held) = (path.metadata().ok()?, file.metadata().ok()?);
            Some(is_one(&now, &held) && Stamp::from(now) == stamp)
        };
        let mut files = self.files.iter();
        let other = files.find(|(path, file, stamp)| same(path, file, *stamp) != Some(true));
        other.map(|(path, ..)| path.as_path())
    }
}

#[cfg(unix)]
fn is_one(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;

    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn is_one(_: &Metadata, _: &Metadata) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What is done to a file, and whether it was written to, and replaced.
    #[test]
    fn what_is_written_to_and_what_is_replaced_are_told_apart() {
        type Do = fn(&Path);
        let rows: [(&str, Do, [bool; 2]); 6] = [
            ("nothing", |_| {}, [false, false]),
            (
                "cut",
                |path| fs::write(path, "o").expect("writable"),
                [true, true],
            ),
            (
                "filled with others",
                |path| {
                    let file = File::options().write(true).open(path).expect("writable");
                    file.set_modified(SystemTime::UNIX_EPOCH).expect("writable");
                },
                [true, true],
            ),
            (
                "renamed over",
                |path| {
                    let new = path.with_extension("new");
                    fs::write(&new, "one").expect("writable");
                    fs::rename(&new, path).expect("writable");
                },
                [false, true],
            ),
            (
                "removed",
                |path| fs::remove_file(path).expect("writable"),
                [false, true],
            ),
            (
                "moved and back",
                |path| {
                    let aside = path.with_extension("aside");
                    fs::rename(path, &aside).expect("writable");
                    fs::rename(&aside, path).expect("writable");
                },
                [false, false],
            ),
        ];
        for (what, change, right) in rows {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("model.gguf");
            fs::write(&path, "one").expect("writable");
            let watched = Watched::open(&path);
            change(&path);
            let found = [watched.written(), watched.replaced()].map(|found| found.is_some());
            assert_eq!(found, right, "{what}");
        }
    }
}
