//! Text to tokens: one user turn under the model's own template, and what ends the answer.

use translora_llama::{ChatTemplate, LlamaError, Message, Model};

use crate::record::Prompt;

/// A model's chat template with what it puts around an answer.
pub(super) struct Chat {
    template: ChatTemplate,
    /// Tokens that end an answer.
    end: Vec<i32>,
    bos: Option<i32>,
}

/// Stands for the answer while looking for what follows it.
const MARK: &str = "translora-answer";

impl Chat {
    /// fails: no template, one that does not render, or no token that ends a turn.
    pub fn of(model: &Model) -> Result<Self, LlamaError> {
        let template = model.chat_template()?;
        let vocab = model.vocab();
        let turn = |role, content: &str| Message {
            role,
            content: content.into(),
        };
        let whole = template.render(&[turn("user", "x"), turn("assistant", MARK)], false)?;
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
        Ok(Self { template, end, bos })
    }

    /// The tokens of a conversation, up to where the answer begins.
    ///
    /// Markup inside `prompt` is read as markup, as llama-server does with what its clients send.
    pub fn prompt(&self, model: &Model, prompt: &Prompt) -> Result<Vec<i32>, LlamaError> {
        let text = self.template.render(&prompt.turns(), true)?;
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
