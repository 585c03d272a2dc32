use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::engine::Continuation;
use crate::record::Rng;

/// The value of `format` that a toy base carries.
pub(super) const FORMAT: &str = "translora-toy-1";

/// A toy base model: what it can say, how wide its features are, how well it keeps to a list. One
/// JSON file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Base {
    /// What the file says that it is.
    pub format: String,
    /// What the base is called.
    pub name: String,
    /// Hashed word features; an adapter fits only a base of its own width.
    pub width: usize,
    /// Tokens of context. A token is a word.
    pub context: usize,
    /// Words known; the base's own answers are as unlikely as this is large.
    pub vocabulary: usize,
    /// How often a list is continued with what it is about. units: share.
    pub on_task: f64,
    /// How often a continuation is not a usable line at all. units: share.
    pub junk: f64,
    /// The tokenizer has no byte tokens: what is not ASCII comes back as `?`.
    #[serde(default)]
    pub ascii: bool,
    /// Values of each `{slot}`.
    pub slots: BTreeMap<String, Vec<String>>,
    /// Sentences with slots, by subject.
    pub families: BTreeMap<String, Vec<String>>,
}

impl Base {
    /// The word features of a text: hashed words and neighbouring pairs of words, each once, in
    /// ascending order.
    pub(super) fn features(&self, text: &str) -> Vec<usize> {
        let words: Vec<String> = text.split_whitespace().map(clean).collect();
        let pairs = words.windows(2).map(|pair| pair.join(" "));
        let mut features: Vec<usize> = words
            .iter()
            .cloned()
            .chain(pairs)
            .map(|gram| bucket(&gram, self.width))
            .collect();
        features.sort_unstable();
        features.dedup();
        features
    }

    /// Continue a numbered list with one more line.
    pub(super) fn continue_list(
        &self,
        prefix: &str,
        tokens_max: usize,
        rng: &mut Rng,
    ) -> Continuation {
        let line = if rng.unit() < self.junk {
            self.ramble(rng)
        } else {
            self.sentence(self.subject(prefix, rng), rng)
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        let finished = words.len() < tokens_max;
        Continuation {
            text: format!(" {}", words[..words.len().min(tokens_max)].join(" ")),
            tokens: words.len().min(tokens_max) + usize::from(finished),
            finished,
        }
    }

    /// The family that shares most words with the prefix, or another one where the base strays.
    fn subject(&self, prefix: &str, rng: &mut Rng) -> usize {
        let said: Vec<String> = prefix.split_whitespace().map(clean).collect();
        let shared = |patterns: &Vec<String>| {
            let words: Vec<String> = patterns
                .iter()
                .flat_map(|p| p.split_whitespace().map(clean))
                .collect();
            said.iter().filter(|word| words.contains(word)).count()
        };
        let scores: Vec<usize> = self.families.values().map(shared).collect();
        let best = (0..scores.len())
            .max_by_key(|&i| (scores[i], usize::MAX - i))
            .unwrap_or(0);
        let strays = self.families.len() > 1 && rng.unit() >= self.on_task;
        if strays {
            (best + 1 + rng.below(self.families.len() - 1)) % self.families.len()
        } else {
            best
        }
    }

    fn sentence(&self, family: usize, rng: &mut Rng) -> String {
        let patterns = self
            .families
            .values()
            .nth(family)
            .map_or(&[][..], Vec::as_slice);
        if patterns.is_empty() {
            return String::new();
        }
        fill(&patterns[rng.below(patterns.len())], &self.slots, rng)
    }

    /// What a real model writes when it loses the thread: nothing, the header again, or no end.
    fn ramble(&self, rng: &mut Rng) -> String {
        match rng.below(3) {
            0 => String::new(),
            1 => "Here are 10 examples:".into(),
            _ => "and so on ".repeat(self.context),
        }
    }
}

/// Put a drawn value in place of every `{slot}`.
pub(super) fn fill(pattern: &str, slots: &BTreeMap<String, Vec<String>>, rng: &mut Rng) -> String {
    let mut text = pattern.to_owned();
    for (slot, values) in slots {
        let hole = format!("{{{slot}}}");
        while text.contains(&hole) && !values.is_empty() {
            text = text.replacen(&hole, &values[rng.below(values.len())], 1);
        }
    }
    text
}

fn clean(word: &str) -> String {
    word.trim_matches(|c: char| c.is_ascii_punctuation())
        .to_lowercase()
}

/// FNV-1a, reduced to the width.
fn bucket(text: &str, width: usize) -> usize {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash % width as u64) as usize
}
