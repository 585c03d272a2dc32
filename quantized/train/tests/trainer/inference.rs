//! What the trainer computes is what llama.cpp computes.

use super::*;

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
            let mut trainer = awake(backend, &model, &spec(ForwardWeights::Native));
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

/// The file's alpha over the rank is alpha over the root of the rank; llama.cpp and the trainer
/// agree on it.
#[test]
fn rank_stabilized_scale_is_in_the_file() {
    let (backend, model) = open(&lab("sprout.f16.gguf"));
    let mut trainer = awake(
        backend,
        &model,
        &TrainSpec {
            rslora: true,
            ..spec(ForwardWeights::Native)
        },
    );
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
