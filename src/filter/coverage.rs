use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::answers::Answers;
use super::near::Shingles;
use super::validity::without_numbers;
use crate::record::Pair;

/// Inputs compared with each other at most; of more, the first.
const COMPARED_MAX: usize = 1500;
/// Samples from which on a label or a key counts as taught.
const TAUGHT_MIN: usize = 5;
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
    /// How much of the task is taught, as far as the run can see. For labels and keys: of all that
    /// the teacher gave to accepted inputs, or of all that it gave to text of any kind, the lesser
    /// share that five samples or more teach. Else the share of the words of one more input that are
    /// known. units: share
    pub share: f64,
    /// Labels or keys that the teacher gives, and that fewer than five samples teach, the rarest
    /// first.
    pub hardly_taught: Vec<String>,
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
    /// Look at the inputs that are trained on, with their answers. `given`: the teacher's answers to
    /// all that could have been, and to text of any kind.
    pub fn of(
        kept: &[(&str, &str)],
        seeds: &[&str],
        given: [&[&str]; 2],
        answers: &Answers,
        eval: Option<&[Pair]>,
    ) -> Self {
        let sets: Vec<BTreeSet<String>> = kept.iter().map(|(prompt, _)| words(prompt)).collect();
        let mut holders: BTreeMap<&String, usize> = BTreeMap::new();
        sets.iter()
            .flatten()
            .for_each(|word| *holders.entry(word).or_default() += 1);
        let known: BTreeSet<String> = seeds.iter().flat_map(|seed| words(seed)).collect();
        let all: usize = holders.values().sum();
        let taught = taught(kept, answers);
        let words_unseen =
            holders.values().filter(|&&count| count == 1).count() as f64 / all.max(1) as f64;
        let kept_answers: BTreeSet<&str> = kept.iter().map(|(_, answer)| answer.trim()).collect();
        let shingles: Vec<Shingles> = kept
            .iter()
            .take(COMPARED_MAX)
            .map(|(prompt, _)| Shingles::of(prompt))
            .collect();
        let of_seeds: Vec<Shingles> = seeds.iter().map(|seed| Shingles::of(seed)).collect();
        Self {
            words: holders.len(),
            words_new: holders
                .keys()
                .filter(|word| !known.contains(**word))
                .count(),
            words_unseen,
            forms: kept
                .iter()
                .map(|(prompt, _)| without_numbers(prompt))
                .collect::<BTreeSet<_>>()
                .len(),
            answers: kept_answers.len(),
            share: share(&taught, given, answers).unwrap_or(1.0 - words_unseen),
            hardly_taught: hardly(&taught),
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
                    .filter(|row| kept_answers.contains(row.completion.trim()))
                    .count() as f64
                    / rows.len().max(1) as f64
            }),
        }
    }
}

/// How many kept inputs teach each label, or each key, that the teacher was seen to use.
fn taught(kept: &[(&str, &str)], answers: &Answers) -> BTreeMap<String, usize> {
    let mut taught: BTreeMap<String, usize> = answers
        .names()
        .iter()
        .map(|name| (name.clone(), 0))
        .collect();
    for name in kept.iter().flat_map(|(_, answer)| answers.of(answer)) {
        *taught.entry(name.to_owned()).or_default() += 1;
    }
    taught
}

/// Of the labels or keys of these answers, the share that is taught, where that is least.
fn share(taught: &BTreeMap<String, usize>, given: [&[&str]; 2], answers: &Answers) -> Option<f64> {
    let is_taught = |name: &&str| taught[*name] >= TAUGHT_MIN;
    let of = |given: &[&str]| {
        let names = || given.iter().flat_map(|answer| answers.of(answer));
        let all = names().count();
        (all > 0).then(|| names().filter(is_taught).count() as f64 / all as f64)
    };
    given.into_iter().filter_map(of).min_by(f64::total_cmp)
}

/// What hardly any kept input teaches.
fn hardly(taught: &BTreeMap<String, usize>) -> Vec<String> {
    let mut hardly: Vec<_> = taught
        .iter()
        .filter(|(_, count)| **count < TAUGHT_MIN)
        .collect();
    hardly.sort_by_key(|(_, count)| **count);
    hardly
        .into_iter()
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

    #[test]
    fn the_share_is_of_what_the_teacher_gives() {
        let answers = Answers::Labels(["a", "b", "c"].map(str::to_owned).into());
        let kept = [("x", "a"); 5].into_iter().chain([("y", "b"); 4]);
        let kept: Vec<(&str, &str)> = kept.collect();
        let accepted = ["a", "a", "a", "b", "odd"];
        let coverage = Coverage::of(&kept, &[], [&accepted, &[]], &answers, None);
        assert_eq!(coverage.share, 0.75, "what is no label does not count");
        let any = ["c", "c", "a", "odd", "c"];
        let coverage = Coverage::of(&kept, &[], [&accepted, &any], &answers, None);
        assert_eq!(
            coverage.share, 0.25,
            "text of any kind shows what is missing"
        );
        assert_eq!(coverage.hardly_taught, ["c", "b"]);
    }

    #[test]
    fn words_answers_and_likeness_are_counted() {
        let kept = [
            ("date May 3", "a"),
            ("date May 4", " b"),
            ("date June 12", "a"),
            ("quite another", "a"),
        ];
        let answers = Answers::Labels(["a", "c"].map(str::to_owned).into());
        let accepted = ["a", "a", "a", "c", "other"];
        let row = |prompt: &str, completion: &str| Pair {
            prompt: prompt.into(),
            completion: completion.into(),
        };
        let rows = [row("date July 3", "a"), row("date May 77", "e")];
        let coverage = Coverage::of(
            &kept,
            &["date May 1"],
            [&accepted, &[]],
            &answers,
            Some(&rows),
        );
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
        assert_eq!(coverage.hardly_taught, ["c", "a"], "the rarest first");
        assert_eq!(coverage.share, 0.0);
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
        let answers = Answers::Objects(["name", "size"].map(str::to_owned).into());
        let taught = [("name", 2), ("size", 1)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(
            Coverage::of(&objects, &[], [&[], &[]], &answers, None).taught,
            taught.into()
        );
        let alone = Coverage::of(&kept[..1], &[], [&[], &[]], &Answers::Text, None);
        assert_eq!(alone.share, 1.0 - alone.words_unseen);
        assert!(
            alone.similarity.is_empty()
                && alone.similarity_to_seeds.is_empty()
                && alone.eval_words.is_none()
        );
    }
}
