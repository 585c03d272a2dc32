use std::fmt;
use std::io;
use std::path::PathBuf;

use safetensors::{Dtype, SafeTensorError};
use translora_gguf::FileError;

use super::config::DORA;
use super::words::Difference;

/// Why an adapter in the format of PEFT or MLX cannot be written as GGUF.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignError {
    /// The file or folder that was named cannot be read.
    #[error(transparent)]
    File(FileError),
    /// A file of the folder cannot be read.
    #[error("its {name}: {source}")]
    Part {
        /// The name of the file.
        name: &'static str,
        /// What is wrong.
        source: FileError,
    },
    /// A folder, or a safetensors file, without the configuration beside it.
    #[error(
        "this is {what}, and there is no adapter_config.json {place}, which tells alpha and rank"
    )]
    NoConfig {
        /// `a folder` or `a safetensors file`.
        what: &'static str,
        /// `in it` or `beside it`.
        place: &'static str,
    },
    /// A folder with a configuration and no weights.
    #[error("this folder has an adapter_config.json, but no adapter_model.safetensors")]
    NoWeights,
    /// Weights that only Python can read, and that can run any program when it does.
    #[error("{name} is a PyTorch file (pickle), which is not read: such a file can run programs")]
    Pickle {
        /// The name of the file.
        name: String,
    },
    /// The configuration is no JSON, or a key in it has another type.
    #[error("its adapter_config.json: {0}")]
    Config(#[source] serde_json::Error),
    /// The configuration lacks a key.
    #[error("its adapter_config.json has no {key}")]
    NoKey {
        /// The key.
        key: &'static str,
    },
    /// A number of the configuration that is none.
    #[error("its adapter_config.json says {key}: {found}")]
    Number {
        /// The key.
        key: &'static str,
        /// What stands there.
        found: f64,
    },
    /// Neither PEFT nor MLX wrote this configuration.
    #[error("its adapter_config.json has neither PEFT's peft_type nor MLX's lora_parameters")]
    Unknown,
    /// Another method than LoRA.
    #[error("it is of the kind {found}, and only LoRA is taken")]
    Method {
        /// PEFT's or MLX's name for it.
        found: String,
    },
    /// A variant of LoRA that a GGUF adapter cannot hold.
    #[error("its adapter_config.json says {key}: {what}, which a GGUF adapter cannot hold")]
    Variant {
        /// The key.
        key: &'static str,
        /// What it means.
        what: &'static str,
    },
    /// The file of tensors breaks its format.
    #[error("not a sound safetensors file: {0}")]
    Safetensors(#[source] SafeTensorError),
    /// A tensor that is no half of a LoRA pair.
    #[error("its tensor {tensor:?} is {what}, which a GGUF adapter cannot hold")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What it is.
        what: Part,
    },
    /// A type of elements that is no float.
    #[error("its tensor {tensor:?} is of type {kind:?}, and must be F32, F16 or BF16")]
    Kind {
        /// The tensor.
        tensor: String,
        /// Its type.
        kind: Dtype,
    },
    /// A tensor with another number of dimensions.
    #[error("its tensor {tensor:?} has the shape {shape:?}, and a LoRA matrix has two dimensions")]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// Its shape, the row last.
        shape: Vec<usize>,
    },
    /// The rank of the configuration is not that of the tensors.
    #[error("{module} has rank {found}, and its adapter_config.json says {config}")]
    Rank {
        /// The module.
        module: String,
        /// The rank of its tensors.
        found: usize,
        /// The rank that the configuration gives it.
        config: usize,
    },
    /// A pattern of modules that is not understood.
    #[error("its adapter_config.json has the pattern {pattern:?}, which is not understood")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why.
        source: Box<regex::Error>,
    },
    /// An architecture whose modules are not in the table.
    #[error("how PEFT names the matrices of the architecture {architecture:?} is not known here")]
    Architecture {
        /// The architecture of the base.
        architecture: String,
    },
    /// A module that the architecture does not have.
    #[error("it adapts {module:?}, and no matrix of the base's architecture goes by that name")]
    Module {
        /// The module, as the file names it.
        module: String,
    },
    /// A tokenizer.json that is none.
    #[error("its tokenizer.json: {0}")]
    Tokenizer(#[source] serde_json::Error),
    /// A tokenizer.json that encodes nothing.
    #[error("its tokenizer.json cannot be used: {0}")]
    Encoding(String),
    /// The tokenizer beside it is not that of the base.
    #[error("the tokenizer.json beside it is not that of this base: {difference}")]
    Words {
        /// The first difference.
        difference: Difference,
    },
    /// Two modules for one matrix.
    #[error("it adapts {matrix} twice")]
    Twice {
        /// The matrix of the base.
        matrix: String,
    },
    /// An expert that the base does not have.
    #[error("it adapts expert {expert} of {matrix}, and the base has {experts}")]
    Expert {
        /// The matrix of the base.
        matrix: String,
        /// The number of the expert, from 0.
        expert: usize,
        /// How many there are.
        experts: u64,
    },
    /// The rows of a matrix cannot be put into the order of the base.
    #[error("{matrix} has {rows} rows, which are no whole pairs for each of {heads} heads")]
    Heads {
        /// The matrix of the base.
        matrix: String,
        /// Its rows.
        rows: usize,
        /// The heads of the base.
        heads: u64,
    },
    /// A fused module whose rows are not those of the matrices that it is split into.
    #[error("{module} has {rows} rows, and the matrices of the base {expected}")]
    Fused {
        /// The module.
        module: String,
        /// Its rows.
        rows: usize,
        /// The rows of the base's matrices together.
        expected: u64,
    },
    /// A matrix that transformers has no module for.
    #[error("transformers has no module of its own for {matrix}")]
    NoModule {
        /// The matrix of the base.
        matrix: String,
    },
    /// There is no folder to keep the GGUF in.
    #[error("there is no folder for what is converted: neither XDG_CACHE_HOME nor HOME is set")]
    NoCache,
    /// The GGUF could not be kept.
    #[error("{}: {source}", path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ForeignError {
    /// Tells whether it is DoRA, which the weights of a base can hold and an adapter beside them
    /// cannot.
    pub fn is_dora(&self) -> bool {
        matches!(self, Self::Variant { key: DORA, .. })
    }
}

/// What a tensor is that is no half of a LoRA pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The magnitudes of DoRA.
    Magnitude,
    /// A bias, of the base or of LoRA.
    Bias,
    /// A norm vector.
    Norm,
    /// A whole matrix: of `modules_to_save`, or a copy of the base's.
    Whole,
    /// Anything else.
    Other,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Magnitude => "a magnitude of DoRA",
            Self::Bias => "a bias",
            Self::Norm => "a norm vector",
            Self::Whole => "a whole matrix (modules_to_save, or a copy of the base's)",
            Self::Other => "no half of a LoRA pair",
        })
    }
}
