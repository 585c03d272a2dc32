use serde::{Deserialize, Serialize};

/// One line of a data file: what a user says and what the model should answer (the chat template is
/// not part of either).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pair {
    /// What the model is asked.
    pub prompt: String,
    /// What it is to answer; empty where that is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub completion: String,
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
