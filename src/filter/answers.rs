//! What the teacher's answers to anything at all tell of a task: the labels that no seed shows.

use std::collections::BTreeMap;

use super::Judged;

/// Texts that share an answer before it counts as one of the task's.
const SHARED_MIN: usize = 3;
/// Share of the texts whose answer others share too, from which on answers are labels and not text of their own.
const LABELS_SHARE: f64 = 0.95;
/// An answer is lacking where it has less than this part of an even share of what was accepted.
const LACKING_PART: f64 = 0.25;

/// Answers that several texts share, with how many of what was accepted have each; none where answers are free text.
pub(super) fn shared(seen: &[Judged]) -> BTreeMap<String, usize> {
    let mut counts: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    let mut texts = 0;
    for judged in seen {
        let Some(answer) = judged.answer.as_ref().filter(|answer| answer.finished && !answer.text.trim().is_empty()) else { continue };
        let [all, accepted] = counts.entry(answer.text.trim()).or_default();
        texts += 1;
        *all += 1;
        *accepted += usize::from(judged.rejected.is_none());
    }
    counts.retain(|_, [all, _]| *all >= SHARED_MIN);
    let of_labels: usize = counts.values().map(|[all, _]| all).sum();
    if (of_labels as f64) < LABELS_SHARE * texts as f64 {
        return BTreeMap::new();
    }
    counts.into_iter().map(|(answer, [_, accepted])| (answer.to_owned(), accepted)).collect()
}

/// The teacher's answers are labels, not text of their own.
pub fn has_labels(seen: &[Judged]) -> bool {
    !shared(seen).is_empty()
}

/// Answers that the teacher gives, but to too little of what was accepted; the rarest first.
pub fn lacking(seen: &[Judged]) -> Vec<String> {
    let shared = shared(seen);
    let even = shared.values().sum::<usize>() as f64 / shared.len().max(1) as f64;
    let mut lacking: Vec<(usize, String)> = shared
        .into_iter()
        .map(|(answer, accepted)| (accepted, answer))
        .filter(|(accepted, _)| (*accepted as f64) < LACKING_PART * even)
        .collect();
    lacking.sort();
    lacking.into_iter().map(|(_, answer)| answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Answer;
    use crate::filter::Reason;
    use crate::record::Origin;

    fn judged(answer: &str, accepted: bool) -> Judged {
        let rejected = (!accepted).then_some(Reason::Contrast);
        let answer = Answer { text: answer.into(), tokens: 1, finished: true, log_probability: 0.0 };
        Judged::replay("x".into(), Some(answer), 0.0, rejected, Origin::Line)
    }

    #[test]
    fn an_answer_to_what_was_thrown_out_is_an_answer_that_lacks() {
        let mut seen: Vec<Judged> = (0..20).map(|_| judged("A", true)).collect();
        seen.extend((0..20).map(|_| judged("B", true)));
        seen.extend((0..3).map(|_| judged("C", false)));
        seen.extend((0..4).map(|i| judged("D", i == 0)));
        seen.push(judged("once", true));
        assert_eq!(lacking(&seen), ["C", "D"]);
    }

    #[test]
    fn text_has_no_labels() {
        // Text repeats itself, too: nine in ten of short sequences do.
        let mut seen: Vec<Judged> = (0..10).map(|i| judged(&format!("answer {i}"), true)).collect();
        seen.extend((0..90).map(|i| judged(&format!("again {}", i % 9), false)));
        assert!(lacking(&seen).is_empty());
    }
}
