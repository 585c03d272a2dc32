//! What is minimized, and what a teacher says about each token.

use crate::error::TrainError;

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
        /// Which.
        divergence: Divergence,
        /// What the logits are divided by; 1 leaves them as they are. bounds: above 0.
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
    JensenShannon {
        /// b, the teacher's share of the mixture. bounds: between 0 and 1, without either.
        teacher: f32,
    },
}

/// What a teacher says about the completion tokens of one example, in their order.
#[derive(Clone, Debug, PartialEq)]
pub enum Teacher {
    /// For `Objective::Condensed`; see `Trainer::condense`.
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
