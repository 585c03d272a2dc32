use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use translora::pipeline::{self, ObjectiveReport, TransferReport, Verdict};
use translora::request;

use crate::args::Flags;
use crate::failure::Failure;
use crate::progress::Talk;
use crate::{Outcome, job, out};

/// Move an adapter to a new base model
///
/// The target base continues a list of seed inputs, a filter keeps those that look like the task,
/// the source base with its adapter answers them, and a new adapter for the target is fitted to the
/// answers and judged on inputs held back (and on --eval rows, if given). An adapter that does not
/// prove itself is written as NAME.rejected.gguf, and the exit status is 1.
///
/// Give a kit (made by `translora kit` while the data existed) or, without one, a few seed inputs.
#[derive(Args, Debug)]
#[command(
    group(ArgGroup::new("inputs").args(["kit", "seeds"]).required(true)),
    after_help = "Examples:\n  translora transfer --source old.gguf --source-lora tickets.gguf --target new.gguf --kit tickets.kit --out tickets-new.gguf\n  \
                        translora transfer --source old.gguf --source-lora tickets.gguf --target new.gguf --seeds five.jsonl --out tickets-new.gguf --eval held-out.jsonl --json"
)]
pub struct Transfer {
    #[command(flatten)]
    flags: Flags<request::Transfer>,

    /// Run it in the llama-server with this socket (see `translora attach`), and swap the new
    /// adapter in if it proves itself
    #[cfg(unix)]
    #[arg(long, value_name = "SOCKET", help_heading = "Machine")]
    attach: Option<PathBuf>,
}

impl Transfer {
    pub fn run(self, talk: Talk) -> Result<Outcome, Failure> {
        let plan = self.flags.plan()?;
        #[cfg(unix)]
        if let Some(socket) = &self.attach {
            return crate::remote::transfer(socket, &plan, talk);
        }
        let done = job::run(talk, &plan.limits, |engine, context| {
            pipeline::transfer(engine, &plan, context)
        })?;
        crate::report(talk, &done, || told(&done, &plan.target))?;
        Ok(if done.verdict == Verdict::Accept {
            Outcome::Done
        } else {
            Outcome::Refused
        })
    }
}

/// The result as a person reads it: the scores of the three arms, then what was done and what to do
/// next.
fn told(done: &TransferReport, target: &Path) -> Vec<String> {
    let mut lines = table(done);
    lines.push(String::new());
    let mut rows = vec![("verdict".to_owned(), verdict(done))];
    rows.push(("objective".into(), objective(&done.objective)));
    let counts: Vec<String> = done
        .counts
        .iter()
        .map(|(name, n)| format!("{} {n}", name.replace('_', " ")))
        .collect();
    rows.push(("counts".into(), counts.join(", ")));
    let mut seconds: Vec<String> = done
        .seconds
        .iter()
        .map(|(stage, s)| format!("{stage} {}", out::seconds(*s)))
        .collect();
    if !done.seconds.contains_key("total") {
        seconds.push(format!(
            "total {}",
            out::seconds(done.seconds.values().sum())
        ));
    }
    rows.push(("time".into(), seconds.join(", ")));
    if let Some(bytes) = out::memory_bytes_max() {
        rows.push((
            "memory".into(),
            format!("{} MB at the peak", bytes / 1_000_000),
        ));
    }
    let coverage = &done.coverage;
    let likeness = coverage
        .similarity
        .get(5)
        .map_or("-".into(), |share| format!("{share:.2}"));
    rows.push((
        "coverage".into(),
        format!(
            "{} words, {} of them in no seed; {} answers; likeness to the nearest other input {likeness} (median)",
            coverage.words, coverage.words_new, coverage.answers
        ),
    ));
    if !coverage.answers_missing.is_empty() {
        let missing = coverage.answers_missing.join(", ");
        rows.push((
            "not covered".into(),
            format!("the old adapter also answers: {missing}; give seeds that get these answers"),
        ));
    }
    rows.push(("adapter".into(), done.adapter.display().to_string()));
    rows.push(("report".into(), done.report.display().to_string()));
    if done.verdict == Verdict::Accept {
        rows.push((
            "serve it".into(),
            format!(
                "llama-server -m {} --lora {}",
                target.display(),
                done.adapter.display()
            ),
        ));
    }
    lines.extend(out::columns(&rows));
    lines
}

