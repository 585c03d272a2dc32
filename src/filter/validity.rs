use std::collections::{BTreeMap, HashSet};

use super::{Reason, Rejections};
use crate::generate::Candidate;

/// Pieces of chat templates; an input that holds one is a model talking to itself.
const MARKERS: [&str; 12] =
    ["<|", "|>", "<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<pad>"];
/// An input may be this many times as long as the longest seed, or `CHARS_MIN`, whichever is more.
const LONGER_THAN_SEEDS: usize = 4;
const CHARS_MIN: usize = 200;
/// Rejected texts that are kept for each reason, to be shown.
const SHOWN_MAX: usize = 5;

/// Bounds that follow from the seeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    pub chars_max: usize,
}

impl Rules {
    pub fn from_seeds<'t>(seeds: impl IntoIterator<Item = &'t str>) -> Self {
        let longest = seeds.into_iter().map(|seed| seed.chars().count()).max().unwrap_or(0);
        Self { chars_max: (longest * LONGER_THAN_SEEDS).max(CHARS_MIN) }
    }
}

/// An input that could have been typed by somebody.
#[derive(Clone, Debug, PartialEq)]
pub struct Valid {
    text: String,
    line: bool,
}

impl Valid {
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A model wrote it as a line, not in pieces.
    pub fn line(&self) -> bool {
        self.line
    }
}

/// Checks candidates without a model, and remembers what it let through.
pub struct Validity {
    rules: Rules,
    seen: HashSet<String>,
    rejected: Rejections,
    shown: BTreeMap<Reason, Vec<String>>,
}

impl Validity {
    /// Start with the seeds, which are never let through again.
    pub fn new<'t>(seeds: impl IntoIterator<Item = &'t str> + Clone) -> Self {
        let seen = seeds.clone().into_iter().map(plain_words).collect();
        Self { rules: Rules::from_seeds(seeds), seen, rejected: Rejections::new(), shown: BTreeMap::new() }
    }

    /// Let through what is valid and new.
    pub fn pass(&mut self, candidates: &[Candidate]) -> Vec<Valid> {
        let mut valid = Vec::new();
        for candidate in candidates {
            match self.reason(candidate) {
                Some(reason) => {
                    *self.rejected.entry(reason).or_default() += 1;
                    let shown = self.shown.entry(reason).or_default();
                    if shown.len() < SHOWN_MAX {
                        shown.push(candidate.text().to_owned());
                    }
                }
                None => valid.push(Valid { text: candidate.text().to_owned(), line: candidate.is_line() }),
            }
        }
        valid
    }

    /// Everything rejected so far.
    pub fn rejected(&self) -> &Rejections {
        &self.rejected
    }

    /// The first texts that were rejected for each reason.
    pub fn shown(&self) -> impl Iterator<Item = (Reason, &str)> {
        self.shown.iter().flat_map(|(&reason, texts)| texts.iter().map(move |text| (reason, text.as_str())))
    }

    fn reason(&mut self, candidate: &Candidate) -> Option<Reason> {
        let text = candidate.text();
        if text.trim().is_empty() {
            Some(Reason::Empty)
        } else if text.chars().any(char::is_control) {
            Some(Reason::Control)
        } else if MARKERS.iter().any(|marker| text.contains(marker)) {
            Some(Reason::Marker)
        } else if is_header(text) {
            Some(Reason::Header)
        } else if !candidate.finished() {
            Some(Reason::Unfinished)
        } else if text.chars().count() > self.rules.chars_max {
            Some(Reason::TooLong)
        } else if !self.seen.insert(plain_words(text)) {
            Some(Reason::Repeated)
        } else {
            None
        }
    }
}

/// `Here are 10 examples:`, `Examples:`, `7.`, `…`: what a list is made of, not what it lists.
fn is_header(text: &str) -> bool {
    let lower = text.to_lowercase();
    let promises = lower.ends_with(':') && (lower.starts_with("here are") || lower.contains("example"));
    let number = text.trim_end_matches(['.', ')', '…', ':']);
    promises || (number.len() < text.len() && number.chars().all(|c| c.is_ascii_digit()))
}

/// Words in lower case without the white space between them: texts that differ in less are the same. Punctuation counts, because
/// there are tasks made of it.
fn plain_words(text: &str) -> String {
    text.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(texts: &[(&str, bool)]) -> (Vec<String>, Vec<(Reason, u64)>) {
        let candidates: Vec<Candidate> = texts.iter().map(|(text, finished)| Candidate::line((*text).into(), *finished)).collect();
        let mut validity = Validity::new(["a seed of words"]);
        let valid = validity.pass(&candidates);
        let rejected = validity.rejected().iter().map(|(&reason, &count)| (reason, count)).collect();
        (valid.iter().map(|valid| valid.text().to_owned()).collect(), rejected)
    }

    #[test]
    fn every_rejection_has_its_reason() {
        let long = "word ".repeat(80);
        let cases = [
            ("", true, Reason::Empty),
            ("a\u{7}b", true, Reason::Control),
            ("a <|im_end|> b", true, Reason::Marker),
            ("Here are 10 examples:", true, Reason::Header),
            ("Examples:", true, Reason::Header),
            ("7.", true, Reason::Header),
            ("…", true, Reason::Header),
            ("no end to", false, Reason::Unfinished),
            (long.trim(), true, Reason::TooLong),
            ("A seed  of words", true, Reason::Repeated),
        ];
        for (text, finished, reason) in cases {
            assert_eq!(reasons(&[(text, finished)]), (vec![], vec![(reason, 1)]), "{text:?}");
        }
    }

    #[test]
    fn ordinary_inputs_pass_once() {
        let (valid, rejected) = reasons(&[("close: ( [", true), ("close: ( [ [", true), ("Close: ( [", true), ("12 - 7", true)]);
        assert_eq!(valid, ["close: ( [", "close: ( [ [", "12 - 7"]);
        assert_eq!(rejected, [(Reason::Repeated, 1)]);
    }
}
