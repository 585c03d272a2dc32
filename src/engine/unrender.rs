//! From a text that a chat template wrote back to the conversation.

use crate::record::{Prompt, Role, Turn};

/// Stand for what is said, while it is looked for what a template writes around it.
const MARKS: [&str; 4] = [
    "translora-system",
    "translora-first",
    "translora-answer",
    "translora-last",
];

/// What a template writes around the turns of a conversation.
struct Form {
    /// Before the system prompt, and between that and the first user's turn; none where the
    /// conversation has no system prompt.
    system: Option<[String; 2]>,
    /// Before the first user's turn, where there is no system prompt.
    before: String,
    /// Behind a user's turn that was answered, and behind its answer.
    between: [String; 2],
    /// Behind the last user's turn.
    after: String,
}

impl Form {
    /// Have a template write marks.
    fn of(with_system: bool, render: &dyn Fn(&[Turn]) -> Option<String>) -> Option<Self> {
        let roles = [Role::System, Role::User, Role::Assistant, Role::User];
        let turns = roles.into_iter().zip(MARKS);
        let turns = turns.map(|(role, mark)| Turn::new(role, mark));
        let turns: Vec<Turn> = turns.skip(usize::from(!with_system)).collect();
        let written = render(&turns)?;
        let mut rest = written.as_str();
        let mut pieces = Vec::new();
        for turn in &turns {
            let (piece, behind) = rest.split_once(turn.content.as_str())?;
            pieces.push(piece.to_owned());
            rest = behind;
        }
        let mut pieces = pieces.into_iter();
        let system = match with_system {
            true => Some([pieces.next()?, pieces.next()?]),
            false => None,
        };
        Some(Self {
            before: if with_system {
                String::new()
            } else {
                pieces.next()?
            },
            system,
            between: [pieces.next()?, pieces.next()?],
            after: rest.to_owned(),
        })
    }

    /// The turns of a text of this form.
    fn turns(&self, text: &str) -> Option<Vec<Turn>> {
        let mut turns = Vec::new();
        let mut rest = text.strip_suffix(&self.after)?;
        if let Some([before, behind]) = &self.system {
            let (system, others) = rest.strip_prefix(before)?.split_once(behind)?;
            turns.push(Turn::new(Role::System, system));
            rest = others;
        } else {
            rest = rest.strip_prefix(&self.before)?;
        }
        let [asked, answered] = &self.between;
        while let Some((user, others)) = rest.split_once(asked).filter(|_| !asked.is_empty()) {
            let (answer, others) = others.split_once(answered)?;
            turns.push(Turn::new(Role::User, user));
            turns.push(Turn::new(Role::Assistant, answer));
            rest = others;
        }
        turns.push(Turn::new(Role::User, rest));
        Some(turns)
    }
}

/// The conversation that `render` writes as `text`, with or without `bos` before it. None where
/// it writes no conversation so: what is answered renders to that very text.
pub(super) fn conversation(
    text: &str,
    bos: &str,
    render: &dyn Fn(&[Turn]) -> Option<String>,
) -> Option<Prompt> {
    let plain = |text: &str| text.strip_prefix(bos).unwrap_or(text).to_owned();
    let render = |turns: &[Turn]| render(turns).map(|text| plain(&text));
    let text = plain(text);
    for with_system in [false, true] {
        let turns = Form::of(with_system, &render).and_then(|form| form.turns(&text));
        let Some(mut turns) = turns.filter(|turns| render(turns).as_ref() == Some(&text)) else {
            continue;
        };
        let last = turns.pop()?;
        return Some(Prompt {
            before: turns,
            text: last.content,
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::engine::chat::{ChatInfo, ChatOrigin, Conversations};
    use crate::engine::host::Rendering;

    fn template(text: &str) -> impl Fn(&[Turn]) -> Option<String> {
        let info = ChatInfo {
            text: text.to_owned(),
            origin: ChatOrigin::Plain,
        };
        let chat = Conversations::new(info, ["<s>", "</s>"], &Map::new());
        move |turns| {
            let rendering = Rendering {
                answer: true,
                ..Rendering::default()
            };
            let messages = serde_json::to_value(turns).expect("turns are JSON");
            chat.render(&messages, &rendering).ok()
        }
    }

    #[test]
    fn what_a_template_wrote_is_read_back() {
        let system = || Turn::new(Role::System, "be brief");
        let talk = || {
            [
                Turn::new(Role::User, "one"),
                Turn::new(Role::Assistant, "two"),
            ]
        };
        let prompts = [
            Prompt::from("play some jazz"),
            Prompt::from("two lines\nof text"),
            Prompt::behind(&[system()], "play some jazz"),
            Prompt::behind(&talk(), "three"),
            Prompt::behind(&[&[system()], talk().as_slice()].concat(), "three"),
        ];
        for name in [
            "chatml",
            "llama3",
            "gemma",
            "phi3",
            "mistral-v7",
            "zephyr",
            "deepseek",
        ] {
            let render = template(translora_chat::format(name).expect(name));
            for prompt in &prompts {
                let Some(text) = render(&prompt.turns()) else {
                    continue;
                };
                let found = conversation(&text, "<s>", &render);
                let found = found.unwrap_or_else(|| panic!("{name}: {text}"));
                assert_eq!(render(&found.turns()), Some(text), "{name}");
                // Where a template has no system turn, its text is the beginning of a user's.
                if name != "gemma" || !prompt.has_system() {
                    assert_eq!(&found, prompt, "{name}");
                }
            }
        }
    }

    #[test]
    fn what_it_did_not_write_is_none() {
        let render = template(translora_chat::format("chatml").expect("it is one"));
        let whole = render(&Prompt::from("play").turns()).expect("it renders");
        for text in [
            "play some jazz",
            "",
            &whole[1..],
            &whole[..whole.len() - 1],
            &format!("{whole}I will"),
            &whole.replace("user", "tool"),
        ] {
            assert_eq!(conversation(text, "<s>", &render), None, "{text}");
        }
        assert!(conversation(&format!("<s>{whole}"), "<s>", &render).is_some());
        let refuses = |_: &[Turn]| None;
        assert_eq!(conversation(&whole, "", &refuses), None);
    }
}
