//! One process at a time works on a journal.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;

use super::JournalError;

/// The file in the journal's folder that is locked. It holds the number of the process.
pub const NAME: &str = "lock";

/// A journal that is this process's own. The system releases it when the process ends, however it
/// ends.
#[derive(Debug)]
pub struct Lock(File);

impl Drop for Lock {
    /// A process that is being started beside this one holds the file, too, until its program is
    /// loaded; so closing it is not enough.
    fn drop(&mut self) {
        _ = self.0.unlock();
    }
}

impl Lock {
    /// Lock the journal in `folder`.
    ///
    /// fails: another run works on it
    pub fn of(folder: &Path) -> Result<Self, JournalError> {
        let path = folder.join(NAME);
        let failed = |source| JournalError::Io {
            path: path.clone(),
            source,
        };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(failed)?;
        held(&mut file, folder)?;
        file.set_len(0)
            .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()))
            .map_err(failed)?;
        Ok(Self(file))
    }

    /// Refuse a journal that another run works on.
    pub fn check(folder: &Path) -> Result<(), JournalError> {
        let path = folder.join(NAME);
        match File::open(&path) {
            Ok(mut file) => held(&mut file, folder),
            // A run that was stopped before it had one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(JournalError::Io { path, source }),
        }
    }
}

/// Hold the lock until `file` is closed.
fn held(file: &mut File, folder: &Path) -> Result<(), JournalError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let mut process = String::new();
            // Who holds it may not have written its number yet.
            _ = file.take(20).read_to_string(&mut process);
            Err(JournalError::InUse {
                folder: folder.to_owned(),
                process: process.trim().parse().ok(),
            })
        }
        // A disk that knows no locks has no more than the journal's own order.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(source)) => Err(JournalError::Io {
            path: folder.join(NAME),
            source,
        }),
    }
}
