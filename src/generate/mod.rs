//! Make up new inputs: a base model continues a numbered list of seeds.
//!
//! source: Trans-LoRA, section 3.1. No instruction, no chat template: `Here are 10 examples:`, the seeds as a list, an open
//! next number. Each draw is one line. Exact repetitions, of a seed or of anything drawn before, are dropped here and counted.
//!
//! Refuses to know: what becomes of a candidate, and which model it talks to. Called by the pipeline; `filter` imports
//! [`Candidate`].

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::engine::{EngineError, Fault, Generate, GenerateRequest, Talk, With};
use crate::kit::Seed;
use crate::record::Rng;

/// Lines the header promises. source: Trans-LoRA shows five and asks for more.
const LIST_LENGTH: usize = 10;
/// Inputs shown at once; a round shows another choice of them.
const SHOWN: usize = 5;

/// An input that was made up and has not been looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    text: String,
    finished: bool,
}

impl Candidate {
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The model ended the line by itself.
    pub fn finished(&self) -> bool {
        self.finished
    }

    /// Read back what the journal kept; only the pipeline calls it.
    pub(crate) fn replay(text: String, finished: bool) -> Self {
        Self { text, finished }
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
    pub seed: u64,
}

/// Why nothing could be made up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    #[error("generating inputs: {0}")]
    Engine(#[from] EngineError),
    #[error("there are no seed inputs to start from")]
    NoSeeds,
}

impl GenerateError {
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Engine(EngineError::Cancelled(_)))
    }

    pub fn fault(&self) -> Fault {
        match self {
            Self::Engine(error) => error.fault(),
            Self::NoSeeds => Fault::Input,
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Engine(EngineError::Context { .. }) => Some("give a larger context with -c, or shorter seeds".into()),
            Self::Engine(_) => None,
            Self::NoSeeds => Some("give at least one, better five".into()),
        }
    }
}

/// Draws inputs in rounds. A round depends on its number and the run's seed only, so a run that was stopped continues alike.
pub struct Generator<'s> {
    seeds: &'s [Seed],
    settings: Settings,
    seen: HashSet<String>,
    rounds: u64,
}

impl<'s> Generator<'s> {
    pub fn new(seeds: &'s [Seed], settings: Settings) -> Result<Self, GenerateError> {
        if seeds.is_empty() {
            return Err(GenerateError::NoSeeds);
        }
        Ok(Self { seeds, settings, seen: HashSet::new(), rounds: 0 })
    }

