//! Write a GGUF model with its matrices in another type, as `llama-quantize` does.
//!
//! usage: cargo run --example quantize -- MODEL.gguf TYPE OUT.gguf
#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "an example prints"
)]

use std::path::Path;
use std::process::ExitCode;

use translora_llama::{Backend, QUANTIZATIONS, quantize};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, kind, out] = &arguments[..] else {
        let names = QUANTIZATIONS.map(|(name, _)| name).join(" ");
        eprintln!("usage: quantize MODEL.gguf TYPE OUT.gguf\ntypes: {names}");
        return ExitCode::from(2);
    };
    let out = Path::new(out);
    if out.exists() {
        eprintln!(
            "error: {} exists already\nhint: name another file, or remove this one",
            out.display()
        );
        return ExitCode::from(2);
    }
    // llama.cpp writes as it goes: a name that is only given to the whole file.
    let part = out.with_extension("gguf.part");
    let made = Backend::init()
        .and_then(|backend| quantize(backend, Path::new(model), &part, kind))
        .map_err(|error| error.to_string());
    match made.and_then(|()| {
        std::fs::rename(&part, out).map_err(|error| format!("{}: {error}", out.display()))
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            let _ = std::fs::remove_file(&part);
            eprintln!("error: {reason}");
            ExitCode::from(2)
        }
    }
}
