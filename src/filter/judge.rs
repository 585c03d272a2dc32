use serde::{Deserialize, Deserializer, Serialize};

use super::{FilterError, Reason, Valid};
use crate::engine::{AdapterId, Answer, EngineError, Label, Model, Monitor, With};
use crate::record::{Origin, Pair, Prompt, Question, Restore, Restored};

/// How valid inputs are judged.
#[derive(Clone, Debug, PartialEq)]
pub enum Judge {
    /// Ask the discriminator, a LoRA on the source base.
    Discriminator(Discriminator),
    /// Compare the source base with and without its adapter.
    Contrast {
        /// The source adapter.
        teacher: AdapterId,
        /// Tokens of an answer at most.
        tokens_max: usize,
    },
    /// The contrast, then the discriminator about what that accepted; ranked as by the contrast.
    Both {
        /// The source adapter.
        teacher: AdapterId,
        /// Tokens of an answer at most.
        tokens_max: usize,
        /// What judges second.
        discriminator: Discriminator,
    },
    /// Let everything valid through.
    None,
}

/// A LoRA on the source base that answers whether an input is real.
#[derive(Clone, Debug, PartialEq)]
pub struct Discriminator {
    /// Its LoRA on the source base.
    pub adapter: AdapterId,
    /// How it is asked.
    pub question: Question,
    /// Log-odds from which on an input passes. units: nats
    pub threshold: f64,
}

/// An input with its score and, where it was rejected, the reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    pub(super) prompt: Prompt,
    pub(super) answer: Option<Answer>,
    pub(super) score: f64,
    pub(super) rejected: Option<Reason>,
    pub(super) origin: Origin,
}

impl Judged {
    /// The user's last turn.
    pub fn text(&self) -> &str {
        &self.prompt.text
    }

    /// The teacher's answer, where it was asked.
    pub fn answer(&self) -> Option<&Answer> {
        self.answer.as_ref()
    }

    /// What it says, without white space around it; empty where the teacher was not asked.
    pub fn answer_text(&self) -> &str {
        let answer = self.answer.as_ref();
        answer.map_or("", |answer| answer.text.trim())
    }

    /// How sure the teacher is of its answer; nothing is less sure than no answer, or one without an
    /// end. units: nats, of the whole answer
    pub fn sureness(&self) -> f64 {
        let answer = self.answer.as_ref().filter(|answer| answer.finished);
        answer.map_or(f64::NEG_INFINITY, |answer| answer.log_probability)
    }

    /// What it is ranked by. units: nats
    pub fn score(&self) -> f64 {
        self.score
    }

    /// How it was made up.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Why it was rejected, where it was.
    pub fn rejected(&self) -> Option<Reason> {
        self.rejected
    }

    /// An input for the tests of other rooms.
    #[cfg(test)]
    pub(crate) fn example(text: &str, answer: &str, rejected: Option<Reason>) -> Self {
        let answer = Answer {
            text: answer.into(),
            tokens: 1,
            finished: true,
            log_probability: 0.0,
        };
        Self {
            prompt: text.into(),
            answer: Some(answer),
            score: 0.0,
            rejected,
            origin: Origin::Line,
        }
    }
}

/// A judged input, as the journal keeps it.
#[derive(Deserialize)]
#[serde(remote = "Judged")]
struct Stored {
    prompt: Prompt,
    answer: Option<Answer>,
    score: f64,
    rejected: Option<Reason>,
    origin: Origin,
}

impl Restored for Judged {
    fn restore<'de, D: Deserializer<'de>>(from: D, _: Restore) -> Result<Self, D::Error> {
        Stored::deserialize(from)
    }
}

/// Have the teacher answer texts of any kind, to see what it answers. None of them is accepted.
pub fn probe(
    teacher: &mut dyn Label,
    with: With,
    prompts: Vec<Prompt>,
    tokens_max: usize,
    monitor: &mut Monitor<'_>,
) -> Result<Vec<Judged>, EngineError> {
    let answers = teacher.answer(with, &prompts, tokens_max, monitor)?;
    let probed = |(prompt, answer)| Judged {
        prompt,
        answer: Some(answer),
        score: 0.0,
        rejected: Some(Reason::Probe),
        origin: Origin::Line,
    };
    Ok(prompts.into_iter().zip(answers).map(probed).collect())
}

impl Judge {
    /// The share of what was accepted, best first, that is good enough to choose from.
    ///
    /// How sure the adapter is of its answer tells real inputs from others far better than any
    /// threshold. The odds of a discriminator tell how near a copy of a real input is.
    pub fn good_share(&self) -> f64 {
        if self.has_answers() { 0.25 } else { 1.0 }
    }

