//! What is minimized, and what a teacher says about each token.

use crate::error::TrainError;
use crate::keep::Keep;
use crate::pack::Example;

/// What a step minimizes, as a mean over completion tokens by their weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Objective {
    /// −ln p(label).
    #[default]
    Text,
    /// KL(teacher ‖ student) over the whole vocabulary, from one vector a token ([`Condensed`]).
    ///
    /// fails: where anything but a scale stands between the output matrix and the logits: the
    /// vector is not the whole signal there.
    Condensed,
    /// A divergence from a teacher's probabilities, times the square of the temperature, so that
    /// gradients keep their size.
    ///
    /// The teacher's probabilities are taken at that temperature too. `Teacher::Likeliest` compares
    /// its words one by one and the rest of both vocabularies as one word.
    ///
    /// source: Hinton, Vinyals, Dean 2015
    Match {
        divergence: Divergence,
        temperature: f32,
    },
}

/// How far the student is from the teacher.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Divergence {
    /// KL(teacher ‖ student).
    Forward,
    /// KL(student ‖ teacher); teacher probabilities count as `PROBABILITY_MIN` at least.
    Reverse,
    /// b KL(teacher ‖ m) + (1 − b) KL(student ‖ m) with m = b teacher + (1 − b) student.
    ///
    /// source: Agarwal et al. 2024 (GKD)
    JensenShannon { teacher: f32 },
}

/// What a teacher says about the completion tokens of one example, in their order.
#[derive(Clone, Debug, PartialEq)]
pub enum Teacher {
    Condensed(Vec<Condensed>),
    /// Some words of each token's distribution, each once, and their probabilities.
    Likeliest(Vec<Vec<(i32, f32)>>),
    /// shapes: outputs rows of vocabulary
    All(Vec<Vec<f32>>),
}

/// A distribution p over the student's vocabulary as the student's head sees it.
///
/// source: the gradient of KL(p ‖ softmax(W h)) for h is Wᵀ softmax(W h) − Wᵀ p
#[derive(Clone, Debug, PartialEq)]
pub struct Condensed {
    /// Wᵀ p, times the scale of the logits where the model has one.
    pub vector: Vec<f32>,
    /// Σ p ln p, so that the loss is the divergence and not just parallel to it.
    pub negative_entropy: f32,
}

/// Least probability of a teacher that the reverse divergence believes in.
pub const PROBABILITY_MIN: f32 = 1e-10;
/// Least probability of a student under a logarithm.
pub(crate) const TINY: f32 = 1e-30;

/// An objective with the shape of its signals: what a program is built for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Goal {
    pub objective: Objective,
    /// Words of each token's `Teacher::Likeliest`; 0 for `Teacher::All`.
    pub width: usize,
    /// units: bytes that logits and what is made of them may take at one time.
    pub bytes: usize,
    /// Share of the inputs of each A that a training step leaves out.
    pub dropout: f32,
    pub keep: Keep,
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

impl Objective {
    /// fails: a temperature or share that no divergence has.
    pub(crate) fn check(self) -> Result<(), TrainError> {
        let refuse = |reason: String| Err(TrainError::Objective { reason });
        let Self::Match {
            divergence,
            temperature,
        } = self
        else {
            return Ok(());
        };
        if !(temperature.is_finite() && temperature > 0.0) {
            return refuse(format!("a temperature of {temperature}"));
        }
        match divergence {
            Divergence::JensenShannon { teacher } if !(teacher > 0.0 && teacher < 1.0) => {
                refuse(format!("a teacher's share of {teacher}"))
            }
            _ => Ok(()),
        }
    }
}

impl Divergence {
    /// The divergence between two distributions over the same words.
    pub(crate) fn between(self, words: impl Iterator<Item = (f64, f64)>) -> f64 {
        let log_ratio = |a: f64, b: f64| {
            if a == 0.0 {
                0.0
            } else {
                a * (a / b.max(f64::from(TINY))).ln()
            }
        };
        words
            .map(|(teacher, student)| match self {
                Self::Forward => log_ratio(teacher, student),
                Self::Reverse => log_ratio(student, teacher.max(f64::from(PROBABILITY_MIN))),
                Self::JensenShannon { teacher: share } => {
                    let share = f64::from(share);
                    let middle = share * teacher + (1.0 - share) * student;
                    share * log_ratio(teacher, middle) + (1.0 - share) * log_ratio(student, middle)
                }
            })
            .sum()
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
            return Err(
                "its teacher says nothing of a token; give that token any word and the weight 0",
            );
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
