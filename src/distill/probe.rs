use serde::{Deserialize, Serialize};

use crate::engine::{EngineError, Trainer};
use crate::record::Pair;

/// Rows that are probed at most, and completion tokens of each.
const ROWS_MAX: usize = 4;
const TOKENS_MAX: usize = 8;
/// Logits that are kept of one token: evenly spaced over the vocabulary, and the highest.
const LOGITS: usize = 64;

/// What the trained graph says of one row that it was not trained on: whoever loads the adapter
/// elsewhere can compare.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// The row.
    pub row: Pair,
    tokens: Vec<Logits>,
}

/// Some logits of one token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Logits {
    vocabulary: usize,
    highest: usize,
    values: Vec<f32>,
}

impl Probe {
    /// Ask a trainer about the first of `rows`. It holds no other examples afterwards.
    pub(super) fn all(trainer: &mut dyn Trainer, rows: &[Pair]) -> Result<Vec<Self>, EngineError> {
        let rows = &rows[..rows.len().min(ROWS_MAX)];
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        trainer.load(rows)?;
        rows.iter()
            .enumerate()
            .map(|(i, row)| Ok(Self::of(row.clone(), &trainer.logits(i)?)))
            .collect()
    }

    fn of(row: Pair, logits: &[Vec<f32>]) -> Self {
        Self {
            row,
            tokens: logits
                .iter()
                .take(TOKENS_MAX)
                .map(|logits| Logits::of(logits, highest(logits)))
                .collect(),
        }
    }

    /// Count the tokens that were kept of it.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// The largest difference of a logit, as a share of the largest logit; nothing where tokens or
    /// vocabularies differ.
    ///
    /// shapes: `logits` (completion tokens, vocabulary)
    pub fn error(&self, logits: &[Vec<f32>]) -> Option<f64> {
        let (mut worst, mut largest) = (0.0_f64, f64::MIN_POSITIVE);
        for (i, kept) in self.tokens.iter().enumerate() {
            let other = logits
                .get(i)
                .filter(|other| other.len() == kept.vocabulary)?;
            for (&a, b) in kept
                .values
                .iter()
                .zip(Logits::of(other, kept.highest).values)
            {
                let difference = f64::from(a - b).abs();
                // What is no number is as wrong as can be.
                worst = worst.max(if difference.is_finite() {
                    difference
                } else {
                    f64::INFINITY
                });
                largest = largest.max(f64::from(a).abs());
            }
        }
        Some(worst / largest)
    }
}

impl Logits {
    fn of(logits: &[f32], highest: usize) -> Self {
        let stride = logits.len().div_ceil(LOGITS).max(1);
        let values = logits
            .iter()
            .step_by(stride)
            .chain(logits.get(highest))
            .copied()
            .collect();
        Self {
            vocabulary: logits.len(),
            highest,
            values,
        }
    }
}

fn highest(logits: &[f32]) -> usize {
    (0..logits.len())
        .max_by(|&i, &j| logits[i].total_cmp(&logits[j]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_measured_against_the_largest_logit() {
        let row = Pair {
            prompt: "p".into(),
            completion: "c".into(),
        };
        let mut logits = vec![vec![0.5_f32; 300], vec![0.25; 300]];
        (logits[0][7], logits[1][299]) = (4.0, -2.0);
        let probe = Probe::of(row, &logits);
        assert_eq!((probe.tokens(), probe.error(&logits)), (2, Some(0.0)));
        // A place of the grid, and the highest, which is none.
        for place in [10, 7] {
            let mut other = logits.clone();
            other[0][place] += 1.0;
            assert_eq!(probe.error(&other), Some(0.25), "{place}");
        }
        assert_eq!(probe.error(&logits[..1]), None);
        assert_eq!(probe.error(&[vec![0.5; 299], vec![0.25; 300]]), None);
        logits[1][0] = f32::NAN;
        assert_eq!(probe.error(&logits), Some(f64::INFINITY));
    }
}
