#![forbid(unsafe_code)]
#![warn(missing_docs)]
//! LoRA training on quantized GGUF models.
//!
//! llama.cpp's own forward graph is traced and emitted again with gradients appended, so a model
//! trains if every operation between its adapters and its loss has a rule in `rules`. Knows tokens,
//! tensors and gradients; knows nothing of text, templates, teachers or transfers. May be named by
//! the engine room only.
//!
//! From the ground up, each imports only what stands above it here:
//! - `error`; `objective`, `pack`, `optimizer`: what is minimized, on what, how numbers move
//! - `modules`, `adapter`: which matrices, and their A and B
//! - `reach`, `patterns`, `checkpoints`: what a trace says
//! - `inputs`, `tracer`: llama.cpp's graph, and what fills its inputs
//! - `weights`, `dropout`, `emit`, `rules`: one operation, forward and backward
//! - `goal`, `signal`, `loss`, `forward`, `frozen`, `program`: a training graph
//! - `survey`, `plan`, `workshop`: what can be trained, in what memory, on what machine
//! - `spec`, `state`, `trainer`: what is wanted, what training changes, the steps
//! - `gradcheck`: the proof
//!
//! One step on a tiny model:
//!
//! ```
//! use translora_llama::{Backend, Model, ModelParams};
//! use translora_train::testing::tiny::{TinyArchitecture, TinyShape, tiny_model};
//! use translora_train::{Example, TrainSpec, Trainer};
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("tiny.gguf");
//! std::fs::write(&path, tiny_model(TinyArchitecture::Qwen3, 1, &TinyShape::default()))?;
//! let backend = Backend::init()?;
//! let model = Model::load(backend, &path, &ModelParams::default())?;
//!
//! let spec = TrainSpec { rank: 4, alpha: 8.0, ..TrainSpec::default() };
//! let mut trainer = Trainer::new(backend, &model, &spec)?;
//! // Tokens 104 and 105 are the completion of 1, 2, 3.
//! let plan = trainer.load(vec![Example::new(vec![1, 2, 3, 104, 105], 3, 0)?])?;
//! let before = trainer.step(&[0], 1e-2)?.loss;
//! assert!(trainer.loss(&[0])?.loss < before);
//! println!("{} MiB at most", plan.memory.peak() >> 20);
//! let file = trainer.to_gguf(&[])?;
//! # assert!(file.starts_with(b"GGUF"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
pub use modules::Target;
pub use objective::{Condensed, Divergence, Objective, PROBABILITY_MIN, Teacher};
pub use optimizer::AdamW;
pub use pack::Example;
pub use plan::{DeviceMemory, Memory, Plan};
pub use profile::StepTimes;
pub use spec::TrainSpec;
pub use survey::{Survey, survey};
pub use trainer::{StepReport, Trainer};
pub use translora_llama::{Kernel, Placement};
pub use weights::{ForwardWeights, Transpose};
