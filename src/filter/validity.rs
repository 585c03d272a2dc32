use std::collections::{BTreeMap, HashSet};

use super::near::{NEAR, Taken};
use super::script::Writing;
use super::{Reason, Rejections};
use crate::generate::Candidate;
use crate::record::{Origin, Prompt, chat_marker};

/// An input may be this many times as long as the longest seed, or `CHARS_MIN`, whichever is more.
const LONGER_THAN_SEEDS: usize = 4;
const CHARS_MIN: usize = 200;
/// Rejected texts that are kept for each reason, to be shown.
const SHOWN_MAX: usize = 5;
/// A seed of fewer words is a phrase that other inputs may hold.
const SEED_WORDS_MIN: usize = 8;

/// What an input must keep to.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// units: characters
    pub chars_min: usize,
    /// Characters of an input at most.
    pub chars_max: usize,
    /// Inputs that share this part of their shingles are the same (Jaccard's index of word
    /// trigrams); above 1, none are.
    pub near: f64,
    /// Inputs that differ in numbers only are the same.
    pub numbers_masked: bool,
    /// An input repeats a seed where it has this part of the seed's words in a row; 0 switches it
    /// off.
    pub seed_run: f64,
}

impl Rules {
    /// Bounds of length that follow from the seeds, and near repetitions thrown out.
    pub fn from_seeds<'t>(seeds: impl IntoIterator<Item = &'t str>) -> Self {
        let longest = seeds
            .into_iter()
            .map(|seed| seed.chars().count())
            .max()
            .unwrap_or(0);
        let chars_max = (longest * LONGER_THAN_SEEDS).max(CHARS_MIN);
        Self {
            chars_min: 1,
            chars_max,
            near: NEAR,
            numbers_masked: false,
            seed_run: 0.0,
        }
    }
}

/// An input that could have been typed by somebody.
#[derive(Clone, Debug, PartialEq)]
pub struct Valid {
    prompt: Prompt,
    origin: Origin,
}

impl Valid {
    /// The user's last turn, which is what was generated.
    pub fn text(&self) -> &str {
        &self.prompt.text
    }

    /// The whole conversation.
    pub fn prompt(&self) -> &Prompt {
        &self.prompt
    }

    /// How it was made up.
    pub fn origin(&self) -> Origin {
        self.origin
    }
}

/// Checks candidates without a model, and remembers what it let through.
pub struct Validity {
    rules: Rules,
    seen: HashSet<String>,
    masked: HashSet<String>,
    taken: Taken,
    /// What the seeds are written in.
    writing: Writing,
    /// Runs of words of the seeds, by how long they are.
    runs: Vec<(usize, String)>,
    rejected: Rejections,
    shown: BTreeMap<Reason, Vec<String>>,
}

impl Validity {
    /// Start with the seeds, which are never let through again.
    pub fn new<'t>(seeds: impl IntoIterator<Item = &'t str> + Clone, rules: Rules) -> Self {
        let seen = seeds.clone().into_iter().map(plain_words).collect();
        let masked = seeds
            .clone()
            .into_iter()
            .map(|seed| without_numbers(&plain_words(seed)))
            .collect();
        let mut taken = Taken::new(rules.near);
        seeds
            .clone()
            .into_iter()
            .for_each(|seed| _ = taken.take(seed));
        let writing = Writing::of(seeds.clone());
        let runs = seeds
            .into_iter()
            .flat_map(|seed| runs(seed, rules.seed_run))
            .collect();
        Self {
            rules,
            seen,
            masked,
            taken,
            writing,
            runs,
            rejected: Rejections::new(),
            shown: BTreeMap::new(),
        }
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
                None => valid.push(Valid {
                    prompt: candidate.prompt().clone(),
                    origin: candidate.origin(),
                }),
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
        self.shown
            .iter()
            .flat_map(|(&reason, texts)| texts.iter().map(move |text| (reason, text.as_str())))
    }

    fn reason(&mut self, candidate: &Candidate) -> Option<Reason> {
        let text = candidate.text();
        let chars = text.chars().count();
        if text.trim().is_empty() {
            Some(Reason::Empty)
        } else if candidate.origin() == Origin::Asked {
            // The rules below tell what a model writes by mistake. What users ask is as it is.
            let marker = chat_marker(text).map(|_| Reason::Marker);
            marker.or_else(|| self.repetition(text))
        } else if text.chars().any(char::is_control) {
            Some(Reason::Control)
        } else if !self.writing.covers(text) {
            Some(Reason::Script)
        } else if chat_marker(text).is_some() {
            Some(Reason::Marker)
        } else if is_header(text) {
            Some(Reason::Header)
        } else if !candidate.finished() {
            Some(Reason::Unfinished)
        } else if chars > self.rules.chars_max {
            Some(Reason::TooLong)
        } else if chars < self.rules.chars_min {
            Some(Reason::TooShort)
        } else {
            self.repetition(text)
        }
    }

    /// In which way a text repeats another, from what is found fastest to what takes longest.
    fn repetition(&mut self, text: &str) -> Option<Reason> {
        let plain = plain_words(text);
        let holds_run = |(words, run): &(usize, String)| {
            let all: Vec<&str> = plain.split(' ').collect();
            all.windows(*words)
                .any(|window| window.iter().copied().eq(run.split(' ')))
        };
        if self.seen.contains(&plain) {
            Some(Reason::Repeated)
        } else if self.rules.numbers_masked && !self.masked.insert(without_numbers(&plain)) {
            Some(Reason::OtherNumbers)
        } else if self.runs.iter().any(holds_run) {
            Some(Reason::SeedRun)
        } else if self.rules.near <= 1.0 && !self.taken.take(text) {
            Some(Reason::NearRepeat)
        } else {
            self.seen.insert(plain);
            None
        }
    }
}

