use std::path::{Path, PathBuf};

use translora_gguf::{FileError, GgufError, SplitError};
use translora_lora::{ForeignError, LoraError};

use super::rows::Foreign;
use crate::record::{Blame, ContentHash, Fault, Remedy, Step};

/// Why an input was refused. Every variant names the file, and the line where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KitError {
    /// It cannot be read, or is no file of the kind that is wanted.
    #[error("{path}: {source}")]
    File { path: PathBuf, source: FileError },
    #[error("{path}:{line}: {what}")]
    Line {
        path: PathBuf,
        line: usize,
        what: LineFault,
    },
    #[error("{path}: it has no rows")]
    NoRows { path: PathBuf },
    #[error("{path}: this is {}, and no rows", .found.name)]
    NoRowsIn { path: PathBuf, found: Foreign },
    #[error("data cannot come from a pipe: a run that goes on reads it again")]
    Stdin,
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
    /// It is no sound adapter, or none for this base.
    #[error("{path}: {source}")]
    Adapter { path: PathBuf, source: LoraError },
    /// A model's other parts are not as they should be.
    #[error(transparent)]
    Split(#[from] SplitError),
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

/// What is wrong with one row of a file of data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineFault {
    #[error("the row is longer than {bytes_max} bytes")]
    TooLong { bytes_max: usize },
    #[error("not UTF-8 at byte {byte} of the line: it may be Latin-1 or Windows-1252")]
    NotUtf8 { byte: usize },
    #[error("not JSON: {what}")]
    NotJson { what: String },
    #[error("not an object but {found}")]
    NotAnObject { found: &'static str },
    #[error("{what}")]
    RepeatedKey { what: String },
    #[error("a second row on the line")]
    TwoOnALine,
    #[error("a comma after the row")]
    CommaBetween,
    /// A line of a CSV.
    #[error("{what}")]
    Csv { what: String },
    #[error("no known format: its keys are {}", .keys.join(", "))]
    NoFormat { keys: Vec<String> },
    #[error("only a \"text\": nothing says which part of it is to be learnt")]
    TextOnly,
    #[error("a row of preferences: answers with a judgement of them")]
    Preference,
    #[error("tool calls, which cannot be learnt")]
    Tools,
    #[error("no {key:?}")]
    NoKey { key: String },
    #[error("there is no answer to learn")]
    NoAnswer,
    #[error("{key:?} is {found}, expected a string")]
    NotAString { key: String, found: &'static str },
    #[error("{key:?} is {found}, expected a list of turns")]
    NotTurns { key: String, found: &'static str },
    #[error("{key:?} is blank")]
    Blank { key: String },
    #[error("turn {turn} {what}")]
    Turn { turn: usize, what: String },
    #[error("the same prompt as line {first}")]
    Repeated { first: usize },
}

impl LineFault {
    pub(super) fn no_key(key: &str) -> Self {
        Self::NoKey {
            key: key.to_owned(),
        }
    }
}

impl KitError {
    pub(crate) fn of_adapter(path: &Path, error: LoraError) -> Self {
        match error {
            LoraError::Foreign(ForeignError::File(error)) => Self::of_file(path, error),
            source => Self::Adapter {
                path: path.to_owned(),
                source,
            },
        }
    }

    pub(crate) fn of_file(path: &Path, error: impl Into<FileError>) -> Self {
        match error.into() {
            FileError::Split(source) => Self::Split(source),
            source => Self::File {
                path: path.to_owned(),
                source,
            },
        }
    }
}

impl Blame for KitError {
    fn fault(&self) -> Fault {
        match self {
            Self::File { source, .. } => source.fault(),
            Self::Pack(_) => Fault::Bug,
            Self::Adapter { source, .. } => source.fault(),
            Self::Line { .. }
            | Self::NoRows { .. }
            | Self::NoRowsIn { .. }
            | Self::Stdin
            | Self::TooManyRows { .. }
            | Self::SameSeeds { .. }
            | Self::TooFewRows { .. }
            | Self::Split(_)
            | Self::NotAKit { .. }
            | Self::Foreign { .. }
            | Self::NoDiscriminator { .. } => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::File { source, .. } => return source.remedy(),
            Self::Line { what, .. } => return what.remedy(),
            Self::NoRows { .. } => Step::AddRow.into(),
            Self::NoRowsIn { found, .. } => found.step.into(),
            Self::Stdin => Step::SaveFirst.into(),
            Self::TooManyRows { .. } => Step::SplitFile.into(),
            Self::SameSeeds { .. } => Step::VariedSeeds.into(),
            Self::TooFewRows { .. } => Remedy::or([Step::MoreRows.into(), Remedy::fewer("seeds")]),
            Self::Split(source) => return source.remedy(),
            Self::Adapter { source, .. } => return source.remedy(),
            Self::NotAKit { .. } => Remedy::or([Remedy::MakeKit, Remedy::add("seeds")]),
            Self::Foreign { .. } => Remedy::or([Step::KitsOwn.into(), Remedy::add("seeds")]),
            Self::NoDiscriminator { .. } => {
                Remedy::or([Remedy::set("filter", "contrast"), Remedy::MakeKit])
            }
            Self::Pack(_) => Step::Report.into(),
        })
    }
}

impl Blame for LineFault {
    fn fault(&self) -> Fault {
        Fault::Input
    }

    fn remedy(&self) -> Option<Remedy> {
        let step = match self {
            Self::TooLong { .. } => Step::ShortenRow,
            Self::NotUtf8 { .. } => Step::SaveAsUtf8,
            Self::NotJson { .. }
            | Self::NotAnObject { .. }
            | Self::TwoOnALine
            | Self::CommaBetween => Step::RowShape,
            Self::Csv { .. } => Step::CsvShape,
            Self::RepeatedKey { .. } => Step::OneKey,
            Self::NoFormat { .. } | Self::NoKey { .. } => {
                return Some(Remedy::or([Step::RowKeys.into(), Remedy::add("format")]));
            }
            Self::NotAString { .. } | Self::NotTurns { .. } => Step::RowTexts,
            Self::TextOnly => Step::PartText,
            Self::Preference => Step::ChosenAnswers,
            Self::Tools => Step::LeaveOutTools,
            Self::NoAnswer => Step::AddAnswers,
            Self::Blank { .. } => Step::FillRow,
            Self::Turn { .. } => Step::MendTurn,
            Self::Repeated { .. } => Step::RepeatedRow,
        };
        Some(step.into())
    }
}
