//! Runs that were stopped go on, and end in the bytes of a straight run.

use crate::pipeline::{seeds_plan, trained};
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use translora::engine::toy::Toy;
use translora::pipeline::{self, Context, Event, Events, PipelineError, Stage};
use translora::record::{Cancel, TestClock};
use translora::request::{self, FilterChoice, Inputs, LabelChoice, Run, Shape, Training, Transfer};

use super::{
    kit, kit_plan, left, plan, resumed, sound, stages_of, train_plan, training, transfer,
    with_context,
};
use crate::toy::{World, remedy};

/// A clock that stops a run when it is read for the n-th time: a run reads it at both ends
/// of every stage.
struct StoppingClock {
    cancel: Cancel,
    reads_left: AtomicUsize,
}

impl translora::record::Clock for StoppingClock {
    fn elapsed(&self) -> std::time::Duration {
        if self.reads_left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.cancel.cancel();
        }
        std::time::Duration::ZERO
    }

    fn unix_seconds(&self) -> u64 {
        0
    }
}

/// Run `work` so that it is cancelled as its `nth` stage begins.
pub fn stopping<T>(nth: usize, work: impl FnOnce(&Context<'_>) -> T) -> T {
    let cancel = Cancel::default();
    let clock = StoppingClock {
        cancel: cancel.clone(),
        reads_left: AtomicUsize::new(2 * nth + 1),
    };
    work(&Context {
        cancel,
        events: Events::none(),
        clock: &clock,
    })
}

#[test]
fn a_transfer_stopped_in_any_stage_and_resumed_is_the_straight_run() {
    let (world, lora) = trained();
    let kit = kit(&world, &lora);
    for filter in [FilterChoice::Kit, FilterChoice::Contrast] {
        let label = match filter {
            FilterChoice::Kit => LabelChoice::Consistent,
            _ => LabelChoice::Greedy,
        };
        let of = |name: &str| Transfer {
            filter,
            label,
            ..plan(&world, &lora, Inputs::Kit(&kit), &format!("{name}.gguf"))
        };
        let name = format!("straight-{filter:?}");
        let stages =
            stages_of(|context| pipeline::transfer(&Toy, &sound(&of(&name)), context).unwrap());
        assert!(stages.contains(&Stage::Distill), "{stages:?}");
        assert!(stages.last() == Some(&Stage::Publish), "{stages:?}");
        let straight = left(&world, &name);
        // The first stage reads inputs; before it ends there is nothing to keep.
        for (nth, stage) in stages.iter().enumerate().skip(1) {
            let name = format!("{nth}-{stage:?}-{filter:?}");
            let plan = of(&name);
            let error = stopping(nth, |context| {
                pipeline::transfer(&Toy, &sound(&plan), context)
            })
            .expect_err(&name);
            assert!(matches!(error, PipelineError::Cancelled), "{name}: {error}");
            assert!(remedy(&error).contains("resume"), "{name}: {error}");
            assert!(
                world.path(&format!("{name}.gguf.journal")).is_dir(),
                "{name}: the journal is kept"
            );
            assert!(!world.path(&format!("{name}.gguf")).exists(), "{name}");
            let again = transfer(&plan).unwrap_err();
            assert!(again.to_string().contains("unfinished run"), "{again}");
            assert!(remedy(&again).contains("resume"), "{again}");
            transfer(&Transfer {
                run: resumed(),
                ..plan
            })
            .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(
                left(&world, &name) == straight,
                "{name} is not the straight run"
            );
        }
    }
}

/// A clock that goes on with each reading, so that no two runs take the same time.
struct MovingClock(AtomicUsize);

impl translora::record::Clock for MovingClock {
    fn elapsed(&self) -> std::time::Duration {
        let read = self.0.fetch_add(1, Ordering::SeqCst) as u64;
        std::time::Duration::from_millis(read * read)
    }

    fn unix_seconds(&self) -> u64 {
        0
    }
}

/// The report that lies there tells the times of the run that wrote it; the next one must not take
/// it for somebody's.
#[test]
fn a_run_that_was_stopped_while_it_published_goes_on() {
    let (world, lora) = trained();
    let plan = seeds_plan(&world, &lora, "new.gguf");
    let stages = stages_of(|context| {
        pipeline::transfer(
            &Toy,
            &sound(&Transfer {
                out: world.path("straight.gguf"),
                ..plan.clone()
            }),
            context,
        )
        .unwrap()
    });
    let stopped = stopping(stages.len() - 1, |context| {
        pipeline::transfer(&Toy, &sound(&plan), context)
    });
    assert!(matches!(stopped, Err(PipelineError::Cancelled)));
    let resume = |read: usize| {
        let context = Context {
            cancel: Cancel::default(),
            events: Events::none(),
            clock: &MovingClock(AtomicUsize::new(read)),
        };
        pipeline::transfer(
            &Toy,
            &sound(&Transfer {
                run: resumed(),
                ..plan.clone()
            }),
            &context,
        )
    };
    // The adapter is written last: with a file in its way everything else is there.
    fs::write(world.path("new.gguf"), "in the way").unwrap();
    let error = resume(10).unwrap_err();
    assert!(error.to_string().contains("new.gguf"), "{error}");
    assert!(world.path("new.gguf.journal").is_dir(), "{error}");
    let report = fs::read(world.path("new.report.json")).unwrap();
    fs::remove_file(world.path("new.gguf")).unwrap();
    resume(1000).unwrap();
    assert_eq!(fs::read(world.path("new.report.json")).unwrap(), report);
    assert!(
        fs::read(world.path("new.gguf")).unwrap() == fs::read(world.path("straight.gguf")).unwrap()
    );
    assert!(!world.path("new.gguf.journal").exists());
    assert!(!world.path(".new.gguf.journal.over").exists());
}

#[test]
fn a_run_that_has_ended_is_ended_for_who_resumes_it_and_in_the_way_of_another() {
    let (world, lora) = trained();
    let plan = Transfer {
        run: resumed(),
        ..seeds_plan(&world, &lora, "new.gguf")
    };
    let first = transfer(&plan).unwrap();
    let bytes = fs::read(world.path("new.gguf")).unwrap();
    let again = transfer(&plan).unwrap();
    assert_eq!(
        (again.verdict, &again.scores),
        (first.verdict, &first.scores)
    );
    assert!(fs::read(world.path("new.gguf")).unwrap() == bytes);
    let other = Transfer {
        samples: plan.samples + 1,
        ..plan.clone()
    };
    for another in [other, seeds_plan(&world, &lora, "new.gguf")] {
        let error = transfer(&another).unwrap_err();
        assert!(
            error.to_string().contains("there is a file already"),
            "{error}"
        );
    }
    fs::write(&world.eval, "{\"prompt\": \"a\", \"completion\": \"b\"}\n").unwrap();
    assert!(transfer(&plan).is_err(), "the rows are others");
}

#[test]
fn kits_resume_too() {
    let (world, lora) = trained();
    let kit_plan = |name: &str| request::Kit {
        out: world.path(&format!("{name}/ticket.kit")),
        ..kit_plan(&world, &lora)
    };
    fs::create_dir(world.path("straight")).unwrap();
    let stages =
        stages_of(|context| pipeline::kit(&Toy, &sound(&kit_plan("straight")), context).unwrap());
    let straight = fs::read(world.path("straight/ticket.kit")).unwrap();
    for nth in 1..stages.len() {
        let name = format!("kit-{nth}");
        fs::create_dir(world.path(&name)).unwrap();
        let error = stopping(nth, |context| {
            pipeline::kit(&Toy, &sound(&kit_plan(&name)), context)
        })
        .unwrap_err();
        assert!(matches!(error, PipelineError::Cancelled), "{name}: {error}");
        let plan = request::Kit {
            run: resumed(),
            ..kit_plan(&name)
        };
        let report = with_context(|context| pipeline::kit(&Toy, &sound(&plan), context)).unwrap();
        assert!(report.accuracy.unwrap() > 0.8, "{report:?}");
        assert!(report.positives == 300, "{report:?}");
        assert!(
            fs::read(plan.out).unwrap() == straight,
            "{name} is not the straight run"
        );
    }
}

/// Run `work` so that it is cancelled once ten steps of training are done.
fn stopping_in_training<T: Send>(work: impl FnOnce(&Context<'_>) -> T + Send) -> T {
    let (events, receiver) = Events::channel(usize::MAX);
    let cancel = Cancel::default();
    let clock = TestClock::default();
    let context = Context {
        cancel: cancel.clone(),
        events,
        clock: &clock,
    };
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || work(&context));
        for event in receiver {
            if matches!(
                event,
                Event::Progress {
                    stage: Stage::Distill,
                    done: 10..,
                    ..
                }
            ) {
                cancel.cancel();
            }
        }
        worker.join().expect("the worker lives")
    })
}

