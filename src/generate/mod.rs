//! Generate new inputs: a base model continues a numbered list of seeds, and its words are put into
//! inputs that are known.
//!
//! source: Trans-LoRA, section 3.1. No instruction, no chat template: `Here are 10 examples:`, the
//! seeds as a list, an open next number. A draw gives a line, and words for splices (`vary`). Seeds
//! are recombined with each other, too, the more so the fewer new words they bring. What repeats a
//! seed or an earlier candidate exactly is dropped here and counted.
//!
//! Refuses to know: what becomes of a candidate, and which model draws it. Called by the
//! pipeline; `filter` imports [`Candidate`].

use serde::{Deserialize, Serialize};

mod candidate;
mod compose;
mod error;
mod lead;
mod sampler;
mod vary;

pub use candidate::{Candidate, asked};
pub use compose::{compose, values};
pub use error::GenerateError;
pub use lead::Lead;
pub use sampler::{InputSampler, MIN_P};

/// What was drawn and what was dropped at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Yield {
    /// Texts that were drawn.
    pub drawn: u64,
    /// Of these, those that were drawn before.
    pub repeated: u64,
    /// Of these, those that are a seed word for word.
    pub seeds_repeated: u64,
    /// Tokens that were generated.
    pub tokens: u64,
}

/// How to draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Of the sampling; 0 is greedy.
    pub temperature: f32,
    /// Tokens of one text at most.
    pub tokens_max: usize,
    /// Draws side by side, from one choice and order of seeds.
    pub sequences: usize,
    /// Splice and recombine, too; without, lines are all there is.
    pub variants: bool,
    /// Decides every draw.
    pub seed: u64,
}

/// How a model is prompted for inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction<'a> {
    /// To continue a list of the seeds.
    List,
    /// To write a list of anything.
    Anything,
    /// With this question, which it was trained to answer with an input.
    Question(&'a str),
    /// The same of a model that was trained on the inputs of this run.
    Tuned(&'a str),
}

impl std::ops::AddAssign for Yield {
    fn add_assign(&mut self, more: Self) {
        self.drawn += more.drawn;
        self.repeated += more.repeated;
        self.seeds_repeated += more.seeds_repeated;
        self.tokens += more.tokens;
    }
}

/// What a generator of inputs is fitted on: the input, behind its answer where inputs are drawn
/// behind answers.
pub fn lesson(answer: Option<&str>, input: &str) -> String {
    answer.map_or(input.to_owned(), |answer| format!("{answer}: {input}"))
}

#[cfg(test)]
mod tests;
