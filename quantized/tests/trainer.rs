//! The trainer against llama.cpp and against finite differences, on the lab models.

use std::path::{Path, PathBuf};

use translora_gguf::Gguf;
use translora_llama::{Adapter as Loaded, Backend, Batch, Context, ContextParams, Model, ModelParams, quantize};
use translora_quantized::reference::{ReferenceLora, ReferenceModel, causal};
use translora_quantized::tiny::{TinyArchitecture, TinyShape, tiny_model};
use translora_quantized::{AdamW, Example, ForwardWeights, Kernel, TrainSpec, Trainer};

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
        for (kind, tolerance) in
            [("f32", 1e-4), ("f16", 1e-2), ("q8_0", 1e-2), ("q4_0", 1e-2), ("q4_1", 1e-2), ("q5_1", 1e-2), ("q4_k_m", 1e-2)]
        {
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
        for (p, pair) in base.pairs.iter().enumerate().step_by(5) {
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
        eprintln!("{name}: worst relative error {worst:.2e}");
    }
}

/// The mean loss over all completion tokens and its gradients, by the naive reference, one example at a time.
fn by_reference(model: &Path, trainer: &Trainer, examples: &[Example]) -> (f64, Vec<Vec<f64>>) {
    let bytes = std::fs::read(model).unwrap();
    let reference = ReferenceModel::from_gguf(&Gguf::parse(&bytes).unwrap()).unwrap();
    let adapter = trainer.to_gguf(&[]).unwrap();
    let lora = ReferenceLora::from_gguf(&Gguf::parse(&adapter).unwrap()).unwrap();
    let count: usize = examples.iter().map(Example::outputs).sum();
    let mut loss = 0.0;
    let mut sums: Vec<Vec<f64>> =
        trainer.adapter().pairs.iter().flat_map(|pair| [vec![0.0; pair.a.len()], vec![0.0; pair.b.len()]]).collect();
    for example in examples {
        let tokens: Vec<u32> = example.tokens[..example.inputs()].iter().map(|token| *token as u32).collect();
        let positions: Vec<i32> = (0..tokens.len() as i32).collect();
        let label = |at: usize| (at + 1 >= example.completion).then(|| example.tokens[at + 1] as u32);
        let labels: Vec<Option<u32>> = (0..tokens.len()).map(label).collect();
        let weights = vec![1.0 / count as f32; tokens.len()];
        let (part, gradients) = reference.loss_and_gradients(&lora, &tokens, &positions, &causal, &labels, &weights).unwrap();
        loss += part;
        for (p, pair) in trainer.adapter().pairs.iter().enumerate() {
            let (a, b) = &gradients[&pair.target.name];
            for (slot, more) in [(2 * p, a), (2 * p + 1, b)] {
                sums[slot].iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            }
        }
    }
    (loss, sums)
}

/// The norm of the difference, as a share of the norm.
fn error(ours: &[f32], theirs: &[f64]) -> f64 {
    let norm = theirs.iter().map(|g| g * g).sum::<f64>().sqrt();
    let difference = ours.iter().zip(theirs).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>().sqrt();
    assert!(norm > 0.0);
    difference / norm
}

/// Examples with a shared prefix and of different lengths, so that packing, prefix sharing and padding are all at work.
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

#[test]
fn gradients_match_the_naive_reference() {
    let folder = tempfile::tempdir().unwrap();
    for (architecture, name) in [(TinyArchitecture::Llama, "llama"), (TinyArchitecture::Qwen2, "qwen2"), (TinyArchitecture::Qwen3, "qwen3")]
    {
        let (exact, fast) = (ForwardWeights::Direct(Kernel::exact()), ForwardWeights::Direct(Kernel::fast()));
        let plain = folder.path().join(format!("{name}.gguf"));
        std::fs::write(&plain, tiny_model(architecture, 3, &TinyShape::default())).unwrap();
        for (kind, forward, tolerance) in [
            ("f32", ForwardWeights::Native, 1e-4),
            ("f16", ForwardWeights::Native, 1e-2),
            ("f32", exact, 1e-4),
            ("q8_0", exact, 1e-4),
            ("q4_1", exact, 1e-4),
            ("q8_0", fast, 2e-2),
            ("q4_1", fast, 2e-2),
            ("q8_0", ForwardWeights::Native, 5e-2),
        ] {
            let path = folder.path().join(format!("{name}.{kind}.gguf"));
            quantize(Backend::init().unwrap(), &plain, &path, kind).unwrap();
            let (backend, model) = open(&path);
            let mut trainer = Trainer::new(backend, &model, &spec(forward)).unwrap();
            wake(&mut trainer);
            let examples = random_examples(24);
            trainer.load(examples.clone());
            let batch: Vec<usize> = (0..examples.len()).collect();
            let (report, ours) = trainer.gradients(&batch).unwrap();
            let (loss, theirs) = by_reference(&path, &trainer, &examples);
            let worst = ours.iter().zip(&theirs).map(|(ours, theirs)| error(ours, theirs)).fold(0.0, f64::max);
            eprintln!("{name} {kind} {forward:?}: loss {:.5} against {loss:.5}, worst gradient error {worst:.1e}", report.loss);
            assert!((report.loss - loss).abs() <= tolerance * loss, "{name} {kind}: loss {} against {loss}", report.loss);
            assert!(worst <= tolerance, "{name} {kind} {forward:?}: {worst}");
        }
    }
}

