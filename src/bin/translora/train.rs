use clap::Args;
use translora::{pipeline, request};

use crate::args::Flags;
use crate::failure::Failure;
use crate::progress::Verbosity;
use crate::{Outcome, job, out};

/// Train a LoRA adapter on prompts and answers
///
/// The data has rows such as `{"prompt": "...", "completion": "..."}` or `{"messages": [...]}`; the
/// format is found out. The base may be quantized; it is read as it is, and the adapter is what
/// llama.cpp's `--lora` loads. Prompts go through the model's own chat template.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  translora train -m base.gguf --data tickets.jsonl --out tickets.gguf"
)]
pub struct Train {
    #[command(flatten)]
    flags: Flags<request::Train>,
}

impl Train {
    pub fn run(self, verbosity: Verbosity) -> Result<Outcome, Failure> {
        let plan = self.flags.plan()?;
        let done = job::run(verbosity, &plan.model, &plan.limits, |engine, context| {
            pipeline::train(engine, &plan, context)
        })?;
        crate::report(verbosity, &done, || {
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
                        "translora serve -m {} --lora {}",
                        out::quoted(&plan.model),
                        out::quoted(&done.adapter)
                    ),
                ),
            ];
            out::columns(&rows.map(|(name, value)| (name.to_owned(), value)))
        })?;
        Ok(Outcome::Done)
    }
}
