//! Gradients against finite differences, against the CPU's, and against the naive reference.

use super::*;

/// On the CPU, whatever the device: a quotient divides the difference of two losses, a thousandth
/// of either, and exponentials on devices are approximations with errors near 1e-5. Their gradients
/// are compared with the CPU's.
#[test]
fn gradients_match_finite_differences() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["sprout", "branch"] {
        let cpu = common::device().filter(|name| name == "CPU");
        let (backend, model) = common::open_on(&variant(folder.path(), name, "f32"), cpu);
        let mut trainer = awake(backend, &model, &spec(ForwardWeights::Native));
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
                let norm = common::length(common::wide(gradient));
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
    let near = if device == "CPU" { 1e-4 } else { 1e-2 };
    for (name, kind, tolerance) in [
        ("sprout", "f32", near),
        ("branch", "f32", near),
        ("branch", "f16", 5e-2),
        ("branch", "q8_0", 5e-2),
    ] {
        let path = variant(folder.path(), name, kind);
        let gradients = |device: Option<&str>| {
            let (backend, model) = common::open_on(&path, device.map(Into::into));
            let forward = if device.is_some() {
                ForwardWeights::Native
            } else {
                exact()
            };
            let mut trainer = awake(backend, &model, &spec(forward));
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
            let error = error(ours, &common::wide(theirs));
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

#[test]
fn gradients_match_the_naive_reference() {
    let folder = tempfile::tempdir().unwrap();
    for architecture in TinyArchitecture::ALL {
        let name = architecture.name();
        let mut cases = vec![
            ("f32", ForwardWeights::Native, 1e-4),
            ("f16", ForwardWeights::Native, 1e-2),
            ("f32", exact(), 1e-4),
            ("q8_0", exact(), 1e-4),
            ("q4_1", exact(), 1e-4),
            ("q8_0", fast(), 2e-2),
            ("q4_1", fast(), 2e-2),
            ("q8_0", ForwardWeights::Native, 5e-2),
        ];
        if common::device().is_some() {
            // What is left to differ is the type.
            cases = ["f32", "f16", "q8_0", "q4_1"]
                .map(|kind| (kind, ForwardWeights::Native, 0.0))
                .into();
        }
        for (kind, forward, tolerance) in cases {
            let path = common::tiny(folder.path(), architecture, &TinyShape::default(), kind);
            let (backend, model) = open(&path);
            let mut trainer = awake(backend, &model, &spec(forward));
            let examples = random_examples(24);
            trainer.load(examples.clone()).unwrap();
            let batch: Vec<usize> = (0..examples.len()).collect();
            let (report, ours) = trainer.gradients(&batch).unwrap();
            let (loss, theirs) =
                common::by_reference(&path, &trainer, &examples, |e, token, logits| {
                    common::cross_entropy(&examples[e], token, logits)
                });
            let worst = common::worst(&ours, &theirs);
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
