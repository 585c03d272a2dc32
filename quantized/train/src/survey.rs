//! Finds out what of a model can be trained, before any work is done.

use translora_gguf::Parts;
use translora_gguf::limits::MODEL_HEADER_BYTES_MAX;
use translora_llama::{Backend, Compute, Model, Storage};

use crate::adapter::Adapter;
use crate::checkpoints::Checkpoints;
use crate::error::TrainError;
use crate::goal::{Goal, Purpose};
use crate::loss::LOSS_BYTES;
use crate::modules::{self, Target};
use crate::objective::Objective;
use crate::program::Program;
use crate::reach::trained;
use crate::tracer::{OUTPUTS, TRACED, Tracer, layout};
use crate::weights::Weights;

/// What of a model can be trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Survey {
    /// Those of the chosen matrices that get their gradients.
    pub targets: Vec<Target>,
    /// The operation without a rule that keeps lower ones from getting theirs, and its node.
    pub blocked: Option<(String, String)>,
    /// Blocks that hold a target, from the first to the last.
    pub blocks: Option<(u32, u32)>,
    /// Blocks of the model that hold one of the chosen matrices.
    pub all_blocks: Option<(u32, u32)>,
}

/// Trace `model` with an adapter on everything that `modules` names (see `modules::targets`), and
/// build the training graph without running it.
///
/// Matrices that llama.cpp applies no adapter to, or whose adapters reach the logits through
/// choices only, are left out. Where an operation has no backward rule, so is everything below it.
///
/// fails: unknown modules, a model that cannot be traced
pub fn survey(
    backend: Backend,
    model: &Model,
    modules: &str,
    threads: u32,
) -> Result<Survey, TrainError> {
    let model = &model.on_cpu(backend)?;
    let candidates = find_targets(model, modules)?;
    let all_blocks = blocks(&candidates);
    let adapter = Adapter::fresh(&candidates, 1, 1.0, 0);
    let mut tracer = Tracer::new(model, &adapter, threads)?;
    let compute = Compute::cpu(backend, threads)?;
    let (_, index) = layout(&adapter);
    let first_use = match tracer.trace(TRACED[0] as usize, OUTPUTS, &index) {
        Ok(traced) => trained(&traced.trace, &index),
        // An input that nobody can fill.
        Err(TrainError::NoRule { op, node, .. }) => {
            return Ok(Survey {
                targets: Vec::new(),
                blocked: Some((op, node)),
                blocks: None,
                all_blocks,
            });
        }
        Err(other) => return Err(other),
    };
    let used = |target: &Target| {
        let at = |suffix: &str| first_use.get(&format!("{}.{suffix}", target.name)).copied();
        Some(at("lora_a")?.min(at("lora_b")?))
    };
    let mut targets: Vec<Target> = candidates
        .into_iter()
        .filter(|target| used(target).is_some())
        .collect();
    let mut blocked = None;
    let goal = Goal {
        objective: Objective::Text,
        width: 0,
        bytes: LOSS_BYTES,
        dropout: 0.0,
        checkpoints: Checkpoints::Most,
        direct: false,
        frozen: false,
    };
    while !targets.is_empty() {
        let (shapes, kept) = layout(&Adapter::fresh(&targets, 1, 1.0, 0));
        let storage = Storage::new(&compute, &shapes)?;
        let traced = tracer.trace(TRACED[0] as usize, OUTPUTS, &kept)?;
        match Program::new(
            &traced,
            &Weights::dry(),
            &storage,
            &kept,
            Purpose::Gradients,
            goal,
        ) {
            Ok(_) => break,
            Err(TrainError::NoRule { op, node, position }) => {
                let before = targets.len();
                targets.retain(|target| used(target).is_some_and(|at| at > position));
                if targets.len() == before {
                    // What is missing is not on the way of a gradient: an input that nobody can
                    // fill, say.
                    targets.clear();
                }
                blocked.get_or_insert((op, node));
            }
            Err(other) => return Err(other),
        }
    }
    Ok(Survey {
        blocks: blocks(&targets),
        targets,
        blocked,
        all_blocks,
    })
}

fn blocks(targets: &[Target]) -> Option<(u32, u32)> {
    let blocks = || targets.iter().filter_map(Target::block);
    Some((blocks().min()?, blocks().max()?))
}

fn find_targets(model: &Model, modules: &str) -> Result<Vec<Target>, TrainError> {
    let parts = Parts::open(model.path(), MODEL_HEADER_BYTES_MAX)?;
    modules::targets(&parts, modules)
}
