//! Runs one job: the work on a thread of its own, its events and Ctrl-C on this one.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, bounded, select};
use translora::engine::Engine;
use translora::jobs::Meter;
use translora::pipeline::{Context, Event, Events, PipelineError};
use translora::record::{Cancel, Limits};

use crate::failure::Failure;
use crate::progress::{Screen, Verbosity};

/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Do `work` with the engine that reads `base` and show what it says.
pub fn run<R: Send>(
    verbosity: Verbosity,
    base: &Path,
    limits: &Limits,
    work: impl FnOnce(&dyn Engine, &Context<'_>) -> Result<R, PipelineError> + Send,
) -> Result<R, Failure> {
    let cancel = Cancel::default();
    let interrupts = listen(cancel.clone())?;
    let (events, receiver) = Events::channel(limits.events_queued_max);
    let clock = Meter::default();
    let mut screen = Screen::new(verbosity, &clock);
    thread::scope(|scope| {
        let clock = &clock;
        let worker = scope.spawn(move || -> Result<R, Failure> {
            let engine = engine(base)?;
            // The events end with this context, and with them the loop below.
            let context = Context {
                cancel,
                events,
                clock,
            };
            Ok(work(engine.as_ref(), &context)?)
        });
        watch(&mut screen, &receiver, &interrupts);
        worker
            .join()
            .unwrap_or_else(|_| Err(Failure::Bug("the job panicked".into())))
    })
}

fn watch(screen: &mut Screen<'_>, events: &Receiver<Event>, interrupts: &Receiver<()>) {
    loop {
        select! {
            recv(events) -> event => match event {
                Ok(event) => screen.show(event),
                Err(_) => break,
            },
            recv(interrupts) -> heard => if heard.is_ok() {
                screen.line("stopping at the next safe point; press again to kill");
            },
        }
    }
    screen.stop();
}

/// Turn the first Ctrl-C into a request to stop and the second into an end.
fn listen(cancel: Cancel) -> Result<Receiver<()>, ctrlc::Error> {
    let (sender, receiver) = bounded(1);
    let asked = AtomicBool::new(false);
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::SeqCst) {
            #[expect(
                clippy::disallowed_methods,
                reason = "the second Ctrl-C ends it at once"
            )]
            std::process::exit(INTERRUPTED);
        }
        cancel.cancel();
        // A full channel has been told already.
        _ = sender.try_send(());
    })?;
    Ok(receiver)
}

pub fn engine(base: &Path) -> Result<Box<dyn Engine>, Failure> {
    let engine = translora::engine::of_base(base)?;
    if engine.version() == "toy" {
        let why = if cfg!(feature = "ggml") {
            "is a toy base, which is for tests"
        } else {
            "is opened by the toy engine, which is for tests: this build has no llama.cpp (feature `ggml` is off)"
        };
        crate::out::say(&format!("warning: {} {why}", base.display()));
    }
    Ok(engine)
}
