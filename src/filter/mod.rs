//! Keep the inputs that the source adapter is for, and give a reason for every rejection.
//!
//! After the same check of validity and of repetition: the contrast `log p(source+LoRA) − log
//! p(source)` of the teacher's answer (source: TiTok), a discriminator (a LoRA on the source base
//! that tells real inputs from made-up ones; source: Trans-LoRA, section 3.2), both, or none. The
//! contrast needs the teacher's answers, and they go on inside [`Kept`]: `label` has the teacher
//! answer only where there is none.
//!
//! Refuses to know: files, which model is the target. Called by the pipeline; `label` imports
//! [`Kept`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::engine::{Answer, EngineError};
use crate::record::{Blame, Fault, Prompt, Remedy};

mod answers;
mod coverage;
mod hold_out;
mod judge;
mod near;
mod script;
mod select;
mod validity;

pub use answers::{Answers, answers, hold_to};
pub use coverage::Coverage;
pub use hold_out::{HeldOut, hold_out};
pub use judge::{Discriminator, Judge, Judged, probe};
pub use near::{NEAR, near_copies};
pub use select::{Shares, select};
pub use validity::{Rules, Valid, Validity};

/// Why an input was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nothing but white space.
    Empty,
    /// Far longer than any seed, or longer than the kit's inputs.
    TooLong,
    /// Shorter than the kit's inputs.
    TooShort,
    /// Cut off at the token limit.
    Unfinished,
    /// The header of the list, or a bare number of it.
    Header,
    /// A piece of a chat template.
    Marker,
    /// Control characters.
    Control,
    /// A script or symbols that no seed has.
    Script,
    /// The same words as a seed or an earlier input.
    Repeated,
    /// Nearly the words of a seed or an earlier input.
    NearRepeat,
    /// An earlier input with other numbers.
    OtherNumbers,
    /// A long run of a seed's words.
    SeedRun,
    /// The discriminator holds it for made up.
    Discriminator,
    /// The teacher's answer was empty or did not end.
    NoAnswer,
    /// The adapter makes the answer no likelier than the base does.
    Contrast,
    /// The teacher's answer is not the one that the input was generated for.
    OtherAnswer,
    /// Text of any kind, drawn to see what the teacher answers.
    Probe,
    /// Good, but more than were needed.
    Surplus,
}

/// Rejections by reason.
pub type Rejections = BTreeMap<Reason, u64>;

/// An input that was kept, with the teacher's answer where the filter needed it.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    prompt: Prompt,
    answer: Option<Answer>,
    score: f64,
}

impl Kept {
    /// The input, with the turns before it.
    pub fn prompt(&self) -> &Prompt {
        &self.prompt
    }

    /// The input itself: the user's last turn.
    pub fn text(&self) -> &str {
        &self.prompt.text
    }

    /// The teacher's answer, where the filter needed it.
    pub fn answer(&self) -> Option<&Answer> {
        self.answer.as_ref()
    }

    /// What it was ranked by: log-odds of the discriminator, or the adapter's confidence per token.
    /// units: nats
    pub fn score(&self) -> f64 {
        self.score
    }

    /// An input for the tests of other rooms.
    #[cfg(test)]
    pub(crate) fn example(prompt: &str, answer: Option<Answer>) -> Self {
        Self {
            prompt: prompt.into(),
            answer,
            score: 1.0,
        }
    }
}

/// Why inputs could not be judged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// The engine could not do it.
    #[error("filtering inputs: {0}")]
    Engine(#[from] EngineError),
    /// A score is NaN or infinite.
    #[error(
        "the score of {prompt:?} is not a number: the source adapter or its base holds damaged \
        weights"
    )]
    NotFinite {
        /// The input that has it.
        prompt: String,
    },
}

impl Blame for FilterError {
    fn fault(&self) -> Fault {
        match self {
            Self::Engine(error) => error.fault(),
            Self::NotFinite { .. } => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Engine(error) => error.remedy(),
            Self::NotFinite { .. } => Some(Remedy::or([
                Remedy::choose_other("source_lora"),
                Remedy::choose_other("source"),
            ])),
        }
    }
}
