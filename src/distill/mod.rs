//! Fit an adapter: batches, schedule, stopping, checkpoints.
//!
//! One recipe serves a source adapter, a discriminator and a transfer. Steps are asked of an engine's trainer by the index of
//! an example; no tensor is ever seen here. A run that was stopped continues from its checkpoint exactly.
//!
//! Refuses to know: where examples come from, where checkpoints are kept. Called by the pipeline; `evaluate` imports
//! [`Trained`].

use std::io;

use serde::{Deserialize, Serialize};

use crate::engine::{EngineError, Fault, Train, Trainer, TrainerInfo};
use crate::label::Labeled;
use crate::record::{Cancel, Cancelled, Pair};

mod recipe;

use recipe::Deck;
pub use recipe::{EarlyStop, Recipe};

/// An adapter fitted on the teacher's answers, which nobody has judged yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    adapter: Vec<u8>,
    report: FitReport,
}

impl Trained {
    /// The bytes of its LoRA GGUF.
    pub fn adapter(&self) -> &[u8] {
        &self.adapter
    }

    pub fn report(&self) -> &FitReport {
        &self.report
    }

    /// Read back what the journal kept; only the pipeline calls it.
    pub(crate) fn replay(adapter: Vec<u8>, report: FitReport) -> Self {
        Self { adapter, report }
    }
}

/// An adapter fitted on given pairs: a source adapter or a discriminator.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    pub adapter: Vec<u8>,
    pub report: FitReport,
}

/// How a fit went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FitReport {
    /// Examples trained on.
    pub examples: usize,
    pub steps: u64,
    /// Mean completion-token loss of the first and the last epoch (or what there was of it). units: nats
    pub loss_first: f64,
    pub loss_last: f64,
    /// Tokens that passed through the model while training.
    pub tokens: u64,
    /// Loss on the held-out slice after each epoch, where early stopping was asked for. units: nats
    pub held_out: Vec<f64>,
    pub stopped_early: bool,
    pub trainer: TrainerInfo,
}

/// Where a fit stands after `steps` steps. The same bytes come of going on from here as of never having stopped.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    pub progress: Progress,
    /// The trainer's weights and optimizer state.
    pub snapshot: Vec<u8>,
}

/// The part of a checkpoint that the recipe owns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub steps: u64,
    pub tokens: u64,
    /// One for each step. units: nats
    pub losses: Vec<f64>,
    pub held_out: Vec<f64>,
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
    pub step: u64,
    pub steps: u64,
    pub loss: f64,
    pub gradient_norm: f64,
    pub learning_rate: f32,
}

/// What surrounds a fit.
pub struct Run<'a> {
    pub cancel: &'a Cancel,
    pub watch: &'a mut dyn FnMut(&StepLine),
    pub checkpoints: &'a mut dyn Checkpoints,
    pub resume: Option<Checkpoint>,
    /// `translora.*` keys for the adapter's header.
    pub metadata: &'a [(String, String)],
}

/// Why an adapter could not be fitted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DistillError {
    #[error("training: {0}")]
    Engine(#[from] EngineError),
    #[error("there is nothing to train on")]
    NoExamples,
    #[error("{what} {value} is impossible")]
    Recipe { what: &'static str, value: String },
    #[error("the checkpoint could not be written: {0}")]
    Checkpoint(#[source] io::Error),
}

impl From<Cancelled> for DistillError {
    fn from(cancelled: Cancelled) -> Self {
        Self::Engine(cancelled.into())
    }
}

impl DistillError {
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Engine(EngineError::Cancelled(_)))
    }

    pub fn fault(&self) -> Fault {
        match self {
            Self::Engine(error) => error.fault(),
            Self::Checkpoint(_) => Fault::Machine,
            Self::NoExamples | Self::Recipe { .. } => Fault::Input,
        }
    }

    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Engine(EngineError::NotFinite { .. }) => "lower the learning rate with --lr",
            Self::Engine(EngineError::Memory(_)) => "lower --batch or -c, or adapt fewer modules with --modules",
            Self::Engine(EngineError::Modules { .. }) => "--modules takes all, or some of q,k,v,o,gate,up,down",
            Self::Engine(EngineError::Example { .. } | EngineError::Context { .. }) => "shorten the row, or give a larger context with -c",
            Self::Engine(_) => return None,
            Self::NoExamples => "give rows with answers",
            Self::Recipe { .. } => "choose a number above zero (warmup: between 0 and 1)",
            Self::Checkpoint(_) => "make room beside --out, then go on with --resume",
        };
        Some(text.to_owned())
    }
}