    /// Take over `rounds` rounds drawn before, with every text they gave.
    pub fn remember<'c>(&mut self, rounds: u64, candidates: impl IntoIterator<Item = &'c Candidate>) {
        self.rounds = self.rounds.max(rounds);
        self.seen.extend(candidates.into_iter().map(|candidate| candidate.text.clone()));
    }

    /// Rounds drawn so far.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// What each draw of a round begins with: every second one is free, the others begin as a seed does.
    ///
    /// A base model that has lost the thread of the list finds it again from a few words; the rest of the line is its own.
    fn openings(&self, rng: &mut Rng) -> Vec<String> {
        let mut open = |free: bool| {
            let words: Vec<&str> = self.seeds[rng.below(self.seeds.len())].text().split_whitespace().collect();
            if free || words.len() < 2 { String::new() } else { words[..1 + rng.below(words.len() - 1)].join(" ") }
        };
        (0..self.settings.sequences.max(1)).map(|i| open(i % 2 == 0)).collect()
    }

    /// Draw one round: the seeds in a new order, up to `settings.sequences` continuations of them, none seen before.
    pub fn round(&mut self, model: &mut dyn Generate, with: With, talk: &mut Talk<'_>) -> Result<(Vec<Candidate>, Yield), GenerateError> {
        let mut rng = Rng::new(self.settings.seed, &format!("generate {}", self.rounds));
        let request = GenerateRequest {
            prefix: list_prompt(self.seeds, &mut rng),
            openings: self.openings(&mut rng),
            tokens_max: self.settings.tokens_max,
            temperature: self.settings.temperature,
            stop: "\n".into(),
            seed: rng.next_u64(),
        };
        let drawn = model.generate(with, &request, talk)?;
        self.rounds += 1;
        let mut count = Yield { drawn: drawn.len() as u64, ..Yield::default() };
        let mut fresh = Vec::new();
        for continuation in drawn {
            count.tokens += continuation.tokens as u64;
            let text = continuation.text.trim().to_owned();
            if self.seeds.iter().any(|seed| seed.text() == text) {
                count.seeds_repeated += 1;
            } else if self.seen.insert(text.clone()) {
                fresh.push(Candidate { text, finished: continuation.finished });
            } else {
                count.repeated += 1;
            }
        }
        Ok((fresh, count))
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

/// The list a model is asked to continue, in random order. It ends in the open number without a space: tokenizers keep that space
/// with the word that follows.
fn list_prompt(seeds: &[Seed], rng: &mut Rng) -> String {
    let mut order: Vec<&Seed> = seeds.iter().collect();
    rng.shuffle(&mut order);
    order.truncate(SHOWN);
    let lines: String = order.iter().enumerate().map(|(i, seed)| format!("{}. {}\n", i + 1, one_line(seed.text()))).collect();
    format!("Here are {LIST_LENGTH} examples:\n{lines}{}.", order.len() + 1)
}

/// A list has one line for each item.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Continuation;
    use crate::record::Cancel;

    /// Says what it was told to say, and notes what it was asked.
    struct Script {
        says: Vec<&'static str>,
        asked: Vec<GenerateRequest>,
    }

    impl Generate for Script {
        fn generate(&mut self, _: With, request: &GenerateRequest, talk: &mut Talk<'_>) -> Result<Vec<Continuation>, EngineError> {
            talk.tick(0, 1)?;
            self.asked.push(request.clone());
            Ok(self.says.iter().map(|&text| Continuation { text: text.into(), tokens: 3, finished: true }).collect())
        }
    }

    fn seeds() -> Vec<Seed> {
        ["one", "two\nlines", "three"].iter().map(|text| Seed::replay((*text).into())).collect()
    }

    fn settings() -> Settings {
        Settings { temperature: 1.0, tokens_max: 16, sequences: 4, seed: 1 }
    }

    #[test]
    fn a_round_drops_seeds_and_repetitions() {
        let (seeds, cancel) = (seeds(), Cancel::default());
        let mut talk = Talk { cancel: &cancel, progress: &mut |_, _| {} };
        let mut model = Script { says: vec![" one ", " four", "four ", " five"], asked: Vec::new() };
        let mut generator = Generator::new(&seeds, settings()).unwrap();
        let (fresh, count) = generator.round(&mut model, With::Base, &mut talk).unwrap();
        assert_eq!(fresh.iter().map(Candidate::text).collect::<Vec<_>>(), ["four", "five"]);
        assert_eq!(count, Yield { drawn: 4, repeated: 1, seeds_repeated: 1, tokens: 12 });
        let (fresh, count) = generator.round(&mut model, With::Base, &mut talk).unwrap();
        assert!(fresh.is_empty());
        assert_eq!(count.repeated, 3);
        assert_ne!(model.asked[0], model.asked[1]);
    }

    #[test]
    fn the_list_is_the_papers() {
        let prompt = list_prompt(&seeds()[..1], &mut Rng::new(1, "t"));
        assert_eq!(prompt, "Here are 10 examples:\n1. one\n2.");
        let all = list_prompt(&seeds(), &mut Rng::new(1, "t"));
        assert!(all.contains(". two lines\n") && all.ends_with("\n4."), "{all}");
    }

    #[test]
    fn a_continued_generator_draws_what_the_straight_one_draws() {
        let (seeds, cancel) = (seeds(), Cancel::default());
        let mut talk = Talk { cancel: &cancel, progress: &mut |_, _| {} };
        let mut straight = Script { says: vec!["a"], asked: Vec::new() };
        let mut generator = Generator::new(&seeds, settings()).unwrap();
        let (first, _) = generator.round(&mut straight, With::Base, &mut talk).unwrap();
        generator.round(&mut straight, With::Base, &mut talk).unwrap();
        let mut resumed = Script { says: vec!["a"], asked: Vec::new() };
        let mut generator = Generator::new(&seeds, settings()).unwrap();
        generator.remember(1, &first);
        let (fresh, _) = generator.round(&mut resumed, With::Base, &mut talk).unwrap();
        assert!(fresh.is_empty());
        assert_eq!(resumed.asked[0], straight.asked[1]);
    }

    #[test]
    fn cancel_and_no_seeds_are_errors() {
        let cancel = Cancel::default();
        cancel.cancel();
        let mut talk = Talk { cancel: &cancel, progress: &mut |_, _| {} };
        let seeds = seeds();
        let mut generator = Generator::new(&seeds, settings()).unwrap();
        let error = generator.round(&mut Script { says: vec![], asked: vec![] }, With::Base, &mut talk).unwrap_err();
        assert!(error.is_cancelled());
        assert!(Generator::new(&[], settings()).is_err_and(|error| error.hint().is_some()));
    }
}
