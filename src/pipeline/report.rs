//! What each command answers with.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Advice, InputAudit, ObjectiveReport, OutputAudit};
use crate::distill::FitReport;
use crate::evaluate::{Arm, Equivalence, Forecast, Retention, Verdict, wilson};
use crate::filter::{Answers, Coverage};
use crate::kit::InputModelCard;
use crate::record::{Pair, Prompt};

/// What `transfer` came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransferReport {
    /// What the evidence says of the new adapter.
    pub verdict: Verdict,
    /// What to expect of it on real inputs, from held-out ones alone.
    #[serde(default)]
    pub forecast: Forecast,
    /// What to expect in words, where it is less than the verdict sounds like and no rows with known
    /// answers say it.
    #[serde(default)]
    pub expectation: Option<String>,
    /// What would make it better, or settle it, the most useful first.
    #[serde(default)]
    pub advice: Vec<Advice>,
    /// Where the new adapter lies: under the name that was asked for if it was accepted, else set
    /// aside.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub adapter: PathBuf,
    /// The report as JSON.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub report: PathBuf,
    /// The report as a web page.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub page: PathBuf,
    /// The numbers behind the verdict.
    pub scores: Scores,
    /// Rows that were won and lost, a dozen of each at most.
    pub flips: Vec<Flip>,
    /// What became of the inputs, by name.
    pub counts: BTreeMap<String, u64>,
    /// How right and wrong of the two arms fall together, on all rows of the gate set.
    #[serde(default)]
    pub confusion: Confusion,
    /// How many inputs each round drew, and how many of them were valid and accepted.
    #[serde(default)]
    pub rounds: Vec<RoundCounts>,
    /// Some of the inputs that were generated: kept, and rejected for each reason, a few of each.
    #[serde(default)]
    pub inputs: Vec<GeneratedInput>,
    /// What users asked was worth, where prompts that a server kept were inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<TrafficReport>,
    /// What the kept inputs cover.
    pub coverage: Coverage,
    /// What was found of the source adapter before the work began.
    #[serde(default)]
    pub input_audit: InputAudit,
    /// What was found of the new adapter on the disk; none where it did not pass the gate.
    #[serde(default)]
    pub output_audit: Option<OutputAudit>,
    /// By stage. What was found in the journal counts with the time it took then.
    pub seconds: BTreeMap<String, f64>,
    /// The most memory that the process had held by the end of each stage. units: bytes
    #[serde(default)]
    pub peak_bytes: BTreeMap<String, u64>,
    /// How the adapter was fitted.
    pub fit: FitReport,
    /// What the adapter was fitted to, and why.
    pub objective: ObjectiveReport,
    /// Hashes and settings that decide the bytes of the adapter.
    pub provenance: BTreeMap<String, String>,
    /// The plan of the run.
    #[serde(default)]
    pub plan: serde_json::Value,
}

/// Prompts that a server kept, as inputs of a transfer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrafficReport {
    /// The name that the old adapter was served under.
    pub adapter: String,
    /// Distinct prompts that were read.
    pub prompts: usize,
    /// Kept texts that the source's chat template did not write; they were left out.
    pub unread: usize,
    /// Prompts that the source cannot read, or has no room for; they were left out.
    pub unfit: usize,
    /// Prompts that stood for seeds.
    pub seeds: usize,
    /// Of the others, those that the judge accepted.
    pub accepted: usize,
    /// Of these, those that were held out to judge on.
    pub held_out: usize,
    /// Held-out prompts that the bare target answers as the source with its adapter does.
    pub target: ArmScore,
    /// The same of the target with the new adapter.
    pub transferred: ArmScore,
    /// Held-out prompts that the new adapter answers as users were answered, where that was kept.
    pub users: Option<ArmScore>,
}

/// Rows by who was right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    /// Both arms.
    pub both: u64,
    /// Only the transferred adapter.
    pub won: u64,
    /// Only the bare target.
    pub lost: u64,
    /// Neither arm.
    pub neither: u64,
}

impl Confusion {
    pub(super) fn of([target, transferred]: &[Arm; 2]) -> Self {
        let mut counts = Self::default();
        for (bare, new) in target.correct.iter().zip(&transferred.correct) {
            *match (bare, new) {
                (true, true) => &mut counts.both,
                (false, true) => &mut counts.won,
                (true, false) => &mut counts.lost,
                (false, false) => &mut counts.neither,
            } += 1;
        }
        counts
    }
}

