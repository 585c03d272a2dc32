//! Starts a llama-server with the library in it, and says by which way.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use clap::Args;
use rustix::process::{Signal, set_parent_process_death_signal};
use translora::control::{self, Server, Socket};

use crate::elf::Elf;
use crate::failure::Failure;
use crate::kept::Kept;
use crate::log::Log;
use crate::progress::Verbosity;
use crate::{Outcome, out};

/// Libraries that are followed, at most.
const LIBRARIES_MAX: usize = 64;

/// Start an unmodified llama-server whose adapter can be changed while it runs
///
/// Puts libtranslora.so into the server's process, which is otherwise the one that was asked for,
/// with its own arguments. The server's log then names a socket for `translora adapters`. A server
/// with llama.cpp linked into the program cannot be attached to.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  translora attach -- llama-server -m new.gguf --port 8080\n  \
                  translora attach --control 8090 -- llama-server -m new.gguf --port 8080",
    mut_args(|arg| if arg.get_id().as_str().starts_with("log_") { arg.requires("control") } else { arg })
)]
pub struct Attach {
    /// The library; left out, the one beside this program
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,

    /// Serve transfers and adapters over HTTP on this port of 127.0.0.1, as `translora control`
    /// does, for as long as the server runs; 0 takes a free one
    #[arg(long, value_name = "PORT")]
    control: Option<u16>,

    #[command(flatten)]
    kept: Kept,

    #[command(flatten)]
    log: Log,

    /// End when the process that started this one does
    #[arg(long, hide = true)]
    with_parent: bool,

    /// The server and its arguments
    #[arg(last = true, required = true, value_name = "SERVER ARGS")]
    server: Vec<OsString>,
}

impl Attach {
    pub fn run(self, verbosity: Verbosity) -> Result<Outcome, Failure> {
        if let Some(port) = self.control {
            return self.beside(port, verbosity);
        }
        if self.with_parent {
            // The program that takes this one's place keeps it. Where it fails, the server outlives
            // a launcher that is killed, and nothing else changes.
            _ = set_parent_process_death_signal(Some(Signal::TERM));
        }
        let library = self.library.clone().or_else(beside).ok_or_else(|| {
            usage(
                "libtranslora.so is not beside this program",
                "name it with --library",
            )
        })?;
        let library = library.canonicalize().map_err(|error| {
            usage(
                &format!("{}: {error}", library.display()),
                "name it with --library",
            )
        })?;
        let program = found(&self.server[0]).ok_or_else(|| {
            usage(
                &format!("there is no program {}", self.server[0].display()),
                "give its whole path, or put its folder into PATH",
            )
        })?;
        let how = examine(&program)?;
        let mut command = Command::new(&program);
        command.args(&self.server[1..]);
        let mut preload = library.clone().into_os_string();
        if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
            preload.push(":");
            preload.push(others);
        }
        command.env("LD_PRELOAD", preload).envs(keeping(self.kept));
        if !verbosity.quiet {
            out::say(&format!("attach   {} ({how})", program.display()));
            out::say(&format!(
                "  way    LD_PRELOAD={}: works whichever backends the server was built with",
                library.display()
            ));
            out::say(
                "  next   the server's log names a socket; translora adapters --attach SOCKET \
                load ADAPTER.gguf",
            );
        }
        Err(usage(
            &format!("{}: {}", program.display(), command.exec()),
            "is it a program for this machine?",
        ))
    }
}

impl Attach {
    /// Start the server in a process of its own, and the router for its adapters in this one.
    fn beside(self, port: u16, verbosity: Verbosity) -> Result<Outcome, Failure> {
        self.log.start(verbosity.quiet);
        let socket = control::place().map_err(|error| {
            usage(
                &error.to_string(),
                error.hint().unwrap_or("set TRANSLORA_SOCKET"),
            )
        })?;
        let token = crate::control::token()?;
        let backend = Arc::new(Socket::new(socket.clone()));
        let server = Server::start(backend, "127.0.0.1", port, &token)?;
        out::say(&crate::control::notice(&server, &token));
        let program = std::env::current_exe()
            .map_err(|error| usage(&error.to_string(), "start this program by its path"))?;
        let mut command = Command::new(program);
        command.args(["attach", "--with-parent"]);
        if verbosity.quiet {
            command.arg("--quiet");
        }
        if let Some(library) = &self.library {
            command.arg("--library").arg(library);
        }
        command
            .arg("--")
            .args(&self.server)
            .env("TRANSLORA_SOCKET", socket)
            .env_remove(crate::control::TOKEN);
        command.envs(keeping(self.kept));
        let status = server.run_beside(&mut command)?;
        // As shells have it.
        let code = status.code().or(status.signal().map(|signal| 128 + signal));
        Ok(Outcome::Ended(
            code.and_then(|code| u8::try_from(code).ok()).unwrap_or(2),
        ))
    }
}