/// Every run of a part of a seed's words, with how many words it has.
fn runs(seed: &str, part: f64) -> Vec<(usize, String)> {
    let plain = plain_words(seed);
    let words: Vec<&str> = plain.split(' ').collect();
    let run = (words.len() as f64 * part).ceil() as usize;
    if run == 0 || words.len() < SEED_WORDS_MIN {
        return Vec::new();
    }
    words
        .windows(run)
        .map(|window| (run, window.join(" ")))
        .collect()
}

/// `Here are 10 examples:`, `Examples:`, `7.`, `…`: what a list is made of, not what it lists.
fn is_header(text: &str) -> bool {
    let lower = text.to_lowercase();
    let promises =
        lower.ends_with(':') && (lower.starts_with("here are") || lower.contains("example"));
    let number = text.trim_end_matches(['.', ')', '…', ':']);
    promises || (number.len() < text.len() && number.chars().all(|c| c.is_ascii_digit()))
}

/// Words in lower case without the white space between them: texts that differ in less are the
/// same. Punctuation counts, because there are tasks made of it.
fn plain_words(text: &str) -> String {
    text.split_whitespace()
        .map(str::to_lowercase)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A text with one mark in place of each number.
pub(super) fn without_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let c = if c.is_ascii_digit() { '#' } else { c };
        if c != '#' || !out.ends_with('#') {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons_by(
        rules: Rules,
        seed: &str,
        texts: &[(&str, bool)],
    ) -> (Vec<String>, Vec<(Reason, u64)>) {
        let candidates: Vec<Candidate> = texts
            .iter()
            .map(|(text, finished)| Candidate::example(text, *finished))
            .collect();
        let mut validity = Validity::new([seed], rules);
        let valid = validity.pass(&candidates);
        let rejected = validity
            .rejected()
            .iter()
            .map(|(&reason, &count)| (reason, count))
            .collect();
        (
            valid.iter().map(|valid| valid.text().to_owned()).collect(),
            rejected,
        )
    }

    fn reasons(texts: &[(&str, bool)]) -> (Vec<String>, Vec<(Reason, u64)>) {
        reasons_by(
            Rules::from_seeds(["a seed of words"]),
            "a seed of words",
            texts,
        )
    }

    #[test]
    fn every_rejection_has_its_reason() {
        let long = "word ".repeat(80);
        let cases = [
            ("", true, Reason::Empty),
            ("a\u{7}b", true, Reason::Control),
            ("a 𒂂 b", true, Reason::Script),
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
            assert_eq!(
                reasons(&[(text, finished)]),
                (vec![], vec![(reason, 1)]),
                "{text:?}"
            );
        }
    }

    #[test]
    fn ordinary_inputs_pass_once() {
        let (valid, rejected) = reasons(&[
            ("close: ( [", true),
            ("close: ( [ [", true),
            ("Close: ( [", true),
            ("12 - 7", true),
        ]);
        assert_eq!(valid, ["close: ( [", "close: ( [ [", "12 - 7"]);
        assert_eq!(rejected, [(Reason::Repeated, 1)]);
    }

    #[test]
    fn what_users_ask_is_judged_as_it_is_and_taken_once() {
        let prompts = [
            "a line\nand another: 12 €",
            "Examples:",
            "A line and another: 12 €",
            "  ",
            "x <|im_end|>",
            "a seed of words",
        ];
        let asked = prompts.map(Candidate::example_asked);
        let mut validity =
            Validity::new(["a seed of words"], Rules::from_seeds(["a seed of words"]));
        let valid = validity.pass(&asked);
        let texts: Vec<&str> = valid.iter().map(Valid::text).collect();
        assert_eq!(texts, &prompts[..2]);
        let right = [
            (Reason::Empty, 1),
            (Reason::Marker, 1),
            (Reason::Repeated, 2),
        ];
        assert_eq!(validity.rejected(), &right.into());
    }

    #[test]
    fn near_repetitions_other_numbers_and_runs_of_a_seed_are_told_apart() {
        let seed = "the fox that ran over the hill at noon met a hare and two hens in the old \
            mill by the sea on its way home to bed";
        let one = |rules: Rules, text: &str| reasons_by(rules, seed, &[(text, true)]).1;
        let rules = Rules::from_seeds([seed]);
        let last = seed.replace("to bed", "to sleep");
        assert_eq!(one(rules.clone(), &last), [(Reason::NearRepeat, 1)]);
        assert_eq!(
            one(
                Rules {
                    near: 2.0,
                    ..rules.clone()
                },
                &last
            ),
            []
        );
        assert_eq!(
            one(
                Rules {
                    near: 2.0,
                    seed_run: 0.75,
                    ..rules.clone()
                },
                &last
            ),
            [(Reason::SeedRun, 1)]
        );
        // A run is a part of the seed: its first half and other words are a new input.
        let half = "the fox that ran over the hill at noon met no one else that day";
        assert_eq!(
            one(
                Rules {
                    seed_run: 0.75,
                    ..rules.clone()
                },
                half
            ),
            []
        );
        let numbers = [("at 10 of 12", true), ("at 9 of 1", true)];
        assert_eq!(reasons_by(rules.clone(), seed, &numbers).1, []);
        assert_eq!(
            reasons_by(
                Rules {
                    numbers_masked: true,
                    ..rules.clone()
                },
                seed,
                &numbers
            )
            .1,
            [(Reason::OtherNumbers, 1)]
        );
        assert_eq!(
            one(
                Rules {
                    chars_min: 5,
                    ..rules
                },
                "four"
            ),
            [(Reason::TooShort, 1)]
        );
        // A short seed is a phrase.
        assert_eq!(runs("walk left twice", 0.75), []);
    }
}
