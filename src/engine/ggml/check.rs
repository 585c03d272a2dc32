//! Says what of a model can be trained, and checks its gradients. Needs no tokenizer and no
//! template.

use std::path::{Path, PathBuf};

use serde::Serialize;
use translora_llama::{Backend, Model, ModelParams};
use translora_train::{ForwardWeights, GradCheck, Kernel, Survey, TrainSpec, gradcheck, survey};

use super::{internal, of_path};
use crate::engine::EngineError;

/// How much of a model can be trained.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trainable {
    /// `all`, `layers A..B` (the last included) or `none`.
    pub trainable: String,
    /// Matrices that an adapter on `--modules all` would have.
    pub matrices: usize,
    /// The operation without a backward rule that keeps the rest from it, and the node of
    /// llama.cpp's graph that it makes.
    pub in_the_way: Option<String>,
}

impl Trainable {
    fn of(found: &Survey) -> Self {
        let in_the_way = found
            .blocked
            .as_ref()
            .map(|(op, node)| format!("{op} (node {node})"));
        let trainable = match (&in_the_way, found.blocks) {
            (_, None) => "none".to_owned(),
            (None, Some(_)) => "all".to_owned(),
            (Some(_), Some((first, last))) => format!("layers {first}..{last}"),
        };
        Self {
            trainable,
            matrices: found.targets.len(),
            in_the_way,
        }
    }
}

/// What `check` does.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckSpec {
    /// The base model.
    pub model: PathBuf,
    /// Modules that are adapted, as a training names them.
    pub modules: String,
    /// Of the adapters.
    pub rank: usize,
    /// Of the random tokens and adapters.
    pub seed: u64,
    /// Tokens of an example.
    pub tokens: usize,
    /// 0 means all physical cores.
    pub threads: usize,
    /// ggml's own products, whose logits are llama.cpp's to the bit, instead of our kernels in f32.
    pub native: bool,
    /// Compare the gradients of the default kernels with exact ones, not with difference quotients.
    pub rounding: bool,
}

/// What it found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckReport {
    /// What can be trained at all.
    #[serde(flatten)]
    pub trainable: Trainable,
    /// What is checked, by the name of what reads the weights.
    pub kernel: &'static str,
    /// The worst relative error of a gradient over all adapted matrices; none where nothing can be
    /// trained.
    pub worst: Option<f64>,
    /// Largest difference from llama.cpp's logits, as a share of the largest.
    pub logits_error: f64,
    /// The gradient of each adapted matrix.
    pub matrices_checked: Vec<CheckedMatrix>,
}

/// A gradient that was checked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckedMatrix {
    /// The matrix.
    pub name: String,
    /// The norm of its gradient.
    pub gradient_norm: f64,
    /// Its relative error.
    pub error: f64,
}

/// Trace a model and say what could be trained.
///
/// fails: the model does not load
pub fn trainable(model: &Path) -> Result<Trainable, EngineError> {
    let (backend, model) = open(model)?;
    if let Some(reason) = model.unusual() {
        return Ok(Trainable {
            trainable: "none".into(),
            matrices: 0,
            in_the_way: Some(reason.into()),
        });
    }
    // A graph that cannot be traced cannot be trained: an answer, not a failure.
    Ok(survey(backend, &model, "all", 1)
        .map_or_else(|error| none(&error), |found| Trainable::of(&found)))
}

fn none(error: &translora_train::TrainError) -> Trainable {
    Trainable {
        trainable: "none".into(),
        matrices: 0,
        in_the_way: Some(error.to_string()),
    }
}

/// Compare logits with llama.cpp's and gradients with central differences, on random tokens.
///
/// fails: the model does not load, or unknown modules
pub fn check(spec: &CheckSpec) -> Result<CheckReport, EngineError> {
    let (backend, model) = open(&spec.model)?;
    let threads = if spec.threads > 0 {
        spec.threads
    } else {
        num_cpus::get_physical()
    };
    let kernel = if spec.rounding {
        Kernel::fast()
    } else {
        Kernel::exact()
    };
    let train = TrainSpec {
        rank: spec.rank,
        alpha: 2.0 * spec.rank as f32,
        modules: spec.modules.clone(),
        seed: spec.seed,
        forward: if spec.native {
            ForwardWeights::Native
        } else {
            ForwardWeights::Direct(kernel)
        },
        threads: u32::try_from(threads).unwrap_or(1),
        ..TrainSpec::default()
    };
    let name = || spec.model.display().to_string();
    let kernel = if spec.native {
        "ggml MUL_MAT"
    } else {
        kernel.name()
    };
    let report = match gradcheck(
        backend,
        &model,
        &GradCheck {
            spec: train,
            examples: 3,
            tokens: spec.tokens,
            rounding: spec.rounding,
        },
    ) {
        Ok(report) => report,
        Err(translora_train::TrainError::Module { modules, reason }) => {
            return Err(EngineError::Modules {
                model: name(),
                modules,
                reason,
            });
        }
        Err(error) => {
            return Ok(CheckReport {
                trainable: none(&error),
                kernel,
                worst: None,
                logits_error: 0.0,
                matrices_checked: Vec::new(),
            });
        }
    };
    let checked = report.matrices.iter().map(|matrix| CheckedMatrix {
        name: matrix.name.clone(),
        gradient_norm: matrix.gradient_norm,
        error: matrix.error,
    });
    Ok(CheckReport {
        trainable: Trainable::of(&report.survey),
        kernel,
        worst: (!report.matrices.is_empty()).then(|| report.worst()),
        logits_error: report.logits_error,
        matrices_checked: checked.collect(),
    })
}

fn open(path: &Path) -> Result<(Backend, Model), EngineError> {
    let backend = Backend::init().map_err(internal)?;
    let model = Model::load(
        backend,
        path,
        &ModelParams {
            gpu_layers: 0,
            device: None,
            mmap: true,
            mlock: false,
            repack: false,
        },
    )
    .map_err(|error| of_path(path, error))?;
    Ok((backend, model))
}
