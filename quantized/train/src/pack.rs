//! Packs examples into one sequence of a fixed length.
//!
//! The tokens that all examples begin with (the template's system prompt, say) stand once at the
//! front; each example follows with its own positions and sees that prefix and itself only. Values
//! and gradients are those of the examples run one by one.

use std::ops::Range;

use crate::error::TrainError;
use crate::objective::Teacher;

/// Packed sequences are padded to a multiple of this.
pub(crate) const TOKENS_STEP: usize = 32;
/// Tokens of one packed sequence, unless a single example is longer. The more, the less it costs to
/// dequantize the weights.
pub(crate) const TOKENS_MAX: usize = 512;

/// A tokenized example.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Prompt and completion, template and end of turn included.
    pub tokens: Vec<i32>,
    /// Index of the first token of the completion.
    pub completion: usize,
    /// How much each completion token counts; 1 for all where absent. shapes: outputs
    pub weights: Option<Vec<f32>>,
    /// What a teacher says of each completion token, for the objectives that need it.
    pub teacher: Option<Teacher>,
}

impl Example {
    /// Check that there is something to learn: a prompt before the completion, and a completion.
    pub fn new(tokens: Vec<i32>, completion: usize, index: usize) -> Result<Self, TrainError> {
        if completion == 0 || completion >= tokens.len() {
            let reason = format!(
                "its completion begins at token {completion} of {}",
                tokens.len()
            );
            return Err(TrainError::Example { index, reason });
        }
        Ok(Self {
            tokens,
            completion,
            weights: None,
            teacher: None,
        })
    }

    /// The same example with a weight for each completion token.
    pub fn with_weights(self, weights: Vec<f32>) -> Self {
        Self {
            weights: Some(weights),
            ..self
        }
    }

    /// The same example with a teacher's signal.
    pub fn with_teacher(self, teacher: Teacher) -> Self {
        Self {
            teacher: Some(teacher),
            ..self
        }
    }

    /// Tokens that the model reads: all but the last, which is only predicted.
    pub fn inputs(&self) -> usize {
        self.tokens.len() - 1
    }

    pub(crate) fn input_tokens(&self) -> &[i32] {
        &self.tokens[..self.inputs()]
    }

    /// Tokens the loss is taken at.
    pub fn outputs(&self) -> usize {
        self.tokens.len() - self.completion
    }
}

/// Count the tokens that all examples begin with, up to the one before the last prompt token of
/// any.
pub fn shared_prefix(examples: &[Example]) -> usize {
    let Some(first) = examples.first() else {
        return 0;
    };
    let mut shared = first.completion - 1;
    for example in examples {
        shared = shared.min(example.completion - 1);
        shared = first.tokens[..shared]
            .iter()
            .zip(&example.tokens)
            .take_while(|(a, b)| a == b)
            .count();
    }
    shared
}

/// One packed sequence, padded to its program's sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct Packed {
    /// shapes: tokens
    pub tokens: Vec<i32>,
    /// shapes: tokens; where each token stands in its example
    pub positions: Vec<i32>,
    /// shapes: tokens; which example each token belongs to
    owner: Vec<u32>,
    /// shapes: outputs; the token each output is taken at. The last output is always padding.
    pub output_ids: Vec<i32>,
    /// shapes: tokens; the output taken at each token, or the last one.
    pub output_of: Vec<i32>,
    /// shapes: outputs
    pub labels: Vec<i32>,
    /// shapes: outputs; 0 for padding
    pub weights: Vec<f32>,
    /// shapes: outputs; which example's which completion token an output is for; none for padding
    pub origins: Vec<Option<(usize, usize)>>,
    /// Tokens that are not padding.
    pub used: usize,
}

const PREFIX: u32 = 0;
const PADDING: u32 = u32::MAX;

impl Packed {
    /// Lay out `examples` (which share `prefix` tokens) in `tokens` places with `outputs` outputs;
    /// both must suffice.
    pub fn new(examples: &[&Example], prefix: usize, tokens: usize, outputs: usize) -> Self {
        let mut owner = vec![PADDING; tokens];
        let mut packed = Self {
            tokens: vec![0; tokens],
            positions: vec![0; tokens],
            owner: Vec::new(),
            output_ids: vec![0; outputs],
            output_of: vec![outputs as i32 - 1; tokens],
            labels: vec![0; outputs],
            weights: vec![0.0; outputs],
            origins: vec![None; outputs],
            used: 0,
        };
        if let Some(first) = examples.first() {
            packed.put(&mut owner, PREFIX, first, 0..prefix);
        }
        let mut slot = 0;
        for (number, example) in examples.iter().enumerate() {
            let start = packed.used;
            packed.put(
                &mut owner,
                number as u32 + 1,
                example,
                prefix..example.inputs(),
            );
            for predicted in example.completion..example.tokens.len() {
                let at = start + predicted - 1 - prefix;
                packed.output_ids[slot] = at as i32;
                packed.output_of[at] = slot as i32;
                packed.labels[slot] = example.tokens[predicted];
                let token = predicted - example.completion;
                packed.weights[slot] = example
                    .weights
                    .as_ref()
                    .map_or(1.0, |weights| weights[token]);
                packed.origins[slot] = Some((number, token));
                slot += 1;
            }
        }
        packed.owner = owner;
        packed
    }

