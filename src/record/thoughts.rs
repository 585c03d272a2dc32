/// What models write around what they think before they answer.
const THOUGHT: [&str; 2] = ["<think>", "</think>"];

/// An answer without what the model thought first, and whether it thought at all. A template may
/// have opened the thought already.
pub fn without_thoughts(text: &str) -> (&str, bool) {
    let [open, close] = THOUGHT;
    match text.split_once(close) {
        Some((thought, answer)) => {
            let thought = thought.trim_start();
            let thought = thought.strip_prefix(open).unwrap_or(thought);
            (answer.trim_start(), !thought.trim().is_empty())
        }
        None => (text, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_thought_is_no_answer() {
        let cases = [
            (" yes ", (" yes ", false)),
            ("<think>\n\n</think>\n\nyes", ("yes", false)),
            ("<think>why</think>yes", ("yes", true)),
            ("why not</think>\nyes", ("yes", true)),
            ("<think>on and on", ("<think>on and on", false)),
        ];
        for (text, answer) in cases {
            assert_eq!(without_thoughts(text), answer, "{text}");
        }
    }
}
