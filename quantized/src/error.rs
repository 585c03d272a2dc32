use translora_llama::LlamaError;

/// Why an adapter could not be trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    #[error(transparent)]
    Llama(#[from] LlamaError),
    #[error(transparent)]
    Gguf(#[from] translora_gguf::GgufError),
    #[error("module {asked:?}: {reason}")]
    Module { asked: String, reason: String },
    /// No gradient can flow through an operation of this model.
    #[error("no backward rule for {op} (node {node:?})")]
    NoRule { op: String, node: String },
    #[error("this objective cannot be trained: {reason}")]
    Objective { reason: String },
    #[error("example {index}: {reason}")]
    Example { index: usize, reason: String },
    #[error("the {what} of step {step} is not finite")]
    NotFinite { what: &'static str, step: u64 },
    #[error("snapshot: {0}")]
    Snapshot(String),
    #[error("temporary adapter file: {0}")]
    Io(#[from] std::io::Error),
}
