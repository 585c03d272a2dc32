//! Judge a transferred adapter against the bare target, pair by pair, and prove it where it held.
//!
//! # The rule
//! Rows of the gate half are answered by the bare target and by the target with the new adapter;
//! only rows where exactly one of the two is right count (McNemar's exact test, two-sided).
//! - **accept**: the adapter is right on more of them than the bare target, with p < 0.05, and what
//!   the bare target got right and the adapter does not is within the flip budget, a share of the
//!   rows. It is also right more often than the best constant answer (with p < 0.05 from 50 rows
//!   on, by any margin on fewer): to answer at random in the right format beats a base that does
//!   not know the format, and is worth nothing.
//! - **reject**: it is right on no more of them than the bare target, and either p < 0.05 or there
//!   are at least 50 rows. On 50 rows the smallest gain that could be accepted, six clean wins, is
//!   12 points: a gain worth having would have shown. Or it is better, but breaks more than the
//!   budget, or answers no better than the constant.
//! - **inconclusive**: anything else.
//!
//! Where there are 100 rows or more, half of them, drawn at random, decide, and the other half only
//! reports: an adapter that was lucky on the rows that accepted it has no luck on those. With
//! fewer, all do both.
//!
//! The gate set is the caller's: rows of `--eval` where there are any, else held-out inputs with
//! the teacher's answers.
//!
//! Refuses to know: files, how adapters are made. Called by the pipeline; `publish` imports
//! [`Passed`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::distill::Trained;
use crate::engine::{Answer, EngineError, Model, Monitor, With};
use crate::record::{Blame, Fault, Pair, Remedy, Rng, Step, without_thoughts};

mod forecast;
mod measures;
mod shots;
mod statistics;

pub use forecast::{Forecast, Outlook};
pub use measures::{Equivalence, Retention, equivalence, retention, with_shots};
pub use shots::Shots;
pub use statistics::{mcnemar, wilson};

const P_MAX: f64 = 0.05;
const ROWS_ENOUGH: usize = 50;

/// What the evidence says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is better than the bare target, within the budget.
    Accept,
    /// It is not better, or breaks too much.
    Reject,
    /// Too few rows to say.
    Inconclusive,
}

impl Verdict {
    /// As reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Reject => "reject",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// How one set of weights did on one set of rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// Row by row: the trimmed answer is the trimmed completion.
    pub correct: Vec<bool>,
    /// Row by row: what was answered, trimmed.
    #[serde(default)]
    pub answers: Vec<String>,
    /// Rows whose answer is the completion to the last byte, white space around it included.
    #[serde(default)]
    pub verbatim: u64,
    /// Answers that were cut off because they did not end within the tokens that an answer may
    /// have.
    #[serde(default)]
    pub cut_off: u64,
    /// Mean over completion tokens, the end of turn included. units: nats
    pub nll: f64,
    /// Mean length of the answers given.
    pub tokens_per_answer: f64,
}

impl Arm {
    /// Count the rows.
    pub fn rows(&self) -> usize {
        self.correct.len()
    }

    /// Count the rows that are right.
    pub fn right(&self) -> u64 {
        self.correct.iter().filter(|&&right| right).count() as u64
    }

    /// Share of rows answered exactly.
    pub fn exact(&self) -> f64 {
        self.right() as f64 / self.rows().max(1) as f64
    }

    /// Wilson's 95 % interval of [`Self::exact`].
    pub fn interval(&self) -> [f64; 2] {
        wilson(self.right(), self.rows() as u64)
    }
}

/// An adapter that was judged and held.
#[derive(Clone, Debug, PartialEq)]
pub struct Passed {
    trained: Trained,
}

impl Passed {
    /// The adapter that passed, with how it was fitted.
    pub fn trained(&self) -> &Trained {
        &self.trained
    }

    /// The bytes of the adapter that was judged.
    pub fn adapter(&self) -> &[u8] {
        self.trained.adapter()
    }
}

/// What judging an adapter came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It may be published.
    Passed(Passed),
    /// Rejected or inconclusive; the adapter is given back as it came.
    Refused(Trained),
}

impl Outcome {
    /// The adapter, whatever the verdict.
    pub fn trained(&self) -> &Trained {
        match self {
            Self::Passed(passed) => passed.trained(),
            Self::Refused(trained) => trained,
        }
    }
}

/// The paired comparison behind a verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// What follows from it.
    pub verdict: Verdict,
    /// The rule that gave the verdict, in a sentence.
    pub reason: String,
    /// Rows that decided.
    pub rows: usize,
    /// McNemar's exact test, two-sided.
    pub p_value: f64,
    /// Rows that only the adapter got right.
    pub wins: u64,
    /// Rows that only the bare target got right.
    pub losses: u64,
    /// Where it is inconclusive: about how many rows would settle it, if the two go on to differ as
    /// they do on these.
    #[serde(default)]
    pub rows_needed: Option<u64>,
}

