//! Everything that the rounds gathered: the seeds with their answers, and what was judged.

use std::collections::HashMap;

use super::policy::{Scored, Stock};
use super::stages::Generated;
use crate::filter::{self, Judged, Kept, Rejections, Shares};
use crate::generate::Yield;
use crate::kit::Seed;
use crate::label::Labeled;
use crate::record::Origin;

/// One seed in so many may be an odd one.
const UNSURE_SEEDS_ONE_IN: usize = 10;

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

    /// Everything that the teacher answered.
    pub fn seen(&self) -> Vec<Judged> {
        self.judged.iter().chain(&self.probed).cloned().collect()
    }
}
