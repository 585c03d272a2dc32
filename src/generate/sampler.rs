use std::collections::{HashMap, HashSet};

use super::vary::{SPLICED_MAX, Units, redraw};
use super::{Candidate, GenerateError, Instruction, Lead, Settings, Yield};
use crate::engine::{Continuation, Generate, GenerateRequest, Monitor, Start, With};
use crate::kit::Seed;
use crate::record::{Origin, Prompt, Rng};

/// A token that is less likely than this times the likeliest one is not drawn. Of a vocabulary of
/// hundreds of thousands the tail has a part of every distribution, and one word of it makes noise
/// of an input.
/// source: min-p sampling, arXiv 2407.01082
pub const MIN_P: f32 = 0.02;
/// Lines the header promises. source: Trans-LoRA shows five and asks for more.
const LIST_LENGTH: usize = 10;
/// Share of the list rounds that draw inputs behind answers, where answers show how they begin.
const ANSWER_ROUNDS_SHARE: f64 = 0.5;
/// Inputs shown at once; a round shows another choice of them.
const SHOWN: usize = 5;
/// Share of the rounds that draw whole lines, at least and at most; the others draw only words for
/// splices.
const LINES_SHARE: [f64; 2] = [0.1, 0.9];
/// Tokens drawn for a splice.
const SPLICE_TOKENS: usize = 8;
/// Tokens of a value at most.
const VALUE_TOKENS: usize = 16;
/// Texts without a draw that are tried for each draw.
const CHAINS: usize = 2;
/// How likely one new word too many is at least.
const NEW_WORD_MIN: f64 = 0.02;
/// Seeds from which on what all of them begin with is held for the task's own.
const SEEDS_TELLING: usize = 3;

/// Draws inputs in rounds. A round depends on its number, the run's seed and what was adopted, so a
/// run that was stopped continues alike.
pub struct InputSampler<'s> {
    seeds: &'s [Seed],
    settings: Settings,
    seen: HashSet<String>,
    rounds: u64,
    /// What variants are put together of: the seeds, then what was adopted.
    parents: Vec<Units>,
    /// Words of the seeds, and how much of an input is not among them.
    known: HashSet<String>,
    unseen: f64,
    /// Share of the rounds that draw lines.
    lines_share: f64,
    /// Answers to draw inputs for, and answers with an input each to show.
    leads: Vec<Lead>,
    shots: Vec<(String, String)>,
}

impl<'s> InputSampler<'s> {
    /// Start from these seeds.
    pub fn new(seeds: &'s [Seed], settings: Settings) -> Result<Self, GenerateError> {
        if seeds.is_empty() {
            return Err(GenerateError::NoSeeds);
        }
        let parents: Vec<Units> = seeds.iter().map(|seed| Units::of(seed.text())).collect();
        let known = parents.iter().flat_map(Units::words).cloned().collect();
        let unseen = Units::unseen(&parents);
        Ok(Self {
            seeds,
            settings,
            seen: HashSet::new(),
            rounds: 0,
            parents,
            known,
            unseen,
            lines_share: 0.5,
            leads: Vec::new(),
            shots: Vec::new(),
        })
    }

