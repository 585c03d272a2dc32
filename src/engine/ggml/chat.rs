//! Text to tokens: a conversation under the model's own template, and the answer with what ends it.
//!
//! Prompt and answer are rendered and encoded as one text. So an answer begins and ends as a server
//! will have it: a tokenizer that puts a space before a text puts none before an answer, and what
//! the template writes around an answer is learnt.

use serde_json::{Value, json};
use translora_chat::{Rendering, TemplateError};
use translora_llama::{LlamaError, Model};

use crate::engine::chat::{ChatInfo, ChatOptions, THOUGHT, variables};
use crate::engine::renderer::Renderer;
use crate::engine::unrender::conversation;
use crate::record::{Pair, Prompt, Role, Turn};

/// A model's chat template with what it puts around an answer.
pub(super) struct Chat {
    template: Renderer,
    info: ChatInfo,
    rendering: Rendering,
    /// Tokens that end an answer.
    end: Vec<i32>,
    /// What the template writes behind an answer, and whether a token in it ends the turn.
    tail: String,
    tail_ends: bool,
    bos: Option<i32>,
}

/// A pair as tokens.
pub(super) struct Encoded {
    /// All of them: prompt, answer, and what ends the turn.
    pub tokens: Vec<i32>,
    /// Where the answer begins. What is before it is the prompt as a server encodes it.
    pub start: usize,
    /// Where what ends the turn begins.
    pub end: usize,
}

impl Encoded {
    /// The answer and what ends the turn.
    pub fn completion(&self) -> &[i32] {
        &self.tokens[self.start..]
    }
}

/// Stands for the answer while looking for what follows it.
const MARK: &str = "translora-answer";

impl Chat {
    /// fails: a template that does not compile or render, or no token that ends a turn.
    pub fn of(model: &Model, info: ChatInfo, options: &ChatOptions) -> Result<Self, LlamaError> {
        let [bos, eos] = ends(model);
        let template = Renderer::new(&info.text, &bos, &eos).map_err(|error| refuse(&error))?;
        let rendering = Rendering {
            kwargs: variables(&options.kwargs),
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
        let last = end.iter().position(|token| vocab.is_end(*token));
        let (tail, tail_ends) = (tail.to_owned(), last.is_some());
        match last {
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
            tail,
            tail_ends,
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
        let text = self.render(&prompt.turns(), true)?;
        let tokens = self.raw(model, &text, true)?;
        if tokens.is_empty() {
            let reason = "what the template writes for a conversation is no token";
            return Err(LlamaError::Template(reason.into()));
        }
        Ok(tokens)
    }

    /// A conversation as text; `answer` opens the assistant's turn.
    fn render(&self, turns: &[Turn], answer: bool) -> Result<String, LlamaError> {
        let rendering = Rendering {
            answer,
            ..self.rendering.clone()
        };
        let text = self.template.render_with(&turns, &rendering);
        text.map_err(|error| refuse(&error))
    }

    /// The conversation that is rendered as this text.
    pub fn conversation(&self, model: &Model, text: &str) -> Option<Prompt> {
        let [bos, _] = ends(model);
        conversation(text, &bos, &|turns| self.render(turns, true).ok())
    }

    /// The tokens of a pair, of prompt and answer rendered as one text.
    ///
    /// Markup inside the answer is read as text.
    pub fn pair(&self, model: &Model, pair: &Pair) -> Result<Encoded, LlamaError> {
        let vocab = model.vocab();
        let prompt = self.render(&pair.prompt.turns(), true)?;
        let mut turns = pair.prompt.turns();
        turns.push(Turn::new(Role::Assistant, pair.completion.as_str()));
        let whole = self.render(&turns, false)?;
        let mut rest = match whole.strip_prefix(&prompt) {
            Some(rest) => rest.to_owned(),
            // The template opens an answer otherwise than it writes one: after what a server sends
            // the answer follows as it is.
            None if prompt.trim_end().ends_with(THOUGHT[0]) => {
                format!("{}{}{}", THOUGHT[1], pair.completion, self.tail)
            }
            None => format!("{}{}", pair.completion, self.tail),
        };
        if !self.tail_ends {
            let without = rest.strip_suffix(&self.tail).unwrap_or(&rest).len();
            rest.truncate(without);
        }
        let mut tokens = self.raw(model, &prompt, true)?;
        let start = tokens.len();
        let as_markup = vocab.encode(&pair.completion, true)?;
        let answer = pair.completion.trim();
        let place = rest
            .find(answer)
            .filter(|_| as_markup.iter().any(|token| vocab.is_control(*token)));
        if let Some(at) = place {
            let (head, tail) = (&rest[..at], &rest[at + answer.len()..]);
            tokens.extend(behind(model, head, true)?);
            tokens.extend(behind(model, answer, false)?);
            let end = tokens.len();
            tokens.extend(vocab.encode(tail, true)?);
            return Ok(self.ended(model, Encoded { tokens, start, end }));
        }
        let one = self.raw(model, &(prompt + &rest), true)?;
        if one.starts_with(&tokens) {
            tokens = one;
        } else {
            // A token of the whole text reaches over the place where a server stops reading.
            tokens.extend(behind(model, &rest, true)?);
        }
        let end = start;
        Ok(self.ended(model, Encoded { tokens, start, end }))
    }

    /// Cut off what follows the end of the turn, or put the end there where the template writes
    /// none. `encoded.end`: the first place where the turn may end.
    fn ended(&self, model: &Model, mut encoded: Encoded) -> Encoded {
        let after = &encoded.tokens[encoded.end..];
        match after.iter().position(|token| model.vocab().is_end(*token)) {
            Some(place) => {
                encoded.end += place;
                encoded.tokens.truncate(encoded.end + 1);
            }
            None => {
                encoded.end = encoded.tokens.len();
                encoded.tokens.extend(&self.end);
            }
        }
        encoded
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

/// The tokens of a text that goes on where another ends: without the space that a tokenizer puts
/// before a text of its own.
fn behind(model: &Model, text: &str, special: bool) -> Result<Vec<i32>, LlamaError> {
    const BEFORE: &str = "\n";
    let vocab = model.vocab();
    let before = vocab.encode(BEFORE, special)?;
    let both = vocab.encode(&format!("{BEFORE}{text}"), special)?;
    match both.strip_prefix(before.as_slice()) {
        Some(tokens) => Ok(tokens.to_vec()),
        None => vocab.encode(text, special),
    }
}

/// The tokens that begin and end a text, as text.
pub(super) fn ends(model: &Model) -> [String; 2] {
    let vocab = model.vocab();
    [vocab.bos(), vocab.eos()].map(|token| {
        let bytes = token.map(|token| vocab.piece(token, true));
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    })
}

fn turn(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn refuse(error: &TemplateError) -> LlamaError {
    LlamaError::Template(error.to_string())
}

#[cfg(test)]
mod tests;