    /// The teacher answered what was accepted.
    pub fn has_answers(&self) -> bool {
        matches!(self, Self::Contrast { .. } | Self::Both { .. })
    }

    /// Judge inputs with the source model, in their order.
    pub fn judge(
        &self,
        source: &mut dyn Model,
        inputs: &[Valid],
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<Judged>, FilterError> {
        let judged = match self {
            Self::Discriminator(discriminator) => {
                let odds = discriminator.odds(source, inputs.iter().map(Valid::text), monitor)?;
                let rejected =
                    |odds: f64| (!discriminator.passes(odds)).then_some(Reason::Discriminator);
                inputs
                    .iter()
                    .zip(odds)
                    .map(|(input, odds)| judged(input, None, odds, rejected(odds)))
                    .collect()
            }
            Self::Contrast {
                teacher,
                tokens_max,
            } => contrast(source, *teacher, *tokens_max, inputs, monitor)?,
            Self::Both {
                teacher,
                tokens_max,
                discriminator,
            } => {
                let mut all = contrast(source, *teacher, *tokens_max, inputs, monitor)?;
                let mut left: Vec<&mut Judged> = all
                    .iter_mut()
                    .filter(|judged| judged.rejected.is_none())
                    .collect();
                let odds =
                    discriminator.odds(source, left.iter().map(|judged| judged.text()), monitor)?;
                for (judged, odds) in left.iter_mut().zip(odds) {
                    judged.rejected =
                        (!discriminator.passes(odds)).then_some(Reason::Discriminator);
                }
                all
            }
            Self::None => inputs
                .iter()
                .map(|input| judged(input, None, 0.0, None))
                .collect(),
        };
        match judged.iter().find(|judged| !judged.score.is_finite()) {
            Some(odd) => Err(FilterError::NotFinite {
                prompt: odd.prompt.text.clone(),
            }),
            None => Ok(judged),
        }
    }
}

fn judged(input: &Valid, answer: Option<Answer>, score: f64, rejected: Option<Reason>) -> Judged {
    Judged {
        prompt: input.prompt().clone(),
        answer,
        score,
        rejected,
        origin: input.origin(),
    }
}

impl Discriminator {
    /// ln p(yes) − ln p(no) of each input. source: Trans-LoRA, section 3.2
    fn odds<'t>(
        &self,
        source: &mut dyn Model,
        inputs: impl Iterator<Item = &'t str>,
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<f64>, FilterError> {
        let prompts: Vec<Prompt> = inputs
            .map(|input| self.question.ask(input).into())
            .collect();
        Ok(source.preference(
            With::Adapter(self.adapter),
            &prompts,
            &self.question.yes,
            &self.question.no,
            monitor,
        )?)
    }

    fn passes(&self, odds: f64) -> bool {
        odds > self.threshold
    }
}

/// Accept if the adapter makes its own answer likelier than the base does; rank by how sure it is,
/// per token.
///
/// The contrast itself ranks badly: an adapter answers anything in its own format, so the contrast
/// is high on every input that the base would have answered otherwise. How sure the adapter is of
/// its answer tells inputs of its kind from others.
fn contrast(
    source: &mut dyn Model,
    teacher: AdapterId,
    tokens_max: usize,
    inputs: &[Valid],
    monitor: &mut Monitor<'_>,
) -> Result<Vec<Judged>, FilterError> {
    let prompts: Vec<Prompt> = inputs.iter().map(|input| input.prompt().clone()).collect();
    let answers = source.answer(With::Adapter(teacher), &prompts, tokens_max, monitor)?;
    let usable = |answer: &Answer| answer.finished && !answer.text.trim().is_empty();
    let answered = prompts
        .into_iter()
        .zip(&answers)
        .filter(|(_, answer)| usable(answer));
    let pairs: Vec<Pair> = answered
        .map(|(prompt, answer)| Pair {
            prompt,
            completion: answer.text.clone(),
        })
        .collect();
    let mut bare = source.score(With::Base, &pairs, monitor)?.into_iter();
    let mut out = Vec::with_capacity(inputs.len());
    for (input, answer) in inputs.iter().zip(answers) {
        let scored = if usable(&answer) { bare.next() } else { None };
        let Some(bare) = scored else {
            out.push(judged(input, Some(answer), 0.0, Some(Reason::NoAnswer)));
            continue;
        };
        let tokens = bare.tokens.max(1) as f64;
        let contrast = (answer.log_probability - bare.log_probability) / tokens;
        let confidence = answer.log_probability / tokens;
        out.push(judged(
            input,
            Some(answer),
            confidence,
            (contrast <= 0.0).then_some(Reason::Contrast),
        ));
    }
    Ok(out)
}
