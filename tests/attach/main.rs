//! The module inside a llama-server that was built elsewhere: every answer equals, token for token,
//! that of a stock server which was started with the adapter that was live when the request began.
//!
//! `scripts/check/attach LLAMA_SERVER` runs it. Without TRANSLORA_LLAMA_SERVER it says that it was
//! skipped.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "tests wait with deadlines, say what they measure, and hold long tables"
)]

#[cfg(target_os = "linux")]
mod cases;
#[cfg(target_os = "linux")]
mod hosts;
#[cfg(target_os = "linux")]
mod jobs;
#[cfg(target_os = "linux")]
mod kept;
mod kinds;
#[cfg(target_os = "linux")]
mod load;
#[cfg(target_os = "linux")]
mod models;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
mod speed;
#[cfg(target_os = "linux")]
mod table;
#[cfg(target_os = "linux")]
#[path = "../it/tokenizer.rs"]
mod tokenizer;
#[cfg(target_os = "linux")]
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    let skipped = |why: &str| {
        eprintln!("\nSKIPPED: {why}");
        ExitCode::SUCCESS
    };
    if std::env::args().any(|arg| arg == "--list") {
        return ExitCode::SUCCESS;
    }
    #[cfg(target_os = "linux")]
    return match std::env::var_os("TRANSLORA_LLAMA_SERVER") {
        None => skipped(
            "no TRANSLORA_LLAMA_SERVER; nothing is attached to a llama-server here (scripts/check/attach does that)",
        ),
        Some(program) => table::run(program.as_ref()),
    };
    #[cfg(not(target_os = "linux"))]
    skipped("only Linux servers are attached to")
}
