//! Make a conversation of an object: the formats, by the keys that they have.

use std::collections::BTreeMap;

use serde_json::Value;

use super::container::Object;
use crate::kit::LineFault;
use crate::record::{Role, Turn};
use crate::request::RowFormat;

/// Keys that hold what is asked, and what is answered, in the order they are looked for.
const ASKED: [&str; 6] = [
    "prompt",
    "question",
    "query",
    "instruction",
    "input",
    "user",
];
const ANSWERED: [&str; 6] = [
    "completion",
    "response",
    "answer",
    "output",
    "assistant",
    "target",
];
/// Keys that hold a list of turns.
const TURNS: [&str; 3] = ["messages", "conversations", "conversation"];

/// Keys of a row that the rows of a file are read by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// What the format is called.
    pub name: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// A list of turns under this key.
    Turns(&'static str),
    /// `instruction`, which `input` goes on, and this answer.
    Alpaca(&'static str),
    /// One key with what is asked; the answer's is known once a row has one.
    Pair(&'static str, Option<&'static str>),
}

/// Whether a CSV with these columns has rows.
pub(super) fn is_header(columns: &[String]) -> bool {
    let known = |name: &String| {
        let name = name.to_lowercase();
        ASKED.contains(&name.as_str()) || name == "text"
    };
    columns.iter().any(known)
}

impl Shape {
    /// The shape that a format names, or that the first row of a file has.
    pub fn of(format: RowFormat, row: &Row) -> Result<Self, LineFault> {
        let pair = |asked, answered| Kind::Pair(asked, Some(answered));
        let kind = match format {
            RowFormat::Auto => Self::detect(row)?,
            RowFormat::Messages => Kind::Turns("messages"),
            RowFormat::Sharegpt => Kind::Turns("conversations"),
            RowFormat::Alpaca => Kind::Alpaca("output"),
            RowFormat::PromptCompletion => pair("prompt", "completion"),
            RowFormat::PromptResponse => pair("prompt", "response"),
            RowFormat::QuestionAnswer => pair("question", "answer"),
            RowFormat::InputOutput => pair("input", "output"),
        };
        let name = match &kind {
            Kind::Turns(key) => (*key).to_owned(),
            Kind::Alpaca(answer) => format!("instruction, input and {answer}"),
            Kind::Pair(asked, None) => (*asked).to_owned(),
            Kind::Pair(asked, Some(answered)) => format!("{asked} and {answered}"),
        };
        Ok(Self { name, kind })
    }

    fn detect(row: &Row) -> Result<Kind, LineFault> {
        if let Some(key) = TURNS.into_iter().find(|key| row.has(key)) {
            return Ok(Kind::Turns(key));
        }
        let first = |keys: [&'static str; 6], but: &str| {
            keys.into_iter().find(|key| row.has(key) && *key != but)
        };
        let is_alpaca = row.has("instruction") && (row.has("input") || row.has("output"));
        if let Some(answer) = first(ANSWERED, "").filter(|_| is_alpaca) {
            return Ok(Kind::Alpaca(answer));
        }
        match first(ASKED, "") {
            Some(asked) => Ok(Kind::Pair(asked, first(ANSWERED, asked))),
            None if row.has("text") => Err(LineFault::TextOnly),
            None => Err(LineFault::NoFormat { keys: row.keys() }),
        }
    }

    /// The conversation of a row, with the answer where it has one.
    pub fn read(&mut self, row: &mut Row) -> Result<Vec<Turn>, LineFault> {
        if row.has("rejected") || (row.has("completion") && row.is_boolean("label")) {
            return Err(LineFault::Preference);
        }
        if row.is_full("tools") || row.is_full("functions") {
            return Err(LineFault::Tools);
        }
        let mut turns = row.system()?;
        turns.append(&mut row.history()?);
        match &mut self.kind {
            Kind::Turns(key) => turns.extend(row.turns(key)?),
            Kind::Alpaca(answer) => {
                let asked = row.text("instruction")?;
                let asked = asked.ok_or_else(|| LineFault::no_key("instruction"))?;
                let text = match row.optional("input")? {
                    Some(input) => format!("{asked}\n\n{input}"),
                    None => asked,
                };
                turns.push(Turn::new(Role::User, text));
                turns.extend(row.answer(answer)?);
            }
            Kind::Pair(asked, answered) => {
                turns.extend(row.asked(asked)?);
                let found = ANSWERED
                    .into_iter()
                    .find(|key| row.has(key) && key != asked);
                if let (None, Some(found)) = (&answered, found) {
                    self.name = format!("{asked} and {found}");
                    *answered = Some(found);
                }
                if let Some(answered) = answered {
                    turns.extend(row.answer(answered)?);
                }
            }
        }
        Ok(turns)
    }
}

/// The values of a row by their keys in lower case; null is as if it were not there.
pub(super) struct Row(BTreeMap<String, Value>);

impl Row {
    /// fails: two keys that differ in capitals alone
    pub fn of(object: Object) -> Result<Self, LineFault> {
        let mut values = BTreeMap::new();
        for (key, value) in object.into_iter().filter(|(_, value)| !value.is_null()) {
            let plain = key.trim().to_lowercase();
            if values.insert(plain.clone(), value).is_some() {
                let what = format!("the key {plain:?} is there twice, in capitals and without");
                return Err(LineFault::RepeatedKey { what });
            }
        }
        Ok(Self(values))
    }

    /// What was not read.
    pub fn keys(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    fn is_boolean(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(Value::is_boolean)
    }

    /// Take a key away that may be there empty; says whether it was full.
    fn is_full(&mut self, key: &str) -> bool {
        match self.0.get(key) {
            Some(Value::Array(all)) if !all.is_empty() => true,
            Some(Value::Object(all)) if !all.is_empty() => true,
            Some(Value::String(text)) if !["", "[]"].contains(&text.trim()) => true,
            _ => {
                self.0.remove(key);
                false
            }
        }
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, LineFault> {
        match self.0.remove(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() => Err(LineFault::Blank {
                key: key.to_owned(),
            }),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(LineFault::NotAString {
                key: key.to_owned(),
                found: kind(&other),
            }),
        }
    }

    /// The same where a blank text is as good as none.
    fn optional(&mut self, key: &str) -> Result<Option<String>, LineFault> {
        match self.0.get(key) {
            Some(Value::String(text)) if text.trim().is_empty() => {
                self.0.remove(key);
                Ok(None)
            }
            _ => self.text(key),
        }
    }

    fn system(&mut self) -> Result<Vec<Turn>, LineFault> {
        let found = [self.optional("system")?, self.optional("system_prompt")?];
        let turn = |text| Turn::new(Role::System, text);
        Ok(found.into_iter().flatten().take(1).map(turn).collect())
    }

    /// Earlier turns beside a pair, as lists of two texts.
    fn history(&mut self) -> Result<Vec<Turn>, LineFault> {
        let Some(Value::Array(pairs)) = self.0.remove("history") else {
            return Ok(Vec::new());
        };
        let mut turns = Vec::new();
        for (i, pair) in pairs.iter().enumerate() {
            let texts: Option<Vec<&str>> = pair
                .as_array()
                .map(|texts| texts.iter().filter_map(Value::as_str).collect());
            let Some([asked, answered]) = texts.as_deref() else {
                let what = "of \"history\" is no list of two texts".to_owned();
                return Err(LineFault::Turn { turn: i + 1, what });
            };
            turns.push(Turn::new(Role::User, *asked));
            turns.push(Turn::new(Role::Assistant, *answered));
        }
        Ok(turns)
    }

    /// What is asked: a text, or a list of turns.
    fn asked(&mut self, key: &str) -> Result<Vec<Turn>, LineFault> {
        if self.0.get(key).is_some_and(Value::is_array) {
            return self.turns(key);
        }
        let text = self.text(key)?.ok_or_else(|| LineFault::no_key(key))?;
        Ok(vec![Turn::new(Role::User, text)])
    }

    /// The answer: a text, or a list of turns.
    fn answer(&mut self, key: &str) -> Result<Vec<Turn>, LineFault> {
        let is_turns = |value: &Value| {
            let first = value.as_array().and_then(|all| all.first());
            first.is_some_and(Value::is_object)
        };
        if self.0.get(key).is_some_and(is_turns) {
            return self.turns(key);
        }
        let text = self.text(key)?;
        Ok(text
            .map(|text| Turn::new(Role::Assistant, text))
            .into_iter()
            .collect())
    }

    fn turns(&mut self, key: &str) -> Result<Vec<Turn>, LineFault> {
        let turns = match self.0.remove(key) {
            None => return Err(LineFault::no_key(key)),
            Some(Value::Array(turns)) => turns,
            Some(other) => {
                return Err(LineFault::NotTurns {
                    key: key.to_owned(),
                    found: kind(&other),
                });
            }
        };
        let mut read = Vec::with_capacity(turns.len());
        for (i, turn) in turns.into_iter().enumerate() {
            read.push(self.turn(i + 1, turn)?);
        }
        if read.is_empty() {
            return Err(LineFault::Blank {
                key: key.to_owned(),
            });
        }
        Ok(read)
    }

    /// One turn; what is not read of it stays behind in the row as `turn: key`.
    fn turn(&mut self, number: usize, turn: Value) -> Result<Turn, LineFault> {
        let wrong = |what: String| LineFault::Turn { turn: number, what };
        let Value::Object(mut turn) = turn else {
            return Err(wrong(format!("is {}, no object", kind(&turn))));
        };
        turn.retain(|_, value| !value.is_null() && value.as_array() != Some(&Vec::new()));
        if turn.contains_key("tool_calls") || turn.contains_key("function_call") {
            return Err(LineFault::Tools);
        }
        let mut take = |keys: [&str; 3]| keys.into_iter().find_map(|key| turn.remove(key));
        let role = take(["role", "from", "speaker"]);
        let content = take(["content", "value", "text"]);
        let role = match role.as_ref().map(|role| role.as_str().unwrap_or_default()) {
            None => return Err(wrong("has no \"role\"".into())),
            Some("system" | "developer") => Role::System,
            Some("user" | "human" | "prompter") => Role::User,
            Some("assistant" | "gpt" | "model" | "bot" | "chatgpt" | "bing" | "bard") => {
                Role::Assistant
            }
            Some(
                "tool" | "function" | "ipython" | "observation" | "function_call"
                | "function_response" | "tool_call" | "tool_response",
            ) => return Err(LineFault::Tools),
            Some(other) => return Err(wrong(format!("has the unknown role {other:?}"))),
        };
        let content = match content {
            None => return Err(wrong("has no \"content\"".into())),
            Some(Value::String(text)) => text,
            Some(Value::Array(parts)) => text_of(&parts).map_err(wrong)?,
            Some(other) => return Err(wrong(format!("has {} as its content", kind(&other)))),
        };
        if content.trim().is_empty() && role != Role::System {
            return Err(wrong("is blank".into()));
        }
        let left = turn.into_iter().map(|(key, _)| format!("{key} of a turn"));
        self.0.extend(left.map(|key| (key, Value::Bool(true))));
        Ok(Turn { role, content })
    }
}

/// The text of a content that is written in parts.
fn text_of(parts: &[Value]) -> Result<String, String> {
    let part = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text") | None, Some(text)) => Ok(text.to_owned()),
        (kind, _) => Err(format!(
            "holds a part of the type {:?}, and only text can be learnt",
            kind.unwrap_or("none")
        )),
    };
    parts.iter().map(part).collect()
}

/// What a value is, with its article.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
