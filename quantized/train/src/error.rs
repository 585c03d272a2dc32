//! What can go wrong, and whose fault it is.

use std::fmt;

use translora_llama::{LlamaError, Node};

/// Why an adapter could not be trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// llama.cpp or ggml refused.
    #[error(transparent)]
    Llama(#[from] LlamaError),
    /// The model's file cannot be read.
    #[error(transparent)]
    Gguf(#[from] translora_gguf::GgufError),
    /// The model's files cannot be read.
    #[error(transparent)]
    File(#[from] translora_gguf::FileError),
    /// These matrices cannot be adapted.
    #[error("module {modules:?}: {reason}")]
    Module {
        /// As `TrainSpec::modules` names them.
        modules: String,
        /// What is wrong with them.
        reason: String,
    },
    /// No gradient can flow through an operation of this model.
    #[error("no backward rule for {op} (node {node:?})")]
    NoRule {
        /// The operation, and what about it has no rule.
        op: String,
        /// Its name in the traced graph.
        node: String,
        /// Its index there.
        position: usize,
    },
    /// As `NoRule`, with the blocks that could be trained all the same.
    #[error("no gradient can flow through {op} (node {node:?}); {}", could(*blocks))]
    Blocked {
        /// The operation, and what about it has no rule.
        op: String,
        /// Its name in the traced graph.
        node: String,
        /// The first and the last block above it that hold a matrix; none where none does.
        blocks: Option<(u32, u32)>,
    },
    /// No loss can be computed for this objective on this model.
    #[error("this objective cannot be trained: {reason}")]
    Objective {
        /// What is in the way.
        reason: String,
    },
    /// An example cannot be trained on.
    #[error("example {index}: {reason}")]
    Example {
        /// Its place among the loaded ones.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Training diverged.
    #[error("the {what} of step {step} is not finite")]
    NotFinite {
        /// `loss` or `gradient`.
        what: &'static str,
        /// The step that was not taken, from 1.
        step: u64,
    },
    /// No way to train fits the memory that was allowed.
    #[error("{} MiB do not suffice: {}", limit >> 20, memory(*least, *tokens, *hint))]
    Memory {
        /// units: bytes; what was allowed.
        limit: usize,
        /// units: bytes; what the smallest way takes.
        least: usize,
        /// Of the longest pack.
        tokens: usize,
        /// What would fit.
        hint: Option<Nearest>,
    },
    /// The bytes of a snapshot are damaged, or of an adapter of another shape.
    #[error("snapshot: {0}")]
    Snapshot(String),
    /// An adapter's numbers cannot be replaced by those of one of another shape.
    #[error("the adapter has other matrices than the one that is trained")]
    OtherAdapter,
    /// An assumption of this crate does not hold: nobody's fault but its own.
    #[error("internal: {what}")]
    Internal {
        /// The assumption.
        what: String,
    },
    /// The file that an adapter is loaded by way of cannot be written.
    #[error("temporary adapter file: {0}")]
    Io(#[from] std::io::Error),
}

impl TrainError {
    /// A traced node whose value a graph should have, and has not.
    pub(crate) fn not_emitted(node: &Node) -> Self {
        let op = node.op.name();
        Self::internal(format!("{op} (node {:?}) was not emitted", node.name))
    }

    /// An assumption that does not hold.
    pub(crate) fn internal(what: impl Into<String>) -> Self {
        Self::Internal { what: what.into() }
    }

    /// The refusal of a traced node: its operation with `detail` behind it.
    pub(crate) fn no_rule(node: &Node, detail: &str) -> Self {
        Self::NoRule {
            op: format!("{}{detail}", node.op.name()),
            node: node.name.clone(),
            position: 0,
        }
    }
}

/// A change after which a run would fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nearest {
    /// A rank of at most this.
    Rank(usize),
    /// Examples of at most so many tokens.
    Tokens(usize),
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rank(rank) => write!(f, "rank {rank} would fit"),
            Self::Tokens(tokens) => write!(f, "examples of at most {tokens} tokens would fit"),
        }
    }
}

fn memory(least: usize, tokens: usize, hint: Option<Nearest>) -> String {
    let other = hint.map_or(String::new(), |hint| format!("; within it {hint}"));
    format!(
        "examples of {tokens} tokens need {} MiB{other}",
        (least >> 20) + 1
    )
}

fn could(blocks: Option<(u32, u32)>) -> String {
    match blocks {
        Some((first, last)) => format!("blocks {first} to {last} can be trained"),
        None => "no block can be trained".into(),
    }
}
