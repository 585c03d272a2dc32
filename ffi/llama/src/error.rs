use std::path::{Path, PathBuf};

use translora_gguf::{FileError, SplitError};

/// What llama.cpp or ggml refused, with the reason from its log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LlamaError {
    /// C cannot take the path.
    #[error("{0}: the path holds a NUL byte")]
    Path(PathBuf),
    /// The file cannot be read, or is not a GGUF that this reader accepts.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and at which byte.
        source: FileError,
    },
    /// It is no whole split model.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// llama.cpp refused a model whose container is sound.
    #[error("{path}: {reason}")]
    ModelLoad {
        /// The model's file.
        path: PathBuf,
        /// The reason from llama.cpp's log.
        reason: String,
    },
    /// The file is no sound adapter, or none for this base.
    #[error("{path}: {source}")]
    Adapter {
        /// The adapter's file.
        path: PathBuf,
        /// What is wrong with it.
        source: translora_lora::LoraError,
    },
    /// llama.cpp refused an adapter that was found sound.
    #[error("{path}: {reason}")]
    AdapterLoad {
        /// The adapter's file.
        path: PathBuf,
        /// The reason from llama.cpp's log.
        reason: String,
    },
    /// No context of these sizes could be made.
    #[error("cannot make a context of {tokens} tokens: {reason}")]
    Context {
        /// Cells of the KV cache that were wanted.
        tokens: u32,
        /// The reason from llama.cpp's log.
        reason: String,
    },
    /// A batch could not be computed.
    #[error("decoding failed (code {code}): {reason}")]
    Decode {
        /// What `llama_decode` returned.
        code: i32,
        /// The reason from llama.cpp's log.
        reason: String,
    },
    /// The tokenizer refused a text.
    #[error("cannot tokenize: {0}")]
    Tokenize(String),
    /// A chat template could not be rendered.
    #[error("chat template: {0}")]
    Template(String),
    /// It cannot be parsed, or an answer leaves it.
    #[error("grammar: {0}")]
    Grammar(String),
    /// llama.cpp gave no forward graph to train on.
    #[error("cannot trace the graph: {0}")]
    Trace(String),
    /// A model could not be written in another type.
    #[error("cannot quantize {path}: {reason}")]
    Quantize {
        /// The model's file.
        path: PathBuf,
        /// The reason from llama.cpp's log.
        reason: String,
    },
    /// Operands that ggml would not take; refused before it could assert.
    #[error("graph: {0}")]
    Graph(String),
    /// No device has this name.
    #[error("there is no device {name:?}; there are {known}")]
    Device {
        /// The name.
        name: String,
        /// The names there are, with commas between them.
        known: String,
    },
    /// A file that should hold a backend does not, or its device's driver is missing.
    #[error("{path}: cannot load this backend: {reason}")]
    Module {
        /// The file.
        path: PathBuf,
        /// The reason from ggml's log.
        reason: String,
    },
    /// The system gave no memory.
    #[error("cannot allocate {what}")]
    Memory {
        /// What it was for.
        what: String,
    },
}

impl LlamaError {
    /// Why a model's file could not be read.
    pub(crate) fn of_file(path: &Path, error: FileError) -> Self {
        let path = path.to_owned();
        match error {
            FileError::Split(source) => Self::Split(source),
            source => Self::File { path, source },
        }
    }
}
