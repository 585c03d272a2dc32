//! Fit an adapter: batches, schedule, stopping, checkpoints.
//!
//! One recipe serves a source adapter, a discriminator and a transfer. An engine's trainer takes
//! the steps, on examples by their index; no tensor is ever seen here. A run that was stopped
//! continues from its checkpoint exactly.
//!
//! Refuses to know: where examples come from, where checkpoints are kept. Called by the pipeline;
//! `evaluate` imports [`Trained`].

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use crate::engine::{EngineError, MemoryPlan, SoftLabels, Train, TrainerInfo};
use crate::label::Labeled;
use crate::record::{Blame, Cancel, Cancelled, Fault, Pair, Remedy, Restore, Restored, Step};

mod course;
mod probe;
mod recipe;

use course::Course;
pub use probe::Probe;
pub use recipe::{EarlyStop, Recipe, learning_rate};

/// Points of a loss curve.
const CURVE_POINTS: usize = 100;

/// An adapter fitted on the teacher's answers, which nobody has judged yet.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trained {
    /// Kept beside the rest, as a file that an engine can load.
    #[serde(skip)]
    adapter: Vec<u8>,
    report: FitReport,
    probes: Vec<Probe>,
}

impl Trained {
    /// The bytes of its LoRA GGUF.
    pub fn adapter(&self) -> &[u8] {
        &self.adapter
    }

    /// How the fit went.
    pub fn report(&self) -> &FitReport {
        &self.report
    }

    /// What the trained graph says of the rows of [`Run::probed`].
    pub fn probes(&self) -> &[Probe] {
        &self.probes
    }
}

/// A trained adapter, as the journal keeps it, without the bytes.
#[derive(Deserialize)]
struct Stored {
    report: FitReport,
    probes: Vec<Probe>,
}

impl Restored for Trained {
    fn restore<'de, D: Deserializer<'de>>(from: D, right: Restore) -> Result<Self, D::Error> {
        let Stored { report, probes } = Stored::deserialize(from)?;
        Ok(Self {
            adapter: right.bytes(),
            report,
            probes,
        })
    }
}

/// An adapter fitted on pairs: a source adapter or a discriminator.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// The bytes of its LoRA GGUF.
    pub adapter: Vec<u8>,
    /// How the fit went.
    pub report: FitReport,
    /// What the trained graph says of the rows of [`Run::probed`].
    pub probes: Vec<Probe>,
}

/// How a fit went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FitReport {
    /// Examples trained on.
    pub examples: usize,
    /// Steps that were taken.
    pub steps: u64,
    /// Mean completion-token loss of the first and of the last tenth of the steps. units: nats
    pub loss_first: f64,
    /// See [`FitReport::loss_first`].
    pub loss_last: f64,
    /// The curve: (step, mean loss of the steps since the point before), a hundred points at most.
    /// units: nats
    #[serde(default)]
    pub losses: Vec<(u64, f64)>,
    /// Tokens that passed through the model while training.
    pub tokens: u64,
    /// Loss on the held-out slice after each epoch, where early stopping was asked for. units: nats
    pub held_out: Vec<f64>,
    /// The step of each entry of `held_out`.
    #[serde(default)]
    pub held_out_steps: Vec<u64>,
    /// The held-out loss had stopped falling.
    pub stopped_early: bool,
    /// The step whose adapter this is: the last one, or the best one on the held-out slice.
    pub kept_step: u64,
    /// Highest learning rates, each with the step it held from: more than one where a step was not
    /// finite, or a resumed run was given another.
    pub learning_rates: Vec<(u64, f32)>,
    /// Steps after which the schedule started again.
    #[serde(default)]
    pub restarts: Vec<u64>,
    /// What the trainer adapted, and how it was laid out.
    pub trainer: TrainerInfo,
}

/// Where a fit stands after `steps` steps. The same bytes come of going on from here as of never
/// having stopped.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The part that the recipe owns.
    pub progress: Progress,
    /// The trainer's weights and optimizer state.
    pub snapshot: Vec<u8>,
    /// Those of the step with the lowest held-out loss so far, where early stopping was asked for.
    pub best: Option<Arc<[u8]>>,
}

/// The part of a checkpoint that the recipe owns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps that were taken.
    pub steps: u64,
    /// Tokens that passed through the model.
    pub tokens: u64,
    /// One for each step. units: nats
    pub losses: Vec<f64>,
    /// Loss on the held-out slice after each epoch. units: nats
    pub held_out: Vec<f64>,
    /// The step of each entry of `held_out`.
    pub held_out_steps: Vec<u64>,
    /// See [`FitReport::learning_rates`].
    pub learning_rates: Vec<(u64, f32)>,
    /// How often `base_rate` was halved.
    pub halvings: u32,
    /// The learning rate of the recipe.
    pub base_rate: f32,
    /// See [`FitReport::restarts`].
    #[serde(default)]
    pub restarts: Vec<u64>,
}

