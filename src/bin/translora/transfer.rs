use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use translora::pipeline::{
    self, FilterChoice, GeneratorChoice, Inputs, LabelChoice, ObjectiveChoice, ObjectiveReport,
    RESTARTS, RecipePlan, Repeats, TokenWeights, TransferPlan, TransferReport, Verdict,
};

use crate::args::{Lengths, Machine, Recipe, at_most, between, share};
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
    after_help = "Examples:\n  translora transfer --source old.gguf --source-lora tickets.gguf --target new.gguf --kit tickets.kit --out tickets-new.gguf\n  \
                        translora transfer --source old.gguf --source-lora tickets.gguf --target new.gguf --seeds five.jsonl --out tickets-new.gguf --eval held-out.jsonl --json"
)]
pub struct Transfer {
    /// Base model that the adapter was made for (GGUF)
    #[arg(long, value_name = "OLD.gguf")]
    source: PathBuf,

    /// The adapter to move (GGUF)
    #[arg(long, value_name = "L.gguf")]
    source_lora: PathBuf,

    /// Base model to move it to (GGUF)
    #[arg(long, value_name = "NEW.gguf")]
    target: PathBuf,

    #[command(flatten)]
    inputs: InputFlags,

    /// The adapter to write; nothing is overwritten
    #[arg(long, value_name = "N.gguf")]
    out: PathBuf,

    /// Made-up inputs to learn from, after filtering; the seeds come on top
    #[arg(long, value_name = "N", default_value_t = 250, value_parser = between::<1, 1_000_000>)]
    samples: usize,

