//! Make up new inputs: a base model continues a numbered list of seeds, and what it says is put
//! into inputs that are known.
//!
//! source: Trans-LoRA, section 3.1. No instruction, no chat template: `Here are 10 examples:`, the
//! seeds as a list, an open next number. A draw gives a line, and words for splices (`vary`); seeds
//! are recombined with each other too, the more so the less new words they bring. Exact
//! repetitions, of a seed or of anything made before, are dropped here and counted.
//!
//! Refuses to know: what becomes of a candidate, and which model it talks to. Called by the
//! pipeline; `filter` imports [`Candidate`].

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::engine::{Generate, GenerateRequest, Talk, With};
use crate::kit::Seed;
use crate::record::{Origin, Rng};

mod error;
mod vary;

pub use error::GenerateError;
use vary::{SPLICED_MAX, Units, redraw};

/// Lines the header promises. source: Trans-LoRA shows five and asks for more.
const LIST_LENGTH: usize = 10;
/// Characters of an answer that a list of answers can show.
const ANSWER_CHARS_MAX: usize = 60;
/// Share of the rounds that ask for answers, where those are labels.
const ASKED_SHARE: f64 = 0.5;
/// Inputs shown at once; a round shows another choice of them.
const SHOWN: usize = 5;
/// Share of the rounds that draw whole lines, at least and at most; the others draw only words for
/// splices.
const LINES_SHARE: [f64; 2] = [0.1, 0.9];
/// Tokens drawn for a splice.
const SPLICE_TOKENS: usize = 8;
/// Texts without a draw that are tried for each draw.
const CHAINS: usize = 2;
/// How likely one new word too many is at least.
const NEW_WORD_MIN: f64 = 0.02;
/// Seeds from which on what all of them begin with is held for the task's own.
const SEEDS_TELLING: usize = 3;

/// An input that was made up and has not been looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    text: String,
    finished: bool,
    origin: Origin,
    asked: Option<String>,
}

impl Candidate {
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The model ended the line by itself.
    pub fn finished(&self) -> bool {
        self.finished
    }

    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The answer that the model was asked to write it for.
    pub fn asked(&self) -> Option<&str> {
        self.asked.as_deref()
    }

    /// A line as a model wrote it.
    pub(crate) fn line(text: String, finished: bool, asked: Option<String>) -> Self {
        Self {
            text,
            finished,
            origin: Origin::Line,
            asked,
        }
    }

    /// Read back what the journal kept; only the pipeline calls it.
    pub(crate) fn replay(
        text: String,
        finished: bool,
        origin: Origin,
        asked: Option<String>,
    ) -> Self {
        Self {
            text,
            finished,
            origin,
            asked,
        }
    }
}

/// What was drawn and what was dropped at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Yield {
    pub drawn: u64,
    pub repeated: u64,
    pub seeds_repeated: u64,
    pub tokens: u64,
}

/// How to draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub temperature: f32,
    pub tokens_max: usize,
    /// Draws side by side, from one choice and order of seeds.
    pub sequences: usize,
    /// Splice and recombine, too; without, lines are all there is.
    pub variants: bool,
    pub seed: u64,
}

/// How a model is asked for inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask<'a> {
    /// To continue a list of the seeds.
    List,
    /// To write a list of anything.
    Anything,
    /// With this question, which it was trained to answer with an input.
    Question(&'a str),
    /// The same of a model that was trained on what this run made.
    Tuned(&'a str),
}

/// Draws inputs in rounds. A round depends on its number, the run's seed and what was adopted, so a
/// run that was stopped continues alike.
pub struct Generator<'s> {
    seeds: &'s [Seed],
    settings: Settings,
    seen: HashSet<String>,
    rounds: u64,
    /// What variants are made of: the seeds, then what was adopted.
    parents: Vec<Units>,
    /// Words of the seeds, and how much of an input is not among them.
    known: HashSet<String>,
    unseen: f64,
    /// Share of the rounds that draw lines.
    lines_share: f64,
    /// Answers to ask inputs for, and answers with an input each to show.
    wanted: Vec<String>,
    shots: Vec<(String, String)>,
}