#[test]
fn training_stopped_between_two_steps_goes_on_from_there() {
    let world = World::new();
    let plan = |name: &str| request::Train {
        epochs: 40.0,
        ..train_plan(&world, &world.source, &world.train, name)
    };
    with_context(|context| pipeline::train(&Toy, &sound(&plan("straight.gguf")), context)).unwrap();
    let stopped = stopping_in_training(|context| {
        pipeline::train(&Toy, &sound(&plan("halted.gguf")), context)
    });
    assert!(matches!(stopped, Err(PipelineError::Cancelled)));
    let checkpoint = fs::read(world.path("halted.gguf.journal/distill.checkpoint.bin")).unwrap();
    assert!(String::from_utf8_lossy(&checkpoint[..40]).contains("\"steps\":"));
    with_context(|context| {
        pipeline::train(
            &Toy,
            &sound(&request::Train {
                run: resumed(),
                ..plan("halted.gguf")
            }),
            context,
        )
    })
    .unwrap();
    assert!(left(&world, "halted") == left(&world, "straight"));
}

#[test]
fn training_that_diverges_is_kept_and_goes_on_with_a_lower_rate() {
    let world = World::new();
    let plan = |lr: f32, resume: bool| {
        let shape = Shape {
            weight_decay: 60_000.0,
            ..training().shape
        };
        request::Train {
            training: Training {
                lr: Some(lr),
                shape,
                ..training()
            },
            epochs: 40.0,
            run: Run {
                resume,
                ..Run::default()
            },
            ..train_plan(&world, &world.source, &world.train, "wild.gguf")
        }
    };
    let error = with_context(|context| pipeline::train(&Toy, &sound(&plan(0.01, false)), context))
        .unwrap_err();
    assert!(error.to_string().contains("not finite"), "{error}");
    assert!(remedy(&error).contains("resume"), "{:?}", remedy(&error));
    assert!(
        world
            .path("wild.gguf.journal/distill.checkpoint.bin")
            .is_file()
    );
    let mut other = plan(1e-5, true);
    other.training.shape.rank = 4;
    let changed =
        with_context(|context| pipeline::train(&Toy, &sound(&other), context)).unwrap_err();
    assert!(
        changed.to_string().contains("the plan changed"),
        "{changed}"
    );
    let report =
        with_context(|context| pipeline::train(&Toy, &sound(&plan(1e-5, true)), context)).unwrap();
    assert!(report.loss_last.is_finite() && report.fit.learning_rates.last().unwrap().1 == 1e-5);
}
