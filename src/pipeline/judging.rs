//! Put the same rows to every arm, and the numbers together.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::PipelineError;
use super::report::{ArmScore, Confusion, Flip, HeldOutScores, ReportHalf, Scores};
use crate::engine::{Model, Monitor, With};
use crate::evaluate::{self, Arm, Comparison, Halves, Shots};
use crate::record::{Blame, Fault, Pair, Rng};

/// Rows that the arms answer that only stand for comparison.
const COMPARED_MAX: usize = 100;
/// Flips that a report shows of each kind.
const FLIPS_SHOWN: usize = 12;

/// The teacher on the rows of `--eval`, and its answers to the seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Teacher {
    pub arm: Arm,
    pub shots: Vec<Pair>,
}

/// All arms on both sets of rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Arms {
    /// Bare target and transferred.
    pub synthetic: [Arm; 2],
    pub eval: Option<[Arm; 2]>,
    /// An adapter trained on the target with real data, on the rows of `--eval`.
    pub oracle: Option<Arm>,
    /// Arms for comparison, right or wrong on the first rows of `--eval`; what could not answer is
    /// not there.
    pub compared: BTreeMap<String, Vec<bool>>,
}

/// What the arms answer.
pub(super) struct Evaluation<'a> {
    pub synthetic: &'a [Pair],
    pub eval: Option<&'a [Pair]>,
    pub source_lora: &'a Path,
    pub oracle: Option<&'a Path>,
    pub teacher: Option<&'a Teacher>,
    /// The bare target on the rows of `--eval`, where it answered them before.
    pub bare: Option<Arm>,
    pub tokens_max: usize,
}

impl Evaluation<'_> {
    /// Have the target answer: bare, with the new adapter, and with what those are compared with.
    pub fn run(
        &self,
        model: &mut dyn Model,
        adapter: With,
        monitor: &mut Monitor<'_>,
    ) -> Result<Arms, PipelineError> {
        let mut both = |rows: &[Pair], known: Option<&Arm>| -> Result<[Arm; 2], PipelineError> {
            let bare = known.map_or_else(
                || evaluate::arm(model, With::Base, rows, self.tokens_max, monitor),
                |known| Ok(known.clone()),
            )?;
            Ok([
                bare,
                evaluate::arm(model, adapter, rows, self.tokens_max, monitor)?,
            ])
        };
        let synthetic = both(self.synthetic, None)?;
        let eval = self
            .eval
            .map(|rows| both(rows, self.bare.as_ref()))
            .transpose()?;
        let mut arms = Arms {
            synthetic,
            eval,
            oracle: None,
            compared: BTreeMap::new(),
        };
        let Some(rows) = self.eval else {
            return Ok(arms);
        };
        if let Some(path) = self.oracle {
            let oracle = With::Adapter(model.attach(path)?);
            arms.oracle = Some(evaluate::arm(
                model,
                oracle,
                rows,
                self.tokens_max,
                monitor,
            )?);
        }
        let rows = &rows[..rows.len().min(COMPARED_MAX)];
        if let Some(teacher) = self.teacher {
            let shots = Shots::new(&teacher.shots);
            let shown = evaluate::with_shots(model, &shots, rows, self.tokens_max, monitor)?;
            arms.compared
                .extend(shown.map(|right| ("target_with_seeds".to_owned(), right)));
        }
        // Most often the shapes differ, and there is nothing to copy.
        match model.attach(self.source_lora) {
            Ok(copy) => {
                let arm =
                    evaluate::arm(model, With::Adapter(copy), rows, self.tokens_max, monitor)?;
                arms.compared.insert("naive_copy".into(), arm.correct);
            }
            Err(error) if error.fault() == Fault::Input => {}
            Err(error) => return Err(error.into()),
        }
        Ok(arms)
    }
}

impl Arms {
    /// Bare target and transferred on the gate set.
    pub fn gate(&self) -> &[Arm; 2] {
        self.eval.as_ref().unwrap_or(&self.synthetic)
    }

    /// Put the numbers together. `judged`: the rows of the gate set. `source` is the teacher on the
    /// rows of `--eval`; on its own answers it is right by definition.
    pub fn scores(
        &self,
        (comparison, halves): (&Comparison, &Halves),
        judged: &[Pair],
        source: Option<&Arm>,
        held_out: HeldOutScores,
        seed: u64,
    ) -> Result<Scores, PipelineError> {
        let [target, transferred] = self.gate();
        let mut arms = vec![("target", target), ("transferred", transferred)];
        arms.extend(source.map(|arm| ("source_lora", arm)));
        arms.extend(self.oracle.as_ref().map(|arm| ("oracle", arm)));
        let named = |(name, arm): &(&str, &Arm)| ((*name).to_owned(), arm.interval());
        let intervals = arms.iter().map(named).collect();
        let nll = arms.iter().map(|(name, arm)| ((*name).into(), arm.nll));
        let [bare, adapted] = &self.synthetic;
        let retention = |reference: Option<&Arm>| {
            let found = reference.map(|arm| {
                evaluate::retention(target, transferred, arm, &mut Rng::new(seed, "retention"))
            });
            found.transpose().map(Option::flatten)
        };
        let gate = if self.eval.is_some() {
            "eval"
        } else {
            "synthetic"
        };
        Ok(Scores {
            gate: gate.into(),
            rows: target.rows(),
            target: target.exact(),
            source_lora: source.map_or(1.0, Arm::exact),
            transferred: transferred.exact(),
            oracle: self.oracle.as_ref().map(Arm::exact),
            reason: comparison.reason.clone(),
            gate_rows: comparison.rows,
            p_value: comparison.p_value,
            wins: comparison.wins,
            losses: comparison.losses,
            rows_needed: comparison.rows_needed,
            report: ReportHalf::of(target, transferred, &halves.report),
            retention: retention(source)?,
            retention_of_oracle: retention(self.oracle.as_ref())?,
            equivalence: source
                .map(|source| evaluate::equivalence(source, transferred))
                .transpose()?,
            compared: self.compared(judged),
            intervals,
            nll: nll.collect(),
            fidelity: BTreeMap::from([
                ("target".into(), bare.exact()),
                ("source_lora".into(), 1.0),
                ("transferred".into(), adapted.exact()),
            ]),
            held_out,
        })
    }

    /// The arms for comparison, and the answer that is right most often.
    fn compared(&self, judged: &[Pair]) -> BTreeMap<String, ArmScore> {
        let all: Vec<usize> = (0..judged.len()).collect();
        let constant = ArmScore::of(&evaluate::constant(judged, &all));
        self.compared
            .iter()
            .map(|(name, right)| (name.clone(), ArmScore::of(right)))
            .chain([("constant_answer".to_owned(), constant)])
            .collect()
    }

    /// How right and wrong of the two fall together.
    pub fn confusion(&self) -> Confusion {
        Confusion::of(self.gate())
    }

    /// Rows on which just one of bare target and transferred is right, a few of each kind, with the
    /// texts.
    pub fn flips(&self, rows: &[Pair]) -> Vec<Flip> {
        let [target, transferred] = self.gate();
        let mut shown = Vec::new();
        for won in [false, true] {
            let flipped = (0..rows.len())
                .filter(|&row| target.correct[row] != won && transferred.correct[row] == won);
            shown.extend(flipped.take(FLIPS_SHOWN).map(|row| Flip {
                prompt: rows[row].prompt.clone(),
                right: rows[row].completion.clone(),
                target: target.answers.get(row).cloned().unwrap_or_default(),
                transferred: transferred.answers.get(row).cloned().unwrap_or_default(),
                won,
            }));
        }
        shown
    }
}
