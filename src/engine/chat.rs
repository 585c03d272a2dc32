//! Which chat template a model is used with: one rule for every command.
//!
//! What was asked for comes first, then what the adapter was made with, then the model's own. A
//! model that has none takes [`PLAIN`]. A model does not think before it answers, unless that was
//! asked for ([`variables`]).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use translora_chat::{PLAIN, Rendering, TemplateError, ToolUse, format};
use translora_gguf::{Gguf, Header, read_file};

use super::EngineError;
use super::renderer::{Renderer, TEMPLATE_BYTES_MAX};
use crate::record::{Clock, SystemClock};

/// Where an adapter keeps the template that it was made with, where that is not its base's own.
pub const TEMPLATE_KEY: &str = "translora.chat_template";
/// Where a model keeps its own.
pub const MODEL_KEY: &str = "tokenizer.chat_template";
/// The keys of an adapter that may hold its template; the first counts.
const CARRIED: [&str; 2] = [TEMPLATE_KEY, MODEL_KEY];
/// The variable of a template that decides whether the model thinks before it answers.
const THINKING: &str = "enable_thinking";
/// What a template writes where the model is to think first, and what ends that.
pub const THOUGHT: [&str; 2] = ["<think>", "</think>\n\n"];
/// The longest name of a template that is printed. units: bytes
const NAME_BYTES_MAX: usize = 80;
/// The part of an adapter's file that is searched for its template. units: bytes
const HEADER_BYTES_MAX: u64 = 64 << 20;

/// How conversations become text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatOptions {
    /// A name of llama.cpp's, a file, or a Jinja text.
    pub template: Option<String>,
    /// Adapters and kits that may carry the template they were made with; the first that does
    /// counts.
    pub carriers: Vec<PathBuf>,
    /// Variables of every rendering.
    pub kwargs: Map<String, Value>,
    /// What the template takes for now. units: seconds since 1970
    pub now: u64,
}

impl ChatOptions {
    /// What renders the conversations of an adapter, where that is not what renders the base's: its
    /// `bytes` carry a template, and none was asked for. `bos` and `eos` as [`Conversations::new`] has
    /// them.
    ///
    /// fails: no conversation can be rendered with it; the error names `adapter`
    pub fn of_adapter(
        &self,
        adapter: &Path,
        bytes: &[u8],
        [bos, eos]: [&str; 2],
    ) -> Result<Option<Conversations>, EngineError> {
        let gguf = self.template.is_none().then(|| Gguf::parse(bytes).ok());
        let gguf = gguf.flatten();
        let key = |key| gguf.as_ref()?.get(key)?.as_str();
        let Some(text) = CARRIED.into_iter().find_map(key).map(str::to_owned) else {
            return Ok(None);
        };
        let origin = ChatOrigin::Carrier(adapter.to_owned());
        let own = Conversations::new(ChatInfo { text, origin }, [bos, eos], &self.kwargs);
        own.check().map_err(|error| EngineError::ChatTemplate {
            path: adapter.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Some(own))
    }
}

/// The template in use, and where it is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatInfo {
    /// The Jinja text.
    pub text: String,
    /// Who brought it.
    pub origin: ChatOrigin,
}

impl ChatOrigin {
    /// One word for it: `request`, `adapter`, `model` or `plain`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Request(_) => "request",
            Self::Carrier(_) => "adapter",
            Self::Model => "model",
            Self::Plain => "plain",
        }
    }
}

