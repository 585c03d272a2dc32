//! A safe layer over llama.cpp and ggml, as thin as safety allows.
//!
//! Owns every raw pointer of the project's engine: models, contexts, adapters, traced graphs,
//! graphs of our own. Knows nothing of training or transfer. Refuses in Rust what would make ggml
//! abort; C++ exceptions end in the shim. May be named by `translora_train` and by the engine
//! room only.
#![warn(missing_docs)]
#![allow(unsafe_code, reason = "this crate meets C")]
#![cfg_attr(
    test,
    allow(clippy::too_many_lines, reason = "tables of cases are long")
)]

mod backend;
mod compute;
mod context;
mod copied;
mod dtype;
mod elementwise;
mod error;
#[cfg(test)]
mod formats;
mod grammar;
mod graph;
mod kernels;
mod layout;
mod listing;
mod log;
mod memory;
mod model;
mod op;
mod ops;
mod probe;
mod product;
mod quantize;
mod recurrent;
mod refuse;
mod scheduler;
mod shim;
mod storage;
mod synthetic;
mod timing;
mod trace;
mod vocab;

pub use backend::{Backend, Device};
pub use compute::{Compute, Place};
pub use context::{Batch, Context, ContextParams};
pub use dtype::Dtype;
pub use error::LlamaError;
pub use grammar::Grammar;
pub use graph::{Graph, Tensor};
pub use kernels::{Kernel, Level};
pub use listing::{Layout, Operation};
pub use model::{Adapter, AdapterFile, Model, ModelParams, map_file};
pub use op::{Glu, Op, Unary};
pub use probe::{Filled, Reading};
pub use product::Plus;
pub use quantize::{QUANTIZATIONS, quantize};
pub use scheduler::{Placement, WorkBytes};
pub use storage::Storage;
pub use synthetic::synthesize;
pub use trace::{Node, Trace};
pub use vocab::Vocab;
