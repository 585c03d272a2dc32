//! Dropout against finite differences under the same masks.

use super::*;

/// The slope of the loss under the masks of one step is that step's gradient, and masks differ from
/// step to step.
#[test]
fn dropout_masks_the_inputs_of_a_in_both_directions() {
    for forward in common::ways([ForwardWeights::Native, exact()]) {
        check_dropout(forward);
    }
}

fn check_dropout(forward: ForwardWeights) {
    let folder = tempfile::tempdir().unwrap();
    let (backend, model) = open(&variant(folder.path(), "sprout", "f32"));
    let with = |dropout| {
        let mut trainer = awake(
            backend,
            &model,
            &TrainSpec {
                dropout,
                ..spec(forward)
            },
        );
        // A strong adapter: much of the gradient for lower layers flows by way of it.
        common::change_b(&mut trainer, |b| 6.0 * b);
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
    check_slopes(&mut trainer, &gradients, &batch, forward);
    // On the average over many draws, what is left out makes no difference to first order: the
    // gradients point the same way.
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

/// Along the gradient of a matrix the loss under the same masks rises by the gradient's norm.
fn check_slopes(
    trainer: &mut Trainer,
    gradients: &[Vec<f32>],
    batch: &[usize],
    forward: ForwardWeights,
) {
    let base = trainer.adapter().clone();
    let mut worst = 0_f64;
    for p in [0, 3, 6, 17] {
        for slot in [0, 1] {
            let gradient = &gradients[2 * p + slot];
            let norm = common::length(common::wide(gradient));
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
                trainer.gradients(batch).unwrap().0.loss
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
    trainer.set_adapter(base).unwrap();
}
