//! The trainer against llama.cpp and against finite differences, on the lab models.

use std::path::{Path, PathBuf};

use translora_llama::{Adapter as Loaded, Backend, Batch, Context, ContextParams, Model, ModelParams, quantize};
use translora_quantized::{AdamW, Example, ForwardWeights, TrainSpec, Trainer};

fn lab(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/lab").join(name)
}

fn open(path: &Path) -> (Backend, Model) {
    let backend = Backend::init().unwrap();
    let model = Model::load(backend, path, &ModelParams::default()).unwrap();
    (backend, model)
}

/// A lab model in another type, in a folder that goes with the guard.
fn variant(folder: &Path, name: &str, kind: &str) -> PathBuf {
    let out = folder.join(format!("{name}.{kind}.gguf"));
    quantize(Backend::init().unwrap(), &lab(&format!("{name}.f16.gguf")), &out, kind).unwrap();
    out
}

fn spec(forward: ForwardWeights) -> TrainSpec {
    let optimizer = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
    TrainSpec { rank: 4, alpha: 8.0, modules: "all".into(), seed: 7, optimizer, clip_norm: 1.0, forward, threads: 2 }
}

fn examples(model: &Model) -> Vec<Example> {
    let chat = |q: &str, a: &str| {
        let prompt = format!("<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n");
        let (p, c) = (model.vocab().encode(&prompt, true).unwrap(), model.vocab().encode(&format!("{a}<|im_end|>"), true).unwrap());
        let completion = p.len();
        Example::new([p, c].concat(), completion, 0).unwrap()
    };
    vec![chat("ticket from Mia: the book came broken", "[BROKEN]"), chat("Max writes: stop the order I made on Thursday", "[CANCEL]"), chat("date April 14, 1963", "1963-04-14")]
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
    let params = ContextParams { context: 256, batch: 256, ubatch: 256, sequences: 1, threads: 2, exact: true };
    let mut context = Context::new(model, &params).unwrap();
    if let Some(adapter) = adapter {
        context.set_adapters(&[(adapter.clone(), 1.0)]).unwrap();
    }
    let mut batch = Batch::default();
    for (i, token) in example.tokens[..example.inputs()].iter().enumerate() {
        batch.push(*token, i as i32, 0, i + 1 >= example.completion);
    }
    context.decode(&batch).unwrap();
    (example.completion - 1..example.inputs()).map(|row| context.logits(row).unwrap().to_vec()).collect()
}

/// The largest difference, as a share of the largest logit.
fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = a.iter().flatten().fold(0_f32, |m, x| m.max(x.abs()));
    a.iter().flatten().zip(b.iter().flatten()).fold(0_f32, |m, (x, y)| m.max((x - y).abs())) / scale
}

#[test]
fn logits_are_those_of_llama_cpp() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["sprout", "branch"] {
        for (kind, tolerance) in [("f32", 1e-4), ("f16", 1e-2), ("q8_0", 1e-2), ("q4_0", 1e-2), ("q4_1", 1e-2), ("q5_1", 1e-2), ("q4_k_m", 1e-2)] {
            let (backend, model) = open(&variant(folder.path(), name, kind));
            let mut trainer = Trainer::new(backend, &model, &spec(ForwardWeights::Native)).unwrap();
            wake(&mut trainer);
            let examples = examples(&model);
            trainer.load(examples.clone());
            let path = folder.path().join("adapter.gguf");
            std::fs::write(&path, trainer.to_gguf(&[]).unwrap()).unwrap();
            let loaded = Loaded::load(&model, &path).unwrap();
            for (i, example) in examples.iter().enumerate() {
                let ours = trainer.logits(i).unwrap();
                let theirs = decoded(&model, Some(&loaded), example);
                let bare = decoded(&model, None, example);
                let (near, far) = (distance(&theirs, &ours), distance(&theirs, &bare));
                eprintln!("{name} {kind} example {i}: {near:.2e} (without the adapter {far:.2e})");
                assert!(near <= tolerance, "{name} {kind}: {near}");
                assert!(far > 10.0 * near, "the adapter changes nothing: {far}");
            }
        }
    }
}

#[test]
fn gradients_match_finite_differences() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["sprout", "branch"] {
        let (backend, model) = open(&variant(folder.path(), name, "f32"));
        let mut trainer = Trainer::new(backend, &model, &spec(ForwardWeights::Native)).unwrap();
        wake(&mut trainer);
        trainer.load(examples(&model));
        let batch = [0, 1, 2];
        let (_, gradients) = trainer.gradients(&batch).unwrap();
        let base = trainer.adapter().clone();
        let mut worst = 0_f64;
        for (p, pair) in base.pairs.iter().enumerate() {
            // Along the gradient itself the difference quotient is the gradient's norm: one number that tests every entry.
            for (slot, gradient) in [&gradients[2 * p], &gradients[2 * p + 1]].into_iter().enumerate() {
                let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
                assert!(norm > 0.0, "{} has no gradient", pair.target.name);
                let size = 2e-2;
                let mut moved = |sign: f64| {
                    let mut adapter = base.clone();
                    let values = if slot == 0 { &mut adapter.pairs[p].a } else { &mut adapter.pairs[p].b };
                    for (value, g) in values.iter_mut().zip(gradient) {
                        *value += (sign * size * f64::from(*g) / norm) as f32;
                    }
                    trainer.set_adapter(adapter).unwrap();
                    trainer.loss(&batch).unwrap().loss
                };
                let quotient = (moved(1.0) - moved(-1.0)) / (2.0 * size);
                let error = (quotient - norm).abs() / norm;
                worst = worst.max(error);
                assert!(error < 0.02, "{} {slot}: {quotient} against {norm}", pair.target.name);
            }
        }
        eprintln!("{name}: worst relative error {worst:.2e} over {} matrices", 2 * base.pairs.len());
    }
}
