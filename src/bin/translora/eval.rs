use clap::Args;
use translora::{pipeline, request};

use crate::args::Flags;
use crate::failure::Failure;
use crate::progress::Verbosity;
use crate::{Outcome, job, out};

/// Judge a model, with or without an adapter, on rows with known answers
///
/// Prints the share of exact answers with its 95 % interval, and the loss of the known answers.
/// Always exits with 0 when it could measure: a low score is a result.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  translora eval -m base.gguf --lora tickets.gguf --data \
        held-out.jsonl --json"
)]
pub struct Eval {
    #[command(flatten)]
    flags: Flags<request::Eval>,
}

impl Eval {
    pub fn run(self, verbosity: Verbosity) -> Result<Outcome, Failure> {
        let plan = self.flags.plan()?;
        let done = job::run(verbosity, &plan.model, &plan.limits, |engine, context| {
            pipeline::eval(engine, &plan, context)
        })?;
        crate::report(verbosity, &done, || {
            let [low, high] = done.interval.map(|x| 100.0 * x);
            let exact = format!(
                "{:.1} % ({} of {}), 95 % interval {low:.1} to {high:.1} %",
                100.0 * done.exact,
                done.correct,
                done.rows
            );
            let mut rows = vec![
                ("exact match", exact),
                (
                    "white space too",
                    format!(
                        "{} of {} are right to the last byte",
                        done.verbatim, done.rows
                    ),
                ),
                ("loss", format!("{:.4} nats a token", done.nll)),
                (
                    "answer",
                    format!("{:.1} tokens on average", done.tokens_per_answer),
                ),
            ];
            if done.cut_off > 0 {
                let cut = format!(
                    "{} of {} answers did not end within {} tokens: raise --answer-tokens",
                    done.cut_off, done.rows, done.answer_tokens
                );
                rows.push(("cut off", cut));
            }
            let rows = rows.into_iter();
            let rows: Vec<_> = rows.map(|(name, value)| (name.to_owned(), value)).collect();
            out::columns(&rows)
        })?;
        Ok(Outcome::Done)
    }
}
