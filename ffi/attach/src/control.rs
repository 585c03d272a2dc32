//! Takes commands on a unix socket: one JSON object a line in, one out.
//!
//! `{"do":"list"}`, `{"do":"load","path":"…"}`, `{"do":"rollback"}` (with the `"name"` of the
//! adapter that is to go, or without), `{"do":"unload"}`, and those of [`jobs`]. An answer has
//! `"ok"`, and `"error"` where that is false. A swap is answered when it is live: every request
//! that begins later is answered by the new adapter.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::adapter::Prepared;
use crate::host::{Standing, Told, lock};
use crate::log::say;
use crate::{http, jobs};

const LINE_BYTES_MAX: u64 = 64 << 10;
const CLIENTS_MAX: usize = 8;
const IDLE_SECONDS_MAX: u64 = 600;

static QUEUE: OnceLock<SyncSender<Job>> = OnceLock::new();
static SOCKET: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Open the socket, the first time: when the server has a model to answer with. A router, which has
/// none, never gets here.
pub fn open_once() {
    static OPENED: Once = Once::new();
    OPENED.call_once(|| match open() {
        Ok((listener, path)) => {
            say(&format!("socket {}", path.display()));
            *SOCKET.lock().unwrap_or_else(PoisonError::into_inner) = Some(path);
            // SAFETY: registers a function of this library, which stays loaded.
            unsafe { libc::atexit(remove) };
            if let Err(error) = start(listener) {
                say(&format!("no thread for the socket: {error}"));
            }
        }
        Err(reason) => say(&format!("no socket: {reason}")),
    });
}

/// A command, and where its answer goes.
type Job = (Value, SyncSender<Result<Value, String>>);

/// One thread listens, one carries commands out: each thread of the process that allocates much
/// keeps memory of its own.
fn start(listener: UnixListener) -> std::io::Result<()> {
    let (sender, queue) = sync_channel(CLIENTS_MAX);
    _ = QUEUE.set(sender);
    let thread = || std::thread::Builder::new().name("translora".into());
    thread().spawn(move || carry_out(&queue))?;
    thread().spawn(move || listen(&listener))?;
    http::open()
}

fn carry_out(queue: &Receiver<Job>) {
    while let Ok((command, out)) = queue.recv() {
        let done = std::panic::catch_unwind(|| answer(&command));
        // Who asked may be gone.
        _ = out.send(done.unwrap_or_else(|_| {
            Err("a bug in translora: the command panicked; the server's log has more".into())
        }));
    }
}

extern "C" fn remove() {
    if let Some(path) = SOCKET.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // Somebody may have removed it before.
        _ = fs::remove_file(path);
    }
}

/// Where the socket goes: `TRANSLORA_SOCKET`, else the user's runtime folder, else a folder of the
/// user's own for temporary files.
fn place() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("TRANSLORA_SOCKET").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let name = format!("translora-{}.sock", std::process::id());
    if let Some(folder) =
        std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| Path::new(folder).is_dir())
    {
        return Ok(Path::new(&folder).join(name));
    }
    // SAFETY: asks for a number.
    let user = unsafe { libc::geteuid() };
    let folder = std::env::temp_dir().join(format!("translora-{user}"));
    own_folder(&folder, user)?;
    Ok(folder.join(name))
}

/// Make a folder that only this user can enter, or accept one that is.
fn own_folder(folder: &Path, user: u32) -> Result<(), String> {
    let say = |error: std::io::Error| format!("{}: {error}", folder.display());
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(say(error)),
        _ => {}
    }
    let found = fs::symlink_metadata(folder).map_err(say)?;
    if found.is_dir() && found.uid() == user && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(format!(
        "{} is not a folder of this user alone; hint: set TRANSLORA_SOCKET",
        folder.display()
    ))
}

/// Bind the socket in a folder of its own and move it into place, so that it never has other rights
/// than 0600.
fn open() -> Result<(UnixListener, PathBuf), String> {
    let mut path = place()?;
    if UnixStream::connect(&path).is_ok() {
        // Another server answers there; children of one router inherit one variable.
        let mut name = path.into_os_string();
        name.push(format!(".{}", std::process::id()));
        path = name.into();
    }
    let explain = |error: std::io::Error| format!("{}: {error}", path.display());
    if let Ok(found) = fs::symlink_metadata(&path) {
        if !std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) {
            return Err(format!("{} is there, and is no socket", path.display()));
        }
        fs::remove_file(&path).map_err(explain)?;
    }
    let mut nest = path.clone().into_os_string();
    nest.push(format!(".{}.d", std::process::id()));
    let nest = PathBuf::from(nest);
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&nest)
        .map_err(explain)?;
    let made = (|| {
        let egg = nest.join("s");
        let listener = UnixListener::bind(&egg)?;
        fs::set_permissions(&egg, fs::Permissions::from_mode(0o600))?;
        fs::rename(&egg, &path)?;
        Ok(listener)
    })();
    // Empty by now, or nobody's loss.
    _ = fs::remove_dir_all(&nest);
    Ok((made.map_err(explain)?, path))
}