    /// Take over `rounds` rounds drawn before, with every text they gave.
    pub fn remember<'c>(
        &mut self,
        rounds: u64,
        candidates: impl IntoIterator<Item = &'c Candidate>,
    ) {
        self.rounds = self.rounds.max(rounds);
        self.seen.extend(
            candidates
                .into_iter()
                .map(|candidate| candidate.text().to_owned()),
        );
    }

    /// Draw variants of these texts besides those of the seeds, in place of the ones adopted before.
    pub fn adopt<'t>(&mut self, texts: impl IntoIterator<Item = &'t str>) {
        self.parents.truncate(self.seeds.len());
        self.parents.extend(texts.into_iter().map(Units::of));
    }

    /// How it draws.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How much of an input is new with each input, from 0 to 1.
    pub fn unseen(&self) -> f64 {
        self.unseen
    }

    /// Draw lines in this share of the rounds to come, or in more where much of an input is new.
    pub fn draw_lines(&mut self, lines_share: f64) {
        self.lines_share = lines_share
            .max(self.unseen)
            .clamp(LINES_SHARE[0], LINES_SHARE[1]);
    }

    /// Draw inputs for these answers in a part of the rounds to come, behind some answers with an
    /// input each.
    pub fn cover<'t>(
        &mut self,
        leads: Vec<Lead>,
        shots: impl IntoIterator<Item = (&'t str, &'t str)>,
    ) {
        self.leads = leads.into_iter().filter(Lead::is_usable).collect();
        let fits = |answer: &str| self.leads.first().is_some_and(|lead| lead.fits(answer));
        let shots = shots.into_iter().filter(|(answer, _)| fits(answer));
        self.shots = shots
            .map(|(answer, input)| (answer.to_owned(), one_line(input)))
            .collect();
    }

    /// The answers that one round draws inputs for, each as often as the others; none where there
    /// are none.
    fn turns(&self, rng: &mut Rng) -> Vec<Option<Lead>> {
        let first = rng.below(self.leads.len().max(1));
        let leads = self.leads.iter().cycle().skip(first).cloned().map(Some);
        let turns = leads.chain(std::iter::repeat(None));
        turns.take(self.settings.sequences.max(1)).collect()
    }

    /// Rounds drawn so far.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Draw one round of candidates, none seen before.
    pub fn round(
        &mut self,
        model: &mut dyn Generate,
        with: With,
        prompt: Instruction<'_>,
        monitor: &mut Monitor<'_>,
    ) -> Result<(Vec<Candidate>, Yield), GenerateError> {
        let mut rng = Rng::new(self.settings.seed, &format!("generate {}", self.rounds));
        let any = vec![None; self.settings.sequences.max(1)];
        match prompt {
            Instruction::List => self.list_round(rng, model, with, monitor),
            Instruction::Anything => self.lines_round(
                rng,
                Start::Text(format!("Here are {LIST_LENGTH} examples:\n1.")),
                any,
                model,
                with,
                monitor,
            ),
            Instruction::Question(question) => {
                self.lines_round(rng, Start::Chat(question.into()), any, model, with, monitor)
            }
            Instruction::Tuned(question) => {
                let leads = self.turns(&mut rng);
                let question = Start::Chat(question.into());
                let (mut fresh, count) =
                    self.lines_round(rng, question, leads, model, with, monitor)?;
                fresh
                    .iter_mut()
                    .for_each(|candidate| candidate.origin = Origin::Tuned);
                Ok((fresh, count))
            }
        }
    }

    /// Lines, and no variants of them: what follows `start`. Each is drawn behind the answer that it
    /// is for, which is then cut off.
    fn lines_round(
        &mut self,
        mut rng: Rng,
        start: Start,
        leads: Vec<Option<Lead>>,
        model: &mut dyn Generate,
        with: With,
        monitor: &mut Monitor<'_>,
    ) -> Result<(Vec<Candidate>, Yield), GenerateError> {
        let opening = |lead: &Option<Lead>| lead.as_ref().map(Lead::opening).unwrap_or_default();
        let request = GenerateRequest {
            openings: leads.iter().map(opening).collect(),
            tokens_max: self.settings.tokens_max,
            temperature: self.settings.temperature,
            min_p: MIN_P,
            stop: match start {
                Start::Text(_) => "\n".into(),
                Start::Chat(_) => String::new(),
            },
            start,
            seed: rng.next_u64(),
        };
        let drawn = model.generate(with, &request, monitor)?;
        self.rounds += 1;
        let tokens = drawn
            .iter()
            .map(|continuation| continuation.tokens as u64)
            .sum();
        let mut count = Yield {
            drawn: drawn.len() as u64,
            tokens,
            ..Yield::default()
        };
        let line = |(one, lead): (Continuation, Option<Lead>)| match lead {
            None => Candidate::line(one.text, one.finished, None),
            Some(lead) => {
                let input = lead.input(&one.text).to_owned();
                Candidate::line(input, one.finished, lead.intended())
            }
        };
        let lines = drawn.into_iter().zip(leads).map(line).collect();
        let fresh = self.fresh(lines, &mut count);
        Ok((fresh, count))
    }

    /// Inputs for answers, behind a list of answers with an input each.
    fn answers_round(
        &mut self,
        mut rng: Rng,
        model: &mut dyn Generate,
        with: With,
        monitor: &mut Monitor<'_>,
    ) -> Result<(Vec<Candidate>, Yield), GenerateError> {
        let mut shots = self.shots.clone();
        rng.shuffle(&mut shots);
        let mut shots = by_turns(shots);
        shots.truncate(SHOWN);
        let lines: String = shots
            .iter()
            .enumerate()
            .map(|(i, (answer, input))| format!("{}. {answer}: {input}\n", i + 1))
            .collect();
        let prefix = format!(
            "Here are {LIST_LENGTH} examples:\n{lines}{}.",
            shots.len() + 1
        );
        let leads = self.turns(&mut rng);
        self.lines_round(rng, Start::Text(prefix), leads, model, with, monitor)
    }

    /// Draw values for the keys of `known`, behind a list of some of those, `count` in all.
    pub fn values(
        &self,
        known: &[(String, String)],
        count: usize,
        rng: &mut Rng,
        model: &mut dyn Generate,
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<(String, String)>, GenerateError> {
        let mut keys: Vec<&String> = known.iter().map(|(key, _)| key).collect();
        keys.dedup();
        let (mut known, mut drawn) = (known.to_vec(), Vec::new());
        let mut turns = keys.into_iter().cycle().take(count).peekable();
        while turns.peek().is_some() {
            rng.shuffle(&mut known);
            let shown = known.iter().take(SHOWN);
            let shown: Vec<String> = shown.map(|(key, text)| format!("{key}: {text}")).collect();
            let keys: Vec<&String> = turns
                .by_ref()
                .take(self.settings.sequences.max(1))
                .collect();
            let openings: Vec<String> = keys.iter().map(|key| format!("{key}:")).collect();
            let request = GenerateRequest {
                start: Start::Text(list_prompt(&shown)),
                openings: openings.clone(),
                tokens_max: VALUE_TOKENS.min(self.settings.tokens_max),
                temperature: self.settings.temperature,
                min_p: MIN_P,
                stop: "\n".into(),
                seed: rng.next_u64(),
            };
            let made = model.generate(With::Base, &request, monitor)?;
            for ((key, opening), one) in keys.into_iter().zip(&openings).zip(made) {
                let text = one.text.trim_start();
                let text = text.strip_prefix(opening.as_str()).unwrap_or(text).trim();
                if one.finished && !text.is_empty() {
                    drawn.push((key.clone(), text.to_owned()));
                }
            }
        }
        Ok(drawn)
    }

    /// Continuations of the seeds in a new order, and variants of them.
    fn list_round(
        &mut self,
        mut rng: Rng,
        model: &mut dyn Generate,
        with: With,
        monitor: &mut Monitor<'_>,
    ) -> Result<(Vec<Candidate>, Yield), GenerateError> {
        if !self.leads.is_empty() && !self.shots.is_empty() && rng.unit() < ANSWER_ROUNDS_SHARE {
            return self.answers_round(rng, model, with, monitor);
        }
        let lines = !self.settings.variants || rng.unit() < self.lines_share;
        let openings = self.openings(lines, &mut rng);
        let request = GenerateRequest {
            start: Start::Text(list_prompt(&self.shown(&mut rng))),
            openings: openings
                .iter()
                .map(|&(parent, at)| self.parents[parent].head(at))
                .collect(),
            tokens_max: if lines {
                self.settings.tokens_max
            } else {
                SPLICE_TOKENS.min(self.settings.tokens_max)
            },
            temperature: self.settings.temperature,
            min_p: MIN_P,
            stop: "\n".into(),
            seed: rng.next_u64(),
        };
        let drawn = model.generate(with, &request, monitor)?;
        self.rounds += 1;
        let mut count = Yield {
            drawn: drawn.len() as u64,
            ..Yield::default()
        };
        let mut candidates = Vec::new();
        for ((continuation, &(parent, at)), opening) in
            drawn.into_iter().zip(&openings).zip(&request.openings)
        {
            count.tokens += continuation.tokens as u64;
            if self.settings.variants {
                let words = continuation.text.get(opening.len()..).unwrap_or_default();
                candidates.extend(self.variants(parent, at, words, lines, &mut rng));
            }
            if lines {
                candidates.push(Candidate::line(
                    continuation.text,
                    continuation.finished,
                    None,
                ));
            }
        }
        if self.settings.variants {
            candidates.retain(|candidate| self.is_likely(candidate.text(), &mut rng));
        }
        let fresh = self.fresh(candidates, &mut count);
        Ok((fresh, count))
    }

    /// Variants from a draw and from the inputs that are there.
    fn variants(
        &self,
        parent: usize,
        at: usize,
        words: &str,
        lines: bool,
        rng: &mut Rng,
    ) -> Vec<Candidate> {
        let longest = self.parents[..self.seeds.len()]
            .iter()
            .map(Units::len)
            .max()
            .unwrap_or(0);
        let out_max = if lines { SPLICED_MAX } else { 1 };
        let splice = self.parents[parent].splice(at, words, out_max, rng);
        let mut texts = vec![(splice, Origin::Splice)];
        for _ in 0..if lines { 0 } else { CHAINS } {
            if rng.unit() >= self.unseen {
                let parents = if rng.below(2) == 0 {
                    &self.parents[..self.seeds.len()]
                } else {
                    &self.parents
                };
                texts.push((Units::chain(parents, longest, rng), Origin::Chain));
            }
        }
        texts
            .into_iter()
            .filter_map(|(text, origin)| {
                Some(Candidate {
                    origin,
                    ..Candidate::line(redraw(&text?, rng), true, None)
                })
            })
            .collect()
    }

    /// Let a text pass the less often the more new words it has beyond what the seeds lead one to
    /// expect.
    fn is_likely(&self, text: &str, rng: &mut Rng) -> bool {
        let units = Units::of(text);
        let expected = (self.unseen * units.words().count() as f64) as usize;
        let odd = units
            .new_words(&self.known)
            .saturating_sub(expected)
            .min(100) as i32;
        rng.unit()
            < (2.0 * self.unseen)
                .powi(2)
                .clamp(NEW_WORD_MIN, 1.0)
                .powi(odd)
    }

    /// What a list shows: some of the seeds, in random order.
    fn shown(&self, rng: &mut Rng) -> Vec<String> {
        let mut order: Vec<&Seed> = self.seeds.iter().collect();
        rng.shuffle(&mut order);
        let shown = order.into_iter().take(SHOWN);
        shown.map(|seed| one_line(seed.text())).collect()
    }

    /// Which parent each draw of a round begins as, and after how many of its units the model goes
    /// on.
    ///
    /// A base model that has lost the thread of the list finds it again from a few words. Where all
    /// seeds have the same word, another one is seldom drawn. Half of the lines are free, but for
    /// what all seeds begin with.
    fn openings(&self, lines: bool, rng: &mut Rng) -> Vec<(usize, usize)> {
        let (seeds, adopted) = self.parents.split_at(self.seeds.len());
        let shared = if seeds.len() < SEEDS_TELLING {
            0
        } else {
            Units::shared_head(seeds)
        };
        let mut open = |free: bool| {
            let among_seeds = adopted.is_empty() || rng.below(2) == 0;
            let parent = if among_seeds {
                rng.below(seeds.len())
            } else {
                seeds.len() + rng.below(adopted.len())
            };
            let text = &self.parents[parent];
            if free {
                return (parent, shared.min(text.len().saturating_sub(1)));
            }
            let freedom: Vec<f64> = (0..text.len()).map(|at| text.freedom(at, seeds)).collect();
            (parent, pick(&freedom, rng))
        };
        (0..self.settings.sequences.max(1))
            .map(|i| open(lines && i % 2 == 0))
            .collect()
    }

    /// What was not seen before, behind the turns of the seeds, each as often as the others.
    fn fresh(&mut self, candidates: Vec<Candidate>, count: &mut Yield) -> Vec<Candidate> {
        let mut fresh = Vec::new();
        let mut turn = Rng::new(self.settings.seed, &format!("before {}", self.rounds))
            .below(self.seeds.len());
        for candidate in candidates {
            let text = candidate.text().trim().to_owned();
            if self.seeds.iter().any(|seed| seed.text() == text) {
                count.seeds_repeated += 1;
            } else if self.seen.insert(text.clone()) {
                let before = &self.seeds[turn % self.seeds.len()].prompt().before;
                let prompt = Prompt::behind(before, text);
                fresh.push(Candidate {
                    prompt,
                    ..candidate
                });
                turn += 1;
            } else {
                count.repeated += 1;
            }
        }
        fresh
    }
}

/// One of each answer in turns.
fn by_turns(shots: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut turns: HashMap<String, usize> = HashMap::new();
    let mut placed: Vec<(usize, (String, String))> = Vec::new();
    for shot in shots {
        let turn = turns.entry(shot.0.clone()).or_default();
        placed.push((*turn, shot));
        *turn += 1;
    }
    placed.sort_by_key(|(turn, _)| *turn);
    placed.into_iter().map(|(_, shot)| shot).collect()
}

/// An index, by weight; any one where all weights are zero.
fn pick(weights: &[f64], rng: &mut Rng) -> usize {
    let mut left = rng.unit() * weights.iter().sum::<f64>();
    for (i, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return i;
        }
    }
    rng.below(weights.len().max(1))
}

/// The list that a model continues. It ends in the open number without a space: tokenizers keep
/// that space with the word that follows.
pub(super) fn list_prompt(shown: &[String]) -> String {
    let lines: String = shown
        .iter()
        .enumerate()
        .map(|(i, text)| format!("{}. {text}\n", i + 1))
        .collect();
    format!(
        "Here are {LIST_LENGTH} examples:\n{lines}{}.",
        shown.len() + 1
    )
}

/// A list has one line for each item.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
