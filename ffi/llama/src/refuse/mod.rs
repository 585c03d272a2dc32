//! Reads a model's container before llama.cpp does, and refuses what would make it abort, or throw
//! later.

use std::collections::HashSet;
use std::path::Path;

use translora_gguf::limits::MODEL_HEADER_BYTES_MAX;
use translora_gguf::{Header, Parts, Value};

use crate::error::LlamaError;

mod keys;

/// Read the container with the strict reader: llama.cpp's own aborts on some of what this one
/// refuses by name. A split model is read in all its parts.
pub(crate) fn check_container(path: &Path) -> Result<Parts, LlamaError> {
    Parts::open(path, MODEL_HEADER_BYTES_MAX).map_err(|error| LlamaError::of_file(path, error))
}

/// The same for a model, with its keys, its vocabulary and the types of its weights.
pub(crate) fn check_model(path: &Path) -> Result<(), LlamaError> {
    let parts = check_container(path)?;
    let checked = keys::check(&parts).and_then(|()| check_vocabulary(&parts));
    checked.map_err(|reason| LlamaError::ModelLoad {
        path: path.to_owned(),
        reason,
    })
}

/// source: llama.cpp `llama_vocab::impl::load` (asserts that tokens differ),
/// `llama_vocab::byte_to_token` (throws where a byte has none)
fn check_vocabulary(gguf: &Header) -> Result<(), String> {
    let text = |key: &str| gguf.get(key).and_then(Value::as_str);
    let Some(tokens) = gguf
        .get("tokenizer.ggml.tokens")
        .and_then(Value::as_strings)
    else {
        return Ok(());
    };
    let mut known = HashSet::with_capacity(tokens.len());
    for (id, token) in tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| !token.is_empty())
    {
        if !known.insert(token.as_str()) {
            return Err(format!(
                "its vocabulary holds {token:?} twice, the second time as token {id}"
            ));
        }
    }
    if text("tokenizer.ggml.model") != Some("llama") {
        return Ok(());
    }
    let missing: Vec<u8> = (0..=u8::MAX)
        .filter(|&byte| !covers(&known, byte))
        .collect();
    match missing.first() {
        None => Ok(()),
        Some(first) => {
            let count = missing.len();
            Err(format!(
                "its SentencePiece vocabulary has no token for {count} of the 256 bytes (<0x{first:02X}> is the first): text with other characters than its own cannot be encoded"
            ))
        }
    }
}

/// The byte has a token of its own, or is a character that is one.
fn covers(known: &HashSet<&str>, byte: u8) -> bool {
    known.contains(format!("<0x{byte:02X}>").as_str())
        || byte.is_ascii() && known.contains(char::from(byte).encode_utf8(&mut [0; 4]) as &str)
}

#[cfg(test)]
mod tests {
    use translora_gguf::{Gguf, Writer};

    use super::*;

    fn checked(model: &str, tokens: impl IntoIterator<Item = String>) -> Result<(), String> {
        let mut writer = Writer::new();
        writer.set("tokenizer.ggml.model", model).set(
            "tokenizer.ggml.tokens",
            tokens.into_iter().collect::<Vec<_>>(),
        );
        check_vocabulary(&Gguf::parse(&writer.to_bytes().unwrap()).unwrap())
    }

    fn bytes() -> impl Iterator<Item = String> {
        (0..=255).map(|byte| format!("<0x{byte:02X}>"))
    }

    #[test]
    fn a_sentencepiece_vocabulary_needs_every_byte() {
        assert_eq!(checked("llama", bytes()), Ok(()));
        assert_eq!(
            checked(
                "llama",
                bytes()
                    .filter(|token| token != "<0x41>")
                    .chain(["A".into()])
            ),
            Ok(())
        );
        let refusal = checked("llama", bytes().filter(|token| token != "<0xC3>")).unwrap_err();
        assert!(refusal.contains("1 of the 256 bytes (<0xC3>"), "{refusal}");
        assert!(
            checked("llama", ["a".to_owned()])
                .unwrap_err()
                .contains("255 of the 256 bytes (<0x00>")
        );
        assert_eq!(checked("gpt2", ["a".to_owned()]), Ok(()));
    }

    #[test]
    fn tokens_must_differ() {
        assert!(
            checked("gpt2", ["a", "", "", "b", "a"].map(str::to_owned))
                .unwrap_err()
                .contains("\"a\" twice, the second time as token 4")
        );
        assert_eq!(checked("gpt2", ["a", "", ""].map(str::to_owned)), Ok(()));
    }
}