/// Who brought a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatOrigin {
    /// The request, by this name or file.
    Request(String),
    /// This adapter or kit.
    Carrier(PathBuf),
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
        if let Some(wanted) = &options.template {
            let origin = ChatOrigin::Request(wanted.clone());
            return Ok(Self {
                text: named(wanted)?,
                origin,
            });
        }
        for adapter in &options.carriers {
            if let Some(text) = carried(adapter) {
                return Ok(Self {
                    text,
                    origin: ChatOrigin::Carrier(adapter.clone()),
                });
            }
        }
        let (text, origin) = match model {
            Some(text) => (text, ChatOrigin::Model),
            None => (PLAIN.to_owned(), ChatOrigin::Plain),
        };
        Ok(Self { text, origin })
    }

    /// The file or name that a fault of the template is to be reported under; `base` where it is the
    /// model's own.
    pub fn blamed(&self, base: &Path) -> PathBuf {
        match &self.origin {
            ChatOrigin::Carrier(path) => path.clone(),
            ChatOrigin::Request(name) if name.len() <= NAME_BYTES_MAX => name.into(),
            ChatOrigin::Request(_) => "the template of the request".into(),
            ChatOrigin::Model | ChatOrigin::Plain => base.to_owned(),
        }
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
            ChatOrigin::Request(name) if name.len() > NAME_BYTES_MAX => {
                Some("chat template: the text of the request".into())
            }
            ChatOrigin::Request(name) => Some(format!("chat template: {name}")),
            ChatOrigin::Carrier(path) => Some(format!(
                "chat template: the one that {} was made with",
                path.display()
            )),
            ChatOrigin::Plain => Some(
                "the model has no chat template: each message is a line, and the answer ends with \
                 the end of the text; `chat_template` takes another format"
                    .into(),
            ),
        }
    }
}

/// The variables of every rendering: those that were asked for, and `enable_thinking` false where
/// nobody asked. What a template does not read changes nothing. An adapter is trained, judged and
/// served by the same rule.
pub fn variables(request: &Map<String, Value>) -> Map<String, Value> {
    let mut all = request.clone();
    all.entry(THINKING).or_insert(false.into());
    all
}

/// A template that a server renders conversations with, or the reason why it cannot.
#[derive(Debug)]
pub struct Conversations {
    info: ChatInfo,
    template: Result<Renderer, TemplateError>,
    kwargs: Map<String, Value>,
}

impl Conversations {
    /// Compile a template. `bos` and `eos` are the tokens that begin and end a text, as text; `kwargs`
    /// hold for every rendering that does not say otherwise.
    pub fn new(info: ChatInfo, [bos, eos]: [&str; 2], kwargs: &Map<String, Value>) -> Self {
        let template = Renderer::new(&info.text, bos, eos);
        Self {
            info,
            template,
            kwargs: variables(kwargs),
        }
    }

    /// The template, and where it is from.
    pub fn info(&self) -> &ChatInfo {
        &self.info
    }

    /// Render a question.
    fn check(&self) -> Result<(), TemplateError> {
        let template = self.template.as_ref().map_err(Clone::clone)?;
        let question = json!([{"role": "user", "content": "x"}]);
        let rendering = Rendering {
            answer: true,
            kwargs: self.kwargs.clone(),
            ..Rendering::default()
        };
        template.render_with(&question, &rendering).map(drop)
    }

    /// Why no conversation can be rendered; none where they can.
    pub fn refusal(&self) -> Option<String> {
        self.check().err().map(|error| error.to_string())
    }

    /// What the template does with tools; none where it does not write them.
    pub fn tool_use(&self) -> Option<&ToolUse> {
        self.template.as_ref().ok()?.tool_use()
    }

    /// Messages as OpenAI's API has them as text, with tools and variables of the template
    /// (`chat_template_kwargs`). A time of 0 is now.
    ///
    /// fails: the template does not compile, refuses the messages, or writes nothing.
    pub fn render(&self, messages: &Value, rendering: &Rendering) -> Result<String, EngineError> {
        let refuse = |error: &TemplateError| EngineError::Template(error.to_string());
        let template = self.template.as_ref().map_err(refuse)?;
        let mut rendering = rendering.clone();
        if rendering.now == 0 {
            rendering.now = SystemClock::default().unix_seconds();
        }
        for (name, value) in &self.kwargs {
            let set = rendering.kwargs.entry(name);
            set.or_insert_with(|| value.clone());
        }
        let text = template.render_with(messages, &rendering);
        text.map_err(|error| refuse(&error))
    }
}

/// The text of a template by its name, its file, or itself.
fn named(template: &str) -> Result<String, EngineError> {
    if let Some(text) = format(template) {
        return Ok(text.to_owned());
    }
    if ["{{", "{%"]
        .iter()
        .any(|opening| template.contains(opening))
    {
        return Ok(template.to_owned());
    }
    let path = Path::new(template);
    let refuse = |reason: String| EngineError::ChatTemplate {
        path: path.to_owned(),
        reason,
    };
    if !path.is_file() {
        return Err(refuse(TemplateError::unknown().to_string()));
    }
    let bytes = read_file(path, TEMPLATE_BYTES_MAX as u64).map_err(|source| EngineError::File {
        path: path.to_owned(),
        source,
    })?;
    String::from_utf8(bytes).map_err(|_| refuse("it is not UTF-8 text".into()))
}

