use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Who speaks in a turn of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The system prompt.
    System,
    /// Who asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// Its name, as chat templates have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Turn {
    /// A turn of `role`.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
        }
    }
}

/// What a model is to answer: a user's turn, behind a system prompt and earlier turns where there
/// are any. The chat template is no part of it.
///
/// In JSON it is the text alone, or a list of turns where there is more than the text.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prompt {
    /// The system prompt and the turns before the last, in order.
    pub before: Vec<Turn>,
    /// The user's last turn.
    pub text: String,
}

impl Prompt {
    /// A prompt behind the turns of another.
    pub fn behind(before: &[Turn], text: impl Into<String>) -> Self {
        Self {
            before: before.to_vec(),
            text: text.into(),
        }
    }

    /// All turns, the user's last one included.
    pub fn turns(&self) -> Vec<Turn> {
        let last = Turn::new(Role::User, self.text.clone());
        self.before.iter().cloned().chain([last]).collect()
    }

    /// Everything that is said, turn by turn.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let before = self.before.iter().map(|turn| turn.content.as_str());
        before.chain([self.text.as_str()])
    }

    /// Everything that is said, as one text with a line for each turn.
    pub fn whole(&self) -> Cow<'_, str> {
        if self.before.is_empty() {
            return Cow::Borrowed(&self.text);
        }
        Cow::Owned(self.texts().collect::<Vec<_>>().join("\n"))
    }

    /// It has a system prompt.
    pub fn has_system(&self) -> bool {
        self.before.iter().any(|turn| turn.role == Role::System)
    }
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Self {
            before: Vec::new(),
            text,
        }
    }
}

/// As a person reads it: the text, or a paragraph for each turn with who speaks.
impl fmt::Display for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for turn in &self.before {
            writeln!(f, "{}: {}", turn.role.name(), turn.content)?;
        }
        if !self.before.is_empty() {
            write!(f, "{}: ", Role::User.name())?;
        }
        f.write_str(&self.text)
    }
}

/// As JSON has it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Turns(Vec<Turn>),
}

impl Serialize for Prompt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.before.is_empty() {
            self.text.serialize(serializer)
        } else {
            self.turns().serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Written::deserialize(from)? {
            Written::Text(text) => Ok(text.into()),
            Written::Turns(mut turns) => match turns.pop() {
                Some(Turn {
                    role: Role::User,
                    content,
                }) => Ok(Self {
                    before: turns,
                    text: content,
                }),
                _ => Err(de::Error::custom("the last turn is not a user's")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_a_text_or_a_list_of_turns() {
        let plain: Prompt = "p".into();
        let system = Turn::new(Role::System, "s");
        let talk = Prompt::behind(&[system], "p");
        let cases = [
            (&plain, r#""p""#, "p"),
            (
                &talk,
                r#"[{"role":"system","content":"s"},{"role":"user","content":"p"}]"#,
                "system: s\nuser: p",
            ),
        ];
        for (prompt, json, shown) in cases {
            assert_eq!(serde_json::to_string(prompt).unwrap(), json);
            assert_eq!(&serde_json::from_str::<Prompt>(json).unwrap(), prompt);
            assert_eq!(prompt.to_string(), shown);
        }
        assert_eq!((plain.whole(), talk.whole()), ("p".into(), "s\np".into()));
    }

    #[test]
    fn a_list_that_ends_with_another_turn_is_no_prompt() {
        for json in ["[]", r#"[{"role":"assistant","content":"a"}]"#, "7"] {
            assert!(serde_json::from_str::<Prompt>(json).is_err(), "{json}");
        }
    }
}
