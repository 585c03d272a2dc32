use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The longest row. units: bytes of its line
pub const ROW_BYTES_MAX: usize = 64 << 10;

/// Who speaks in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The system prompt.
    System,
    /// Who asks.
    User,
    /// The model.
    Assistant,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A conversation that ends with a user's turn. The chat template is no part of it.
    Turns(Vec<Turn>),
    /// The text that the model went on from, the chat template and its marks included.
    Text(String),
}

impl Asked {
    /// A conversation, where it ends with a user's turn that says something.
    pub fn of_turns(turns: Vec<Turn>) -> Option<Self> {
        let last = turns.last()?;
        let asks = last.role == Role::User && !last.content.trim().is_empty();
        asks.then_some(Self::Turns(turns))
    }

    /// The text that a model went on from, where it says something.
    pub fn of_text(text: String) -> Option<Self> {
        (!text.trim().is_empty()).then_some(Self::Text(text))
    }
}

/// A prompt that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// When it came. units: seconds since 1970
    pub at: u64,
    /// When it is erased; from then on it is no row. units: seconds since 1970
    pub until: u64,
    /// SHA-256 of the adapter's file, in hexadecimal.
    pub sha256: String,
    /// What was asked.
    pub asked: Asked,
    /// What the adapter answered, where that is kept.
    pub answer: Option<String>,
}

/// A row as a line has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    at: u64,
    until: u64,
    sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prompt: Option<Vec<Turn>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
}

impl Row {
    /// The row as a line, with its line feed.
    pub(crate) fn to_line(&self) -> Vec<u8> {
        let (prompt, text) = match &self.asked {
            Asked::Turns(turns) => (Some(turns.clone()), None),
            Asked::Text(text) => (None, Some(text.clone())),
        };
        let line = Line {
            at: self.at,
            until: self.until,
            sha256: self.sha256.clone(),
            prompt,
            text,
            answer: self.answer.clone(),
        };
        // Numbers and texts: nothing in it that JSON has not.
        let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// fails: with the reason why this is no row
    pub(crate) fn of_line(line: &[u8]) -> Result<Self, String> {
        let line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let asked = match (line.prompt, line.text) {
            (Some(turns), None) => {
                Asked::of_turns(turns).ok_or("\"prompt\" does not end with a user's turn")?
            }
            (None, Some(text)) => Asked::of_text(text).ok_or("\"text\" is empty")?,
            _ => return Err("it has not one of \"prompt\" and \"text\"".into()),
        };
        let is_hash = line.sha256.len() == 64 && line.sha256.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_hash {
            return Err("\"sha256\" is not 64 hexadecimal digits".into());
        }
        Ok(Self {
            at: line.at,
            until: line.until,
            sha256: line.sha256,
            asked,
            answer: line.answer,
        })
    }

    /// The same for prompts that differ in no more than case and white space.
    pub(crate) fn rank(&self, seed: u64) -> Rank {
        let mut hash = Sha256::new();
        hash.update(seed.to_le_bytes());
        let mut take = |kind: u8, text: &str| {
            hash.update([kind]);
            for word in text.split_whitespace() {
                hash.update(word.to_lowercase());
                hash.update([0]);
            }
        };
        match &self.asked {
            Asked::Turns(turns) => turns
                .iter()
                .for_each(|turn| take(turn.role as u8 + 1, &turn.content)),
            Asked::Text(text) => take(0xff, text),
        }
        Rank(hash.finalize().into())
    }
}

/// Where a prompt stands in the order of the sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank([u8; 32]);
