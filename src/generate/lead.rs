//! Answers that inputs are drawn behind.
//!
//! The teacher's answers say what a task is about, and a base model that has seen `answer: input` a
//! few times writes an input for an answer.

/// Characters of an answer that a list can show.
const LABEL_CHARS_MAX: usize = 60;
const OBJECT_CHARS_MAX: usize = 400;

/// An answer that an input is drawn for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lead {
    /// One of few that many inputs share.
    Label(String),
    /// A JSON object put together of what others hold. Whether the input says all of it is for the
    /// teacher to see: its own answer counts.
    Object(String),
}

impl Lead {
    /// A list of single lines can show such an answer.
    pub(super) fn fits(&self, answer: &str) -> bool {
        let chars_max = match self {
            Self::Label(_) => LABEL_CHARS_MAX,
            Self::Object(_) => OBJECT_CHARS_MAX,
        };
        !answer.is_empty() && !answer.contains('\n') && answer.chars().count() <= chars_max
    }

    /// It can be put into a line.
    pub(super) fn is_usable(&self) -> bool {
        self.fits(self.answer())
    }

    fn answer(&self) -> &str {
        let (Self::Label(answer) | Self::Object(answer)) = self;
        answer
    }

    /// What a draw begins with.
    pub(super) fn opening(&self) -> String {
        format!("{}:", self.answer())
    }

    /// The answer that the input must get.
    pub(super) fn intended(&self) -> Option<String> {
        match self {
            Self::Label(label) => Some(label.clone()),
            Self::Object(_) => None,
        }
    }

    /// The input in what was drawn.
    pub(super) fn input<'t>(&self, drawn: &'t str) -> &'t str {
        let drawn = drawn.trim_start();
        drawn.strip_prefix(&self.opening()).unwrap_or(drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_stands_behind_its_answer() {
        let (label, object) = (
            Lead::Label("a b".into()),
            Lead::Object("{\"x\": \"a: b\"}".into()),
        );
        let cases = [
            (&label, "a b: go on", " go on"),
            (&label, " go on", "go on"),
            (&object, "{\"x\": \"a: b\"}: go: on", " go: on"),
        ];
        for (lead, drawn, input) in cases {
            assert_eq!(lead.input(drawn), input, "{drawn}");
        }
        assert_eq!(label.intended().as_deref(), Some("a b"));
        assert_eq!(object.intended(), None);
        assert!(!Lead::Label("x".repeat(61)).is_usable());
        assert!(Lead::Object("x".repeat(61)).is_usable());
    }
}
