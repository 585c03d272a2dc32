//! How far an adapter moves the answers of its base: one prompt is read with and without it, in a
//! sequence beside those of requests.

use crate::control::Effect;
use crate::engine::host::{Decoder, Host, Rendering, Row, SPARE_TOKENS, Token, Weights};
use crate::engine::{EngineError, is_distribution};

/// What the prompt asks, in a conversation where the base has a template.
const QUESTION: &str = "What should be done next, and why?";
/// Tokens at the end of the prompt whose logits are compared.
const OUTPUTS: usize = 4;

/// The prompt, and what the base makes of it.
pub(super) struct Probe {
    prompt: Vec<Token>,
    /// Logits, once they were computed. shapes: (outputs, vocabulary)
    base: Option<Vec<Vec<f32>>>,
}

impl Probe {
    /// fails: the question cannot be encoded
    pub(super) fn new(host: &dyn Host) -> Result<Self, EngineError> {
        let messages = serde_json::json!([{ "role": "user", "content": QUESTION }]);
        let rendering = Rendering {
            answer: true,
            ..Rendering::default()
        };
        let asked = host.chat().render(&messages, &rendering);
        let mut prompt = host.encode(asked.as_deref().unwrap_or(QUESTION), true)?;
        if let Some(bos) = host.bos().filter(|bos| prompt.first() != Some(bos)) {
            prompt.insert(0, bos);
        }
        // The end of a long prompt is as good as the whole.
        let most = SPARE_TOKENS.min(host.info().context.max(1));
        let from = prompt.len().saturating_sub(most);
        Ok(Self {
            prompt: prompt.split_off(from),
            base: None,
        })
    }

    /// Compare an adapter with the base; none where their logits make no distribution.
    ///
    /// fails: the decoder does
    pub(super) fn effect(
        &mut self,
        decoder: &mut dyn Decoder,
        weights: &Weights,
    ) -> Result<Option<Effect>, EngineError> {
        let base = match self.base.take() {
            Some(base) => base,
            None => self.read(decoder, &[])?,
        };
        let with = self.read(decoder, &[(weights.clone(), 1.0)]);
        let base = self.base.insert(base);
        let with = with?;
        let sound = |rows: &[Vec<f32>]| rows.iter().all(|row| is_distribution(row));
        Ok((sound(base) && sound(&with)).then(|| difference(base, &with)))
    }

    fn read(
        &self,
        decoder: &mut dyn Decoder,
        with: &[(Weights, f32)],
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let sequence = decoder.spare();
        let outputs_from = self.prompt.len().saturating_sub(OUTPUTS);
        let mut rows = self.prompt.iter().enumerate().map(|(position, token)| Row {
            token: *token,
            position,
            sequence,
            output: position >= outputs_from,
        });
        decoder.truncate(sequence, 0);
        let mut logits = Vec::new();
        loop {
            let some: Vec<Row> = rows.by_ref().take(decoder.rows_max()).collect();
            if some.is_empty() {
                break;
            }
            logits.extend(decoder.step(with, &some)?);
        }
        decoder.truncate(sequence, 0);
        Ok(logits)
    }
}

fn difference(base: &[Vec<f32>], with: &[Vec<f32>]) -> Effect {
    let largest = |a: &[f32], b: &[f32]| {
        let apart = a.iter().zip(b).filter(|(a, b)| a != b);
        apart.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    let mut effect = Effect {
        logits: 0.0,
        probabilities: 0.0,
    };
    for (base, with) in base.iter().zip(with) {
        effect.logits = effect.logits.max(largest(base, with));
        let apart = largest(&probabilities(base), &probabilities(with));
        effect.probabilities = effect.probabilities.max(apart);
    }
    // A token that only one of them forbids; JSON has no infinity.
    effect.logits = effect.logits.min(f32::MAX);
    effect
}

fn probabilities(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|logit| (logit - most).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}