/// One round of generating inputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundCounts {
    /// Who generated them.
    pub by: String,
    /// Inputs that were drawn.
    pub drawn: u64,
    /// Of these, the valid ones.
    pub valid: u64,
    /// Of these, those that the judge accepted.
    pub accepted: u64,
}

/// An input that was generated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeneratedInput {
    /// The input.
    pub text: String,
    /// What the teacher answers, where that is known.
    pub answer: Option<String>,
    /// Why it was rejected; none where it was kept.
    pub rejected: Option<String>,
}

/// Scores of the arms; the maps are keyed `target`, `source_lora`, `transferred`, `oracle`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// What the verdict rests on: `eval` (rows of `--eval`) or `synthetic` (held-out inputs with
    /// the teacher's answers: then it is of fidelity to the teacher, not of being right).
    pub gate: String,
    /// Rows of the gate set.
    pub rows: usize,
    /// Exact match on the gate set, by arm. units: share
    pub target: f64,
    /// Exact match of the source with its adapter. units: share
    pub source_lora: f64,
    /// Exact match of the target with the new adapter. units: share
    pub transferred: f64,
    /// An adapter trained on the target with real data, where the plan names one.
    pub oracle: Option<f64>,
    /// Why the verdict is what it is.
    pub reason: String,
    /// Rows of the gate set that decided.
    pub gate_rows: usize,
    /// McNemar's exact test of transferred against target, on those.
    pub p_value: f64,
    /// Of those rows, the ones that only the transferred adapter got right.
    pub wins: u64,
    /// Of those rows, the ones that only the bare target got right.
    pub losses: u64,
    /// Where it is inconclusive: how many rows would settle it, with a chance of four in five.
    #[serde(default)]
    pub rows_needed: Option<u64>,
    /// The rows that had no part in the verdict; all rows where there are too few to part.
    pub report: ReportHalf,
    /// (transferred − target) / (source_lora − target), where the teacher is better than the bare
    /// target.
    pub retention: Option<Retention>,
    /// The same against the oracle.
    pub retention_of_oracle: Option<Retention>,
    /// Whether the new pair is right as often as the old one.
    pub equivalence: Option<Equivalence>,
    /// `constant_answer`: the one answer that is right most often, on all rows;
    /// `target_with_seeds`: the bare target that is shown the seeds with the teacher's answers;
    /// `naive_copy`: the source adapter on the target, where its shapes fit; these two on the first
    /// 100 rows of `--eval` at most.
    pub compared: BTreeMap<String, ArmScore>,
    /// Wilson's 95 % intervals.
    pub intervals: BTreeMap<String, [f64; 2]>,
    /// Teacher-forced, mean over completion tokens. units: nats
    pub nll: BTreeMap<String, f64>,
    /// Exact agreement with the teacher on held-out inputs. units: share
    pub fidelity: BTreeMap<String, f64>,
    /// The new adapter's agreement with the teacher on held-out inputs, in parts.
    pub held_out: HeldOutScores,
}

/// How often the new adapter answers held-out inputs like the teacher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOutScores {
    /// Inputs that had been chosen to train on.
    pub chosen: ArmScore,
    /// Inputs that were accepted, but not chosen: more various ones.
    pub others: ArmScore,
    /// Where answers are labels, by label; where they are JSON objects, by key: how often its value
    /// is the teacher's. Of both kinds of inputs.
    pub by_answer: BTreeMap<String, ArmScore>,
}

impl HeldOutScores {
    /// `of_chosen`: of the rows, those that had been chosen come first.
    pub(super) fn of(rows: &[Pair], arm: &Arm, of_chosen: usize, answers: &Answers) -> Self {
        let (chosen, others) = arm.correct.split_at(of_chosen.min(arm.rows()));
        let mut by_answer: BTreeMap<String, Vec<bool>> = BTreeMap::new();
        for (row, given) in rows.iter().zip(&arm.answers) {
            for name in answers.of(&row.completion) {
                let agree = answers.agree(name, &row.completion, given);
                by_answer.entry(name.to_owned()).or_default().push(agree);
            }
        }
        Self {
            chosen: ArmScore::of(chosen),
            others: ArmScore::of(others),
            by_answer: by_answer
                .into_iter()
                .map(|(name, agree)| (name, ArmScore::of(&agree)))
                .collect(),
        }
    }

