use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Judged;
use super::answers::{Answers, answers, has_key};
use super::near::Shingles;
use super::validity::without_numbers;
use crate::record::Pair;

/// Inputs compared with each other at most; of more, the first.
const COMPARED_MAX: usize = 1500;
/// Labels or keys that are named at most.
const NAMED_MAX: usize = 20;

/// How much of a task what was kept covers, as far as texts can tell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Coverage {
    /// Distinct words, and those of them that no seed has.
    pub words: usize,
    /// Of [`Coverage::words`], those that no seed has.
    pub words_new: usize,
    /// How many of the words of one more input would be new, from those that only one input has.
    /// source: Good and Turing's estimate
    pub words_unseen: f64,
    /// Distinct texts where all numbers are the same.
    pub forms: usize,
    /// Distinct answers of the teacher.
    pub answers: usize,
    /// Kept inputs by the label that is their answer, or by each key of the JSON object that is.
    /// Empty where answers are text of their own.
    pub taught: BTreeMap<String, usize>,
    /// Labels or keys that the teacher gave to texts that were thrown out or drawn at random, but
    /// to no input that was kept.
    pub answers_missing: Vec<String>,
    /// Of each kept input, how like it is to the one most like it (Jaccard's index of word
    /// trigrams): least, deciles, greatest. A filter on similarity would hide what lies just below
    /// its threshold.
    pub similarity: Vec<f64>,
    /// The same to the seed most like it.
    pub similarity_to_seeds: Vec<f64>,
    /// Where rows with known answers were given: the share of their words that some kept input has,
    /// and of their answers.
    pub eval_words: Option<f64>,
    /// Of the answers of those rows, the share that some kept input gets.
    pub eval_answers: Option<f64>,
}

impl Coverage {
    /// Look at inputs with their answers, with what `seen` says of the answers the teacher has.
    pub fn of(
        kept: &[(&str, &str)],
        seeds: &[&str],
        seen: &[Judged],
        eval: Option<&[Pair]>,
    ) -> Self {
        let sets: Vec<BTreeSet<String>> = kept.iter().map(|(prompt, _)| words(prompt)).collect();
        let mut holders: BTreeMap<&String, usize> = BTreeMap::new();
        sets.iter()
            .flatten()
            .for_each(|word| *holders.entry(word).or_default() += 1);
        let known: BTreeSet<String> = seeds.iter().flat_map(|seed| words(seed)).collect();
        let taught = taught(kept, seen);
        let answers: BTreeSet<&str> = kept.iter().map(|(_, answer)| answer.trim()).collect();
        let shingles: Vec<Shingles> = kept
            .iter()
            .take(COMPARED_MAX)
            .map(|(prompt, _)| Shingles::of(prompt))
            .collect();
        let of_seeds: Vec<Shingles> = seeds.iter().map(|seed| Shingles::of(seed)).collect();
        let all: usize = holders.values().sum();
        Self {
            words: holders.len(),
            words_new: holders
                .keys()
                .filter(|word| !known.contains(**word))
                .count(),
            words_unseen: holders.values().filter(|&&count| count == 1).count() as f64
                / all.max(1) as f64,
            forms: kept
                .iter()
                .map(|(prompt, _)| without_numbers(prompt))
                .collect::<BTreeSet<_>>()
                .len(),
            answers: answers.len(),
            answers_missing: missing(&taught),
            taught,
            similarity: curve(nearest_other(&shingles)),
            similarity_to_seeds: curve(
                shingles
                    .iter()
                    .filter_map(|one| nearest(one, &of_seeds))
                    .collect(),
            ),
            eval_words: eval.map(|rows| {
                let prompts: Vec<String> = rows
                    .iter()
                    .flat_map(|row| words(&row.prompt.text))
                    .collect();
                prompts
                    .iter()
                    .filter(|word| holders.contains_key(word))
                    .count() as f64
                    / prompts.len().max(1) as f64
            }),
            eval_answers: eval.map(|rows| {
                rows.iter()
                    .filter(|row| answers.contains(row.completion.trim()))
                    .count() as f64
                    / rows.len().max(1) as f64
            }),
        }
    }
}

