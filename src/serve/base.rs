//! Refuses to answer by a model whose file was changed under it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::Say;
use super::error::ApiError;
use crate::engine::watch::Watched;

/// How often it is looked at the files.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The files of the model that is served.
pub(super) struct Base {
    files: Watched,
    /// When they were last looked at. units: milliseconds of the clock
    looked: AtomicU64,
    changed: AtomicBool,
}

impl Base {
    pub(super) fn new(files: Watched) -> Self {
        Self {
            files,
            looked: AtomicU64::new(0),
            changed: AtomicBool::new(false),
        }
    }

    /// Refuse where a file was written to since the start; it is looked at once a second. It is said
    /// once.
    ///
    /// `now`: of the clock
    pub(super) fn check(&self, now: Duration, say: &Say) -> Result<(), ApiError> {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let looked = self.looked.load(Ordering::Relaxed);
        let due = looked + LOOK_EVERY.as_millis() as u64;
        // Of several requests at a time one looks.
        let mine = || {
            let (set, read) = (Ordering::Relaxed, Ordering::Relaxed);
            self.looked.compare_exchange(looked, now, set, read).is_ok()
        };
        if now >= due
            && mine()
            && let Some(path) = self.files.written()
            && !self.changed.swap(true, Ordering::SeqCst)
        {
            say(&format!(
                "error: {} was written to while it is served, and requests are refused from now on: \
                 replace files by rename, and restart the server",
                path.display()
            ));
        }
        if self.changed.load(Ordering::SeqCst) {
            return Err(ApiError::changed());
        }
        Ok(())
    }

    /// The file that another model lies in the place of.
    pub(super) fn replaced(&self) -> Option<&Path> {
        self.files.replaced()
    }
}
