use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::journal::JournalError;
use crate::distill::DistillError;
use crate::engine::EngineError;
use crate::evaluate::EvaluateError;
use crate::filter::FilterError;
use crate::generate::GenerateError;
use crate::kit::KitError;
use crate::label::LabelError;
use crate::publish::PublishError;
use crate::record::{Blame, Cancelled, Fault, Remedy, Step};

/// Why a job did not come to its end. Each room's error is kept whole as the source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// Somebody stopped the job.
    #[error("cancelled")]
    Cancelled,
    /// The objective needs one vocabulary, and there are two.
    #[error(
        "the objective kl compares probabilities word by word, and these two models have \
        different vocabularies"
    )]
    OtherVocabulary,
    /// The teacher says too much to keep it.
    #[error(
        "the answers are {bytes} bytes long, and what a teacher says of each token is kept for \
        {bytes_max} at most"
    )]
    LongAnswers {
        /// Of all answers.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The source adapter does nothing on any seed.
    #[error(
        "the source adapter changes nothing: its base gives every seed the same probability \
        without it"
    )]
    BlankSource,
    /// The source adapter has nothing to teach, as far as can be seen.
    #[error("{what}")]
    WeakSource {
        /// What is wrong.
        what: String,
    },
    /// The kit, the seeds or the data were refused.
    #[error(transparent)]
    Kit(#[from] KitError),
    /// A model was refused, or could not do it.
    #[error(transparent)]
    Engine(EngineError),
    /// A row that the model cannot take.
    #[error("{path}:{line}: {source}")]
    Row {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Why.
        source: EngineError,
    },
    /// Generating inputs failed.
    #[error(transparent)]
    Generate(GenerateError),
    /// Filtering them failed.
    #[error(transparent)]
    Filter(FilterError),
    /// Labelling them failed.
    #[error(transparent)]
    Label(LabelError),
    /// Training failed.
    #[error(transparent)]
    Distill(DistillError),
    /// Judging failed.
    #[error(transparent)]
    Evaluate(EvaluateError),
    /// An output could not be written.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The adapter on the disk is another than the one that was judged.
    #[error(
        "the adapter that lies on the disk is not the one that was judged: {what}; nothing was \
        published"
    )]
    Audit {
        /// How they differ.
        what: String,
    },
    /// Too few inputs were kept.
    #[error(
        "only {got} of {needed} samples came out of {drawn} drawn inputs ({}){}",
        listed(rejected),
        shortage(rejected).0
    )]
    NotEnough {
        /// Samples there are.
        got: usize,
        /// Samples that are wanted.
        needed: usize,
        /// Inputs that were drawn.
        drawn: u64,
        /// Why inputs were rejected, and how many for each reason.
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
    /// Name the row that an engine counted, where the examples were the rows of a file.
    pub(super) fn in_rows_of(self, path: &Path, lines: &[usize]) -> Self {
        match self {
            Self::Distill(DistillError::Engine(
                source @ (EngineError::Example { index, .. }
                | EngineError::BaseNotFinite { index, .. }),
            )) => Self::Row {
                path: path.to_owned(),
                line: lines.get(index).copied().unwrap_or(index + 1),
                source,
            },
            other => other,
        }
    }
}

impl Blame for PipelineError {
    fn fault(&self) -> Fault {
        match self {
            Self::Cancelled => Fault::Cancelled,
            Self::OtherVocabulary
            | Self::LongAnswers { .. }
            | Self::BlankSource
            | Self::WeakSource { .. }
            | Self::NotEnough { .. } => Fault::Input,
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

    fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::Cancelled => Remedy::Resume,
            Self::OtherVocabulary => Remedy::or([
                Remedy::set("objective", "aligned"),
                Remedy::leave_out("objective"),
            ]),
            Self::LongAnswers { .. } => Remedy::or([
                Remedy::then([
                    Remedy::set("objective", "text"),
                    Remedy::leave_out("token_weights"),
                ]),
                Remedy::fewer("samples"),
            ]),
            Self::BlankSource => Step::TrainedAdapter.into(),
            Self::WeakSource { .. } => Remedy::or([
                Remedy::matching("source_lora", "source"),
                Remedy::set("allow_weak_source", true),
            ]),
            Self::Kit(error) => return error.remedy(),
            Self::Engine(error) | Self::Row { source: error, .. } => return error.remedy(),
            Self::Generate(error) => return error.remedy(),
            Self::Filter(error) => return error.remedy(),
            Self::Label(error) => return error.remedy(),
            Self::Distill(error) => return error.remedy(),
            Self::Evaluate(error) => return error.remedy(),
            Self::Publish(error) => return error.remedy(),
            Self::Journal(error) => return error.remedy(),
            // What was done is kept.
            Self::Audit { .. } => Remedy::or([Remedy::Resume, Step::Report.into()]),
            Self::NotEnough { rejected, .. } => shortage(rejected).1,
        })
    }
}

/// Why too few inputs were kept, by what most of them were rejected for, and what helps.
fn shortage(rejected: &BTreeMap<String, u64>) -> (&'static str, Remedy) {
    let most = rejected
        .iter()
        .max_by_key(|&(_, count)| count)
        .map_or("", |(name, _)| name.as_str());
    let seeds = || Remedy::from(Step::VariedSeeds);
    let teacher = || Remedy::matching("source_lora", "source");
    match most {
        "repeated" => (
            ": the target base repeats itself",
            Remedy::or([
                seeds(),
                Remedy::raise("temperature"),
                Remedy::fewer("samples"),
            ]),
        ),
        "near_repeat" => (
            ": the base repeats itself with small changes",
            Remedy::or([seeds(), Remedy::set("near", 0)]),
        ),
        "other_numbers" => (
            ": the inputs differ in numbers only",
            Remedy::or([Remedy::leave_out("ignore_numbers"), seeds()]),
        ),
        "seed_run" => (
            ": the inputs repeat the seeds",
            Remedy::or([Remedy::leave_out("seed_run"), seeds()]),
        ),
        "too_long" | "too_short" => (
            ": the inputs are not as long as those of the kit or the seeds",
            Remedy::or([seeds(), Remedy::choose_other("generator")]),
        ),
        "discriminator" => (
            ": the target base strays from the task",
            Remedy::or([seeds(), Remedy::set("filter", "contrast")]),
        ),
        "contrast" => (
            ": the adapter changes little on such inputs",
            Remedy::then([teacher(), seeds()]),
        ),
        "no_answer" => (": the teacher does not end its answers", teacher()),
        _ => ("", Remedy::or([seeds(), Remedy::fewer("samples")])),
    }
}