    /// The same for a model that has an output at every token and picks none.
    pub fn with_all_outputs(mut self) -> Self {
        let tokens = self.tokens.len();
        let (mut labels, mut weights, mut origins) =
            (vec![0; tokens], vec![0.0; tokens], vec![None; tokens]);
        for row in (0..self.origins.len()).filter(|row| self.origins[*row].is_some()) {
            let at = self.output_ids[row] as usize;
            (labels[at], weights[at], origins[at]) =
                (self.labels[row], self.weights[row], self.origins[row]);
        }
        self.output_ids = (0..tokens as i32).collect();
        self.output_of = self.output_ids.clone();
        (self.labels, self.weights, self.origins) = (labels, weights, origins);
        self
    }

    /// The outputs that are completion tokens, in their order.
    pub fn rows(&self) -> impl Iterator<Item = usize> {
        (0..self.origins.len()).filter(|row| self.origins[*row].is_some())
    }

    /// For each place the example and its token there; none for padding. The common prefix is the
    /// first example's.
    pub(crate) fn places(&self) -> impl Iterator<Item = Option<(usize, usize)>> {
        self.owner
            .iter()
            .zip(&self.positions)
            .map(|(owner, position)| {
                let example = (*owner != PADDING).then(|| (*owner as usize).saturating_sub(1))?;
                Some((example, *position as usize))
            })
    }

    /// The two tokens belong together: both to one example, or the key to the prefix of all.
    /// Whether the model lets the query see the key is another question.
    pub fn sees(&self, query: usize, key: usize) -> bool {
        match self.owner[query] {
            PADDING => key == query,
            owner => self.owner[key] == PREFIX || self.owner[key] == owner,
        }
    }

    fn put(&mut self, owner: &mut [u32], who: u32, example: &Example, range: Range<usize>) {
        for position in range {
            self.tokens[self.used] = example.tokens[position];
            self.positions[self.used] = position as i32;
            owner[self.used] = who;
            self.used += 1;
        }
    }
}

/// Split a batch into runs that fit `tokens` and `outputs` places (one output is kept for padding).
/// An example that fits neither stands alone.
pub fn split<'e>(
    batch: &[&'e Example],
    prefix: usize,
    tokens: usize,
    outputs: usize,
) -> Vec<Vec<&'e Example>> {
    let mut runs: Vec<Vec<&Example>> = Vec::new();
    let (mut used, mut slots) = (usize::MAX, 0);
    for example in batch {
        let (more, wanted) = (example.inputs() - prefix, example.outputs());
        if used.saturating_add(more) > tokens || slots + wanted + 1 > outputs {
            runs.push(Vec::new());
            (used, slots) = (prefix, 0);
        }
        used += more;
        slots += wanted;
        if let Some(run) = runs.last_mut() {
            run.push(example);
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(tokens: &[i32], completion: usize) -> Example {
        Example::new(tokens.to_vec(), completion, 0).unwrap()
    }

    #[test]
    fn prefix_stops_before_the_last_prompt_token() {
        let a = example(&[1, 2, 3, 9, 8], 3);
        let b = example(&[1, 2, 3, 7], 3);
        assert_eq!(shared_prefix(&[a.clone(), b]), 2);
        assert_eq!(shared_prefix(&[a, example(&[1, 5, 3, 7], 3)]), 1);
        assert_eq!(shared_prefix(&[]), 0);
    }

    #[test]
    fn examples_see_the_prefix_and_themselves() {
        let (a, b) = (example(&[1, 2, 3, 9, 8], 3), example(&[1, 2, 4, 7], 3));
        let packed = Packed::new(&[&a, &b], 2, 8, 4);
        assert_eq!(packed.tokens, [1, 2, 3, 9, 4, 0, 0, 0]);
        assert_eq!(packed.positions[..5], [0, 1, 2, 3, 2]);
        assert_eq!(packed.used, 5);
        let sees = |query: usize| {
            (0..8)
                .filter(|key| packed.sees(query, *key))
                .collect::<Vec<_>>()
        };
        assert_eq!(sees(1), [0, 1]);
        assert_eq!(sees(3), [0, 1, 2, 3]);
        assert_eq!(sees(4), [0, 1, 4]);
        assert_eq!(sees(6), [6]);
        assert_eq!(packed.output_ids, [2, 3, 4, 0]);
        assert_eq!(packed.labels, [9, 8, 7, 0]);
        assert_eq!(packed.weights, [1.0, 1.0, 1.0, 0.0]);
        assert_eq!(packed.output_of, [3, 3, 0, 1, 2, 3, 3, 3]);
    }

    #[test]
    fn outputs_can_be_at_every_token() {
        let (a, b) = (example(&[1, 2, 3, 9, 8], 3), example(&[1, 2, 4, 7], 3));
        let packed = Packed::new(&[&a, &b], 2, 8, 4).with_all_outputs();
        assert_eq!(packed.rows().collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(packed.labels, [0, 0, 9, 8, 7, 0, 0, 0]);
        assert_eq!(packed.weights, [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn runs_fit_their_places() {
        let examples: Vec<Example> = (0..10).map(|i| example(&[1, 2, 3 + i, 4, 5], 3)).collect();
        let refs: Vec<&Example> = examples.iter().collect();
        let runs = split(&refs, 2, 8, 6);
        assert_eq!(runs.iter().map(Vec::len).collect::<Vec<_>>(), [2; 5]);
        assert_eq!(split(&refs[..1], 2, 1, 1).len(), 1);
    }
}
