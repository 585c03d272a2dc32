//! Each objective against a naive one in f64, and against finite differences, on tiny models.
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test says what it measures"
)]

#[path = "../common/mod.rs"]
mod common;
mod condensed;
mod divergences;
mod heads;
mod refusals;

use std::path::PathBuf;

use common::{Random, exact, fast, worst};
use translora_llama::{Backend, Model, ModelParams};
use translora_train::testing::tiny::{TinyArchitecture, TinyShape, VOCABULARY};
use translora_train::{
    Divergence, Example, ForwardWeights, Objective, Teacher, TrainSpec, Trainer,
};

const DIVERGENCES: [Divergence; 4] = [
    Divergence::Forward,
    Divergence::Reverse,
    Divergence::JensenShannon { teacher: 0.5 },
    Divergence::JensenShannon { teacher: 0.9 },
];

struct Lab {
    _folder: tempfile::TempDir,
    path: PathBuf,
    backend: Backend,
    model: Model,
}

impl Lab {
    fn new() -> Self {
        Self::of("f32")
    }

    fn of(kind: &str) -> Self {
        Self::with(TinyArchitecture::Llama, kind)
    }

    fn with(architecture: TinyArchitecture, kind: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = common::tiny(folder.path(), architecture, &TinyShape::default(), kind);
        let backend = Backend::init().unwrap();
        let model = Model::load(backend, &path, &ModelParams::default()).unwrap();
        Self {
            _folder: folder,
            path,
            backend,
            model,
        }
    }

    /// A trainer whose B has numbers, so that every gradient is alive. A small budget: several
    /// chunks a pack.
    fn trainer(&self, objective: Objective) -> Trainer {
        self.trainer_by(objective, ForwardWeights::Native)
    }

    fn trainer_by(&self, objective: Objective, forward: ForwardWeights) -> Trainer {
        let spec = TrainSpec {
            loss_bytes: 64 << 10,
            objective,
            ..common::spec(forward)
        };
        let mut trainer = Trainer::new(self.backend, &self.model, &spec).unwrap();
        common::wake(&mut trainer);
        trainer
    }
}

/// Three examples with a shared prefix, different lengths, and weights (one of them zero).
fn examples() -> Vec<Example> {
    let mut random = Random(11);
    let example = |(prompt, completion): (usize, usize)| {
        let mut tokens = vec![5, 9, 12];
        tokens.extend((3..prompt + completion).map(|_| (random.unit() * 250.0) as i32));
        let weights = (0..completion)
            .map(|i| [1.0, 0.25, 2.0, 0.0][i % 4])
            .collect();
        Example::new(tokens, prompt, 0)
            .unwrap()
            .with_weights(weights)
    };
    [(6, 5), (9, 4), (7, 8)].map(example).into()
}

fn softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let top = logits.iter().copied().fold(f64::MIN, f64::max);
    let powers: Vec<f64> = logits
        .iter()
        .map(|z| ((z - top) / temperature).exp())
        .collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

/// Peaked random distributions, as a teacher's are, one for each completion token.
fn distributions(examples: &[Example], temperature: f64) -> Vec<Vec<Vec<f32>>> {
    let mut random = Random(5);
    let mut one = || {
        let logits: Vec<f64> = (0..VOCABULARY)
            .map(|_| 8.0 * random.unit().powi(2))
            .collect();
        softmax(&logits, temperature)
            .iter()
            .map(|p| *p as f32)
            .collect()
    };
    examples
        .iter()
        .map(|example| (0..example.outputs()).map(|_| one()).collect())
        .collect()
}

/// The `width` likeliest words of a distribution; every second token has one less, so that widths
/// differ.
fn likeliest(distribution: &[f32], width: usize) -> Vec<(i32, f32)> {
    let mut words: Vec<(i32, f32)> = distribution
        .iter()
        .enumerate()
        .map(|(word, p)| (word as i32, *p))
        .collect();
    words.sort_by(|a, b| b.1.total_cmp(&a.1));
    words.truncate(width);
    words
}

fn uneven(distributions: &[Vec<f32>], width: usize) -> Teacher {
    Teacher::Likeliest(
        distributions
            .iter()
            .enumerate()
            .map(|(i, row)| likeliest(row, width - (i % 2).min(width - 1)))
            .collect(),
    )
}

/// Each example with its teacher's signal.
fn taught(examples: &[Example], teachers: impl IntoIterator<Item = Teacher>) -> Vec<Example> {
    examples
        .iter()
        .zip(teachers)
        .map(|(example, teacher)| example.clone().with_teacher(teacher))
        .collect()
}

/// A loss of one token's logits, written out: over the buckets a teacher names and one for the
/// rest.
fn naive(divergence: Divergence, temperature: f64, logits: &[f64], words: &[(i32, f32)]) -> f64 {
    let p = softmax(logits, temperature);
    let mut buckets: Vec<(f64, f64)> = words
        .iter()
        .map(|(word, q)| (f64::from(*q), p[*word as usize]))
        .collect();
    let mut others = p.clone();
    words
        .iter()
        .for_each(|(word, _)| others[*word as usize] = 0.0);
    let rest: f64 = others.iter().sum();
    let q_rest = 1.0 - words.iter().map(|(_, q)| f64::from(*q)).sum::<f64>();
    if words.len() < p.len() {
        buckets.push((q_rest.max(0.0), rest));
    }
    let kl = |pairs: &[(f64, f64)]| {
        pairs
            .iter()
            .map(|(a, b)| if *a == 0.0 { 0.0 } else { a * (a / b).ln() })
            .sum::<f64>()
    };
    let swapped: Vec<(f64, f64)> = buckets.iter().map(|(q, p)| (*p, *q)).collect();
    let divergence = match divergence {
        Divergence::Forward => kl(&buckets),
        Divergence::Reverse => kl(&swapped),
        Divergence::JensenShannon { teacher } => {
            let b = f64::from(teacher);
            let against = |pairs: &[(f64, f64)], own: f64| {
                kl(&pairs
                    .iter()
                    .map(|(x, y)| (*x, own * x + (1.0 - own) * y))
                    .collect::<Vec<_>>())
            };
            b * against(&buckets, b) + (1.0 - b) * against(&swapped, 1.0 - b)
        }
    };
    temperature * temperature * divergence
}

fn norm<'a>(values: impl IntoIterator<Item = &'a f32>) -> f64 {
    common::length(values.into_iter().map(|g| f64::from(*g)))
}

/// Along the gradient the loss rises by the gradient's norm.
fn check_slope(trainer: &mut Trainer, gradients: &[Vec<f32>], what: &str) {
    let base = trainer.adapter().clone();
    let norm = norm(gradients.iter().flatten());
    let mut at = |step: f64| {
        let mut adapter = base.clone();
        let values = adapter
            .pairs
            .iter_mut()
            .flat_map(|pair| [&mut pair.a, &mut pair.b]);
        for (value, g) in values.flatten().zip(gradients.iter().flatten()) {
            *value += (step * f64::from(*g) / norm) as f32;
        }
        trainer.set_adapter(adapter).unwrap();
        trainer.loss(&[0, 1, 2]).unwrap().loss
    };
    let mut quotient = |size: f64| (at(size) - at(-size)) / (2.0 * size);
    // Two sizes cancel the third derivative; smaller ones drown in the rounding of the loss.
    let slope = (4.0 * quotient(1e-2) - quotient(2e-2)) / 3.0;
    trainer.set_adapter(base).unwrap();
    assert!(
        (slope - norm).abs() < 2e-2 * norm,
        "{what}: {slope} against {norm}"
    );
}
