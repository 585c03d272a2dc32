//! The trainer against llama.cpp and against finite differences, on the lab models.

mod common;

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

/// Inference whose wide products are ours says what llama.cpp says, and a batch that is too narrow
/// for them is llama.cpp's to the bit.
#[test]
fn wide_products_of_our_own_say_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = variant(folder.path(), "branch", "q4_1");
    let (_, model) = open(&file);
    let example = &examples(&model)[0];
    assert!(example.inputs() > 12);
    let (theirs, ours) = (
        decoded(&model, None, example),
        decoded_by(Some(Kernel::for_graphs()), &model, None, example),
    );
    let apart = distance(&ours, &theirs);
    assert!(apart < 0.05, "{apart}");
    assert!(
        apart > 0.0 || model.is_on_device() || cfg!(not(target_arch = "x86_64")),
        "nothing was taken"
    );
    let few = Example::new(example.tokens[..8].to_vec(), 4, 0).unwrap();
    assert_eq!(
        decoded(&model, None, &few),
        decoded_by(Some(Kernel::for_graphs()), &model, None, &few)
    );
}

#[test]
fn logits_are_those_of_llama_cpp() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["sprout", "branch"] {
        for (kind, tolerance) in [
            ("f32", 1e-4),
            ("f16", 1e-2),
            ("q8_0", 1e-2),
            ("q4_0", 1e-2),
            ("q4_1", 1e-2),
            ("q5_1", 1e-2),
            ("q4_k_m", 1e-2),
        ] {
            let (backend, model) = open(&variant(folder.path(), name, kind));
            let mut trainer = Trainer::new(backend, &model, &spec(ForwardWeights::Native)).unwrap();
            wake(&mut trainer);
            let examples = examples(&model);
            trainer.load(examples.clone()).unwrap();
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

/// On the CPU, whatever the device: a quotient divides the difference of two losses, a thousandth
/// of either, and exponentials on devices are approximations with errors near 1e-5. Their gradients
/// are compared with the CPU's.
#[test]
fn gradients_match_finite_differences() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["sprout", "branch"] {
        let cpu = common::device().filter(|name| name == "CPU");
        let (backend, model) = common::open_on(&variant(folder.path(), name, "f32"), cpu);
        let mut trainer = Trainer::new(backend, &model, &spec(ForwardWeights::Native)).unwrap();
        wake(&mut trainer);
        trainer.load(examples(&model)).unwrap();
        let batch = [0, 1, 2];
        let (_, gradients) = trainer.gradients(&batch).unwrap();
        let base = trainer.adapter().clone();
        let mut worst = 0_f64;
        for (p, pair) in base.pairs.iter().enumerate().step_by(5) {
            // Along the gradient itself the difference quotient is the gradient's norm: one number
            // that tests every entry.
            for (slot, gradient) in [&gradients[2 * p], &gradients[2 * p + 1]]
                .into_iter()
                .enumerate()
            {
                let norm = gradient
                    .iter()
                    .map(|g| f64::from(*g).powi(2))
                    .sum::<f64>()
                    .sqrt();
                assert!(norm > 0.0, "{} has no gradient", pair.target.name);
                let size = 2e-2;
                let mut moved = |sign: f64| {
                    let mut adapter = base.clone();
                    let values = if slot == 0 {
                        &mut adapter.pairs[p].a
                    } else {
                        &mut adapter.pairs[p].b
                    };
                    for (value, g) in values.iter_mut().zip(gradient) {
                        *value += (sign * size * f64::from(*g) / norm) as f32;
                    }
                    trainer.set_adapter(adapter).unwrap();
                    trainer.loss(&batch).unwrap().loss
                };
                let quotient = (moved(1.0) - moved(-1.0)) / (2.0 * size);
                let error = (quotient - norm).abs() / norm;
                worst = worst.max(error);
                assert!(
                    error < 0.02,
                    "{} {slot}: {quotient} against {norm}",
                    pair.target.name
                );
            }
        }
        eprintln!("{name}: worst relative error {worst:.2e}");
    }
}

/// Entry by entry, on the device or else on the CPU as if it were one.
///
/// tolerance: of F32 weights all sums are F32, but exponentials on devices are approximations
/// (Mesa's software device: 1.5e-3). Others are multiplied with activations that ggml rounds
/// (`common::tolerance`).
#[test]
fn gradients_on_a_device_are_those_of_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let device = common::device().unwrap_or_else(|| "CPU".into());
    let exact = if device == "CPU" { 1e-4 } else { 1e-2 };
    for (name, kind, tolerance) in [
        ("sprout", "f32", exact),
        ("branch", "f32", exact),
        ("branch", "f16", 5e-2),
        ("branch", "q8_0", 5e-2),
    ] {
        let path = variant(folder.path(), name, kind);
        let gradients = |device: Option<&str>| {
            let (backend, model) = common::open_on(&path, device.map(Into::into));
            let forward = if device.is_some() {
                ForwardWeights::Native
            } else {
                ForwardWeights::Direct(Kernel::exact())
            };
            let mut trainer = Trainer::new(backend, &model, &spec(forward)).unwrap();
            wake(&mut trainer);
            trainer.load(examples(&model)).unwrap();
            let names: Vec<String> = trainer
                .adapter()
                .pairs
                .iter()
                .map(|pair| pair.target.name.clone())
                .collect();
            let (report, gradients) = trainer.gradients(&[0, 1, 2]).unwrap();
            (report.loss, gradients, names)
        };
        let (loss, expected, names) = gradients(None);
        let (on_device, found, _) = gradients(Some(&device));
        let mut worst = 0_f64;
        for (slot, (ours, theirs)) in found.iter().zip(&expected).enumerate() {
            let theirs: Vec<f64> = theirs.iter().map(|g| f64::from(*g)).collect();
            let error = error(ours, &theirs);
            assert!(
                error < tolerance,
                "{name} {kind} {} {}: {error:.1e}",
                names[slot / 2],
                slot % 2
            );
            worst = worst.max(error);
        }
        eprintln!("{name} {kind}: loss {on_device} and {loss}, worst error {worst:.1e}");
    }
}

