//! Text to tokens: one user turn under the model's own template, and what ends the answer.

use serde_json::{Value, json};
use translora_chat::{ChatTemplate, Rendering, TemplateError};
use translora_llama::{LlamaError, Model};

use crate::engine::chat::{ChatInfo, ChatOptions};
use crate::record::Prompt;

/// A model's chat template with what it puts around an answer.
pub(super) struct Chat {
    template: ChatTemplate,
    info: ChatInfo,
    rendering: Rendering,
    /// Tokens that end an answer.
    end: Vec<i32>,
    bos: Option<i32>,
}

/// Stands for the answer while looking for what follows it.
const MARK: &str = "translora-answer";

impl Chat {
    /// fails: a template that does not compile or render, or no token that ends a turn.
    pub fn of(model: &Model, info: ChatInfo, options: &ChatOptions) -> Result<Self, LlamaError> {
        let template = template(model, &info).map_err(|error| refuse(&error))?;
        let rendering = Rendering {
            kwargs: options.kwargs.clone(),
            now: options.now,
            ..Rendering::default()
        };
        let vocab = model.vocab();
        let whole = json!([turn("user", "x"), turn("assistant", MARK)]);
        let whole = template
            .render_with(&whole, &rendering)
            .map_err(|error| refuse(&error))?;
        let tail = whole.split_once(MARK).map_or("", |(_, tail)| tail);
        let mut end = vocab.encode(tail, true)?;
        match end.iter().position(|token| vocab.is_end(*token)) {
            Some(last) => end.truncate(last + 1),
            None => {
                end = vec![
                    vocab
                        .eos()
                        .ok_or_else(|| LlamaError::Template("no token ends a turn".into()))?,
                ];
            }
        }
        let bos = vocab.bos().filter(|_| vocab.adds_bos());
        let rendering = Rendering {
            answer: true,
            ..rendering
        };
        Ok(Self {
            template,
            info,
            rendering,
            end,
            bos,
        })
    }

    /// The template in use.
    pub fn info(&self) -> &ChatInfo {
        &self.info
    }

    /// The tokens of a conversation, up to where the answer begins.
    ///
    /// Markup inside `prompt` is read as markup, as llama-server does with what its clients send.
    pub fn prompt(&self, model: &Model, prompt: &Prompt) -> Result<Vec<i32>, LlamaError> {
        let text = self.template.render_with(&prompt.turns(), &self.rendering);
        let text = text.map_err(|error| refuse(&error))?;
        self.raw(model, &text, true)
    }

    /// The tokens of an answer, its end included.
    pub fn completion(&self, model: &Model, completion: &str) -> Result<Vec<i32>, LlamaError> {
        let mut tokens = model.vocab().encode(completion, false)?;
        tokens.extend(&self.end);
        Ok(tokens)
    }

    /// The tokens that end an answer.
    pub fn end(&self) -> &[i32] {
        &self.end
    }

    /// The tokens of text outside any template.
    pub fn raw(&self, model: &Model, text: &str, special: bool) -> Result<Vec<i32>, LlamaError> {
        let mut tokens = model.vocab().encode(text, special)?;
        if let Some(bos) = self.bos.filter(|bos| tokens.first() != Some(bos)) {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }
}

/// The template, compiled with the model's own tokens.
///
/// fails: it does not compile
pub(super) fn template(model: &Model, info: &ChatInfo) -> Result<ChatTemplate, TemplateError> {
    let vocab = model.vocab();
    let piece = |token: Option<i32>| {
        let bytes = token
            .map(|token| vocab.piece(token, true))
            .unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    ChatTemplate::new(&info.text, &piece(vocab.bos()), &piece(vocab.eos()))
}

fn turn(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn refuse(error: &TemplateError) -> LlamaError {
    LlamaError::Template(error.to_string())
}