/// Rows that decide, and rows that report; the same where there are too few for both.
#[derive(Clone, Debug, PartialEq)]
pub struct Halves {
    /// Rows that decide, by their number from 0.
    pub gate: Vec<usize>,
    /// Rows that report, by their number from 0.
    pub report: Vec<usize>,
}

impl Halves {
    /// Part the rows at random.
    pub fn of(rows: usize, rng: &mut Rng) -> Self {
        let mut gate: Vec<usize> = (0..rows).collect();
        if rows < 2 * ROWS_ENOUGH {
            return Self {
                report: gate.clone(),
                gate,
            };
        }
        rng.shuffle(&mut gate);
        let mut report = gate.split_off(rows.div_ceil(2));
        gate.sort_unstable();
        report.sort_unstable();
        Self { gate, report }
    }
}

/// Why something could not be judged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError {
    /// The engine could not do it.
    #[error("evaluating: {0}")]
    Engine(#[from] EngineError),
    /// There is nothing to judge on.
    #[error("there are no rows to evaluate on")]
    NoRows,
    /// Two arms answered different numbers of rows.
    #[error("two arms answered {left} and {right} rows: they cannot be paired")]
    Unpaired {
        /// Rows of the one.
        left: usize,
        /// Rows of the other.
        right: usize,
    },
}

impl Blame for EvaluateError {
    fn fault(&self) -> Fault {
        match self {
            Self::Engine(error) => error.fault(),
            Self::NoRows => Fault::Input,
            Self::Unpaired { .. } => Fault::Bug,
        }
    }

    fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Engine(error) => error.remedy(),
            Self::NoRows => Some(Remedy::or([Remedy::add("eval"), Remedy::raise("samples")])),
            Self::Unpaired { .. } => Some(Step::Report.into()),
        }
    }
}

/// Answer and score every row with one set of weights.
pub fn arm(
    model: &mut dyn Model,
    with: With,
    rows: &[Pair],
    tokens_max: usize,
    monitor: &mut Monitor<'_>,
) -> Result<Arm, EvaluateError> {
    if rows.is_empty() {
        return Err(EvaluateError::NoRows);
    }
    // A token is at least one byte: an answer that runs on past the longest right one is wrong
    // already.
    let longest = rows
        .iter()
        .map(|row| row.completion.trim().len())
        .max()
        .unwrap_or(0);
    let examined = model.examine(with, rows, tokens_max.min(longest + 8), monitor)?;
    let right = |((answer, _), row): (&(Answer, _), &Pair)| {
        answer.finished && without_thoughts(&answer.text).0.trim() == row.completion.trim()
    };
    let nats: f64 = examined
        .iter()
        .map(|(_, score)| score.log_probability)
        .sum();
    let tokens: usize = examined.iter().map(|(_, score)| score.tokens).sum();
    let rows_with = |is: &dyn Fn(&Answer, &Pair) -> bool| {
        let rows = examined.iter().zip(rows);
        rows.filter(|((answer, _), row)| is(answer, row)).count() as u64
    };
    Ok(Arm {
        verbatim: rows_with(&|answer, row| {
            answer.finished && without_thoughts(&answer.text).0 == row.completion
        }),
        cut_off: rows_with(&|answer, _| !answer.finished && answer.tokens >= tokens_max),
        correct: examined.iter().zip(rows).map(right).collect(),
        nll: -nats / tokens.max(1) as f64,
        tokens_per_answer: examined
            .iter()
            .map(|(answer, _)| answer.tokens)
            .sum::<usize>() as f64
            / rows.len() as f64,
        answers: examined
            .into_iter()
            .map(|(answer, _)| without_thoughts(&answer.text).0.trim().to_owned())
            .collect(),
    })
}

/// Two arms answered the same rows.
fn paired(first: &Arm, second: &Arm) -> Result<(), EvaluateError> {
    let (left, right) = (first.rows(), second.rows());
    if left == right {
        Ok(())
    } else {
        Err(EvaluateError::Unpaired { left, right })
    }
}

/// Of these rows, those that the answer which is right most often is right on.
pub fn constant(pairs: &[Pair], rows: &[usize]) -> Vec<bool> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    rows.iter()
        .for_each(|&row| *counts.entry(pairs[row].completion.trim()).or_default() += 1);
    let best = counts
        .into_iter()
        .max_by_key(|&(_, count)| count)
        .map_or("", |(answer, _)| answer);
    rows.iter()
        .map(|&row| pairs[row].completion.trim() == best)
        .collect()
}

