use std::path::Path;

use translora_gguf::{Gguf, TensorKind, Value, Writer};
use translora_lora::{Lora, LoraError};

use crate::engine::{Continuation, EngineError};
use crate::record::Rng;

/// Logit of an answer nobody trained for, against 0 for "what the base would say".
const BIAS: f64 = -4.0;
/// Logits per unit of LoRA output, so that usual learning rates move the toy at a usual pace.
const GAIN: f64 = 8.0;
/// Standard deviation of a fresh A.
const SPREAD: f64 = 0.25;
pub(super) const ARCHITECTURE: &str = "toy";
const MATRIX: &str = "blk.0.ffn_up.weight";

/// A LoRA on the toy's empty head: one logit per known answer, `bias + gain · alpha/rank · B A f`.
///
/// shapes: `a` (rank, width), `b` (answers, rank)
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Head {
    pub(super) answers: Vec<String>,
    pub(super) width: usize,
    pub(super) rank: usize,
    pub(super) alpha: f32,
    /// The hash of the base that it was made for, in hexadecimal.
    pub(super) made_for: Option<String>,
    pub(super) a: Vec<f32>,
    pub(super) b: Vec<f32>,
}

/// What a head thinks of one prompt.
pub(super) struct Opinion {
    /// ln p of each known answer.
    pub(super) answers: Vec<f64>,
    /// ln p of leaving it to the base.
    pub(super) base: f64,
    /// `A f`, dropout's factor included. shapes: (rank)
    pub(super) hidden: Vec<f64>,
}

impl Head {
    pub(super) fn fresh(width: usize, rank: usize, alpha: f32, seed: u64) -> Self {
        let mut rng = Rng::new(seed, "toy lora");
        let a = (0..rank * width)
            .map(|_| (SPREAD * rng.normal()) as f32)
            .collect();
        Self {
            answers: Vec::new(),
            width,
            rank,
            alpha,
            made_for: None,
            a,
            b: Vec::new(),
        }
    }

    /// How strongly it works on any prompt, from 0 to 1.
    pub(super) fn strength(&self) -> f32 {
        let most = self.b.iter().fold(0.0_f32, |most, b| most.max(b.abs()));
        most.min(1.0)
    }

    /// The factor between `B A f` and logits.
    pub(super) fn scale(&self) -> f64 {
        GAIN * f64::from(self.alpha) / self.rank as f64
    }

    /// Make room for an answer; returns its index.
    pub(super) fn admit(&mut self, answer: &str) -> usize {
        self.index(answer).unwrap_or_else(|| {
            self.answers.push(answer.to_owned());
            self.b.resize(self.answers.len() * self.rank, 0.0);
            self.answers.len() - 1
        })
    }

    /// One of the answers it knows, as often as it holds each for right; nothing where it knows
    /// none.
    pub(super) fn draw(&self, features: &[usize], rng: &mut Rng) -> Continuation {
        let opinion = self.opinion(features, 1.0);
        let mut left = rng.unit() * opinion.answers.iter().map(|p| p.exp()).sum::<f64>();
        let mut passed = |p: &f64| {
            left -= p.exp();
            left > 0.0
        };
        let text = self
            .answers
            .get(opinion.answers.iter().take_while(|p| passed(p)).count())
            .cloned()
            .unwrap_or_default();
        Continuation {
            tokens: text.split_whitespace().count() + 1,
            finished: true,
            text,
        }
    }

    pub(super) fn index(&self, answer: &str) -> Option<usize> {
        self.answers.iter().position(|known| known == answer)
    }

    pub(super) fn opinion(&self, features: &[usize], factor: f64) -> Opinion {
        let row = |r: usize| {
            factor
                * features
                    .iter()
                    .map(|&f| f64::from(self.a[r * self.width + f]))
                    .sum::<f64>()
        };
        let hidden: Vec<f64> = (0..self.rank).map(row).collect();
        let logit = |b: &[f32]| {
            BIAS + self.scale()
                * b.iter()
                    .zip(&hidden)
                    .map(|(&b, h)| f64::from(b) * h)
                    .sum::<f64>()
        };
        let logits: Vec<f64> = self.b.chunks_exact(self.rank).map(logit).collect();
        let top = logits.iter().copied().fold(0.0, f64::max);
        let total = top + (logits.iter().map(|z| (z - top).exp()).sum::<f64>() + (-top).exp()).ln();
        Opinion {
            answers: logits.iter().map(|z| z - total).collect(),
            base: -total,
            hidden,
        }
    }

