use serde::{Deserialize, Serialize};

/// The yes-or-no question a discriminator was trained on. It travels inside the kit, so that
/// filtering asks what training asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Text with one `{input}`.
    pub template: String,
    /// The answer for an input of the data set.
    pub yes: String,
    /// The answer for any other.
    pub no: String,
}

impl Question {
    /// The paper's question about one data set. source: Trans-LoRA, section 3.2.
    pub fn about(dataset: &str) -> Self {
        Self {
            template: format!("{{input}}\nIs the above question from {dataset} dataset?"),
            yes: "yes".into(),
            no: "no".into(),
        }
    }

    /// The prompt that asks about `input`.
    pub fn ask(&self, input: &str) -> String {
        self.template.replacen("{input}", input, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_asked_about_once() {
        let question = Question::about("ticket");
        assert_eq!(
            question.ask("a {input} b"),
            "a {input} b\nIs the above question from ticket dataset?"
        );
    }
}
