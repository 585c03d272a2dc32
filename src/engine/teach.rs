//! What a teacher thinks of each token of an answer, and what a student is to learn of each of its
//! own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{EngineError, Monitor, With};
use crate::record::{ContentHash, Pair};

/// Say what a model thinks of the tokens of given answers.
pub trait Teach {
    /// Hash of the words with their numbers, of what ends a turn, and of what is markup: two models
    /// with the same one mean the same by the number of a word.
    fn vocabulary(&self) -> ContentHash;

    /// The tokens of the answer of a pair, the end of the turn included.
    fn tokens(&self, pair: &Pair) -> Result<Vec<Token>, EngineError>;

    /// The number of the word that is spelled so; nothing where no word is, or more than one that
    /// the tokenizer does not prefer.
    fn word(&self, spelling: &Spelling) -> Option<i32>;

    /// The `words` likeliest words at each token of each completion, the token itself among them,
    /// in the order given.
    fn teach(
        &mut self,
        with: With,
        pairs: &[Pair],
        words: usize,
        monitor: &mut Monitor<'_>,
    ) -> Result<Lesson, EngineError>;

    /// ln p of given words at each token of each completion.
    ///
    /// shapes: `words` and the result: pairs, tokens, words of that token
    fn weigh(
        &mut self,
        with: With,
        pairs: &[Pair],
        words: &[WordsOf],
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<LogsOf>, EngineError>;
}

/// Words at each token of one completion.
pub type WordsOf = Vec<Vec<i32>>;
/// ln p of words at each token of one completion.
pub type LogsOf = Vec<Vec<f32>>;

/// A token of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its number in the vocabulary.
    pub id: i32,
    /// The bytes of the answer that it covers, from and to; the end of the turn covers none, at the
    /// answer's end. Nothing where the token stands for other bytes than the answer's.
    pub bytes: Option<(usize, usize)>,
    /// It ends the turn.
    pub ends: bool,
    /// The tokenizer wrote a space before it that the answer does not have.
    pub spaced: bool,
}

/// How a vocabulary writes a word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Spelling {
    /// What it stands for.
    pub bytes: Vec<u8>,
    /// The word is what the template ends a turn with; it has no bytes.
    pub ends: bool,
}

/// A token with the words that a teacher holds for likeliest in its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spoken {
    /// The token of the answer.
    pub token: Token,
    /// Words of the teacher's vocabulary with ln p, each once, the token's own among them.
    pub words: Vec<(i32, f32)>,
}

/// What a teacher says of some answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lesson {
    /// How the words that it names are spelled.
    pub spelling: BTreeMap<i32, Spelling>,
    /// One for each answer, in the order they were given.
    pub answers: Vec<Vec<Spoken>>,
}

/// What a student is to learn of each token of one example, in its own words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SoftLabels {
    /// Words with their probabilities, each once; what they leave over is spread over all others as
    /// the student likes. One word of probability 1 is a plain label. Empty: the example is plain
    /// text.
    pub words: Vec<Vec<(i32, f32)>>,
    /// How much each token counts; all the same where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Vec<f32>>,
}

/// What a step minimizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// −ln p of the label.
    #[default]
    Text,
    /// KL(soft label ‖ student), all words that a label does not name as one.
    Match,
}
