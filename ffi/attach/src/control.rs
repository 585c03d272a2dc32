//! Takes commands on a unix socket: one [`Command`] a line in, one [`Answer`] out.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::adapter::{Prepared, base_names};
use crate::command::{Adapter, AdapterList, Answer, Command, Load, Refusal, Reply, Swapped};
use crate::error::AttachError;
use crate::harvest;
use crate::server::{Server, lock};
use crate::words;
use crate::jobs;
use crate::log::say;

const LINE_BYTES_MAX: usize = 64 << 10;
const CLIENTS_MAX: usize = 8;
/// Time for a whole line, from the beginning of the connection or the answer before it. So that
/// nobody keeps a place who sends nothing, or half a command.
const LINE_WAIT: Duration = Duration::from_secs(30);

static QUEUE: OnceLock<SyncSender<Order>> = OnceLock::new();
static SOCKET: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Open the socket, the first time: when the server has a model to answer with. A router, which has
/// none, never gets here.
pub fn open_once() {
    static OPENED: Once = Once::new();
    OPENED.call_once(|| {
        harvest::begin();
        match place().and_then(|place| listen(&place)) {
        Ok(path) => say(&format!("socket {}", path.display())),
        Err(error) => say(&format!("no socket: {}", sentence(&error))),
        }
    });
}

fn sentence(error: &AttachError) -> String {
    match error.hint() {
        Some(hint) => format!("{error}; hint: {hint}"),
        None => error.to_string(),
    }
}

/// A command, and where its answer goes.
type Order = (Command, SyncSender<Result<Reply, AttachError>>);

/// Take commands on a socket at `path`, or beside it where another server answers there; the path
/// that it became. Once in a process.
///
/// One thread listens, one carries commands out: each thread of the process that allocates much
/// keeps memory of its own.
///
/// fails: no socket can be created there
pub fn listen(path: &Path) -> Result<PathBuf, AttachError> {
    let (listener, path) = open(path)?;
    *SOCKET.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.clone());
    // SAFETY: registers a function of this library, which stays loaded.
    unsafe { libc::atexit(remove) };
    let (sender, queue) = sync_channel(CLIENTS_MAX);
    _ = QUEUE.set(sender);
    let thread = || std::thread::Builder::new().name("translora".into());
    thread()
        .spawn(move || carry_out(&queue))
        .and_then(|_| thread().spawn(move || accept(&listener)))
        .map_err(|source| AttachError::Socket {
            path: path.clone(),
            source,
        })?;
    Ok(path)
}

fn carry_out(queue: &Receiver<Order>) {
    while let Ok((command, out)) = queue.recv() {
        let done = std::panic::catch_unwind(|| exchange(command));
        // The client may be gone.
        _ = out.send(done.unwrap_or(Err(AttachError::Panicked)));
    }
}

extern "C" fn remove() {
    if let Some(path) = SOCKET.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // Somebody may have removed it before.
        _ = fs::remove_file(path);
    }
}

/// Where the socket of this process goes: `TRANSLORA_SOCKET`, else the user's runtime folder, else
/// a folder of the user's own for temporary files.
///
/// fails: the folder belongs to others too
pub fn place() -> Result<PathBuf, AttachError> {
    if let Some(path) = std::env::var_os("TRANSLORA_SOCKET").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let name = format!("translora-{}.sock", std::process::id());
    if let Some(folder) =
        std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| Path::new(folder).is_dir())
    {
        return Ok(Path::new(&folder).join(name));
    }
    // SAFETY: reads a number.
    let user = unsafe { libc::geteuid() };
    let folder = std::env::temp_dir().join(format!("translora-{user}"));
    own_folder(&folder, user)?;
    Ok(folder.join(name))
}

/// Make a folder that only this user can enter, or accept one that is.
fn own_folder(folder: &Path, user: u32) -> Result<(), AttachError> {
    let path = || folder.to_owned();
    let failed = |source| AttachError::Socket {
        path: path(),
        source,
    };
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(failed(error));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(folder).map_err(failed)?;
    if found.is_dir() && found.uid() == user && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(AttachError::Folder { path: path() })
}

