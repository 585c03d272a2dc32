//! From logits to a token, in llama.cpp's order: bias, penalties, top-k, top-p, min-p, temperature,
//! a draw.

use std::collections::{HashMap, VecDeque};

use crate::engine::EngineError;
use crate::engine::host::{Grammar, Token};
use crate::record::Mersenne;

/// The least and the most of what a request or the start may say.
pub const TEMPERATURE: (f32, f32) = (0.0, 100.0);
/// Of `top_p` and `min_p`.
pub const SHARE: (f32, f32) = (0.0, 1.0);
/// Of `repeat_penalty`.
pub const REPEAT_PENALTY: (f32, f32) = (0.01, 100.0);
/// Of `presence_penalty` and `frequency_penalty`.
pub const PENALTY: (f32, f32) = (-100.0, 100.0);

/// How to choose tokens. Names and defaults are llama-server's.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0: always the likeliest token.
    pub temperature: f32,
    /// Only so many of the likeliest tokens; 0: all.
    pub top_k: usize,
    /// Only the likeliest tokens that have this probability together.
    pub top_p: f32,
    /// Only tokens that have this share of the likeliest one's probability.
    pub min_p: f32,
    /// Above 1: lowers tokens that are there already.
    pub repeat_penalty: f32,
    /// Taken once from the logit of a token that is there already.
    pub presence_penalty: f32,
    /// Taken from the logit of a token for each time that it is there.
    pub frequency_penalty: f32,
    /// Tokens that the penalties look back at; what is longer than the context is as long as it.
    pub repeat_last_n: usize,
    /// Added to the logit of a token; minus infinity forbids it.
    pub bias: Vec<(Token, f32)>,
    /// Decides every draw.
    pub seed: u32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repeat_last_n: 64,
            bias: Vec::new(),
            seed: 0,
        }
    }
}

/// A token that was chosen, with what the model thought of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Drawn {
    pub token: Token,
    /// The natural log of its probability, before any of the above.
    pub log_probability: f64,
    /// The likeliest tokens, best first.
    pub top: Vec<(Token, f64)>,
}

/// The choice of one request's tokens.
pub(super) struct Sampler {
    sampling: Sampling,
    random: Mersenne,
    recent: VecDeque<Token>,
    /// What the answer is held to, where a request has a grammar.
    grammar: Option<Box<dyn Grammar>>,
}

impl Sampler {
    pub(super) fn new(
        sampling: Sampling,
        prompt: &[Token],
        grammar: Option<Box<dyn Grammar>>,
    ) -> Self {
        let recent = prompt[prompt.len().saturating_sub(sampling.repeat_last_n)..]
            .iter()
            .copied()
            .collect();
        Self {
            random: Mersenne::new(sampling.seed),
            recent,
            grammar,
            sampling,
        }
    }

    /// Choose the next token, with the probabilities of the `alternatives` likeliest.
    ///
    /// fails: the grammar allows no token that the model can write.
    pub(super) fn draw(
        &mut self,
        mut logits: Vec<f32>,
        alternatives: Option<usize>,
    ) -> Result<Drawn, EngineError> {
        let (mut log_probability, mut top, mut total) = (0.0, Vec::new(), 0.0);
        if let Some(count) = alternatives {
            total = log_of_sum(&logits);
            top = best(&logits, count)
                .into_iter()
                .map(|(token, logit)| (token, f64::from(logit) - total))
                .collect();
        }
        let plain = alternatives.map(|_| logits.clone());
        self.bend(&mut logits);
        let token = self.choose_allowed(&mut logits)?;
        if let Some(plain) = plain {
            log_probability = f64::from(plain[token as usize]) - total;
        }
        if self.sampling.repeat_last_n > 0 {
            if self.recent.len() == self.sampling.repeat_last_n {
                self.recent.pop_front();
            }
            self.recent.push_back(token);
        }
        Ok(Drawn {
            token,
            log_probability,
            top,
        })
    }

    /// As llama.cpp: most tokens fit a grammar anyway, so one is drawn first. Only where it does not
    /// fit, all that do not are taken out and another is drawn.
    fn choose_allowed(&mut self, logits: &mut [f32]) -> Result<Token, EngineError> {
        let mut token = self.choose(logits);
        let Some(mut grammar) = self.grammar.take() else {
            return Ok(token);
        };
        if !grammar.allows(token) {
            grammar.mask(logits);
            token = self.choose(logits);
        }
        let accepted = grammar.accept(token);
        self.grammar = Some(grammar);
        accepted.map(|()| token)
    }

    /// Bias and penalties.
    fn bend(&self, logits: &mut [f32]) {
        let Sampling {
            repeat_penalty,
            presence_penalty,
            frequency_penalty,
            ..
        } = self.sampling;
        for (token, bias) in &self.sampling.bias {
            logits[*token as usize] += bias;
        }
        if repeat_penalty == 1.0 && presence_penalty == 0.0 && frequency_penalty == 0.0 {
            return;
        }
        let mut counts: HashMap<Token, u32> = HashMap::new();
        self.recent
            .iter()
            .for_each(|token| *counts.entry(*token).or_default() += 1);
        for (token, count) in counts {
            let Some(logit) = logits.get_mut(token as usize) else {
                continue;
            };
            *logit = if *logit <= 0.0 {
                *logit * repeat_penalty
            } else {
                *logit / repeat_penalty
            };
            *logit -= count as f32 * frequency_penalty + presence_penalty;
        }
    }

