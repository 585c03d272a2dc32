//! Write every output, whole or not at all.
//!
//! A file appears under its name only when all of its bytes are on disk: temporary file in the same
//! folder, fsync, link, fsync of the folder. Nothing that exists is overwritten; whether everything
//! could be written is asked before any hour is spent. An adapter gets the name that was asked for
//! only as a [`Passed`]; one that was refused is set aside under another.
//!
//! Refuses to know: stages and models. Called by the pipeline.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use translora_gguf::{Gguf, GgufError, Writer};

use crate::evaluate::Passed;
use crate::record::{Blame, Fault, Remedy, Step};

mod page;

pub use page::{Bar, Block, Chart, Page, Section, Tone, page};

/// Where a run puts what it made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outputs {
    /// The adapter that was accepted.
    pub adapter: PathBuf,
    /// Its report, as JSON.
    pub report: PathBuf,
    /// Its report, as a page.
    pub page: PathBuf,
    /// The adapter that was refused.
    pub rejected: PathBuf,
    /// Its report, as JSON.
    pub rejected_report: PathBuf,
    /// Its report, as a page.
    pub rejected_page: PathBuf,
}

impl Outputs {
    /// `NAME.gguf`, `NAME.report.json`, `NAME.report.html`, and the same with `NAME.rejected`. What
    /// stands behind another dot than that of `.gguf` is part of the name: `task.v1` and `task.v2`
    /// have reports of their own.
    pub fn beside(out: &Path) -> Self {
        let is_gguf = |ending: &OsStr| ending.eq_ignore_ascii_case("gguf");
        let name = if out.extension().is_some_and(is_gguf) {
            out.file_stem()
        } else {
            out.file_name()
        };
        let named = |ending: &str| {
            let mut name = name.unwrap_or_default().to_owned();
            name.push(ending);
            out.with_file_name(name)
        };
        Self {
            adapter: out.to_owned(),
            report: named(".report.json"),
            page: named(".report.html"),
            rejected: named(".rejected.gguf"),
            rejected_report: named(".rejected.report.json"),
            rejected_page: named(".rejected.report.html"),
        }
    }

    /// Every name, whatever the verdict.
    pub fn all(&self) -> [&Path; 6] {
        [
            &self.adapter,
            &self.report,
            &self.page,
            &self.rejected,
            &self.rejected_report,
            &self.rejected_page,
        ]
    }
}

/// Why an output was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// There is a file, and nothing is overwritten.
    #[error("{path}: there is a file already, and nothing is overwritten")]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{path}: cannot write here: {source}")]
    Io {
        /// The output.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path ends in no name.
    #[error("{path}: names no file")]
    NoName {
        /// The output.
        path: PathBuf,
    },
    /// The path names a folder.
    #[error("{path}: is a folder")]
    Folder {
        /// The output.
        path: PathBuf,
    },
    /// The GGUF header does not take its last keys.
    #[error("the adapter's header could not be completed: {0}")]
    Stamp(#[from] GgufError),
}

impl Blame for PublishError {
    fn fault(&self) -> Fault {
        match self {
            Self::Exists { .. } | Self::NoName { .. } | Self::Folder { .. } => Fault::Input,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Fault::Input,
            Self::Io { .. } => Fault::Machine,
            Self::Stamp(_) => Fault::Bug,
        }
    }

    fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::Exists { .. } => Remedy::or([Remedy::choose_other("out"), Step::MoveAway.into()]),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Step::MakeFolder.into()
            }
            Self::Io { .. } => Step::WritableFolder.into(),
            Self::NoName { .. } | Self::Folder { .. } => {
                Remedy::takes("out", "the file to write, such as new.gguf")
            }
            Self::Stamp(_) => Step::Report.into(),
        })
    }
}

/// Check that files can be made at `paths`: none is there, and their folder takes a new file.
pub fn check_writable(paths: &[&Path]) -> Result<(), PublishError> {
    for path in paths {
        let temporary = temporary(path)?;
        if path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(PublishError::Folder {
                path: path.to_path_buf(),
            });
        }
        if path.symlink_metadata().is_ok() {
            return Err(PublishError::Exists {
                path: path.to_path_buf(),
            });
        }
        let io = |source| PublishError::Io {
            path: path.to_path_buf(),
            source,
        };
        drop(create(&temporary).map_err(io)?);
        fs::remove_file(&temporary).map_err(io)?;
    }
    Ok(())
}