fn objective(of: &ObjectiveReport) -> String {
    let mut told = format!("{}: {}", of.objective.name(), of.reason);
    if of.tokens > 0 {
        told += &format!(
            "; {} of {} tokens with more than their text",
            of.tokens_taught, of.tokens
        );
    }
    if let Some(divergence) = of.divergence {
        told += &format!(
            "; held-out KL {:.4} bare, {:.4} transferred",
            divergence.target, divergence.transferred
        );
    }
    told
}

fn verdict(done: &TransferReport) -> String {
    let word = match done.verdict {
        Verdict::Accept => "accepted",
        Verdict::Reject => "rejected",
        Verdict::Inconclusive => "inconclusive",
    };
    format!("{word}: {}", done.scores.reason)
}

/// The scores of the three arms, one a line.
fn table(done: &TransferReport) -> Vec<String> {
    let scores = &done.scores;
    let mut arms = vec![
        ("bare target", "target", scores.target),
        ("source + LoRA", "source_lora", scores.source_lora),
        ("transferred", "transferred", scores.transferred),
    ];
    arms.extend(scores.oracle.map(|exact| ("oracle", "oracle", exact)));
    let share = |x: Option<&f64>| x.map_or("-".into(), |x| format!("{:.1} %", 100.0 * x));
    let mut lines = vec![format!(
        "  {:13}  {:>11}  {:>17}  {:>8}  {:>7}",
        "", "exact match", "95 % interval", "fidelity", "loss"
    )];
    for (title, key, exact) in arms {
        let interval = scores.intervals.get(key).map_or("-".into(), |[low, high]| {
            format!("{:.1} to {:.1} %", 100.0 * low, 100.0 * high)
        });
        let loss = scores
            .nll
            .get(key)
            .map_or("-".into(), |x| format!("{x:.4}"));
        let (exact, fidelity) = (share(Some(&exact)), share(scores.fidelity.get(key)));
        lines.push(format!(
            "  {title:13}  {exact:>11}  {interval:>17}  {fidelity:>8}  {loss:>7}"
        ));
    }
    for (name, arm) in &scores.compared {
        let [low, high] = arm.interval.map(|x| 100.0 * x);
        let interval = format!("{low:.1} to {high:.1} %");
        lines.push(format!(
            "  {:17}  {:>7}  {interval:>17}  on {} rows",
            name.replace('_', " "),
            share(Some(&arm.exact)),
            arm.rows
        ));
    }
    let kept = [
        ("the gain of source + LoRA", scores.retention),
        ("the gain of the oracle", scores.retention_of_oracle),
    ];
    for (of, retention) in kept
        .into_iter()
        .filter_map(|(of, retention)| Some((of, retention?)))
    {
        let [low, high] = retention.interval;
        lines.push(format!(
            "  retention {:.2} ({low:.2} to {high:.2}) of {of} over the bare target",
            retention.value
        ));
    }
    let judged = if scores.gate == "eval" {
        "rows of --eval"
    } else {
        "made-up inputs that were held back"
    };
    lines.push(format!(
        "  judged on {} of {} {judged}; transferred against bare target: {} better, {} worse, p = {:.2e}",
        scores.gate_rows, scores.rows, scores.wins, scores.losses, scores.p_value
    ));
    lines.push(format!(
        "  fidelity: the same answer as source + LoRA, on {} held-out inputs; loss: nats a token",
        scores.fidelity_rows
    ));
    lines
}
