use clap::Args;
use translora::{pipeline, request};

use crate::args::Flags;
use crate::failure::Failure;
use crate::progress::Verbosity;
use crate::{Outcome, job, out};

/// Pack what a later transfer needs while the training data still exists
///
/// A kit holds a few seed inputs and a discriminator: a small LoRA on the source base that tells
/// inputs of this task from made-up ones. It names its base and adapter by hash, so that it cannot
/// be used with others. The data itself does not go into it, except for the seeds.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  translora kit -m base.gguf --lora tickets.gguf --data tickets.jsonl \
        --out tickets.kit"
)]
pub struct Kit {
    #[command(flatten)]
    flags: Flags<request::Kit>,
}

impl Kit {
    pub fn run(self, verbosity: Verbosity) -> Result<Outcome, Failure> {
        let plan = self.flags.plan()?;
        let done = job::run(verbosity, &plan.model, &plan.limits, |engine, context| {
            pipeline::kit(engine, &plan, context)
        })?;
        crate::report(verbosity, &done, || {
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
                .map(|sentence| ("it gives away", sentence.clone()));
            let next = format!(
                "translora transfer --source {} --source-lora {} --target NEW.gguf --kit {} --out \
                N.gguf",
                out::quoted(&plan.model),
                out::quoted(&plan.lora),
                out::quoted(&done.kit)
            );
            let rows: Vec<_> = rows
                .into_iter()
                .chain(inputs)
                .chain(privacy)
                .chain([("use it", next)])
                .map(|(name, value)| (name.to_owned(), value))
                .collect();
            out::columns(&rows)
        })?;
        Ok(Outcome::Done)
    }
}