/// The mean loss over all completion tokens and its gradients, by the naive reference, one example
/// at a time.
fn by_reference(model: &Path, trainer: &Trainer, examples: &[Example]) -> (f64, Vec<Vec<f64>>) {
    let bytes = std::fs::read(model).unwrap();
    let reference = ReferenceModel::from_gguf(&Gguf::parse(&bytes).unwrap()).unwrap();
    let adapter = trainer.to_gguf(&[]).unwrap();
    let lora = ReferenceLora::from_gguf(&Gguf::parse(&adapter).unwrap()).unwrap();
    let count: usize = examples.iter().map(Example::outputs).sum();
    let mut loss = 0.0;
    let mut sums: Vec<Vec<f64>> = trainer
        .adapter()
        .pairs
        .iter()
        .flat_map(|pair| [vec![0.0; pair.a.len()], vec![0.0; pair.b.len()]])
        .collect();
    for example in examples {
        let tokens: Vec<u32> = example.tokens[..example.inputs()]
            .iter()
            .map(|token| *token as u32)
            .collect();
        let positions: Vec<i32> = (0..tokens.len() as i32).collect();
        let label =
            |at: usize| (at + 1 >= example.completion).then(|| example.tokens[at + 1] as u32);
        let labels: Vec<Option<u32>> = (0..tokens.len()).map(label).collect();
        let weights = vec![1.0 / count as f32; tokens.len()];
        let (part, gradients) = reference
            .loss_and_gradients(&lora, &tokens, &positions, &causal, &labels, &weights)
            .unwrap();
        loss += part;
        for (p, pair) in trainer.adapter().pairs.iter().enumerate() {
            let (a, b) = &gradients[&pair.target.name];
            for (slot, more) in [(2 * p, a), (2 * p + 1, b)] {
                sums[slot]
                    .iter_mut()
                    .zip(more)
                    .for_each(|(sum, more)| *sum += more);
            }
        }
    }
    (loss, sums)
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

#[test]
fn gradients_match_the_naive_reference() {
    let folder = tempfile::tempdir().unwrap();
    for (architecture, name) in [
        (TinyArchitecture::Llama, "llama"),
        (TinyArchitecture::Qwen2, "qwen2"),
        (TinyArchitecture::Qwen3, "qwen3"),
    ] {
        let (exact, fast) = (
            ForwardWeights::Direct(Kernel::exact()),
            ForwardWeights::Direct(Kernel::fast()),
        );
        let plain = folder.path().join(format!("{name}.gguf"));
        std::fs::write(&plain, tiny_model(architecture, 3, &TinyShape::default())).unwrap();
        let mut cases = vec![
            ("f32", ForwardWeights::Native, 1e-4),
            ("f16", ForwardWeights::Native, 1e-2),
            ("f32", exact, 1e-4),
            ("q8_0", exact, 1e-4),
            ("q4_1", exact, 1e-4),
            ("q8_0", fast, 2e-2),
            ("q4_1", fast, 2e-2),
            ("q8_0", ForwardWeights::Native, 5e-2),
        ];
        if common::device().is_some() {
            // What is left to differ is the type.
            cases = ["f32", "f16", "q8_0", "q4_1"]
                .map(|kind| (kind, ForwardWeights::Native, 0.0))
                .into();
        }
        for (kind, forward, tolerance) in cases {
            let path = folder.path().join(format!("{name}.{kind}.gguf"));
            quantize(Backend::init().unwrap(), &plain, &path, kind).unwrap();
            let (backend, model) = open(&path);
            let mut trainer = Trainer::new(backend, &model, &spec(forward)).unwrap();
            wake(&mut trainer);
            let examples = random_examples(24);
            trainer.load(examples.clone()).unwrap();
            let batch: Vec<usize> = (0..examples.len()).collect();
            let (report, ours) = trainer.gradients(&batch).unwrap();
            let (loss, theirs) = by_reference(&path, &trainer, &examples);
            let worst = ours
                .iter()
                .zip(&theirs)
                .map(|(ours, theirs)| error(ours, theirs))
                .fold(0.0, f64::max);
            eprintln!(
                "{name} {kind} {forward:?}: loss {:.5} against {loss:.5}, worst gradient error {worst:.1e}",
                report.loss
            );
            let tolerance = common::tolerance(tolerance, kind);
            assert!(
                (report.loss - loss).abs() <= tolerance * loss,
                "{name} {kind}: loss {} against {loss}",
                report.loss
            );
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
    trainer.load(examples.clone()).unwrap();
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
    assert!(
        (loss - whole.loss).abs() < 1e-5,
        "{loss} against {}",
        whole.loss
    );
    for (together, sum) in together.iter().zip(&sums) {
        assert!(error(together, sum) < 1e-4);
    }
}

/// One output at a time, a few, and all at once: the same loss and gradients, and work memory that
/// the budget bounds.
#[test]
fn a_loss_in_chunks_is_the_same_loss_in_less_memory() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain.gguf");
    let shape = TinyShape {
        vocabulary: 20_000,
        blocks: 1,
        ..TinyShape::default()
    };
    std::fs::write(&plain, tiny_model(TinyArchitecture::Llama, 3, &shape)).unwrap();
    for (kind, forward, tolerance) in [
        ("f32", ForwardWeights::Native, 1e-5),
        ("q4_1", ForwardWeights::Direct(Kernel::fast()), 1e-4),
    ] {
        let path = folder.path().join(format!("{kind}.gguf"));
        quantize(Backend::init().unwrap(), &plain, &path, kind).unwrap();
        let (backend, model) = open(&path);
        let with = |loss_bytes| {
            let mut trainer = Trainer::new(
                backend,
                &model,
                &TrainSpec {
                    loss_bytes,
                    ..spec(forward)
                },
            )
            .unwrap();
            wake(&mut trainer);
            // One long completion: nothing but chunks keeps its logits small.
            let tokens: Vec<i32> = (0..240).map(|i| i * 3701 % 20_000).collect();
            trainer
                .load(vec![Example::new(tokens, 3, 0).unwrap()])
                .unwrap();
            let (report, gradients) = trainer.gradients(&[0]).unwrap();
            (
                report.loss,
                gradients,
                trainer.work_bytes(),
                trainer.logits(0).unwrap(),
            )
        };
        let (loss, gradients, bytes, logits) = with(usize::MAX);
        let (_, _, least, _) = with(1);
        let all = 240 * 20_000 * 4;
        assert!(
            bytes > least + all,
            "{bytes} bytes at once, {least} in chunks"
        );
        for budget in [1, 4 << 20] {
            let (chunked_loss, chunked, chunked_bytes, chunked_logits) = with(budget);
            eprintln!(
                "{kind}: {bytes} bytes at once, {chunked_bytes} with {budget}; all logits {all}"
            );
            assert!(distance(&logits, &chunked_logits) < 1e-5);
            assert!(
                (loss - chunked_loss).abs() < 1e-6 * loss,
                "{loss} against {chunked_loss}"
            );
            for (whole, chunked) in gradients.iter().zip(&chunked) {
                let whole: Vec<f64> = whole.iter().map(|g| f64::from(*g)).collect();
                let error = error(chunked, &whole);
                assert!(error < tolerance, "{kind}: {error}");
            }
            assert!(
                chunked_bytes <= least + budget,
                "{chunked_bytes} bytes of {least} and {budget}"
            );
        }
    }
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

/// Eight examples at once and one by one, accumulated, follow one trajectory.
#[test]
fn eight_times_one_is_one_times_eight() {
    let folder = tempfile::tempdir().unwrap();
    let (backend, model) = open(&variant(folder.path(), "sprout", "f32"));
    let run = |micro_batch| {
        let mut trainer = Trainer::new(
            backend,
            &model,
            &TrainSpec {
                micro_batch,
                ..spec(ForwardWeights::Native)
            },
        )
        .unwrap();
        trainer.load(random_examples(16)).unwrap();
        let (one, two) = ([0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15]);
        let losses = steps(&mut trainer, &[&one, &two, &one, &two, &one, &two]);
        (losses, numbers(&trainer))
    };
    let (whole, [a, b]) = run(0);
    let (single, [a1, b1]) = run(1);
    assert!(
        whole.windows(3).all(|w| w[2] < w[0]),
        "nothing is learned: {whole:?}"
    );
    assert!(
        whole
            .iter()
            .zip(&single)
            .all(|(x, y)| (x - y).abs() < 1e-4 * x),
        "{whole:?} {single:?}"
    );
    let floats = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<f64>>();
    let (a, b) = (floats(a), floats(b));
    assert!(
        error(&a1, &a) < 1e-3 && error(&b1, &b) < 1e-2,
        "{} {}",
        error(&a1, &a),
        error(&b1, &b)
    );
}

/// The file's alpha over the rank is alpha over the root of the rank; llama.cpp and the trainer
/// agree on it.
#[test]
fn rank_stabilized_scale_is_in_the_file() {
    let (backend, model) = open(&lab("sprout.f16.gguf"));
    let mut trainer = Trainer::new(
        backend,
        &model,
        &TrainSpec {
            rslora: true,
            ..spec(ForwardWeights::Native)
        },
    )
    .unwrap();
    wake(&mut trainer);
    let examples = examples(&model);
    trainer.load(examples.clone()).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let bytes = trainer.to_gguf(&[]).unwrap();
    let alpha = Gguf::parse(&bytes)
        .unwrap()
        .get("adapter.lora.alpha")
        .and_then(translora_gguf::Value::as_f64)
        .unwrap();
    assert!((alpha / 4.0 - 8.0 / 2.0).abs() < 1e-6, "alpha {alpha}");
    std::fs::write(file.path(), &bytes).unwrap();
    let loaded = Loaded::load(&model, file.path()).unwrap();
    assert_eq!(
        distance(
            &trainer.logits(0).unwrap(),
            &decoded(&model, Some(&loaded), &examples[0])
        ),
        0.0
    );
}

/// AdamW's first step is the learning rate in every entry that has a gradient, so a ratio of rates
/// is a ratio of steps.
#[test]
fn b_moves_at_its_own_rate_and_weights_decay() {
    let (backend, model) = open(&lab("sprout.f16.gguf"));
    let first_step = |b_rate, weight_decay| {
        let optimizer = translora_train::AdamW {
            epsilon: 0.0,
            weight_decay,
            ..Default::default()
        };
        let mut trainer = Trainer::new(
            backend,
            &model,
            &TrainSpec {
                b_rate,
                optimizer,
                ..spec(ForwardWeights::Direct(Kernel::fast()))
            },
        )
        .unwrap();
        wake(&mut trainer);
        trainer.load(examples(&model)).unwrap();
        let before = numbers(&trainer);
        steps(&mut trainer, &[&[0, 1, 2]]);
        let moved = |before: &[f32], after: &[f32]| {
            before
                .iter()
                .zip(after)
                .map(|(a, b)| (b - a).abs())
                .fold(0.0, f32::max)
        };
        let after = numbers(&trainer);
        (
            moved(&before[0], &after[0]),
            moved(&before[1], &after[1]),
            before[0]
                .iter()
                .zip(&after[0])
                .map(|(a, b)| b - a)
                .collect::<Vec<_>>(),
        )
    };
    let (a, b, _) = first_step(1.0, 0.0);
    assert!(
        (a / 2e-3 - 1.0).abs() < 1e-3 && (b / 2e-3 - 1.0).abs() < 1e-3,
        "{a} {b}"
    );
    let (a, b, plain) = first_step(16.0, 0.0);
    assert!(
        (a / 2e-3 - 1.0).abs() < 1e-3 && (b / 32e-3 - 1.0).abs() < 1e-3,
        "{a} {b}"
    );
    let (_, _, decayed) = first_step(1.0, 5.0);
    let mut fresh = Trainer::new(
        backend,
        &model,
        &spec(ForwardWeights::Direct(Kernel::fast())),
    )
    .unwrap();
    wake(&mut fresh);
    let [values, _] = numbers(&fresh);
    for ((value, plain), decayed) in values.iter().zip(&plain).zip(&decayed) {
        assert!(
            (decayed - (plain - 2e-3 * 5.0 * value)).abs() < 1e-6,
            "{value}: {plain} {decayed}"
        );
    }
}

/// The slope of the loss under the masks of one step is that step's gradient, and masks differ from
/// step to step.
#[test]
fn dropout_masks_the_inputs_of_a_in_both_directions() {
    for forward in common::ways([
        ForwardWeights::Native,
        ForwardWeights::Direct(Kernel::exact()),
    ]) {
        check_dropout(forward);
    }
}

fn check_dropout(forward: ForwardWeights) {
    let folder = tempfile::tempdir().unwrap();
    let (backend, model) = open(&variant(folder.path(), "sprout", "f32"));
    let with = |dropout| {
        let mut trainer = Trainer::new(
            backend,
            &model,
            &TrainSpec {
                dropout,
                ..spec(forward)
            },
        )
        .unwrap();
        wake(&mut trainer);
        // A strong adapter, through which much of the gradient for lower layers flows.
        let mut strong = trainer.adapter().clone();
        strong
            .pairs
            .iter_mut()
            .flat_map(|pair| &mut pair.b)
            .for_each(|b| *b *= 6.0);
        trainer.set_adapter(strong).unwrap();
        trainer.load(random_examples(12)).unwrap();
        trainer
    };
    let batch: Vec<usize> = (0..12).collect();
    let mut trainer = with(0.3);
    let (report, gradients) = trainer.gradients(&batch).unwrap();
    let mut plain = with(0.0);
    let (whole, full) = plain.gradients(&batch).unwrap();
    assert_eq!(trainer.gradients(&batch).unwrap().1, gradients);
    assert!(
        (report.loss - whole.loss).abs() > 1e-4,
        "nothing is left out"
    );
    assert_eq!(
        trainer.loss(&batch).unwrap().loss,
        plain.loss(&batch).unwrap().loss
    );
    let base = trainer.adapter().clone();
    let mut worst = 0_f64;
    for p in [0, 3, 6, 17] {
        for slot in [0, 1] {
            let gradient = &gradients[2 * p + slot];
            let norm = gradient
                .iter()
                .map(|g| f64::from(*g).powi(2))
                .sum::<f64>()
                .sqrt();
            let mut at = |step: f64| {
                let mut adapter = base.clone();
                let values = if slot == 0 {
                    &mut adapter.pairs[p].a
                } else {
                    &mut adapter.pairs[p].b
                };
                values
                    .iter_mut()
                    .zip(gradient)
                    .for_each(|(value, g)| *value += (step * f64::from(*g) / norm) as f32);
                trainer.set_adapter(adapter).unwrap();
                trainer.gradients(&batch).unwrap().0.loss
            };
            let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
            worst = worst.max((slope - norm).abs() / norm);
            assert!(
                (slope - norm).abs() < 0.01 * norm,
                "{} {slot}: {slope} against {norm}",
                base.pairs[p].target.name
            );
        }
    }
    eprintln!("dropout, {forward:?}: worst relative error {worst:.1e}");
    // On the average over many draws, what is left out makes no difference to first order: the
    // gradients point the same way.
    trainer.set_adapter(base).unwrap();
    let alike = |a: &[Vec<f32>], b: &[Vec<f32>]| {
        let dot = |a: &[Vec<f32>], b: &[Vec<f32>]| {
            a.iter()
                .flatten()
                .zip(b.iter().flatten())
                .map(|(a, b)| f64::from(a * b))
                .sum::<f64>()
        };
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    assert!(
        alike(&gradients, &full) > 0.5,
        "{}",
        alike(&gradients, &full)
    );
    trainer.step(&batch, 1e-30).unwrap();
    let (other, _) = trainer.gradients(&batch).unwrap();
    assert!(
        (other.loss - report.loss).abs() > 1e-5,
        "two steps leave out the same"
    );
}

#[test]
fn a_restored_run_goes_on_with_the_same_bytes() {
    let (backend, model) = open(&lab("sprout.f16.gguf"));
    let fresh = || {
        let direct = ForwardWeights::Direct(Kernel::fast());
        let spec = TrainSpec {
            dropout: 0.1,
            b_rate: 4.0,
            micro_batch: 2,
            ..spec(direct)
        };
        let mut trainer = Trainer::new(backend, &model, &spec).unwrap();
        trainer.load(examples(&model)).unwrap();
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
    assert!(
        second
            .restore(&torn)
            .unwrap_err()
            .to_string()
            .contains("damaged")
    );
    assert!(second.restore(&snapshot[..50]).is_err());
}

#[test]
fn rounded_products_learn_what_exact_ones_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = variant(folder.path(), "sprout", "q8_0");
    let learn = |forward| {
        let (backend, model) = open(&path);
        let mut trainer = Trainer::new(backend, &model, &spec(forward)).unwrap();
        trainer.load(random_examples(24)).unwrap();
        let held_out: Vec<usize> = (16..24).collect();
        let before = trainer.loss(&held_out).unwrap().loss;
        for step in 0..20 {
            let batch: Vec<usize> = (0..8).map(|i| (step * 8 + i) % 16).collect();
            trainer.step(&batch, 3e-3).unwrap();
        }
        let after = trainer.loss(&held_out).unwrap().loss;
        assert!(
            after < 0.95 * before,
            "{forward:?}: nothing was learned, {before} and then {after}"
        );
        eprintln!("{forward:?}: held-out loss {before:.4}, then {after:.4}");
        after
    };
    let losses: Vec<f64> =
        common::ways([Kernel::exact(), Kernel::fast()].map(ForwardWeights::Direct))
            .into_iter()
            .map(learn)
            .collect();
    assert!(
        losses
            .iter()
            .all(|loss| (loss - losses[0]).abs() < 0.01 * losses[0]),
        "{losses:?}"
    );
}

#[test]
fn what_cannot_be_trained_is_refused_by_name() {
    let (backend, model) = open(&lab("sprout.f16.gguf"));
    let with = |modules: &str| {
        Trainer::new(
            backend,
            &model,
            &TrainSpec {
                modules: modules.into(),
                ..spec(ForwardWeights::Native)
            },
        )
    };
    let error = with("q,lm_head").err().unwrap().to_string();
    assert!(
        error.contains("lm_head") && error.contains("gate"),
        "{error}"
    );
    assert_eq!(with("q,v").unwrap().adapter().pairs.len(), 10);
}
