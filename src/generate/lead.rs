//! Answers that inputs are drawn behind.
//!
//! The teacher's answers say what a task is about, and a base model that has seen `answer: input` a
//! few times writes an input for an answer. For a label the answer is there; of a JSON object the
//! model writes the rest itself, and so thinks of values that no seed has.

use serde::de::IgnoredAny;

/// Characters of an answer that a list can show.
const LABEL_CHARS_MAX: usize = 60;
const OBJECT_CHARS_MAX: usize = 400;

/// How an answer begins that an input is drawn for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lead {
    /// The whole answer.
    Label(String),
    /// A JSON object whose first key is this; the values are drawn, too.
    Key(String),
}

impl Lead {
    /// A list of single lines can show such an answer.
    pub(super) fn fits(&self, answer: &str) -> bool {
        let chars_max = match self {
            Self::Label(_) => LABEL_CHARS_MAX,
            Self::Key(_) => OBJECT_CHARS_MAX,
        };
        !answer.is_empty() && !answer.contains('\n') && answer.chars().count() <= chars_max
    }

    /// It can be put into a line.
    pub(super) fn is_usable(&self) -> bool {
        match self {
            Self::Label(label) => self.fits(label),
            Self::Key(key) => self.fits(key) && !key.chars().any(char::is_control),
        }
    }

    /// What a draw begins with.
    pub(super) fn opening(&self) -> String {
        match self {
            Self::Label(label) => format!("{label}:"),
            Self::Key(key) => format!("{{{}:", serde_json::Value::from(key.as_str())),
        }
    }

    /// The answer that the input is to get; none where nobody can say it word for word.
    pub(super) fn intended(&self) -> Option<String> {
        match self {
            Self::Label(label) => Some(label.clone()),
            Self::Key(_) => None,
        }
    }

    /// The input in what was drawn; none where the answer before it did not end.
    pub(super) fn input<'t>(&self, drawn: &'t str) -> Option<&'t str> {
        let drawn = drawn.trim_start();
        match self {
            Self::Label(_) => Some(drawn.strip_prefix(&self.opening()).unwrap_or(drawn)),
            Self::Key(_) => {
                let mut objects =
                    serde_json::Deserializer::from_str(drawn).into_iter::<IgnoredAny>();
                objects.next()?.ok()?;
                let rest = &drawn[objects.byte_offset()..];
                rest.trim_start().strip_prefix(':')
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_stands_behind_its_answer() {
        let (label, key) = (Lead::Label("a b".into()), Lead::Key("x \"y\"".into()));
        assert_eq!(
            (label.opening().as_str(), key.opening().as_str()),
            ("a b:", "{\"x \\\"y\\\"\":")
        );
        let cases = [
            (&label, "a b: go on", Some(" go on")),
            (&label, " go on", Some("go on")),
            (&key, "{\"x \\\"y\\\"\": \"1\"}: go on", Some(" go on")),
            (
                &key,
                "{\"x \\\"y\\\"\": 1, \"z\": [2]} : go: on",
                Some(" go: on"),
            ),
            (&key, "{\"x \\\"y\\\"\": 1", None),
            (&key, "{\"x \\\"y\\\"\": 1} go on", None),
            (&key, "{\"x \\\"y\\\"\": }: go on", None),
        ];
        for (lead, drawn, input) in cases {
            assert_eq!(lead.input(drawn), input, "{drawn}");
        }
        assert_eq!(label.intended().as_deref(), Some("a b"));
        assert_eq!(key.intended(), None);
    }
}
