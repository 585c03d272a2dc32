//! Workers that are killed, hang, run out of memory or lose their queue.

use super::*;

/// The robustness of the host: whatever happens to the worker, in whatever stage, the job ends with
/// a sentence, nothing is half written, and the same request with `resume` goes on and makes what a
/// run makes that nobody disturbed.
#[test]
fn a_worker_that_is_killed_fails_its_job_and_resume_goes_on() {
    let (world, lora) = trained();
    let jobs = jobs(config());
    let long = |out| Transfer {
        epochs: 600.0,
        ..request(&world, &lora, out)
    };
    let straight = start(&jobs, &long("straight.gguf"));
    assert_eq!(ended(&jobs, straight).state, State::Done);
    let before = world.names();
    let mut wanted = long("new.gguf");
    for (name, end, said) in [
        ("KILL", (State::Failed, Fault::Machine), "signal 9"),
        ("ABRT", (State::Failed, Fault::Machine), "signal 6"),
        ("ILL", (State::Failed, Fault::Machine), "signal 4"),
        // These it hears, and stops at a safe point.
        ("TERM", (State::Cancelled, Fault::Cancelled), "cancelled"),
        ("INT", (State::Cancelled, Fault::Cancelled), "cancelled"),
        ("KILL", (State::Failed, Fault::Machine), "signal 9"),
    ] {
        let stage = Stage::Distill;
        let id = start(&jobs, &wanted);
        let process = working(&jobs, id, stage);
        signal(process, name);
        let status = ended(&jobs, id);
        let problem = status.problem.expect("it says why");
        assert_eq!((status.state, problem.cause), end, "{stage:?} {name}");
        assert!(
            problem.message.contains(said),
            "{stage:?} {name}: {problem:?}"
        );
        assert!(
            problem.hint.contains("resume"),
            "{stage:?} {name}: {problem:?}"
        );
        assert!(is_gone(process));
        let left: Vec<String> = world
            .names()
            .into_iter()
            .filter(|name| !before.contains(name) && !name.starts_with("new.gguf.journal"))
            .collect();
        assert!(left.is_empty(), "{stage:?} {name}: {left:?}");
        wanted.run.resume = true;
    }
    let id = start(&jobs, &wanted);
    assert_eq!(ended(&jobs, id).state, State::Done);
    let events = jobs.events(id, 0).expect("it is known");
    assert!(
        events
            .iter()
            .any(|entry| matches!(entry.event, Event::StageResumed { .. })),
        "nothing was taken up"
    );
    let bytes = |name: &str| std::fs::read(world.path(name)).expect("it was made");
    assert!(bytes("new.gguf") == bytes("straight.gguf"), "other bytes");
}

/// The same at moments that nobody chose.
#[test]
fn a_worker_that_is_killed_at_random_comes_to_its_end_at_last() {
    let (world, lora) = trained();
    let jobs = jobs(config());
    let straight = start(&jobs, &request(&world, &lora, "straight.gguf"));
    assert_eq!(ended(&jobs, straight).state, State::Done);
    let mut wanted = request(&world, &lora, "new.gguf");
    let mut random = Rng::new(5, "when to kill");
    for kill in 0.. {
        let id = start(&jobs, &wanted);
        // More and more of the time that a run takes, so that one comes through.
        std::thread::sleep(Duration::from_millis(random.below(50 * (kill + 1)) as u64));
        if let Some(process) = jobs.status(id).expect("it is known").process {
            // It may be gone by now.
            _ = Command::new("kill")
                .args(["-KILL", &process.to_string()])
                .output();
        }
        let status = ended(&jobs, id);
        // The adapter comes last: where it lies, all is done, even if the worker did not live to
        // say so.
        if status.state == State::Done || world.path("new.gguf").exists() {
            break;
        }
        assert!(
            status
                .problem
                .as_ref()
                .is_some_and(|p| p.cause == Fault::Machine),
            "{status:?}: {:?}",
            world.names()
        );
        wanted.run.resume = true;
    }
    let bytes = |name: &str| std::fs::read(world.path(name)).expect("it was made");
    assert!(bytes("new.gguf") == bytes("straight.gguf"), "other bytes");
}

