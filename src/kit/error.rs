use std::path::{Path, PathBuf};

use translora_gguf::{FileError, GgufError, SplitError};
use translora_harvest::HarvestError;
use translora_lora::{ForeignError, LoraError};

use super::rows::Foreign;
use crate::record::{Blame, ContentHash, Fault, Remedy, Step};

/// Why an input was refused. Every variant names the file, and the line where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KitError {
    /// It cannot be read, or is no file of the kind that is wanted.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: FileError,
    },
    /// A row is none that can be used.
    #[error("{path}:{line}: {what}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        what: LineFault,
    },
    /// The file is empty.
    #[error("{path}: it has no rows")]
    NoRows {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else than rows.
    #[error("{path}: this is {}, and no rows", .found.name)]
    NoRowsIn {
        /// The file.
        path: PathBuf,
        /// What stands there.
        found: Foreign,
    },
    /// The data come from a pipe.
    #[error("data cannot come from a pipe: a run that goes on reads it again")]
    Stdin,
    /// There are more rows than the limit.
    #[error("{path}: more than {rows_max} rows")]
    TooManyRows {
        /// The file.
        path: PathBuf,
        /// The limit.
        rows_max: usize,
    },
    /// Every seed is the same.
    #[error("{path}: all {rows} seeds are the same text")]
    SameSeeds {
        /// The file.
        path: PathBuf,
        /// How many there are.
        rows: usize,
    },
    /// Too few inputs differ.
    #[error("{path}: {distinct} distinct inputs, {needed} are needed")]
    TooFewRows {
        /// The file.
        path: PathBuf,
        /// How many differ.
        distinct: usize,
        /// How many are needed.
        needed: usize,
    },
    /// It is no sound adapter, or none for this base.
    #[error("{path}: {source}")]
    Adapter {
        /// The file.
        path: PathBuf,
        /// Why.
        source: LoraError,
    },
    /// A model's other parts are not as they should be.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// It is a GGUF file, and no kit.
    #[error("{path}: not a kit: {reason}")]
    NotAKit {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The kit was made with other files.
    #[error(
        "{path}: this kit was made for another {what}: sha256 {expected}, but {given} has {got}"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Which of them: the base model or the adapter.
        what: &'static str,
        /// What the kit was made for.
        expected: ContentHash,
        /// The file that was named.
        given: PathBuf,
        /// What that file has.
        got: ContentHash,
    },
    /// The filter needs a part that the kit lacks.
    #[error("{path}: this kit has no discriminator")]
    NoDiscriminator {
        /// The file.
        path: PathBuf,
    },
    /// Prompts that a server kept cannot be read.
    #[error(transparent)]
    Harvest {
        /// Why.
        #[from]
        source: HarvestError,
    },
    /// A server kept nothing of the adapter.
    #[error("{path}: nothing is kept of this adapter{}", others(.adapters))]
    NothingKept {
        /// The file or the folder.
        path: PathBuf,
        /// Adapters of which something is kept there.
        adapters: Vec<String>,
    },
    /// The kit breaks a limit of the format.
    #[error("a kit could not be packed: {0}")]
    Pack(GgufError),
}

/// What is wrong with one row of a file of data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineFault {
    /// It is longer than the limit.
    #[error("the row is longer than {bytes_max} bytes")]
    TooLong {
        /// The limit.
        bytes_max: usize,
    },
    /// Its bytes are no UTF-8.
    #[error("not UTF-8 at byte {byte} of the line: it may be Latin-1 or Windows-1252")]
    NotUtf8 {
        /// Where, from 0.
        byte: usize,
    },
    /// It is no JSON.
    #[error("not JSON: {what}")]
    NotJson {
        /// What is wrong.
        what: String,
    },
    /// It is JSON, and no object.
    #[error("not an object but {found}")]
    NotAnObject {
        /// What stands there.
        found: &'static str,
    },
    /// An object has a key twice.
    #[error("{what}")]
    RepeatedKey {
        /// What is wrong.
        what: String,
    },
    /// Another row stands behind it.
    #[error("a second row on the line")]
    TwoOnALine,
    /// Rows are parted by commas outside a list.
    #[error("a comma after the row")]
    CommaBetween,
    /// A line of a CSV.
    #[error("{what}")]
    Csv {
        /// What is wrong.
        what: String,
    },
    /// Its keys are those of no format.
    #[error("no known format: its keys are {}", .keys.join(", "))]
    NoFormat {
        /// The keys of the row.
        keys: Vec<String>,
    },
    /// It has a text, and nothing that parts prompt and answer.
    #[error("only a \"text\": nothing says which part of it is to be learnt")]
    TextOnly,
    /// It ranks answers.
    #[error("a row of preferences: answers with a judgement of them")]
    Preference,
    /// It calls tools.
    #[error("tool calls, which cannot be learnt")]
    Tools,
    /// A key is missing.
    #[error("no {key:?}")]
    NoKey {
        /// The key.
        key: String,
    },
    /// An answer is needed, and there is none.
    #[error("there is no answer to learn")]
    NoAnswer,
    /// A value has the wrong type.
    #[error("{key:?} is {found}, expected a string")]
    NotAString {
        /// The key.
        key: String,
        /// What stands there.
        found: &'static str,
    },
    /// A value is no list of turns.
    #[error("{key:?} is {found}, expected a list of turns")]
    NotTurns {
        /// The key.
        key: String,
        /// What stands there.
        found: &'static str,
    },
    /// A text is empty or blank.
    #[error("{key:?} is blank")]
    Blank {
        /// The key.
        key: String,
    },
    /// A turn is not as it should be.
    #[error("turn {turn} {what}")]
    Turn {
        /// Its number, from 1.
        turn: usize,
        /// What is wrong.
        what: String,
    },
    /// A seed repeats another.
    #[error("the same prompt as line {first}")]
    Repeated {
        /// That line, from 1.
        first: usize,
    },
}

impl LineFault {
    pub(super) fn no_key(key: &str) -> Self {
        Self::NoKey {
            key: key.to_owned(),
        }
    }
}

/// Of whom something is kept, where that is not the one that was looked for.
fn others(adapters: &[String]) -> String {
    if adapters.is_empty() {
        return String::new();
    }
    format!("; there are prompts of {}", adapters.join(", "))
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
            Self::Harvest { source } => source.fault(),
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
            | Self::NothingKept { .. }
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
            Self::Harvest { source } => return source.remedy(),
            Self::NothingKept { .. } => Step::KeepPrompts.into(),
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
