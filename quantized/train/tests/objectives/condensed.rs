//! Signals that say the same in another form, or nothing at all.

use super::*;

#[test]
fn condensed_is_the_divergence_over_the_whole_vocabulary() {
    for (kind, forward, tolerance) in [
        ("f32", ForwardWeights::Native, 1e-4),
        ("q8_0", ForwardWeights::Native, 1e-2),
        ("q8_0", exact(), 1e-4),
        ("q8_0", fast(), 2e-2),
    ] {
        let lab = Lab::of(kind);
        let plain = examples();
        let teachers = distributions(&plain, 1.0);
        let mut whole = lab.trainer_by(
            Objective::Match {
                divergence: Divergence::Forward,
                temperature: 1.0,
            },
            forward,
        );
        let all = teachers.iter().cloned().map(Teacher::All);
        whole.load(taught(&plain, all)).unwrap();
        let mut condensed = lab.trainer_by(Objective::Condensed, forward);
        let signals: Vec<Teacher> = teachers
            .iter()
            .map(|rows| Teacher::Condensed(condensed.condense(rows).unwrap()))
            .collect();
        condensed.load(taught(&plain, signals)).unwrap();
        let (one, left) = whole.gradients(&[0, 1, 2]).unwrap();
        let (two, right) = condensed.gradients(&[0, 1, 2]).unwrap();
        let left: Vec<Vec<f64>> = left.iter().map(|g| common::wide(g)).collect();
        eprintln!(
            "{kind} {forward:?}: loss {} and {}, worst gradient error {:.1e}",
            one.loss,
            two.loss,
            worst(&right, &left)
        );
        assert!(
            (one.loss - two.loss).abs() < tolerance * one.loss,
            "{} against {}",
            one.loss,
            two.loss
        );
        assert!(worst(&right, &left) < tolerance, "{}", worst(&right, &left));
        if kind == "f32" {
            check_slope(&mut condensed, &right, "condensed");
        }
    }
}

/// Where the teacher is the student there is nothing to learn.
#[test]
fn a_teacher_like_the_student_gives_no_gradient() {
    let lab = Lab::new();
    let mut text = lab.trainer(Objective::Text);
    let plain = examples();
    text.load(plain.clone()).unwrap();
    let wide = |row: Vec<f32>| row.into_iter().map(f64::from).collect::<Vec<f64>>();
    let logits: Vec<Vec<Vec<f64>>> = (0..3)
        .map(|i| text.logits(i).unwrap().into_iter().map(wide).collect())
        .collect();
    let own = |temperature: f64| -> Vec<Vec<Vec<f32>>> {
        let row = |row: &Vec<f64>| {
            softmax(row, temperature)
                .into_iter()
                .map(|p| p as f32)
                .collect()
        };
        logits
            .iter()
            .map(|rows| rows.iter().map(row).collect())
            .collect()
    };
    let strangers = distributions(&plain, 1.0);
    let compare = |objective: Objective,
                   signal: &mut dyn FnMut(&mut Trainer, &[Vec<f32>]) -> Teacher,
                   temperature: f64| {
        let mut trainer = lab.trainer(objective);
        let mut norm_with = |teachers: &[Vec<Vec<f32>>]| {
            let signals: Vec<Teacher> = teachers
                .iter()
                .map(|rows| signal(&mut trainer, rows))
                .collect();
            trainer.load(taught(&plain, signals)).unwrap();
            let (report, gradients) = trainer.gradients(&[0, 1, 2]).unwrap();
            (report.loss, norm(gradients.iter().flatten()))
        };
        let ((loss, here), (_, there)) = (norm_with(&own(temperature)), norm_with(&strangers));
        eprintln!("{objective:?}: loss {loss:.1e}, gradient {here:.1e} against {there:.1e}");
        assert!(loss.abs() < 1e-5, "{objective:?}: {loss}");
        assert!(here < 1e-4 * there, "{objective:?}: {here} against {there}");
    };
    for divergence in DIVERGENCES {
        let objective = Objective::Match {
            divergence,
            temperature: 1.0,
        };
        compare(objective, &mut |_, rows| Teacher::All(rows.to_vec()), 1.0);
        compare(objective, &mut |_, rows| uneven(rows, 8), 1.0);
    }
    compare(
        Objective::Match {
            divergence: Divergence::Forward,
            temperature: 3.0,
        },
        &mut |_, rows| uneven(rows, 8),
        3.0,
    );
    compare(
        Objective::Condensed,
        &mut |trainer, rows| Teacher::Condensed(trainer.condense(rows).unwrap()),
        1.0,
    );
}
