//! Ask the teacher: the source base with its adapter answers every kept input, greedily or by what
//! most of several drawn answers agree on ([`consistent()`]).
//!
//! Where the filter had to ask already, its answer is used and the model is not asked again. An
//! answer that is empty or does not end rejects the input with a reason. What the teacher thinks of
//! each token becomes soft labels for the student's tokens ([`align()`], [`matched`], [`shifted`]).
//!
//! Refuses to know: how inputs were made or filtered. Called by the pipeline; `distill` imports
//! [`Labeled`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::engine::{Answer, EngineError, Fault, Label, SoftLabels, Talk, With};
use crate::filter::Kept;
use crate::record::{Cancelled, Pair};

mod align;
mod consistent;
mod soft;

pub use align::{Aligned, align, same};
pub use consistent::{Draws, consistent};
pub use soft::{divergence_from, matched, shifted, weights, words_of};

/// An input with the teacher's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Labeled {
    prompt: String,
    completion: String,
    confidence: f64,
    labels: Option<SoftLabels>,
}

impl Labeled {
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    pub fn completion(&self) -> &str {
        &self.completion
    }

    pub fn pair(&self) -> Pair {
        Pair {
            prompt: self.prompt.clone(),
            completion: self.completion.clone(),
        }
    }

    /// Share of the drawn answers that are this one; 1 where the answer is the greedy one.
    pub fn confidence(&self) -> f64 {
        self.confidence
    }

    /// What the student is to learn of each token, where that is more than the text.
    pub fn labels(&self) -> Option<&SoftLabels> {
        self.labels.as_ref()
    }

    /// The same with soft labels for the student's tokens.
    pub fn taught(self, labels: SoftLabels) -> Self {
        Self {
            labels: Some(labels),
            ..self
        }
    }

    /// Read back what the journal kept; only the pipeline calls it.
    pub(crate) fn replay(prompt: String, completion: String, confidence: f64) -> Self {
        Self {
            prompt,
            completion,
            confidence,
            labels: None,
        }
    }
}

/// Why an input got no label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The teacher had nothing to say.
    Empty,
    /// The teacher did not come to an end.
    Unfinished,
    /// Too few of the teacher's drawn answers agree.
    Unsure,
}

/// Rejections by reason.
pub type Rejections = BTreeMap<Reason, u64>;

/// Why the teacher could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    #[error("asking the teacher: {0}")]
    Engine(#[from] EngineError),
}

impl From<Cancelled> for LabelError {
    fn from(cancelled: Cancelled) -> Self {
        Self::Engine(cancelled.into())
    }
}

impl LabelError {
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Engine(EngineError::Cancelled(_)))
    }

    pub fn fault(&self) -> Fault {
        let Self::Engine(error) = self;
        error.fault()
    }

    pub fn hint(&self) -> Option<String> {
        matches!(self, Self::Engine(EngineError::Context { .. }))
            .then(|| "give a larger context with -c".into())
    }
}

/// Label what was kept, in its order.
pub fn label(
    teacher: &mut dyn Label,
    with: With,
    kept: &[Kept],
    tokens_max: usize,
    talk: &mut Talk<'_>,
) -> Result<(Vec<Labeled>, Rejections), LabelError> {
    let prompts: Vec<String> = kept
        .iter()
        .filter(|kept| kept.answer().is_none())
        .map(|kept| kept.prompt().to_owned())
        .collect();
    let asked = if prompts.is_empty() {
        Vec::new()
    } else {
        teacher.answer(with, &prompts, tokens_max, talk)?
    };
    Ok(join(kept, asked))
}

/// Label inputs whose answers all came with them; no model is needed.
pub fn label_answered(kept: &[Kept]) -> (Vec<Labeled>, Rejections) {
    join(kept, Vec::new())
}

/// Label texts that no filter has seen; those that the teacher gives no answer to are left out.
pub fn label_texts(
    teacher: &mut dyn Label,
    with: With,
    texts: &[String],
    tokens_max: usize,
    talk: &mut Talk<'_>,
) -> Result<Vec<Labeled>, LabelError> {
    let answers = teacher.answer(with, texts, tokens_max, talk)?;
    Ok(texts
        .iter()
        .zip(answers)
        .filter_map(|(text, answer)| labeled(text, &answer).ok())
        .collect())
}

fn labeled(prompt: &str, answer: &Answer) -> Result<Labeled, Reason> {
    match answer.text.trim() {
        _ if !answer.finished => Err(Reason::Unfinished),
        "" => Err(Reason::Empty),
        completion => Ok(Labeled::replay(
            prompt.to_owned(),
            completion.to_owned(),
            1.0,
        )),
    }
}

fn join(kept: &[Kept], asked: Vec<Answer>) -> (Vec<Labeled>, Rejections) {
    let (mut all, mut rejections, mut asked) = (Vec::new(), Rejections::new(), asked.into_iter());
    for kept in kept {
        let Some(answer) = kept.answer().cloned().or_else(|| asked.next()) else {
            continue;
        };
        match labeled(kept.prompt(), &answer) {
            Ok(labeled) => all.push(labeled),
            Err(reason) => *rejections.entry(reason).or_default() += 1,
        }
    }
    (all, rejections)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Cancel;

    fn answer(text: &str, finished: bool) -> Answer {
        Answer {
            text: text.into(),
            tokens: 1,
            finished,
            log_probability: -1.0,
        }
    }

    /// Answers in upper case, and counts the questions.
    struct Loud(usize);

    impl Label for Loud {
        fn answer(
            &mut self,
            _: With,
            prompts: &[String],
            _: usize,
            talk: &mut Talk<'_>,
        ) -> Result<Vec<Answer>, EngineError> {
            talk.tick(0, prompts.len())?;
            self.0 += prompts.len();
            Ok(prompts
                .iter()
                .map(|prompt| answer(&prompt.to_uppercase(), prompt != "endless"))
                .collect())
        }
    }

    #[test]
    fn only_what_has_no_answer_is_asked() {
        let kept = [
            Kept::replay("a", None),
            Kept::replay("b", Some(answer(" known ", true))),
            Kept::replay("endless", None),
            Kept::replay("c", Some(answer("", true))),
            Kept::replay("d", None),
        ];
        let mut teacher = Loud(0);
        let mut talk = Talk {
            cancel: &Cancel::default(),
            progress: &mut |_, _| {},
        };
        let (labeled, rejections) = label(&mut teacher, With::Base, &kept, 8, &mut talk).unwrap();
        let texts: Vec<_> = labeled
            .iter()
            .map(|l| (l.prompt(), l.completion()))
            .collect();
        assert_eq!(texts, [("a", "A"), ("b", "known"), ("d", "D")]);
        assert_eq!(
            rejections,
            Rejections::from([(Reason::Empty, 1), (Reason::Unfinished, 1)])
        );
        assert_eq!(teacher.0, 3);
    }
}
