use std::collections::{BTreeMap, VecDeque};

use super::{Judged, Kept, Reason, Rejections};

/// An answer that fewer inputs share is no class of its own.
const CLASS_MIN: usize = 3;

/// Keep the best `count` of what was accepted, and count the rest by reason.
///
/// The score alone would fill the kept set with the answer the adapter is surest of. So answers that several inputs share take
/// turns, each giving its best input; all rarer answers take turns as one more class. Where every answer is different, or none
/// was given, that is plain order of score; equal scores keep their order.
pub fn select(judged: &[Judged], count: usize) -> (Vec<Kept>, Rejections) {
    let accepted: Vec<&Judged> = judged.iter().filter(|judged| judged.rejected.is_none()).collect();
    let rejections = rejections(judged, accepted.len().saturating_sub(count));
    let mut classes = classes(accepted);
    let mut kept = Vec::new();
    while kept.len() < count && !classes.is_empty() {
        let mut turn: Vec<&Judged> = classes.iter_mut().filter_map(VecDeque::pop_front).collect();
        turn.sort_by(|a, b| b.score.total_cmp(&a.score));
        kept.extend(turn);
        classes.retain(|class| !class.is_empty());
    }
    kept.truncate(count);
    (kept.into_iter().map(keep).collect(), rejections)
}

fn keep(judged: &Judged) -> Kept {
    Kept { prompt: judged.text.clone(), answer: judged.answer.clone(), score: judged.score }
}

fn rejections(judged: &[Judged], surplus: usize) -> Rejections {
    let mut rejections = Rejections::new();
    for reason in judged.iter().filter_map(|judged| judged.rejected) {
        *rejections.entry(reason).or_default() += 1;
    }
    if surplus > 0 {
        rejections.insert(Reason::Surplus, surplus as u64);
    }
    rejections
}

/// Accepted inputs by answer, best first; the rarer answers together.
fn classes(accepted: Vec<&Judged>) -> Vec<VecDeque<&Judged>> {
    let mut by_answer: BTreeMap<&str, Vec<&Judged>> = BTreeMap::new();
    for judged in accepted {
        let answer = judged.answer.as_ref().map_or("", |answer| answer.text.trim());
        by_answer.entry(answer).or_default().push(judged);
    }
    let (mut classes, rare): (Vec<_>, Vec<_>) = by_answer.into_values().partition(|class| class.len() >= CLASS_MIN);
    classes.push(rare.into_iter().flatten().collect());
    classes.iter_mut().for_each(|class| class.sort_by(|a, b| b.score.total_cmp(&a.score)));
    classes.into_iter().filter(|class| !class.is_empty()).map(VecDeque::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Answer;

    fn judged(text: &str, answer: &str, score: f64) -> Judged {
        let answer = Answer { text: answer.into(), tokens: 1, finished: true, log_probability: 0.0 };
        let rejected = (score <= 0.0).then_some(Reason::Contrast);
        Judged::replay(text.into(), Some(answer), score, rejected)
    }

    fn prompts(kept: &[Kept]) -> Vec<&str> {
        kept.iter().map(Kept::prompt).collect()
    }

    #[test]
    fn one_sure_answer_does_not_fill_the_set() {
        let mut all: Vec<Judged> = (0..20).map(|i| judged(&format!("a{i}"), "A", 9.0 + f64::from(i) / 100.0)).collect();
        all.extend((0..4).map(|i| judged(&format!("b{i}"), "B", 2.0 + f64::from(i))));
        all.extend([judged("odd", "C", 0.1), judged("off", "B", -1.0)]);
        let (kept, rejections) = select(&all, 7);
        assert_eq!(prompts(&kept), ["a19", "b3", "odd", "a18", "b2", "a17", "b1"]);
        assert_eq!(rejections, Rejections::from([(Reason::Contrast, 1), (Reason::Surplus, 18)]));
    }

    #[test]
    fn distinct_answers_are_kept_by_score() {
        let all: Vec<Judged> = (0..5).map(|i| judged(&format!("p{i}"), &format!("answer {i}"), f64::from(1 + (i * 3) % 5))).collect();
        let (kept, _) = select(&all, 3);
        assert_eq!(prompts(&kept), ["p3", "p1", "p4"]);
        assert_eq!(select(&all, 9).0.len(), 5);
    }
}
