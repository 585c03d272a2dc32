//! The ways in which the reference refuses.

use translora_gguf::GgufError;

/// Says why the reference cannot compute something.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// The architecture is not one of those written out here.
    #[error("architecture {0:?}, expected llama, qwen2 or qwen3")]
    Architecture(String),
    /// A metadata value is absent, or has another type or value than can be computed with.
    #[error("metadata {0} is missing or not supported")]
    Metadata(String),
    /// A tensor is absent.
    #[error("tensor {0} is missing")]
    Missing(String),
    /// A tensor that the written-out architecture does not use.
    #[error("tensor {0} has no place in this architecture")]
    Unexpected(String),
    /// A tensor has another shape than the metadata says.
    #[error("tensor {tensor}: shape {got:?}, expected {expected:?}")]
    Shape {
        /// Its name.
        tensor: String,
        /// The shape that the metadata say.
        expected: Vec<u64>,
        /// The shape that it has.
        got: Vec<u64>,
    },
    /// A tensor's blocks cannot be turned into floats.
    #[error("tensor {tensor}: {source}")]
    Blocks {
        /// Its name.
        tensor: String,
        /// What is wrong with them.
        source: GgufError,
    },
    /// An adapter does not fit the model.
    #[error("adapter weight {0} does not fit the model")]
    Lora(String),
    /// Tokens, positions, targets and weights differ in number, or a token is outside the
    /// vocabulary.
    #[error("batch: {0}")]
    Batch(&'static str),
}
