use std::path::PathBuf;

use translora_lora::LoraError;

use crate::record::Cancelled;

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A file or value that the caller gave.
    Input,
    /// The machine: memory, disk, device.
    Machine,
    /// This program.
    Bug,
}

/// Why a model could not do what a stage asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    #[error("{path}: cannot load this model: {reason}")]
    Model { path: PathBuf, reason: String },
    /// It is no sound adapter, or none for this base.
    #[error("{path}: {source}")]
    Adapter { path: PathBuf, source: LoraError },
    /// It is sound and fits, and could not be loaded all the same.
    #[error("{path}: cannot load this adapter: {reason}")]
    AdapterLoad { path: PathBuf, reason: String },
    /// A backend of ggml that lies in a file of its own.
    #[error("{path}: cannot load this backend: {reason}")]
    Backend { path: PathBuf, reason: String },
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "{model}: the tokenizer cannot encode {text:?} without loss (it comes back as {back:?})"
    )]
    Tokenizer {
        model: String,
        text: String,
        back: String,
    },
    #[error("{model}: {words:?} begin with the same token, so they cannot be told apart")]
    SameFirstToken { model: String, words: [String; 2] },
    #[error("the chat template refuses this conversation: {0}")]
    Template(String),
    #[error("{reason}")]
    Example { index: usize, reason: String },
    #[error("{model}: modules {asked:?}: {reason}")]
    Modules {
        model: String,
        asked: String,
        reason: String,
    },
    #[error("{model}: cannot be trained: {reason}")]
    Untrainable { model: String, reason: String },
    #[error("the {what} of a training step is not finite (step {step})")]
    NotFinite { what: &'static str, step: u64 },
    #[error("the snapshot does not belong here: {0}")]
    Snapshot(String),
    #[error("{needed} tokens do not fit a context of {context}")]
    Context { needed: usize, context: usize },
    #[error("not enough memory: {0}")]
    Memory(String),
    /// More than the caller allowed, with what would do.
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    Internal(String),
}

impl EngineError {
    pub fn fault(&self) -> Fault {
        match self {
            Self::Memory(_) | Self::Io { .. } | Self::Backend { .. } => Fault::Machine,
            Self::Internal(_) => Fault::Bug,
            _ => Fault::Input,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Model { .. } => {
                "the model must be a whole GGUF with a tokenizer and a chat template: fetch it again, or convert it anew"
            }
            Self::Adapter { source, .. } if source.is_about_the_base() => {
                "give the base that this adapter was trained on, or an adapter made for this base"
            }
            Self::Adapter { .. } => {
                "give a plain LoRA adapter as GGUF; `translora inspect` says what a file is"
            }
            Self::Backend { .. } => {
                "a backend needs its device's driver and libraries, and is built from this program's own llama.cpp (scripts/cuda, scripts/test-vulkan); to run \
                 on the CPU, take the file away, or unset GGML_BACKEND_PATH where it names it"
            }
            Self::Io { .. } => "check the path and its permissions",
            Self::Tokenizer { .. } => {
                "choose another base model, or leave out rows with such characters"
            }
            Self::SameFirstToken { .. } => "use --filter contrast",
            Self::Context { .. } | Self::Example { .. } => {
                "give a larger context with -c, or shorten the row"
            }
            Self::TooLarge(_) => "allow more with --memory, lower --rank, or train on shorter rows",
            Self::Memory(_) => "close other programs, choose a smaller quantization, or lower -c",
            Self::Untrainable { .. } | Self::Modules { .. } => {
                "choose other --modules, or another base model"
            }
            Self::Internal(_) => "this is a bug: please report it with the command line",
            _ => return None,
        };
        Some(text.to_owned())
    }
}
