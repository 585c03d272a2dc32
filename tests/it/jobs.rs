//! The queue of transfers: what a host sees of it, whatever becomes of a worker. In the toy world,
//! where a job takes a second.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use translora::jobs::{Config, Isolation, JobId, Jobs, JobsError, State, Status};
use translora::pipeline::{Event, Stage, Verdict};
use translora::record::{Blame, Fault, Rng, SystemClock};
use translora::request::{Shape, Training, Transfer};

use crate::pipeline::{sound, trained};
use crate::toy::World;

mod lost;

/// Longer than anything here takes, on a machine with other work too.
const LONG: Duration = Duration::from_secs(120);

fn config() -> Config {
    Config {
        worker: Some(PathBuf::from(env!("CARGO_BIN_EXE_translora"))),
        ..Config::default()
    }
}

fn jobs(config: Config) -> Jobs {
    Jobs::new(config, Arc::new(SystemClock::default()))
}

fn request(world: &World, lora: &Path, out: &str) -> Transfer {
    Transfer {
        source: world.source.clone(),
        source_lora: lora.to_owned(),
        target: world.target.clone(),
        seeds: Some(world.seeds.clone()),
        eval: Some(world.eval.clone()),
        out: world.path(out),
        samples: 120,
        training: training(8),
        ..Transfer::default()
    }
}

fn training(rank: usize) -> Training {
    Training {
        shape: Shape {
            rank,
            ..Shape::default()
        },
        lr: Some(4e-3),
        ..Training::default()
    }
}

fn ended(jobs: &Jobs, id: JobId) -> Status {
    let status = jobs.wait(id, LONG).expect("the job is known");
    assert!(status.state.is_end(), "{status:?}");
    status
}

fn start(jobs: &Jobs, request: &Transfer) -> JobId {
    jobs.start(&sound(request)).expect("the queue takes it")
}

/// The worker of a job, once it does this stage.
fn working(jobs: &Jobs, id: JobId, wanted: Stage) -> u32 {
    let status = in_stage(jobs, id, wanted);
    status.process.expect("it has a worker")
}

/// A process is gone when no signal reaches it.
fn is_gone(process: u32) -> bool {
    !Command::new("kill")
        .args(["-0", &process.to_string()])
        .output()
        .expect("kill runs")
        .status
        .success()
}

fn signal(process: u32, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &process.to_string()])
        .status();
    assert!(
        sent.is_ok_and(|status| status.success()),
        "the worker was gone before {name}"
    );
}

/// Wait until the worker does this stage.
fn in_stage(jobs: &Jobs, id: JobId, wanted: Stage) -> Status {
    let mut after = 0;
    loop {
        let events = jobs.wait_events(id, after, LONG).expect("the job is known");
        let status = jobs.status(id).expect("the job is known");
        assert!(
            !status.state.is_end(),
            "it ended before {wanted:?}: {status:?}"
        );
        if events
            .iter()
            .any(|entry| matches!(entry.event, Event::StageStarted { stage } if stage == wanted))
        {
            return status;
        }
        after = status
            .last_event
            .min(events.last().map_or(after, |entry| entry.number));
    }
}

