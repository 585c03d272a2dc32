//! Which chat template a model is used with: one rule for every command.
//!
//! What was asked for comes first, then what the adapter was made with, then the model's own. A
//! model that has none takes [`PLAIN`].

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use translora_chat::{PLAIN, TemplateError, format};
use translora_gguf::{Header, read_file};

use super::EngineError;

/// Where an adapter keeps the template that it was made with, where that is not its base's own.
pub const TEMPLATE_KEY: &str = "translora.chat_template";
/// Where a model keeps its own.
pub const MODEL_KEY: &str = "tokenizer.chat_template";
/// The longest template. units: bytes
const TEMPLATE_BYTES_MAX: u64 = 1 << 20;
/// The part of an adapter's file that is searched for its template. units: bytes
const HEADER_BYTES_MAX: u64 = 64 << 20;

/// How conversations become text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatOptions {
    /// A name of llama.cpp's, a file, or a Jinja text.
    pub template: Option<String>,
    /// Adapters that may carry a template of their own; the first that does counts.
    pub adapters: Vec<PathBuf>,
    /// The template of a kit, where no adapter carries one.
    pub kit: Option<String>,
    /// Variables of every rendering.
    pub kwargs: Map<String, Value>,
    /// What the template takes for now. units: seconds since 1970
    pub now: u64,
}

/// The template in use, and where it is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatInfo {
    /// The Jinja text.
    pub text: String,
    /// Who brought it.
    pub origin: ChatOrigin,
}

/// Who brought a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatOrigin {
    /// The request, by this name or file.
    Request(String),
    /// This adapter.
    Adapter(PathBuf),
    /// The kit.
    Kit,
    /// The model itself.
    Model,
    /// Nobody: the plain format.
    Plain,
}

impl ChatInfo {
    /// Choose by the rule, where the model's own is `model`.
    ///
    /// fails: there is no such name or file, or the file cannot be read
    pub fn choose(options: &ChatOptions, model: Option<String>) -> Result<Self, EngineError> {
        if let Some(asked) = &options.template {
            let origin = ChatOrigin::Request(asked.clone());
            return Ok(Self {
                text: named(asked)?,
                origin,
            });
        }
        for adapter in &options.adapters {
            if let Some(text) = carried(adapter) {
                return Ok(Self {
                    text,
                    origin: ChatOrigin::Adapter(adapter.clone()),
                });
            }
        }
        let (text, origin) = match (&options.kit, model) {
            (Some(text), _) => (text.clone(), ChatOrigin::Kit),
            (None, Some(text)) => (text, ChatOrigin::Model),
            (None, None) => (PLAIN.to_owned(), ChatOrigin::Plain),
        };
        Ok(Self { text, origin })
    }

    /// What an adapter must carry so that others use it with this template; nothing where they do
    /// anyway.
    pub fn carried(&self) -> Option<&str> {
        (self.origin != ChatOrigin::Model).then_some(self.text.as_str())
    }

    /// One line for whoever runs this, where the template is not the model's own.
    pub fn note(&self) -> Option<String> {
        match &self.origin {
            ChatOrigin::Model => None,
            ChatOrigin::Request(name) if name.len() > 80 => {
                Some("chat template: the text of the request".into())
            }
            ChatOrigin::Request(name) => Some(format!("chat template: {name}")),
            ChatOrigin::Adapter(path) => Some(format!(
                "chat template: the one that {} was made with",
                path.display()
            )),
            ChatOrigin::Kit => Some("chat template: the kit's".into()),
            ChatOrigin::Plain => Some(
                "the model has no chat template: each message is a line, and the answer ends with \
                 the end of the text; `chat_template` takes another format"
                    .into(),
            ),
        }
    }
}

/// The text of a template by its name, its file, or itself.
fn named(asked: &str) -> Result<String, EngineError> {
    if let Some(text) = format(asked) {
        return Ok(text.to_owned());
    }
    if ["{{", "{%"].iter().any(|opening| asked.contains(opening)) {
        return Ok(asked.to_owned());
    }
    let path = Path::new(asked);
    if !path.is_file() {
        let refusal = TemplateError::unknown(asked);
        return Err(EngineError::Template(refusal.to_string()));
    }
    let bytes = read_file(path, TEMPLATE_BYTES_MAX).map_err(|source| EngineError::File {
        path: path.to_owned(),
        source,
    })?;
    String::from_utf8(bytes)
        .map_err(|_| EngineError::Template(format!("{asked} is not UTF-8 text")))
}

/// The template in the header of an adapter. Whether the file is sound is another's question.
fn carried(adapter: &Path) -> Option<String> {
    let (header, _) = Header::open(adapter, HEADER_BYTES_MAX).ok()?;
    let keys = [TEMPLATE_KEY, MODEL_KEY];
    let text = keys.iter().find_map(|key| header.get(key)?.as_str())?;
    Some(text.to_owned())
}
