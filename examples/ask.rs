//! Asks models one question, to see an adapter at work.
//!
//! `cargo run --example ask -- ROWS.jsonl BASE.gguf BASE.gguf+LORA.gguf …`
//!
//! The question is the prompt of the first row; the greedy answer of each base, with its adapter
//! where one is named, is printed beside the answer of the row.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "an example prints"
)]

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use translora::engine::ggml::GgmlEngine;
use translora::engine::{Engine, Monitor, OpenOptions, With};
use translora::record::{Cancel, Pair};
use translora::request::AnswerLength;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [rows, models @ ..] = args.as_slice() else {
        eprintln!("usage: ask ROWS.jsonl BASE.gguf[+LORA.gguf] …");
        return ExitCode::from(2);
    };
    match ask(Path::new(rows), models) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn ask(rows: &Path, models: &[String]) -> Result<(), Box<dyn Error>> {
    let text =
        std::fs::read_to_string(rows).map_err(|error| format!("{}: {error}", rows.display()))?;
    let row: Pair = serde_json::from_str(text.lines().next().ok_or("no rows")?)?;
    let engine = GgmlEngine::new()?;
    println!("prompt    {}", row.prompt);
    println!("expected  {}", row.completion);
    for model in models {
        println!("answer    {}    <- {model}", answer(&engine, model, &row)?);
    }
    Ok(())
}

fn answer(engine: &GgmlEngine, model: &str, row: &Pair) -> Result<String, Box<dyn Error>> {
    let (base, lora) = model
        .split_once(".gguf+")
        .map_or((model.to_owned(), None), |(base, lora)| {
            (format!("{base}.gguf"), Some(lora))
        });
    let mut model = engine.open(Path::new(&base), &OpenOptions::default())?;
    let with = match lora {
        Some(lora) => With::Adapter(model.attach(Path::new(lora))?),
        None => With::Base,
    };
    let mut monitor = Monitor {
        cancel: &Cancel::default(),
        progress: &mut |_, _| {},
    };
    let answers = model.answer(
        with,
        std::slice::from_ref(&row.prompt),
        AnswerLength::default().answer_tokens,
        &mut monitor,
    )?;
    let answer = answers.first().ok_or("no answer")?;
    Ok(answer.text.lines().next().unwrap_or_default().to_owned())
}
