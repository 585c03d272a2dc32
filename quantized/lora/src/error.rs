use std::fmt;

use translora_gguf::{GgufError, TensorKind};

use crate::limits::ALPHA_MAX;
use crate::{ForeignError, NotFinite};

/// One of the two matrices of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// `lora_a`
    A,
    /// `lora_b`
    B,
}

impl fmt::Display for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Half::A => "lora_a",
            Half::B => "lora_b",
        })
    }
}

/// Why a file is no sound adapter, or none for this base. Shapes are (in, out, experts).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoraError {
    /// It is not a whole GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// It is of another format, and cannot be written as GGUF.
    #[error(transparent)]
    Foreign(#[from] ForeignError),
    /// A key that llama.cpp reads without asking for its type has another type.
    #[error("its {key} is {found}, and must be {wanted}")]
    KeyKind {
        /// The key.
        key: &'static str,
        /// The type that llama.cpp reads.
        wanted: &'static str,
        /// What stands there.
        found: String,
    },
    /// A key says that this is something else.
    #[error("its {key} is {found:?} and not {wanted:?}")]
    Key {
        /// The key.
        key: &'static str,
        /// What a LoRA adapter says there.
        wanted: &'static str,
        /// What stands there.
        found: String,
    },
    /// llama.cpp would apply it to the whole prompt, not from its invocation on.
    #[error(
        "it is an activated LoRA, which works from a sequence of tokens on; only plain ones are taken"
    )]
    Activated,
    /// Its scale is no number that scales.
    #[error(
        "its adapter.lora.alpha is {found}, and must be a number other than 0, at most {ALPHA_MAX}"
    )]
    Alpha {
        /// What stands there.
        found: f32,
    },
    /// A tensor that is no half of a pair: a norm vector, a bias, a whole matrix.
    #[error("its tensor {tensor:?} is no half of a LoRA pair, and llama.cpp would leave it out")]
    NotHalf {
        /// The tensor.
        tensor: String,
    },
    /// A pair of which one half is missing.
    #[error("it has no {matrix}.{missing}: one half of a LoRA changes nothing")]
    HalfMissing {
        /// The matrix of the base.
        matrix: String,
        /// The half that is not there.
        missing: Half,
    },
    /// A type of elements that llama.cpp has no product for, or whose numbers cannot be checked.
    #[error(
        "its tensor {tensor:?} is of type {kind}, and there is no product for that in an adapter"
    )]
    Kind {
        /// The tensor.
        tensor: String,
        /// Its type.
        kind: TensorKind,
    },
    /// Four dimensions.
    #[error(
        "its tensor {tensor:?} has the shape {shape:?}, and an adapter has two dimensions, or three with experts"
    )]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// A and B do not meet.
    #[error("the halves of {matrix} differ in rank: A has {a}, B has {b}")]
    Rank {
        /// The matrix of the base.
        matrix: String,
        /// The rank of A.
        a: u64,
        /// The rank of B.
        b: u64,
    },
    /// A and B are for different numbers of experts.
    #[error("the halves of {matrix} differ in experts: A has {a}, B has {b}")]
    HalvesExperts {
        /// The matrix of the base.
        matrix: String,
        /// The experts of A.
        a: u64,
        /// The experts of B.
        b: u64,
    },
    /// A number is NaN or infinite, or a scale of quantized ones is.
    #[error("its tensor {tensor:?} holds {at}")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// Where, and what.
        at: NotFinite,
    },
    /// There is no pair in it, or every product of B and A is zero.
    #[error("it adapts nothing: {reason}")]
    Nothing {
        /// What is missing.
        reason: &'static str,
    },
    /// It is for another architecture.
    #[error("it is for a base of architecture {adapter:?}, and this one is {base:?}")]
    Architecture {
        /// What the adapter says.
        adapter: String,
        /// What the base says.
        base: String,
    },
    /// The base has no such matrix.
    #[error("the base has no {matrix:?}")]
    NoMatrix {
        /// The matrix that the adapter names.
        matrix: String,
    },
    /// It was made for another file than the one that is served.
    #[error(
        "it was made for a base with SHA-256 {}…, and the one that is served has {}…",
        start(made_for),
        start(base)
    )]
    OtherBase {
        /// What the adapter says, in hexadecimal.
        made_for: String,
        /// Of the base that is served, in hexadecimal.
        base: String,
    },
    /// A vector of the base: no product runs through it.
    #[error("{matrix:?} is a vector in the base, and llama.cpp applies no adapter to it")]
    Vector {
        /// The tensor of the base.
        matrix: String,
    },
    /// Another width or height.
    #[error("{matrix} is {}×{} in the base, and the adapter's pair is for {}×{}", base[0], base[1], pair[0], pair[1])]
    Shape {
        /// The matrix.
        matrix: String,
        /// shapes: (in, out)
        base: [u64; 2],
        /// shapes: (in, out)
        pair: [u64; 2],
    },
    /// A mixture of another size.
    #[error("{matrix} has {base} experts in the base, and the adapter is for {pair}")]
    Experts {
        /// The matrix.
        matrix: String,
        /// Experts of the base.
        base: u64,
        /// Experts of the pair.
        pair: u64,
    },
    /// The table of words is the output matrix too, and llama.cpp would take the halves the wrong
    /// way around there.
    #[error("it adapts the table of words, which is the output matrix of this base too")]
    TiedEmbedding,
}

/// Enough of a hash for a person.
fn start(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

impl LoraError {
    /// Tells whether the adapter is DoRA, which the weights of a base can hold and nothing beside
    /// them.
    pub fn is_dora(&self) -> bool {
        matches!(self, Self::Foreign(error) if error.is_dora())
    }

    /// Says whether the file is sound and only this base is another than it is for.
    pub fn is_about_the_base(&self) -> bool {
        matches!(
            self,
            Self::Architecture { .. }
                | Self::OtherBase { .. }
                | Self::NoMatrix { .. }
                | Self::Vector { .. }
                | Self::Shape { .. }
                | Self::Experts { .. }
                | Self::TiedEmbedding
        )
    }
}
