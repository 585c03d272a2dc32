//! Foretell how much of the old adapter's gain a new one keeps on real inputs, where no labelled
//! rows say it.
//!
//! Held-out inputs are generated like those that were trained on, so fidelity on them is no measure
//! of real ones. But the two go together. How, is fitted on runs of the laboratory for which both
//! are known: logit R = `OFFSET` + `SLOPE` · logit f, where f is the mean of the fidelity on inputs
//! of both kinds, times the share of the teacher's labels or keys that are taught at all. The range is that of the errors on tasks that were left out of the fit.
//! `scripts/lab/forecast --recorded` fits it and prints the numbers below.

use serde::{Deserialize, Serialize};

const OFFSET: f64 = 0.32;
const SLOPE: f64 = 0.86;
/// Errors of four runs in five lie between these. units: logits
const ERRORS: [f64; 2] = [-1.39, 1.93];
/// Shares of the gain below which a run is doubtful, and poor.
const DOUBTFUL: f64 = 0.75;
const POOR: f64 = 0.5;

/// What to expect of an adapter on real inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outlook {
    /// It keeps most of what the old adapter gains.
    #[default]
    Good,
    /// It falls short of the old adapter: likely it keeps less than three quarters.
    Doubtful,
    /// It fails: likely it keeps less than half.
    Poor,
}

/// The share of the old adapter's gain over the bare target that the new one keeps on real inputs,
/// as far as held-out inputs can say: 1 is all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// What follows from it.
    pub outlook: Outlook,
    /// units: share
    pub likely: f64,
    /// Four runs in five end within it. units: share
    pub range: [f64; 2],
}

impl Forecast {
    /// Foretell from held-out inputs, those that were chosen to train on and the others: of each
    /// how many the new adapter answers like the teacher, and how many there are. `taught`: the share
    /// of the labels or keys that the teacher gives, as far as one can see, that are taught.
    /// units: share
    pub fn of(held_out: [[usize; 2]; 2], taught: f64) -> Self {
        let some = held_out.into_iter().filter(|[_, rows]| *rows > 0);
        let kinds = some.clone().count().max(1) as f64;
        let rows: usize = some.clone().map(|[_, rows]| rows).sum();
        let fidelity = some
            .map(|[right, rows]| right as f64 / rows as f64)
            .sum::<f64>()
            / kinds;
        let fidelity = fidelity * taught;
        // Half a row is added on each side: no logit is infinite.
        let rows = rows as f64;
        let logit = ((fidelity * rows + 0.5) / ((1.0 - fidelity) * rows + 0.5)).ln();
        let at = |error: f64| 1.0 / (1.0 + (-(OFFSET + SLOPE * logit + error)).exp());
        let likely = at(0.0);
        Self {
            outlook: match likely {
                _ if likely < POOR => Outlook::Poor,
                _ if likely < DOUBTFUL => Outlook::Doubtful,
                _ => Outlook::Good,
            },
            likely,
            range: ERRORS.map(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_follows_fidelity_on_both_kinds_of_inputs() {
        let outlook = |held_out| Forecast::of(held_out, 1.0).outlook;
        assert_eq!(outlook([[50, 50], [50, 50]]), Outlook::Good);
        assert_eq!(outlook([[30, 50], [5, 50]]), Outlook::Poor);
        assert_eq!(outlook([[0, 50], [0, 50]]), Outlook::Poor);
        let likely = |held_out| Forecast::of(held_out, 1.0).likely;
        // Each kind counts as much, however many there are.
        assert!((likely([[20, 20], [0, 80]]) - likely([[50, 50], [0, 50]])).abs() < 1e-12);
        assert_eq!(likely([[30, 40], [0, 0]]), likely([[0, 0], [30, 40]]));
        // What was never taught is not foretold to be right.
        let untaught = Forecast::of([[50, 50], [50, 50]], 0.6).outlook;
        assert_eq!(untaught, Outlook::Doubtful);
        let mut before = -1.0;
        for right in 0..=50 {
            let Forecast {
                likely,
                range: [low, high],
                ..
            } = Forecast::of([[right, 50], [right, 50]], 1.0);
            assert!(before < likely && 0.0 < low && low < likely && likely < high && high < 1.0);
            before = likely;
        }
    }
}
