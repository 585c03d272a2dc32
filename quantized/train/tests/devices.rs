//! Training on a device: the one that `TRANSLORA_DEVICE` names, or else the CPU as if it were one.
//! What runs where, whether it learns the same, what the planner makes of the device's memory.
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test says what it measures"
)]

mod common;

use std::path::{Path, PathBuf};

use translora_llama::{Backend, quantize};
use translora_train::testing::tiny::{TinyArchitecture, TinyShape};
use translora_train::{
    Example, ForwardWeights, Placement, StepReport, TrainError, TrainSpec, Trainer, Transpose,
};

/// The device of these tests.
fn device() -> String {
    common::device().unwrap_or_else(|| "CPU".into())
}

fn spec() -> TrainSpec {
    common::spec(common::exact())
}

fn examples() -> Vec<Example> {
    let tokens = |seed: i32| (0..20 + seed).map(|i| (i * 31 + seed * 17) % 120).collect();
    (0..6)
        .map(|seed| Example::new(tokens(seed), 9, 0).unwrap())
        .collect()
}

/// Steps on a model where it was put; the rate is high, so that ten steps go a long way.
fn train(path: &Path, device: &str, spec: &TrainSpec, steps: usize) -> (Vec<StepReport>, Trainer) {
    train_layers(path, device, -1, spec, steps)
}

/// As `train`, with so many layers on the device (`-ngl`).
fn train_layers(
    path: &Path,
    device: &str,
    gpu_layers: i32,
    spec: &TrainSpec,
    steps: usize,
) -> (Vec<StepReport>, Trainer) {
    let (backend, model) = common::open_layers(path, Some(device.into()), gpu_layers);
    let mut trainer = Trainer::new(backend, &model, spec).unwrap();
    trainer.load(examples()).unwrap();
    let batches = [[0, 1, 2], [3, 4, 5]];
    let reports = (0..steps)
        .map(|step| trainer.step(&batches[step % 2], 1e-2).unwrap())
        .collect();
    (reports, trainer)
}

/// The table that `--verbose` prints.
fn show(name: &str, placement: &Placement) {
    eprintln!("{name}: {} parts", placement.splits);
    for ((operation, device), count) in &placement.operations {
        eprintln!("  {operation:24} {count:5}  {device}");
    }
}

/// Losses of ten steps on the device against those of the kernels for the CPU.
///
/// tolerance: a hundredth of the loss. F16 weights are multiplied with activations that ggml rounds
/// to 16 bits (on the CPU and on most GPUs), an error of 5e-4 in each product, and ten steps at a
/// high rate add it up.
fn trains_as_on_the_cpu(name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let plain = common::synthetic(folder.path(), name, 0.3);
    let path = folder.path().join(format!("{name}.f16.gguf"));
    quantize(Backend::init().unwrap(), &plain, &path, "f16").unwrap();
    let (expected, _) = train(&path, "none", &spec(), 10);
    let (found, trainer) = train(&path, &device(), &spec(), 10);
    let placement = trainer.placement().expect("a device has a table");
    show(name, placement);
    let worst = difference(&found, &expected);
    eprintln!(
        "{name}: losses {:.4} to {:.4}, worst difference {worst:.1e}",
        found[0].loss, found[9].loss
    );
    assert!(
        expected[9].loss < 0.98 * expected[1].loss,
        "{name} learns nothing: {expected:?}"
    );
    assert!(worst < 1e-2, "{name}: {found:?} against {expected:?}");
    // Behind the device stands the CPU; what a token looks up may lie there. Kernels of our own
    // have small letters.
    let own = |what: &str| what.starts_with(|letter: char| letter.is_ascii_lowercase());
    let fallen =
        |(what, at): &&(String, String)| at == "CPU" && !what.starts_with("GET_ROWS") || own(what);
    let fallen: Vec<_> = placement.operations.keys().filter(fallen).collect();
    assert!(fallen.is_empty(), "{name}: {fallen:?}");
    assert!(placement.on("CPU") <= 1, "{name}");
    assert_eq!(trainer.forward().0, ForwardWeights::Native);
}

