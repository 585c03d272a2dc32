//! Prompts that a server was sent, kept on request: a bounded sample for each adapter, in a folder.
//!
//! The one definition of the format and of the sample. Servers write with a [`Harvest`]; whoever
//! reads takes [`read`], [`list`] and [`erase`].
//!
//! # The sample
//! A prompt's rank is a hash of the file's seed and of the prompt's words. Kept are the
//! [`Bounds::rows_max`] prompts of lowest rank. Each distinct prompt of the time that rows live has
//! the same chance to be among them, however often it was sent, and whatever it says. One that was
//! left out stays out. (source: bottom-k sampling, Cohen and Kaplan 2007)
//! Nothing but the rows has to be known for that: a writer that is killed loses no state.
//!
//! # The file
//! JSON lines; the first says of whom they are, each other is a [`Row`]. A row is written at one
//! time at the end of the file. What a killed writer leaves of one ends without a line feed, is no
//! row for any reader, and is cut off by the next writer. Rows that were replaced or are too old
//! are taken out by writing the file anew, aside.
//!
//! Refuses to know: models, templates, HTTP, the clock. Uses no thread.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod error;
mod file;
mod folder;
mod row;

pub use error::{Damage, HarvestError};
pub use file::{Contents, read};
pub use folder::{
    Erased, Harvest, Kept, Listed, Summary, erase, erase_expired, file_of, list, random_seed,
};
pub use row::{Asked, ROW_BYTES_MAX, Role, Row, Turn};

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Rows of one adapter.
    pub rows_max: usize,
    /// Bytes of the rows of one adapter. While it is written anew, its file takes up to four times
    /// as many.
    pub bytes_max: u64,
    /// Adapters of a folder.
    pub adapters_max: usize,
    /// How long a row lives.
    pub ttl_seconds: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            rows_max: 2000,
            bytes_max: 32 << 20,
            adapters_max: 64,
            ttl_seconds: 30 * 24 * 3600,
        }
    }
}
