//! Run a job on a thread of the host.

use super::Problem;
use super::config::NICE_MAX;
use super::entry::End;
use super::queue::Task;
use crate::engine;
use crate::pipeline::{self, Context, Event, Events, TransferPlan};
use crate::record::{Cancel, Clock, Fault, Remedy, Step};

pub(super) fn run(task: &Task<'_>) -> End {
    run_plan(
        &task.plan,
        &task.stop.flag,
        task.clock,
        Some(task.config.nice),
        |receiver| {
            for event in receiver {
                task.push(event);
            }
        },
    )
}

/// Do a transfer on a thread of its own, which gives way to others if `nice` says how much, while
/// `listen` hears its events on this one; they end with the work.
pub(super) fn run_plan(
    plan: &TransferPlan,
    cancel: &Cancel,
    clock: &dyn Clock,
    nice: Option<u8>,
    listen: impl FnOnce(&crossbeam_channel::Receiver<Event>),
) -> End {
    let (events, receiver) = Events::channel(plan.limits.events_queued_max);
    let context = Context {
        cancel: cancel.clone(),
        events,
        clock,
    };
    let work = move || {
        if let Some(nice) = nice {
            give_way(nice);
        }
        let engine = match engine::of_base(&plan.source) {
            Ok(engine) => engine,
            Err(error) => return End::Failed(Problem::of(&error)),
        };
        // The context, and with it the events, ends here.
        let context = context;
        match pipeline::transfer(engine.as_ref(), plan, &context) {
            Ok(report) => match serde_json::to_value(&report) {
                Ok(report) => End::Done(report),
                Err(error) => End::Failed(bug(&error.to_string())),
            },
            Err(error) => End::Failed(Problem::of(&error)),
        }
    };
    std::thread::scope(|scope| {
        let worker = match std::thread::Builder::new()
            .name("translora-job".into())
            .spawn_scoped(scope, work)
        {
            Ok(worker) => worker,
            Err(error) => {
                return End::Failed(Problem::new(
                    Fault::Machine,
                    format!("no thread for the job: {error}"),
                    Remedy::raise("memory"),
                ));
            }
        };
        listen(&receiver);
        worker.join().unwrap_or_else(|payload| {
            let said = payload
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| payload.downcast_ref::<String>().cloned());
            std::mem::forget(payload);
            End::Failed(bug(&said.unwrap_or_else(|| "no message".into())))
        })
    })
}

/// On Linux a niceness is a thread's, and what it starts has the same. Elsewhere it would be the
/// whole host's. To give way is always allowed; where it is not, the job still runs.
fn give_way(nice: u8) {
    if cfg!(target_os = "linux") {
        _ = rustix::process::nice(i32::from(nice));
        if nice > NICE_MAX {
            _ = translora_system::compute_when_idle();
        }
    }
}

fn bug(said: &str) -> Problem {
    Problem::new(
        Fault::Bug,
        format!("the job panicked: {said}"),
        Step::Report,
    )
}