/// Keeps checkpoints somewhere; the pipeline's journal does.
pub trait Checkpoints {
    /// Keep this checkpoint in place of the one before.
    fn save(&mut self, checkpoint: &Checkpoint) -> io::Result<()>;
}

/// Keeps nothing.
pub struct NoCheckpoints;

impl Checkpoints for NoCheckpoints {
    fn save(&mut self, _checkpoint: &Checkpoint) -> io::Result<()> {
        Ok(())
    }
}

/// One step, for whoever watches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepLine {
    /// The number of the step, from 1.
    pub step: u64,
    /// All steps, as far as is known.
    pub steps: u64,
    /// Mean over the completion tokens of the batch. units: nats
    pub loss: f64,
    /// Before clipping.
    pub gradient_norm: f64,
    /// That of this step, after the schedule.
    pub learning_rate: f32,
    /// Tokens that passed through the model since this run began.
    pub tokens: u64,
}

/// What surrounds a fit.
pub struct Run<'a> {
    /// Stops the fit after the step under way; a checkpoint is kept.
    pub cancel: &'a Cancel,
    /// Called after each step.
    pub watch: &'a mut dyn FnMut(&StepLine),
    /// Called with what went wrong and was mended.
    pub warn: &'a mut dyn FnMut(String),
    /// Told how the fit is laid out, before its first step.
    pub note: &'a mut dyn FnMut(String),
    /// Told what of a step runs where, line by line, after the first one.
    pub detail: &'a mut dyn FnMut(String),
    /// Where checkpoints are kept.
    pub checkpoints: &'a mut dyn Checkpoints,
    /// Where to go on from; none begins anew.
    pub resume: Option<Checkpoint>,
    /// `translora.*` keys for the adapter's header.
    pub metadata: &'a [(String, String)],
    /// Rows that are not trained on; the trained graph is asked about the first of them.
    pub probed: &'a [Pair],
}

/// Why an adapter could not be fitted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DistillError {
    /// The engine could not do it.
    #[error("training: {0}")]
    Engine(#[from] EngineError),
    /// There are no examples, or all are held out.
    #[error("there is nothing to train on")]
    NoExamples,
    /// A value of the recipe is out of bounds.
    #[error("{field} {value} is impossible")]
    Recipe {
        /// The field's name.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        takes: String,
    },
    /// Steps stay not finite, however small they are.
    #[error(
        "the {what} of step {step} is not finite, and still is not with the learning rate halved \
        {halvings} times, to {learning_rate:e}"
    )]
    Diverged {
        /// `loss` or `gradient`.
        what: &'static str,
        /// The step.
        step: u64,
        /// How often the learning rate was halved.
        halvings: u32,
        /// What it then was.
        learning_rate: f32,
    },
    /// The journal does not take the checkpoint.
    #[error("the checkpoint could not be written: {0}")]
    Checkpoint(#[source] io::Error),
}

impl From<Cancelled> for DistillError {
    fn from(cancelled: Cancelled) -> Self {
        Self::Engine(cancelled.into())
    }
}

impl DistillError {
    /// Going on from the last checkpoint can succeed, if with another learning rate.
    pub fn can_go_on(&self) -> bool {
        matches!(self, Self::Diverged { .. })
    }
}

impl Blame for DistillError {
    fn fault(&self) -> Fault {
        match self {
            Self::Engine(error) => error.fault(),
            Self::Checkpoint(_) => Fault::Machine,
            Self::NoExamples | Self::Recipe { .. } | Self::Diverged { .. } => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::Diverged { .. } => Remedy::or([
                Remedy::then([Remedy::lower("lr"), Remedy::Resume]),
                Remedy::lower("clip"),
            ]),
            Self::Engine(EngineError::Memory(_)) => Remedy::or([
                Remedy::lower("batch"),
                Remedy::lower("ctx_size"),
                Remedy::fewer("modules"),
            ]),
            Self::Engine(error) => return error.remedy(),
            Self::NoExamples => Step::AddAnswers.into(),
            Self::Recipe { field, takes, .. } => Remedy::takes(*field, takes.clone()),
            Self::Checkpoint(_) => Remedy::then([Step::FreeSpace.into(), Remedy::Resume]),
        })
    }
}

/// Fit an adapter on the teacher's answers.
pub fn distill(
    model: &mut dyn Train,
    labeled: &[Labeled],
    recipe: &Recipe,
    run: Run<'_>,
) -> Result<Trained, DistillError> {
    let pairs: Vec<Pair> = labeled.iter().map(Labeled::pair).collect();
    let labels: Vec<SoftLabels> = labeled
        .iter()
        .map(|labeled| labeled.labels().cloned().unwrap_or_default())
        .collect();
    let Fitted {
        adapter,
        report,
        probes,
    } = fit_taught(model, &pairs, &labels, recipe, run)?;
    Ok(Trained {
        adapter,
        report,
        probes,
    })
}

