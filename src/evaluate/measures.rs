//! What else the same pairs tell, beside the verdict.

use serde::{Deserialize, Serialize};

use super::statistics::{bootstrap, tost};
use super::{Arm, EvaluateError, Shots, paired};
use crate::engine::{EngineError, Model, Monitor, With};
use crate::record::{Pair, Prompt, Rng};

/// Two shares that differ by less than this are the same for a user.
const MARGIN: f64 = 0.05;
const P_MAX: f64 = 0.05;

/// How much of what an adapter could gain over the bare target was gained: (transferred − target) /
/// (reference − target), both of exact match on the same rows. source: the retention of
/// Trans-LoRA's tables, with an interval
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retention {
    /// 1: all was gained; 0: nothing; below: it is worse than the bare target. units: share
    pub value: f64,
    /// Percentile bootstrap over rows, 95 %.
    pub interval: [f64; 2],
}

/// Retention against a reference arm; nothing where the reference is no better than the bare
/// target.
///
/// fails: the arms answered different numbers of rows
pub fn retention(
    target: &Arm,
    transferred: &Arm,
    reference: &Arm,
    rng: &mut Rng,
) -> Result<Option<Retention>, EvaluateError> {
    paired(target, transferred)?;
    paired(target, reference)?;
    let ratio = |rows: &[usize]| {
        let right = |arm: &Arm| rows.iter().filter(|&&row| arm.correct[row]).count() as f64;
        let bare = right(target);
        let room = right(reference) - bare;
        (room > 0.0).then(|| (right(transferred) - bare) / room)
    };
    let all: Vec<usize> = (0..target.rows()).collect();
    Ok(ratio(&all)
        .zip(bootstrap(target.rows(), rng, ratio))
        .map(|(value, interval)| Retention { value, interval }))
}

/// Whether two arms are right as often, within [`Equivalence::margin`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Equivalence {
    /// units: share
    pub margin: f64,
    /// Of two one-sided tests (TOST).
    pub p_value: f64,
    /// They are, with p < 0.05.
    pub equivalent: bool,
}

/// Test whether the new adapter is right as often as the old pair.
///
/// fails: the arms answered different numbers of rows
pub fn equivalence(source: &Arm, transferred: &Arm) -> Result<Equivalence, EvaluateError> {
    paired(source, transferred)?;
    let [wins, losses] = flips(source, transferred, 0..source.rows());
    let p_value = tost(wins, losses, source.rows() as u64, MARGIN);
    Ok(Equivalence {
        margin: MARGIN,
        p_value,
        equivalent: p_value < P_MAX,
    })
}

/// Of these rows, those that only the second arm got right, and those that only the first did.
pub(super) fn flips(first: &Arm, second: &Arm, rows: impl IntoIterator<Item = usize>) -> [u64; 2] {
    let mut count = [0, 0];
    for row in rows {
        match (first.correct[row], second.correct[row]) {
            (false, true) => count[0] += 1,
            (true, false) => count[1] += 1,
            _ => {}
        }
    }
    count
}

/// Row by row, whether the bare model is right when it is shown examples first; nothing where a
/// prompt is too long for the context.
///
/// What a user could have had without any adapter. A base model goes on with a next example, so its
/// answer ends where that begins.
pub fn with_shots(
    model: &mut dyn Model,
    shots: &Shots,
    rows: &[Pair],
    tokens_max: usize,
    monitor: &mut Monitor<'_>,
) -> Result<Option<Vec<bool>>, EvaluateError> {
    let prompts: Vec<Prompt> = rows.iter().map(|row| shots.ask(&row.prompt)).collect();
    if shots.is_empty()
        || rows.is_empty()
        || prompts
            .iter()
            .any(|prompt| prompt.texts().any(|text| model.check_text(text).is_err()))
    {
        return Ok(None);
    }
    // A few tokens more than the longest right answer: nothing that goes on after them is right.
    let longest = rows
        .iter()
        .map(|row| row.completion.trim().len())
        .max()
        .unwrap_or(0);
    let answers = match model.answer(With::Base, &prompts, tokens_max.min(longest + 8), monitor) {
        Err(EngineError::Context { .. }) => return Ok(None),
        answers => answers?,
    };
    Ok(Some(
        answers
            .iter()
            .zip(rows)
            .map(|(answer, row)| Shots::read(&answer.text) == row.completion.trim())
            .collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::tests::arm_of;

    #[test]
    fn retention_is_the_share_of_the_possible_gain() {
        let (bare, new, teacher) = (
            "-".repeat(80),
            "+".repeat(60) + &"-".repeat(20),
            "+".repeat(80),
        );
        let of = |reference: &str| {
            retention(
                &arm_of(&bare),
                &arm_of(&new),
                &arm_of(reference),
                &mut Rng::new(1, "test"),
            )
            .unwrap()
        };
        let found = of(&teacher).unwrap();
        assert_eq!(found.value, 0.75);
        assert!(
            found.interval[0] > 0.6 && found.interval[1] < 0.9,
            "{found:?}"
        );
        assert_eq!(of(&bare), None);
        assert!(
            retention(
                &arm_of("+"),
                &arm_of("++"),
                &arm_of("+"),
                &mut Rng::new(1, "test")
            )
            .is_err()
        );
    }

    #[test]
    fn equivalence_is_of_the_pairs() {
        let (old, new) = ("+".repeat(300), "+".repeat(297) + "---");
        assert!(
            equivalence(&arm_of(&old), &arm_of(&new))
                .unwrap()
                .equivalent
        );
        let worse = "+".repeat(260) + &"-".repeat(40);
        assert!(
            !equivalence(&arm_of(&old), &arm_of(&worse))
                .unwrap()
                .equivalent
        );
    }
}
