//! Everything that the rounds gathered: the seeds with their answers, and what was judged.

use std::collections::HashMap;

use super::policy::{Scored, Stock};
use super::stages::Generated;
use crate::filter::{self, Judged, Kept, Reason, Rejections, Shares};
use crate::generate::Yield;
use crate::kit::Seed;
use crate::label::Labeled;
use crate::record::Origin;

/// One seed in so many may be an odd one.
const UNSURE_SEEDS_ONE_IN: usize = 10;
/// Texts that stand for the inputs of a label that has none.
const STAND_INS: usize = 3;

pub(super) struct Pool<'a> {
    pub seeds: &'a [Seed],
    /// The seeds with the teacher's answers.
    pub answered_seeds: Vec<Labeled>,
    pub drawn: Yield,
    /// Everything valid so far.
    pub judged: Vec<Judged>,
    /// Text of any kind that the teacher answered.
    pub probed: Vec<Judged>,
    /// By input, the answer that it was generated for.
    intended: HashMap<String, String>,
}

impl<'a> Pool<'a> {
    /// Nothing but the seeds.
    pub fn new(seeds: &'a [Seed]) -> Self {
        Self {
            seeds,
            answered_seeds: Vec::new(),
            drawn: Yield::default(),
            judged: Vec::new(),
            probed: Vec::new(),
            intended: HashMap::new(),
        }
    }

    /// How much there is.
    pub fn stock(&self) -> Stock {
        Stock {
            drawn: self.drawn.drawn,
            judged: self.judged.len(),
            accepted: self.accepted().count(),
        }
    }

    /// What the judge accepted.
    pub fn accepted(&self) -> impl Iterator<Item = &Judged> {
        self.judged
            .iter()
            .filter(|judged| judged.rejected().is_none())
    }

    /// How much of what the judge accepted was asked by users.
    pub fn asked(&self) -> usize {
        let asked = |judged: &&Judged| judged.origin() == Origin::Asked;
        self.accepted().filter(asked).count()
    }

    /// Add what a generator drew.
    pub fn generated(&mut self, generated: &mut Generated) {
        self.drawn += generated.drawn;
        self.intended.extend(generated.intended.drain(..));
    }

    /// Take what a round judged. Answers how well inputs get the answer that they were generated
    /// for; see [`filter::hold_to`].
    pub fn judged(&mut self, judged: Vec<Judged>) -> Option<f64> {
        self.judged.extend(judged);
        filter::hold_to(&mut self.judged, &self.intended)
    }

    /// What is scored, for the next choice.
    pub fn scored(&self) -> Vec<Scored> {
        let scored = |judged: &Judged| Scored {
            score: judged.score(),
            accepted: judged.rejected().is_none(),
            origin: judged.origin(),
        };
        self.judged.iter().map(scored).collect()
    }

    /// The best of what was accepted.
    pub fn best(&self, count: usize, shares: Shares) -> (Vec<Kept>, Rejections) {
        filter::select(&self.judged, &self.seed_texts(), count, shares)
    }

    /// How sure the teacher is of the seeds that it is least sure of: all but a tenth have more. None
    /// before it has answered them.
    pub fn least_sure_seed(&self) -> Option<f64> {
        let seeds = self.answered_seeds.iter();
        let mut sure: Vec<f64> = seeds.map(Labeled::log_probability).collect();
        sure.sort_by(f64::total_cmp);
        sure.get(sure.len() / UNSURE_SEEDS_ONE_IN).copied()
    }

    /// Answer and input of the seeds, and of all that the teacher is as sure of.
    pub fn sure(&self) -> Vec<(&str, &str)> {
        let sure = self.least_sure_seed();
        let accepted = self.accepted();
        let sure = accepted.filter(|judged| Some(judged.score()) >= sure);
        let sure = sure.map(|judged| (judged.answer_text(), judged.text()));
        self.answers(&[]).chain(sure).collect()
    }

    /// The seeds as texts.
    pub fn seed_texts(&self) -> Vec<&'a str> {
        self.seeds.iter().map(Seed::text).collect()
    }

    /// The seeds, then `kept`: answer (empty where there is none) and input.
    pub fn answers<'t>(&'t self, kept: &'t [Kept]) -> impl Iterator<Item = (&'t str, &'t str)> {
        let seeds = self
            .answered_seeds
            .iter()
            .map(|seed| (seed.completion().trim(), seed.text()));
        let answer = |kept: &'t Kept| kept.answer().map_or("", |answer| answer.text.trim());
        seeds.chain(kept.iter().map(move |kept| (answer(kept), kept.text())))
    }

    /// For each of these labels that no shot has, the texts that the teacher is surest to answer with
    /// it, whatever they are: what was generated and dropped for its answer, then text of any kind.
    pub fn stand_ins(&self, labels: &[String], shots: &[(&str, &str)]) -> Vec<(&str, &str)> {
        let is_missing =
            |label: &&String| shots.iter().all(|(answer, _)| *answer != label.as_str());
        let other = |judged: &&Judged| judged.rejected() == Some(Reason::OtherAnswer);
        let mut texts: Vec<&Judged> = self.judged.iter().filter(other).collect();
        texts.sort_by(|a, b| b.sureness().total_cmp(&a.sureness()));
        let mut of_any_kind: Vec<&Judged> = self.probed.iter().collect();
        of_any_kind.sort_by(|a, b| b.sureness().total_cmp(&a.sureness()));
        texts.append(&mut of_any_kind);
        let mut found = Vec::new();
        for label in labels.iter().filter(is_missing) {
            let with = texts.iter().filter(|text| text.answer_text() == label);
            found.extend(
                with.take(STAND_INS)
                    .map(|text| (text.answer_text(), text.text())),
            );
        }
        found
    }

    /// The teacher's answers to text of any kind.
    pub fn probed(&self) -> Vec<&str> {
        self.probed.iter().map(Judged::answer_text).collect()
    }

    /// Everything that the teacher answered.
    pub fn seen(&self) -> Vec<Judged> {
        self.judged.iter().chain(&self.probed).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_without_inputs_is_shown_by_what_the_teacher_answers_with_it() {
        let mut pool = Pool::new(&[]);
        pool.judged = vec![
            Judged::example("taught", "a", None),
            Judged::example("meant for a", "b", Some(Reason::OtherAnswer)),
            Judged::example("dropped", "b", Some(Reason::Contrast)),
        ];
        let probed = |i: usize| Judged::example(&format!("any {i}"), "b", Some(Reason::Probe));
        pool.probed = (0..3).map(probed).collect();
        let labels = ["a", "b", "c"].map(str::to_owned);
        let found = pool.stand_ins(&labels, &[("a", "taught")]);
        assert_eq!(
            found,
            [("b", "meant for a"), ("b", "any 0"), ("b", "any 1")]
        );
        assert!(pool.stand_ins(&labels[..1], &[("a", "taught")]).is_empty());
    }
}