/// Fit an adapter on the teacher's answers.
pub fn distill(model: &mut dyn Train, labeled: &[Labeled], recipe: &Recipe, run: Run<'_>) -> Result<Trained, DistillError> {
    let pair = |labeled: &Labeled| Pair { prompt: labeled.prompt().to_owned(), completion: labeled.completion().to_owned() };
    let pairs: Vec<Pair> = labeled.iter().map(pair).collect();
    let Fitted { adapter, report } = fit(model, &pairs, recipe, run)?;
    Ok(Trained { adapter, report })
}

/// Fit an adapter on given pairs.
pub fn fit(model: &mut dyn Train, examples: &[Pair], recipe: &Recipe, mut run: Run<'_>) -> Result<Fitted, DistillError> {
    recipe.check()?;
    let held = held_out(recipe, examples.len());
    let trained = examples.len() - held.len();
    if trained == 0 {
        return Err(DistillError::NoExamples);
    }
    let mut trainer = model.trainer(&recipe.spec)?;
    trainer.load(examples)?;
    let mut progress = Progress::default();
    if let Some(checkpoint) = run.resume.take() {
        trainer.restore(&checkpoint.snapshot)?;
        progress = checkpoint.progress;
    }
    let stopped_early = steps(&mut *trainer, recipe, &held, trained, &mut progress, &mut run)?;
    let adapter = trainer.adapter(run.metadata)?;
    let (loss_first, loss_last) = ends(&progress.losses, recipe.steps(trained), recipe.epochs);
    let report = FitReport {
        examples: trained,
        steps: progress.steps,
        loss_first,
        loss_last,
        tokens: progress.tokens,
        held_out: progress.held_out,
        stopped_early,
        trainer: trainer.describe(),
    };
    Ok(Fitted { adapter, report })
}

/// Take the steps that are left. Returns whether the held-out loss ended them early.
fn steps(
    trainer: &mut dyn Trainer,
    recipe: &Recipe,
    held: &[usize],
    trained: usize,
    progress: &mut Progress,
    run: &mut Run<'_>,
) -> Result<bool, DistillError> {
    let total = recipe.steps(trained);
    let steps_per_epoch = (trained.div_ceil(recipe.batch)) as u64;
    // The deck deals numbers below `trained`; these are the examples they stand for.
    let place: Vec<usize> = (0..trained + held.len()).filter(|i| !held.contains(i)).collect();
    let mut deck = Deck::new(recipe.seed, trained);
    while progress.steps < total {
        if stop_early(recipe, &progress.held_out) {
            return Ok(true);
        }
        if run.cancel.is_cancelled() {
            save(trainer, progress, run)?;
            return Err(Cancelled.into());
        }
        let batch: Vec<usize> = deck.batch(progress.steps, recipe.batch).into_iter().map(|i| place[i]).collect();
        let learning_rate = recipe.rate(progress.steps, total);
        let report = trainer.step(&batch, learning_rate)?;
        progress.steps += 1;
        progress.tokens += report.tokens as u64;
        progress.losses.push(report.loss);
        if !held.is_empty() && progress.steps.is_multiple_of(steps_per_epoch) {
            progress.held_out.push(trainer.loss(held)?.loss);
        }
        let line = StepLine { step: progress.steps, steps: total, loss: report.loss, gradient_norm: report.gradient_norm, learning_rate };
        (run.watch)(&line);
        if recipe.checkpoint_every > 0 && progress.steps.is_multiple_of(recipe.checkpoint_every) && progress.steps < total {
            save(trainer, progress, run)?;
        }
    }
    Ok(false)
}

fn save(trainer: &dyn Trainer, progress: &Progress, run: &mut Run<'_>) -> Result<(), DistillError> {
    let checkpoint = Checkpoint { progress: progress.clone(), snapshot: trainer.snapshot()? };
    run.checkpoints.save(&checkpoint).map_err(DistillError::Checkpoint)
}

/// Indices kept back for early stopping: evenly spread, the first of each stretch.
fn held_out(recipe: &Recipe, examples: usize) -> Vec<usize> {
    recipe.early_stop.map_or_else(Vec::new, |stop| (0..examples).step_by(stop.one_in.max(2)).collect())
}

fn stop_early(recipe: &Recipe, held_out: &[f64]) -> bool {
    let Some(stop) = recipe.early_stop else { return false };
    let best = (0..held_out.len()).min_by(|&i, &j| held_out[i].total_cmp(&held_out[j]));
    best.is_some_and(|best| held_out.len() - 1 - best > stop.patience)
}

/// Mean loss over the first and over the last epoch's steps.
fn ends(losses: &[f64], steps: u64, epochs: f32) -> (f64, f64) {
    let epoch = ((steps as f64 / f64::from(epochs).max(1.0)).round() as usize).clamp(1, losses.len().max(1));
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len().max(1) as f64;
    (mean(&losses[..epoch.min(losses.len())]), mean(&losses[losses.len().saturating_sub(epoch)..]))
}

#[cfg(test)]
mod tests;
