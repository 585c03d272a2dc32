use super::*;
use crate::engine::toy::{self, Toy};
use crate::engine::{LoraSpec, Model, With};
use crate::request::{Schedule, Shape};

fn recipe() -> Recipe {
    Recipe {
        spec: LoraSpec {
            shape: Shape {
                rank: 4,
                ..Shape::default()
            },
            ..LoraSpec::default()
        },
        epochs: 3.0,
        restarts: 0,
        learning_rate: 4e-3,
        schedule: Schedule::Cosine,
        warmup: 0.05,
        checkpoint_every: 5,
        early_stop: None,
        seed: 1,
    }
}

fn model() -> Box<dyn Model> {
    Toy.open_base(toy::world::old_base())
}

#[derive(Default)]
struct Kept(Vec<Checkpoint>, Vec<String>, Vec<f32>);

impl Checkpoints for Kept {
    fn save(&mut self, checkpoint: &Checkpoint) -> io::Result<()> {
        self.0.push(checkpoint.clone());
        Ok(())
    }
}

/// Fit on 40 rows; ask to stop when step `stop_at` is done.
fn run(
    recipe: &Recipe,
    resume: Option<Checkpoint>,
    stop_at: u64,
    kept: &mut Kept,
) -> Result<Fitted, DistillError> {
    let (cancel, mut warnings, mut rates) = (Cancel::default(), Vec::new(), Vec::new());
    let mut watch = |line: &StepLine| {
        rates.push(line.learning_rate);
        if line.step == stop_at {
            cancel.cancel();
        }
    };
    let (watch, warn, note) = (&mut watch, &mut |text| warnings.push(text), &mut |_| {});
    let run = Run {
        cancel: &cancel,
        watch,
        warn,
        note,
        detail: &mut |_| {},
        checkpoints: kept,
        resume,
        metadata: &[],
        probed: &[],
    };
    let fitted = fit(&mut *model(), &toy::world::rows(40, 1), recipe, run);
    (kept.1, kept.2) = (warnings, rates);
    fitted
}

#[test]
fn the_loss_falls_along_the_same_trajectory_every_time() {
    let one = run(&recipe(), None, u64::MAX, &mut Kept::default()).unwrap();
    assert_eq!((one.report.examples, one.report.steps), (40, 15));
    assert!(
        one.report.loss_last < 0.7 * one.report.loss_first,
        "{:?}",
        one.report
    );
    assert_eq!(
        one,
        run(&recipe(), None, u64::MAX, &mut Kept::default()).unwrap()
    );
}

#[test]
fn what_is_not_learnt_starts_the_schedule_again() {
    let short = Recipe {
        restarts: 2,
        ..recipe()
    };
    let mut kept = Kept::default();
    let twice = run(&short, None, u64::MAX, &mut kept).unwrap();
    assert_eq!(twice.report.steps, 45);
    assert_eq!(&twice.report.restarts, &vec![15, 30]);
    let rates = kept.2;
    assert_eq!(rates[..15].to_vec(), rates[30..].to_vec());
    assert_eq!(rates[15..30].to_vec(), rates[..15].to_vec());
    for stop_at in [14, 15, 16, 31] {
        let mut kept = Kept::default();
        run(&short, None, stop_at, &mut kept).unwrap_err();
        assert!(
            run(&short, kept.0.pop(), u64::MAX, &mut Kept::default()).unwrap() == twice,
            "stopped after step {stop_at}"
        );
    }
    let long = run(
        &Recipe {
            epochs: 150.0,
            learning_rate: 0.1,
            ..short
        },
        None,
        u64::MAX,
        &mut Kept::default(),
    )
    .unwrap();
    assert!(long.report.restarts.is_empty(), "{:?}", long.report);
}

#[test]
fn resume_is_the_straight_run_byte_for_byte() {
    let straight = run(&recipe(), None, u64::MAX, &mut Kept::default()).unwrap();
    for stop_at in [1, 5, 7, 14] {
        let mut kept = Kept::default();
        let error = run(&recipe(), None, stop_at, &mut kept).unwrap_err();
        assert!(error.is_cancelled());
        let last = kept.0.pop().unwrap();
        assert_eq!(last.progress.steps, stop_at);
        let resumed = run(&recipe(), Some(last), u64::MAX, &mut Kept::default()).unwrap();
        assert!(resumed == straight, "stopped after step {stop_at}");
    }
}

#[test]
fn early_stop_ends_a_run_that_no_longer_improves_and_keeps_the_best() {
    let stop = EarlyStop {
        one_in: 4,
        patience: 1,
    };
    let recipe = Recipe {
        epochs: 200.0,
        learning_rate: 0.1,
        early_stop: Some(stop),
        ..recipe()
    };
    let fitted = run(&recipe, None, u64::MAX, &mut Kept::default()).unwrap();
    let report = &fitted.report;
    assert!(report.stopped_early, "{:?}", report.steps);
    assert!(report.steps < 200 * 4, "{:?}", report.steps);
    assert_eq!(report.examples, 30);
    let best = (0..report.held_out.len())
        .min_by(|&i, &j| report.held_out[i].total_cmp(&report.held_out[j]))
        .unwrap();
    assert_eq!(best, report.held_out.len() - 3);
    assert_eq!(report.kept_step, report.steps - 2 * 4);
    // The straight run to that step: the same schedule, cancelled there.
    let mut kept = Kept::default();
    assert!(
        run(&recipe, None, report.kept_step, &mut kept)
            .unwrap_err()
            .is_cancelled()
    );
    let mut model = model();
    let mut trainer = model.trainer(&recipe.spec).unwrap();
    trainer.load(&toy::world::rows(40, 1)).unwrap();
    trainer.restore(&kept.0.pop().unwrap().snapshot).unwrap();
    assert_eq!(fitted.adapter, trainer.adapter(&[]).unwrap());
}

