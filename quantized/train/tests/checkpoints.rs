//! What is computed again in the backward pass is the same to the bit, on whatever architectures
//! there are.
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test says what it measures"
)]

mod common;

use common::{Random, exact, fast, open_on, spec, wake};
use translora_llama::{Backend, Model};
use translora_train::testing::tiny::{TinyArchitecture, TinyShape};
use translora_train::{Checkpoints, Example, ForwardWeights, TrainSpec, Trainer};

/// Examples of random words, of which several go into one pack.
fn examples(words: usize) -> Vec<Example> {
    let mut random = Random(3);
    let example = |number| {
        let tokens = (0..40).map(|_| random.below(words) as i32).collect();
        Example::new(tokens, 30, number).unwrap()
    };
    (0..3).map(example).collect()
}

/// Loss, gradients and bytes of work memory of one step's batch.
fn gradients(backend: Backend, model: &Model, spec: &TrainSpec) -> (f64, Vec<Vec<f32>>, usize) {
    let mut trainer = Trainer::new(backend, model, spec).unwrap();
    wake(&mut trainer);
    trainer.load(examples(trainer.vocabulary())).unwrap();
    let (report, gradients) = trainer.gradients(&[0, 1, 2]).unwrap();
    (report.loss, gradients, trainer.work_bytes())
}

/// Compare the two ways of keeping values; returns the bytes of work memory of each.
fn compare(backend: Backend, model: &Model, spec: &TrainSpec, name: &str) -> [usize; 2] {
    let (loss, most, bytes) = gradients(backend, model, spec);
    let (again, blocks, fewer) = gradients(
        backend,
        model,
        &TrainSpec {
            checkpoints: Checkpoints::Blocks,
            ..spec.clone()
        },
    );
    eprintln!(
        "{name}: {bytes} bytes of work memory with most values kept, {fewer} with those between blocks"
    );
    assert!(loss.is_finite(), "{name}");
    assert!(most.iter().flatten().any(|g| *g != 0.0), "{name}");
    assert!(loss.to_bits() == again.to_bits(), "{name}: other gradients");
    assert!(most == blocks, "{name}: other gradients");
    [bytes, fewer]
}

#[test]
fn blocks_computed_again_have_the_same_gradients() {
    let folder = tempfile::tempdir().unwrap();
    for architecture in TinyArchitecture::ALL {
        let shape = TinyShape {
            blocks: 8,
            ..TinyShape::default()
        };
        let name = architecture.name();
        let path = common::tiny(folder.path(), architecture, &shape, "q8_0");
        let (backend, model) = open_on(&path, None);
        for forward in [fast(), exact(), ForwardWeights::Native] {
            for dropout in [0.0, 0.25] {
                let spec = TrainSpec {
                    dropout,
                    ..spec(forward)
                };
                let [most, blocks] = compare(
                    backend,
                    &model,
                    &spec,
                    &format!("{name} {forward:?} dropout {dropout}"),
                );
                // Masks are inputs, which live from the beginning to the end whatever is kept.
                assert!(
                    dropout > 0.0 || blocks * 2 < most,
                    "{blocks} bytes of {most}"
                );
            }
        }
        let upper = TrainSpec {
            first_block: Some(5),
            ..spec(exact())
        };
        compare(
            backend,
            &model,
            &upper,
            &format!("{name}, upper blocks only"),
        );
    }
}

/// Losses of three passes over the examples, and the bytes that the plan keeps of the frozen part.
fn losses(backend: Backend, model: &Model, spec: &TrainSpec) -> (Vec<f64>, usize) {
    let mut trainer = Trainer::new(backend, model, spec).unwrap();
    trainer.load(examples(trainer.vocabulary())).unwrap();
    let losses = (0..3)
        .map(|_| trainer.step(&[0, 1, 2], 1e-3).unwrap().loss)
        .collect();
    let plan = *trainer.plan().unwrap();
    assert_eq!(plan.frozen, plan.memory.frozen > 0);
    (losses, plan.memory.frozen)
}

#[test]
fn what_lies_below_the_adapted_blocks_is_computed_once() {
    let folder = tempfile::tempdir().unwrap();
    for architecture in [
        TinyArchitecture::Llama,
        TinyArchitecture::Qwen3,
        TinyArchitecture::Gemma2,
    ] {
        let shape = TinyShape {
            blocks: 4,
            ..TinyShape::default()
        };
        let path = common::tiny(folder.path(), architecture, &shape, "f32");
        let (backend, model) = open_on(&path, None);
        for forward in [fast(), exact(), ForwardWeights::Native] {
            let name = format!("{architecture:?} {forward:?}");
            let alone = TrainSpec {
                first_block: Some(2),
                micro_batch: 1,
                ..spec(forward)
            };
            let (with, kept) = losses(backend, &model, &alone);
            let nothing = TrainSpec {
                frozen_bytes: 0,
                ..alone.clone()
            };
            let (without, none) = losses(backend, &model, &nothing);
            // One row of the stream for each of 39 tokens of three examples.
            assert_eq!((kept, none), (3 * 39 * shape.width * 4, 0), "{name}");
            assert!(
                with.iter()
                    .zip(&without)
                    .all(|(a, b)| a.to_bits() == b.to_bits()),
                "{name}: {with:?} {without:?}"
            );
            let (packed, _) = losses(
                backend,
                &model,
                &TrainSpec {
                    micro_batch: 0,
                    ..alone.clone()
                },
            );
            assert!(
                packed
                    .iter()
                    .zip(&with)
                    .all(|(a, b)| (a - b).abs() < 2e-3 * b),
                "{name}: {packed:?} {with:?}"
            );
            // Too little room, or nothing below: as if nothing were kept.
            for spec in [
                TrainSpec {
                    frozen_bytes: kept - 1,
                    ..alone.clone()
                },
                TrainSpec {
                    first_block: Some(0),
                    ..alone.clone()
                },
            ] {
                assert_eq!(losses(backend, &model, &spec).1, 0, "{name}");
            }
        }
    }
}

#[test]
fn only_the_chosen_blocks_are_adapted() {
    let folder = tempfile::tempdir().unwrap();
    let shape = TinyShape {
        blocks: 4,
        ..TinyShape::default()
    };
    let path = common::tiny(folder.path(), TinyArchitecture::Qwen3, &shape, "f32");
    let (backend, model) = open_on(&path, None);
    let nowhere = TrainSpec {
        first_block: Some(4),
        ..spec(ForwardWeights::Native)
    };
    assert!(
        Trainer::new(backend, &model, &nowhere)
            .is_err_and(|error| error.to_string().contains("layers 0 to 3"))
    );
    let lower = TrainSpec {
        first_block: Some(1),
        end_block: Some(3),
        ..nowhere
    };
    let trainer = Trainer::new(backend, &model, &lower).unwrap();
    assert!(trainer.adapter().pairs.iter().all(|pair| {
        pair.target
            .block()
            .is_some_and(|block| block == 1 || block == 2)
    }));
}

/// Of kinds that the tiny models are none of: recurrent layers, experts, a window, another norm.
#[test]
fn other_architectures_too() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["mamba2-dense", "qwen3moe-moe", "gemma3-dense", "gpt2-dense"] {
        let (backend, model) = open_on(&common::synthetic(folder.path(), name, 0.3), None);
        for forward in [fast(), ForwardWeights::Native] {
            compare(backend, &model, &spec(forward), name);
        }
    }
}
