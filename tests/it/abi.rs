//! The C ABI from outside: hosts in C, compiled here, against the header and against the library
//! that cargo built.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::skipped;
use crate::source::root;

/// Every symbol that the library may export, in one place: its entry, and what makes a llama.cpp
/// server load it.
const EXPORTS: [&str; 2] = ["translora_get_entry", "ggml_backend_init"];

/// Compile a program against the header with every warning an error; none, loudly, on a machine
/// without the compiler.
pub fn compile(source: &str, language: Language) -> Option<PathBuf> {
    build(source, language, &[])
}

/// As [`compile`], with more flags.
pub fn build(source: &str, language: Language, more: &[&str]) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c-host");
    std::fs::create_dir_all(&folder).expect("the test folder is writable");
    let (variable, usual, flags) = match language {
        Language::C => ("CC", "cc", ["-std=c11", "-xc"]),
        Language::Cpp => ("CXX", "c++", ["-std=c++17", "-xc++"]),
    };
    let name = format!(
        "{source}{}{}-{:?}",
        flags[0],
        more.join(""),
        std::thread::current().id()
    );
    let program = folder.join(name.replace(['/', '.', '(', ')', '='], "-"));
    let compiler = std::env::var(variable).unwrap_or_else(|_| usual.into());
    let mut command = Command::new(&compiler);
    command
        .args(flags)
        .args([
            "-D_DEFAULT_SOURCE",
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Werror",
            "-I",
        ])
        .arg(root().join("ffi/abi/include"));
    command
        .args(more)
        .arg(root().join(source))
        .arg("-o")
        .arg(&program)
        .args(["-ldl", "-lpthread"]);
    match command.output() {
        Err(error) => {
            skipped(&format!(
                "no compiler ({compiler}: {error}); {source} is not tested here"
            ));
            None
        }
        Ok(output) => {
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            Some(program)
        }
    }
}

#[derive(Clone, Copy)]
pub enum Language {
    C,
    Cpp,
}

/// The plugin beside the program that cargo built for this test.
pub fn plugin() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_translora"))
        .parent()
        .expect("a program lies in a folder");
    let name = format!(
        "{}translora{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    );
    let places = [folder.join("deps").join(&name), folder.join(&name)];
    let built = places.into_iter().filter(|path| path.exists());
    built
        .max_by_key(|path| path.metadata().and_then(|m| m.modified()).ok())
        .expect("cargo builds the cdylib with the tests")
}

#[test]
fn c_and_cpp_and_rust_agree_on_every_offset_and_code() {
    for language in [Language::C, Language::Cpp] {
        let Some(program) = compile("tests/c/layout.c", language) else {
            continue;
        };
        let output = Command::new(program).output().expect("it runs");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            translora_abi::layout()
        );
    }
}

#[test]
fn a_careless_stranger_loads_the_plugin() {
    let Some(host) = compile("tests/c/host.c", Language::C) else {
        return;
    };
    let output = Command::new(host)
        .arg(plugin())
        .arg("no-such-file.gguf")
        .output()
        .expect("the host runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        said.contains("all well"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("refused: "), "{said}");
    assert!(said.contains("no-such-file.gguf"), "{said}");
}

/// Everything else, llama.cpp and ggml with it, is linked in and hidden: a host has its own.
#[test]
fn the_plugin_exports_its_entry_and_takes_none_of_llama() {
    let flags: &[(&str, &str)] = match std::env::consts::OS {
        "linux" => &[("-D", "--defined-only"), ("-D", "--undefined-only")],
        "macos" => &[("-g", "-U"), ("-g", "-u")],
        other => {
            return skipped(&format!(
                "on {other}, what the plugin exports is not tested"
            ));
        }
    };
    let mut lists = Vec::new();
    for (first, second) in flags {
        let Ok(output) = Command::new("nm")
            .args([first, second])
            .arg(plugin())
            .output()
        else {
            return skipped("no nm; what the plugin exports is not tested here");
        };
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        // A name comes last, on macOS with an underscore before it, on Linux with a version behind
        // it.
        let name = |line: &str| {
            line.split_whitespace()
                .last()
                .map(|name| name.trim_start_matches('_').to_owned())
        };
        lists.push(listed.lines().filter_map(name).collect::<Vec<_>>());
    }
    assert!(
        lists[0].iter().any(|name| name == EXPORTS[0]),
        "{:?}",
        lists[0]
    );
    let more: Vec<&String> = lists[0]
        .iter()
        .filter(|name| !EXPORTS.contains(&name.as_str()))
        .collect();
    assert!(
        more.is_empty(),
        "{more:?} are exported, and are not in the list"
    );
    let foreign = |name: &&String| {
        ["ggml_", "gguf_", "llama_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    assert_eq!(
        lists[1].iter().filter(foreign).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
}
