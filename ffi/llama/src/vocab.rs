use llama_cpp_sys_2 as sys;

use crate::error::LlamaError;
use crate::log::{self, Reason};
use crate::model::Model;

/// A model's tokenizer.
#[derive(Clone, Copy)]
pub struct Vocab<'m> {
    #[expect(
        dead_code,
        reason = "keeps the model borrowed while the raw vocabulary is used"
    )]
    model: &'m Model,
    raw: *const sys::llama_vocab,
}

impl<'m> Vocab<'m> {
    pub(crate) fn new(model: &'m Model, raw: *const sys::llama_vocab) -> Self {
        Self { model, raw }
    }

    pub(crate) fn raw(&self) -> *const sys::llama_vocab {
        self.raw
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        // SAFETY: `raw` belongs to the borrowed model.
        usize::try_from(unsafe { sys::llama_vocab_n_tokens(self.raw) }).unwrap_or(0)
    }

    /// There is no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The model was saved without a tokenizer: only token ids can be used with it.
    pub fn is_absent(&self) -> bool {
        // SAFETY: `raw` belongs to the borrowed model.
        unsafe { sys::llama_vocab_type(self.raw) == sys::LLAMA_VOCAB_TYPE_NONE }
    }

    /// The token that begins a text, if there is one.
    pub fn bos(&self) -> Option<i32> {
        // SAFETY: `raw` belongs to the borrowed model.
        Some(unsafe { sys::llama_vocab_bos(self.raw) }).filter(|token| *token >= 0)
    }

    /// The token that ends a text, if there is one.
    pub fn eos(&self) -> Option<i32> {
        // SAFETY: `raw` belongs to the borrowed model.
        Some(unsafe { sys::llama_vocab_eos(self.raw) }).filter(|token| *token >= 0)
    }

    /// The model expects its `bos` before a text.
    pub fn adds_bos(&self) -> bool {
        // SAFETY: `raw` belongs to the borrowed model.
        unsafe { sys::llama_vocab_get_add_bos(self.raw) }
    }

    /// The token ends a generation (end of text, end of turn).
    pub fn is_end(&self, token: i32) -> bool {
        // SAFETY: `raw` belongs to the borrowed model; any number may be looked up.
        unsafe { sys::llama_vocab_is_eog(self.raw, token) }
    }

    /// llama.cpp indexes its table with some tokens unchecked, and throws for others.
    fn holds(&self, token: i32) -> bool {
        usize::try_from(token).is_ok_and(|token| token < self.len())
    }

    /// The token is markup of the template, not text.
    pub fn is_control(&self, token: i32) -> bool {
        // SAFETY: `raw` belongs to the borrowed model; the token is one of its own.
        self.holds(token) && unsafe { sys::llama_vocab_is_control(self.raw, token) }
    }

    /// Encode text. `special`: treat markup such as `<|im_end|>` as its token; never set it for
    /// text that a stranger wrote.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<i32>, LlamaError> {
        let length = i32::try_from(text.len())
            .map_err(|_| LlamaError::Tokenize(format!("{} bytes are too many", text.len())))?;
        if self.is_absent() {
            return Err(LlamaError::Tokenize("the model has no tokenizer".into()));
        }
        let mut tokens = vec![0; text.len() + 8];
        let (mark, mut reason) = (log::mark(), Reason::new());
        let room = i32::try_from(tokens.len()).unwrap_or(i32::MAX);
        let (buffer, size) = reason.pointer();
        // SAFETY: both buffers are as long as said; exceptions end in the shim.
        let n = unsafe {
            crate::shim::translora_tokenize(
                self.raw,
                text.as_ptr().cast(),
                length,
                tokens.as_mut_ptr(),
                room,
                false,
                special,
                buffer,
                size,
            )
        };
        let n = usize::try_from(n).map_err(|_| {
            LlamaError::Tokenize(
                reason.or_log(mark, "the text does not fit its own length in tokens"),
            )
        })?;
        tokens.truncate(n);
        Ok(tokens)
    }

    /// The bytes of one token; markup only if `special`. None for a number outside the vocabulary.
    pub fn piece(&self, token: i32, special: bool) -> Vec<u8> {
        if self.is_absent() || !self.holds(token) {
            return Vec::new();
        }
        let mut buffer = vec![0_u8; 64];
        loop {
            let room = i32::try_from(buffer.len()).unwrap_or(i32::MAX);
            // SAFETY: the buffer is as long as said; the token is one of the vocabulary's.
            let n = unsafe {
                sys::llama_token_to_piece(
                    self.raw,
                    token,
                    buffer.as_mut_ptr().cast(),
                    room,
                    0,
                    special,
                )
            };
            if n >= 0 {
                buffer.truncate(n.unsigned_abs() as usize);
                return buffer;
            }
            buffer.resize(n.unsigned_abs() as usize, 0);
        }
    }

    /// The bytes of a run of tokens, markup left out.
    pub fn decode(&self, tokens: &[i32]) -> Vec<u8> {
        tokens
            .iter()
            .flat_map(|token| self.piece(*token, false))
            .collect()
    }
}