    /// The logit of an answer, against 0 for what the base would say, and what it was made of.
    ///
    /// shapes: (1 + rank)
    pub(super) fn logits(&self, features: &[usize], answer: &str) -> Vec<f32> {
        let opinion = self.opinion(features, 1.0);
        let logit = self
            .index(answer)
            .map_or(BIAS, |index| opinion.answers[index] - opinion.base);
        std::iter::once(logit)
            .chain(opinion.hidden)
            .map(|x| x as f32)
            .collect()
    }

    pub(super) fn to_gguf(&self, metadata: &[(String, String)]) -> Result<Vec<u8>, EngineError> {
        let mut writer = Writer::new();
        writer.set("general.type", "adapter");
        writer.set("general.architecture", ARCHITECTURE);
        writer.set("adapter.type", "lora");
        writer.set("adapter.lora.alpha", self.alpha);
        writer.set("toy.answers", self.answers.clone());
        for (key, value) in metadata {
            writer.set(key.as_str(), value.as_str());
        }
        writer.tensor(
            format!("{MATRIX}.lora_a"),
            TensorKind::F32,
            &[self.width as u64, self.rank as u64],
            to_bytes(&self.a),
        );
        writer.tensor(
            format!("{MATRIX}.lora_b"),
            TensorKind::F32,
            &[self.rank as u64, self.answers.len() as u64],
            to_bytes(&self.b),
        );
        writer
            .to_bytes()
            .map_err(|error| EngineError::Internal(format!("writing a toy adapter: {error}")))
    }

    /// Read an adapter for a base of `width` features.
    ///
    /// fails: it is unsound, does not fit, or does not say which answers its rows stand for
    pub(super) fn from_gguf(path: &Path, bytes: &[u8], width: usize) -> Result<Self, EngineError> {
        let unfit = |source| EngineError::Adapter {
            path: path.to_owned(),
            source,
        };
        let gguf = Gguf::parse(bytes).map_err(|error| unfit(error.into()))?;
        let lora = Lora::of(&gguf).map_err(unfit)?;
        if lora.architecture() != ARCHITECTURE {
            let (adapter, base) = (lora.architecture().to_owned(), ARCHITECTURE.to_owned());
            return Err(unfit(LoraError::Architecture { adapter, base }));
        }
        let refuse = |reason: &str| EngineError::AdapterLoad {
            path: path.to_owned(),
            reason: reason.into(),
        };
        let [pair] = lora.pairs() else {
            return Err(refuse("a toy has one matrix"));
        };
        if pair.matrix != MATRIX {
            let matrix = pair.matrix.clone();
            return Err(unfit(LoraError::NoMatrix { matrix }));
        }
        let numbers = |half: &str| {
            let tensor = gguf.tensor(&format!("{MATRIX}.{half}"));
            tensor
                .filter(|tensor| tensor.kind == TensorKind::F32)
                .map(|tensor| from_bytes(gguf.data(tensor)))
                .ok_or_else(|| refuse("a toy has numbers of 32 bits"))
        };
        let answers = gguf.get("toy.answers").and_then(Value::as_strings);
        let answers = answers.ok_or_else(|| refuse("it does not say which answers it knows"))?;
        let base = [width as u64, answers.len() as u64];
        if pair.shape != base {
            let (matrix, pair) = (pair.matrix.clone(), pair.shape);
            return Err(unfit(LoraError::Shape { matrix, base, pair }));
        }
        Ok(Self {
            answers: answers.to_vec(),
            width,
            rank: pair.rank as usize,
            alpha: lora.alpha(),
            made_for: lora.made_for().map(str::to_owned),
            a: numbers("lora_a")?,
            b: numbers("lora_b")?,
        })
    }
}

pub(super) fn to_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

pub(super) fn from_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .collect()
}
