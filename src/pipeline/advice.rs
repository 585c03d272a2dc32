//! What a transfer's numbers ask for next, and what to expect of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{TransferPlan, TransferReport};
use crate::evaluate::{Forecast, Outlook, Verdict};

/// Fidelity on inputs that were chosen to train on, below which more of them would help.
const LEARNT: f64 = 0.75;

/// A next step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "step")]
pub enum Advice {
    /// Serve the bare target.
    ServeBare,
    /// Look at what broke, and allow for it.
    FlipBudget {
        /// What would be within the budget. units: share
        share: f64,
    },
    /// Give rows with known answers.
    EvalRows {
        /// How many would settle it; none where any help.
        rows: Option<u64>,
    },
    /// Give seeds that the old adapter answers with labels or keys that were hardly taught.
    SeedsOf {
        /// These.
        names: Vec<String>,
    },
    /// Learn from more inputs.
    Samples {
        /// How many.
        samples: usize,
    },
    /// Take real requests for inputs.
    Traffic,
    /// Pack a kit while the data exists.
    Kit,
}

impl Advice {
    /// The field of the request that does it, with the value it would have, where there is one.
    pub fn field(&self) -> Option<(&'static str, String)> {
        match self {
            Self::ServeBare => Some(("objective", "delta".into())),
            Self::FlipBudget { share } => Some(("flip_budget", format!("{share:.2}"))),
            Self::EvalRows { .. } => Some(("eval", "ROWS".into())),
            Self::Samples { samples } => Some(("samples", samples.to_string())),
            Self::Traffic => Some(("harvest", "FOLDER".into())),
            Self::SeedsOf { .. } | Self::Kit => None,
        }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServeBare => f.write_str(
                "the bare target is as good as the old adapter: serve it without one, or learn \
                only what the old one changes",
            ),
            Self::FlipBudget { .. } => f.write_str(
                "look in the report at the answers it lost; a greater budget accepts as many",
            ),
            Self::EvalRows { rows: Some(rows) } => write!(
                f,
                "give rows with known answers: about {rows} would settle it"
            ),
            Self::EvalRows { rows: None } => {
                f.write_str("give rows with known answers: only those say what is right")
            }
            Self::SeedsOf { names } => write!(
                f,
                "give seeds that the old adapter answers with what was hardly taught: {}",
                names.join(", ")
            ),
            Self::Samples { .. } => f.write_str("learn from more inputs"),
            Self::Traffic => f.write_str(
                "learn from real requests that a server kept, or give many of them as seeds: \
                inputs that are generated from a few seeds stay near them",
            ),
            Self::Kit => f.write_str("pack a kit while the data still exists"),
        }
    }
}

/// What the advice follows from.
#[derive(Clone, Debug)]
pub(super) struct Facts<'a> {
    pub verdict: Verdict,
    /// No rows with known answers decided.
    pub by_teacher: bool,
    pub outlook: Outlook,
    pub wins: u64,
    pub losses: u64,
    /// Rows that decided.
    pub rows: usize,
    /// Rows that would settle it.
    pub rows_needed: Option<u64>,
    /// The old adapter is right more often than the bare target.
    pub teacher_is_better: bool,
    /// Fidelity on inputs that had been chosen to train on. units: share
    pub learnt: f64,
    pub hardly_taught: &'a [String],
    pub kit: bool,
    /// That were asked for.
    pub samples: usize,
}

impl<'a> Facts<'a> {
    /// Those of a report.
    pub fn of(report: &'a TransferReport, plan: &TransferPlan) -> Self {
        let scores = &report.scores;
        Self {
            verdict: report.verdict,
            by_teacher: scores.gate != "eval",
            outlook: report.forecast.outlook,
            wins: scores.wins,
            losses: scores.losses,
            rows: scores.gate_rows,
            rows_needed: scores.rows_needed,
            teacher_is_better: scores.source_lora > scores.target,
            learnt: scores.held_out.chosen.exact,
            hardly_taught: &report.coverage.hardly_taught,
            kit: plan.kit.is_some(),
            samples: plan.samples,
        }
    }

    /// The next steps, the most useful first; none where there is nothing to mend.
    pub fn advice(&self) -> Vec<Advice> {
        let falls_short = self.by_teacher && self.outlook != Outlook::Good;
        let mut next: Vec<Advice> = match self.verdict {
            Verdict::Accept if !falls_short => return Vec::new(),
            Verdict::Accept => Vec::new(),
            Verdict::Inconclusive => vec![Advice::EvalRows {
                rows: self.rows_needed,
            }],
            Verdict::Reject => self.after_reject().into_iter().collect(),
        };
        if !self.hardly_taught.is_empty() {
            next.push(Advice::SeedsOf {
                names: self.hardly_taught.to_vec(),
            });
        }
        if self.kit || self.learnt < LEARNT {
            next.push(Advice::Samples {
                samples: 2 * self.samples,
            });
        }
        if !self.kit {
            next.extend([Advice::Traffic, Advice::Kit]);
        }
        next
    }

