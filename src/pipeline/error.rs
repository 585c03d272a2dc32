use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::journal::JournalError;
use crate::distill::DistillError;
use crate::engine::{EngineError, Fault};
use crate::evaluate::EvaluateError;
use crate::filter::FilterError;
use crate::generate::GenerateError;
use crate::kit::KitError;
use crate::label::LabelError;
use crate::publish::PublishError;
use crate::record::Cancelled;

/// Why a job did not come to its end. Each room's error is kept whole as the source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    #[error("cancelled")]
    Cancelled,
    #[error("{what}")]
    Plan { what: String, hint: String },
    #[error(transparent)]
    Kit(#[from] KitError),
    #[error(transparent)]
    Engine(EngineError),
    /// A row that the model cannot take.
    #[error("{path}:{line}: {source}")]
    Row {
        path: PathBuf,
        line: usize,
        source: EngineError,
    },
    #[error(transparent)]
    Generate(GenerateError),
    #[error(transparent)]
    Filter(FilterError),
    #[error(transparent)]
    Label(LabelError),
    #[error(transparent)]
    Distill(DistillError),
    #[error(transparent)]
    Evaluate(EvaluateError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(
        "the adapter that lies on the disk is not the one that was judged: {what}; nothing was published"
    )]
    Audit { what: String },
    #[error(
        "only {got} of {needed} samples came out of {drawn} drawn inputs ({})",
        listed(rejected)
    )]
    NotEnough {
        got: usize,
        needed: usize,
        drawn: u64,
        rejected: BTreeMap<String, u64>,
    },
}

/// Room errors that stand for a request to stop become [`PipelineError::Cancelled`].
macro_rules! from_room {
    ($($room:ident($error:ty)),* $(,)?) => {$(
        impl From<$error> for PipelineError {
            fn from(error: $error) -> Self {
                if error.is_cancelled() { Self::Cancelled } else { Self::$room(error) }
            }
        }
    )*};
}

from_room!(
    Generate(GenerateError),
    Filter(FilterError),
    Label(LabelError),
    Distill(DistillError),
    Evaluate(EvaluateError)
);

impl From<EngineError> for PipelineError {
    fn from(error: EngineError) -> Self {
        if matches!(error, EngineError::Cancelled(_)) {
            Self::Cancelled
        } else {
            Self::Engine(error)
        }
    }
}

impl From<Cancelled> for PipelineError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

fn listed(counts: &BTreeMap<String, u64>) -> String {
    counts
        .iter()
        .map(|(name, count)| format!("{} {count}", name.replace('_', " ")))
        .collect::<Vec<_>>()
        .join(", ")
}

impl PipelineError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Cancelled | Self::Plan { .. } | Self::NotEnough { .. } => Fault::Input,
            Self::Kit(error) => error.fault(),
            Self::Engine(error) | Self::Row { source: error, .. } => error.fault(),
            Self::Generate(error) => error.fault(),
            Self::Filter(error) => error.fault(),
            Self::Label(error) => error.fault(),
            Self::Distill(error) => error.fault(),
            Self::Evaluate(error) => error.fault(),
            Self::Publish(error) => error.fault(),
            Self::Journal(error) => error.fault(),
            Self::Audit { .. } => Fault::Machine,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Cancelled => Some(
                "start it again; where a journal lies beside --out, --resume goes on from it, and deleting that folder begins anew".into(),
            ),
            Self::Plan { hint, .. } => Some(hint.clone()),
            Self::Kit(error) => error.hint(),
            Self::Engine(error) | Self::Row { source: error, .. } => error.hint(),
            Self::Generate(error) => error.hint().or_else(|| self.engine().and_then(EngineError::hint)),
            Self::Filter(error) => error.hint().or_else(|| self.engine().and_then(EngineError::hint)),
            Self::Label(error) => error.hint().or_else(|| self.engine().and_then(EngineError::hint)),
            Self::Distill(error) => error.hint().or_else(|| self.engine().and_then(EngineError::hint)),
            Self::Evaluate(error) => error.hint().or_else(|| self.engine().and_then(EngineError::hint)),
            Self::Publish(error) => error.hint(),
            Self::Journal(error) => error.hint(),
            Self::Audit { .. } => Some("what was done is kept: --resume writes and checks it again; if that fails too, report it".into()),
            Self::NotEnough { rejected, .. } => Some(not_enough_hint(rejected)),
        }
    }

    /// Name the row that an engine counted, where the examples were the rows of a file.
    pub(super) fn in_rows_of(self, path: &Path) -> Self {
        match self {
            Self::Distill(DistillError::Engine(source @ EngineError::Example { index, .. })) => {
                Self::Row {
                    path: path.to_owned(),
                    line: index + 1,
                    source,
                }
            }
            other => other,
        }
    }

    /// The engine's error behind a room's.
    fn engine(&self) -> Option<&EngineError> {
        std::error::Error::source(self)?.downcast_ref()
    }
}

fn not_enough_hint(rejected: &BTreeMap<String, u64>) -> String {
    let most = rejected
        .iter()
        .max_by_key(|&(_, count)| count)
        .map_or("", |(name, _)| name.as_str());
    let text = match most {
        "repeated" => {
            "the target base repeats itself: give more and more varied seeds, raise --temperature, or ask for fewer --samples"
        }
        "near_repeat" => {
            "the base repeats itself with small changes: give more and more varied seeds, or let such inputs be with --near 0"
        }
        "other_numbers" => {
            "inputs differ in numbers only: leave out --ignore-numbers, or give more varied seeds"
        }
        "seed_run" => "inputs repeat the seeds: leave out --seed-run, or give more seeds",
        "too_long" | "too_short" => {
            "inputs are not of the kit's or the seeds' length: give more seeds, or try another --generator"
        }
        "discriminator" => {
            "the target base strays from the task: give more seeds, or try --filter contrast"
        }
        "contrast" => {
            "the adapter changes little on such inputs: check that --source-lora belongs to --source, and give more seeds"
        }
        "no_answer" => {
            "the teacher does not end its answers: check that --source-lora belongs to --source"
        }
        _ => "give more and more varied seeds, or ask for fewer --samples",
    };
    text.to_owned()
}
