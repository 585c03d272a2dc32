//! What steps do to the numbers, and what snapshots keep of it.

use super::*;

/// AdamW's first step is the learning rate in every entry that has a gradient, so a ratio of rates
/// is a ratio of steps.
#[test]
fn b_moves_at_its_own_rate_and_weights_decay() {
    let (backend, model) = open(&lab("sprout.f16.gguf"));
    let first_step = |lora_plus_ratio, weight_decay| {
        let optimizer = translora_train::AdamW {
            epsilon: 0.0,
            weight_decay,
            ..Default::default()
        };
        let mut trainer = awake(
            backend,
            &model,
            &TrainSpec {
                lora_plus_ratio,
                optimizer,
                ..spec(fast())
            },
        );
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
    assert!((a / 2e-3 - 1.0).abs() < 1e-3, "{a} {b}");
    assert!((b / 2e-3 - 1.0).abs() < 1e-3, "{a} {b}");
    let (a, b, plain) = first_step(16.0, 0.0);
    assert!((a / 2e-3 - 1.0).abs() < 1e-3, "{a} {b}");
    assert!((b / 32e-3 - 1.0).abs() < 1e-3, "{a} {b}");
    let (_, _, decayed) = first_step(1.0, 5.0);
    let fresh = awake(backend, &model, &spec(fast()));
    let [values, _] = numbers(&fresh);
    for ((value, plain), decayed) in values.iter().zip(&plain).zip(&decayed) {
        assert!(
            (decayed - (plain - 2e-3 * 5.0 * value)).abs() < 1e-6,
            "{value}: {plain} {decayed}"
        );
    }
}

#[test]
fn a_restored_run_goes_on_with_the_same_bytes() {
    let (backend, model) = open(&lab("sprout.f16.gguf"));
    let fresh = || {
        let direct = fast();
        let spec = TrainSpec {
            dropout: 0.1,
            lora_plus_ratio: 4.0,
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
    assert!(error.contains("lm_head"), "{error}");
    assert!(error.contains("gate"), "{error}");
    assert_eq!(with("q,v").unwrap().adapter().pairs.len(), 10);
}
