//! Signals that do not fit.

use super::*;

/// Two prompt tokens, two of a completion.
fn one() -> Example {
    Example::new(vec![1, 2, 3, 4], 2, 0).unwrap()
}

/// The same words for both tokens.
fn likeliest(words: &[(i32, f32)]) -> Teacher {
    Teacher::Likeliest(vec![words.to_vec(); 2])
}

/// Examples, and what is said of each.
fn unfit() -> Vec<(Example, &'static str)> {
    let taught = |teacher: Teacher| one().with_teacher(teacher);
    let words = |words: &[(i32, f32)]| taught(likeliest(words));
    let all = |row: Vec<f32>| taught(Teacher::All(vec![row; 2]));
    let weighted = |weights: Vec<f32>| words(&[(1, 0.5)]).with_weights(weights);
    let short = Teacher::Likeliest(vec![vec![(1, 0.5)]]);
    vec![
        (one(), "needs a teacher"),
        (taught(Teacher::Condensed(Vec::new())), "another kind"),
        (taught(short), "number of tokens"),
        (words(&[]), "says nothing"),
        (words(&[(1, 0.5), (1, 0.1)]), "twice"),
        (words(&[(259, 0.5)]), "another vocabulary"),
        (words(&[(-1, 0.5)]), "another vocabulary"),
        (words(&[(1, 0.6), (2, 0.6)]), "add up"),
        (words(&[(1, f32::NAN)]), "add up"),
        (all(vec![0.001; VOCABULARY]), "add up"),
        (all(vec![1.0]), "another vocabulary"),
        (weighted(vec![1.0]), "number of weights"),
        (weighted(vec![1.0, -1.0]), "below zero"),
    ]
}

#[test]
fn signals_that_do_not_fit_are_refused() {
    let lab = Lab::new();
    let mut trainer = lab.trainer(Objective::Match {
        divergence: Divergence::Forward,
        temperature: 1.0,
    });
    trainer
        .load(vec![one().with_teacher(likeliest(&[(3, 0.5), (1, 0.5)]))])
        .unwrap();
    for (example, word) in unfit() {
        let error = trainer.load(vec![example.clone()]).unwrap_err().to_string();
        assert!(error.contains(word), "{error} for {example:?}");
        assert!(error.contains("example 0"), "{error} for {example:?}");
    }
    let mixed = vec![
        one().with_teacher(likeliest(&[(1, 0.5)])),
        one().with_teacher(Teacher::All(vec![vec![1.0 / 259.0; VOCABULARY]; 2])),
    ];
    assert!(
        trainer
            .load(mixed)
            .unwrap_err()
            .to_string()
            .contains("example 1")
    );
    // What was loaded before is still there.
    assert!(trainer.loss(&[0]).unwrap().loss.is_finite());
    let spec = |objective| TrainSpec {
        objective,
        ..TrainSpec::default()
    };
    for objective in [
        Objective::Match {
            divergence: Divergence::Forward,
            temperature: 0.0,
        },
        Objective::Match {
            divergence: Divergence::JensenShannon { teacher: 1.0 },
            temperature: 1.0,
        },
    ] {
        assert!(Trainer::new(lab.backend, &lab.model, &spec(objective)).is_err());
    }
    assert!(
        trainer
            .condense(&[vec![1.0]])
            .unwrap_err()
            .to_string()
            .contains("vocabulary of 259")
    );
}
