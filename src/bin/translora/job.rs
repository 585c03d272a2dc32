//! Runs one job: the work on a thread of its own, its events and the signals to stop on this one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use crossbeam_channel::{Receiver, bounded, select};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use translora::engine::Engine;
use translora::jobs::Meter;
use translora::pipeline::{Context, Event, Events, PipelineError};
use translora::record::{Cancel, Limits};

use crate::failure::Failure;
use crate::progress::{Screen, Verbosity};

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
                screen.line("stopping at the next safe point; a second signal ends it at once");
            },
        }
    }
    screen.stop();
}

/// Turn the first signal of Ctrl-C or of a supervisor into a request to stop, and the second into
/// an end. Each first signal is one message.
pub fn listen(cancel: Cancel) -> Result<Receiver<()>, Failure> {
    let (sender, receiver) = bounded(1);
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(Failure::Signals)?;
    let heard = move || {
        let mut signals = signals.forever();
        if signals.next().is_some() {
            cancel.cancel();
            // Nobody reads it at the end of the job.
            _ = sender.send(());
        }
        for signal in signals {
            // Where it fails, the next signal tries again.
            _ = emulate_default_handler(signal);
        }
    };
    let thread = thread::Builder::new().name("signals".into());
    thread.spawn(heard).map_err(Failure::Signals)?;
    Ok(receiver)
}

/// Let a write beyond the limit on the size of files (`ulimit -f`) fail as one beyond the end of the
/// disk does. Left alone, the system would end the process without a word.
#[cfg(unix)]
pub fn survive_limits() -> Result<(), Failure> {
    let heard = Arc::new(AtomicBool::new(false));
    let listening = signal_hook::flag::register(SIGXFSZ, heard);
    listening.map(|_| ()).map_err(Failure::Signals)
}

/// Iterations for which a thread of OpenMP waits for the others before it sleeps: microseconds.
/// With the default a training beside other work is up to forty times slower; on idle cores both
/// are equally fast.
#[cfg(target_os = "linux")]
const SPINS: &str = "1000";

/// Start this program anew with threads that wait briefly, unless the environment says how they
/// wait. libgomp reads its variables before `main`. Where the program cannot be started anew, it
/// goes on as it is.
#[cfg(target_os = "linux")]
pub fn wait_briefly() {
    use std::env;
    use std::os::unix::process::CommandExt;

    let is_set = |name| env::var_os(name).is_some();
    if ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"]
        .into_iter()
        .any(is_set)
    {
        return;
    }
    let mut words = env::args_os();
    if let (Ok(program), Some(name)) = (env::current_exe(), words.next()) {
        let mut command = std::process::Command::new(program);
        command.arg0(name).args(words).env("GOMP_SPINCOUNT", SPINS);
        _ = command.exec();
    }
}

pub fn engine(base: &Path) -> Result<Box<dyn Engine>, Failure> {
    let engine = translora::engine::of_base(base)?;
    if engine.version() == "toy" {
        let why = if cfg!(feature = "ggml") {
            "is a toy base, which is for tests"
        } else {
            "is opened by the toy engine, which is for tests: this build has no llama.cpp \
            (feature `ggml` is off)"
        };
        crate::out::say(&format!("warning: {} {why}", base.display()));
    }
    Ok(engine)
}