#[test]
fn a_worker_that_hangs_is_killed() {
    let (world, lora) = trained();
    let jobs = jobs(Config {
        silence_seconds_max: 2,
        ..config()
    });
    let id = start(
        &jobs,
        &Transfer {
            epochs: 900.0,
            ..request(&world, &lora, "new.gguf")
        },
    );
    let process = working(&jobs, id, Stage::Distill);
    signal(process, "STOP");
    let problem = ended(&jobs, id).problem.expect("it says why");
    assert!(problem.message.contains("hung"), "{problem:?}");
    assert!(problem.cause == Fault::Machine, "{problem:?}");
    assert!(is_gone(process));
}

#[test]
fn a_cancelled_job_leaves_no_worker_even_if_it_does_not_listen() {
    let (world, lora) = trained();
    let jobs = jobs(config());
    for stop_first in [false, true] {
        let out = format!("{stop_first}.gguf");
        let id = start(
            &jobs,
            &Transfer {
                epochs: 900.0,
                ..request(&world, &lora, &out)
            },
        );
        let process = working(&jobs, id, Stage::Distill);
        if stop_first {
            signal(process, "STOP");
        }
        jobs.cancel(id).expect("it is known");
        let status = ended(&jobs, id);
        assert_eq!(status.state, State::Cancelled);
        assert_eq!(status.problem.map(|p| p.cause), Some(Fault::Cancelled));
        assert!(is_gone(process) && !world.path(&out).exists());
    }
}

#[test]
fn memory_that_runs_out_ends_the_worker_and_not_the_host() {
    let (world, lora) = trained();
    // A worker that has less than it needs to start, to open the models, and to work.
    for kib in [2_000, 3_000, 5_000] {
        let limited = script(
            &world,
            &format!("worker-{kib}"),
            &format!("ulimit -d {kib}"),
        );
        let jobs = jobs(Config {
            worker: Some(limited),
            ..Config::default()
        });
        let id = start(
            &jobs,
            &Transfer {
                training: training(1024),
                ..request(&world, &lora, "new.gguf")
            },
        );
        let status = ended(&jobs, id);
        let problem = status
            .problem
            .unwrap_or_else(|| panic!("{kib}: it had enough"));
        assert!(status.state == State::Failed, "{kib}: {problem:?}");
        assert!(problem.cause == Fault::Machine, "{kib}: {problem:?}");
        assert!(!problem.message.is_empty(), "{kib}: {problem:?}");
        assert!(!world.path("new.gguf").exists());
    }
    let little = jobs(Config {
        memory: Some(1 << 20),
        ..config()
    });
    assert!(matches!(
        little.start(&sound(&request(&world, &lora, "new.gguf"))),
        Err(JobsError::Request { .. })
    ));
}

/// What the host has open is the host's: its connections end when it says so.
#[test]
#[cfg(target_os = "linux")]
fn a_worker_keeps_nothing_of_the_hosts_open() {
    let (world, lora) = trained();
    let program = script(
        &world,
        "open",
        &format!("exec 9>'{}'", world.path("held").display()),
    );
    let jobs = jobs(Config {
        worker: Some(program),
        ..Config::default()
    });
    let id = start(
        &jobs,
        &Transfer {
            epochs: 900.0,
            ..request(&world, &lora, "new.gguf")
        },
    );
    let process = working(&jobs, id, Stage::Distill);
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).expect("it lives");
    let held = files
        .filter_map(|file| std::fs::read_link(file.ok()?.path()).ok())
        .filter(|path| path.ends_with("held"))
        .count();
    assert_eq!(held, 0);
}

#[test]
fn a_queue_that_is_dropped_leaves_no_worker() {
    let (world, lora) = trained();
    let queue = jobs(config());
    let id = start(
        &queue,
        &Transfer {
            epochs: 900.0,
            ..request(&world, &lora, "new.gguf")
        },
    );
    start(&queue, &request(&world, &lora, "never.gguf"));
    let process = working(&queue, id, Stage::Distill);
    let waiting = queue.list().last().expect("two are known").id;
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| queue.wait(waiting, LONG).map(|status| status.state));
        queue.close();
        assert_eq!(waits.join().expect("no panic"), Ok(State::Cancelled));
    });
    assert!(matches!(
        queue.start(&sound(&request(&world, &lora, "late.gguf"))),
        Err(JobsError::Machine(_))
    ));
    drop(queue);
    assert!(is_gone(process) && !world.path("never.gguf").exists());
}
