//! Jobs of the library with the real engine: the command's bytes, whatever becomes of a worker on
//! the way.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use translora_abi::host::{Instance, Library};
use translora_abi::{JobState, Status};

use super::{Folder, done, lab, new_base, old_base, rows, transfer};
use crate::abi::plugin;

/// Longer than anything here takes, on a machine with other work too.
const LONG: Duration = Duration::from_secs(1200);

fn instance(config: &Value) -> Instance {
    let library: Arc<Library> = Library::open(&plugin()).expect("cargo built a plugin");
    let instance = library.create(None).expect("it makes instances");
    instance
        .jobs()
        .and_then(|jobs| jobs.configure(&config.to_string()))
        .expect("it can be meant");
    instance
}

fn world() -> Folder {
    Folder::with(&[("seeds.jsonl", 5)])
}

/// What [`transfer`] requests, with more epochs.
fn request(folder: &Folder, out: &str, epochs: f64) -> Value {
    json!({
        "source": old_base(), "source_lora": lab().lora, "target": new_base(), "seeds": folder.path("seeds.jsonl"),
        "out": folder.path(out), "samples": 12, "rank": 4, "epochs": epochs,
    })
}

/// Where a job that ended put its adapter.
fn adapter(instance: &Instance, job: u64) -> Vec<u8> {
    let report = instance
        .jobs()
        .and_then(|jobs| jobs.report(job))
        .unwrap_or_else(|failure| panic!("{failure}"));
    let report: Value = serde_json::from_str(&report).expect("it is JSON");
    std::fs::read(report["adapter"].as_str().expect("a path")).expect("it was made")
}

#[test]
fn a_job_that_is_killed_and_resumed_makes_the_command_s_bytes() {
    let folder = world();
    let epochs = [("--epochs", "40"), ("--out", "straight.gguf")];
    let run = folder.run(&transfer(&epochs));
    assert!(matches!(run.code, Some(0 | 1)), "{run}");
    let name = if run.code == Some(0) {
        "straight.gguf"
    } else {
        "straight.rejected.gguf"
    };
    let straight = std::fs::read(folder.path(name)).expect("it was made");

    let instance = instance(&json!({"threads": 1}));
    let jobs = instance.jobs().expect("it has them");
    let mut wanted = request(&folder, "new.gguf", 40.0);
    for signal in ["KILL", "ABRT"] {
        let job = jobs.start(&wanted.to_string()).expect("the queue takes it");
        let process = loop {
            let now = jobs.poll(job).expect("it is known");
            assert!(
                matches!(now.state, JobState::Waiting | JobState::Running),
                "it ended before it could be killed"
            );
            if now.stage == "distill" && now.done > 0 {
                break now.process;
            }
            jobs.events(job, now.last_event, LONG).expect("it is known");
        };
        assert!(
            Command::new("kill")
                .args([&format!("-{signal}"), &process.to_string()])
                .status()
                .is_ok_and(|status| status.success())
        );
        assert_eq!(
            jobs.wait(job, LONG).expect("it is known").state,
            JobState::Failed
        );
        let failure = jobs.report(job).expect_err("it failed");
        assert!(failure.status == Status::Machine, "{failure:?}");
        assert!(failure.message.contains("signal"), "{failure:?}");
        assert!(failure.hint.contains("resume"), "{failure:?}");
        wanted["resume"] = true.into();
    }
    let job = jobs.start(&wanted.to_string()).expect("the queue takes it");
    assert_eq!(
        jobs.wait(job, LONG).expect("it is known").state,
        JobState::Done
    );
    assert!(adapter(&instance, job) == straight, "other bytes");
}

#[test]
fn a_thread_makes_the_same_bytes_as_a_worker() {
    let folder = world();
    let mut made = Vec::new();
    for isolation in ["process", "thread"] {
        let instance = instance(&json!({"threads": 1, "isolation": isolation}));
        let jobs = instance.jobs().expect("it has them");
        let job = jobs
            .start(&request(&folder, &format!("{isolation}.gguf"), 1.0).to_string())
            .expect("the queue takes it");
        assert_eq!(
            jobs.wait(job, LONG).expect("it is known").state,
            JobState::Done,
            "{:?}",
            jobs.report(job)
        );
        made.push(adapter(&instance, job));
    }
    assert!(made[0] == made[1], "other bytes");
}

/// The worker may hold what the smallest model needs to open and not what a rank of 1024 needs to
/// train.
#[test]
fn a_worker_keeps_to_its_share_of_memory() {
    let folder = world();
    let instance = instance(&json!({"threads": 1, "memory": 100 << 20}));
    let jobs = instance.jobs().expect("it has them");
    let mut greedy = request(&folder, "new.gguf", 1.0);
    greedy["rank"] = 1024.into();
    let job = jobs.start(&greedy.to_string()).expect("the queue takes it");
    assert_eq!(
        jobs.wait(job, LONG).expect("it is known").state,
        JobState::Failed
    );
    let failure = jobs.report(job).expect_err("it failed");
    assert!(
        failure.message.contains("memory")
            || failure.message.contains("signal")
            || failure.message.contains("MiB"),
        "{failure:?}"
    );
    assert!(!failure.hint.is_empty() && !folder.path("new.gguf").exists());
}

#[test]
fn adapters_are_checked_against_the_model_that_is_served() {
    let folder = world();
    folder.write("train.jsonl", rows("train.jsonl", 20).as_bytes());
    done(&folder.run("train -m OLD --data train.jsonl --out a.gguf --rank 4 --epochs 1"));
    let instance = instance(&json!({}));
    let adapters = instance.adapters().expect("it has them");
    let path = folder.path("a.gguf");
    let path = path.to_str().expect("the path is UTF-8");
    adapters
        .base(old_base().to_str().expect("the path is UTF-8"))
        .expect("it is a model");
    let card: Value =
        serde_json::from_str(&adapters.check(path).expect("it fits")).expect("it is JSON");
    assert_eq!(card["rank"], 4, "{card}");
    assert_eq!(card["made_for_this_base"], true, "{card}");
    adapters
        .base(new_base().to_str().expect("the path is UTF-8"))
        .expect("it is a model");
    let failure = adapters
        .check(path)
        .expect_err("it is for another architecture");
    assert!(failure.status == Status::Input, "{failure:?}");
    assert!(failure.message.contains("qwen3"), "{failure:?}");
}
