//! A tokenizer.json for a base, as transformers saves it.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// How the lab's old base cuts texts into words.
pub const WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The tokenizer of a base as transformers saves it, with another way to cut texts.
pub fn tokenizer(base: &Path, words: &str) -> String {
    let bytes = fs::read(base).expect("the lab is in the repository");
    let gguf = translora_gguf::Gguf::parse(&bytes).expect("it is whole");
    let texts = |key: &str| {
        let found = gguf.get(&format!("tokenizer.ggml.{key}"));
        let found = found.and_then(translora_gguf::Value::as_strings);
        found.expect("the base has it").to_vec()
    };
    let (tokens, merges) = (texts("tokens"), texts("merges"));
    let vocab = tokens
        .iter()
        .zip(0_u32..)
        .map(|(token, id)| (token.clone(), json!(id)));
    let vocab: serde_json::Map<String, Value> = vocab.collect();
    let added = |id: usize| {
        json!({ "id": id, "content": tokens[id], "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true })
    };
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": false });
    let cut = json!({ "type": "Split", "pattern": { "Regex": words }, "behavior": "Isolated",
        "invert": false });
    let model = json!({ "type": "BPE", "dropout": null, "unk_token": null,
        "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
        "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": merges });
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": (0..3).map(added).collect::<Vec<_>>(),
        "normalizer": null, "post_processor": null, "decoder": bytes,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [cut, bytes] },
        "model": model,
    })
    .to_string()
}
