//! Commands for the adapters of a llama-server that the library was loaded into, over its unix
//! socket.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use translora::control::{Backend, Command, Expected, Load, Reply, Socket};
use translora::fetch::Wanted;

use crate::failure::Failure;
use crate::progress::Verbosity;
use crate::{Outcome, files, out};

/// List and change the adapters of a running llama-server
///
/// The server has to run with libtranslora.so in it (`translora attach`), whose socket is printed
/// in its log. A change is answered when it is live: every request that is sent afterwards is
/// answered by the new adapter, and requests that are under way keep theirs.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  translora adapters --attach /run/user/1000/translora-4711.sock load \
        tickets.gguf"
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

        /// Change nothing where the base that is served is called otherwise: by its alias, its file or
        /// its own name
        #[arg(long, value_name = "NAME")]
        base_model_name: Option<String>,

        /// Change nothing where another generation is live, as `list` shows it; 0: where one is
        #[arg(long, value_name = "N")]
        expected_generation: Option<u64>,
    },
    /// Go back to the adapter before the live one
    Rollback {
        /// The adapter that is to go, as `list` calls it without `.gguf`: nothing is changed where
        /// another one is live
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
    /// Go back to what the server was started with
    Unload {
        /// As in rollback
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
}

impl Adapters {
    pub fn run(self, verbosity: Verbosity) -> Result<Outcome, Failure> {
        let command = match self.command {
            What::List => Command::List {},
            What::Load {
                file,
                base_model_name,
                expected_generation,
            } => Command::Load(Load {
                path: absolute(&files::local(&file, Wanted::Adapter)?)?.into(),
                base_model_name,
                expected_generation: expected_generation.map(Expected),
                ..Load::default()
            }),
            What::Rollback { name } => Command::Rollback { name },
            What::Unload { name } => Command::Unload { name },
        };
        let answer = match Socket::new(self.attach).carry(command)? {
            Reply::Adapters(adapters) => serde_json::to_value(adapters),
            reply => serde_json::to_value(reply),
        };
        let answer = answer.map_err(|error| Failure::Bug(error.to_string()))?;
        out::data(&if verbosity.json {
            answer.to_string()
        } else {
            let all = answer["data"].as_array().cloned();
            let all = all.unwrap_or_else(|| vec![answer["swapped"].clone()]);
            let rows = all
                .iter()
                .flat_map(|one| out::columns(&out::rows(one)))
                .collect::<Vec<_>>();
            rows.join("\n")
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

fn usage(message: String, hint: &str) -> Failure {
    Failure::Usage {
        message,
        hint: hint.into(),
    }
}