    fn choose(&mut self, logits: &[f32]) -> Token {
        let Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
            ..
        } = self.sampling;
        if temperature <= 0.0 {
            // One draw for each token, as llama.cpp does.
            self.random.unit();
            return best(logits, 1).first().map_or(0, |(token, _)| *token);
        }
        let count = if top_k == 0 {
            logits.len()
        } else {
            top_k.min(logits.len())
        };
        let mut left = best(logits, count);
        if top_p < 1.0 {
            let weights = weights(&left, 1.0);
            let total: f32 = weights.iter().sum();
            let mut sum = 0.0;
            let reached = weights.iter().position(|weight| {
                sum += weight / total;
                sum >= top_p
            });
            left.truncate(reached.map_or(left.len(), |at| at + 1));
        }
        if min_p > 0.0 {
            let least = left[0].1 + min_p.ln();
            left.truncate(
                left.iter()
                    .position(|(_, logit)| *logit < least)
                    .unwrap_or(left.len())
                    .max(1),
            );
        }
        let weights = weights(&left, temperature);
        let wanted =
            weights.iter().map(|weight| f64::from(*weight)).sum::<f64>() * self.random.unit();
        let mut sum = 0.0;
        let drawn = weights.iter().position(|weight| {
            sum += f64::from(*weight);
            sum >= wanted
        });
        left[drawn.unwrap_or(left.len() - 1)].0
    }
}

/// e^(logit / temperature), the largest scaled to 1.
fn weights(best_first: &[(Token, f32)], temperature: f32) -> Vec<f32> {
    let highest = best_first[0].1 / temperature;
    best_first
        .iter()
        .map(|(_, logit)| (logit / temperature - highest).exp())
        .collect()
}

/// The `count` largest logits, best first; of equals the first.
fn best(logits: &[f32], count: usize) -> Vec<(Token, f32)> {
    let mut all: Vec<(Token, f32)> = logits
        .iter()
        .enumerate()
        .map(|(token, logit)| (token as Token, *logit))
        .collect();
    let order = |a: &(Token, f32), b: &(Token, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if count == 0 {
        return Vec::new();
    }
    if count < all.len() {
        all.select_nth_unstable_by(count - 1, order);
        all.truncate(count);
    }
    all.sort_unstable_by(order);
    all
}

fn log_of_sum(logits: &[f32]) -> f64 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|logit| f64::from(logit - highest).exp())
        .sum();
    f64::from(highest) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(sampling: Sampling, logits: &[f32], count: usize) -> Vec<Token> {
        let mut sampler = Sampler::new(sampling, &[], None);
        (0..count)
            .map(|_| {
                let drawn = sampler.draw(logits.to_vec(), None);
                drawn.expect("no grammar refuses it").token
            })
            .collect()
    }

    #[test]
    fn no_temperature_is_the_first_of_the_best() {
        let greedy = Sampling {
            temperature: 0.0,
            ..Sampling::default()
        };
        assert_eq!(drawn(greedy.clone(), &[1.0, 3.0, 3.0, 2.0], 3), [1, 1, 1]);
        let banned = Sampling {
            bias: vec![(1, f32::NEG_INFINITY), (2, -100.0)],
            ..greedy
        };
        assert_eq!(drawn(banned, &[1.0, 3.0, 3.0, 2.0], 1), [3]);
    }

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.7).sin()).collect();
        let with = |seed| {
            drawn(
                Sampling {
                    seed,
                    temperature: 1.0,
                    ..Sampling::default()
                },
                &logits,
                40,
            )
        };
        assert_eq!(with(1), with(1));
        assert_ne!(with(1), with(2));
    }

    #[test]
    fn what_the_cuts_leave_is_all_that_is_drawn() {
        let logits = [0.0, 1.0, 2.0, 3.0, 4.0];
        let wide = Sampling {
            temperature: 100.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            ..Sampling::default()
        };
        let least = |sampling: Sampling| drawn(sampling, &logits, 300).into_iter().min().unwrap();
        assert_eq!(least(wide.clone()), 0);
        assert_eq!(
            least(Sampling {
                top_k: 2,
                ..wide.clone()
            }),
            3
        );
        // p = 0.636, 0.234, 0.086, …
        assert_eq!(
            least(Sampling {
                top_p: 0.8,
                ..wide.clone()
            }),
            3
        );
        assert_eq!(
            least(Sampling {
                min_p: 0.1,
                ..wide.clone()
            }),
            2
        );
    }

    #[test]
    fn frequencies_are_the_probabilities() {
        let plain = Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            ..Sampling::default()
        };
        let tokens = drawn(plain, &[0.0, 3.0_f32.ln()], 4000);
        let share = tokens.iter().filter(|token| **token == 1).count() as f64 / 4000.0;
        assert!((share - 0.75).abs() < 0.03, "{share}");
    }

    #[test]
    fn penalties_lower_what_was_said() {
        let greedy = Sampling {
            temperature: 0.0,
            presence_penalty: 1.0,
            ..Sampling::default()
        };
        assert_eq!(drawn(greedy, &[1.0, 1.5], 2), [1, 0]);
    }

    #[test]
    fn probabilities_are_those_of_the_model_before_bias_and_penalties() {
        let sampling = Sampling {
            temperature: 0.0,
            bias: vec![(1, -100.0)],
            ..Sampling::default()
        };
        let drawn = Sampler::new(sampling, &[], None).draw(vec![0.0, 3.0_f32.ln()], Some(2));
        let drawn = drawn.expect("no grammar refuses it");
        assert_eq!((drawn.token, drawn.top[0].0), (0, 1));
        assert!(
            (drawn.log_probability - 0.25_f64.ln()).abs() < 1e-6
                && (drawn.top[0].1 - 0.75_f64.ln()).abs() < 1e-6
        );
    }
}
