//! What each command answers with.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::distill::FitReport;
use crate::evaluate::{Arm, Comparison, Verdict};
use crate::filter::Coverage;
use crate::kit::InputModelCard;

/// What `transfer` came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransferReport {
    pub verdict: Verdict,
    /// Where the new adapter lies: under the name that was asked for if it was accepted, else set aside.
    pub adapter: PathBuf,
    pub report: PathBuf,
    pub scores: Scores,
    pub counts: BTreeMap<String, u64>,
    /// What the kept inputs cover.
    pub coverage: Coverage,
    /// By stage. What was found in the journal counts with the time it took then.
    pub seconds: BTreeMap<String, f64>,
    pub fit: FitReport,
    /// Hashes and settings that decide the bytes of the adapter.
    pub provenance: BTreeMap<String, String>,
}

/// Scores of the three arms; the maps are keyed `target`, `source_lora`, `transferred`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// What the verdict rests on: `eval` (rows of `--eval`) or `synthetic` (held-out inputs with the teacher's answers).
    pub gate: String,
    /// Rows of the gate set.
    pub rows: usize,
    /// Exact match on the gate set, by arm. units: share
    pub target: f64,
    pub source_lora: f64,
    pub transferred: f64,
    /// McNemar's exact test of transferred against target.
    pub p_value: f64,
    pub wins: u64,
    pub losses: u64,
    /// Wilson's 95 % intervals.
    pub intervals: BTreeMap<String, [f64; 2]>,
    /// Teacher-forced, mean over completion tokens. units: nats
    pub nll: BTreeMap<String, f64>,
    /// Exact agreement with the teacher on held-out inputs. units: share
    pub fidelity: BTreeMap<String, f64>,
    pub fidelity_rows: usize,
}

/// All arms on both sets of rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Arms {
    pub synthetic: [Arm; 2],
    pub eval: Option<[Arm; 2]>,
}

impl Arms {
    /// Bare target and transferred on the gate set.
    pub fn gate(&self) -> &[Arm; 2] {
        self.eval.as_ref().unwrap_or(&self.synthetic)
    }

    /// Put the numbers together. `source` is the teacher on the rows of `--eval`; on its own answers it is right by definition.
    pub fn scores(&self, comparison: &Comparison, source: Option<&Arm>) -> Scores {
        let [target, transferred] = self.gate();
        let mut intervals = BTreeMap::from([("target".into(), target.interval()), ("transferred".into(), transferred.interval())]);
        let mut nll = BTreeMap::from([("target".into(), target.nll), ("transferred".into(), transferred.nll)]);
        if let Some(source) = source {
            intervals.insert("source_lora".into(), source.interval());
            nll.insert("source_lora".into(), source.nll);
        }
        let [bare, adapted] = &self.synthetic;
        Scores {
            gate: if self.eval.is_some() { "eval" } else { "synthetic" }.into(),
            rows: target.rows(),
            target: target.exact(),
            source_lora: source.map_or(1.0, Arm::exact),
            transferred: transferred.exact(),
            p_value: comparison.p_value,
            wins: comparison.wins,
            losses: comparison.losses,
            intervals,
            nll,
            fidelity: BTreeMap::from([
                ("target".into(), bare.exact()),
                ("source_lora".into(), 1.0),
                ("transferred".into(), adapted.exact()),
            ]),
            fidelity_rows: bare.rows(),
        }
    }
}

/// What `train` came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainReport {
    pub adapter: PathBuf,
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
    pub kit: PathBuf,
    pub seeds: usize,
    /// Real inputs the discriminator saw, and as many made-up ones; held-out rows included.
    pub positives: usize,
    pub negatives: usize,
    /// Share of held-out inputs told apart rightly.
    pub accuracy: Option<f64>,
    pub accuracy_rows: usize,
    pub input_model: Option<InputModelCard>,
    pub seconds: BTreeMap<String, f64>,
}

/// What `eval` came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalReport {
    pub model: PathBuf,
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
