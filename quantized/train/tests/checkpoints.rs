//! What is computed again in the backward pass is the same to the bit, on whatever architectures
//! there are.
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test says what it measures"
)]

use std::path::{Path, PathBuf};

use translora_llama::{Backend, Model, ModelParams, quantize};
use translora_train::testing::tiny::{TinyArchitecture, TinyShape, tiny_model};
use translora_train::{Checkpoints, Example, ForwardWeights, Kernel, TrainSpec, Trainer, survey};

/// Examples of random words, of which several go into one pack.
fn examples(words: usize) -> Vec<Example> {
    let mut state = 3_u32;
    let mut below = |n: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % n
    };
    (0..3)
        .map(|number| {
            Example::new((0..40).map(|_| below(words) as i32).collect(), 30, number).unwrap()
        })
        .collect()
}

/// Loss, gradients and bytes of work memory of one step's batch.
fn gradients(backend: Backend, model: &Model, spec: &TrainSpec) -> (f64, Vec<Vec<f32>>, usize) {
    let mut trainer = Trainer::new(backend, model, spec).unwrap();
    let mut adapter = trainer.adapter().clone();
    let b = adapter
        .pairs
        .iter_mut()
        .flat_map(|pair| &mut pair.b)
        .enumerate();
    b.for_each(|(i, b)| *b = ((i * 7919 % 1009) as f32 / 1009.0 - 0.5) * 0.1);
    trainer.set_adapter(adapter).unwrap();
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

fn open(path: &Path) -> (Backend, Model) {
    let backend = Backend::init().unwrap();
    (
        backend,
        Model::load(backend, path, &ModelParams::default()).unwrap(),
    )
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

#[test]
fn blocks_computed_again_have_the_same_gradients() {
    let folder = tempfile::tempdir().unwrap();
    for (name, architecture) in [
        ("llama", TinyArchitecture::Llama),
        ("qwen2", TinyArchitecture::Qwen2),
        ("qwen3", TinyArchitecture::Qwen3),
    ] {
        let (plain, path) = (
            folder.path().join(format!("{name}.plain.gguf")),
            folder.path().join(format!("{name}.gguf")),
        );
        std::fs::write(
            &plain,
            tiny_model(
                architecture,
                5,
                &TinyShape {
                    blocks: 8,
                    ..TinyShape::default()
                },
            ),
        )
        .unwrap();
        quantize(Backend::init().unwrap(), &plain, &path, "q8_0").unwrap();
        let (backend, model) = open(&path);
        for forward in [
            ForwardWeights::Direct(Kernel::fast()),
            ForwardWeights::Direct(Kernel::exact()),
            ForwardWeights::Native,
        ] {
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
            ..spec(ForwardWeights::Direct(Kernel::exact()))
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
    for (name, architecture) in [
        ("llama", TinyArchitecture::Llama),
        ("qwen3", TinyArchitecture::Qwen3),
        ("gemma2", TinyArchitecture::Gemma2),
    ] {
        let path = folder.path().join(format!("{name}.gguf"));
        let shape = TinyShape {
            blocks: 4,
            ..TinyShape::default()
        };
        std::fs::write(&path, tiny_model(architecture, 5, &shape)).unwrap();
        let (backend, model) = open(&path);
        for forward in [
            ForwardWeights::Direct(Kernel::fast()),
            ForwardWeights::Direct(Kernel::exact()),
            ForwardWeights::Native,
        ] {
            let name = format!("{name} {forward:?}");
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
    let path = folder.path().join("tiny.gguf");
    let shape = TinyShape {
        blocks: 4,
        ..TinyShape::default()
    };
    std::fs::write(&path, tiny_model(TinyArchitecture::Qwen3, 5, &shape)).unwrap();
    let (backend, model) = open(&path);
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

/// Every model in the folder `TRANSLORA_ARCHS` (llama.cpp's `test-llama-archs` writes one of each
/// architecture), as far as it trains.
#[test]
fn other_architectures_too() {
    let Some(folder) = std::env::var_os("TRANSLORA_ARCHS").map(PathBuf::from) else {
        return eprintln!("SKIPPED: TRANSLORA_ARCHS names no folder of models");
    };
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "gguf")
    });
    paths.sort();
    let mut compared = 0;
    for path in &paths {
        let Ok(backend) = Backend::init() else {
            continue;
        };
        let Ok(model) = Model::load(backend, path, &ModelParams::default()) else {
            continue;
        };
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let found = match survey(backend, &model, "all", 2) {
            Ok(found) if !found.targets.is_empty() => found,
            _ => continue,
        };
        let first_block = found.blocked.and(found.blocks).map(|(first, _)| first);
        for forward in [
            ForwardWeights::Direct(Kernel::fast()),
            ForwardWeights::Native,
        ] {
            compare(
                backend,
                &model,
                &TrainSpec {
                    first_block,
                    ..spec(forward)
                },
                &name,
            );
        }
        compared += 1;
    }
    eprintln!("{compared} of {} models compared", paths.len());
    assert!(compared > 0);
}
