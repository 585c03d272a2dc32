//! The trainer against llama.cpp and against finite differences, on the lab models.
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test says what it measures"
)]

#[path = "../common/mod.rs"]
mod common;
mod dropout;
mod gradients;
mod inference;
mod packs;
mod steps;

use std::path::{Path, PathBuf};

use common::open;
use translora_gguf::Gguf;
use translora_llama::{Adapter as Loaded, Backend, Batch, Context, ContextParams, Model, quantize};
use translora_train::testing::reference::{ReferenceLora, ReferenceModel, causal};
use translora_train::testing::tiny::{TinyArchitecture, TinyShape, tiny_model};
use translora_train::{Example, ForwardWeights, Kernel, TrainSpec, Trainer};

fn lab(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/lab")
        .join(name)
}

/// A lab model in another type, in a folder that goes with the guard.
fn variant(folder: &Path, name: &str, kind: &str) -> PathBuf {
    let out = folder.join(format!("{name}.{kind}.gguf"));
    quantize(
        Backend::init().unwrap(),
        &lab(&format!("{name}.f16.gguf")),
        &out,
        kind,
    )
    .unwrap();
    out
}

fn spec(forward: ForwardWeights) -> TrainSpec {
    TrainSpec {
        rank: 4,
        alpha: 8.0,
        seed: 7,
        forward,
        threads: 2,
        ..TrainSpec::default()
    }
}

fn examples(model: &Model) -> Vec<Example> {
    let chat = |q: &str, a: &str| {
        let prompt = format!("<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n");
        let (p, c) = (
            model.vocab().encode(&prompt, true).unwrap(),
            model
                .vocab()
                .encode(&format!("{a}<|im_end|>"), true)
                .unwrap(),
        );
        let completion = p.len();
        Example::new([p, c].concat(), completion, 0).unwrap()
    };
    vec![
        chat("ticket from Mia: the book came broken", "[BROKEN]"),
        chat("Max writes: stop the order I made on Thursday", "[CANCEL]"),
        chat("date April 14, 1963", "1963-04-14"),
    ]
}

/// Give B numbers, so that every gradient is alive.
fn wake(trainer: &mut Trainer) {
    let mut adapter = trainer.adapter().clone();
    let mut state = 1_u32;
    for pair in &mut adapter.pairs {
        for b in &mut pair.b {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *b = (f64::from(state >> 8) / f64::from(1 << 24) - 0.5) as f32 * 0.1;
        }
    }
    trainer.set_adapter(adapter).unwrap();
}

fn decoded(model: &Model, adapter: Option<&Loaded>, example: &Example) -> Vec<Vec<f32>> {
    decoded_by(None, model, adapter, example)
}

fn decoded_by(
    kernel: Option<Kernel>,
    model: &Model,
    adapter: Option<&Loaded>,
    example: &Example,
) -> Vec<Vec<f32>> {
    let params = ContextParams {
        context: 256,
        batch: 256,
        ubatch: 256,
        sequences: 1,
        threads: 2,
        exact: true,
        kernel,
    };
    let mut context = Context::new(model, &params).unwrap();
    if let Some(adapter) = adapter {
        context.set_adapters(&[(adapter.clone(), 1.0)]).unwrap();
    }
    let mut batch = Batch::default();
    for (i, token) in example.tokens[..example.inputs()].iter().enumerate() {
        batch.push(*token, i as i32, 0, i + 1 >= example.completion);
    }
    context.decode(&batch).unwrap();
    (example.completion - 1..example.inputs())
        .map(|row| context.logits(row).unwrap().to_vec())
        .collect()
}

/// The largest difference, as a share of the largest logit.
fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = a.iter().flatten().fold(0_f32, |m, x| m.max(x.abs()));
    a.iter()
        .flatten()
        .zip(b.iter().flatten())
        .fold(0_f32, |m, (x, y)| m.max((x - y).abs()))
        / scale
}

/// The norm of the difference, as a share of the norm.
fn error(ours: &[f32], theirs: &[f64]) -> f64 {
    let norm = theirs.iter().map(|g| g * g).sum::<f64>().sqrt();
    let difference = ours
        .iter()
        .zip(theirs)
        .map(|(a, b)| (f64::from(*a) - b).powi(2))
        .sum::<f64>()
        .sqrt();
    assert!(norm > 0.0);
    difference / norm
}

/// Examples with a shared prefix and of different lengths, so that packing, prefix sharing and
/// padding are all at work.
fn random_examples(count: usize) -> Vec<Example> {
    let mut state = 11_u32;
    let mut draw = move |n: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % n
    };
    let example = |_| {
        let (prompt, completion) = (6 + draw(20) as usize, 1 + draw(6) as usize);
        let mut tokens = vec![5, 9, 12, 7];
        tokens.extend((4..prompt + completion).map(|_| draw(250) as i32));
        Example::new(tokens, prompt, 0).unwrap()
    };
    (0..count).map(example).collect()
}

/// The numbers of A and of B of every pair.
fn numbers(trainer: &Trainer) -> [Vec<f32>; 2] {
    let pairs = &trainer.adapter().pairs;
    [
        pairs.iter().flat_map(|pair| pair.a.clone()).collect(),
        pairs.iter().flat_map(|pair| pair.b.clone()).collect(),
    ]
}

fn steps(trainer: &mut Trainer, batches: &[&[usize]]) -> Vec<f64> {
    batches
        .iter()
        .map(|batch| trainer.step(batch, 2e-3).unwrap().loss)
        .collect()
}
