//! What a server may ask of a model: text to tokens, adapters, and one step of many sequences.
//!
//! Two halves, because a server has two kinds of threads. A [`Host`] is shared by all of them: it
//! reads text and loads adapters while the model runs. A [`Decoder`] belongs to the one thread that
//! runs it.

use std::any::Any;
use std::path::Path;
use std::sync::Arc;

pub use translora_chat::{CallForm, Rendering, ToolUse};
use translora_lora::LoraError;

pub use super::chat::{Conversations, THOUGHT};
use super::{EngineError, ModelInfo};
use crate::record::ContentHash;

/// A number of the model's vocabulary.
pub type Token = i32;

/// A model that was opened for serving.
pub struct Hosted {
    /// For any thread.
    pub host: Arc<dyn Host>,
    /// For the thread that decodes.
    pub decoder: Box<dyn Decoder>,
}

/// The half of a model that any thread may use at any time.
pub trait Host: Send + Sync {
    /// What the model is; `context` is what one sequence may hold.
    fn info(&self) -> &ModelInfo;

    /// Encode text. `markup`: what looks like a special token is one.
    ///
    /// fails: the tokenizer refuses it.
    fn encode(&self, text: &str, markup: bool) -> Result<Vec<Token>, EngineError>;

    /// The token that every prompt begins with, where the model wants one.
    fn bos(&self) -> Option<Token>;

    /// The bytes of a token; of special tokens only with `markup`. Nothing for a number outside the
    /// vocabulary.
    fn piece(&self, token: Token, markup: bool) -> Vec<u8>;

    /// The token ends a text or a turn.
    fn is_end(&self, token: Token) -> bool;

    /// What renders conversations of the base; an adapter may have its own ([`Weights::chat`]).
    fn chat(&self) -> &Conversations;

    /// Compile a grammar in llama.cpp's notation (GBNF), which begins with the rule `root`, for one
    /// answer.
    ///
    /// fails: it cannot be parsed, or this engine has no grammars.
    fn grammar(&self, text: &str) -> Result<Box<dyn Grammar>, EngineError>;

    /// Read a LoRA GGUF, check it and load it beside those that are loaded. Takes as long as the
    /// file is large; sequences go on meanwhile.
    ///
    /// fails: not an adapter, made for another base, or not finite; a chat template in it that renders
    /// nothing.
    fn load(&self, adapter: &Path) -> Result<Weights, EngineError>;
}

/// What an answer may go on with.
pub trait Grammar: Send {
    /// Whether this token may come next.
    fn allows(&self, token: Token) -> bool;

    /// Set the logit of each token that may not come next to minus infinity.
    ///
    /// shapes: (vocabulary)
    fn mask(&self, logits: &mut [f32]);

    /// Go on by a token.
    ///
    /// fails: it may not come next.
    fn accept(&mut self, token: Token) -> Result<(), EngineError>;
}

/// An adapter that is loaded; it goes when the last clone does.
#[derive(Clone)]
pub struct Weights {
    /// Of the file.
    pub hash: ContentHash,
    /// units: bytes of the file.
    pub bytes: u64,
    /// The hash of the base that it was made for, where it says so.
    pub made_for: Option<ContentHash>,
    /// What renders its conversations, where that is not the base's.
    pub chat: Option<Arc<Conversations>>,
    /// The engine's own.
    inner: Arc<dyn Any + Send + Sync>,
}

impl Weights {
    /// `bytes`: the whole file, which was checked and loaded
    pub(super) fn new(
        bytes: &[u8],
        made_for: Option<&str>,
        chat: Option<Conversations>,
        inner: impl Any + Send + Sync,
    ) -> Self {
        Self {
            hash: ContentHash::of(bytes),
            bytes: bytes.len() as u64,
            made_for: made_for.and_then(|hash| hash.parse().ok()),
            chat: chat.map(Arc::new),
            inner: Arc::new(inner),
        }
    }

    /// Compare the base that it was made for with the one that is served.
    ///
    /// fails: they are two files; the error names `path`
    pub fn check_base(&self, path: &Path, base: ContentHash) -> Result<(), EngineError> {
        match self.made_for.filter(|made_for| *made_for != base) {
            None => Ok(()),
            Some(made_for) => {
                let (made_for, base) = (made_for.to_string(), base.to_string());
                let source = LoraError::OtherBase { made_for, base };
                Err(EngineError::of_adapter(path.to_owned(), source))
            }
        }
    }

    /// What the engine put in.
    pub(super) fn inner<T: 'static>(&self) -> Option<&T> {
        self.inner.downcast_ref()
    }

    /// Whether both are the same load of a file.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

/// A token to decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The token.
    pub token: Token,
    /// Its place in the sequence, from 0.
    pub position: usize,
    /// Which sequence it belongs to.
    pub sequence: usize,
    /// Its logits are wanted.
    pub output: bool,
}

/// What the spare sequence of a decoder holds. units: tokens
pub const SPARE_TOKENS: usize = 256;

/// The half of a model that computes: sequences with what was decoded of them (their KV).
pub trait Decoder: Send {
    /// The most rows of one step.
    fn rows_max(&self) -> usize;

    /// One more sequence than was asked for, with room for [`SPARE_TOKENS`]: for what is no request.
    fn spare(&self) -> usize;

    /// Decode `rows` under the base with these adapters at these scales, and return the logits of
    /// those that want them, in order. The caller sees to it that a sequence only ever meets the
    /// adapters it began with.
    ///
    /// fails: logits that make no distribution, with the adapter or the model that makes them
    ///
    /// shapes: (outputs, vocabulary)
    fn step(&mut self, with: &[(Weights, f32)], rows: &[Row])
    -> Result<Vec<Vec<f32>>, EngineError>;

    /// Forget a sequence from position `from` on.
    fn truncate(&mut self, sequence: usize, from: usize);

    /// Let sequence `to` be the first `tokens` of `from`, without computing them again.
    fn fork(&mut self, from: usize, to: usize, tokens: usize);
}
