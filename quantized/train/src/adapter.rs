//! The adapter's numbers, and the LoRA GGUF they are written as.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use translora_gguf::{TensorKind, Value, Writer};

use crate::error::TrainError;
use crate::modules::Target;

/// A LoRA: for each target, y = W x + alpha / rank · B (A x).
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// Rows of each A, columns of each B.
    pub rank: usize,
    /// The scale, times the rank; as the file has it.
    pub alpha: f32,
    /// In the order of the model's tensors.
    pub pairs: Vec<LoraPair>,
}

/// A and B of one matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPair {
    /// The matrix.
    pub target: Target,
    /// shapes: for each expert, rank rows of `inputs`
    pub a: Vec<f32>,
    /// shapes: for each expert, `outputs` rows of rank
    pub b: Vec<f32>,
}

impl Adapter {
    /// Start an adapter that changes nothing: A uniform in ±1/√inputs, B zero.
    ///
    /// source: PEFT `LoraLayer.reset_lora_parameters` (Kaiming uniform with a = √5)
    pub fn fresh(targets: &[Target], rank: usize, alpha: f32, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut unit = move || f64::from(random.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0;
        let pair = |target: &Target| {
            let bound = 1.0 / (target.inputs as f64).sqrt();
            let a = (0..rank * target.inputs * target.experts)
                .map(|_| (unit() * bound) as f32)
                .collect();
            LoraPair {
                target: target.clone(),
                a,
                b: vec![0.0; target.outputs * rank * target.experts],
            }
        };
        Self {
            rank,
            alpha,
            pairs: targets.iter().map(pair).collect(),
        }
    }

    /// Numbers of all A and B.
    pub fn parameters(&self) -> usize {
        self.pairs
            .iter()
            .map(|pair| pair.a.len() + pair.b.len())
            .sum()
    }

    /// Write the adapter as a GGUF that llama.cpp loads.
    ///
    /// source: llama.cpp `llama_adapter_lora_init_impl` (keys and shapes it reads)
    pub fn to_gguf(
        &self,
        architecture: &str,
        metadata: &[(String, String)],
    ) -> Result<Vec<u8>, TrainError> {
        let mut writer = Writer::new();
        writer.set("general.type", Value::String("adapter".into()));
        writer.set("general.architecture", Value::String(architecture.into()));
        writer.set("adapter.type", Value::String("lora".into()));
        writer.set("adapter.lora.alpha", Value::F32(self.alpha));
        for (key, value) in metadata {
            writer.set(key, Value::String(value.clone()));
        }
        let bytes = |values: &[f32]| {
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect::<Vec<u8>>()
        };
        for LoraPair { target, a, b } in &self.pairs {
            let (inputs, outputs, rank) = (
                target.inputs as u64,
                target.outputs as u64,
                self.rank as u64,
            );
            let (mut of_a, mut of_b) = (vec![inputs, rank], vec![rank, outputs]);
            if target.experts > 1 {
                of_a.push(target.experts as u64);
                of_b.push(target.experts as u64);
            }
            writer.tensor(
                format!("{}.lora_a", target.name),
                TensorKind::F32,
                &of_a,
                bytes(a),
            );
            writer.tensor(
                format!("{}.lora_b", target.name),
                TensorKind::F32,
                &of_b,
                bytes(b),
            );
        }
        Ok(writer.to_bytes()?)
    }
}
