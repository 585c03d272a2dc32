//! Writes the toy world into a folder: bases and rows for trying the program without a model.
//!
//! `cargo run --no-default-features --example world -- FOLDER`
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "an example prints"
)]

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io};

use serde::Serialize;
use translora::engine::toy::world::{new_base, old_base, rows};

/// Rows of the task.
const ROWS: usize = 420;
const SEED: u64 = 11;

fn main() -> ExitCode {
    let Some(folder) = env::args_os().nth(1) else {
        eprintln!("usage: world FOLDER");
        return ExitCode::from(2);
    };
    match write(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("old.json"), json(&old_base())?)?;
    fs::write(folder.join("new.json"), json(&new_base())?)?;
    let lines = rows(ROWS, SEED);
    let lines: io::Result<Vec<String>> = lines.iter().map(|row| Ok(json(row)? + "\n")).collect();
    fs::write(folder.join("rows.jsonl"), lines?.concat())?;
    println!(
        "old.json, new.json and rows.jsonl are in {}",
        folder.display()
    );
    Ok(())
}

fn json(value: &impl Serialize) -> io::Result<String> {
    Ok(serde_json::to_string(value)?)
}