#[test]
fn a_batch_at_once_and_in_pieces_are_the_same_step() {
    let folder = tempfile::tempdir().unwrap();
    let (backend, model) = open(&variant(folder.path(), "sprout", "f32"));
    let mut trainer = Trainer::new(backend, &model, &spec(ForwardWeights::Native)).unwrap();
    wake(&mut trainer);
    let examples = random_examples(8);
    trainer.load(examples.clone());
    let (whole, together) = trainer.gradients(&[0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
    let mut sums: Vec<Vec<f64>> = together.iter().map(|g| vec![0.0; g.len()]).collect();
    let mut loss = 0.0;
    for (i, example) in examples.iter().enumerate() {
        let share = example.outputs() as f64 / whole.completion_tokens as f64;
        let (report, gradients) = trainer.gradients(&[i]).unwrap();
        loss += report.loss * share;
        for (sum, gradient) in sums.iter_mut().flatten().zip(gradients.iter().flatten()) {
            *sum += f64::from(*gradient) * share;
        }
    }
    assert!((loss - whole.loss).abs() < 1e-5, "{loss} against {}", whole.loss);
    for (together, sum) in together.iter().zip(&sums) {
        assert!(error(together, sum) < 1e-4);
    }
}

#[test]
fn a_restored_run_goes_on_with_the_same_bytes() {
    let (backend, model) = open(&lab("sprout.f16.gguf"));
    let fresh = || {
        let mut trainer = Trainer::new(backend, &model, &spec(ForwardWeights::Direct(Kernel::fast()))).unwrap();
        trainer.load(examples(&model));
        trainer
    };
    let mut straight = fresh();
    for _ in 0..4 {
        straight.step(&[0, 1, 2], 1e-3).unwrap();
    }
    let mut first = fresh();
    for _ in 0..2 {
        first.step(&[0, 1, 2], 1e-3).unwrap();
    }
    let snapshot = first.snapshot();
    let mut second = fresh();
    second.restore(&snapshot).unwrap();
    for _ in 0..2 {
        second.step(&[0, 1, 2], 1e-3).unwrap();
    }
    assert_eq!(straight.to_gguf(&[]).unwrap(), second.to_gguf(&[]).unwrap());
    assert_ne!(straight.to_gguf(&[]).unwrap(), first.to_gguf(&[]).unwrap());
    let mut torn = snapshot.clone();
    torn[100] ^= 1;
    assert!(second.restore(&torn).unwrap_err().to_string().contains("damaged"));
    assert!(second.restore(&snapshot[..50]).is_err());
}

#[test]
fn rounded_products_learn_what_exact_ones_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = variant(folder.path(), "sprout", "q8_0");
    let losses = [Kernel::exact(), Kernel::fast()].map(|kernel| {
        let (backend, model) = open(&path);
        let mut trainer = Trainer::new(backend, &model, &spec(ForwardWeights::Direct(kernel))).unwrap();
        trainer.load(random_examples(24));
        let held_out: Vec<usize> = (16..24).collect();
        let before = trainer.loss(&held_out).unwrap().loss;
        for step in 0..20 {
            let batch: Vec<usize> = (0..8).map(|i| (step * 8 + i) % 16).collect();
            trainer.step(&batch, 3e-3).unwrap();
        }
        let after = trainer.loss(&held_out).unwrap().loss;
        assert!(after < 0.95 * before, "{kernel:?}: nothing was learned, {before} and then {after}");
        eprintln!("{kernel:?}: held-out loss {before:.4}, then {after:.4}");
        after
    });
    assert!((losses[1] - losses[0]).abs() < 0.01 * losses[0], "{losses:?}");
}

#[test]
fn what_cannot_be_trained_is_refused_by_name() {
    let (backend, model) = open(&lab("sprout.f16.gguf"));
    let with = |modules: &str| Trainer::new(backend, &model, &TrainSpec { modules: modules.into(), ..spec(ForwardWeights::Native) });
    let error = with("q,lm_head").err().unwrap().to_string();
    assert!(error.contains("lm_head") && error.contains("gate"), "{error}");
    assert_eq!(with("q,v").unwrap().adapter().pairs.len(), 10);
}