impl<'s> Generator<'s> {
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
            wanted: Vec::new(),
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
                .map(|candidate| candidate.text.clone()),
        );
    }

    /// Make variants of these texts besides those of the seeds, in place of the ones adopted
    /// before.
    pub fn adopt<'t>(&mut self, texts: impl IntoIterator<Item = &'t str>) {
        self.parents.truncate(self.seeds.len());
        self.parents.extend(texts.into_iter().map(Units::of));
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How much of an input is new with each input, from 0 to 1.
    pub fn unseen(&self) -> f64 {
        self.unseen
    }

    /// Draw lines in this share of the rounds to come, or in more where much of an input is new.
    pub fn lean(&mut self, lines_share: f64) {
        self.lines_share = lines_share
            .max(self.unseen)
            .clamp(LINES_SHARE[0], LINES_SHARE[1]);
    }

    /// Ask for inputs with these answers in a part of the rounds to come, shown some answers with
    /// an input each.
    pub fn want<'t>(
        &mut self,
        answers: Vec<String>,
        shots: impl IntoIterator<Item = (&'t str, &'t str)>,
    ) {
        let fits =
            |answer: &str| !answer.contains('\n') && answer.chars().count() <= ANSWER_CHARS_MAX;
        self.wanted = answers.into_iter().filter(|answer| fits(answer)).collect();
        let shots = shots.into_iter().filter(|(answer, _)| fits(answer));
        self.shots = shots
            .map(|(answer, input)| (answer.to_owned(), one_line(input)))
            .collect();
    }

    /// The answers that one round asks for, each as often as the others; none where there are no
    /// labels.
    fn asked(&self, rng: &mut Rng) -> Vec<Option<String>> {
        let first = rng.below(self.wanted.len().max(1));
        let asked = self
            .wanted
            .iter()
            .cycle()
            .skip(first)
            .map(|answer| Some(answer.clone()))
            .chain(std::iter::repeat(None));
        asked.take(self.settings.sequences.max(1)).collect()
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
        ask: Ask<'_>,
        talk: &mut Talk<'_>,
    ) -> Result<(Vec<Candidate>, Yield), GenerateError> {
        let mut rng = Rng::new(self.settings.seed, &format!("generate {}", self.rounds));
        let any = vec![None; self.settings.sequences.max(1)];
        match ask {
            Ask::List => self.list_round(rng, model, with, talk),
            Ask::Anything => self.lines_round(
                rng,
                format!("Here are {LIST_LENGTH} examples:\n1."),
                false,
                any,
                model,
                with,
                talk,
            ),
            Ask::Question(question) => {
                self.lines_round(rng, question.to_owned(), true, any, model, with, talk)
            }
            Ask::Tuned(question) => {
                let asked = self.asked(&mut rng);
                let (mut fresh, count) =
                    self.lines_round(rng, question.to_owned(), true, asked, model, with, talk)?;
                fresh
                    .iter_mut()
                    .for_each(|candidate| candidate.origin = Origin::Tuned);
                Ok((fresh, count))
            }
        }
    }

    /// Lines, and nothing made of them: what a model that makes inputs answers to `prefix`
    /// (`chat`), or what goes on after it; behind the answers that are `asked` for, and without
    /// those.
    #[expect(
        clippy::too_many_arguments,
        reason = "what a round is handed, and how this kind of round asks"
    )]
    fn lines_round(
        &mut self,
        mut rng: Rng,
        prefix: String,
        chat: bool,
        asked: Vec<Option<String>>,
        model: &mut dyn Generate,
        with: With,
        talk: &mut Talk<'_>,
    ) -> Result<(Vec<Candidate>, Yield), GenerateError> {
        let opening = |answer: &Option<String>| {
            answer
                .as_ref()
                .map_or(String::new(), |answer| format!("{answer}:"))
        };
        let request = GenerateRequest {
            prefix,
            chat,
            openings: asked.iter().map(opening).collect(),
            tokens_max: self.settings.tokens_max,
            temperature: self.settings.temperature,
            stop: if chat { "" } else { "\n" }.into(),
            seed: rng.next_u64(),
        };
        let drawn = model.generate(with, &request, talk)?;
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
        let after = |text: String, opening: &str| {
            text.trim_start()
                .strip_prefix(opening)
                .map_or(text.clone(), str::to_owned)
        };
        let made = drawn.into_iter().zip(&request.openings).zip(asked);
        let made = made
            .map(|((one, opening), asked)| {
                Candidate::line(after(one.text, opening), one.finished, asked)
            })
            .collect();
        let fresh = self.fresh(made, &mut count);
        Ok((fresh, count))
    }

    /// Inputs that a model writes to answers: it is shown a list of answers with an input each.
    fn answers_round(
        &mut self,
        mut rng: Rng,
        model: &mut dyn Generate,
        with: With,
        talk: &mut Talk<'_>,
    ) -> Result<(Vec<Candidate>, Yield), GenerateError> {
        let mut shots = self.shots.clone();
        rng.shuffle(&mut shots);
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
        let asked = self.asked(&mut rng);
        self.lines_round(rng, prefix, false, asked, model, with, talk)
    }

    /// Continuations of the seeds in a new order, and what can be made of those.
    fn list_round(
        &mut self,
        mut rng: Rng,
        model: &mut dyn Generate,
        with: With,
        talk: &mut Talk<'_>,
    ) -> Result<(Vec<Candidate>, Yield), GenerateError> {
        if !self.wanted.is_empty() && !self.shots.is_empty() && rng.unit() < ASKED_SHARE {
            return self.answers_round(rng, model, with, talk);
        }
        let lines = !self.settings.variants || rng.unit() < self.lines_share;
        let openings = self.openings(lines, &mut rng);
        let request = GenerateRequest {
            prefix: list_prompt(self.seeds, &mut rng),
            chat: false,
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
            stop: "\n".into(),
            seed: rng.next_u64(),
        };
        let drawn = model.generate(with, &request, talk)?;
        self.rounds += 1;
        let mut count = Yield {
            drawn: drawn.len() as u64,
            ..Yield::default()
        };
        let mut made = Vec::new();
        for ((continuation, &(parent, at)), opening) in
            drawn.into_iter().zip(&openings).zip(&request.openings)
        {
            count.tokens += continuation.tokens as u64;
            if self.settings.variants {
                let words = continuation.text.get(opening.len()..).unwrap_or_default();
                made.extend(self.variants(parent, at, words, lines, &mut rng));
            }
            if lines {
                made.push(Candidate::line(
                    continuation.text,
                    continuation.finished,
                    None,
                ));
            }
        }
        if self.settings.variants {
            made.retain(|candidate| self.is_likely(&candidate.text, &mut rng));
        }
        let fresh = self.fresh(made, &mut count);
        Ok((fresh, count))
    }

    /// Inputs made of a draw and of those that are there.
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
        let mut made = vec![(
            self.parents[parent].splice(at, words, out_max, rng),
            Origin::Splice,
        )];
        for _ in 0..if lines { 0 } else { CHAINS } {
            if rng.unit() >= self.unseen {
                let texts = if rng.below(2) == 0 {
                    &self.parents[..self.seeds.len()]
                } else {
                    &self.parents
                };
                made.push((Units::chain(texts, longest, rng), Origin::Chain));
            }
        }
        made.into_iter()
            .filter_map(|(text, origin)| {
                Some(Candidate::replay(redraw(&text?, rng), true, origin, None))
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

    /// Which parent each draw of a round begins as, and after how many of its units the model goes
    /// on.
    ///
    /// A base model that has lost the thread of the list finds it again from a few words. Where all
    /// seeds have the same word, it is seldom asked for another. Half of the lines are free, but
    /// for what all seeds begin with.
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

    /// What was not seen before.
    fn fresh(&mut self, made: Vec<Candidate>, count: &mut Yield) -> Vec<Candidate> {
        let mut fresh = Vec::new();
        for candidate in made {
            let text = candidate.text.trim().to_owned();
            if self.seeds.iter().any(|seed| seed.text() == text) {
                count.seeds_repeated += 1;
            } else if self.seen.insert(text.clone()) {
                fresh.push(Candidate { text, ..candidate });
            } else {
                count.repeated += 1;
            }
        }
        fresh
    }
}

impl std::ops::AddAssign for Yield {
    fn add_assign(&mut self, more: Self) {
        self.drawn += more.drawn;
        self.repeated += more.repeated;
        self.seeds_repeated += more.seeds_repeated;
        self.tokens += more.tokens;
    }
}

/// What a model is fitted on that makes inputs: the input, behind its answer where those are
/// labels.
pub fn lesson(answer: Option<&str>, input: &str) -> String {
    answer.map_or(input.to_owned(), |answer| format!("{answer}: {input}"))
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

/// The list a model is asked to continue, in random order. It ends in the open number without a
/// space: tokenizers keep that space with the word that follows.
fn list_prompt(seeds: &[Seed], rng: &mut Rng) -> String {
    let mut order: Vec<&Seed> = seeds.iter().collect();
    rng.shuffle(&mut order);
    order.truncate(SHOWN);
    let lines: String = order
        .iter()
        .enumerate()
        .map(|(i, seed)| format!("{}. {}\n", i + 1, one_line(seed.text())))
        .collect();
    format!(
        "Here are {LIST_LENGTH} examples:\n{lines}{}.",
        order.len() + 1
    )
}

/// A list has one line for each item.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
