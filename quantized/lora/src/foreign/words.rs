//! Compares the tokenizer beside an adapter with the vocabulary of its base: an adapter with words
//! of its own, or for another revision of the base, would load and answer nonsense.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use tokenizers::Tokenizer;
use translora_gguf::{Header, Value};

use super::ForeignError;

/// The longest tokenizer.json. units: bytes
pub(super) const TOKENIZER_BYTES_MAX: u64 = 128 << 20;

/// Texts that the tokenizer and the base must read alike: languages, white space, digits, emoji,
/// code and markup. All are composed (NFC), and markup stands at an end: on what follows it,
/// llama.cpp and `tokenizers` differ where a space is put before a text.
pub const SAMPLES: &[&str] = &[
    "The quick brown fox jumps over the lazy dog.",
    "It's what they'd say: WE'LL see, don't we?",
    "Über Größe und Maß: schöne Grüße aus Köln",
    "Où êtes-vous né ? À l'été où le cœur bat.",
    "Съешь ещё этих мягких французских булок",
    "今日は良い天気ですね。明日も晴れるでしょうか？",
    "中文句子，没有空格。",
    "안녕하세요, 만나서 반갑습니다",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "two  spaces,   three    four",
    "a line\nanother\n\nand a\ttab\r\n",
    " at the start, and at the end ",
    "1 12 123 1234 12345 1,234,567.89 2024-07-26",
    "🙂 👍🏽 👩‍👩‍👧 🇩🇪",
    "fn main() {\n    let x = vec![1, 2];\n    println!(\"{x:?}\");\n}",
    "def f(x):\n\treturn x**2 + x_1 - 0.5e-3  # done",
    "{\"a\": [1, null], \"b\": \"c\\n\"}",
    "<p class=\"a\">&amp; <b>bold</b></p> https://example.org/a?b=c#d",
    "$E = mc^2$ ~ `code` *and* _more_ \\(x\\)",
    "an answer</s>",
    "an answer<|im_end|>",
    "an answer<|eot_id|>",
    "an answer<|endoftext|>",
    "an answer<end_of_turn>",
];

/// The first difference between a tokenizer and the vocabulary of a base.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// The base has no token of this number.
    More {
        /// The number, from 0.
        token: u64,
        /// What it stands for in the tokenizer.
        piece: String,
        /// Tokens of the base.
        tokens: usize,
    },
    /// A token stands for something else.
    Piece {
        /// The number, from 0.
        token: u64,
        /// What it stands for in the tokenizer.
        piece: String,
        /// What it stands for in the base.
        base: String,
    },
    /// Pieces are joined in another order.
    Merge {
        /// Which one, from 0.
        number: usize,
        /// What the tokenizer joins there, if anything.
        pieces: String,
        /// What the base joins there, if anything.
        base: String,
    },
    /// A text is cut into other tokens: another way to split it, or other markup.
    Text {
        /// The text.
        text: &'static str,
        /// The tokens that the tokenizer makes of it.
        tokens: Vec<u32>,
        /// The tokens that the base makes of it.
        base: Vec<u32>,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::More {
                token,
                piece,
                tokens,
            } => write!(
                f,
                "token {token} is {piece:?}, and the base has {tokens} tokens"
            ),
            Self::Piece { token, piece, base } => {
                write!(f, "token {token} is {piece:?}, and {base:?} in the base")
            }
            Self::Merge {
                number,
                pieces,
                base,
            } => write!(f, "merge {number} is {pieces:?}, and {base:?} in the base"),
            Self::Text { text, tokens, base } => {
                write!(f, "{text:?} is {tokens:?}, and {base:?} in the base")
            }
        }
    }
}

