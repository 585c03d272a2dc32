//! Hosts of the library that cargo built, through `translora.h`: one in Rust, and the example in C.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use serde_json::{Value, json};
use translora_abi::host::{Callbacks, Instance, Library, OpenError, Swapper};
use translora_abi::{Failure, JobState, Status};

use crate::abi::{Language, compile, plugin};
use crate::pipeline::trained;
use crate::toy::World;

mod folder;

fn json<T: serde::de::DeserializeOwned>(text: Result<String, Failure>) -> T {
    serde_json::from_str(&text.expect("it answers")).expect("it is JSON")
}

/// Longer than anything here takes, on a machine with other work too.
const LONG: Duration = Duration::from_secs(120);

fn instance(host: Option<Arc<dyn Callbacks>>) -> Instance {
    Library::open(&plugin())
        .expect("cargo built a plugin")
        .create(host)
        .expect("it makes instances")
}

fn request(world: &World, lora: &Path, out: &str) -> Value {
    json!({
        "source": world.source, "source_lora": lora, "target": world.target, "seeds": world.seeds, "eval": world.eval,
        "out": world.path(out), "samples": 120, "rank": 8, "lr": 4e-3,
    })
}

#[test]
fn a_file_that_is_no_plugin_is_told_apart() {
    assert!(matches!(
        Library::open(Path::new("no-such.so")),
        Err(OpenError::Load { .. })
    ));
    assert!(matches!(
        Library::open(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")),
        Err(OpenError::Load { .. })
    ));
    let instance = instance(None);
    let info = instance.info().expect("it answers");
    assert_eq!(info.version.as_str(), env!("CARGO_PKG_VERSION"));
    assert!(!info.poisoned);
    assert_eq!(info.abi.0, 1);
    assert_eq!(
        info.engine,
        if cfg!(feature = "ggml") {
            "ggml"
        } else {
            "toy"
        }
    );
    assert_eq!(instance.echo("grüezi").expect("it answers"), "grüezi");
}

#[test]
fn a_job_through_the_library_is_the_command_s() {
    let (world, lora) = trained();
    let instance = instance(None);
    let jobs = instance.jobs().expect("it has them");
    jobs.configure(r#"{"threads": 1}"#)
        .expect("it can be meant");
    let job = jobs
        .start(&request(&world, &lora, "new.gguf").to_string())
        .expect("the queue takes it");
    let ended = jobs.wait(job, LONG).expect("it is known");
    let status: Value = json(jobs.status(job));
    assert_eq!(ended.state, JobState::Done, "{status}");
    assert_eq!(status["verdict"], "accept", "{status}");
    let events: Vec<Value> = json(jobs.events(job, 0, Duration::ZERO));
    assert_eq!(events[0]["event"], "plan");
    assert_eq!(events[0]["number"], 1);
    assert_eq!(events[0]["plan"]["threads"], 1);
    assert_eq!(
        events.last().expect("there are events")["number"].as_u64(),
        Some(ended.last_event)
    );
    let report: Value = json(jobs.report(job));
    let out = world.path("by-command.gguf");
    let words = [
        "transfer",
        "--samples",
        "120",
        "--rank",
        "8",
        "--lr",
        "4e-3",
        "-t",
        "1",
        "--json",
        "-q",
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_translora"));
    command
        .args(words)
        .arg("--source")
        .arg(&world.source)
        .arg("--source-lora")
        .arg(&lora)
        .arg("--target")
        .arg(&world.target);
    let output = command
        .arg("--seeds")
        .arg(&world.seeds)
        .arg("--eval")
        .arg(&world.eval)
        .arg("--out")
        .arg(&out)
        .output();
    let by_command: Value =
        serde_json::from_slice(&output.expect("the program runs").stdout).expect("it is JSON");
    assert_eq!(&report["scores"], &by_command["scores"]);
    assert_eq!(&report["counts"], &by_command["counts"]);
    let bytes = |path: &Path| std::fs::read(path).expect("it was made");
    assert!(bytes(&world.path("new.gguf")) == bytes(&out));
    jobs.free(job).expect("it is known");
    assert_eq!(jobs.list().as_deref(), Ok("[]"));
    assert_eq!(jobs.poll(job).map_err(|f| f.status), Err(Status::BadHandle));
}

/// Destroying an instance ends its jobs, and whoever waits for them.
#[test]
fn an_instance_that_goes_takes_its_worker_along() {
    let (world, lora) = trained();
    let instance = instance(None);
    let jobs = instance.jobs().expect("it has them");
    let mut long = request(&world, &lora, "new.gguf");
    long["epochs"] = 900.into();
    let job = jobs.start(&long.to_string()).expect("the queue takes it");
    let process = loop {
        let now = jobs.poll(job).expect("it is known");
        if now.process != 0 && now.stage == "distill" {
            break now.process;
        }
        jobs.events(job, now.last_event, LONG).expect("it is known");
    };
    drop(instance);
    assert!(
        !Command::new("kill")
            .args(["-0", &process.to_string()])
            .output()
            .expect("kill runs")
            .status
            .success()
    );
}

/// A host that only notes what is called.
struct Notes {
    decoder: ThreadId,
    done: Mutex<Vec<String>>,
    /// The file that was loaded last.
    loaded: Mutex<PathBuf>,
    refuses: Mutex<&'static str>,
}

/// An instance in such a host.
fn noting() -> (Arc<Notes>, Instance) {
    let host = Arc::new(Notes {
        decoder: std::thread::current().id(),
        done: Mutex::default(),
        loaded: Mutex::default(),
        refuses: Mutex::new("nothing"),
    });
    let instance = instance(Some(Arc::clone(&host) as Arc<dyn Callbacks>));
    (host, instance)
}

impl Notes {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.done.lock().expect("nobody panicked"))
    }

    fn note(&self, what: String) -> Result<(), Status> {
        if what.starts_with(*self.refuses.lock().expect("nobody panicked")) {
            return Err(Status::Machine);
        }
        self.done.lock().expect("nobody panicked").push(what);
        Ok(())
    }
}

impl Callbacks for Notes {
    fn log(&self, _: i32, _: &str) {}

    fn swapper(&self) -> Option<&dyn Swapper> {
        Some(self)
    }
}

thread_local! {
    static LOADED: RefCell<u64> = const { RefCell::new(0) };
}

impl Swapper for Notes {
    fn is_decode_thread(&self) -> bool {
        std::thread::current().id() == self.decoder
    }

    fn load(&self, path: &str) -> Result<u64, Status> {
        let name = Path::new(path)
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        self.note(format!("load {name}"))?;
        *self.loaded.lock().expect("nobody panicked") = path.into();
        Ok(LOADED.with_borrow_mut(|n| {
            *n += 1;
            *n
        }))
    }

    fn set(&self, name: &str, adapter: Option<u64>, generation: u64) -> Result<(), Status> {
        self.note(format!("set {name} {} {generation}", adapter.unwrap_or(0)))
    }

    fn free(&self, adapter: u64) -> Result<(), Status> {
        self.note(format!("free {adapter}"))
    }
}

/// A base of one matrix, and adapters that fit it or not.
fn files(world: &World) {
    let write = |name: &str, kind: &str, tensors: &[(&str, [u64; 2])]| {
        let mut writer = translora_gguf::Writer::new();
        writer
            .set("general.type", kind)
            .set("general.architecture", "llama")
            .set("adapter.type", "lora")
            .set("adapter.lora.alpha", 4.0_f32);
        for (name, shape) in tensors {
            writer.tensor_f32(*name, shape, &vec![0.5; (shape[0] * shape[1]) as usize]);
        }
        std::fs::write(world.path(name), writer.to_bytes().expect("it is whole"))
            .expect("writable");
    };
    write("base.gguf", "model", &[("blk.0.attn_q.weight", [8, 6])]);
    for name in ["a.gguf", "b.gguf", "c.gguf"] {
        write(
            name,
            "adapter",
            &[
                ("blk.0.attn_q.weight.lora_a", [8, 2]),
                ("blk.0.attn_q.weight.lora_b", [2, 6]),
            ],
        );
    }
    write(
        "wide.gguf",
        "adapter",
        &[
            ("blk.0.attn_q.weight.lora_a", [9, 2]),
            ("blk.0.attn_q.weight.lora_b", [2, 6]),
        ],
    );
}

#[test]
fn adapters_are_exchanged_in_two_phases_and_back() {
    let world = World::new();
    files(&world);
    let path = |name: &str| {
        world
            .path(name)
            .to_str()
            .expect("the path is UTF-8")
            .to_owned()
    };
    let (host, instance) = noting();
    let adapters = instance.adapters().expect("it has them");
    let swaps = instance.hotswap().expect("it has them");
    let status = |result: Result<u64, Failure>| result.map_err(|failure| failure.status);
    assert_eq!(
        status(swaps.prepare("task", &path("a.gguf"))),
        Err(Status::NotNow),
        "no base is known"
    );
    adapters.base(&path("base.gguf")).expect("it is a model");
    for bad in ["wide.gguf", "base.gguf", "missing.gguf"] {
        let failure = swaps.prepare("task", &path(bad)).expect_err(bad);
        assert!(failure.status == Status::Input, "{failure:?}");
        assert!(failure.message.contains(bad), "{failure:?}");
        assert!(!failure.hint.is_empty(), "{failure:?}");
    }
    assert_eq!(
        status(swaps.prepare("", &path("a.gguf"))),
        Err(Status::Input)
    );
    assert_eq!(
        host.take(),
        Vec::<String>::new(),
        "preparing touches nothing of the host"
    );

    let commit = |name: &str| {
        swaps
            .prepare("task", &path(name))
            .and_then(|swap| swaps.commit(swap))
    };
    assert_eq!(commit("a.gguf"), Ok(1));
    assert_eq!(host.take(), ["load a.gguf", "set task 1 1"]);
    assert_eq!(commit("b.gguf"), Ok(2));
    assert_eq!(
        host.take(),
        ["load b.gguf", "set task 2 2"],
        "the one before stays loaded"
    );
    assert_eq!(commit("c.gguf"), Ok(3));
    assert_eq!(host.take(), ["load c.gguf", "set task 3 3", "free 1"]);
    assert_eq!(swaps.rollback("task"), Ok(2));
    assert_eq!(swaps.rollback("task"), Ok(3));
    assert_eq!(host.take(), ["set task 2 2", "set task 3 3"]);
    let list: Value = json(adapters.list());
    assert_eq!(list[0]["name"], "task");
    assert_eq!(list[0]["generation"], 3);
    assert_eq!(list[0]["before"]["generation"], 2);
    assert!(
        list[0]["adapter"]["path"]
            .as_str()
            .is_some_and(|path| path.ends_with("c.gguf")),
        "{list}"
    );

    // What the host refuses changes nothing, and leaves nothing loaded.
    for (refused, left) in [("load", vec![]), ("set", vec!["load a.gguf", "free 4"])] {
        *host.refuses.lock().expect("nobody panicked") = refused;
        let swap = swaps.prepare("task", &path("a.gguf")).expect("it fits");
        assert_eq!(
            status(swaps.commit(swap)),
            Err(Status::Machine),
            "{refused}"
        );
        assert_eq!(
            status(swaps.commit(swap)),
            Err(Status::BadHandle),
            "it is spent"
        );
        assert_eq!(host.take(), left, "{refused}");
        let now: Value = json(adapters.list());
        assert_eq!(now, list);
    }
    assert_eq!(status(swaps.rollback("task")), Err(Status::Machine));
    *host.refuses.lock().expect("nobody panicked") = "nothing";

    let swap = swaps.prepare("task", &path("a.gguf")).expect("it fits");
    std::thread::scope(|scope| {
        let elsewhere = scope.spawn(|| swaps.commit(swap).map_err(|failure| failure.status));
        assert_eq!(
            elsewhere.join().expect("no panic"),
            Err(Status::WrongThread)
        );
    });
    files(&world);
    std::fs::write(world.path("a.gguf"), b"GGUF").expect("writable");
    assert_eq!(
        status(swaps.commit(swap)),
        Err(Status::Input),
        "the file is another by now"
    );
    let swap = swaps.prepare("task", &path("b.gguf")).expect("it fits");
    swaps.discard(swap).expect("it is prepared");
    assert_eq!(status(swaps.commit(swap)), Err(Status::BadHandle));
    assert_eq!(host.take(), Vec::<String>::new());
    assert_eq!(swaps.unload("task"), Ok(0));
    assert_eq!(host.take(), ["set task 0 0", "free 3", "free 2"]);
    assert_eq!(status(swaps.unload("task")), Err(Status::Input));
    assert_eq!(status(swaps.rollback("task")), Err(Status::Input));
    assert_eq!(adapters.list().as_deref(), Ok("[]"));
}

fn c_host(words: &[&str], program: &Path, world: &World) -> Command {
    let mut command = Command::new(program);
    command
        .arg(plugin())
        .args(words)
        .current_dir(&world.folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// What a host says until its job trains, and the rest of it.
fn distilling(child: &mut Child) -> (BufReader<ChildStderr>, String) {
    let mut stderr = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut said = String::new();
    while !said.contains("distill") {
        let read = stderr.read_line(&mut said).expect("it is UTF-8");
        assert!(read > 0, "{said}");
    }
    (stderr, said)
}

#[test]
fn the_host_in_c_does_the_whole_job() {
    let Some(program) = compile("examples/c-host/c-host.c", Language::C) else {
        return;
    };
    let (world, lora) = trained();
    std::fs::write(
        world.path("request.json"),
        request(&world, &lora, "new.gguf").to_string(),
    )
    .expect("writable");
    let output = c_host(&["inspect", "old.gguf"], &program, &world)
        .output()
        .expect("the host runs");
    let card: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(card["what"], "adapter");

    let output = c_host(&["transfer", "request.json"], &program, &world)
        .output()
        .expect("the host runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert!(report["verdict"] == "accept", "{said}");
    assert!(world.path("new.gguf").is_file(), "{said}");
    assert!(said.contains("engine"), "{said}");

    // A host that ignores SIGCHLD never learns how a child ended: what the worker says must be
    // enough.
    let shell = [
        "trap '' CHLD; exec \"$0\" \"$@\"",
        program.to_str().expect("the path is UTF-8"),
    ];
    let output = Command::new("sh")
        .arg("-c")
        .args(shell)
        .arg(plugin())
        .args(["transfer", "request.json"])
        .current_dir(&world.folder)
        .output();
    let output = output.expect("the host runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2), "{said}");
    assert!(said.contains("nothing is overwritten"), "{said}");
    assert!(said.contains("hint: "), "{said}");
    std::fs::write(world.path("request.json"), "{\"sample\": 1}").expect("writable");
    let output = c_host(&["transfer", "request.json"], &program, &world)
        .output()
        .expect("the host runs");
    assert!(output.status.code() == Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("sample"));
}

/// No host to report to: no worker to take its cores.
#[test]
fn a_host_that_is_killed_takes_its_worker_along() {
    let Some(program) = compile("examples/c-host/c-host.c", Language::C) else {
        return;
    };
    let (world, lora) = trained();
    for stopped in [false, true] {
        let mut long = request(&world, &lora, &format!("{stopped}.gguf"));
        long["epochs"] = 900.into();
        std::fs::write(world.path("request.json"), long.to_string()).expect("writable");
        let mut child = c_host(&["transfer", "request.json"], &program, &world)
            .spawn()
            .expect("the host runs");
        let (_stderr, said) = distilling(&mut child);
        let worker = said
            .lines()
            .find_map(|line| line.strip_prefix("worker "))
            .expect("it names its worker")
            .to_owned();
        let signal = |name: &str, process: &str| {
            Command::new("kill")
                .args([name, process])
                .output()
                .expect("kill runs")
                .status
                .success()
        };
        if stopped {
            assert!(signal("-STOP", &worker));
        }
        child
            .kill()
            .and_then(|()| child.wait())
            .expect("it can be killed");
        while signal("-0", &worker) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn ctrl_c_cancels_the_job_of_the_host_in_c() {
    let Some(program) = compile("examples/c-host/c-host.c", Language::C) else {
        return;
    };
    let (world, lora) = trained();
    let mut long = request(&world, &lora, "new.gguf");
    long["epochs"] = 900.into();
    std::fs::write(world.path("request.json"), long.to_string()).expect("writable");
    let mut child = c_host(&["transfer", "request.json"], &program, &world)
        .spawn()
        .expect("the host runs");
    let (mut stderr, mut said) = distilling(&mut child);
    assert!(
        Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .is_ok_and(|status| status.success())
    );
    stderr.read_to_string(&mut said).expect("it is UTF-8");
    assert_eq!(child.wait().expect("it ends").code(), Some(2), "{said}");
    assert!(said.contains("cancelling"), "{said}");
    assert!(said.contains("transfer cancelled"), "{said}");
    assert!(!world.path("new.gguf").exists(), "{said}");
}
