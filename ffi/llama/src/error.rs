use std::path::{Path, PathBuf};

use translora_gguf::{FileError, SplitError};

/// What llama.cpp or ggml refused, with the reason from its log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LlamaError {
    /// The path cannot be handed to C.
    #[error("{0}: the path holds a NUL byte")]
    Path(PathBuf),
    /// The file cannot be read, or is not a GGUF that this reader accepts.
    #[error("{path}: {source}")]
    File { path: PathBuf, source: FileError },
    /// It is no whole split model.
    #[error(transparent)]
    Split(#[from] SplitError),
    #[error("{path}: {reason}")]
    ModelLoad { path: PathBuf, reason: String },
    /// The file is no sound adapter, or none for this base.
    #[error("{path}: {source}")]
    Adapter {
        path: PathBuf,
        source: translora_lora::LoraError,
    },
    /// llama.cpp refused an adapter that was found sound.
    #[error("{path}: {reason}")]
    AdapterLoad { path: PathBuf, reason: String },
    #[error("cannot make a context of {tokens} tokens: {reason}")]
    Context { tokens: u32, reason: String },
    #[error("decoding failed (code {code}): {reason}")]
    Decode { code: i32, reason: String },
    #[error("cannot tokenize: {0}")]
    Tokenize(String),
    #[error("chat template: {0}")]
    Template(String),
    /// It cannot be parsed, or an answer leaves it.
    #[error("grammar: {0}")]
    Grammar(String),
    #[error("cannot trace the graph: {0}")]
    Trace(String),
    #[error("cannot quantize {path}: {reason}")]
    Quantize { path: PathBuf, reason: String },
    #[error("graph: {0}")]
    Graph(String),
    #[error("there is no device {name:?}; there are {known}")]
    Device { name: String, known: String },
    /// A file that should hold a backend does not, or its device's driver is missing.
    #[error("{path}: cannot load this backend: {reason}")]
    Module { path: PathBuf, reason: String },
    #[error("cannot allocate {what}")]
    Memory { what: String },
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
