//! What each command answers with.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{InputAudit, ObjectiveReport, OutputAudit};
use crate::distill::FitReport;
use crate::evaluate::{Arm, Equivalence, Retention, Verdict, wilson};
use crate::filter::Coverage;
use crate::kit::InputModelCard;
use crate::record::Prompt;

/// What `transfer` came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransferReport {
    pub verdict: Verdict,
    /// Where the new adapter lies: under the name that was asked for if it was accepted, else set
    /// aside.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub adapter: PathBuf,
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub report: PathBuf,
    /// The report as a web page.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub page: PathBuf,
    pub scores: Scores,
    /// Rows that were won and lost, a dozen of each at most.
    pub flips: Vec<Flip>,
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
    pub fit: FitReport,
    /// What the adapter was fitted to, and why.
    pub objective: ObjectiveReport,
    /// Hashes and settings that decide the bytes of the adapter.
    pub provenance: BTreeMap<String, String>,
    /// The plan of the run.
    #[serde(default)]
    pub plan: serde_json::Value,
}

/// Rows by who was right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    pub both: u64,
    /// Only the transferred adapter.
    pub won: u64,
    /// Only the bare target.
    pub lost: u64,
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
    pub drawn: u64,
    pub valid: u64,
    pub accepted: u64,
}

/// An input that was generated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeneratedInput {
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
    pub source_lora: f64,
    pub transferred: f64,
    /// An adapter trained on the target with real data, where the plan names one.
    pub oracle: Option<f64>,
    /// Why the verdict is what it is.
    pub reason: String,
    /// Rows of the gate set that decided.
    pub gate_rows: usize,
    /// McNemar's exact test of transferred against target, on those.
    pub p_value: f64,
    pub wins: u64,
    pub losses: u64,
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
    pub fidelity_rows: usize,
}

/// An arm that stands for comparison.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmScore {
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
    pub target: ArmScore,
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
    pub prompt: Prompt,
    pub right: String,
    pub target: String,
    pub transferred: String,
    /// The transferred adapter is the one that is right.
    pub won: bool,
}

/// What `train` came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainReport {
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub adapter: PathBuf,
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub report: PathBuf,
    pub examples: usize,
    pub steps: u64,
    /// units: nats a completion token, mean of an epoch
    pub loss_first: f64,
    pub loss_last: f64,
    pub fit: FitReport,
    pub seconds: BTreeMap<String, f64>,
}

/// What `kit` came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KitReport {
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub kit: PathBuf,
    pub seeds: usize,
    /// Real inputs the discriminator saw, and as many made-up ones; held-out rows included.
    pub positives: usize,
    pub negatives: usize,
    /// Share of held-out inputs told apart rightly.
    pub accuracy: Option<f64>,
    pub accuracy_rows: usize,
    /// Chance that a held-out real input is held for likelier real than a held-out made-up one.
    pub auc: Option<f64>,
    /// Shares of those that pass the threshold, real and made up.
    pub passed: Option<[f64; 2]>,
    /// What the kit gives away of the data, a sentence each.
    pub privacy: Vec<String>,
    pub input_model: Option<InputModelCard>,
    pub seconds: BTreeMap<String, f64>,
}

/// What `eval` came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalReport {
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub model: PathBuf,
    #[serde(serialize_with = "crate::record::path_as_text_or_null")]
    pub lora: Option<PathBuf>,
    pub rows: usize,
    pub correct: u64,
    /// units: share
    pub exact: f64,
    /// Wilson's 95 % interval.
    pub interval: [f64; 2],
    /// Teacher-forced, mean over completion tokens. units: nats
    pub nll: f64,
    pub tokens_per_answer: f64,
    pub seconds: BTreeMap<String, f64>,
}
