#[cfg(unix)]
use std::path::PathBuf;

use clap::{ArgGroup, Args};
use translora::pipeline::{
    self, Advice, ArmScore, ObjectiveReport, TrafficReport, TransferPlan, TransferReport, Verdict,
};
use translora::request;

use crate::args::Flags;
use crate::failure::Failure;
use crate::progress::Verbosity;
use crate::{Outcome, job, out};

/// Labels or keys that the summary names at most.
const HARDLY_SHOWN: usize = 12;

/// Move an adapter to a new base model
///
/// The target base continues a list of seed inputs. A filter keeps those that look like the task,
/// and the source base with its adapter answers them. A new adapter for the target is fitted to the
/// answers. It is judged on inputs that were held back, or on the rows of --eval. An adapter that
/// does not prove itself is written as NAME.rejected.gguf, and the exit status is 1.
///
/// It needs a kit (`translora kit` packs one while the data exists), a few seed inputs, or prompts
/// that a server kept.
#[derive(Args, Debug)]
#[command(
    group(ArgGroup::new("inputs").args(["kit", "seeds"])),
    group(ArgGroup::new("any").args(["kit", "seeds", "harvest"]).required(true).multiple(true)),
    after_help = "Examples:\n  translora transfer --source old.gguf --source-lora tickets.gguf \
        --target new.gguf --kit tickets.kit --out tickets-new.gguf\n  \
                        translora transfer --source old.gguf --source-lora tickets.gguf --target \
                        new.gguf --seeds five.jsonl --out tickets-new.gguf --eval held-out.jsonl \
                        --json"
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
    pub fn run(self, verbosity: Verbosity) -> Result<Outcome, Failure> {
        let plan = self.flags.plan()?;
        #[cfg(unix)]
        if let Some(socket) = &self.attach {
            return crate::remote::transfer(socket, &plan, verbosity);
        }
        let done = job::run(verbosity, &plan.source, &plan.limits, |engine, context| {
            pipeline::transfer(engine, &plan, context)
        })?;
        crate::report(verbosity, &done, || {
            summary(&done, &plan, verbosity.verbose)
        })?;
        Ok(if done.verdict == Verdict::Accept {
            Outcome::Done
        } else {
            Outcome::Refused
        })
    }
}

/// The result as a person reads it: the scores, the verdict, where things lie, and what to do next.
fn summary(done: &TransferReport, plan: &TransferPlan, verbose: bool) -> Vec<String> {
    let mut lines = table(done);
    lines.push(String::new());
    let mut rows = Vec::new();
    if verbose {
        rows.extend(details(done));
    }
    let total: f64 = done.seconds.values().sum();
    let total = done.seconds.get("total").copied().unwrap_or(total);
    rows.push(("took", out::seconds(total)));
    rows.push(("verdict", verdict(done)));
    rows.push(("coverage", coverage(done)));
    rows.push(("adapter", done.adapter.display().to_string()));
    let page = format!("{} (open it in a browser)", done.page.display());
    rows.push(("report", page));
    rows.extend(next(done, plan));
    let rows: Vec<_> = rows
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    lines.extend(out::columns(&rows));
    lines
}

/// How much of the task was taught, and what hardly was.
fn coverage(done: &TransferReport) -> String {
    let coverage = &done.coverage;
    let share = 100.0 * coverage.share;
    if coverage.taught.is_empty() {
        return format!("{share:.0} % of the words of one more input would be known");
    }
    let hardly = coverage.hardly_taught.iter().take(HARDLY_SHOWN);
    let mut hardly: Vec<String> = hardly
        .map(|name| format!("{name} {}", coverage.taught[name]))
        .collect();
    if coverage.hardly_taught.len() > HARDLY_SHOWN {
        hardly.push("…".into());
    }
    let hardly = match hardly.as_slice() {
        [] => String::new(),
        named => format!("; hardly: {}", named.join(", ")),
    };
    format!("{share:.0} % of the labels or keys that the old adapter gives are taught{hardly}")
}

