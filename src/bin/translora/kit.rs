use std::path::PathBuf;

use clap::Args;
use translora::pipeline::{self, KitPlan};

use crate::args::{Lengths, Machine, Recipe, at_most, between};
use crate::failure::Failure;
use crate::progress::Talk;
use crate::{Outcome, job, out};

/// Pack what a later transfer needs while the training data still exists
///
/// A kit holds a few seed inputs and a discriminator: a small LoRA on the source base that tells
/// inputs of this task from made-up ones. It names its base and adapter by hash, so that it cannot
/// be used with others. The data itself does not go into it, except for the seeds.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  translora kit -m base.gguf --lora tickets.gguf --data tickets.jsonl --out tickets.kit"
)]
pub struct Kit {
    /// Base model of the adapter (GGUF)
    #[arg(short, long, value_name = "BASE.gguf")]
    model: PathBuf,

    /// The adapter (GGUF)
    #[arg(long, value_name = "L.gguf")]
    lora: PathBuf,

    /// The data that the adapter was trained on (JSON lines)
    #[arg(long, value_name = "D.jsonl")]
    data: PathBuf,

    /// The kit to write; nothing is overwritten
    #[arg(long, value_name = "K.kit")]
    out: PathBuf,

    /// Seed inputs to keep in the kit
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = between::<1, 1000>)]
    seeds: usize,

    /// Put a LoRA that makes inputs of the task into the kit, too. It remembers some of what it was
    /// trained on
    #[arg(long)]
    input_model: bool,

    /// Passes over the inputs for --input-model
    #[arg(long, value_name = "X", default_value_t = 4.0, value_parser = at_most::<1000>, help_heading = "Adapter and training")]
    input_epochs: f32,

    /// Passes over the discriminator's data
    #[arg(long, value_name = "X", default_value_t = 3.0, value_parser = at_most::<1000>, help_heading = "Adapter and training")]
    epochs: f32,

    #[command(flatten)]
    recipe: Recipe,

    #[command(flatten)]
    lengths: Lengths,

    #[command(flatten)]
    machine: Machine,

    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Continue a run that was stopped
    #[arg(long)]
    resume: bool,
}

impl Kit {
    pub fn run(self, talk: Talk) -> Result<Outcome, Failure> {
        let plan = KitPlan {
            input_recipe: self.recipe.plan(self.input_epochs),
            input_model: self.input_model,
            recipe: self.recipe.plan(self.epochs),
            open: self.machine.open_options(),
            model: self.model,
            lora: self.lora,
            data: self.data,
            out: self.out,
            seeds: self.seeds,
            limits: self.lengths.limits(),
            seed: self.seed,
            resume: self.resume,
        };
        let done = job::run(talk, &plan.model, &plan.limits, |engine, context| {
            pipeline::kit(engine, &plan, context)
        })?;
        crate::report(talk, &done, || {
            let judged = match done.accuracy {
                Some(share) => {
                    let auc = done
                        .auc
                        .map_or(String::new(), |auc| format!(", AUC {auc:.3}"));
                    format!(
                        "right on {:.1} % of {} held-out inputs{auc}",
                        100.0 * share,
                        done.accuracy_rows
                    )
                }
                None => "too few inputs to judge it".into(),
            };
            let inputs = done.input_model.as_ref().map(|card| {
                let shown = format!(
                    "{} of {} inputs it drew are in the data word for word",
                    card.verbatim, card.drawn
                );
                (
                    "input model",
                    format!("trained on {} inputs; {shown}", card.rows),
                )
            });
            let rows = [
                ("kit", done.kit.display().to_string()),
                ("seeds", done.seeds.to_string()),
                (
                    "discriminator",
                    format!(
                        "{judged} ({} real, {} made up)",
                        done.positives, done.negatives
                    ),
                ),
            ];
            let privacy = done
                .privacy
                .iter()
                .map(|told| ("it gives away", told.clone()));
            let rows: Vec<_> = rows
                .into_iter()
                .chain(inputs)
                .chain(privacy)
                .map(|(name, value)| (name.to_owned(), value))
                .collect();
            out::columns(&rows)
        })?;
        Ok(Outcome::Done)
    }
}
