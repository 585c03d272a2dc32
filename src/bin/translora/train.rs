use std::path::PathBuf;

use clap::Args;
use translora::pipeline::{self, TrainPlan};
use translora::record::Limits;

use crate::args::{Machine, Recipe, at_most};
use crate::failure::Failure;
use crate::progress::Talk;
use crate::{Outcome, job, out};

/// Train a LoRA adapter on pairs of prompt and completion
///
/// The data is a JSON lines file with `{"prompt": "...", "completion": "..."}` on each line. The
/// base may be quantized; it is read as it is, and the adapter is what llama.cpp's `--lora` loads.
/// A prompt is one user turn under the model's own chat template.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  translora train -m base.gguf --data tickets.jsonl --out tickets.gguf"
)]
pub struct Train {
    /// Base model (GGUF)
    #[arg(short, long, value_name = "BASE.gguf")]
    model: PathBuf,

    /// Pairs to learn from (JSON lines)
    #[arg(long, value_name = "D.jsonl")]
    data: PathBuf,

    /// The adapter to write; nothing is overwritten
    #[arg(long, value_name = "L.gguf")]
    out: PathBuf,

    /// Passes over the data
    #[arg(long, value_name = "X", default_value_t = 3.0, value_parser = at_most::<1000>, help_heading = "Adapter and training")]
    epochs: f32,

    #[command(flatten)]
    recipe: Recipe,

    #[command(flatten)]
    machine: Machine,

    /// Seed of everything random; the same seed and thread count give the same bytes
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Continue a run that was stopped
    #[arg(long)]
    resume: bool,
}

impl Train {
    pub fn run(self, talk: Talk) -> Result<Outcome, Failure> {
        let plan = TrainPlan {
            recipe: self.recipe.plan(self.epochs),
            open: self.machine.open_options(),
            model: self.model,
            data: self.data,
            out: self.out,
            limits: Limits::default(),
            seed: self.seed,
            resume: self.resume,
        };
        let done = job::run(talk, &plan.model, &plan.limits, |engine, context| {
            pipeline::train(engine, &plan, context)
        })?;
        crate::report(talk, &done, || {
            let rows = [
                ("adapter", done.adapter.display().to_string()),
                ("report", done.report.display().to_string()),
                (
                    "examples",
                    format!("{} in {} steps", done.examples, done.steps),
                ),
                (
                    "loss",
                    format!(
                        "{:.4} at first, {:.4} at last",
                        done.loss_first, done.loss_last
                    ),
                ),
                (
                    "try it",
                    format!(
                        "llama-server -m {} --lora {}",
                        plan.model.display(),
                        done.adapter.display()
                    ),
                ),
            ];
            out::columns(&rows.map(|(name, value)| (name.to_owned(), value)))
        })?;
        Ok(Outcome::Done)
    }
}
