//! What of a journal is whole, and what is left over of others.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::{INDEX, JournalError, Line, lock};
use crate::record::ContentHash;

/// How the folder of a run that is over is called, behind the name of its journal.
const OVER: &str = ".over";

/// The finished stages that are whole, and what is wrong with the first that is not.
#[derive(Debug, Default)]
pub(super) struct Whole {
    pub lines: Vec<Line>,
    pub lost: Option<String>,
}

/// A line of the index with the hash of its text, which shows that it is whole.
pub(super) fn sealed(text: &str) -> String {
    format!("{} {text}\n", ContentHash::of(text.as_bytes()))
}

/// The text of a line that is whole.
pub(super) fn unsealed(line: &str) -> Option<&str> {
    let (hash, text) = line.split_once(' ')?;
    let right = ContentHash::of(text.as_bytes());
    (hash == right.to_string()).then_some(text)
}

/// Look at every file of the finished stages, in order. A stage that is damaged is lost, and so are
/// those after it, which rest on it.
///
/// fails: a file is there and cannot be read
pub(super) fn whole<'l>(
    folder: &Path,
    lines: impl Iterator<Item = &'l str>,
) -> Result<Whole, JournalError> {
    let mut whole = Whole::default();
    for text in lines {
        let line = unsealed(text).and_then(|text| serde_json::from_str::<Line>(text).ok());
        let Some(line) = line else {
            whole.lost = Some(format!("{INDEX} is damaged"));
            return Ok(whole);
        };
        if let Some(file) = damaged(folder, &line)? {
            let stage = &line.stage;
            whole.lost = Some(format!("{file} of the stage {stage} is damaged or gone"));
            return Ok(whole);
        }
        whole.lines.push(line);
    }
    Ok(whole)
}

/// The first file of a stage that is not what was written.
fn damaged(folder: &Path, line: &Line) -> Result<Option<String>, JournalError> {
    for (name, hash) in &line.files {
        let path = folder.join(name);
        match fs::read(&path) {
            Ok(bytes) if ContentHash::of(&bytes) == *hash => {}
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(JournalError::Io {
                    path,
                    source: error,
                });
            }
            _ => return Ok(Some(name.clone())),
        }
    }
    Ok(None)
}

/// Whether nothing was kept in a folder yet.
pub(super) fn is_bare(folder: &Path) -> bool {
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.all(|entry| entry.file_name() == lock::NAME)
}

/// Remove what belongs to no stage of `lines`: it rests on what was lost.
pub(super) fn remove_others(folder: &Path, lines: &[Line]) -> Result<(), JournalError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| JournalError::Io { path, source }
    };
    for entry in fs::read_dir(folder).map_err(failed(folder))? {
        let path = entry.map_err(failed(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let kept = lines.iter().any(|line| line.files.contains_key(&*name));
        if !kept && name != INDEX && name != lock::NAME {
            fs::remove_file(&path).map_err(failed(&path))?;
        }
    }
    Ok(())
}

/// Remove a journal's folder. It gets another name first: half of one is not to be taken up.
pub(super) fn take_away(folder: &Path) -> Result<(), JournalError> {
    let mut name = std::ffi::OsString::from(".");
    name.push(folder.file_name().unwrap_or_default());
    name.push(OVER);
    let over = folder.with_file_name(name);
    // Of a run that was stopped here.
    _ = fs::remove_dir_all(&over);
    let removed = fs::rename(folder, &over).and_then(|()| match fs::remove_dir_all(&over) {
        // Another run swept it.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    });
    removed.map_err(|source| JournalError::Io {
        path: folder.to_owned(),
        source,
    })
}

/// Remove what is left in a folder of journals whose runs are over: their process was killed while
/// it removed them. What cannot be removed is nobody's loss.
pub fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(".journal.over") {
            _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Let what was renamed or made in a folder outlast a power cut.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    // Only Unix can open a folder to sync it.
    if cfg!(unix) {
        fs::File::open(folder)?.sync_all()
    } else {
        Ok(())
    }
}

/// The folder that a path lies in.
pub(super) fn folder_of(path: &Path) -> PathBuf {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_owned()
}
