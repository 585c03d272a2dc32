use std::sync::Arc;

use super::recipe::{Deck, Recipe};
use super::{Checkpoint, DistillError, Progress, Run, StepLine};
use crate::engine::{EngineError, Objective, StepReport, Trainer};
use crate::record::Cancelled;

/// Steps between states that a run goes back to when a step is not finite.
const GOOD_EVERY: u64 = 25;
/// How often the learning rate is halved before a run gives up.
const HALVINGS_MAX: u32 = 3;
/// What an answer may cost at most to be learnt: nine in ten such answers come out whole. units:
/// nats an answer
const LEARNT: f64 = 0.1;
/// Examples that are asked for it.
const SAMPLE: usize = 64;

/// A fit under way: the trainer, where it stands, and what it may go back to.
pub(super) struct Course<'t> {
    trainer: &'t mut dyn Trainer,
    recipe: &'t Recipe,
    /// Indices of the held-out examples.
    held: Vec<usize>,
    /// The deck deals numbers; these are the examples they stand for.
    place: Vec<usize>,
    deck: Deck,
    progress: Progress,
    best: Option<Arc<[u8]>>,
    /// A state that was taken before the next step; good once that step has succeeded.
    latest: Option<Checkpoint>,
    good: Option<Checkpoint>,
}

impl<'t> Course<'t> {
    /// Begin, or take up where a checkpoint was made. Another learning rate than then begins with
    /// no halvings.
    pub fn begin(
        trainer: &'t mut dyn Trainer,
        recipe: &'t Recipe,
        held: Vec<usize>,
        trained: usize,
        resume: Option<Checkpoint>,
    ) -> Result<Self, DistillError> {
        let (mut progress, mut best) = (Progress::default(), None);
        if let Some(checkpoint) = resume {
            trainer.restore(&checkpoint.snapshot)?;
            (progress, best) = (checkpoint.progress, checkpoint.best);
        }
        if progress.base_rate != recipe.learning_rate {
            (progress.base_rate, progress.halvings) = (recipe.learning_rate, 0);
            progress
                .learning_rates
                .push((progress.steps, recipe.learning_rate));
        }
        let place = (0..trained + held.len())
            .filter(|i| !held.contains(i))
            .collect();
        let deck = Deck::new(recipe.seed, trained);
        Ok(Self {
            trainer,
            recipe,
            held,
            place,
            deck,
            progress,
            best,
            latest: None,
            good: None,
        })
    }

    /// Take the steps that are left. Returns whether the held-out loss ended them early.
    pub fn run(&mut self, run: &mut Run<'_>) -> Result<bool, DistillError> {
        let (schedule, mut tokens, mut placed) = (self.recipe.steps(self.place.len()), 0, false);
        loop {
            let begun = self.progress.restarts.last().copied().unwrap_or(0);
            let total = begun + schedule;
            if self.progress.steps == total {
                if !self.starts_again(run)? {
                    return Ok(false);
                }
                continue;
            }
            if self.has_stopped_improving() {
                return Ok(true);
            }
            if run.cancel.is_cancelled() {
                save(run, &self.checkpoint()?)?;
                return Err(Cancelled.into());
            }
            let step = self.progress.steps;
            if step.is_multiple_of(GOOD_EVERY) || self.good.is_none() && self.latest.is_none() {
                self.latest = Some(self.checkpoint()?);
            }
            let batch: Vec<usize> = self
                .deck
                .batch(step, self.recipe.spec.shape.batch)
                .into_iter()
                .map(|i| self.place[i])
                .collect();
            let learning_rate = self.recipe.rate(step - begun, schedule)
                * 0.5_f32.powi(self.progress.halvings as i32);
            match self.trainer.step(&batch, learning_rate) {
                Ok(report) => {
                    tokens += report.tokens as u64;
                    if !std::mem::replace(&mut placed, true) {
                        say_placement(&self.trainer.describe().placement, run);
                    }
                    self.advance(&report, total)?;
                    let StepReport {
                        loss,
                        gradient_norm,
                        ..
                    } = report;
                    (run.watch)(&StepLine {
                        step: self.progress.steps,
                        steps: total,
                        loss,
                        gradient_norm,
                        learning_rate,
                        tokens,
                    });
                }
                Err(EngineError::NotFinite { what, step }) => {
                    self.trainer.blame_base(&batch)?;
                    self.go_back(what, step, run)?;
                }
                Err(error) => return Err(error.into()),
            }
            let due = self.recipe.checkpoint_every > 0
                && self
                    .progress
                    .steps
                    .is_multiple_of(self.recipe.checkpoint_every);
            if due && self.progress.steps > step && self.progress.steps < total {
                save(run, &self.checkpoint()?)?;
            }
        }
    }