/// Fit an adapter on pairs.
pub fn fit(
    model: &mut dyn Train,
    examples: &[Pair],
    recipe: &Recipe,
    run: Run<'_>,
) -> Result<Fitted, DistillError> {
    fit_taught(
        model,
        examples,
        &vec![SoftLabels::default(); examples.len()],
        recipe,
        run,
    )
}

fn fit_taught(
    model: &mut dyn Train,
    examples: &[Pair],
    labels: &[SoftLabels],
    recipe: &Recipe,
    mut run: Run<'_>,
) -> Result<Fitted, DistillError> {
    recipe.check()?;
    let held = held_out(recipe, examples.len());
    let trained = examples.len() - held.len();
    if trained == 0 {
        return Err(DistillError::NoExamples);
    }
    let mut trainer = model.trainer(&recipe.spec)?;
    trainer.load_taught(examples, labels)?;
    trainer
        .describe()
        .plan
        .iter()
        .for_each(|plan| (run.note)(in_words(plan)));
    let mut course = Course::begin(&mut *trainer, recipe, held, trained, run.resume.take())?;
    let stopped_early = course.run(&mut run)?;
    let (progress, kept_step) = course.end()?;
    let (loss_first, loss_last) = ends(&progress.losses);
    let report = FitReport {
        examples: trained,
        steps: progress.steps,
        loss_first,
        loss_last,
        losses: curve(&progress.losses),
        tokens: progress.tokens,
        held_out: progress.held_out,
        held_out_steps: progress.held_out_steps,
        stopped_early,
        kept_step,
        learning_rates: progress.learning_rates,
        restarts: progress.restarts,
        trainer: trainer.describe(),
    };
    let adapter = trainer.adapter(run.metadata)?;
    let probes = Probe::all(&mut *trainer, run.probed)?;
    Ok(Fitted {
        adapter,
        report,
        probes,
    })
}

/// Prove that the recipe can be trained, and on such examples in the memory that it allows.
pub fn check_memory(
    model: &mut dyn Train,
    examples: &[Pair],
    recipe: &Recipe,
) -> Result<(), DistillError> {
    // What the model has no modules or layers for is refused here.
    let mut trainer = model.trainer(&recipe.spec)?;
    if recipe.spec.shape.memory.is_some() {
        trainer.load(examples)?;
    }
    Ok(())
}

fn in_words(plan: &MemoryPlan) -> String {
    let MemoryPlan {
        pack,
        tokens,
        blocks_again,
        loss_bytes,
        frozen_bytes,
        predicted_bytes,
        device_bytes,
    } = plan;
    let kept = if *blocks_again {
        "blocks computed again"
    } else {
        "activations kept"
    };
    let (loss, peak) = (loss_bytes >> 20, predicted_bytes >> 20);
    let below = match frozen_bytes {
        0 => String::new(),
        bytes => format!(
            ", {} MiB for what lies below the first layer",
            bytes.div_ceil(1 << 20)
        ),
    };
    let device = device_bytes.map_or(String::new(), |bytes| {
        format!(", and {} MiB on the device", bytes >> 20)
    });
    format!(
        "packs of up to {pack} tokens, the largest {tokens}; {kept}, {loss} MiB for the \
        loss{below}; predicted peak {peak} MiB{device}"
    )
}

/// Indices kept back for early stopping: evenly spread, the first of each stretch.
fn held_out(recipe: &Recipe, examples: usize) -> Vec<usize> {
    recipe.early_stop.map_or_else(Vec::new, |stop| {
        (0..examples).step_by(stop.one_in.max(2)).collect()
    })
}

/// Mean loss over the first and over the last tenth of the steps.
fn ends(losses: &[f64]) -> (f64, f64) {
    let tenth = losses.len().div_ceil(10);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len().max(1) as f64;
    (
        mean(&losses[..tenth]),
        mean(&losses[losses.len() - tenth..]),
    )
}

/// The losses in even stretches: the last step of each, counted from one, and its mean.
fn curve(losses: &[f64]) -> Vec<(u64, f64)> {
    let stretch = losses.len().div_ceil(CURVE_POINTS).max(1);
    let mut step = 0;
    let mut point = |losses: &[f64]| {
        step += losses.len() as u64;
        (step, losses.iter().sum::<f64>() / losses.len() as f64)
    };
    losses.chunks(stretch).map(&mut point).collect()
}

#[cfg(test)]
mod tests;
