use std::fmt;

use translora_llama::{LlamaError, Node};

/// Why an adapter could not be trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    #[error(transparent)]
    Llama(#[from] LlamaError),
    #[error(transparent)]
    Gguf(#[from] translora_gguf::GgufError),
    #[error("module {modules:?}: {reason}")]
    Module { modules: String, reason: String },
    /// No gradient can flow through an operation of this model.
    #[error("no backward rule for {op} (node {node:?})")]
    NoRule {
        op: String,
        node: String,
        /// Where in the traced graph.
        position: usize,
    },
    /// As `NoRule`, with the blocks that could be trained all the same.
    #[error("no gradient can flow through {op} (node {node:?}); {}", could(*blocks))]
    Blocked {
        op: String,
        node: String,
        blocks: Option<(u32, u32)>,
    },
    #[error("this objective cannot be trained: {reason}")]
    Objective { reason: String },
    #[error("example {index}: {reason}")]
    Example { index: usize, reason: String },
    #[error("the {what} of step {step} is not finite")]
    NotFinite { what: &'static str, step: u64 },
    /// No way to train fits the memory that was allowed.
    #[error("{} MiB do not suffice: {}", limit >> 20, memory(*least, *tokens, *hint))]
    Memory {
        limit: usize,
        least: usize,
        tokens: usize,
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
    Rank(usize),
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