/// How many kept inputs teach each label, or each key, that the teacher was seen to use.
fn taught(kept: &[(&str, &str)], seen: &[Judged]) -> BTreeMap<String, usize> {
    let (names, teaches): (_, fn(&str, &str) -> bool) = match answers(seen) {
        Answers::Labels(labels) => (labels, |answer, label| answer.trim() == label),
        Answers::Objects(keys) => (keys, has_key),
        Answers::Text => return BTreeMap::new(),
    };
    let count = |name: &str| {
        kept.iter()
            .filter(|(_, answer)| teaches(answer, name))
            .count()
    };
    names
        .into_iter()
        .map(|name| (name.clone(), count(&name)))
        .collect()
}

/// What no kept input teaches.
fn missing(taught: &BTreeMap<String, usize>) -> Vec<String> {
    let missing = taught.iter().filter(|(_, count)| **count == 0);
    missing
        .take(NAMED_MAX)
        .map(|(name, _)| name.clone())
        .collect()
}

/// Digits are all the same.
fn words(text: &str) -> BTreeSet<String> {
    without_numbers(text)
        .split_whitespace()
        .map(str::to_lowercase)
        .collect()
}

fn nearest(one: &Shingles, others: &[Shingles]) -> Option<f64> {
    others
        .iter()
        .map(|other| one.likeness(other))
        .max_by(f64::total_cmp)
}

/// Of each, the likeness to the other that is most like it.
fn nearest_other(all: &[Shingles]) -> Vec<f64> {
    let mut nearest = vec![0.0_f64; if all.len() < 2 { 0 } else { all.len() }];
    for i in 1..nearest.len() {
        for j in 0..i {
            let likeness = all[i].likeness(&all[j]);
            nearest[i] = nearest[i].max(likeness);
            nearest[j] = nearest[j].max(likeness);
        }
    }
    nearest
}

fn curve(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    if values.is_empty() {
        Vec::new()
    } else {
        (0..=10)
            .map(|tenth| values[(values.len() - 1) * tenth / 10])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Reason;

    #[test]
    fn words_answers_and_likeness_are_counted() {
        let kept = [
            ("date May 3", "a"),
            ("date May 4", " b"),
            ("date June 12", "a"),
            ("quite another", "a"),
        ];
        let seen = ["a", "a", "a", "c", "c", "c"]
            .map(|answer| Judged::example(answer, answer, Some(Reason::Contrast)));
        let row = |prompt: &str, completion: &str| Pair {
            prompt: prompt.into(),
            completion: completion.into(),
        };
        let rows = [row("date July 3", "a"), row("date May 77", "e")];
        let coverage = Coverage::of(&kept, &["date May 1"], &seen, Some(&rows));
        assert_eq!(
            (
                coverage.words,
                coverage.words_new,
                coverage.answers,
                coverage.forms
            ),
            (6, 3, 2, 3)
        );
        assert_eq!(coverage.words_unseen, 3.0 / 11.0);
        assert_eq!(coverage.answers_missing, ["c"]);
        let taught = [("a", 3), ("c", 0)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(coverage.taught, taught.into());
        assert_eq!(
            (coverage.eval_words, coverage.eval_answers),
            (Some(5.0 / 6.0), Some(0.5))
        );
        assert_eq!(
            (
                coverage.similarity.len(),
                coverage.similarity_to_seeds.len()
            ),
            (11, 11)
        );
        assert_eq!(
            (coverage.similarity[0], coverage.similarity[10]),
            (0.0, 0.25)
        );
        assert_eq!(
            (
                coverage.similarity_to_seeds[0],
                coverage.similarity_to_seeds[10]
            ),
            (0.0, 0.25)
        );
        let objects = [
            ("x", "{\"name\": \"a\"}"),
            ("y", "{\"name\": \"b\", \"size\": 1}"),
        ];
        let seen = [objects[0], objects[1], objects[1], objects[1]]
            .map(|(text, answer)| Judged::example(text, answer, None));
        let taught = [("name", 2), ("size", 1)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(
            Coverage::of(&objects, &[], &seen, None).taught,
            taught.into()
        );
        let alone = Coverage::of(&kept[..1], &[], &[], None);
        assert!(
            alone.similarity.is_empty()
                && alone.similarity_to_seeds.is_empty()
                && alone.eval_words.is_none()
        );
    }
}
