#![forbid(unsafe_code)]
//! LoRA training on quantized GGUF models.
//!
//! llama.cpp's own forward graph is traced and emitted again with gradients appended, so a model
//! trains if every operation between its adapters and its loss has a rule in `rules`. Knows tokens,
//! tensors and gradients; knows nothing of text, templates, teachers or transfers. May be named by
//! the engine room only.

mod adapter;
mod checkpoints;
mod dropout;
mod emit;
mod error;
mod forward;
mod frozen;
mod goal;
mod gradcheck;
mod inputs;
mod loss;
mod modules;
mod objective;
mod optimizer;
mod pack;
mod patterns;
mod plan;
mod profile;
mod program;
mod reach;
mod rules;
mod signal;
mod spec;
mod state;
mod survey;
#[cfg(feature = "testing")]
pub mod testing;
mod tracer;
mod trainer;
mod weights;
mod workshop;

pub use adapter::{Adapter, LoraPair};
pub use checkpoints::Checkpoints;
pub use error::{Nearest, TrainError};
pub use frozen::FROZEN_BYTES;
pub use gradcheck::{GradCheck, GradReport, MatrixError, gradcheck};
pub use loss::LOSS_BYTES;
pub use modules::{Target, targets};
pub use objective::{Condensed, Divergence, Objective, PROBABILITY_MIN, Teacher};
pub use optimizer::{AdamW, Moments};
pub use pack::{Example, Packed, shared_prefix};
pub use plan::{DeviceMemory, Memory, Plan};
pub use profile::StepTimes;
pub use spec::TrainSpec;
pub use survey::{Survey, survey};
pub use trainer::{StepReport, Trainer};
pub use translora_llama::{Kernel, Placement};
pub use weights::{ForwardWeights, Transpose};
