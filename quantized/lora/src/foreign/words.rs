//! Compares the tokenizer beside an adapter with the vocabulary of its base: an adapter with words
//! of its own, or for another revision of the base, would load and answer nonsense.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use translora_gguf::{Header, Value};

use super::ForeignError;

/// The longest tokenizer.json. units: bytes
pub(super) const TOKENIZER_BYTES_MAX: u64 = 128 << 20;

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
}