/// What the report has too.
fn details(done: &TransferReport) -> Vec<(&'static str, String)> {
    let counts: Vec<String> = done
        .counts
        .iter()
        .map(|(name, n)| format!("{} {n}", name.replace('_', " ")))
        .collect();
    let seconds: Vec<String> = done
        .seconds
        .iter()
        .map(|(stage, s)| format!("{stage} {}", out::seconds(*s)))
        .collect();
    let coverage = &done.coverage;
    let likeness = coverage
        .similarity
        .get(5)
        .map_or("-".into(), |share| format!("{share:.2}"));
    let covered = format!(
        "{} words, {} of them in no seed; {} answers; likeness to the nearest other input \
        {likeness} (median)",
        coverage.words, coverage.words_new, coverage.answers
    );
    let mut rows = vec![
        ("objective", objective(&done.objective)),
        ("counts", counts.join(", ")),
        ("stages", seconds.join(", ")),
        ("covered", covered),
    ];
    if let Some(bytes) = out::memory_bytes_max() {
        let peak = format!("{} MB at the peak", bytes / 1_000_000);
        rows.push(("memory", peak));
    }
    rows
}

/// What to do next.
fn next(done: &TransferReport, plan: &TransferPlan) -> Vec<(&'static str, String)> {
    let text = |advice: &Advice| match advice.field() {
        Some((field, value)) => format!("{advice} (--{} {value})", field.replace('_', "-")),
        None if *advice == Advice::Kit => format!("{advice} (`translora kit`)"),
        None => advice.to_string(),
    };
    let mut next: Vec<_> = done
        .advice
        .iter()
        .map(|advice| ("next", text(advice)))
        .collect();
    if done.verdict == Verdict::Accept {
        let (target, adapter) = (out::quoted(&plan.target), out::quoted(&done.adapter));
        next.extend([
            (
                "serve it",
                format!("translora serve -m {target} --lora {adapter}"),
            ),
            (
                "or swap it",
                format!(
                    "translora adapters --attach SOCKET load {adapter}, into a llama-server that \
                    `translora attach` started"
                ),
            ),
        ]);
    }
    next
}

fn objective(of: &ObjectiveReport) -> String {
    let mut text = format!("{}: {}", of.objective.name(), of.reason);
    if of.tokens > 0 {
        text += &format!(
            "; {} of {} tokens with more than their text",
            of.tokens_taught, of.tokens
        );
    }
    if let Some(divergence) = of.divergence {
        text += &format!(
            "; held-out KL {:.4} bare, {:.4} transferred",
            divergence.target, divergence.transferred
        );
    }
    text
}

fn verdict(done: &TransferReport) -> String {
    let word = match done.verdict {
        Verdict::Accept => "accepted",
        Verdict::Reject => "rejected",
        Verdict::Inconclusive => "inconclusive, so not accepted",
    };
    let verdict = format!("{word}: {}", done.scores.reason);
    match &done.expectation {
        Some(text) => format!("{text}. By the rule it is {verdict}"),
        None => verdict,
    }
}

/// What users asked was worth.
fn traffic(of: &TrafficReport) -> String {
    let mut words = format!(
        "  of {} prompts of users of {:?}: {} accepted, {} held out",
        of.prompts, of.adapter, of.accepted, of.held_out
    );
    if of.held_out > 0 {
        let share = 100.0 * of.transferred.exact;
        words += &format!(", on which the new adapter agrees with the old one in {share:.1} %");
    }
    if let Some(users) = of.users {
        let agreed = (users.exact * users.rows as f64).round();
        words += &format!(
            "; it agrees with what users got in {agreed} of {}",
            users.rows
        );
    }
    words
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
    let part = |part: &ArmScore| format!("{} of {}", share(Some(&part.exact)), part.rows);
    let judged = if scores.gate == "eval" {
        "rows of --eval"
    } else {
        "generated inputs that were held back"
    };
    lines.push(format!(
        "  judged on {} of {} {judged}; transferred against bare target: {} better, {} worse, p = \
        {:.2e}",
        scores.gate_rows, scores.rows, scores.wins, scores.losses, scores.p_value
    ));
    lines.extend(done.traffic.as_ref().map(traffic));
    lines.push(format!(
        "  fidelity: the same answer as source + LoRA, on held-out inputs: {} that were chosen to \
        train on, and {} others; loss: nats a token",
        part(&scores.held_out.chosen),
        part(&scores.held_out.others)
    ));
    lines
}
