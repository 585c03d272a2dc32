//! `translora doctor`: our own library conforms, and what does not is found out, whatever it does
//! to the process that looks.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::abi::{Language, build, plugin};

/// Judge a library: exit status, and the object.
fn doctor(library: Option<&Path>) -> (i32, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_translora"));
    command.args([
        "doctor",
        "--json",
        "--limit",
        if library.is_some_and(|l| l == plugin()) {
            "60"
        } else {
            "1"
        },
    ]);
    command.args(library);
    let output = command.output().expect("the program runs");
    let said = String::from_utf8_lossy(&output.stdout);
    (
        output.status.code().expect("it ends by itself"),
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}")),
    )
}

fn outcome<'a>(report: &'a Value, check: &str) -> (&'a str, &'a str) {
    let checks = report["checks"].as_array().expect("a list of checks");
    let found = checks
        .iter()
        .find(|found| found["name"] == check)
        .unwrap_or_else(|| panic!("no {check}"));
    (
        found["outcome"].as_str().expect("a word"),
        found["said"].as_str().unwrap_or_default(),
    )
}

#[test]
fn the_machine_is_told() {
    let (code, report) = doctor(None);
    assert_eq!(code, 0, "{report}");
    let machine = &report["machine"];
    for sandbox in ["sandbox_files", "sandbox_calls"] {
        assert!(
            machine[sandbox]
                .as_str()
                .is_some_and(|words| !words.is_empty())
        );
    }
    assert!(machine["cores"].as_u64().is_some_and(|n| n > 0));
    assert!(
        machine["processor"]
            .as_str()
            .is_some_and(|name| !name.is_empty())
    );
    assert_eq!(report["checks"], Value::Null);
    if cfg!(feature = "ggml") {
        assert!(
            machine["devices"].as_array().is_some_and(|all| all
                .iter()
                .any(|d| d.as_str().is_some_and(|d| d.starts_with("CPU")))),
            "{report}"
        );
        assert!(
            machine["ggml_version"]
                .as_str()
                .is_some_and(|version| version.contains('.')),
            "{report}"
        );
    }
}

#[test]
fn our_library_conforms() {
    let (code, report) = doctor(Some(&plugin()));
    for check in report["checks"].as_array().expect("a list of checks") {
        assert_eq!(check["outcome"], "passed", "{check}");
    }
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["conforms"], true, "{report}");
}

#[test]
fn what_breaks_the_law_is_found_out() {
    let cases = [
        ("SIZE", Language::C, "load", "failed", "20 bytes"),
        ("MISSING", Language::C, "load", "failed", "missing"),
        ("CRASH", Language::C, "life", "crashed", "signal 11"),
        ("HANG", Language::C, "life", "hung", ""),
        ("LEAVE", Language::C, "life", "crashed", "ended by itself"),
        ("UNWIND", Language::Cpp, "life", "crashed", "signal 6"),
        ("LIE", Language::C, "stale", "failed", "BadHandle"),
        ("LIE", Language::C, "null", "failed", "InvalidArgument"),
        ("LIE", Language::C, "sizes", "failed", "0 bytes"),
    ];
    for (wrong, language, check, word, said) in cases {
        let define = format!("-DWRONG={wrong}");
        let Some(library) = build("tests/c/wrong.c", language, &["-shared", "-fPIC", &define])
        else {
            return;
        };
        let (code, report) = doctor(Some(&library));
        let found = outcome(&report, check);
        assert!(found.0 == word, "{wrong} {check}: {found:?}");
        assert!(found.1.contains(said), "{wrong} {check}: {found:?}");
        assert_eq!(code, 1, "{wrong}");
        assert_eq!(report["conforms"], false, "{wrong}");
    }
}

#[test]
fn what_is_no_library_is_an_error_or_a_finding() {
    let run = |library: PathBuf| {
        let output = Command::new(env!("CARGO_BIN_EXE_translora"))
            .arg("doctor")
            .arg(library)
            .output()
            .expect("the program runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (code, out, err) = run("missing.so".into());
    assert!(code == Some(2), "{err}");
    assert!(out.is_empty(), "{err}");
    assert!(err.contains("missing.so"), "{err}");
    assert!(err.contains("hint: "), "{err}");
    let (code, out, _) = run(crate::source::root().join("Cargo.toml"));
    assert!(code == Some(1), "{out}");
    assert!(out.contains("cannot be loaded"), "{out}");
    assert!(out.contains("does not conform"), "{out}");
}
