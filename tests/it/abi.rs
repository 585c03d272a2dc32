//! The C ABI from outside: a host in C, compiled here, against the header and against the library that cargo built.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::source::root;

/// Compile tests/c/host.c; none, loudly, on a machine without a C compiler.
fn host() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c-host");
    std::fs::create_dir_all(&folder).expect("the test folder is writable");
    let program = folder.join(format!("host-{:?}", std::thread::current().id()).replace(['(', ')'], "-"));
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut command = Command::new(&compiler);
    command.args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"]).arg(root().join("ffi/abi/include"));
    command.arg(root().join("tests/c/host.c")).arg("-o").arg(&program).arg("-ldl");
    match command.output() {
        Err(error) => {
            eprintln!("SKIPPED: no C compiler ({compiler}: {error}); the C side of the ABI is not tested here");
            None
        }
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(program)
        }
    }
}

/// The plugin beside the program that cargo built for this test.
fn plugin() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_translora")).parent().expect("a program lies in a folder");
    let name = format!("{}translora{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let places = [folder.join("deps").join(&name), folder.join(&name)];
    let built = places.into_iter().filter(|path| path.exists());
    built.max_by_key(|path| path.metadata().and_then(|m| m.modified()).ok()).expect("cargo builds the cdylib with the tests")
}

#[test]
fn c_and_rust_agree_on_every_offset_and_code() {
    let Some(host) = host() else { return };
    let output = Command::new(host).arg("--layout").output().expect("the host runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), translora_abi::layout());
}

#[test]
fn a_stranger_loads_the_plugin() {
    let Some(host) = host() else { return };
    let output = Command::new(host).arg(plugin()).arg("no-such-file.gguf").output().expect("the host runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("all well"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("refused: ") && said.contains("no-such-file.gguf"), "{said}");
}

#[test]
#[cfg(target_os = "linux")]
fn the_plugin_exports_one_symbol_of_ours() {
    let Ok(output) = Command::new("nm").args(["-D", "--defined-only"]).arg(plugin()).output() else {
        eprintln!("SKIPPED: no nm; what the plugin exports is not tested here");
        return;
    };
    let listed = String::from_utf8_lossy(&output.stdout);
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(names, ["translora_get_entry"]);
}