    /// What they let one expect of real inputs, where so much of the task is taught as `coverage`
    /// says.
    pub(super) fn forecast(&self, coverage: &Coverage, answers: &Answers) -> Forecast {
        // Of text, the share of known words says nothing of that kind.
        let taught = match answers {
            Answers::Text => 1.0,
            Answers::Labels(_) | Answers::Objects(_) => coverage.share,
        };
        let count = |score: &ArmScore| {
            let right = (score.exact * score.rows as f64).round() as usize;
            [right, score.rows]
        };
        Forecast::of([count(&self.chosen), count(&self.others)], taught)
    }
}

/// An arm that stands for comparison.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmScore {
    /// Rows that were answered.
    pub rows: usize,
    /// Exact match. units: share
    pub exact: f64,
    /// Wilson's 95 % interval.
    pub interval: [f64; 2],
}

impl ArmScore {
    pub(super) fn of(correct: &[bool]) -> Self {
        let right = correct.iter().filter(|&&right| right).count();
        let exact = right as f64 / correct.len().max(1) as f64;
        Self {
            rows: correct.len(),
            exact,
            interval: wilson(right as u64, correct.len() as u64),
        }
    }
}

/// Bare target and transferred on rows that only report.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportHalf {
    /// The bare target.
    pub target: ArmScore,
    /// The target with the new adapter.
    pub transferred: ArmScore,
}

impl ReportHalf {
    pub(super) fn of(target: &Arm, transferred: &Arm, rows: &[usize]) -> Self {
        let on =
            |arm: &Arm| ArmScore::of(&rows.iter().map(|&row| arm.correct[row]).collect::<Vec<_>>());
        Self {
            target: on(target),
            transferred: on(transferred),
        }
    }
}

/// A row on which just one of bare target and transferred is right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flip {
    /// The row's prompt.
    pub prompt: Prompt,
    /// The right answer.
    pub right: String,
    /// What the bare target answers.
    pub target: String,
    /// What the target with the new adapter answers.
    pub transferred: String,
    /// The transferred adapter is the one that is right.
    pub won: bool,
}

/// What `train` came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainReport {
    /// The adapter that was written.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub adapter: PathBuf,
    /// The report as JSON.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub report: PathBuf,
    /// Rows that were trained on.
    pub examples: usize,
    /// Steps that were taken.
    pub steps: u64,
    /// units: nats a completion token, mean of an epoch
    pub loss_first: f64,
    /// See [`TrainReport::loss_first`].
    pub loss_last: f64,
    /// How the fit went.
    pub fit: FitReport,
    /// How long each stage took, by its name.
    pub seconds: BTreeMap<String, f64>,
}

/// What `kit` came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KitReport {
    /// The kit that was written.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub kit: PathBuf,
    /// Seed inputs in it.
    pub seeds: usize,
    /// Real inputs the discriminator saw, and as many made-up ones; held-out rows included.
    pub positives: usize,
    /// Made-up inputs that the discriminator saw.
    pub negatives: usize,
    /// Share of held-out inputs classified rightly.
    pub accuracy: Option<f64>,
    /// Held-out inputs that accuracy is of.
    pub accuracy_rows: usize,
    /// Chance that a held-out real input is held for likelier real than a held-out made-up one.
    pub auc: Option<f64>,
    /// Shares of those that pass the threshold, real and made up.
    pub passed: Option<[f64; 2]>,
    /// What the kit gives away of the data, a sentence each.
    pub privacy: Vec<String>,
    /// What the input model gives away, where the kit has one.
    pub input_model: Option<InputModelCard>,
    /// How long each stage took, by its name.
    pub seconds: BTreeMap<String, f64>,
}

/// What `eval` came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalReport {
    /// The base model.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub model: PathBuf,
    /// The adapter; none where the bare base answered.
    #[serde(serialize_with = "crate::record::path_as_text_or_null")]
    pub lora: Option<PathBuf>,
    /// Rows that were answered.
    pub rows: usize,
    /// Rows that were answered exactly.
    pub correct: u64,
    /// units: share
    pub exact: f64,
    /// Wilson's 95 % interval.
    pub interval: [f64; 2],
    /// Rows that are right to the last byte: `exact` leaves out white space around an answer.
    pub verbatim: u64,
    /// Answers that did not end within `answer_tokens` tokens.
    pub cut_off: u64,
    /// Tokens that an answer may have.
    pub answer_tokens: usize,
    /// Teacher-forced, mean over completion tokens. units: nats
    pub nll: f64,
    /// Mean length of an answer.
    pub tokens_per_answer: f64,
    /// How long each stage took, by its name.
    pub seconds: BTreeMap<String, f64>,
}
