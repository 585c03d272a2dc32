//! Ask the teacher: the source base with its adapter answers every kept input, greedily or by what
//! most of several drawn answers agree on ([`consistent()`]).
//!
//! Where the filter needed the answer already, it is used, and the model does not answer twice. An
//! answer that is empty or does not end rejects the input with a reason. What the teacher thinks of
//! each token becomes soft labels for the student's tokens ([`align()`], [`matched`], [`shifted`]).
//!
//! Refuses to know: how inputs were generated or filtered. Called by the pipeline; `distill` imports
//! [`Labeled`].

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::engine::{Answer, EngineError, Label, Monitor, SoftLabels, With};
use crate::filter::Kept;
use crate::record::{
    Blame, Cancelled, Fault, Pair, Prompt, Remedy, Restore, Restored, without_thoughts,
};

mod align;
mod consistent;
mod soft;

pub use align::{Aligned, align, same};
pub use consistent::{Draws, consistent};
pub use soft::{divergence_from, matched, shifted, weights, words_of};

/// An input with the teacher's answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Labeled {
    prompt: Prompt,
    completion: String,
    confidence: f64,
    log_probability: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<SoftLabels>,
    /// The teacher thought before it answered, and that was cut off.
    thought: bool,
}

impl Labeled {
    /// The teacher thought before it answered; what it thought is not learnt.
    pub fn thought(&self) -> bool {
        self.thought
    }

    /// The input, with the turns before it.
    pub fn prompt(&self) -> &Prompt {
        &self.prompt
    }

    /// The input itself: the user's last turn.
    pub fn text(&self) -> &str {
        &self.prompt.text
    }

    /// The teacher's answer.
    pub fn completion(&self) -> &str {
        &self.completion
    }

    /// Both, to train or to judge on.
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

    /// Mean log-probability of a token of the teacher's greedy answer. units: nats
    pub fn log_probability(&self) -> f64 {
        self.log_probability
    }

    /// What the student is to learn of each token, where that is more than the text.
    pub fn labels(&self) -> Option<&SoftLabels> {
        self.labels.as_ref()
    }

    /// The same with soft labels for the student's tokens.
    pub fn with_labels(self, labels: SoftLabels) -> Self {
        Self {
            labels: Some(labels),
            ..self
        }
    }

    /// With the teacher's greedy answer.
    fn greedy(prompt: &Prompt, completion: &str) -> Self {
        Self {
            prompt: prompt.clone(),
            completion: completion.to_owned(),
            confidence: 1.0,
            log_probability: 0.0,
            labels: None,
            thought: false,
        }
    }
}

/// A labelled input, as the journal keeps it.
#[derive(Deserialize)]
#[serde(remote = "Labeled")]
struct Stored {
    prompt: Prompt,
    completion: String,
    confidence: f64,
    log_probability: f64,
    #[serde(default)]
    labels: Option<SoftLabels>,
    #[serde(default)]
    thought: bool,
}

impl Restored for Labeled {
    fn restore<'de, D: Deserializer<'de>>(from: D, _: Restore) -> Result<Self, D::Error> {
        Stored::deserialize(from)
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
    /// The engine could not do it.
    #[error("asking the teacher: {0}")]
    Engine(#[from] EngineError),
}

impl From<Cancelled> for LabelError {
    fn from(cancelled: Cancelled) -> Self {
        Self::Engine(cancelled.into())
    }
}

impl Blame for LabelError {
    fn fault(&self) -> Fault {
        let Self::Engine(error) = self;
        error.fault()
    }

    fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Engine(EngineError::Context { .. }) => Some(Remedy::raise("ctx_size")),
            Self::Engine(error) => error.remedy(),
        }
    }
}

/// Label what was kept, in its order.
pub fn label(
    teacher: &mut dyn Label,
    with: With,
    kept: &[Kept],
    tokens_max: usize,
    monitor: &mut Monitor<'_>,
) -> Result<(Vec<Labeled>, Rejections), LabelError> {
    let prompts: Vec<Prompt> = kept
        .iter()
        .filter(|kept| kept.answer().is_none())
        .map(|kept| kept.prompt().clone())
        .collect();
    let fresh = if prompts.is_empty() {
        Vec::new()
    } else {
        teacher.answer(with, &prompts, tokens_max, monitor)?
    };
    Ok(join(kept, fresh))
}

/// Label inputs whose answers all came with them; no model is needed.
pub fn label_answered(kept: &[Kept]) -> (Vec<Labeled>, Rejections) {
    join(kept, Vec::new())
}

/// Label prompts that no filter has seen; those that the teacher gives no answer to are left out.
pub fn label_prompts(
    teacher: &mut dyn Label,
    with: With,
    prompts: &[Prompt],
    tokens_max: usize,
    monitor: &mut Monitor<'_>,
) -> Result<Vec<Labeled>, LabelError> {
    let answers = teacher.answer(with, prompts, tokens_max, monitor)?;
    Ok(prompts
        .iter()
        .zip(answers)
        .filter_map(|(prompt, answer)| labeled(prompt, &answer).ok())
        .collect())
}

fn labeled(prompt: &Prompt, answer: &Answer) -> Result<Labeled, Reason> {
    let (text, thought) = without_thoughts(&answer.text);
    match text.trim() {
        _ if !answer.finished => Err(Reason::Unfinished),
        "" => Err(Reason::Empty),
        completion => Ok(Labeled {
            thought,
            log_probability: answer.log_probability / answer.tokens.max(1) as f64,
            ..Labeled::greedy(prompt, completion)
        }),
    }
}

fn join(kept: &[Kept], fresh: Vec<Answer>) -> (Vec<Labeled>, Rejections) {
    let (mut all, mut rejections, mut fresh) = (Vec::new(), Rejections::new(), fresh.into_iter());
    for kept in kept {
        let Some(answer) = kept.answer().cloned().or_else(|| fresh.next()) else {
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
            prompts: &[Prompt],
            _: usize,
            monitor: &mut Monitor<'_>,
        ) -> Result<Vec<Answer>, EngineError> {
            monitor.tick(0, prompts.len())?;
            self.0 += prompts.len();
            Ok(prompts
                .iter()
                .map(|prompt| answer(&prompt.text.to_uppercase(), prompt.text != "endless"))
                .collect())
        }
    }

    #[test]
    fn only_what_has_no_answer_is_asked() {
        let kept = [
            Kept::example("a", None),
            Kept::example("b", Some(answer(" known ", true))),
            Kept::example("endless", None),
            Kept::example("c", Some(answer("", true))),
            Kept::example("d", None),
        ];
        let mut teacher = Loud(0);
        let mut monitor = Monitor {
            cancel: &Cancel::default(),
            progress: &mut |_, _| {},
        };
        let (labeled, rejections) =
            label(&mut teacher, With::Base, &kept, 8, &mut monitor).unwrap();
        let texts: Vec<_> = labeled.iter().map(|l| (l.text(), l.completion())).collect();
        assert_eq!(texts, [("a", "A"), ("b", "known"), ("d", "D")]);
        assert_eq!(
            rejections,
            Rejections::from([(Reason::Empty, 1), (Reason::Unfinished, 1)])
        );
        assert_eq!(teacher.0, 3);
    }
}