#[test]
fn llama_trains_on_the_device_as_on_the_cpu() {
    trains_as_on_the_cpu("llama-dense");
}

#[test]
fn qwen2_trains_on_the_device_as_on_the_cpu() {
    trains_as_on_the_cpu("qwen2-dense");
}

#[test]
fn qwen3_trains_on_the_device_as_on_the_cpu() {
    trains_as_on_the_cpu("qwen3-dense");
}

#[test]
fn gemma2_trains_on_the_device_as_on_the_cpu() {
    trains_as_on_the_cpu("gemma2-dense");
}

/// Gradients of chosen experts have a kernel for the CPU only: it runs there, and the table has it.
#[test]
fn a_mixture_falls_back_to_the_cpu_in_plain_sight() {
    let folder = tempfile::tempdir().unwrap();
    let path = common::synthetic(folder.path(), "qwen3moe-moe", 0.3);
    let (expected, _) = train(&path, "none", &spec(), 2);
    let (found, trainer) = train(&path, &device(), &spec(), 2);
    let placement = trainer.placement().unwrap();
    show("qwen3moe", placement);
    let at = |what: &str| -> Vec<&String> {
        placement
            .operations
            .keys()
            .filter(|(name, _)| name.starts_with(what))
            .map(|(_, at)| at)
            .collect()
    };
    assert!(!at("mul_mat_id_back").is_empty());
    assert!(
        at("MUL_MAT ").iter().all(|at| *at != "CPU"),
        "products run on the device"
    );
    if device() != "CPU" {
        assert!(
            at("mul_mat_id").iter().all(|at| *at == "CPU"),
            "kernels of our own run on the CPU"
        );
        assert!(placement.splits > 1);
    }
    for (a, b) in found.iter().zip(&expected) {
        assert!(
            (a.loss - b.loss).abs() < 1e-2 * b.loss,
            "{a:?} against {b:?}"
        );
    }
}

/// The gradient of the device against that of the CPU's exact kernels, for each way to have Wᵀ.
#[test]
fn every_transpose_gives_the_gradient() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, tolerance) in [
        ("f32", 1e-2_f64),
        ("f16", 1e-2),
        ("q8_0", 5e-2),
        ("q4_1", 5e-2),
    ] {
        let (qwen3, shape) = (TinyArchitecture::Qwen3, TinyShape::default());
        let path = common::tiny(folder.path(), qwen3, &shape, kind);
        let gradients = |device: &str, transpose: Transpose| {
            let (_, mut trainer) = train(
                &path,
                device,
                &TrainSpec {
                    transpose,
                    ..spec()
                },
                0,
            );
            // B begins as zeros, and then A has no gradient.
            common::wake(&mut trainer);
            (trainer.gradients(&[0, 1, 2, 3]).unwrap().1, trainer.bytes())
        };
        let (exact, _) = gradients("none", Transpose::F16);
        let exact: Vec<Vec<f64>> = exact.iter().map(|g| common::wide(g)).collect();
        let mut bytes = Vec::new();
        for transpose in Transpose::ALL {
            let (found, held) = gradients(&device(), transpose);
            let worst = common::worst(&found, &exact);
            eprintln!("{kind} {transpose:?}: worst gradient error {worst:.1e}, {held} bytes");
            // A rounding of 1 % to each product with Wᵀ, over all blocks.
            let tolerance = if transpose == Transpose::Q8_0 {
                tolerance.max(6e-2)
            } else {
                tolerance
            };
            assert!(worst <= tolerance, "{kind} {transpose:?}: {worst}");
            bytes.push(held);
        }
        assert!(kind == "f32" || bytes[0] > bytes[1], "{bytes:?}");
    }
}

