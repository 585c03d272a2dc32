//! Ten steps of the trainer against ten losses that PyTorch and PEFT computed from the same model,
//! adapter and examples.
//!
//! `TRANSLORA_PEFT=FOLDER cargo test -p translora-train --test peft` leaves models, adapters
//! and examples in FOLDER; `scripts/lab/peft-steps.py FOLDER` computes the losses from them and
//! prints them as they stand here.
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test says what it measures"
)]

mod common;

use std::fs;
use std::path::Path;

use translora_gguf::{Gguf, Writer, dequantize};
use translora_train::testing::tiny::{TinyArchitecture, TinyShape, tiny_model};
use translora_train::{AdamW, Example, ForwardWeights, TrainSpec, Trainer};

/// transformers 5.23.0, peft 0.21.2, torch 2.15.0, f32.
const LLAMA: [f64; 10] = [
    14.642250, 15.809581, 14.239359, 12.216728, 12.838147, 11.874533, 9.772881, 9.827586, 8.984102,
    7.588995,
];
const QWEN2: [f64; 10] = [
    13.832800, 16.150061, 15.832600, 11.658538, 13.553232, 13.705149, 9.757118, 10.708984,
    10.926972, 7.914855,
];
const QWEN3: [f64; 10] = [
    13.852818, 16.275494, 13.892216, 11.666307, 13.659778, 11.476228, 9.715600, 10.619547,
    8.900389, 7.782388,
];
const GEMMA2: [f64; 10] = [
    10.956017, 9.954021, 10.148108, 9.757363, 8.459404, 8.699592, 8.108594, 6.419625, 6.555631,
    6.410617,
];

const RATE: f32 = 5e-3;
const EXAMPLES: usize = 12;
const BATCH: usize = 4;

fn spec(forward: ForwardWeights) -> TrainSpec {
    let optimizer = AdamW {
        weight_decay: 0.1,
        ..AdamW::default()
    };
    TrainSpec {
        optimizer,
        max_grad_norm: 3.0,
        ..common::spec(forward)
    }
}

/// Sequences of unequal lengths, some longer than gemma2's window of 32 tokens, that begin alike.
fn examples() -> Vec<Example> {
    let mut random = common::Random(11);
    let example = |_| {
        let (prompt, completion) = (6 + random.below(34), 1 + random.below(8));
        let mut tokens = vec![5, 9, 12];
        tokens.extend((3..prompt + completion).map(|_| random.below(128) as i32));
        Example::new(tokens, prompt, 0).unwrap()
    };
    (0..EXAMPLES).map(example).collect()
}

fn batch(step: usize) -> [usize; BATCH] {
    std::array::from_fn(|i| (step * BATCH + i) % EXAMPLES)
}

fn tiny(architecture: TinyArchitecture, path: &Path) {
    fs::write(path, tiny_model(architecture, 3, &TinyShape::default())).unwrap();
}

/// What llama.cpp makes of gemma2's metadata, less the biases and scales that no gemma2 has, and
/// with norms around 1.
fn gemma2(path: &Path) {
    let folder = path.parent().unwrap();
    let bytes = fs::read(common::synthetic(folder, "gemma2-dense", 0.08)).unwrap();
    let whole = Gguf::parse(&bytes).unwrap();
    let mut writer = Writer::with_metadata_of(&whole);
    let weights = whole.tensors().iter();
    for tensor in weights.filter(|tensor| tensor.name.ends_with(".weight")) {
        let norm = f32::from(u8::from(tensor.name.contains("norm")));
        let values = dequantize(tensor.kind, whole.data(tensor)).unwrap();
        let values: Vec<f32> = values.iter().map(|value| value + norm).collect();
        writer.tensor_f32(&tensor.name, &tensor.shape, &values);
    }
    fs::write(path, writer.to_bytes().unwrap()).unwrap();
}

/// Leave what the script reads.
fn leave(folder: &Path, model: &Path, name: &str, trainer: &Trainer) {
    let spec = spec(ForwardWeights::Native);
    let (beta1, beta2, epsilon) = (
        spec.optimizer.beta1,
        spec.optimizer.beta2,
        spec.optimizer.epsilon,
    );
    let examples: Vec<_> = examples()
        .iter()
        .map(|example| format!("[{:?}, {}]", example.tokens, example.completion))
        .collect();
    let batches: Vec<_> = (0..10).map(batch).collect();
    let plan = format!(
        "{{\"rank\": {}, \"alpha\": {}, \"rate\": {RATE}, \"betas\": [{beta1}, {beta2}], \"epsilon\": {epsilon}, \"decay\": {}, \
         \"clip\": {}, \"examples\": [{}], \"batches\": {batches:?}}}\n",
        spec.rank,
        spec.alpha,
        spec.optimizer.weight_decay,
        spec.max_grad_norm,
        examples.join(", ")
    );
    fs::create_dir_all(folder).unwrap();
    fs::copy(model, folder.join(format!("{name}.gguf"))).unwrap();
    fs::write(
        folder.join(format!("{name}.lora.gguf")),
        trainer.to_gguf(&[]).unwrap(),
    )
    .unwrap();
    fs::write(folder.join("plan.json"), plan).unwrap();
}

/// tolerance: relative, of each loss
fn follows(name: &str, make: impl Fn(&Path), expected: [f64; 10], tolerance: f64) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    make(&path);
    let (backend, model) = common::open(&path);
    for forward in common::ways([common::exact(), ForwardWeights::Native]) {
        let mut trainer = Trainer::new(backend, &model, &spec(forward)).unwrap();
        if let Some(folder) = std::env::var_os("TRANSLORA_PEFT") {
            leave(Path::new(&folder), &path, name, &trainer);
        }
        trainer.load(examples()).unwrap();
        let reports: Vec<_> = (0..10)
            .map(|step| trainer.step(&batch(step), RATE).unwrap())
            .collect();
        let worst = reports
            .iter()
            .zip(expected)
            .map(|(ours, theirs)| (ours.loss - theirs).abs() / theirs)
            .fold(0.0, f64::max);
        let norms: Vec<f64> = reports.iter().map(|report| report.gradient_norm).collect();
        eprintln!(
            "{name} {forward:?}: worst relative difference {worst:.1e}; gradient norms {norms:.2?}"
        );
        assert!(
            norms.iter().any(|norm| *norm > 3.0),
            "nothing is clipped: {norms:?}"
        );
        for (step, (ours, theirs)) in reports.iter().zip(expected).enumerate() {
            let tolerance = common::trajectory(tolerance, step);
            assert!(
                (ours.loss - theirs).abs() <= tolerance * theirs,
                "{name} {forward:?}, step {step}: {} against {theirs}",
                ours.loss
            );
        }
    }
}

#[test]
fn llama_follows_peft() {
    follows(
        "llama",
        |path| tiny(TinyArchitecture::Llama, path),
        LLAMA,
        2e-5,
    );
}

#[test]
fn qwen2_follows_peft() {
    follows(
        "qwen2",
        |path| tiny(TinyArchitecture::Qwen2, path),
        QWEN2,
        2e-5,
    );
}

#[test]
fn qwen3_follows_peft() {
    follows(
        "qwen3",
        |path| tiny(TinyArchitecture::Qwen3, path),
        QWEN3,
        2e-5,
    );
}

/// ggml takes GELU from a table of 16-bit values.
#[test]
fn gemma2_follows_peft() {
    follows("gemma2", gemma2, GEMMA2, 1e-4);
}