/// Rows to give so that enough of them decide: what shows a gain with a power of 80 %, else what is
/// enough to reject.
fn rows_needed(wins: u64, losses: u64, rows: usize) -> u64 {
    let enough = ROWS_ENOUGH as u64;
    let to_show = statistics::rows_to_show(wins, losses, rows as u64);
    let deciding = to_show.filter(|_| wins > losses).unwrap_or(enough);
    let deciding = deciding.max(rows as u64 + 1);
    // From twice that many on, only half of them decide.
    if deciding < 2 * enough {
        deciding
    } else {
        2 * deciding
    }
}

/// The adapter is right more often than the best constant answer.
fn beats_constant(transferred: &Arm, pairs: &[Pair], rows: &[usize]) -> bool {
    let (mut wins, mut losses) = (0, 0);
    for (constant, &row) in constant(pairs, rows).into_iter().zip(rows) {
        match (constant, transferred.correct[row]) {
            (false, true) => wins += 1,
            (true, false) => losses += 1,
            _ => {}
        }
    }
    wins > losses && (rows.len() < ROWS_ENOUGH || mcnemar(wins, losses) < P_MAX)
}

/// Compare the adapter with the bare target on some of their rows, by the rule above. `pairs` are
/// all rows that the arms answered; `flip_budget` is a share of those that decide.
pub fn compare(
    target: &Arm,
    transferred: &Arm,
    pairs: &[Pair],
    rows: &[usize],
    flip_budget: f64,
) -> Result<Comparison, EvaluateError> {
    paired(target, transferred)?;
    if pairs.len() != target.rows() {
        return Err(EvaluateError::Unpaired {
            left: pairs.len(),
            right: target.rows(),
        });
    }
    let [wins, losses] = measures::flips(target, transferred, rows.iter().copied());
    let p_value = mcnemar(wins, losses);
    let budget = (flip_budget * rows.len() as f64).floor() as u64;
    let (verdict, reason) = if wins > losses && p_value < P_MAX {
        if !beats_constant(transferred, pairs, rows) {
            (
                Verdict::Reject,
                "it is not shown to be right more often than one and the same \
                answer to everything would be"
                    .into(),
            )
        } else if losses <= budget {
            (
                Verdict::Accept,
                format!(
                    "it is right more often than the bare target, and breaks {losses} of its \
                    answers (up to {budget} may)"
                ),
            )
        } else {
            (
                Verdict::Reject,
                format!(
                    "it breaks {losses} right answers of the bare target, and {budget} may break"
                ),
            )
        }
    } else if wins <= losses && (p_value < P_MAX || rows.len() >= ROWS_ENOUGH) {
        (
            Verdict::Reject,
            "it is right no more often than the bare target".into(),
        )
    } else {
        (
            Verdict::Inconclusive,
            "there are too few rows on which just one of the two is right".into(),
        )
    };
    let rows_needed =
        (verdict == Verdict::Inconclusive).then(|| rows_needed(wins, losses, rows.len()));
    Ok(Comparison {
        verdict,
        reason,
        rows: rows.len(),
        p_value,
        wins,
        losses,
        rows_needed,
    })
}

