use std::io;
use std::path::PathBuf;

use translora_gguf::{FileError, SplitError};
use translora_lora::{ForeignError, LoraError};

use crate::record::{Blame, Cancelled, Fault, Remedy, Step};

/// Why a model could not do what a stage asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// Somebody asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// It is no model that can be used.
    #[error("{path}: cannot load this model: {reason}")]
    Model {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A split model that is not whole.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// It is no sound adapter, or none for this base.
    #[error("{path}: {source}")]
    Adapter {
        /// The file.
        path: PathBuf,
        /// Why.
        source: LoraError,
    },
    /// It is sound and fits, and could not be loaded all the same.
    #[error("{path}: cannot load this adapter: {reason}")]
    AdapterLoad {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A backend of ggml that lies in a file of its own.
    #[error("{path}: cannot load this backend: {reason}")]
    Backend {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It cannot be read, or is no file of the kind that is wanted.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: FileError,
    },
    /// Encoding a text changes it.
    #[error(
        "{model}: the tokenizer cannot encode {text:?} without loss (it comes back as {back:?})"
    )]
    Tokenizer {
        /// The model.
        model: String,
        /// The start of the text.
        text: String,
        /// What it comes back as.
        back: String,
    },
    /// Two words cannot be told apart by their first token.
    #[error("{model}: {words:?} begin with the same token, so they cannot be told apart")]
    SameFirstToken {
        /// The model.
        model: String,
        /// The words.
        words: [String; 2],
    },
    /// The chat template raises an error.
    #[error("the chat template refuses this conversation: {0}")]
    Template(String),
    /// It cannot be parsed, or this engine has no grammars.
    #[error("the grammar cannot be used: {0}")]
    Grammar(String),
    /// A model's template, or the one that was asked for, cannot be used.
    #[error("{path}: cannot use this chat template: {reason}")]
    ChatTemplate {
        /// The model, or the file or name that was asked for.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// An example cannot be trained on.
    #[error("{reason}")]
    Example {
        /// Its number, from 0.
        index: usize,
        /// Why.
        reason: String,
    },
    /// The modules or layers are not those of the model.
    #[error("{model}: modules {modules:?}: {reason}")]
    Modules {
        /// The model.
        model: String,
        /// The modules of the request.
        modules: String,
        /// What is wrong with them.
        reason: String,
    },
    /// A step needs an operation that has no backward rule.
    #[error("{model}: cannot be trained: {reason}")]
    Untrainable {
        /// The model.
        model: String,
        /// Which, and where.
        reason: String,
    },
    /// A step came to NaN or infinity.
    #[error("the {what} of a training step is not finite (step {step})")]
    NotFinite {
        /// `loss` or `gradient`.
        what: &'static str,
        /// The step, from 1.
        step: u64,
    },
    /// The base alone makes no distribution for an example, with or without training.
    #[error(
        "the model {model} makes logits that are not finite (NaN or infinite) for this row, without \
        any adapter{cause}"
    )]
    BaseNotFinite {
        /// The example, from 0.
        index: usize,
        /// The file.
        model: String,
        /// `: ` and the weight that is no number; nothing where all are numbers.
        cause: String,
    },
    /// The weights of a model, or an adapter on it, make no distribution: no word can be chosen.
    #[error("{who} makes logits that are not finite (NaN or infinite): it has no answer")]
    NoDistribution {
        /// The model or the adapter.
        who: String,
    },
    /// It is of another trainer.
    #[error("the snapshot does not belong here: {0}")]
    Snapshot(String),
    /// A text is longer than the context.
    #[error("{needed} tokens do not fit a context of {context}")]
    Context {
        /// Its tokens.
        needed: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// The machine has too little of it.
    #[error("not enough memory: {0}")]
    Memory(String),
    /// More than the caller allowed, with what would do.
    #[error("{0}")]
    TooLarge(String),
    /// The weights of a base cannot be written with an adapter in them.
    #[error("{path}: no adapter can be merged into this model: {reason}")]
    Unmergeable {
        /// The base.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A model could not be written.
    #[error("cannot write the model: {0}")]
    Output(#[source] io::Error),
    /// A bug of this program.
    #[error("{0}")]
    Internal(String),
}

impl EngineError {
    /// A file that cannot be read is no unsound adapter.
    pub(crate) fn of_adapter(path: PathBuf, source: LoraError) -> Self {
        match source {
            LoraError::Foreign(ForeignError::File(source)) => Self::File { path, source },
            source => Self::Adapter { path, source },
        }
    }

    /// Whether an adapter is sound, and for another base.
    pub fn is_about_the_base(&self) -> bool {
        matches!(self, Self::Adapter { source, .. } if source.is_about_the_base())
    }

    /// The same error, with no folder of this machine in its words: for whoever asks from another.
    pub fn without_folders(mut self) -> Self {
        if let Self::Model { path, .. }
        | Self::Adapter { path, .. }
        | Self::AdapterLoad { path, .. }
        | Self::Backend { path, .. }
        | Self::File { path, .. } = &mut self
            && let Some(name) = path.file_name()
        {
            *path = name.into();
        }
        self
    }
}

impl Blame for EngineError {
    fn fault(&self) -> Fault {
        match self {
            Self::Cancelled(_) => Fault::Cancelled,
            Self::Memory(_) | Self::Backend { .. } | Self::Output(_) => Fault::Machine,
            Self::File { source, .. } => source.fault(),
            Self::Internal(_) => Fault::Bug,
            Self::Adapter { source, .. } => source.fault(),
            Self::Model { .. }
            | Self::Split(_)
            | Self::AdapterLoad { .. }
            | Self::Tokenizer { .. }
            | Self::SameFirstToken { .. }
            | Self::Template(_)
            | Self::Grammar(_)
            | Self::ChatTemplate { .. }
            | Self::Example { .. }
            | Self::Modules { .. }
            | Self::Untrainable { .. }
            | Self::Unmergeable { .. }
            | Self::NotFinite { .. }
            | Self::NoDistribution { .. }
            | Self::BaseNotFinite { .. }
            | Self::Snapshot(_)
            | Self::Context { .. }
            | Self::TooLarge(_) => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<Remedy> {
        let remedy = match self {
            Self::Model { .. } => Step::WholeModel.into(),
            Self::Split(source) => return source.remedy(),
            Self::Adapter { source, .. } => return source.remedy(),
            Self::AdapterLoad { .. } => Remedy::or([Step::PlainAdapter.into(), Remedy::Inspect]),
            Self::Backend { .. } => Remedy::or([Step::BackendNeeds.into(), Step::NoBackend.into()]),
            Self::File { source, .. } => return source.remedy(),
            Self::Tokenizer { .. } => {
                Remedy::or([Step::OtherModel.into(), Step::LeaveOutRows.into()])
            }
            Self::SameFirstToken { .. } => Remedy::set("filter", "contrast"),
            Self::Context { .. } | Self::Example { .. } => {
                Remedy::or([Remedy::raise("ctx_size"), Step::ShortenRow.into()])
            }
            Self::TooLarge(_) => Remedy::or([
                Remedy::raise("memory"),
                Remedy::lower("rank"),
                Step::ShortenRow.into(),
            ]),
            Self::Memory(_) => Remedy::or([
                Step::CloseOthers.into(),
                Step::SmallerModel.into(),
                Remedy::lower("ctx_size"),
            ]),
            Self::Modules { .. } => Remedy::then([
                Remedy::takes("modules", "all, or some of q,k,v,o,gate,up,down"),
                Remedy::takes("layers", "a range of the model's own"),
            ]),
            Self::Untrainable { .. } => {
                Remedy::or([Remedy::choose_other("modules"), Step::OtherModel.into()])
            }
            Self::Unmergeable { .. } => Step::OtherQuantization.into(),
            Self::Output(_) => Step::WritableFolder.into(),
            Self::NotFinite { .. } => Remedy::lower("lr"),
            Self::NoDistribution { .. } | Self::BaseNotFinite { .. } => Step::BrokenNumbers.into(),
            Self::ChatTemplate { .. } => Remedy::choose_other("chat_template"),
            Self::Internal(_) => Step::Report.into(),
            Self::Cancelled(_) | Self::Template(_) | Self::Grammar(_) | Self::Snapshot(_) => {
                return None;
            }
        };
        Some(remedy)
    }
}

impl Blame for ForeignError {
    fn fault(&self) -> Fault {
        match self {
            Self::File(error) | Self::Part { source: error, .. } => error.fault(),
            Self::NoCache | Self::Cache { .. } => Fault::Machine,
            _ => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<Remedy> {
        let step = match self {
            Self::File(error) | Self::Part { source: error, .. } => return error.remedy(),
            Self::NoConfig { .. } | Self::NoWeights | Self::Unknown => Step::WholePeft,
            Self::Pickle { .. } => Step::SaveSafetensors,
            Self::Words { .. } | Self::Tokenizer(_) | Self::Encoding(_) => Step::OtherWords,
            error if error.is_dora() => return Some(Remedy::MergeDora),
            Self::Method { .. } | Self::Variant { .. } | Self::Tensor { .. } => Step::TrainPlain,
            Self::Architecture { .. } | Self::Pattern { .. } | Self::NoModule { .. } => {
                Step::ConvertByHand
            }
            Self::Module { .. } | Self::Expert { .. } | Self::Fused { .. } | Self::Heads { .. } => {
                Step::FittingAdapter
            }
            Self::NoCache | Self::Cache { .. } => Step::WritableCache,
            _ => Step::SavePeftAgain,
        };
        Some(step.into())
    }
}

impl Blame for LoraError {
    fn fault(&self) -> Fault {
        match self {
            Self::Foreign(error) => error.fault(),
            _ => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<Remedy> {
        let step = match self {
            Self::Foreign(error) => return error.remedy(),
            Self::Nothing { .. } => return Some(Step::TrainedAdapter.into()),
            Self::Gguf(error) => return error.remedy(),
            Self::OtherBase { .. } => return Some(Step::MoveAdapter.into()),
            error if error.is_about_the_base() => Step::FittingAdapter,
            _ => Step::PlainAdapter,
        };
        Some(Remedy::or([step.into(), Remedy::Inspect]))
    }
}

impl Blame for SplitError {
    fn fault(&self) -> Fault {
        Fault::Input
    }

    fn remedy(&self) -> Option<Remedy> {
        let step = match self {
            Self::NotFirst { .. } => Step::FirstPart,
            Self::Missing { .. } | Self::Renamed { .. } => Step::PartsTogether,
            _ => Step::FetchParts,
        };
        Some(step.into())
    }
}
