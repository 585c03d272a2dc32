//! What rounding in gradients costs: the held-out loss that the default kernels end at, against the one that exact gradients end at.

use std::path::{Path, PathBuf};

use translora_llama::{Backend, Model, ModelParams, quantize};
use translora_quantized::{Example, ForwardWeights, Kernel, TrainSpec, Trainer};

const STEPS: usize = 120;
const BATCH: usize = 8;
const RATE: f32 = 1e-3;
const HELD_OUT: usize = 300;
/// Largest difference of the final losses, as a share.
const BOUND: f64 = 0.01;

fn lab(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/lab").join(name)
}

/// The first rows of a file of a task as chats. None of them has an escape.
fn examples(model: &Model, task: &str, file: &str, count: usize) -> Vec<Example> {
    let text = std::fs::read_to_string(lab("tasks").join(task).join(file)).unwrap();
    let encode = |text: &str| model.vocab().encode(text, true).unwrap();
    let example = |line: &str| {
        assert!(!line.contains('\\'), "{line}");
        let row = line.strip_prefix("{\"prompt\": \"").and_then(|line| line.strip_suffix("\"}")).unwrap();
        let (question, answer) = row.split_once("\", \"completion\": \"").unwrap();
        let prompt = encode(&format!("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"));
        let completion = prompt.len();
        Example::new([prompt, encode(&format!("{answer}<|im_end|>"))].concat(), completion, 0).unwrap()
    };
    text.lines().take(count).map(example).collect()
}

/// Held-out loss before and after training along a cosine.
fn run(backend: Backend, model: &Model, task: &str, kernel: Kernel) -> (f64, f64) {
    let forward = ForwardWeights::Direct(kernel);
    let mut trainer = Trainer::new(backend, model, &TrainSpec { rank: 8, alpha: 16.0, seed: 7, forward, ..TrainSpec::default() }).unwrap();
    let train = examples(model, task, "train.jsonl", STEPS * BATCH);
    let all = [train, examples(model, task, "eval.jsonl", HELD_OUT)].concat();
    let held_out: Vec<usize> = (STEPS * BATCH..all.len()).collect();
    trainer.load(all).unwrap();
    let before = trainer.loss(&held_out).unwrap().loss;
    for step in 0..STEPS {
        let batch: Vec<usize> = (step * BATCH..(step + 1) * BATCH).collect();
        let cosine = (std::f32::consts::PI * step as f32 / STEPS as f32).cos();
        trainer.step(&batch, RATE * (0.55 + 0.45 * cosine)).unwrap();
    }
    (before, trainer.loss(&held_out).unwrap().loss)
}

fn compare(task: &str, kind: &str) {
    if !Kernel::highest().is_bf16() {
        eprintln!("\nSKIPPED: the cost of bf16 kernels: this processor has none");
        return;
    }
    let (backend, folder) = (Backend::init().unwrap(), tempfile::tempdir().unwrap());
    let path = folder.path().join("model.gguf");
    quantize(backend, &lab("sprout.f16.gguf"), &path, kind).unwrap();
    let model = Model::load(backend, &path, &ModelParams::default()).unwrap();
    let (before, exact) = run(backend, &model, task, Kernel::exact());
    let (_, fast) = run(backend, &model, task, Kernel::highest());
    let share = (fast - exact).abs() / exact;
    eprintln!(
        "{task} {kind}: held-out loss {before:.4} before, {exact:.5} with {}, {fast:.5} with {}: {share:.1e}",
        Kernel::exact().name(),
        Kernel::highest().name()
    );
    assert!(exact < 0.5 * before, "nothing is learned: {before} {exact}");
    assert!(share <= BOUND, "{task} {kind}: {fast} against {exact}");
}

#[test]
fn default_kernels_end_where_exact_gradients_end_on_q8_0() {
    compare("ticket", "q8_0");
}

#[test]
fn default_kernels_end_where_exact_gradients_end_on_q4_1() {
    compare("ticket", "q4_1");
}

#[test]
fn default_kernels_end_where_exact_gradients_end_on_dates() {
    compare("date_iso", "q4_1");
}