/// What a model's own template is worth, for a person: `its own`, `none` or why it cannot be used.
pub fn verdict(text: Option<&str>) -> String {
    match text.map(|text| Renderer::new(text, "", "")) {
        None => "none: translora takes the format plain".into(),
        Some(Ok(_)) => "its own".into(),
        Some(Err(error)) => format!("refused: {error}"),
    }
}

/// The same for the template that was asked for, if one was.
///
/// fails: there is no such name or file
pub fn verdict_of(options: &ChatOptions, own: Option<&str>) -> Result<String, EngineError> {
    let Some(name) = &options.template else {
        return Ok(verdict(own));
    };
    let info = ChatInfo::choose(options, None)?;
    let chat = Conversations::new(info, ["", ""], &options.kwargs);
    Ok(match chat.refusal() {
        None if name.len() <= NAME_BYTES_MAX => format!("{name}, as was asked for"),
        None => "the text that was asked for".into(),
        Some(error) => format!("refused: {error}"),
    })
}

/// The template in the header of an adapter or a kit. Whether the file is sound is another's
/// question.
fn carried(adapter: &Path) -> Option<String> {
    let (header, _) = Header::open(adapter, HEADER_BYTES_MAX).ok()?;
    let text = CARRIED
        .into_iter()
        .find_map(|key| header.get(key)?.as_str())?;
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(options: &ChatOptions, model: Option<&str>) -> ChatInfo {
        ChatInfo::choose(options, model.map(str::to_owned)).unwrap()
    }

    #[test]
    fn what_was_asked_for_comes_first_and_plain_last() {
        let folder = std::env::temp_dir().join(format!("translora-chat-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (adapter, file) = (folder.join("l.gguf"), folder.join("t.jinja"));
        let mut writer = translora_gguf::Writer::new();
        writer.set("general.type", "adapter");
        writer.set(TEMPLATE_KEY, "{{ 'adapter' }}");
        std::fs::write(&adapter, writer.to_bytes().unwrap()).unwrap();
        std::fs::write(&file, "{{ 'file' }}").unwrap();
        let asking = |template: Option<&str>, carriers: &[&Path]| ChatOptions {
            template: template.map(str::to_owned),
            carriers: carriers.iter().map(|path| (*path).to_owned()).collect(),
            ..ChatOptions::default()
        };
        let file_name = file.display().to_string();
        let missing = folder.join("missing");
        for (template, carriers, model, text, carried) in [
            (
                Some(&*file_name),
                &[&*adapter][..],
                Some("{{ 'm' }}"),
                "{{ 'file' }}",
                true,
            ),
            (Some("{{ 'x' }}"), &[], Some("{{ 'm' }}"), "{{ 'x' }}", true),
            (
                None,
                &[&*missing, &*adapter][..],
                Some("{{ 'm' }}"),
                "{{ 'adapter' }}",
                true,
            ),
            (
                None,
                &[&*missing][..],
                Some("{{ 'm' }}"),
                "{{ 'm' }}",
                false,
            ),
            (None, &[], None, PLAIN, true),
        ] {
            let chat = chosen(&asking(template, carriers), model);
            assert_eq!(chat.text, text);
            assert_eq!(chat.carried().is_some(), carried, "{text}");
            assert_eq!(chat.note().is_some(), carried, "{text}");
        }
        assert_eq!(
            chosen(&asking(Some("plain"), &[]), Some("{{ 'm' }}")).text,
            PLAIN
        );
        let unknown = ChatInfo::choose(&asking(Some("lama3"), &[]), None).unwrap_err();
        let said = unknown.to_string();
        assert!(said.starts_with("lama3: "), "{said}");
        assert!(said.contains("llama3, "), "{said}");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_verdict_says_why() {
        assert_eq!(verdict(Some("{{ 'x' }}")), "its own");
        assert!(verdict(Some("{% for x")).starts_with("refused: the template does not compile"));
        assert!(verdict(None).starts_with("none"));
    }
}
