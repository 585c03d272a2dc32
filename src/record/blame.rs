use std::error::Error;

use serde::{Deserialize, Serialize};

use super::Remedy;

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// A file or value that the caller chose.
    Input,
    /// The machine: memory, disk, device, or whoever killed the process.
    Machine,
    /// This program.
    Bug,
    /// Nobody's: somebody cancelled the work.
    Cancelled,
}

impl Fault {
    /// As programs read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Machine => "machine",
            Self::Bug => "bug",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What every room's error knows besides its message. Neither names a flag, a key of JSON or a
/// command: the program, a C host and an HTTP client read the same error, and each door spells the
/// remedy in its own way.
pub trait Blame: Error {
    /// Whose fault it is.
    fn fault(&self) -> Fault;

    /// What to do about it; none where nothing is known to help.
    fn remedy(&self) -> Option<Remedy>;

    /// Whether the work was cancelled and did not fail.
    fn is_cancelled(&self) -> bool {
        self.fault() == Fault::Cancelled
    }
}
