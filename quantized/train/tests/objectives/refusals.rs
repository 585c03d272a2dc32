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
    vec![
        (one(), "needs a teacher"),
        (
            one().with_teacher(Teacher::Condensed(Vec::new())),
            "another kind",
        ),
        (
            one().with_teacher(Teacher::Likeliest(vec![vec![(1, 0.5)]])),
            "number of tokens",
        ),
        (one().with_teacher(likeliest(&[])), "says nothing"),
        (
            one().with_teacher(likeliest(&[(1, 0.5), (1, 0.1)])),
            "twice",
        ),
        (
            one().with_teacher(likeliest(&[(259, 0.5)])),
            "another vocabulary",
        ),
        (
            one().with_teacher(likeliest(&[(-1, 0.5)])),
            "another vocabulary",
        ),
        (
            one().with_teacher(likeliest(&[(1, 0.6), (2, 0.6)])),
            "add up",
        ),
        (one().with_teacher(likeliest(&[(1, f32::NAN)])), "add up"),
        (
            one().with_teacher(Teacher::All(vec![vec![0.001; VOCABULARY]; 2])),
            "add up",
        ),
        (
            one().with_teacher(Teacher::All(vec![vec![1.0]; 2])),
            "another vocabulary",
        ),
        (
            one()
                .with_weights(vec![1.0])
                .with_teacher(likeliest(&[(1, 0.5)])),
            "number of weights",
        ),
        (
            one()
                .with_weights(vec![1.0, -1.0])
                .with_teacher(likeliest(&[(1, 0.5)])),
            "below zero",
        ),
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