/// What a plan says the device will hold is what ggml then takes, and less memory means smaller
/// copies, none at all, and a refusal.
#[test]
fn the_planner_keeps_to_the_memory_of_the_device() {
    let folder = tempfile::tempdir().unwrap();
    let shape = TinyShape {
        vocabulary: 4000,
        ..TinyShape::default()
    };
    let path = common::tiny(folder.path(), TinyArchitecture::Llama, &shape, "q8_0");
    let with = |device_memory: Option<usize>| {
        let (backend, model) = common::open_on(&path, Some(device()));
        let mut trainer = Trainer::new(
            backend,
            &model,
            &TrainSpec {
                device_memory,
                ..spec()
            },
        )?;
        let tokens = |seed: i32| (0..26).map(|i| (i * 31 + seed * 17) % 4000).collect();
        trainer.load(
            (0..6)
                .map(|seed| Example::new(tokens(seed), 9, 0))
                .collect::<Result<_, _>>()?,
        )?;
        let plan = trainer
            .plan()
            .and_then(|plan| plan.device)
            .expect("a plan for the device");
        trainer.step(&[0, 1, 2, 3, 4, 5], 1e-3)?;
        let held = trainer.device_bytes().expect("a device");
        let off = held as f64 / plan.peak() as f64 - 1.0;
        eprintln!(
            "{device_memory:?}: {:?}, predicted {} bytes, held {held}, {:+.1} %",
            trainer.forward().1,
            plan.peak(),
            off * 100.0
        );
        assert!(off.abs() < 0.15, "predicted {plan:?}, held {held}");
        Ok::<_, TrainError>((trainer.forward().1, plan.peak()))
    };
    let (transpose, peak) = with(None).unwrap();
    assert_eq!(transpose, Transpose::F16);
    assert_eq!(with(Some(peak)).unwrap(), (Transpose::F16, peak));
    let mut last = (Transpose::F16, peak);
    let mut seen = vec![Transpose::F16];
    loop {
        match with(Some(last.1 - 1)) {
            Ok(found) => {
                assert!(found.1 < last.1, "{found:?} after {last:?}");
                seen.push(found.0);
                last = found;
            }
            Err(TrainError::Memory { limit, least, .. }) => {
                assert_eq!((limit, least), (last.1 - 1, last.1));
                break;
            }
            Err(other) => panic!("{other}"),
        }
    }
    seen.dedup();
    assert_eq!(seen.first(), Some(&Transpose::F16));
    assert_eq!(seen.last(), Some(&Transpose::Scratch), "{seen:?}");
}

/// Blocks of the model of the two tests below.
const BLOCKS: usize = 4;

fn four_blocks(folder: &Path, kind: &str) -> PathBuf {
    let shape = TinyShape {
        blocks: BLOCKS,
        ..TinyShape::default()
    };
    common::tiny(folder, TinyArchitecture::Qwen3, &shape, kind)
}

/// The worst relative difference of losses.
fn difference(found: &[StepReport], expected: &[StepReport]) -> f64 {
    found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a.loss - b.loss).abs() / b.loss)
        .fold(0.0, f64::max)
}

/// `--layers A..B`: what lies below A is computed on the device once for each example, and the rest
/// learns what it learns on the CPU.
#[test]
fn chosen_layers_train_on_the_device_as_on_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let path = four_blocks(folder.path(), "f16");
    for (first, end) in [(2, None), (1, Some(3)), (0, Some(2))] {
        let layers = TrainSpec {
            first_block: Some(first),
            end_block: end,
            ..spec()
        };
        let (expected, _) = train(&path, "none", &layers, 10);
        let (found, trainer) = train(&path, &device(), &layers, 10);
        let (anew, without) = train(
            &path,
            &device(),
            &TrainSpec {
                frozen_bytes: 0,
                ..layers.clone()
            },
            10,
        );
        let [worst, apart] = [&expected, &anew].map(|losses| difference(&found, losses));
        eprintln!(
            "layers {first}..{end:?}: worst difference {worst:.1e} from the CPU, {apart:.1e} from a run that keeps nothing"
        );
        assert!(
            expected[9].loss < 0.98 * expected[1].loss,
            "learns nothing: {expected:?}"
        );
        assert!(worst < 1e-2, "{found:?} against {expected:?} and {anew:?}");
        assert!(apart < 1e-2, "{found:?} against {expected:?} and {anew:?}");
        let frozen = |trainer: &Trainer| trainer.plan().unwrap().frozen;
        assert_eq!((frozen(&trainer), frozen(&without)), (first > 0, false));
        let within = |block: u32| block >= first && end.is_none_or(|end| block < end);
        assert!(
            trainer
                .adapter()
                .pairs
                .iter()
                .all(|pair| pair.target.block().is_some_and(within))
        );
        assert_eq!(
            trainer.adapter().pairs.len(),
            7 * (end.unwrap_or(BLOCKS as u32) - first) as usize
        );
    }
}

