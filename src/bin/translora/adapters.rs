//! Talks to a llama-server that the library was loaded into, over its unix socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::progress::Talk;
use crate::{Outcome, out};

/// A server that says nothing for this long is given up. It may be in the middle of a long batch.
const SILENCE_SECONDS_MAX: u64 = 300;
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// List and change the adapters of a running llama-server
///
/// The server has to run with libtranslora.so in it (`translora attach`), whose socket is printed
/// in its log. A change is answered when it is live: every request that is sent afterwards is
/// answered by the new adapter, and requests that are under way keep theirs.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  translora adapters --attach /run/user/1000/translora-4711.sock load tickets.gguf"
)]
pub struct Adapters {
    /// The server's socket
    #[arg(long, value_name = "SOCKET")]
    attach: PathBuf,

    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Say which adapter is live, and which one was before
    List,
    /// Make a LoRA file the live adapter
    Load {
        /// The adapter, as `translora transfer` writes it
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Go back to the adapter before the live one
    Rollback {
        /// The adapter that is to go, as `list` calls it without `.gguf`: nothing is changed where
        /// another one is live
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
    /// Go back to what the server was started with
    Unload,
}

impl Adapters {
    pub fn run(self, talk: Talk) -> Result<Outcome, Failure> {
        let command = match &self.command {
            What::List => json!({"do": "list"}),
            What::Load { file } => json!({"do": "load", "path": absolute(file)?}),
            What::Rollback { name } => json!({"do": "rollback", "name": name}),
            What::Unload => json!({"do": "unload"}),
        };
        let answer = ask(&self.attach, &command)?;
        out::data(&if talk.json {
            answer.to_string()
        } else {
            out::columns(&out::rows(&answer)).join("\n")
        })?;
        Ok(Outcome::Done)
    }
}

/// The server may run in another folder.
pub fn absolute(file: &Path) -> Result<String, Failure> {
    let whole = std::path::absolute(file).map_err(|error| {
        usage(
            format!("{}: {error}", file.display()),
            "name the file by its whole path",
        )
    })?;
    let text = whole.to_str().map(str::to_owned);
    text.ok_or_else(|| {
        usage(
            format!("{}: the path is not UTF-8", file.display()),
            "give the file another name",
        )
    })
}

/// Send one command and read its answer.
pub fn ask(socket: &Path, command: &Value) -> Result<Value, Failure> {
    let place = socket.display();
    let broken = |error: std::io::Error| {
        usage(
            format!("{place}: {error}"),
            "is the server running? its log has a line `translora: socket PATH`",
        )
    };
    let mut stream = UnixStream::connect(socket).map_err(broken)?;
    stream
        .set_read_timeout(Some(Duration::from_secs(SILENCE_SECONDS_MAX)))
        .map_err(broken)?;
    writeln!(stream, "{command}").map_err(broken)?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX))
        .read_line(&mut line)
        .map_err(broken)?;
    let answer: Value = serde_json::from_str(&line).map_err(|_| {
        usage(
            format!("{place} gives no answer that translora understands"),
            "is this the socket of a llama-server with translora in it?",
        )
    })?;
    match answer["error"].as_str() {
        Some(error) => {
            let (message, hint) = error
                .split_once("; hint: ")
                .unwrap_or((error, "nothing was changed; the server goes on as before"));
            Err(usage(message.to_owned(), hint))
        }
        None => Ok(answer),
    }
}

fn usage(message: String, hint: &str) -> Failure {
    Failure::Usage {
        message,
        hint: hint.into(),
    }
}
