//! Each divergence, and plain text, against the naive reference.

use super::*;

/// A loss of one token's logits, by the numbers of the example and of the token.
type LossOf<'a> = &'a dyn Fn(usize, usize, &[f64]) -> f64;

/// Mean loss and gradients by the reference, with derivatives by the logits from differences of the
/// naive loss.
fn by_reference(
    lab: &Lab,
    trainer: &Trainer,
    examples: &[Example],
    loss_of: LossOf<'_>,
) -> (f64, Vec<Vec<f64>>) {
    common::by_reference(&lab.path, trainer, examples, |e, token, logits| {
        let mut moved = logits.to_vec();
        let slope = |j: usize| {
            let (z, size) = (logits[j], 1e-4);
            let mut at = |z: f64| {
                moved[j] = z;
                loss_of(e, token, &moved)
            };
            let slope = (at(z + size) - at(z - size)) / (2.0 * size);
            moved[j] = z;
            slope
        };
        let slopes = (0..logits.len()).map(slope).collect();
        (loss_of(e, token, logits), slopes)
    })
}

#[test]
fn divergences_are_those_of_the_naive_reference() {
    let lab = Lab::new();
    for (divergence, temperature) in DIVERGENCES.into_iter().zip([1.0_f32, 2.0, 0.7, 1.0]) {
        let mut trainer = lab.trainer(Objective::Match {
            divergence,
            temperature,
        });
        let plain = examples();
        let teachers = distributions(&plain, f64::from(temperature));
        for width in [1, 3, 40, VOCABULARY, 0] {
            let signal = |rows: &Vec<Vec<f32>>| {
                if width == 0 {
                    Teacher::All(rows.clone())
                } else {
                    uneven(rows, width)
                }
            };
            let taught = taught(&plain, teachers.iter().map(signal));
            trainer.load(taught.clone()).unwrap();
            let (report, ours) = trainer.gradients(&[0, 1, 2]).unwrap();
            let loss_of = |e: usize, token: usize, logits: &[f64]| {
                let words = match &taught[e].teacher {
                    Some(Teacher::Likeliest(tokens)) => tokens[token].clone(),
                    _ => likeliest(&teachers[e][token], VOCABULARY),
                };
                naive(divergence, f64::from(temperature), logits, &words)
            };
            let (loss, theirs) = by_reference(&lab, &trainer, &plain, &loss_of);
            let error = worst(&ours, &theirs);
            let what = format!("{divergence:?}, temperature {temperature}, width {width}");
            eprintln!(
                "{what}: loss {:.6} against {loss:.6}, worst gradient error {error:.1e}",
                report.loss
            );
            assert!(
                (report.loss - loss).abs() < 1e-4 * loss,
                "{what}: {} against {loss}",
                report.loss
            );
            assert!(error < 1e-3, "{what}: {error}");
            check_slope(&mut trainer, &ours, &what);
        }
    }
}

#[test]
fn text_with_token_weights_is_that_of_the_naive_reference() {
    let lab = Lab::new();
    let mut trainer = lab.trainer(Objective::Text);
    let examples = examples();
    trainer.load(examples.clone()).unwrap();
    let (report, ours) = trainer.gradients(&[0, 1, 2]).unwrap();
    let loss_of = |e: usize, token: usize, logits: &[f64]| {
        -softmax(logits, 1.0)[examples[e].tokens[examples[e].completion + token] as usize].ln()
    };
    let (loss, theirs) = by_reference(&lab, &trainer, &examples, &loss_of);
    assert!(
        (report.loss - loss).abs() < 1e-5 * loss,
        "{} against {loss}",
        report.loss
    );
    assert!(worst(&ours, &theirs) < 1e-3);
    assert_eq!(report.completion_tokens, 17);
    assert!((report.weight - 14.0).abs() < 1e-6, "{}", report.weight);
    // A token of weight zero may be anything.
    let mut other = examples;
    let token = other[1].completion + 3;
    other[1].tokens[token] += 1;
    trainer.load(other).unwrap();
    assert_eq!(trainer.loss(&[0, 1, 2]).unwrap().loss, report.loss);
}