#[derive(Deserialize)]
struct File {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Model {
    vocab: Vocabulary,
    #[serde(default)]
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Vocabulary {
    Numbers(BTreeMap<String, u64>),
    /// In the order of their numbers, with scores.
    Scores(Vec<(String, f64)>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Text(String),
    Pair(String, String),
}

#[derive(Deserialize)]
struct Added {
    id: u64,
    content: String,
}

/// Compares a tokenizer.json with the vocabulary of a base. A base without one is not compared.
///
/// fails: the file is no tokenizer, or the first difference
pub(super) fn check(tokenizer: &[u8], base: &Header) -> Result<(), ForeignError> {
    let file: File = serde_json::from_slice(tokenizer).map_err(ForeignError::Tokenizer)?;
    let words = |key: &str| base.get(key).and_then(Value::as_strings);
    let Some(tokens) = words("tokenizer.ggml.tokens") else {
        return Ok(());
    };
    let mut pieces: BTreeMap<u64, String> = match file.model.vocab {
        Vocabulary::Numbers(vocab) => vocab.into_iter().map(|(piece, id)| (id, piece)).collect(),
        Vocabulary::Scores(vocab) => (0..)
            .zip(vocab.into_iter().map(|(piece, _)| piece))
            .collect(),
    };
    let added = file.added_tokens.into_iter();
    pieces.extend(added.map(|added| (added.id, added.content)));
    for (token, piece) in pieces {
        let found = usize::try_from(token).ok().and_then(|at| tokens.get(at));
        let difference = match found {
            Some(found) if same(&piece, found) => continue,
            Some(found) => Difference::Piece {
                token,
                piece,
                base: found.clone(),
            },
            None => Difference::More {
                token,
                piece,
                tokens: tokens.len(),
            },
        };
        return Err(ForeignError::Words { difference });
    }
    let joined = file.model.merges.iter().map(Merge::joined);
    match words("tokenizer.ggml.merges") {
        Some(merges) => same_merges(&joined.collect::<Vec<_>>(), merges),
        None => Ok(()),
    }
}

impl Merge {
    /// As llama.cpp's converter writes it: a space within a piece has the letter of its byte.
    fn joined(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Pair(one, two) => format!("{} {}", one.replace(' ', "Ġ"), two.replace(' ', "Ġ")),
        }
    }
}

/// SentencePiece writes a space as `▁`, and a converter may trim the text of an added token.
fn same(piece: &str, base: &str) -> bool {
    let plain = |text: &str| text.replace('▁', " ");
    piece == base || {
        let (piece, base) = (plain(piece), plain(base));
        piece == base || (!base.trim().is_empty() && piece.trim() == base.trim())
    }
}

fn same_merges(ours: &[String], base: &[String]) -> Result<(), ForeignError> {
    if ours.is_empty() || ours == base {
        return Ok(());
    }
    let differs = |number: &usize| ours.get(*number) != base.get(*number);
    let number = (0..ours.len().max(base.len())).find(differs).unwrap_or(0);
    let of = |merges: &[String]| merges.get(number).cloned().unwrap_or_default();
    Err(ForeignError::Words {
        difference: Difference::Merge {
            number,
            pieces: of(ours),
            base: of(base),
        },
    })
}

/// Compares what a tokenizer.json makes of [`SAMPLES`] with what a base does; `encode` reads markup
/// as markup, and answers nothing for what the base cannot read.
///
/// fails: the file is no tokenizer, or the first difference
pub(super) fn compare(
    tokenizer: &[u8],
    encode: impl Fn(&str) -> Option<Vec<u32>>,
) -> Result<(), ForeignError> {
    let refuse = |error: tokenizers::Error| ForeignError::Encoding(error.to_string());
    let mut tokenizer = Tokenizer::from_bytes(tokenizer).map_err(refuse)?;
    tokenizer.with_truncation(None).map_err(refuse)?;
    tokenizer.with_padding(None);
    for text in SAMPLES {
        let found = tokenizer.encode_fast(*text, false).map_err(refuse)?;
        let tokens = found.get_ids().to_vec();
        let Some(base) = encode(text).filter(|base| *base != tokens) else {
            continue;
        };
        return Err(ForeignError::Words {
            difference: Difference::Text { text, tokens, base },
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use translora_gguf::{Gguf, Writer};

    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let mut writer = Writer::new();
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        writer.set(
            "tokenizer.ggml.tokens",
            words(&["a", "b", "ab", "▁c", "<s>"]),
        );
        writer.set("tokenizer.ggml.merges", words(&["a b"]));
        let bytes = writer.to_bytes().expect("small");
        let base = Gguf::parse(&bytes).expect("whole");
        let file = |vocab: &str, merges: &str, added: &str| {
            format!(
                r#"{{"model":{{"type":"BPE","vocab":{vocab},"merges":{merges}}},"added_tokens":{added}}}"#
            )
        };
        let whole = r#"{"a":0,"b":1,"ab":2," c":3}"#;
        let start = r#"[{"id":4,"content":"<s>","special":true}]"#;
        let table = [
            (file(whole, r#"["a b"]"#, start), ""),
            (file(whole, r#"[["a","b"]]"#, start), ""),
            // Fewer tokens: the rest are none that it was trained with.
            (file(r#"{"a":0}"#, "[]", "[]"), ""),
            (file(r#"[["a",0.5],["b",-1]]"#, "[]", "[]"), ""),
            (
                file(r#"{"a":1,"b":0}"#, "[]", "[]"),
                r#"token 0 is "b", and "a" in the base"#,
            ),
            (
                file(whole, "[]", r#"[{"id":5,"content":"<tool>"}]"#),
                r#"token 5 is "<tool>", and the base has 5 tokens"#,
            ),
            (
                file(whole, "[]", r#"[{"id":4,"content":"</s>"}]"#),
                r#"token 4 is "</s>", and "<s>" in the base"#,
            ),
            (
                file(whole, r#"["b a"]"#, "[]"),
                r#"merge 0 is "b a", and "a b" in the base"#,
            ),
            (
                file(whole, r#"["a b","ab a"]"#, "[]"),
                r#"merge 1 is "ab a", and "" in the base"#,
            ),
            ("{}".into(), "its tokenizer.json: missing field"),
            ("[".into(), "its tokenizer.json: EOF"),
        ];
        for (json, said) in table {
            let found = check(json.as_bytes(), &base);
            match said {
                "" => found.unwrap_or_else(|error| panic!("{json}: {error}")),
                said => {
                    let error = found.expect_err(said).to_string();
                    assert!(error.contains(said), "{said}: {error}");
                }
            }
        }
        let bytes = Writer::new().to_bytes().expect("small");
        let none = Gguf::parse(&bytes).expect("whole");
        assert!(check(file(whole, "[]", "[]").as_bytes(), &none).is_ok());
    }

    /// A tokenizer that cuts words at spaces, and knows bytes only.
    fn bytes() -> String {
        let vocab = (0..=255_u32).map(|byte| format!("\"<0x{byte:02X}>\": {byte}"));
        let vocab = vocab.collect::<Vec<_>>().join(", ");
        format!(
            r#"{{"version": "1.0", "truncation": {{"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}},
                "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
                "model": {{"type": "BPE", "byte_fallback": true, "unk_token": null, "vocab": {{{vocab}}}, "merges": []}}}}"#
        )
    }

    #[test]
    fn the_first_text_that_is_read_otherwise_is_named() {
        let file = bytes();
        let as_bytes = |text: &str| Some(text.bytes().map(u32::from).collect::<Vec<_>>());
        compare(file.as_bytes(), as_bytes).expect("both are bytes");
        compare(file.as_bytes(), |_| None).expect("a base without words is not compared");
        let upper = |text: &str| as_bytes(&text.replace("\t", " "));
        let error = compare(file.as_bytes(), upper)
            .expect_err("tabs differ")
            .to_string();
        assert!(
            error.contains(r#""a line\nanother\n\nand a\ttab\r\n" is [97, "#),
            "{error}"
        );
        for (broken, said) in [("{}", "its tokenizer.json"), ("[", "its tokenizer.json")] {
            let error = compare(broken.as_bytes(), as_bytes)
                .expect_err(said)
                .to_string();
            assert!(error.contains(said), "{error}");
        }
        let split = r#"{"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated", "invert": false}"#;
        let broken = file.replace(
            r#""pre_tokenizer": null"#,
            &format!(r#""pre_tokenizer": {split}"#),
        );
        assert!(compare(broken.as_bytes(), as_bytes).is_err());
    }
}