/// A worker that is started by a shell, after a line of its own.
fn script(world: &World, name: &str, line: &str) -> PathBuf {
    let (path, program) = (world.path(name), env!("CARGO_BIN_EXE_translora"));
    std::fs::write(
        &path,
        format!("#!/bin/sh\n{line}\nexec '{program}' \"$@\"\n"),
    )
    .expect("writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    path
}

#[test]
fn a_job_runs_in_a_worker_and_tells_all_of_it() {
    let (world, lora) = trained();
    let jobs = jobs(config());
    let id = start(&jobs, &request(&world, &lora, "new.gguf"));
    let status = ended(&jobs, id);
    assert_eq!(status.state, State::Done, "{status:?}");
    assert_eq!(status.verdict, Some(Verdict::Accept), "{status:?}");
    assert_eq!(status.adapter, Some(world.path("new.gguf")));
    assert!(world.path("new.gguf").is_file());
    assert!(status.process.is_none());
    assert!(status.began_at.is_some());
    assert!(status.ended_at.is_some());
    let report = jobs.report(id).expect("it is done");
    assert_eq!(report["verdict"], "accept");
    assert_eq!(report["scores"]["target"].as_f64(), Some(0.0));
    let events = jobs.events(id, 0).expect("it is known");
    assert!(
        matches!(events[0].event, Event::Plan { .. }),
        "{:?}",
        events[0]
    );
    assert!(events[0].number == 1, "{:?}", events[0]);
    assert!(
        events
            .windows(2)
            .all(|pair| pair[0].number < pair[1].number)
    );
    let done: Vec<Stage> = events
        .iter()
        .filter_map(|t| {
            if let Event::StageDone { stage, .. } = t.event {
                Some(stage)
            } else {
                None
            }
        })
        .collect();
    assert!(
        [
            Stage::Kit,
            Stage::Open,
            Stage::Distill,
            Stage::Evaluate,
            Stage::Publish
        ]
        .iter()
        .all(|s| done.contains(s)),
        "{done:?}"
    );
    let last = events.last().expect("there are events").number;
    assert_eq!(last, status.last_event);
    assert_eq!(jobs.events(id, last).expect("it is known").len(), 0);
    jobs.free(id).expect("it is known");
    assert_eq!(jobs.status(id), Err(JobsError::NoSuchJob(id)));
    assert!(jobs.list().is_empty());
}

/// What the system says of a worker at work. What the sandbox refuses is tried in `ffi/system`.
#[test]
#[cfg(target_os = "linux")]
fn a_worker_gains_no_rights_and_makes_few_system_calls() {
    let (world, lora) = trained();
    let jobs = jobs(config());
    let id = start(&jobs, &request(&world, &lora, "new.gguf"));
    let worker = working(&jobs, id, Stage::Generate);
    let of = |process: &str| {
        let status = std::fs::read_to_string(format!("/proc/{process}/status"));
        let status = status.expect("it runs");
        ["NoNewPrivs:", "Seccomp:"].map(|name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
        })
    };
    let [_, own] = of("self");
    let [rights, calls] = of(&worker.to_string());
    if own.is_none() {
        crate::skipped("this kernel has no seccomp");
        return;
    }
    assert_eq!(
        (rights.as_deref(), calls.as_deref()),
        (Some("1"), Some("2"))
    );
    let environment = std::fs::read(format!("/proc/{worker}/environ"));
    let environment = environment.expect("it is ours");
    assert!(!String::from_utf8_lossy(&environment).contains("_KEY="));
    jobs.cancel(id).expect("it runs");
    ended(&jobs, id);
}

/// source: proc(5), the fields after the name: the 3rd of all is the first, the 41st the scheduling
/// policy, which is 5 for `SCHED_IDLE`
#[test]
#[cfg(target_os = "linux")]
fn a_worker_beyond_the_largest_niceness_computes_when_nothing_else_does() {
    let (world, lora) = trained();
    for (nice, idle) in [(10, false), (20, true)] {
        let jobs = jobs(Config { nice, ..config() });
        let id = start(&jobs, &request(&world, &lora, &format!("{nice}.gguf")));
        let process = working(&jobs, id, Stage::Distill);
        signal(process, "STOP");
        let threads = std::fs::read_dir(format!("/proc/{process}/task"))
            .expect("it is there")
            .flatten();
        let stats: Vec<String> = threads
            .map(|thread| std::fs::read_to_string(thread.path().join("stat")).expect("it is there"))
            .collect();
        signal(process, "CONT");
        let policy = |stat: &String| {
            stat.rsplit_once(')')
                .and_then(|(_, fields)| fields.split_whitespace().nth(38))
                .map(str::to_owned)
        };
        let job = stats
            .iter()
            .find(|stat| stat.contains("(translora-job)"))
            .expect("a thread computes");
        assert_eq!(policy(job).as_deref() == Some("5"), idle, "{job}");
        let others = stats.iter().filter(|stat| stat.contains("(translora)"));
        assert!(
            others
                .map(policy)
                .all(|policy| policy.as_deref() == Some("0")),
            "{stats:?}"
        );
        jobs.cancel(id).expect("it is known");
        ended(&jobs, id);
    }
}

