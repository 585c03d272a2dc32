use std::io;
use std::path::{Path, PathBuf};

/// What is wrong with a line of a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// It does not begin with the line that says of whom the prompts are.
    #[error("no file of kept prompts: its first line is not {{\"translora\": \"harvest\", …}}")]
    Foreign,
    /// Another version of the format.
    #[error("version {found} of the format; this program reads version 1")]
    Version {
        /// The file's.
        found: u64,
    },
    /// A line that cannot be one.
    #[error("a line of {bytes} bytes; a row has {bytes_max} at most")]
    Long {
        /// The line's.
        bytes: usize,
        /// The most.
        bytes_max: usize,
    },
    /// Not a row.
    #[error("no row of kept prompts: {0}")]
    Row(String),
}

/// Why kept prompts cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HarvestError {
    /// The system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder can be entered by others.
    #[error("{}: others may enter this folder (mode {mode:o})", path.display())]
    Open {
        /// The folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A line is damaged.
    #[error("{}:{line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        what: Damage,
    },
    /// The file is larger than any that is written.
    #[error("{}: {bytes} bytes; a file of kept prompts has {bytes_max} at most", path.display())]
    Large {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The most.
        bytes_max: u64,
    },
    /// The folder holds prompts of as many adapters as it may.
    #[error("{}: prompts of {adapters_max} adapters are kept there already", path.display())]
    Full {
        /// The folder.
        path: PathBuf,
        /// The most.
        adapters_max: usize,
    },
}

impl HarvestError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::Io { path, source }
    }

    /// The input is to blame, and not the system.
    pub fn is_of_input(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Open { .. } | Self::Line { .. } | Self::Large { .. } | Self::Full { .. } => true,
        }
    }
}
