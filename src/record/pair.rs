use serde::{Deserialize, Serialize};

use super::Prompt;

/// One row of data: what a user says and what the model should answer. The chat template is part of
/// neither.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pair {
    /// What the model is to answer.
    pub prompt: Prompt,
    /// The right answer; empty where a row has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub completion: String,
}

impl Pair {
    /// A prompt with its answer.
    pub fn new(prompt: impl Into<Prompt>, completion: impl Into<String>) -> Self {
        Self {
            prompt: prompt.into(),
            completion: completion.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_may_lack_the_completion() {
        let pair: Pair = serde_json::from_str(r#"{"prompt": "p"}"#).unwrap();
        assert_eq!(pair.completion, "");
        assert_eq!(serde_json::to_string(&pair).unwrap(), r#"{"prompt":"p"}"#);
    }
}
