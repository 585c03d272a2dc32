use crate::record::{Pair, Prompt};

const INPUT: &str = "Input:";
const OUTPUT: &str = "Output:";

/// Examples that are shown to a model before a question.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shots(String);

impl Shots {
    /// Show these, in order. Their system prompts and earlier turns are not shown.
    pub fn new(examples: &[Pair]) -> Self {
        Self(
            examples
                .iter()
                .map(|pair| {
                    format!(
                        "{INPUT} {}\n{OUTPUT} {}\n\n",
                        pair.prompt.text.trim(),
                        pair.completion.trim()
                    )
                })
                .collect(),
        )
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The examples, then a question whose answer is to be given, behind the question's own turns.
    pub fn ask(&self, prompt: &Prompt) -> Prompt {
        let text = format!("{}{INPUT} {}\n{OUTPUT}", self.0, prompt.text.trim());
        Prompt::behind(&prompt.before, text)
    }

    /// The answer itself, of what a model goes on with.
    pub fn read(text: &str) -> &str {
        let text = text.trim();
        let text = text.strip_prefix(OUTPUT).unwrap_or(text);
        text.split(&format!("\n{INPUT}"))
            .next()
            .unwrap_or(text)
            .trim()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_the_next_example_begins() {
        let shots = Shots::new(&[Pair {
            prompt: " a".into(),
            completion: "1\n".into(),
        }]);
        let asked = shots.ask(&"b ".into());
        assert_eq!(asked.text, "Input: a\nOutput: 1\n\nInput: b\nOutput:");
        assert_eq!(
            Shots::read(" 2\nof two lines\n\nInput: c\nOutput: 3"),
            "2\nof two lines"
        );
        assert_eq!(Shots::read("Output: 2"), "2");
        assert!(Shots::new(&[]).is_empty());
    }
}
