//! Labels that the teacher gives again and again: of several drawn answers the one that most agree
//! on.

use std::collections::BTreeMap;

use super::{LabelError, Labeled, Reason, Rejections};
use crate::engine::{Generate, GenerateRequest, Monitor, Start, With};
use crate::record::without_thoughts;

/// How answers are drawn, and how many must agree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draws {
    /// Answers that are drawn for each input.
    pub samples: usize,
    /// Of the sampling.
    pub temperature: f32,
    /// Share of the samples that have to give the same answer.
    pub agreed_min: f64,
    /// Tokens of an answer at most.
    pub tokens_max: usize,
    /// Decides every draw.
    pub seed: u64,
}

/// Put the answer that most samples agree on in place of the greedy one, with their share as
/// confidence; drop what they do not agree on. Of answers that are drawn equally often the greedy
/// one is taken, else the first in the alphabet.
pub fn consistent(
    teacher: &mut dyn Generate,
    with: With,
    labeled: Vec<Labeled>,
    draws: &Draws,
    monitor: &mut Monitor<'_>,
) -> Result<(Vec<Labeled>, Rejections), LabelError> {
    let (mut kept, mut rejections, total) = (
        Vec::with_capacity(labeled.len()),
        Rejections::new(),
        labeled.len(),
    );
    for (i, greedy) in labeled.into_iter().enumerate() {
        monitor.tick(i, total)?;
        let request = GenerateRequest {
            start: Start::Chat(greedy.prompt.clone()),
            openings: vec![String::new(); draws.samples],
            tokens_max: draws.tokens_max,
            temperature: draws.temperature,
            min_p: 0.0,
            stop: String::new(),
            seed: draws.seed.wrapping_add((i * draws.samples) as u64),
        };
        let mut silent = Monitor {
            cancel: monitor.cancel,
            progress: &mut |_, _| {},
        };
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for answer in teacher
            .generate(with, &request, &mut silent)?
            .into_iter()
            .filter(|answer| answer.finished)
        {
            let (text, _) = without_thoughts(&answer.text);
            *counts.entry(text.trim().to_owned()).or_default() += 1;
        }
        let most = counts.values().copied().max().unwrap_or(0);
        let share = most as f64 / draws.samples.max(1) as f64;
        let first = || {
            counts
                .iter()
                .find(|(_, count)| **count == most)
                .map(|(text, _)| text.clone())
                .unwrap_or_default()
        };
        let answer = if counts.get(&greedy.completion) == Some(&most) {
            greedy.completion.clone()
        } else {
            first()
        };
        if most == 0 || answer.is_empty() || share < draws.agreed_min {
            *rejections.entry(Reason::Unsure).or_default() += 1;
        } else {
            kept.push(Labeled {
                completion: answer,
                confidence: share,
                ..greedy
            });
        }
    }
    Ok((kept, rejections))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Continuation, EngineError};
    use crate::record::Cancel;

    /// Answers in the words of the prompt, in turn.
    struct Reciter;

    impl Generate for Reciter {
        fn generate(
            &mut self,
            _: With,
            request: &GenerateRequest,
            _: &mut Monitor<'_>,
        ) -> Result<Vec<Continuation>, EngineError> {
            let Start::Chat(prompt) = &request.start else {
                panic!("a teacher answers")
            };
            let words: Vec<&str> = prompt.text.split(' ').collect();
            let one = |i: usize| Continuation {
                text: words[i % words.len()].into(),
                tokens: 1,
                finished: words[i % words.len()] != "cut",
            };
            Ok((0..request.openings.len()).map(one).collect())
        }
    }

    #[test]
    fn the_answer_most_agree_on_is_kept_with_its_share() {
        let greedy = vec![
            Labeled::greedy(&"a a a b".into(), "b"),
            Labeled::greedy(&"a b".into(), "b"),
            Labeled::greedy(&"a b c d".into(), "a"),
            Labeled::greedy(&"cut cut cut cut".into(), "a"),
            Labeled::greedy(&"b a".into(), "x"),
        ];
        let draws = Draws {
            samples: 4,
            temperature: 1.0,
            agreed_min: 0.5,
            tokens_max: 4,
            seed: 1,
        };
        let mut monitor = Monitor {
            cancel: &Cancel::default(),
            progress: &mut |_, _| {},
        };
        let (kept, rejections) =
            consistent(&mut Reciter, With::Base, greedy, &draws, &mut monitor).unwrap();
        let found: Vec<_> = kept
            .iter()
            .map(|l| (l.text(), l.completion(), l.confidence()))
            .collect();
        assert_eq!(
            found,
            [("a a a b", "a", 0.75), ("a b", "b", 0.5), ("b a", "a", 0.5)]
        );
        assert_eq!(rejections, Rejections::from([(Reason::Unsure, 2)]));
    }
}
