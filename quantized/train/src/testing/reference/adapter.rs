//! The adapter as the reference sees it.

use super::load::floats;
use super::{ReferenceError, Result};
use std::collections::BTreeMap;
use translora_gguf::{Gguf, Value};

/// Holds one adapted weight: y = W x + alpha/rank · B (A x).
#[derive(Debug, Clone, PartialEq)]
pub struct LoraWeight {
    /// The inner dimension.
    pub rank: usize,
    /// A, `[rank][inputs]`.
    pub a: Vec<f32>,
    /// B, `[outputs][rank]`.
    pub b: Vec<f32>,
}

/// Holds an adapter: weights by name (`blk.0.attn_q.weight`). Empty is the bare model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReferenceLora {
    /// The numerator of the scale.
    pub alpha: f32,
    /// The adapted weights.
    pub weights: BTreeMap<String, LoraWeight>,
}

impl ReferenceLora {
    /// Reads an adapter file as llama.cpp writes it: tensors `NAME.lora_a` and `NAME.lora_b`.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<ReferenceLora> {
        let alpha_key = "adapter.lora.alpha";
        let alpha = gguf.get(alpha_key).and_then(Value::as_f64);
        let mut lora = ReferenceLora {
            alpha: alpha.ok_or(ReferenceError::Metadata(alpha_key.into()))? as f32,
            ..Self::default()
        };
        for tensor in gguf.tensors() {
            if let Some(name) = tensor.name.strip_suffix(".lora_a") {
                let b_name = format!("{name}.lora_b");
                let b = gguf
                    .tensor(&b_name)
                    .ok_or(ReferenceError::Missing(b_name))?;
                let rank = tensor.shape.get(1).copied().unwrap_or(1) as usize;
                let weight = LoraWeight {
                    rank,
                    a: floats(gguf, tensor)?,
                    b: floats(gguf, b)?,
                };
                lora.weights.insert(name.to_owned(), weight);
            }
        }
        Ok(lora)
    }

    pub(super) fn get(&self, name: &str) -> Option<(&LoraWeight, f64)> {
        self.weights
            .get(name)
            .map(|weight| (weight, f64::from(self.alpha) / weight.rank as f64))
    }
}