/// Bind the socket in a folder of its own and move it into place, so that it never has other rights
/// than 0600.
fn open(path: &Path) -> Result<(UnixListener, PathBuf), AttachError> {
    let mut path = path.to_owned();
    if UnixStream::connect(&path).is_ok() {
        // Another server answers there; children of one router inherit one variable.
        let mut name = path.into_os_string();
        name.push(format!(".{}", std::process::id()));
        path = name.into();
    }
    let failed = |source| AttachError::Socket {
        path: path.clone(),
        source,
    };
    if let Ok(found) = fs::symlink_metadata(&path) {
        if !found.file_type().is_socket() {
            return Err(AttachError::NoSocket { path });
        }
        fs::remove_file(&path).map_err(failed)?;
    }
    let mut nest = path.clone().into_os_string();
    nest.push(format!(".{}.d", std::process::id()));
    let nest = PathBuf::from(nest);
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&nest)
        .map_err(failed)?;
    let bound = (|| {
        let egg = nest.join("s");
        let listener = UnixListener::bind(&egg)?;
        fs::set_permissions(&egg, fs::Permissions::from_mode(0o600))?;
        fs::rename(&egg, &path)?;
        Ok(listener)
    })();
    // Empty by now, or nobody's loss.
    _ = fs::remove_dir_all(&nest);
    Ok((bound.map_err(failed)?, path))
}

