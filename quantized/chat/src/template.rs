use std::collections::BTreeMap;
use std::io;
use std::sync::OnceLock;

use minijinja::{Environment, Error, ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::environment::{NOW, environment};
use crate::messages::{self, Takes};
use crate::{TemplateError, ToolUse};
use crate::{source, values};

/// A chat template that compiles.
///
/// A text for a system turn goes in front of the first user turn where the template has no system
/// turn. Content becomes a list of parts where the template takes nothing else, and parts become
/// text where it takes no list.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    text: String,
    bos: String,
    eos: String,
    takes: OnceLock<Takes>,
    tools: OnceLock<Option<ToolUse>>,
}

/// What a template is rendered with, besides the messages.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rendering {
    /// Open the assistant's turn (`add_generation_prompt`).
    pub answer: bool,
    /// Tools that the model may call, as OpenAI's API has them.
    pub tools: Vec<Value>,
    /// More variables of the template, such as `enable_thinking` (`chat_template_kwargs`).
    pub kwargs: Map<String, Value>,
    /// What `strftime_now` takes for now. units: seconds since 1970
    pub now: u64,
}

/// What every rendering sets.
const RESERVED: [&str; 5] = [
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    NOW,
];

impl ChatTemplate {
    /// Compile a Jinja text. `bos` and `eos` are the tokens that begin and end a text, as text.
    ///
    /// fails: [`TemplateError::Syntax`]
    pub fn new(text: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        let mut environment = environment();
        environment
            .add_template_owned("chat", source::prepared(text))
            .map_err(|error| TemplateError::Syntax(reason(&error)))?;
        Ok(Self {
            environment,
            text: text.to_owned(),
            bos: bos.to_owned(),
            eos: eos.to_owned(),
            takes: OnceLock::new(),
            tools: OnceLock::new(),
        })
    }

    /// The Jinja text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What the template does with tools; none where it does not write them.
    pub fn tool_use(&self) -> Option<&ToolUse> {
        let probe = || {
            ToolUse::of(&|messages, tools, answer| {
                let rendering = Rendering {
                    answer,
                    tools: tools.to_vec(),
                    ..Rendering::default()
                };
                self.render_with(messages, &rendering).ok()
            })
        };
        self.tools.get_or_init(probe).as_ref()
    }

    /// Render `messages`, a list of objects with `role` and `content`; `answer` opens the
    /// assistant's turn.
    ///
    /// fails: as [`Self::render_with`]
    pub fn render(
        &self,
        messages: &(impl Serialize + ?Sized),
        answer: bool,
    ) -> Result<String, TemplateError> {
        let rendering = Rendering {
            answer,
            ..Rendering::default()
        };
        self.render_with(messages, &rendering)
    }

    /// Render `messages` with tools and variables.
    ///
    /// fails: the template refuses them, takes too long, or writes nothing
    pub fn render_with(
        &self,
        messages: &(impl Serialize + ?Sized),
        rendering: &Rendering,
    ) -> Result<String, TemplateError> {
        let messages = serde_json::to_value(messages).map_err(|_| TemplateError::Messages)?;
        let Value::Array(messages) = messages else {
            return Err(TemplateError::Messages);
        };
        if let Some(name) = RESERVED
            .iter()
            .find(|name| rendering.kwargs.contains_key(**name))
        {
            return Err(TemplateError::Reserved((*name).to_owned()));
        }
        let messages = messages::fitted(messages, || *self.takes.get_or_init(|| self.probe()))?;
        match self.run(&messages, rendering)? {
            text if text.is_empty() => Err(TemplateError::Empty),
            text => Ok(text),
        }
    }

    /// What the template does with a system turn, with text and with parts.
    fn probe(&self) -> Takes {
        Takes::of(|messages| {
            let rendering = Rendering {
                answer: true,
                ..Rendering::default()
            };
            self.run(messages, &rendering).ok()
        })
    }

    fn run(&self, messages: &[Value], rendering: &Rendering) -> Result<String, TemplateError> {
        let mut variables: BTreeMap<&str, minijinja::Value> = BTreeMap::new();
        let more = rendering
            .kwargs
            .iter()
            .map(|(name, value)| (name.as_str(), values::of(value)));
        variables.extend(more);
        variables.insert("messages", messages.iter().map(values::of).collect());
        if !rendering.tools.is_empty() {
            variables.insert("tools", rendering.tools.iter().map(values::of).collect());
        }
        variables.insert("add_generation_prompt", rendering.answer.into());
        variables.insert("bos_token", self.bos.as_str().into());
        variables.insert("eos_token", self.eos.as_str().into());
        variables.insert(NOW, rendering.now.into());
        let mut text = Bounded(Vec::new());
        let template = self.environment.get_template("chat");
        let rendered = template
            .and_then(|template| template.render_captured_to(variables, &mut text).map(drop));
        rendered.map_err(|error| refusal(&error))?;
        String::from_utf8(text.0).map_err(|error| TemplateError::Refused(error.to_string()))
    }
}

/// The longest text that a template may write. units: bytes
const TEXT_BYTES_MAX: usize = 16 << 20;

/// A text that does not grow without end.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > TEXT_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn refusal(error: &Error) -> TemplateError {
    let reason = reason(error);
    match error.kind() {
        ErrorKind::WriteFailure => TemplateError::Much {
            bytes_max: TEXT_BYTES_MAX,
        },
        ErrorKind::OutOfFuel => TemplateError::Endless(reason),
        _ if reason.contains("recursion limit") => TemplateError::Endless(reason),
        _ => TemplateError::Refused(reason),
    }
}

/// What went wrong and in which line.
fn reason(error: &Error) -> String {
    let what = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}