    /// Begin the schedule again where the answers are not learnt. A student that takes an answer's
    /// slots from what it saw most often, and not from the input, has a loss that falls little for
    /// hundreds of steps and then all at once.
    fn starts_again(&mut self, run: &mut Run<'_>) -> Result<bool, DistillError> {
        let restarts = self.progress.restarts.len() as u32;
        if restarts >= self.recipe.restarts || self.recipe.spec.objective != Objective::Text {
            return Ok(false);
        }
        let sample: Vec<usize> = self
            .place
            .iter()
            .copied()
            .step_by(self.place.len().div_ceil(SAMPLE))
            .collect();
        let report = self.trainer.loss(&sample)?;
        let nats = report.loss * report.completion_tokens as f64 / sample.len() as f64;
        if nats <= LEARNT {
            return Ok(false);
        }
        self.progress.restarts.push(self.progress.steps);
        (run.note)(format!(
            "an answer costs {nats:.2} nats, more than {LEARNT}: training goes on, {} of {}",
            restarts + 1,
            self.recipe.restarts
        ));
        Ok(true)
    }

    /// Leave the trainer with the adapter to keep; returns how it went and the step it is of.
    pub fn end(self) -> Result<(Progress, u64), DistillError> {
        let mut kept = self.progress.steps;
        if let (Some(best), Some(index)) = (&self.best, self.best_index()) {
            kept = self.progress.held_out_steps[index];
            if kept != self.progress.steps {
                self.trainer.restore(best)?;
            }
        }
        Ok((self.progress, kept))
    }

    /// Note a step that succeeded, and look at the held-out loss at the end of an epoch and of the
    /// run.
    fn advance(&mut self, report: &StepReport, total: u64) -> Result<(), DistillError> {
        self.good = self.latest.take().or_else(|| self.good.take());
        self.progress.steps += 1;
        self.progress.tokens += report.tokens as u64;
        self.progress.losses.push(report.loss);
        let steps_per_epoch = self.place.len().div_ceil(self.recipe.spec.shape.batch) as u64;
        if !self.held.is_empty()
            && (self.progress.steps.is_multiple_of(steps_per_epoch) || self.progress.steps == total)
        {
            self.progress
                .held_out
                .push(self.trainer.loss(&self.held)?.loss);
            self.progress.held_out_steps.push(self.progress.steps);
            if self.best_index() == Some(self.progress.held_out.len() - 1) {
                self.best = Some(self.trainer.snapshot()?.into());
            }
        }
        Ok(())
    }

    /// Restore the last good state and halve the learning rate.
    ///
    /// fails: it was halved often enough; the good state is then kept as the checkpoint
    fn go_back(
        &mut self,
        what: &'static str,
        step: u64,
        run: &mut Run<'_>,
    ) -> Result<(), DistillError> {
        let Some(good) = self.good.clone().or_else(|| self.latest.clone()) else {
            return Err(EngineError::Internal("no state to go back to".into()).into());
        };
        let halvings = self.progress.halvings;
        let learning_rate = self.recipe.learning_rate * 0.5_f32.powi(halvings as i32);
        let rates = std::mem::take(&mut self.progress.learning_rates);
        self.trainer.restore(&good.snapshot)?;
        (self.progress, self.best, self.latest) =
            (good.progress.clone(), good.best.clone(), Some(good));
        (self.progress.learning_rates, self.progress.halvings) = (rates, halvings);
        if halvings == HALVINGS_MAX {
            save(run, &self.checkpoint()?)?;
            return Err(DistillError::Diverged {
                what,
                step,
                halvings,
                learning_rate,
            });
        }
        self.progress.halvings += 1;
        self.progress
            .learning_rates
            .push((self.progress.steps, learning_rate / 2.0));
        (run.warn)(format!(
            "the {what} of step {step} is not finite: going back to step {} with half the \
            learning rate, at most {:.2e}",
            self.progress.steps,
            learning_rate / 2.0
        ));
        Ok(())
    }

    fn checkpoint(&self) -> Result<Checkpoint, DistillError> {
        Ok(Checkpoint {
            progress: self.progress.clone(),
            snapshot: self.trainer.snapshot()?,
            best: self.best.clone(),
        })
    }

    fn best_index(&self) -> Option<usize> {
        let held_out = &self.progress.held_out;
        (0..held_out.len()).min_by(|&i, &j| held_out[i].total_cmp(&held_out[j]))
    }

    fn has_stopped_improving(&self) -> bool {
        let Some(stop) = self.recipe.early_stop else {
            return false;
        };
        self.best_index()
            .is_some_and(|best| self.progress.held_out.len() - 1 - best > stop.patience)
    }
}

fn save(run: &mut Run<'_>, checkpoint: &Checkpoint) -> Result<(), DistillError> {
    run.checkpoints
        .save(checkpoint)
        .map_err(DistillError::Checkpoint)
}

/// The first line says how much ran where, the rest what.
fn say_placement(lines: &[String], run: &mut Run<'_>) {
    let mut lines = lines.iter().cloned();
    lines.next().into_iter().for_each(|line| (run.note)(line));
    lines.for_each(|line| (run.detail)(line));
}