    fn after_reject(&self) -> Option<Advice> {
        if self.wins > self.losses {
            let share = self.losses as f64 / self.rows.max(1) as f64;
            Some(Advice::FlipBudget { share })
        } else if !self.teacher_is_better {
            Some(Advice::ServeBare)
        } else {
            self.by_teacher.then_some(Advice::EvalRows { rows: None })
        }
    }
}

/// What to expect on real inputs where that is less than the verdict sounds like; none where it is
/// not, or where rows with known answers say it.
pub(super) fn expectation(gate: &str, forecast: &Forecast) -> Option<String> {
    let word = match forecast.outlook {
        Outlook::Good => return None,
        Outlook::Doubtful => "to fall short",
        Outlook::Poor => "to fail",
    };
    let [low, high] = forecast.range;
    (gate != "eval").then(|| {
        format!(
            "expect it {word} on real inputs: likely it keeps {:.2} of what the old adapter gains \
            ({low:.2} to {high:.2}, four runs in five)",
            forecast.likely
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_its_advice() {
        let names = ["playlist".to_owned(), "album".to_owned()];
        let all = Facts {
            verdict: Verdict::Accept,
            by_teacher: true,
            outlook: Outlook::Good,
            wins: 20,
            losses: 0,
            rows: 50,
            rows_needed: None,
            teacher_is_better: true,
            learnt: 0.9,
            hardly_taught: &[],
            kit: false,
            samples: 250,
        };
        let (reject, open) = (Verdict::Reject, Verdict::Inconclusive);
        let poor = Outlook::Poor;
        let cases: [(&str, Facts<'_>, &[&str]); 9] = [
            ("nothing to mend", all.clone(), &[]),
            (
                "rows with known answers say that it is good",
                Facts {
                    outlook: poor,
                    by_teacher: false,
                    ..all.clone()
                },
                &[],
            ),
            (
                "it learnt what it was shown, and was shown little",
                Facts {
                    outlook: poor,
                    hardly_taught: &names,
                    ..all.clone()
                },
                &[
                    "answers with what was hardly taught: playlist, album",
                    "real requests",
                    "kit",
                ],
            ),
            (
                "it did not learn what it was shown",
                Facts {
                    outlook: Outlook::Doubtful,
                    learnt: 0.4,
                    ..all.clone()
                },
                &["samples=500", "real requests", "kit"],
            ),
            (
                "from a kit",
                Facts {
                    outlook: poor,
                    kit: true,
                    ..all.clone()
                },
                &["samples=500"],
            ),
            (
                "too few rows",
                Facts {
                    verdict: open,
                    rows_needed: Some(120),
                    kit: true,
                    ..all.clone()
                },
                &["about 120 would settle it eval=ROWS", "samples=500"],
            ),
            (
                "it breaks too much",
                Facts {
                    verdict: reject,
                    losses: 10,
                    kit: true,
                    ..all.clone()
                },
                &["flip_budget=0.20", "samples=500"],
            ),
            (
                "the bare target is as good",
                Facts {
                    verdict: reject,
                    wins: 0,
                    teacher_is_better: false,
                    kit: true,
                    ..all.clone()
                },
                &["objective=delta", "samples=500"],
            ),
            (
                "it is no better, and only the teacher says so",
                Facts {
                    verdict: reject,
                    wins: 0,
                    kit: true,
                    ..all.clone()
                },
                &["only those say what is right", "samples=500"],
            ),
        ];
        for (what, facts, expected) in cases {
            let text = |advice: &Advice| match advice.field() {
                Some((field, value)) => format!("{advice} {field}={value}"),
                None => advice.to_string(),
            };
            let advice: Vec<String> = facts.advice().iter().map(text).collect();
            assert_eq!(advice.len(), expected.len(), "{what}: {advice:?}");
            for (text, part) in advice.iter().zip(expected) {
                assert!(text.contains(part), "{what}: {text}");
            }
        }
    }

    #[test]
    fn what_is_expected_is_said_in_plain_words_where_nothing_else_says_it() {
        let forecast = |outlook| Forecast {
            outlook,
            likely: 0.4,
            range: [0.2, 0.6],
        };
        let said = |gate, outlook| expectation(gate, &forecast(outlook));
        assert_eq!(
            said("synthetic", Outlook::Poor).unwrap(),
            "expect it to fail on real inputs: likely it keeps 0.40 of what the old adapter gains \
            (0.20 to 0.60, four runs in five)"
        );
        assert!(
            said("synthetic", Outlook::Doubtful)
                .unwrap()
                .contains("to fall short on real")
        );
        assert_eq!(said("synthetic", Outlook::Good), None);
        assert_eq!(said("eval", Outlook::Poor), None);
    }
}
