use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Kept;

/// Inputs compared with each other at most; of more, the first.
const COMPARED_MAX: usize = 1500;

/// How much of a task what was kept covers, as far as texts can tell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// Distinct words, and those of them that no seed has.
    pub words: usize,
    pub words_new: usize,
    /// Distinct answers of the teacher.
    pub answers: usize,
    /// Of each kept input, the share of words it has in common with the one most like it: least, deciles, greatest. Digits are all the
    /// same. A filter on similarity would hide what lies just below its threshold.
    pub similarity: Vec<f64>,
}

impl Coverage {
    /// Look at what was kept.
    pub fn of<'t>(kept: &[Kept], seeds: impl IntoIterator<Item = &'t str>) -> Self {
        let sets: Vec<BTreeSet<String>> = kept.iter().map(|kept| words(kept.prompt())).collect();
        let all: BTreeSet<&String> = sets.iter().flatten().collect();
        let known: BTreeSet<String> = seeds.into_iter().flat_map(words).collect();
        let answers: BTreeSet<&str> = kept.iter().filter_map(Kept::answer).map(|answer| answer.text.trim()).collect();
        Self {
            words: all.len(),
            words_new: all.iter().filter(|word| !known.contains(**word)).count(),
            answers: answers.len(),
            similarity: similarity(&sets[..sets.len().min(COMPARED_MAX)]),
        }
    }
}

fn words(text: &str) -> BTreeSet<String> {
    let masked: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    masked.split_whitespace().map(str::to_lowercase).collect()
}

/// The curve of each set's greatest Jaccard similarity to another.
fn similarity(sets: &[BTreeSet<String>]) -> Vec<f64> {
    if sets.len() < 2 {
        return Vec::new();
    }
    let mut nearest = vec![0.0_f64; sets.len()];
    for i in 0..sets.len() {
        for j in 0..i {
            let both = sets[i].intersection(&sets[j]).count() as f64;
            let alike = both / (sets[i].len() + sets[j].len()).max(1) as f64;
            // Jaccard's index of two sets from the share of what they have together.
            let jaccard = alike / (1.0 - alike);
            nearest[i] = nearest[i].max(jaccard);
            nearest[j] = nearest[j].max(jaccard);
        }
    }
    nearest.sort_by(f64::total_cmp);
    (0..=10).map(|tenth| nearest[(nearest.len() - 1) * tenth / 10]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Answer;

    #[test]
    fn words_answers_and_likeness_are_counted() {
        let answer = |text: &str| Some(Answer { text: text.into(), tokens: 1, finished: true, log_probability: 0.0 });
        let kept = [
            Kept::replay("date May 3", answer("a")),
            Kept::replay("date May 4", answer("b")),
            Kept::replay("date June 12", answer("a")),
            Kept::replay("quite another", None),
        ];
        let coverage = Coverage::of(&kept, ["date May 1"]);
        assert_eq!((coverage.words, coverage.words_new, coverage.answers), (7, 4, 2));
        assert_eq!(coverage.similarity.len(), 11);
        assert_eq!((coverage.similarity[0], coverage.similarity[10]), (0.0, 1.0));
        assert!((coverage.similarity[4] - 0.2).abs() < 1e-12, "{:?}", coverage.similarity);
        assert!(Coverage::of(&kept[..1], []).similarity.is_empty());
    }
}
