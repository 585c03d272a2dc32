use std::path::PathBuf;

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
    #[error("{path}: this adapter does not fit {base}: {reason}")]
    Adapter { path: PathBuf, base: PathBuf, reason: String },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{model}: the tokenizer cannot encode {text:?} without loss (it comes back as {back:?})")]
    Tokenizer { model: String, text: String, back: String },
    #[error("{model}: {words:?} begin with the same token, so they cannot be told apart")]
    SameFirstToken { model: String, words: [String; 2] },
    #[error("the chat template refuses this conversation: {0}")]
    Template(String),
    #[error("{reason}")]
    Example { index: usize, reason: String },
    #[error("{model}: modules {asked:?}: {reason}")]
    Modules { model: String, asked: String, reason: String },
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
            Self::Memory(_) | Self::Io { .. } => Fault::Machine,
            Self::Internal(_) => Fault::Bug,
            _ => Fault::Input,
        }
    }
}