/// `-ngl N`: adapter and copies of a block lie where its weights do, so that values cross between
/// the CPU and the device between blocks only. Where the CPU stands for the device all lies on it.
#[test]
fn some_layers_on_the_device_and_some_on_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let path = four_blocks(folder.path(), "q8_0");
    let (expected, _) = train(&path, "none", &spec(), 6);
    for transpose in Transpose::ALL {
        let spec = TrainSpec {
            transpose,
            batch: 3,
            ..spec()
        };
        let (_, all) = train(&path, &device(), &spec, 1);
        let all = all.plan().unwrap().device.unwrap();
        // The last of llama.cpp's layers is what stands behind all blocks.
        for layers in [1, 3, BLOCKS + 1] {
            let (found, trainer) = train_layers(&path, &device(), layers as i32, &spec, 6);
            let worst = difference(&found, &expected);
            let (placement, plan) = (
                trainer.placement().unwrap(),
                trainer.plan().unwrap().device.unwrap(),
            );
            let products = |device: &dyn Fn(&str) -> bool| {
                let here = placement
                    .operations
                    .iter()
                    .filter(|((what, at), _)| what.starts_with("MUL_MAT ") && device(at));
                here.map(|(_, count)| count).sum::<usize>()
            };
            let (behind, there) = (products(&|at| at == "CPU"), products(&|at| at != "CPU"));
            let held = trainer.device_bytes().unwrap();
            // What the scheduler copies between parts is not predicted, and of a model so small it
            // is more than a sixth.
            let off = held as f64 / plan.peak() as f64 - 1.0;
            let copied = held.saturating_sub(plan.peak()) < 128 << 10;
            eprintln!(
                "{transpose:?}, {layers} layers: worst difference {worst:.1e}, products {there} on the device and {behind} on the CPU, {} parts, \
                 predicted {} bytes, held {held}",
                placement.splits,
                plan.peak()
            );
            assert!(worst < 1e-2, "{found:?} against {expected:?}");
            assert!(
                off.abs() < 0.15 || copied,
                "predicted {plan:?}, held {held}"
            );
            let blocks = if device() == "CPU" {
                BLOCKS
            } else {
                layers - 1
            };
            let share = plan.adapter as f64 / all.adapter as f64;
            assert!(
                (share - blocks as f64 / BLOCKS as f64).abs() < 0.01,
                "{plan:?} of {all:?}"
            );
            assert!(
                transpose == Transpose::Scratch || blocks == BLOCKS || plan.copies < all.copies,
                "{plan:?} of {all:?}"
            );
            assert!(there > 0, "{placement:?}");
            assert!((behind == 0) == (blocks == BLOCKS), "{placement:?}");
            assert!(placement.splits <= 6, "{} parts", placement.splits);
        }
    }
}

#[test]
fn a_device_that_is_not_there_is_refused_with_those_that_are() {
    let path = common::lab("sprout.f16.gguf");
    let backend = Backend::init().unwrap();
    let params = translora_llama::ModelParams {
        device: Some("Quantum7".into()),
        ..Default::default()
    };
    let refused = translora_llama::Model::load(backend, &path, &params)
        .err()
        .unwrap()
        .to_string();
    assert!(refused.contains("Quantum7"), "{refused}");
    assert!(refused.contains("CPU"), "{refused}");
}