    /// What decides which inputs are kept; kit is the discriminator that the kit holds, both the
    /// contrast and then that; auto is both where the kit's discriminator is good, else the
    /// contrast
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Filter::Auto)]
    filter: Filter,

    /// Who makes inputs up; auto is the kit's input model where it holds one, else the target base;
    /// mix is the target and the source base, anything a target that is shown no seeds
    #[arg(long, value_name = "WHO", value_enum, default_value_t = Maker::Auto)]
    generator: Maker,

    /// What the new adapter is fitted to: `text`, the teacher's answers; `kl`, its distribution at
    /// each token of them (one vocabulary only); `aligned`, the same for the tokens and words that
    /// two vocabularies share; `delta`, the target base's own distribution, shifted by what the
    /// adapter does to the source's (for a target that is already better than the source with its
    /// adapter). The report says what `auto` took, and why
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Objective::Auto)]
    objective: Objective,

    /// How the teacher answers: `greedy`, or `consistent`, eight times at temperature 1; the answer
    /// that most agree on is kept, and inputs on which less than half agree are dropped
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Label::Greedy)]
    label: Label,

    /// How much each token of an answer counts: all the same, by the teacher's confidence, or by
    /// the share of it that the adapter added
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Weights::None, help_heading = "Adapter and training")]
    token_weights: Weights,

    /// How far `--objective delta` may take a token from the target base's own distribution. units:
    /// nats
    #[arg(long, value_name = "X", default_value_t = pipeline::kl_budget(), value_parser = at_most::<100>, help_heading = "Adapter and training")]
    kl_budget: f32,

    /// Rows with known answers to judge all three on (JSON lines)
    #[arg(long, value_name = "E.jsonl")]
    eval: Option<PathBuf>,

    /// An adapter for NEW.gguf trained on real data, to measure the transferred one against on the
    /// rows of --eval
    #[arg(
        long,
        value_name = "O.gguf",
        requires = "eval",
        help_heading = "Judging"
    )]
    oracle: Option<PathBuf>,

    /// Share of the rows that decide on which the new adapter may be wrong where the bare target
    /// was right
    #[arg(long, value_name = "X", default_value_t = pipeline::flip_budget(), value_parser = share, help_heading = "Judging")]
    flip_budget: f32,

    /// Go on although the source adapter is not seen to be better than its own base
    #[arg(long, help_heading = "Judging")]
    allow_weak_source: bool,

    /// Temperature at which inputs are made up
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = at_most::<5>)]
    temperature: f32,

    /// Inputs that share this part of their word trigrams are the same; 0 lets them be
    #[arg(long, value_name = "X", default_value_t = Repeats::default().near, value_parser = share, help_heading = "Inputs")]
    near: f32,

    /// Inputs that differ in numbers only are the same
    #[arg(long, help_heading = "Inputs")]
    ignore_numbers: bool,

    /// Throw out inputs with this part of a seed's words in a row; 0 lets them be
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = share, help_heading = "Inputs")]
    seed_run: f32,

    /// Passes over the samples
    #[arg(long, value_name = "X", default_value_t = 4.0, value_parser = at_most::<1000>, help_heading = "Adapter and training")]
    epochs: f32,

    /// Start --epochs and the schedule again, so many times at most, while the new adapter has not
    /// learnt the answers
    #[arg(long, value_name = "N", default_value_t = RESTARTS, value_parser = clap::value_parser!(u32).range(0..=100), help_heading = "Adapter and training")]
    restarts: u32,

    #[command(flatten)]
    recipe: Recipe,

    #[command(flatten)]
    lengths: Lengths,

    #[command(flatten)]
    machine: Machine,

    /// Seed of everything random; the same seed and thread count give the same bytes
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Continue a run that was stopped, from its journal beside --out
    #[arg(long)]
    resume: bool,

    /// Run it in the llama-server with this socket (see `translora attach`), and swap the new
    /// adapter in if it proves itself
    #[cfg(unix)]
    #[arg(long, value_name = "SOCKET", help_heading = "Machine")]
    attach: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct InputFlags {
    /// Kit of the adapter
    #[arg(long, value_name = "K.kit")]
    kit: Option<PathBuf>,

    /// A few inputs of the task instead of a kit (JSON lines; completions are not needed)
    #[arg(long, value_name = "S.jsonl")]
    seeds: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Filter {
    Auto,
    Kit,
    Contrast,
    Both,
    None,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Maker {
    Auto,
    Target,
    Source,
    SourceLora,
    Mix,
    Anything,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Objective {
    Auto,
    Text,
    Kl,
    Aligned,
    Delta,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Label {
    Greedy,
    Consistent,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Weights {
    None,
    Confidence,
    Contrast,
}

impl Transfer {
    pub fn run(self, talk: Talk) -> Result<Outcome, Failure> {
        #[cfg(unix)]
        if let Some(socket) = self.attach.clone() {
            return crate::remote::transfer(&socket, &self.plan()?, talk);
        }
        let plan = self.plan()?;
        let done = job::run(talk, &plan.source, &plan.limits, |engine, context| {
            pipeline::transfer(engine, &plan, context)
        })?;
        crate::report(talk, &done, || told(&done, &plan.target))?;
        Ok(if done.verdict == Verdict::Accept {
            Outcome::Done
        } else {
            Outcome::Refused
        })
    }

    fn plan(self) -> Result<TransferPlan, Failure> {
        let inputs = match (self.inputs.kit, self.inputs.seeds) {
            (Some(kit), _) => Inputs::Kit(kit),
            (None, Some(seeds)) if matches!(self.filter, Filter::Kit | Filter::Both) => {
                let name = format!("{:?}", self.filter).to_lowercase();
                let message = format!(
                    "--filter {name} needs a kit, but only seeds are given ({})",
                    seeds.display()
                );
                return Err(Failure::Usage {
                    message,
                    hint: "give --kit, or use --filter contrast".into(),
                });
            }
            (None, Some(seeds)) => Inputs::Seeds(seeds),
            (None, None) => {
                return Err(Failure::Bug(
                    "neither --kit nor --seeds passed the parser".into(),
                ));
            }
        };
        Ok(TransferPlan {
            recipe: RecipePlan {
                restarts: self.restarts,
                ..self.recipe.plan(self.epochs)
            },
            open: self.machine.open_options(),
            source: self.source,
            source_lora: self.source_lora,
            target: self.target,
            inputs,
            out: self.out,
            samples: self.samples,
            filter: match self.filter {
                Filter::Auto => FilterChoice::Auto,
                Filter::Kit => FilterChoice::Kit,
                Filter::Contrast => FilterChoice::Contrast,
                Filter::Both => FilterChoice::Both,
                Filter::None => FilterChoice::None,
            },
            generator: match self.generator {
                Maker::Auto => GeneratorChoice::Auto,
                Maker::Target => GeneratorChoice::Target,
                Maker::Source => GeneratorChoice::Source,
                Maker::SourceLora => GeneratorChoice::SourceLora,
                Maker::Mix => GeneratorChoice::Mix,
                Maker::Anything => GeneratorChoice::Anything,
            },
            label: match self.label {
                Label::Greedy => LabelChoice::Greedy,
                Label::Consistent => LabelChoice::Consistent,
            },
            objective: match self.objective {
                Objective::Auto => ObjectiveChoice::Auto,
                Objective::Text => ObjectiveChoice::Text,
                Objective::Kl => ObjectiveChoice::Kl,
                Objective::Aligned => ObjectiveChoice::Aligned,
                Objective::Delta => ObjectiveChoice::Delta,
            },
            token_weights: match self.token_weights {
                Weights::None => TokenWeights::None,
                Weights::Confidence => TokenWeights::Confidence,
                Weights::Contrast => TokenWeights::Contrast,
            },
            kl_budget: self.kl_budget,
            temperature: self.temperature,
            repeats: Repeats {
                near: self.near,
                numbers: self.ignore_numbers,
                seed_run: self.seed_run,
            },
            eval: self.eval,
            oracle: self.oracle,
            flip_budget: self.flip_budget,
            allow_weak_source: self.allow_weak_source,
            limits: self.lengths.limits(),
            seed: self.seed,
            resume: self.resume,
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