/// Write a new file. One that is there with the very same bytes counts as written.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), PublishError> {
    Staged::write(path, bytes)?.publish()
}

/// Write a new file in pieces, as large as it may be.
///
/// fails: the outer error as [`write_new`]; the inner one where `write` did
pub fn write_new_with<T, E>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<T, E>,
) -> Result<Result<T, E>, PublishError> {
    let staged = Staged {
        path: path.to_owned(),
        temporary: temporary(path)?,
    };
    let io = |source| PublishError::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = BufWriter::new(create(&staged.temporary).map_err(io)?);
    let written = match write(&mut file) {
        Ok(written) => written,
        Err(error) => return Ok(Err(error)),
    };
    let file = file.into_inner().map_err(|error| io(error.into_error()))?;
    file.sync_all().map_err(io)?;
    staged.publish()?;
    Ok(Ok(written))
}

/// Write a new folder with files in it.
///
/// fails: there is something of this name already, even an empty folder
pub fn folder(path: &Path, files: &[(&'static str, Vec<u8>)]) -> Result<(), PublishError> {
    let aside = temporary(path)?;
    let io = |source| PublishError::Io {
        path: path.to_owned(),
        source,
    };
    if path.symlink_metadata().is_ok() {
        return Err(PublishError::Exists {
            path: path.to_owned(),
        });
    }
    // What an interrupted run left there is nobody's.
    if aside.is_dir() {
        fs::remove_dir_all(&aside).map_err(io)?;
    }
    let write = || {
        fs::create_dir(&aside)?;
        for (name, bytes) in files {
            let mut file = create(&aside.join(name))?;
            file.write_all(bytes)?;
            file.sync_all()?;
        }
        fs::rename(&aside, path)
    };
    let written = write();
    if written.is_err() {
        _ = fs::remove_dir_all(&aside);
    }
    written.map_err(io)
}

/// A file that lies whole on the disk under a temporary name. It goes away unless it is published.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
    temporary: PathBuf,
}

impl Staged {
    fn write(path: &Path, bytes: &[u8]) -> Result<Self, PublishError> {
        let staged = Self {
            path: path.to_owned(),
            temporary: temporary(path)?,
        };
        let written = create(&staged.temporary)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
        written.map_err(|source| PublishError::Io {
            path: path.to_owned(),
            source,
        })?;
        Ok(staged)
    }

    /// Where it can be read meanwhile.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Give it its name. One that is there with the very same bytes counts as published.
    pub fn publish(self) -> Result<(), PublishError> {
        let (path, temporary) = (self.path.as_path(), self.temporary.as_path());
        let io = |source| PublishError::Io {
            path: path.to_owned(),
            source,
        };
        match link(temporary, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let same = fs::read(path)
                    .and_then(|there| Ok(there == fs::read(temporary)?))
                    .unwrap_or(false);
                return if same {
                    Ok(())
                } else {
                    Err(PublishError::Exists {
                        path: path.to_owned(),
                    })
                };
            }
            linked => linked.map_err(io)?,
        }
        remove(temporary)
            .and_then(|()| sync_folder(path))
            .map_err(io)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a failure that was told already, or for the second time.
        _ = remove(&self.temporary);
    }
}

/// Write an adapter that passed, with `metadata` completing its header, where it can be looked at
/// once more before it is published.
pub fn adapter(
    passed: &Passed,
    metadata: &[(String, String)],
    path: &Path,
) -> Result<Staged, PublishError> {
    Staged::write(path, &stamp(passed.adapter(), metadata)?)
}

/// Keep an adapter that was refused, or was never to be judged, with `metadata` completing its
/// header.
pub fn unjudged(
    adapter: &[u8],
    metadata: &[(String, String)],
    path: &Path,
) -> Result<(), PublishError> {
    write_new(path, &stamp(adapter, metadata)?)
}

/// The same GGUF with more keys.
fn stamp(adapter: &[u8], metadata: &[(String, String)]) -> Result<Vec<u8>, PublishError> {
    let gguf = Gguf::parse(adapter)?;
    let mut writer = Writer::copy_of(&gguf);
    for (key, value) in metadata {
        writer.set(key.as_str(), value.as_str());
    }
    Ok(writer.to_bytes()?)
}

/// A hidden name in the same folder, so that linking stays on one disk.
fn temporary(path: &Path) -> Result<PathBuf, PublishError> {
    let name = path.file_name().ok_or_else(|| PublishError::NoName {
        path: path.to_owned(),
    })?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".part");
    Ok(path.with_file_name(hidden))
}

