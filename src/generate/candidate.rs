use serde::{Deserialize, Deserializer, Serialize};

use crate::record::{Origin, Prompt, Restore, Restored};

/// An input that was generated and has not been looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    pub(super) prompt: Prompt,
    pub(super) finished: bool,
    pub(super) origin: Origin,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) intended: Option<String>,
}

impl Candidate {
    /// What was generated: the user's last turn.
    pub fn text(&self) -> &str {
        &self.prompt.text
    }

    /// The same behind the turns of a seed.
    pub fn prompt(&self) -> &Prompt {
        &self.prompt
    }

    /// The model ended the line by itself.
    pub fn finished(&self) -> bool {
        self.finished
    }

    /// How it was made up.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The answer that it is to get from the teacher, where it was generated for one.
    pub fn intended(&self) -> Option<&str> {
        self.intended.as_deref()
    }

    /// A line as a model wrote it.
    pub(super) fn line(text: String, finished: bool, intended: Option<String>) -> Self {
        Self {
            prompt: text.into(),
            finished,
            origin: Origin::Line,
            intended,
        }
    }

    /// A candidate for the tests of other rooms.
    #[cfg(test)]
    pub(crate) fn example(text: &str, finished: bool) -> Self {
        Self::line(text.to_owned(), finished, None)
    }

    /// The same of what a user asked.
    #[cfg(test)]
    pub(crate) fn example_asked(text: &str) -> Self {
        Self {
            origin: Origin::Asked,
            ..Self::example(text, true)
        }
    }
}

/// What users asked, as candidates beside those that are generated.
pub fn asked(prompts: impl IntoIterator<Item = Prompt>) -> Vec<Candidate> {
    let candidate = |prompt| Candidate {
        prompt,
        finished: true,
        origin: Origin::Asked,
        intended: None,
    };
    prompts.into_iter().map(candidate).collect()
}

/// A candidate, as the journal keeps it.
#[derive(Deserialize)]
#[serde(remote = "Candidate")]
struct Stored {
    prompt: Prompt,
    finished: bool,
    origin: Origin,
    #[serde(default)]
    intended: Option<String>,
}

impl Restored for Candidate {
    fn restore<'de, D: Deserializer<'de>>(from: D, _: Restore) -> Result<Self, D::Error> {
        Stored::deserialize(from)
    }
}