/// Judge an adapter: the proof that the gate held, or the adapter back.
pub fn gate(
    trained: Trained,
    target: &Arm,
    transferred: &Arm,
    pairs: &[Pair],
    rows: &[usize],
    flip_budget: f64,
) -> Result<(Comparison, Outcome), EvaluateError> {
    let comparison = compare(target, transferred, pairs, rows, flip_budget)?;
    let outcome = match comparison.verdict {
        Verdict::Accept => Outcome::Passed(Passed { trained }),
        Verdict::Reject | Verdict::Inconclusive => Outcome::Refused(trained),
    };
    Ok((comparison, outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An arm that is right where the text has a `+`.
    pub(super) fn arm_of(marks: &str) -> Arm {
        Arm {
            correct: marks.chars().map(|c| c == '+').collect(),
            answers: Vec::new(),
            verbatim: 0,
            cut_off: 0,
            nll: 1.0,
            tokens_per_answer: 1.0,
        }
    }

    fn verdict(target: &str, transferred: &str) -> Verdict {
        let rows: Vec<usize> = (0..target.len()).collect();
        compare(
            &arm_of(target),
            &arm_of(transferred),
            &pairs(rows.len()),
            &rows,
            0.05,
        )
        .unwrap()
        .verdict
    }

    /// Rows whose right answers all differ.
    fn pairs(count: usize) -> Vec<Pair> {
        (0..count)
            .map(|i| Pair {
                prompt: format!("p{i}").into(),
                completion: format!("c{i}"),
            })
            .collect()
    }

    #[test]
    fn the_rule_is_the_documented_one() {
        let many = |mark: &str, n: usize| mark.repeat(n);
        assert_eq!(verdict("------", "++++++"), Verdict::Accept);
        assert_eq!(verdict("-----", "+++++"), Verdict::Inconclusive);
        assert_eq!(verdict("++++++", "------"), Verdict::Reject);
        assert_eq!(
            verdict(&many("-", 49), &many("-", 49)),
            Verdict::Inconclusive
        );
        assert_eq!(verdict(&many("-", 50), &many("-", 50)), Verdict::Reject);
        assert_eq!(verdict(&many("+-", 40), &many("-+", 40)), Verdict::Reject);
        assert_eq!(
            verdict(&(many("-", 96) + "++++"), &(many("+", 96) + "----")),
            Verdict::Accept
        );
        assert_eq!(
            verdict(&(many("-", 94) + "++++++"), &(many("+", 94) + "------")),
            Verdict::Reject
        );
        assert_eq!(
            verdict(&(many("-", 55) + "++++"), &(many("-", 50) + "+++++----")),
            Verdict::Inconclusive
        );
    }

    #[test]
    fn what_is_inconclusive_says_how_many_rows_would_settle_it() {
        // (wins, losses, rows) -> rows to give
        let cases = [
            ((5, 0, 10), 14),
            ((0, 0, 10), 50),
            ((1, 2, 49), 50),
            // 182 must decide, and half of what is given does.
            ((14, 5, 100), 364),
            ((5, 0, 17), 25),
        ];
        for ((wins, losses, rows), needed) in cases {
            assert_eq!(rows_needed(wins, losses, rows), needed, "{wins} {losses}");
        }
        let comparison = |bare: &str, new: &str| {
            let rows: Vec<usize> = (0..bare.len()).collect();
            compare(&arm_of(bare), &arm_of(new), &pairs(bare.len()), &rows, 0.05).unwrap()
        };
        assert_eq!(comparison("-----", "+++++").rows_needed, Some(6));
        assert_eq!(comparison("------", "++++++").rows_needed, None);
    }

    #[test]
    fn unpaired_arms_are_refused() {
        assert!(matches!(
            compare(&arm_of("+"), &arm_of("++"), &pairs(1), &[0], 0.05),
            Err(EvaluateError::Unpaired { left: 1, right: 2 })
        ));
    }

    #[test]
    fn only_the_rows_of_the_gate_decide() {
        let (bare, new) = (
            arm_of(&"-".repeat(20)),
            arm_of(&("+".repeat(10) + &"-".repeat(10))),
        );
        let first: Vec<usize> = (0..10).collect();
        let comparison = compare(&bare, &new, &pairs(20), &first, 0.05).unwrap();
        assert_eq!(
            (comparison.verdict, comparison.rows, comparison.wins),
            (Verdict::Accept, 10, 10)
        );
        let second: Vec<usize> = (10..20).collect();
        assert_eq!(
            compare(&bare, &new, &pairs(20), &second, 0.05)
                .unwrap()
                .verdict,
            Verdict::Inconclusive
        );
    }

    #[test]
    fn chance_in_the_right_format_is_refused() {
        let yes_or_no = |i: usize| Pair {
            prompt: format!("p{i}").into(),
            completion: if i.is_multiple_of(3) { " no" } else { "yes" }.into(),
        };
        let (pairs, rows): (Vec<Pair>, Vec<usize>) =
            ((0..60).map(yes_or_no).collect(), (0..60).collect());
        assert_eq!(
            constant(&pairs, &rows)
                .iter()
                .filter(|&&right| right)
                .count(),
            40
        );
        let bare = arm_of(&"-".repeat(60));
        let verdict = |marks: String| {
            compare(&bare, &arm_of(&marks), &pairs, &rows, 0.05)
                .unwrap()
                .verdict
        };
        assert_eq!(verdict("+-".repeat(30)), Verdict::Reject);
        assert_eq!(verdict("-++".repeat(20)), Verdict::Reject, "always yes");
        assert_eq!(verdict("+".repeat(57) + "---"), Verdict::Accept);
    }

    #[test]
    fn halves_share_no_row_where_there_are_enough() {
        let halves = Halves::of(101, &mut Rng::new(1, "halves"));
        assert_eq!((halves.gate.len(), halves.report.len()), (51, 50));
        assert!(halves.gate.iter().all(|row| !halves.report.contains(row)));
        let few = Halves::of(99, &mut Rng::new(1, "halves"));
        assert_eq!((few.gate.len(), &few.report), (99, &few.gate));
    }

    #[test]
    fn a_share_has_its_interval() {
        let arm = arm_of("++--");
        assert_eq!((arm.exact(), arm.right(), arm.rows()), (0.5, 2, 4));
        assert!(arm.interval()[0] < 0.5 && arm.interval()[1] > 0.5);
    }
}
