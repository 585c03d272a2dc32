//! What a program is built for: an objective, what it computes, and how.

use crate::checkpoints::Checkpoints;
use crate::error::TrainError;
use crate::objective::{Condensed, Objective, Teacher};
use crate::pack::Example;

/// What a program computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// The loss.
    Loss,
    /// That, and the gradient of each adapter matrix.
    Gradients,
    /// That, and all logits.
    Logits,
}

/// An objective with the shape of its signals: what a program is built for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Goal {
    pub objective: Objective,
    /// Words of each token's `Teacher::Likeliest`; 0 for `Teacher::All`.
    pub width: usize,
    /// units: bytes that logits and what is computed from them may take at one time.
    pub bytes: usize,
    /// Share of the inputs of each A that a training step leaves out.
    pub dropout: f32,
    pub checkpoints: Checkpoints,
    /// Products read floats as they are: no F16 copies of operands, and no weights in the logits'
    /// gradient.
    pub direct: bool,
    /// What lies below the lowest adapter is an input (`frozen`).
    pub frozen: bool,
}

impl Goal {
    /// Rows of vocabulary, F32, that one output takes at one time besides the tail's results.
    pub fn arrays(&self) -> usize {
        match (self.objective, self.width) {
            // Probabilities lie where the logits were, and their gradient where they were; our
            // kernels pack it for the product back.
            (Objective::Text | Objective::Condensed, _) => {
                if self.direct {
                    2
                } else {
                    3
                }
            }
            (Objective::Match { .. }, 0) => 7,
            (Objective::Match { .. }, _) => 4,
        }
    }

    /// The goal with the width of these examples' signals.
    ///
    /// fails: a signal that is missing, of another kind than the objective needs, or impossible.
    pub fn with(self, examples: &[Example], vocabulary: usize) -> Result<Self, TrainError> {
        let objective = self.objective;
        let mut widths = Vec::new();
        for (index, example) in examples.iter().enumerate() {
            let refuse = |reason: &str| TrainError::Example {
                index,
                reason: reason.to_owned(),
            };
            check_weights(example).map_err(refuse)?;
            match (objective, &example.teacher) {
                (Objective::Text, _) => {}
                (Objective::Condensed, Some(Teacher::Condensed(tokens))) => {
                    check_condensed(example, tokens).map_err(refuse)?;
                }
                (Objective::Match { .. }, Some(Teacher::All(tokens))) => {
                    check_all(example, tokens, vocabulary).map_err(refuse)?;
                    widths.push(0);
                }
                (Objective::Match { .. }, Some(Teacher::Likeliest(tokens))) => {
                    check_likeliest(example, tokens, vocabulary).map_err(refuse)?;
                    widths.push(tokens.iter().map(Vec::len).max().unwrap_or(1));
                }
                (_, None) => return Err(refuse("the objective needs a teacher, and it has none")),
                _ => {
                    return Err(refuse(
                        "its teacher's signal is of another kind than the objective needs",
                    ));
                }
            }
        }
        if let Some(index) = widths
            .iter()
            .position(|width| (*width == 0) != (widths[0] == 0))
        {
            return Err(TrainError::Example {
                index,
                reason: "some examples have all probabilities and some have not".into(),
            });
        }
        Ok(Self {
            width: widths.into_iter().max().unwrap_or(1),
            ..self
        })
    }
}

type Checked = Result<(), &'static str>;

fn check_weights(example: &Example) -> Checked {
    match &example.weights {
        Some(weights) if weights.len() != example.outputs() => {
            Err("it has another number of weights than completion tokens")
        }
        Some(weights)
            if weights
                .iter()
                .any(|weight| !(weight.is_finite() && *weight >= 0.0)) =>
        {
            Err("a weight is below zero or not finite")
        }
        _ => Ok(()),
    }
}

fn as_many(example: &Example, tokens: usize) -> Checked {
    if tokens == example.outputs() {
        Ok(())
    } else {
        Err("its teacher speaks of another number of tokens than its completion has")
    }
}

fn check_condensed(example: &Example, tokens: &[Condensed]) -> Checked {
    as_many(example, tokens.len())?;
    let finite = |token: &Condensed| {
        token.negative_entropy.is_finite() && token.vector.iter().all(|x| x.is_finite())
    };
    if tokens.iter().all(finite) {
        Ok(())
    } else {
        Err("its teacher's signal is not finite")
    }
}

/// Probabilities are what they should be; a little more than 1 is rounding.
fn check_sum(probabilities: &[f32], most_only: bool) -> Checked {
    let sum: f64 = probabilities.iter().map(|p| f64::from(*p)).sum();
    let possible = probabilities.iter().all(|p| (0.0..=1.0).contains(p))
        && sum < 1.001
        && (most_only || sum > 0.999);
    if possible {
        Ok(())
    } else {
        Err("its teacher's probabilities do not add up")
    }
}

fn check_all(example: &Example, tokens: &[Vec<f32>], vocabulary: usize) -> Checked {
    as_many(example, tokens.len())?;
    for token in tokens {
        if token.len() != vocabulary {
            return Err("its teacher has another vocabulary");
        }
        check_sum(token, false)?;
    }
    Ok(())
}

fn check_likeliest(example: &Example, tokens: &[Vec<(i32, f32)>], vocabulary: usize) -> Checked {
    as_many(example, tokens.len())?;
    for token in tokens {
        if token.is_empty() {
            return Err("its teacher says nothing of a token; name any word for it and weigh it 0");
        }
        let mut words: Vec<i32> = token.iter().map(|(word, _)| *word).collect();
        words.sort_unstable();
        if words.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("its teacher names a word twice");
        }
        if words[0] < 0
            || usize::try_from(words[words.len() - 1]).is_ok_and(|last| last >= vocabulary)
        {
            return Err("its teacher has another vocabulary");
        }
        check_sum(&token.iter().map(|(_, p)| *p).collect::<Vec<f32>>(), true)?;
    }
    Ok(())
}
