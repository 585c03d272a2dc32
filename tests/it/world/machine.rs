//! The machine: odd paths, outputs that cannot be written, limits of the system.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output, Stdio};

use crate::toy::World;

const TRAIN: &str = "train -m old.json --data train.jsonl --epochs 1 --out";

/// The program in a folder of the world, with words that need not be text.
fn run(world: &World, line: &str, last: &OsStr) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_translora"))
        .args(line.split(' '))
        .arg(last)
        .current_dir(&world.folder)
        .stdin(Stdio::null())
        .output()
        .expect("the program runs");
    streams(&output)
}

fn streams(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("output is UTF-8");
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// 48: a request is JSON, so what is no UTF-8 in one is refused by name.
#[test]
fn a_name_that_is_not_utf_8_is_refused_by_name() {
    let world = World::new();
    let (code, _, err) = run(&world, TRAIN, OsStr::from_bytes(b"na\xFFme"));
    assert_eq!(code, Some(2), "{err}");
    assert!(
        err.contains("--out na\u{FFFD}me: this is not UTF-8"),
        "{err}"
    );
    assert!(err.contains("hint: rename"), "{err}");
}

/// 48: names with spaces, brackets, line feeds and wide letters are names.
#[test]
fn odd_names_are_names() {
    let world = World::new();
    for name in [
        "with a space",
        "-dash",
        "ünï wörter 文字",
        "a,b;c'd\"e",
        "line\nfeed",
        "p|pe%s",
    ] {
        let out = format!("{name}.gguf");
        let (code, _, err) = run(
            &world,
            &TRAIN.replace(" --out", ""),
            OsStr::new(&format!("--out={out}")),
        );
        assert_eq!(code, Some(0), "{name}: {err}");
        assert!(world.path(&out).is_file(), "{name}");
        let report = world.path(&format!("{name}.report.json"));
        assert!(report.is_file(), "{name}");
    }
}

/// 48: `task.v1` and `task.v2` have reports of their own.
#[test]
fn outputs_that_differ_in_their_last_part_do_not_meet() {
    let world = World::new();
    for out in ["task", "task.v1", "task.v2"] {
        let (code, _, err) = run(&world, TRAIN, OsStr::new(out));
        assert_eq!(code, Some(0), "{out}: {err}");
        assert!(world.path(&format!("{out}.report.json")).is_file(), "{out}");
    }
}

/// 45: a folder in the place of an output, a disk without room, a limit on the size of files.
#[test]
fn what_cannot_be_written_is_said_and_nothing_is_left() {
    let world = World::new();
    fs::create_dir(world.path("folder")).expect("writable");
    let before = world.names();
    let (code, _, err) = run(&world, TRAIN, OsStr::new("folder"));
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("folder: is a folder"), "{err}");
    assert!(err.contains("hint: "), "{err}");
    let (code, _, err) = run(&world, TRAIN, OsStr::new("no/such/l.gguf"));
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("no/such") && err.contains("hint: "), "{err}");
    assert_eq!(world.names(), before);

    let line = format!("ulimit -f 0; exec \"$0\" {TRAIN} l.gguf");
    let output = Command::new("sh")
        .args(["-c", &line, env!("CARGO_BIN_EXE_translora")])
        .current_dir(&world.folder)
        .stdin(Stdio::null())
        .output()
        .expect("there is a shell");
    let (code, _, err) = streams(&output);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("File too large"), "{err}");
    assert!(err.contains("hint: "), "{err}");
    assert!(!world.path("l.gguf").exists());
}

/// A program that waits for its threads as OpenMP does by default is far slower beside other work.
#[cfg(target_os = "linux")]
#[test]
fn threads_wait_briefly_unless_the_environment_says_how() {
    use std::io::{BufRead, BufReader};

    let world = World::new();
    let cases = [
        (None, "GOMP_SPINCOUNT=1000"),
        (Some(("GOMP_SPINCOUNT", "7")), "GOMP_SPINCOUNT=7"),
        (Some(("OMP_WAIT_POLICY", "passive")), ""),
    ];
    for (set, spins) in cases {
        let mut child = Command::new(env!("CARGO_BIN_EXE_translora"))
            .args(["serve", "-m", "old.json", "--port", "0"])
            .current_dir(&world.folder)
            .env_remove("GOMP_SPINCOUNT")
            .env_remove("OMP_WAIT_POLICY")
            .envs(set)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        _ = BufReader::new(stdout).read_line(&mut line);
        let environment = fs::read(format!("/proc/{}/environ", child.id()));
        child.kill().expect("it runs");
        child.wait().expect("it ran");
        assert!(line.contains("listening"), "{line:?}");
        let environment = String::from_utf8(environment.expect("it runs")).expect("UTF-8");
        let found = environment
            .split('\0')
            .find(|variable| variable.starts_with("GOMP_SPINCOUNT"));
        assert_eq!(found.unwrap_or_default(), spins);
    }
}
