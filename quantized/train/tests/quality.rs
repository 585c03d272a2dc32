//! What rounding in gradients costs: the held-out loss that the default kernels end at, against the
//! one that exact gradients end at.
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test says what it measures"
)]

mod common;

use translora_llama::{Backend, Model, ModelParams};
use translora_train::{Adapter, Example, ForwardWeights, Kernel, TrainSpec, Trainer};

const STEPS: usize = 120;
const BATCH: usize = 8;
const RATE: f32 = 1e-3;
const HELD_OUT: usize = 300;
/// Largest difference of the final losses, as a share.
const BOUND: f64 = 0.01;
/// Largest difference of a matrix's gradient from the exact one, as a share of it.
const GRADIENT_BOUND: f64 = 0.02;

/// The first rows of a file of a task as chats. None of them has an escape.
fn examples(model: &Model, task: &str, file: &str, count: usize) -> Vec<Example> {
    let text = std::fs::read_to_string(common::lab("tasks").join(task).join(file)).unwrap();
    let encode = |text: &str| model.vocab().encode(text, true).unwrap();
    let example = |line: &str| {
        assert!(!line.contains('\\'), "{line}");
        let row = line
            .strip_prefix("{\"prompt\": \"")
            .and_then(|line| line.strip_suffix("\"}"))
            .unwrap();
        let (question, answer) = row.split_once("\", \"completion\": \"").unwrap();
        let prompt = encode(&format!(
            "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        ));
        let completion = prompt.len();
        Example::new(
            [prompt, encode(&format!("{answer}<|im_end|>"))].concat(),
            completion,
            0,
        )
        .unwrap()
    };
    text.lines().take(count).map(example).collect()
}

fn trainer(backend: Backend, model: &Model, kernel: Kernel) -> Trainer {
    let spec = TrainSpec {
        rank: 8,
        alpha: 16.0,
        seed: 7,
        forward: ForwardWeights::Direct(kernel),
        ..TrainSpec::default()
    };
    Trainer::new(backend, model, &spec).unwrap()
}

/// Held-out loss before and after training along a cosine, and the adapter.
fn run(backend: Backend, model: &Model, task: &str, kernel: Kernel) -> (f64, f64, Adapter) {
    let mut trainer = trainer(backend, model, kernel);
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
    (
        before,
        trainer.loss(&held_out).unwrap().loss,
        trainer.adapter().clone(),
    )
}

/// How far each matrix's gradient is from the exact one, worst first.
fn roundings(backend: Backend, model: &Model, task: &str, adapter: &Adapter) -> Vec<f64> {
    let gradients = |kernel: Kernel| {
        let mut trainer = trainer(backend, model, kernel);
        trainer.set_adapter(adapter.clone()).unwrap();
        trainer
            .load(examples(model, task, "train.jsonl", BATCH))
            .unwrap();
        trainer
            .gradients(&(0..BATCH).collect::<Vec<usize>>())
            .unwrap()
            .1
    };
    let (exact, fast) = (gradients(Kernel::exact()), gradients(Kernel::fast()));
    let error = |(exact, fast): (&Vec<f32>, &Vec<f32>)| common::error(fast, &common::wide(exact));
    let mut all: Vec<f64> = exact.iter().zip(&fast).map(error).collect();
    all.sort_by(|a, b| b.total_cmp(a));
    all
}

fn compare(task: &str, kind: &str) {
    if Kernel::fast() == Kernel::exact() {
        eprintln!("\nSKIPPED: the cost of rounding in kernels: this processor has none that round");
        return;
    }
    let (backend, folder) = (Backend::init().unwrap(), tempfile::tempdir().unwrap());
    let path = common::variant(folder.path(), "sprout", kind);
    let model = Model::load(backend, &path, &ModelParams::default()).unwrap();
    let (before, exact, adapter) = run(backend, &model, task, Kernel::exact());
    let (_, fast, _) = run(backend, &model, task, Kernel::fast());
    let roundings = roundings(backend, &model, task, &adapter);
    let share = (fast - exact).abs() / exact;
    eprintln!(
        "{task} {kind}: held-out loss {before:.4} before, {exact:.5} with {}, {fast:.5} with {}: {share:.1e}; gradients {:.1e} off, at most {:.1e}",
        Kernel::exact().name(),
        Kernel::fast().name(),
        roundings[roundings.len() / 2],
        roundings[0]
    );
    assert!(exact < 0.5 * before, "nothing is learned: {before} {exact}");
    assert!(share <= BOUND, "{task} {kind}: {fast} against {exact}");
    assert!(
        roundings[0] <= GRADIENT_BOUND,
        "{task} {kind}: {roundings:?}"
    );
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
