//! Files that people have, as public reports tell of them: each is taken for what it is, or refused
//! by name before any work. The files lie in `tests/fixtures/cases`; all texts in them are made up.

use std::process::{Command, Stdio};

use crate::toy::World;

#[cfg(feature = "ggml")]
mod adapters;
mod data;
#[cfg(target_os = "linux")]
mod machine;
#[cfg(feature = "ggml")]
mod models;
mod serving;
#[cfg(feature = "ggml")]
mod templates;
#[cfg(feature = "ggml")]
mod tiny;

/// Run the program on the toy's models: its exit status and what it says.
fn run(world: &World, words: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_translora"))
        .args(words)
        .current_dir(&world.folder)
        .stdin(Stdio::null())
        .output()
        .expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().expect("it ends by itself"), said)
}
