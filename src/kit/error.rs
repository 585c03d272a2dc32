use std::io;
use std::path::{Path, PathBuf};

use translora_gguf::{FileError, GgufError};

use crate::engine::Fault;
use crate::record::ContentHash;

/// Why an input was refused. Every variant names the file, and the line where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KitError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}:{line}: {what}")]
    Line {
        path: PathBuf,
        line: usize,
        what: LineFault,
    },
    #[error("{path}: it has no rows")]
    NoRows { path: PathBuf },
    #[error("{path}: more than {rows_max} rows")]
    TooManyRows { path: PathBuf, rows_max: usize },
    #[error("{path}: all {rows} seeds are the same text")]
    SameSeeds { path: PathBuf, rows: usize },
    #[error("{path}: {distinct} distinct inputs, {needed} are needed")]
    TooFewRows {
        path: PathBuf,
        distinct: usize,
        needed: usize,
    },
    #[error("{path}: this is {what}, and no file")]
    NotAFile { path: PathBuf, what: &'static str },
    #[error("{path}: {bytes} bytes, at most {bytes_max} are read")]
    TooLarge {
        path: PathBuf,
        bytes: u64,
        bytes_max: u64,
    },
    #[error("{path}: its header is larger than {bytes_max} bytes")]
    LargeHeader { path: PathBuf, bytes_max: u64 },
    #[error("{path}: {source}")]
    Gguf { path: PathBuf, source: GgufError },
    #[error("{path}: not a kit: {reason}")]
    NotAKit { path: PathBuf, reason: String },
    #[error(
        "{path}: this kit was made for another {what}: sha256 {expected}, but {given} has {got}"
    )]
    Foreign {
        path: PathBuf,
        what: &'static str,
        expected: ContentHash,
        given: PathBuf,
        got: ContentHash,
    },
    #[error("{path}: this kit has no discriminator")]
    NoDiscriminator { path: PathBuf },
    #[error("a kit could not be packed: {0}")]
    Pack(GgufError),
}

/// What is wrong with one line of a JSONL file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineFault {
    #[error("the line is empty")]
    Empty,
    #[error("the line is longer than {bytes_max} bytes")]
    TooLong { bytes_max: usize },
    #[error("not UTF-8 at byte {byte} of the line")]
    NotUtf8 { byte: usize },
    #[error("not JSON: {0}")]
    NotJson(serde_json::Error),
    #[error("not an object but {found}")]
    NotAnObject { found: &'static str },
    #[error("no \"prompt\"")]
    NoPrompt,
    #[error("no \"completion\"")]
    NoCompletion,
    #[error("{key:?} is {found}, expected a string")]
    NotAString {
        key: &'static str,
        found: &'static str,
    },
    #[error("{key:?} is blank")]
    Blank { key: &'static str },
    #[error("unknown key {key:?}")]
    UnknownKey { key: String },
    #[error("the same prompt as line {first}")]
    Repeated { first: usize },
}

impl KitError {
    pub(crate) fn of_file(path: &Path, error: FileError) -> Self {
        let path = path.to_owned();
        match error {
            FileError::NotAFile { what } => Self::NotAFile { path, what },
            FileError::Gguf(source) => Self::Gguf { path, source },
            FileError::TooLarge { bytes, bytes_max } => Self::TooLarge {
                path,
                bytes,
                bytes_max,
            },
            FileError::LargeHeader { bytes_max } => Self::LargeHeader { path, bytes_max },
            FileError::Io(source) => Self::Io { path, source },
            other => Self::Io {
                path,
                source: io::Error::other(other),
            },
        }
    }

    pub fn fault(&self) -> Fault {
        match self {
            Self::Io { source, .. } if source.kind() != io::ErrorKind::NotFound => Fault::Machine,
            Self::Pack(_) => Fault::Bug,
            _ => Fault::Input,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => "check the path",
            Self::Line { what, .. } => return Some(what.hint()),
            Self::Io { .. } => "check the path and its permissions",
            Self::NoRows { .. } => "give at least one line {\"prompt\": \"…\"}",
            Self::TooManyRows { .. } => "split the file",
            Self::SameSeeds { .. } => {
                "give inputs that differ; three to ten from real use are best"
            }
            Self::TooFewRows { .. } => "give more rows, or ask for fewer seeds",
            Self::TooLarge { .. } | Self::LargeHeader { .. } => {
                "this is not the kind of file that was expected here"
            }
            Self::Gguf { .. } => "the file is damaged or not a GGUF: fetch or make it again",
            Self::NotAKit { .. } => {
                "make one with `translora kit`, or pass plain inputs with --seeds"
            }
            Self::Foreign { .. } => {
                "use the base and adapter that the kit was made with, or pass plain inputs with --seeds"
            }
            Self::NoDiscriminator { .. } => {
                "use --filter contrast, or make the kit again with its discriminator"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }
}

impl LineFault {
    fn hint(&self) -> String {
        match self {
            Self::Empty => "remove the line",
            Self::TooLong { .. } => "shorten it; one line is one prompt and its answer",
            Self::NotUtf8 { .. } => "save the file as UTF-8",
            Self::NotJson(_) | Self::NotAnObject { .. } => {
                "each line is one JSON object: {\"prompt\": \"…\", \"completion\": \"…\"}"
            }
            Self::NoPrompt | Self::UnknownKey { .. } | Self::NotAString { .. } => {
                "a row has the keys \"prompt\" and \"completion\", both strings"
            }
            Self::NoCompletion => "this command needs the answers: add \"completion\" to every row",
            Self::Blank { .. } => "fill it in or remove the line",
            Self::Repeated { .. } => "remove the repetition: seeds must differ",
        }
        .to_owned()
    }
}