fn listen(listener: &UnixListener) {
    static CLIENTS: AtomicUsize = AtomicUsize::new(0);
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else {
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        if CLIENTS.fetch_add(1, Ordering::Relaxed) >= CLIENTS_MAX {
            CLIENTS.fetch_sub(1, Ordering::Relaxed);
            // The client may be gone; then nobody wants to know.
            _ = writeln!(
                stream,
                "{}",
                json!({"ok": false, "error": format!("{CLIENTS_MAX} clients are connected already")})
            );
            continue;
        }
        let served = std::thread::Builder::new()
            .name("translora".into())
            .spawn(move || {
                // A connection that breaks ends its client's conversation, nothing else.
                _ = converse(&stream);
                CLIENTS.fetch_sub(1, Ordering::Relaxed);
            });
        if served.is_err() {
            CLIENTS.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn converse(stream: &UnixStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(IDLE_SECONDS_MAX)))?;
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let read = lines
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        let whole = line.last() == Some(&b'\n') || (read as u64) < LINE_BYTES_MAX;
        let answer = if whole {
            parsed(&line).and_then(carry)
        } else {
            Err(format!("a line has more than {LINE_BYTES_MAX} bytes"))
        };
        let answer = answer.unwrap_or_else(|error| json!({"ok": false, "error": error}));
        let mut out = stream;
        writeln!(out, "{answer}")?;
        if !whole {
            return Ok(());
        }
    }
}

fn parsed(line: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(line).map_err(|error| format!("this is no JSON object: {error}"))
}

/// Carry out one command, from wherever it came.
///
/// fails: with a sentence; then nothing has changed
pub fn carry(command: Value) -> Result<Value, String> {
    if let Some(answer) = jobs::answer(&command) {
        return answer;
    }
    let (out, answer) = sync_channel(1);
    let gone = "nobody carries out commands any more";
    QUEUE
        .get()
        .ok_or(gone)?
        .send((command, out))
        .map_err(|_| gone)?;
    answer.recv().map_err(|_| gone)?
}

fn answer(asked: &Value) -> Result<Value, String> {
    let begun = Instant::now();
    let standing = match asked["do"].as_str().unwrap_or_default() {
        "list" => lock().standing(),
        "load" => {
            let path = asked["path"].as_str().ok_or("load needs a \"path\"")?;
            let prepared = Prepared::read(Path::new(path))?;
            swap(begun, |host| host.swap(prepared))?
        }
        "rollback" => swap(begun, |host| host.rollback(asked["name"].as_str()))?,
        "unload" => swap(begun, |host| Ok(host.unload()))?,
        other => {
            return Err(format!(
                "{other:?} is no command; there are list, load, rollback, unload, transfer, jobs, job, events, cancel and report"
            ));
        }
    };
    let mut said = told(&standing);
    said["milliseconds"] = (begun.elapsed().as_secs_f64() * 1e3).into();
    Ok(said)
}

fn swap(
    begun: Instant,
    change: impl FnOnce(&mut crate::host::Host) -> Result<Standing, String>,
) -> Result<Standing, String> {
    let prepared = begun.elapsed();
    let mut host = lock();
    let waited = begun.elapsed() - prepared;
    let held = Instant::now();
    let standing = change(&mut host);
    let held = held.elapsed();
    drop(host);
    let standing = standing.inspect_err(|reason| say(&format!("not swapped: {reason}")))?;
    say(&format!(
        "generation {}: {} (read and checked in {:.1} ms, waited {:.1} ms for the batch under way, put in in {:.1} ms)",
        standing.generation,
        standing.live.name,
        prepared.as_secs_f64() * 1e3,
        waited.as_secs_f64() * 1e3,
        held.as_secs_f64() * 1e3
    ));
    Ok(standing)
}

fn told(standing: &Standing) -> Value {
    let one =
        |told: &Told| json!({"adapter": told.name, "sha256": told.sha256, "bytes": told.bytes});
    json!({
        "ok": true,
        "generation": standing.generation,
        "live": one(&standing.live),
        "previous": standing.previous.as_ref().map(one),
        "held": standing.held,
        "contexts": standing.contexts,
    })
}
