//! Examples together, one by one, and in chunks: the same step.

use super::*;

#[test]
fn a_batch_at_once_and_in_pieces_are_the_same_step() {
    let folder = tempfile::tempdir().unwrap();
    let (backend, model) = open(&variant(folder.path(), "sprout", "f32"));
    let mut trainer = awake(backend, &model, &spec(ForwardWeights::Native));
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
    let shape = TinyShape {
        vocabulary: 20_000,
        blocks: 1,
        ..TinyShape::default()
    };
    for (kind, forward, tolerance) in [
        ("f32", ForwardWeights::Native, 1e-5),
        ("q4_1", fast(), 1e-4),
    ] {
        let path = common::tiny(folder.path(), TinyArchitecture::Llama, &shape, kind);
        let (backend, model) = open(&path);
        let with = |loss_bytes| {
            let mut trainer = awake(
                backend,
                &model,
                &TrainSpec {
                    loss_bytes,
                    ..spec(forward)
                },
            );
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
                let error = error(chunked, &common::wide(whole));
                assert!(error < tolerance, "{kind}: {error}");
            }
            assert!(
                chunked_bytes <= least + budget,
                "{chunked_bytes} bytes of {least} and {budget}"
            );
        }
    }
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
    let (a, b) = (error(&a1, &common::wide(&a)), error(&b1, &common::wide(&b)));
    assert!(a < 1e-3, "{a}");
    assert!(b < 1e-2, "{b}");
}
