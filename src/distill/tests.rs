use super::*;
use crate::engine::toy::{self, Toy};
use crate::engine::{LoraSpec, Model};

fn recipe() -> Recipe {
    Recipe {
        spec: LoraSpec { rank: 4, ..LoraSpec::default() },
        epochs: 3.0,
        batch: 8,
        learning_rate: 4e-3,
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
struct Kept(Vec<Checkpoint>);

impl Checkpoints for Kept {
    fn save(&mut self, checkpoint: &Checkpoint) -> io::Result<()> {
        self.0.push(checkpoint.clone());
        Ok(())
    }
}

/// Fit on 40 rows; ask to stop when step `stop_at` is done.
fn run(recipe: &Recipe, resume: Option<Checkpoint>, stop_at: u64, kept: &mut Kept) -> Result<Fitted, DistillError> {
    let cancel = Cancel::default();
    let mut watch = |line: &StepLine| {
        if line.step == stop_at {
            cancel.cancel();
        }
    };
    let run = Run { cancel: &cancel, watch: &mut watch, checkpoints: kept, resume, metadata: &[] };
    fit(&mut *model(), &toy::world::rows(40, 1), recipe, run)
}

#[test]
fn the_loss_falls_along_the_same_trajectory_every_time() {
    let one = run(&recipe(), None, u64::MAX, &mut Kept::default()).unwrap();
    assert_eq!((one.report.examples, one.report.steps), (40, 15));
    assert!(one.report.loss_last < 0.7 * one.report.loss_first, "{:?}", one.report);
    assert_eq!(one, run(&recipe(), None, u64::MAX, &mut Kept::default()).unwrap());
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
fn early_stop_ends_a_run_that_no_longer_improves() {
    let stop = EarlyStop { one_in: 4, patience: 1 };
    let recipe = Recipe { epochs: 200.0, learning_rate: 0.1, early_stop: Some(stop), ..recipe() };
    let fitted = run(&recipe, None, u64::MAX, &mut Kept::default()).unwrap();
    assert!(fitted.report.stopped_early && fitted.report.steps < 200 * 4, "{:?}", fitted.report.steps);
    assert_eq!(fitted.report.examples, 30);
}

#[test]
fn nothing_to_train_on_is_an_error() {
    let run = Run { cancel: &Cancel::default(), watch: &mut |_| {}, checkpoints: &mut NoCheckpoints, resume: None, metadata: &[] };
    assert!(matches!(fit(&mut *model(), &[], &recipe(), run), Err(DistillError::NoExamples)));
}