fn accept(listener: &UnixListener) {
    static CLIENTS: AtomicUsize = AtomicUsize::new(0);
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else {
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        // The mode of the socket says so already; a folder or a container may be lent to others.
        if !peer(&stream).is_ok_and(may_command) {
            continue;
        }
        if CLIENTS.fetch_add(1, Ordering::Relaxed) >= CLIENTS_MAX {
            CLIENTS.fetch_sub(1, Ordering::Relaxed);
            // The client may be gone; then nobody wants to know.
            _ = send(&mut stream, Err(AttachError::Clients { count: CLIENTS_MAX }));
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
    stream.set_write_timeout(Some(LINE_WAIT))?;
    let mut lines = BufReader::new(stream);
    loop {
        let line = line(&mut lines, LINE_WAIT)?;
        if line.is_empty() {
            return Ok(());
        }
        let whole = line.last() == Some(&b'\n') || line.len() < LINE_BYTES_MAX;
        let result = if whole {
            serde_json::from_slice(&line)
                .map_err(AttachError::Command)
                .and_then(carry)
        } else {
            Err(AttachError::Line {
                bytes_max: LINE_BYTES_MAX as u64,
            })
        };
        let mut out = stream;
        send(&mut out, result)?;
        if !whole {
            return Ok(());
        }
    }
}

/// A line with its end, which has to come within `wait`; less where the connection ends or the line
/// is too long.
fn line(lines: &mut BufReader<&UnixStream>, wait: Duration) -> std::io::Result<Vec<u8>> {
    let (begun, mut line) = (now(), Vec::new());
    loop {
        let left = wait.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        lines.get_ref().set_read_timeout(Some(left))?;
        let part = lines.fill_buf()?;
        let end = part.iter().position(|byte| *byte == b'\n');
        let room = LINE_BYTES_MAX - line.len();
        let taken = end.map_or(part.len(), |end| end + 1).min(room);
        line.extend_from_slice(&part[..taken]);
        lines.consume(taken);
        if taken == 0 || line.last() == Some(&b'\n') || line.len() == LINE_BYTES_MAX {
            return Ok(line);
        }
    }
}

/// The user of the process at the other end, as it was when it connected.
fn peer(stream: &UnixStream) -> std::io::Result<u32> {
    let mut found = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut bytes = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is open while the stream is borrowed; the system writes at most so many
    // bytes into `found`, which outlives the call.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut bytes,
        )
    };
    match done {
        0 => Ok(found.uid),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Commands are for the user of this process, and for root, who may do everything anyway.
fn may_command(user: u32) -> bool {
    // SAFETY: reads a number.
    user == 0 || user == unsafe { libc::geteuid() }
}

fn send(mut out: impl Write, result: Result<Reply, AttachError>) -> std::io::Result<()> {
    let answer = Answer::from(result.map_err(|error| Refusal::from(&error)));
    writeln!(out, "{}", serde_json::to_string(&answer)?)
}

/// Carry out one command, from wherever it came.
fn carry(command: Command) -> Result<Reply, AttachError> {
    if command.concerns_transfers() {
        return jobs::carry(command);
    }
    let (out, answer) = sync_channel(1);
    let queue = QUEUE.get().ok_or(AttachError::Gone)?;
    queue.send((command, out)).map_err(|_| AttachError::Gone)?;
    answer.recv().map_err(|_| AttachError::Gone)?
}

/// Put an adapter in, as the command `load` does.
///
/// fails: with the reason; then nothing has changed
pub fn load(path: PathBuf) -> Result<Swapped, Refusal> {
    let load = Load {
        path,
        ..Load::default()
    };
    match carry(Command::Load(load)) {
        Ok(Reply::Swapped(swapped)) => Ok(swapped),
        Ok(_) => Err(Refusal::from(&AttachError::Gone)),
        Err(error) => Err(Refusal::from(&error)),
    }
}

#[expect(clippy::disallowed_methods, reason = "the module in a server has no clock of the house")]
fn now() -> Instant {
    Instant::now()
}

/// Carry out a command about adapters.
fn exchange(command: Command) -> Result<Reply, AttachError> {
    let begun = now();
    match command {
        Command::List {} => Ok(Reply::Adapters(AdapterList {
            data: vec![lock().adapter()],
            refused: Vec::new(),
        })),
        Command::Load(load) => {
            check(&load)?;
            let expected = load.expected_generation.map(|expected| expected.0);
            lock().expect(expected)?;
            let prepared = Prepared::read(&load.path, load.force.unwrap_or(false))?;
            words::check(&load.path)?;
            swap(begun, |server| {
                // Others may have been quicker.
                server.expect(expected)?;
                server.swap(prepared)
            })
        }
        Command::Rollback { name } => swap(begun, |server| server.rollback(name.as_deref())),
        Command::Unload { name } => swap(begun, |server| server.unload(name.as_deref())),
        about_transfers => jobs::carry(about_transfers),
    }
}

/// Refuse what this server cannot do, and another base than the one that was meant.
fn check(load: &Load) -> Result<(), AttachError> {
    if load.name.is_some() {
        return Err(AttachError::Named);
    }
    let Some(name) = &load.base_model_name else {
        return Ok(());
    };
    let served = base_names();
    if served.contains(name) {
        return Ok(());
    }
    Err(AttachError::OtherBase {
        name: name.clone(),
        served,
    })
}

fn swap(
    begun: Instant,
    change: impl FnOnce(&mut Server) -> Result<(), AttachError>,
) -> Result<Reply, AttachError> {
    let prepared = begun.elapsed();
    let mut server = lock();
    let waited = begun.elapsed() - prepared;
    let held = now();
    let changed = change(&mut server);
    let held = held.elapsed();
    let Adapter { name, live, .. } = server.adapter();
    drop(server);
    changed.inspect_err(|error| say(&format!("not swapped: {}", sentence(error))))?;
    let generation = live.generation.clone().unwrap_or_default();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    say(&format!(
        "generation {generation}: {} (read and checked in {:.1} ms, waited {:.1} ms for the batch under way, put in in {:.1} ms)",
        live.path
            .as_ref()
            .map_or_else(|| name.clone(), |path| path.display().to_string()),
        ms(prepared),
        ms(waited),
        ms(held),
    ));
    Ok(Reply::Swapped(Swapped {
        name,
        generation,
        live: live.path.is_some().then_some(live),
        milliseconds: ms(begun.elapsed()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_line_is_whole_too_long_or_too_late() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let mut lines = BufReader::new(&ours);
        theirs.write_all(b"one\ntwo\nhalf").expect("it is read");
        assert_eq!(line(&mut lines, LONG).expect("a line"), b"one\n");
        assert_eq!(line(&mut lines, LONG).expect("a line"), b"two\n");
        let late = line(&mut lines, Duration::from_millis(1)).expect_err("half a line");
        let kinds = [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut];
        assert!(kinds.contains(&late.kind()), "{late}");
        theirs.write_all(&[b'x'; LINE_BYTES_MAX]).expect("it is read");
        assert_eq!(line(&mut lines, LONG).expect("too long").len(), LINE_BYTES_MAX);
        drop(theirs);
        assert!(line(&mut lines, LONG).expect("the end").is_empty());
    }

    #[test]
    fn numbers_of_commands_are_no_others() {
        let read = |number: &str| {
            let line = format!(r#"{{"do": "job", "job": {number}}}"#);
            serde_json::from_slice::<Command>(line.as_bytes())
        };
        for job in [0, 1 << 63, u64::MAX] {
            let command = read(&job.to_string()).expect("a number");
            assert_eq!(command, Command::Job { job });
        }
        for number in ["-1", "1.5", "1e3", "1e400", "NaN", "true", "18446744073709551616"] {
            assert!(read(number).is_err(), "{number}");
        }
    }

    #[test]
    fn the_user_at_the_other_end_is_known_and_others_may_not_command() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        // SAFETY: reads a number.
        let own = unsafe { libc::geteuid() };
        assert_eq!(peer(&ours).expect("it is known"), own);
        assert!(may_command(own) && may_command(0));
        assert!(!may_command(own.wrapping_add(1).max(1)));
    }
}
