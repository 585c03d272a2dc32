//! Heads that do more than multiply with the output matrix.

use super::*;

/// The mean loss of logits that the trainer gives, by the naive losses.
fn by_logits(trainer: &mut Trainer, examples: &[Example], loss_of: Naive<'_>) -> f64 {
    let (mut sum, mut total) = (0.0, 0.0);
    for (e, example) in examples.iter().enumerate() {
        for (token, row) in trainer.logits(e).unwrap().iter().enumerate() {
            let weight = common::weight(example, token);
            sum += weight * loss_of(e, token, &common::wide(row));
            total += weight;
        }
    }
    sum / total
}

/// Losses of one token's logits.
type Naive<'a> = &'a dyn Fn(usize, usize, &[f64]) -> f64;

/// The loss is the naive one, and rises along its gradient.
fn check(trainer: &mut Trainer, naive: Naive<'_>, tolerance: f64, what: &str) {
    let (report, gradients) = trainer.gradients(&[0, 1, 2]).unwrap();
    let loss = by_logits(trainer, &examples(), naive);
    eprintln!("{what}: loss {:.6} against {loss:.6}", report.loss);
    assert!(
        (report.loss - loss).abs() < tolerance * loss,
        "{what}: {} against {loss}",
        report.loss
    );
    check_slope(trainer, &gradients, what);
}

/// Logits that are scaled after the product with the output matrix, or that pass a tanh: the
/// gradient passes all of it.
#[test]
fn heads_with_a_tail_are_differentiated_too() {
    let plain = examples();
    let teachers = distributions(&plain, 2.0);
    for architecture in [TinyArchitecture::Granite, TinyArchitecture::Gemma2] {
        for forward in [ForwardWeights::Native, exact()] {
            let what = format!("{architecture:?} {forward:?}");
            let lab = Lab::with(architecture, "f32");
            let mut text = lab.trainer_by(Objective::Text, forward);
            text.load(plain.clone()).unwrap();
            let label = |e: usize, token: usize, z: &[f64]| {
                -softmax(z, 1.0)[plain[e].tokens[plain[e].completion + token] as usize].ln()
            };
            check(&mut text, &label, 1e-5, &format!("{what} text"));
            let objective = Objective::Match {
                divergence: Divergence::Reverse,
                temperature: 2.0,
            };
            let mut reverse = lab.trainer_by(objective, forward);
            let signals = teachers.iter().map(|rows| uneven(rows, 5));
            reverse.load(taught(&plain, signals)).unwrap();
            let divergence = |e: usize, token: usize, z: &[f64]| {
                let words = likeliest(&teachers[e][token], 5 - token % 2);
                naive(Divergence::Reverse, 2.0, z, &words)
            };
            check(&mut reverse, &divergence, 1e-5, &format!("{what} reverse"));
        }
    }
}

/// A condensed signal passes a scale. A tanh is refused: behind it the vector is not the whole
/// signal.
#[test]
fn condensed_signals_need_a_head_that_is_linear() {
    let plain = examples();
    let teachers = distributions(&plain, 1.0);
    for forward in [ForwardWeights::Native, exact()] {
        let lab = Lab::with(TinyArchitecture::Granite, "f32");
        let mut condensed = lab.trainer_by(Objective::Condensed, forward);
        let signals: Vec<Teacher> = teachers
            .iter()
            .map(|rows| Teacher::Condensed(condensed.condense(rows).unwrap()))
            .collect();
        condensed.load(taught(&plain, signals)).unwrap();
        let kl = |e: usize, token: usize, z: &[f64]| {
            let words = likeliest(&teachers[e][token], VOCABULARY);
            naive(Divergence::Forward, 1.0, z, &words)
        };
        check(&mut condensed, &kl, 1e-4, &format!("{forward:?} condensed"));
        let lab = Lab::with(TinyArchitecture::Gemma2, "f32");
        let spec = TrainSpec {
            objective: Objective::Condensed,
            forward,
            ..TrainSpec::default()
        };
        let refused = Trainer::new(lab.backend, &lab.model, &spec).err().unwrap();
        let error = refused.to_string();
        assert!(error.contains("TANH"), "{error}");
        assert!(error.contains("likeliest"), "{error}");
    }
}
