//! Asks an OpenAI-compatible server the prompts of a file and counts the right answers.
//!
//! `cargo run --example chat -- HOST:PORT ROWS.jsonl COUNT`
//!
//! The first COUNT rows go to `/v1/chat/completions`, at temperature 0. The
//! last line of stdout is `RIGHT of COUNT`. `scripts/check/stock` uses it.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "an example prints"
)]

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use translora::record::{Pair, Prompt};

/// A server that says nothing for this long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// The longest response that is read.
const RESPONSE_BYTES_MAX: u64 = 1 << 20;
const TOKENS_MAX: usize = 64;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [server, rows, count] = args.as_slice() else {
        eprintln!("usage: chat HOST:PORT ROWS.jsonl COUNT");
        return ExitCode::from(2);
    };
    match chat(server, Path::new(rows), count) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn chat(server: &str, path: &Path, count: &str) -> Result<(), Box<dyn Error>> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let rows: Vec<Pair> = text
        .lines()
        .take(count.parse()?)
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let mut right = 0;
    for row in &rows {
        let said = answer(server, &row.prompt)?;
        right += usize::from(said.trim() == row.completion.trim());
    }
    println!("{right} of {}", rows.len());
    Ok(())
}

/// The answer of the server's model to a conversation.
fn answer(server: &str, prompt: &Prompt) -> Result<String, Box<dyn Error>> {
    let body =
        json!({"messages": prompt.turns(), "temperature": 0, "max_tokens": TOKENS_MAX}).to_string();
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {server}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut response = String::new();
    stream
        .take(RESPONSE_BYTES_MAX)
        .read_to_string(&mut response)?;
    let (head, body) = response
        .split_once("\r\n\r\n")
        .ok_or("the server sent no whole response")?;
    let status = head.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") {
        return Err(format!("the server said {status}: {body}").into());
    }
    let body: Value = serde_json::from_str(body)?;
    let content = body["choices"][0]["message"]["content"]
        .as_str()
        .ok_or("the response has no answer")?;
    Ok(content.to_owned())
}
