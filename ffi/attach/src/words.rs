//! Compares the tokenizer beside an adapter with that of the server: by the tokens of the same
//! texts.

use std::collections::HashMap;
use std::path::Path;

use translora_lora::{Foreign, LoraError, SAMPLES};

use crate::error::AttachError;
use crate::real::{Handle, Real};
use crate::server::lock;

/// What a model makes of each sample; nothing of those that it cannot read.
pub type Encoded = HashMap<&'static str, Vec<u32>>;

/// Check that an adapter of PEFT or MLX has the words of a model of this server. The server waits
/// only while its own tokens are taken.
///
/// fails: its tokenizer cannot be read, or cuts texts as none of the models does
pub fn check(adapter: &Path) -> Result<(), AttachError> {
    let unsound = |source: LoraError| AttachError::Unsound {
        adapter: adapter.display().to_string(),
        source,
    };
    let Some(foreign) = Foreign::find(adapter).map_err(unsound)? else {
        return Ok(());
    };
    if !foreign.has_tokenizer() {
        return Ok(());
    }
    let models = lock().encoded();
    let compare = |model: &Encoded| foreign.same_words(|text| model.get(text).cloned());
    let mut found = models.iter().map(compare);
    let first = found.next().unwrap_or(Ok(()));
    if first.is_ok() || found.any(|found| found.is_ok()) {
        return Ok(());
    }
    first.map_err(unsound)
}

/// Encode the samples, with markup read as markup.
pub fn encode(real: &Real, model: Handle) -> Encoded {
    let mut encoded = Encoded::new();
    for text in SAMPLES {
        // A token is a byte or more; a few stand before the text in some vocabularies.
        let mut tokens = vec![0_i32; text.len() + 8];
        let (bytes, room) = (text.len() as i32, tokens.len() as i32);
        // SAFETY: the caller holds the lock, so the model lives; text and buffer are as long as
        // said.
        let count = unsafe {
            let vocab = (real.vocab)(model);
            let (text, tokens) = (text.as_ptr().cast(), tokens.as_mut_ptr());
            (real.tokenize)(vocab, text, bytes, tokens, room, false, true)
        };
        if let Ok(count) = usize::try_from(count) {
            let tokens = tokens.iter().take(count).map(|&token| token as u32);
            encoded.insert(*text, tokens.collect());
        }
    }
    encoded
}