/// Remove a file that may be gone already: a rename leaves none.
fn remove(file: &Path) -> io::Result<()> {
    fs::remove_file(file).or_else(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            Ok(())
        } else {
            Err(error)
        }
    })
}

/// Create a temporary file anew; what an interrupted run left there is nobody's.
fn create(temporary: &Path) -> io::Result<File> {
    remove(temporary)?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(temporary)
}

/// Give a whole file its name, failing if the name is taken. Where the disk knows no hard links,
/// look first and rename.
fn link(temporary: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(temporary, path) {
        Err(error)
            if error.kind() == io::ErrorKind::AlreadyExists || path.symlink_metadata().is_ok() =>
        {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, error))
        }
        Err(_) => fs::rename(temporary, path),
        Ok(()) => Ok(()),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // Only Unix can open a folder to sync it.
    if cfg!(unix) {
        File::open(folder)?.sync_all()
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let path = folder.join("a.gguf");
        check_writable(&[&path]).unwrap();
        fs::write(folder.join(".a.gguf.part"), "left over").unwrap();
        write_new(&path, b"one").unwrap();
        write_new(&path, b"one").unwrap();
        let error = write_new(&path, b"two").unwrap_err();
        assert!(matches!(error, PublishError::Exists { .. }) && error.remedy().is_some());
        assert!(check_writable(&[&path]).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(names(folder), ["a.gguf"]);
    }

    #[test]
    fn what_is_staged_and_not_published_goes_away() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let path = folder.join("a.gguf");
        let staged = Staged::write(&path, b"one").unwrap();
        assert_eq!(
            (fs::read(staged.temporary()).unwrap(), names(folder).len()),
            (b"one".to_vec(), 1)
        );
        assert!(!path.exists());
        drop(staged);
        assert!(names(folder).is_empty());
        Staged::write(&path, b"two").unwrap().publish().unwrap();
        assert_eq!(
            (fs::read(&path).unwrap(), names(folder).len()),
            (b"two".to_vec(), 1)
        );
    }

    #[test]
    fn where_nothing_can_be_written_is_said_at_once() {
        let missing = tempfile::tempdir().unwrap().path().join("folder/a.gguf");
        let error = check_writable(&[&missing]).unwrap_err();
        assert!(error.remedy().is_some() && error.fault() == Fault::Input);
        assert!(matches!(
            check_writable(&[Path::new("..")]),
            Err(PublishError::NoName { .. })
        ));
    }

    #[test]
    fn a_folder_is_named_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let slash = folder.path().join("new/");
        for path in [folder.path(), &slash] {
            let error = check_writable(&[path]).unwrap_err();
            assert!(matches!(error, PublishError::Folder { .. }), "{error}");
            assert!(error.to_string().contains("is a folder"), "{error}");
        }
    }

    #[test]
    fn every_output_has_names_of_its_own() {
        let reports = [
            ("a/task.v1", "a/task.v1.report.json"),
            ("a/task.v2", "a/task.v2.report.json"),
            ("a/task.v1.gguf", "a/task.v1.report.json"),
            ("task.GGUF", "task.report.json"),
            ("task", "task.report.json"),
            ("a/.gguf", "a/.gguf.report.json"),
        ];
        for (out, report) in reports {
            assert_eq!(Outputs::beside(Path::new(out)).report, Path::new(report));
        }
        let rejected = Outputs::beside(Path::new("task.v1.gguf")).rejected;
        assert_eq!(rejected, Path::new("task.v1.rejected.gguf"));
    }

    #[test]
    fn a_stamp_adds_keys_and_keeps_the_rest() {
        let mut writer = Writer::new();
        writer
            .set("general.type", "adapter")
            .tensor_f32("t", &[3], &[1.0, 2.0, 3.0]);
        let before = writer.to_bytes().unwrap();
        let after = stamp(&before, &[("translora.verdict".into(), "accept".into())]).unwrap();
        let (before, after) = (Gguf::parse(&before).unwrap(), Gguf::parse(&after).unwrap());
        assert_eq!(
            after.get("translora.verdict").unwrap().as_str(),
            Some("accept")
        );
        assert_eq!(after.get("general.type"), before.get("general.type"));
        assert_eq!(
            after.data(&after.tensors()[0]),
            before.data(&before.tensors()[0])
        );
    }
}
