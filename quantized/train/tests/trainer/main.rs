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

use common::{Random, error, exact, fast, lab, open, spec, variant, wake};
use translora_gguf::Gguf;
use translora_llama::{Adapter as Loaded, Backend, Batch, Context, ContextParams, Model};
use translora_train::testing::tiny::{TinyArchitecture, TinyShape};
use translora_train::{Example, ForwardWeights, Kernel, TrainSpec, Trainer};

fn examples(model: &Model) -> Vec<Example> {
    let chat = |q: &str, a: &str| {
        let prompt = format!("<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n");
        let encode = |text: &str| model.vocab().encode(text, true).unwrap();
        let (p, c) = (encode(&prompt), encode(&format!("{a}<|im_end|>")));
        let completion = p.len();
        Example::new([p, c].concat(), completion, 0).unwrap()
    };
    vec![
        chat("ticket from Mia: the book came broken", "[BROKEN]"),
        chat("Max writes: stop the order I made on Thursday", "[CANCEL]"),
        chat("date April 14, 1963", "1963-04-14"),
    ]
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

/// Examples with a shared prefix and of different lengths, so that packing, prefix sharing and
/// padding are all at work.
fn random_examples(count: usize) -> Vec<Example> {
    let mut random = Random(11);
    let example = |_| {
        let (prompt, completion) = (6 + random.below(20), 1 + random.below(6));
        let mut tokens = vec![5, 9, 12, 7];
        tokens.extend((4..prompt + completion).map(|_| random.below(250) as i32));
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

/// A trainer of the model whose B has numbers.
fn awake(backend: Backend, model: &Model, spec: &TrainSpec) -> Trainer {
    let mut trainer = Trainer::new(backend, model, spec).unwrap();
    wake(&mut trainer);
    trainer
}

fn steps(trainer: &mut Trainer, batches: &[&[usize]]) -> Vec<f64> {
    batches
        .iter()
        .map(|batch| trainer.step(batch, 2e-3).unwrap().loss)
        .collect()
}