#[test]
fn a_resumed_run_knows_the_best_adapter_of_before() {
    let stop = EarlyStop {
        one_in: 4,
        patience: 1,
    };
    let recipe = Recipe {
        epochs: 200.0,
        learning_rate: 0.1,
        early_stop: Some(stop),
        ..recipe()
    };
    let straight = run(&recipe, None, u64::MAX, &mut Kept::default()).unwrap();
    let mut kept = Kept::default();
    run(&recipe, None, straight.report.kept_step + 1, &mut kept).unwrap_err();
    assert!(run(&recipe, kept.0.pop(), u64::MAX, &mut Kept::default()).unwrap() == straight);
}

/// Decay times rate above 2 makes weights grow without end, below 2 it shrinks them: 6 and 3
/// diverge, 1.5 does not.
fn unstable(decay: f32) -> Recipe {
    let spec = LoraSpec {
        shape: Shape {
            weight_decay: decay,
            ..recipe().spec.shape
        },
        ..recipe().spec
    };
    Recipe {
        spec,
        epochs: 40.0,
        learning_rate: 0.01,
        warmup: 0.0,
        schedule: Schedule::Constant,
        ..recipe()
    }
}

#[test]
fn a_step_that_is_not_finite_is_taken_again_at_a_lower_rate() {
    let mut kept = Kept::default();
    let straight = run(&unstable(600.0), None, u64::MAX, &mut kept).unwrap();
    let rates: Vec<f32> = straight
        .report
        .learning_rates
        .iter()
        .map(|(_, rate)| *rate)
        .collect();
    assert_eq!(rates, [0.01, 0.005, 0.0025]);
    assert_eq!((straight.report.steps, kept.1.len()), (200, 2));
    assert!(kept.1[0].contains("not finite") && straight.report.loss_last.is_finite());
    // Stopped after the second halving, and gone on.
    let mut kept = Kept::default();
    run(&unstable(600.0), None, 190, &mut kept).unwrap_err();
    assert!(
        run(
            &unstable(600.0),
            kept.0.pop(),
            u64::MAX,
            &mut Kept::default()
        )
        .unwrap()
            == straight
    );
}

#[test]
fn a_run_that_cannot_be_saved_stops_with_its_last_good_state() {
    let mut kept = Kept::default();
    let error = run(&unstable(60_000.0), None, u64::MAX, &mut kept).unwrap_err();
    let DistillError::Diverged {
        step, halvings: 3, ..
    } = error
    else {
        panic!("{error}")
    };
    assert!(error.can_go_on(), "{error}");
    assert!(
        error.to_string().contains(&format!("step {step}")),
        "{error}"
    );
    let last = kept.0.pop().unwrap();
    assert!(last.progress.steps < step);
    // Another rate goes on from there; the same one fails at once.
    let again = run(
        &unstable(60_000.0),
        Some(last.clone()),
        u64::MAX,
        &mut Kept::default(),
    )
    .unwrap_err();
    assert!(
        matches!(again, DistillError::Diverged { halvings: 3, .. }),
        "{again}"
    );
    let gentle = Recipe {
        learning_rate: 1e-5,
        ..unstable(60_000.0)
    };
    let mut kept = Kept::default();
    let fitted = run(&gentle, Some(last), u64::MAX, &mut kept).unwrap();
    assert!(kept.2.iter().all(|rate| *rate == 1e-5), "{:?}", kept.2);
    assert_eq!(fitted.report.learning_rates.last().unwrap().1, 1e-5);
}

#[test]
fn nothing_to_train_on_is_an_error() {
    let run = Run {
        cancel: &Cancel::default(),
        watch: &mut |_| {},
        warn: &mut |_| {},
        note: &mut |_| {},
        detail: &mut |_| {},
        checkpoints: &mut NoCheckpoints,
        resume: None,
        metadata: &[],
        probed: &[],
    };
    assert!(matches!(
        fit(&mut *model(), &[], &recipe(), run),
        Err(DistillError::NoExamples)
    ));
}

#[test]
fn a_curve_has_even_stretches_and_every_step() {
    assert_eq!(curve(&[]), []);
    assert_eq!(curve(&[3.0, 1.0]), [(1, 3.0), (2, 1.0)]);
    let losses: Vec<f64> = (0..250).map(f64::from).collect();
    let points = curve(&losses);
    assert_eq!(points.len(), 84);
    assert_eq!(points[0], (3, 1.0));
    assert_eq!(points[83], (250, 249.0));
}

#[test]
fn rows_that_are_not_trained_on_are_probed() {
    let rows = toy::world::rows(44, 1);
    let probed = &rows[40..];
    let cancel = Cancel::default();
    let (watch, warn, note, detail) = (
        &mut |_: &StepLine| {},
        &mut |_| {},
        &mut |_| {},
        &mut |_| {},
    );
    let run = Run {
        cancel: &cancel,
        watch,
        warn,
        note,
        detail,
        checkpoints: &mut NoCheckpoints,
        resume: None,
        metadata: &[],
        probed,
    };
    let fitted = fit(&mut *model(), &rows[..40], &recipe(), run).unwrap();
    let plain = self::run(&recipe(), None, u64::MAX, &mut Kept::default()).unwrap();
    assert!(fitted.probes.len() == 4, "probing changes nothing");
    assert!(plain.probes.is_empty(), "probing changes nothing");
    assert!(fitted.adapter == plain.adapter, "probing changes nothing");
    let mut model = model();
    for probe in &fitted.probes {
        assert!(probe.tokens() == 1);
        assert!(
            probe
                .error(&model.logits(With::Base, &probe.row).unwrap())
                .is_none_or(|error| error > 0.1)
        );
    }
}