/// What tells the library to keep prompts.
fn keeping(kept: Kept) -> Vec<(&'static str, OsString)> {
    let Some((folder, bounds)) = kept.bounds() else {
        return Vec::new();
    };
    vec![
        ("TRANSLORA_HARVEST", folder.into_os_string()),
        ("TRANSLORA_HARVEST_ROWS", bounds.rows_max.to_string().into()),
        (
            "TRANSLORA_HARVEST_TTL",
            bounds.ttl_seconds.to_string().into(),
        ),
    ]
}

/// The library that was built with this program.
fn beside() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    let places = [
        folder.join("libtranslora.so"),
        folder.join("../lib/libtranslora.so"),
        folder.join("deps/libtranslora.so"),
    ];
    places.into_iter().find(|place| place.exists())
}

/// The program behind a name, as a shell would find it.
fn found(name: &OsStr) -> Option<PathBuf> {
    if name.as_encoded_bytes().contains(&b'/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Say how the program gets its llama.cpp.
///
/// fails: where the library could do nothing in it
fn examine(program: &Path) -> Result<String, Failure> {
    let name = program.display();
    let bytes = std::fs::read(program).map_err(|error| {
        usage(
            &format!("{name}: {error}"),
            "it must be readable to be examined",
        )
    })?;
    if bytes.starts_with(b"#!") {
        return Ok(
            "a script: what it starts is not known here, and says in its log whether it works"
                .into(),
        );
    }
    let elf = Elf::parse(&bytes).ok_or_else(|| {
        usage(
            &format!("{name} is no ELF program"),
            "name the llama-server program itself",
        )
    })?;
    if !elf.dynamic {
        return Err(usage(
            &format!("{name} is linked statically: it has no libllama to attach to"),
            SHARED,
        ));
    }
    match libllama(program, elf) {
        Some(library) => Ok(format!("with {library}")),
        None => Err(usage(
            &format!(
                "{name} needs no libllama.so: llama.cpp is linked into it, or it is no llama-server"
            ),
            SHARED,
        )),
    }
}

const SHARED: &str = "build llama.cpp with -DBUILD_SHARED_LIBS=ON, or serve with `llama-server \
    --lora FILE` and restart for a new adapter";

/// The libllama among the libraries that the program needs, and those they need.
fn libllama(program: &Path, elf: Elf) -> Option<String> {
    let own = program.canonicalize().ok()?;
    let (mut seen, mut left) = (HashSet::new(), vec![(own, elf)]);
    let extra: Vec<PathBuf> = std::env::var_os("LD_LIBRARY_PATH")
        .map(|all| std::env::split_paths(&all).collect())
        .unwrap_or_default();
    while let Some((file, elf)) = left.pop() {
        let origin = file.parent()?.display().to_string();
        let folders = elf.folders.iter().map(|folder| {
            PathBuf::from(
                folder
                    .replace("$ORIGIN", &origin)
                    .replace("${ORIGIN}", &origin),
            )
        });
        let folders: Vec<PathBuf> = extra
            .iter()
            .cloned()
            .chain(folders)
            .chain(["/usr/local/lib", "/usr/lib"].map(PathBuf::from))
            .collect();
        for name in elf.needed {
            if name.starts_with("libllama.so") {
                return Some(name);
            }
            if seen.len() >= LIBRARIES_MAX || !seen.insert(name.clone()) {
                continue;
            }
            // Only llama.cpp's own libraries lead on to it.
            let near = name.starts_with("libllama") || name.starts_with("libmtmd");
            let place = folders
                .iter()
                .map(|folder| folder.join(&name))
                .find(|path| near && path.is_file());
            if let Some((place, elf)) = place
                .and_then(|place| Some((place.clone(), Elf::parse(&std::fs::read(place).ok()?)?)))
            {
                left.push((place, elf));
            }
        }
    }
    None
}

fn usage(message: &str, hint: &str) -> Failure {
    Failure::Usage {
        message: message.into(),
        hint: hint.into(),
    }
}