#[test]
fn a_thread_does_the_same_as_a_worker() {
    let (world, lora) = trained();
    let in_thread = jobs(Config {
        isolation: Isolation::Thread,
        worker: Some("none".into()),
        ..Config::default()
    });
    let apart = jobs(config());
    let first = start(&in_thread, &request(&world, &lora, "thread.gguf"));
    let second = start(&apart, &request(&world, &lora, "process.gguf"));
    assert_eq!(ended(&in_thread, first).state, State::Done);
    assert_eq!(ended(&apart, second).state, State::Done);
    let (mut first, mut second) = (
        in_thread.report(first).expect("done"),
        apart.report(second).expect("done"),
    );
    for report in [&mut first, &mut second] {
        ["adapter", "report", "page", "seconds", "peak_bytes"]
            .iter()
            .for_each(|key| report[key] = serde_json::Value::Null);
        report["plan"]["out"] = serde_json::Value::Null;
        report["fit"]["trainer"]["seconds"] = serde_json::Value::Null;
    }
    assert_eq!(first, second);
    let bytes = |name| std::fs::read(world.path(name)).expect("it was made");
    assert!(bytes("thread.gguf") == bytes("process.gguf"));
}

#[test]
fn one_runs_and_the_others_wait() {
    let (world, lora) = trained();
    let jobs = jobs(Config {
        waiting_max: 2,
        ended_max: 2,
        ..config()
    });
    let first = start(&jobs, &request(&world, &lora, "1.gguf"));
    in_stage(&jobs, first, Stage::Kit);
    let second = start(&jobs, &request(&world, &lora, "2.gguf"));
    let third = start(&jobs, &request(&world, &lora, "3.gguf"));
    assert_eq!(
        jobs.start(&sound(&request(&world, &lora, "4.gguf"))),
        Err(JobsError::Full { waiting: 2 })
    );
    let listed: Vec<(JobId, State, usize)> = jobs
        .list()
        .into_iter()
        .map(|s| (s.id, s.state, s.ahead))
        .collect();
    assert_eq!(
        listed,
        [
            (first, State::Running, 0),
            (second, State::Waiting, 1),
            (third, State::Waiting, 2)
        ]
    );
    assert!(matches!(
        jobs.report(second),
        Err(JobsError::NoReport {
            state: State::Waiting,
            ..
        })
    ));
    jobs.cancel(second).expect("it is known");
    assert_eq!(
        jobs.status(second).expect("it is known").state,
        State::Cancelled
    );
    assert_eq!(ended(&jobs, third).state, State::Done);
    let states: Vec<State> = jobs.list().into_iter().map(|s| s.state).collect();
    assert_eq!(
        states,
        [State::Cancelled, State::Done],
        "the oldest that ended was forgotten"
    );
    assert!(!world.path("2.gguf").exists() && world.path("3.gguf").exists());
}

#[test]
fn what_cannot_work_fails_with_the_commands_words() {
    let (world, lora) = trained();
    let jobs = jobs(config());
    let missing = Transfer {
        target: "missing.json".into(),
        ..request(&world, &lora, "new.gguf")
    };
    let id = start(&jobs, &missing);
    let status = ended(&jobs, id);
    let problem = status.problem.expect("it says why");
    assert_eq!((status.state, problem.cause), (State::Failed, Fault::Input));
    assert!(problem.message.contains("missing.json"), "{problem:?}");
    assert!(!problem.hint.is_empty(), "{problem:?}");
    assert!(matches!(jobs.report(id), Err(JobsError::Failed(reason)) if reason == problem));
    assert!(matches!(
        jobs.cancel(JobId::from(u64::MAX)),
        Err(JobsError::NoSuchJob(_))
    ));
}

#[test]
fn programs_that_are_no_worker_are_told_apart() {
    let (world, lora) = trained();
    let cases = [
        ("/nowhere/translora", None, "no worker program"),
        ("/bin/true", Some(Fault::Machine), "ended with status 0"),
        ("/bin/echo", Some(Fault::Machine), "is not one"),
        (
            world.seeds.to_str().expect("the path is UTF-8"),
            Some(Fault::Machine),
            "does not start",
        ),
    ];
    for (program, cause, said) in cases {
        let jobs = jobs(Config {
            worker: Some(program.into()),
            ..Config::default()
        });
        let error = match jobs.start(&sound(&request(&world, &lora, "new.gguf"))) {
            Err(error) => {
                assert!(error.remedy().is_some());
                error.to_string()
            }
            Ok(id) => {
                let problem = ended(&jobs, id).problem.expect("it says why");
                assert_eq!(Some(problem.cause), cause, "{program}: {problem:?}");
                problem.message
            }
        };
        assert!(error.contains(said), "{program}: {error}");
    }
}
