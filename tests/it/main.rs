//! The integration tests, one program.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "tests wait with deadlines, say what they measure, and hold long tables"
)]

mod abi;
mod audit;
mod blame;
mod bounds;
mod cli;
#[cfg(target_os = "linux")]
mod control;
mod conventions;
mod doctor;
mod fetch;
mod host;
mod inputs;
mod invariants;
mod jobs;
mod objectives;
mod open;
mod pipeline;
#[cfg(feature = "ggml")]
mod real;
mod refusals;
mod renderer;
mod request;
mod serve;
mod source;
mod tidy;
#[cfg(feature = "ggml")]
mod tokenizer;
mod toy;
mod walls;
mod world;
mod wrapped;

/// Say what is not tested on this machine, past the test runner, which keeps the words of tests
/// that pass to itself.
fn skipped(why: &str) {
    use std::io::Write;
    _ = writeln!(std::io::stderr(), "\nSKIPPED: {why}");
}
