use std::ffi::CString;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use crate::error::LlamaError;
use crate::log::{self, Reason};
use crate::model::Model;

/// Brackets in one another: llama.cpp's parser calls itself for each, and would run out of stack.
const NESTED_MAX: usize = 100;

/// What an answer may go on with: llama.cpp's grammar sampler, for one answer.
pub struct Grammar {
    raw: NonNull<sys::llama_sampler>,
    /// Keeps the vocabulary alive that the sampler reads.
    _model: Model,
}

// SAFETY: the sampler has no thread affinity; `&mut self` on what changes it keeps it to one thread
// at a time.
unsafe impl Send for Grammar {}

impl Drop for Grammar {
    fn drop(&mut self) {
        // SAFETY: this value owns the sampler.
        unsafe { sys::llama_sampler_free(self.raw.as_ptr()) }
    }
}

impl Grammar {
    /// Compile a grammar in llama.cpp's notation (GBNF); it begins with the rule `root`.
    ///
    /// fails: it cannot be parsed, calls itself on the left, or the model has no tokenizer
    pub fn new(model: &Model, text: &str) -> Result<Self, LlamaError> {
        let vocab = model.vocab();
        if vocab.is_absent() {
            return Err(LlamaError::Grammar("the model has no tokenizer".into()));
        }
        if nested(text) > NESTED_MAX {
            let reason = format!("more than {NESTED_MAX} brackets in one another");
            return Err(LlamaError::Grammar(reason));
        }
        let text = CString::new(text)
            .map_err(|_| LlamaError::Grammar("it holds a NUL character".into()))?;
        let (mark, mut reason) = (log::mark(), Reason::new());
        let (buffer, size) = reason.pointer();
        // SAFETY: the vocabulary belongs to the model, which this value keeps; both texts end with
        // NUL; exceptions end in the shim.
        let raw = unsafe {
            crate::shim::translora_grammar(
                vocab.raw(),
                text.as_ptr(),
                c"root".as_ptr(),
                buffer,
                size,
            )
        };
        let raw = NonNull::new(raw).ok_or_else(|| {
            LlamaError::Grammar(reason.or_log(mark, "it cannot be parsed, or has no rule `root`"))
        })?;
        Ok(Self {
            raw,
            _model: model.clone(),
        })
    }

    /// Whether this token may come next.
    pub fn allows(&self, token: i32) -> bool {
        let mut one = [data(token, 0.0)];
        self.apply(&mut one);
        one[0].logit == 0.0
    }

    /// Set the logit of each token that may not come next to minus infinity.
    ///
    /// shapes: (vocabulary)
    pub fn mask(&self, logits: &mut [f32]) {
        let mut all: Vec<_> = (0_i32..)
            .zip(logits.iter())
            .map(|(token, _)| data(token, 0.0))
            .collect();
        self.apply(&mut all);
        for (logit, masked) in logits.iter_mut().zip(&all) {
            if masked.logit != 0.0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }

    fn apply(&self, candidates: &mut [sys::llama_token_data]) {
        let mut array = sys::llama_token_data_array {
            data: candidates.as_mut_ptr(),
            size: candidates.len(),
            selected: -1,
            sorted: false,
        };
        // SAFETY: the array is as long as said and lives for the call; the grammar sampler changes
        // logits in place and nothing else.
        unsafe { sys::llama_sampler_apply(self.raw.as_ptr(), &raw mut array) }
    }

    /// Go on by a token.
    ///
    /// fails: it may not come next; the grammar is then at no place that means anything
    pub fn accept(&mut self, token: i32) -> Result<(), LlamaError> {
        // llama.cpp ends the process for an end of the text that comes too early.
        if !self.allows(token) {
            return Err(LlamaError::Grammar(format!(
                "the token {token} is not allowed here"
            )));
        }
        let mut reason = Reason::new();
        let (buffer, size) = reason.pointer();
        // SAFETY: this value owns the sampler; exceptions end in the shim.
        let accepted = unsafe {
            crate::shim::translora_grammar_accept(self.raw.as_ptr(), token, buffer, size)
        };
        if accepted {
            return Ok(());
        }
        Err(LlamaError::Grammar(
            reason.or_log(log::mark(), "the token is not allowed here"),
        ))
    }
}

fn data(id: i32, logit: f32) -> sys::llama_token_data {
    sys::llama_token_data { id, logit, p: 0.0 }
}

/// The most brackets in one another, those in literals, in sets of characters and in comments left
/// out.
fn nested(text: &str) -> usize {
    let (mut depth, mut most, mut inside) = (0_usize, 0, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (inside, c) {
            (Some('"' | ']'), '\\') => _ = chars.next(),
            (Some(end), c) if c == end => inside = None,
            (Some(_), _) => {}
            (None, '"') => inside = Some('"'),
            (None, '[') => inside = Some(']'),
            (None, '#') => inside = Some('\n'),
            (None, '(') => {
                depth += 1;
                most = most.max(depth);
            }
            (None, ')') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::nested;

    #[test]
    fn brackets_count_where_they_group() {
        for (text, right) in [
            ("root ::= \"a\"", 0),
            ("root ::= ((\"a\") (\"b\"))", 2),
            ("root ::= \"((((\" [(((] # ((((\n (x)", 1),
            ("root ::= \"\\\"((\" [\\](] (x)", 1),
        ] {
            assert_eq!(nested(text), right, "{text}");
        }
        assert_eq!(nested(&"(".repeat(5000)), 5000);
    }
}
