//! Run a job in a child process, and make an end of it whatever the child does.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, after, bounded, never, select};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use rustix::process::{Pid, Signal, kill_process_group};

use super::entry::End;
use super::protocol::{ENGINE, LINE_BYTES_MAX, Line, Order, PROTOCOL, VERSION};
use super::queue::Task;
use super::{Config, Problem};
use crate::record::{Fault, Remedy, Step};

/// What is kept of what a worker says on standard error: its last words.
const LAST_WORDS_BYTES_MAX: usize = 2048;
/// Lines that wait between the pipe and the state of the job.
const LINES_QUEUED_MAX: usize = 256;
/// What would load this library into the worker again, what makes a panic allocate where memory has
/// run out, and keys that a worker has no use for.
const NOT_INHERITED: [&str; 10] = [
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "TRANSLORA_ADMIN_KEY",
    "TRANSLORA_API_KEY",
    "TRANSLORA_CONTROL_TOKEN",
    "LD_PRELOAD",
    "DYLD_INSERT_LIBRARIES",
    "GGML_BACKEND_PATH",
    "RUST_BACKTRACE",
    "RUST_LIB_BACKTRACE",
];

/// Run one job to whatever end it comes.
pub(super) fn run(task: &Task<'_>) -> End {
    let program = match task.config.find_worker() {
        Ok(program) => program,
        Err(error) => {
            return End::Failed(Problem {
                cause: Fault::Machine,
                ..Problem::of(&error)
            });
        }
    };
    match start(&program, task) {
        Ok((worker, sent)) => worker.watch(task, sent),
        Err(error) => {
            let said = format!("{}: the worker does not start: {error}", program.display());
            End::Failed(Problem::new(Fault::Machine, said, Step::NameWorker))
        }
    }
}

struct Worker {
    child: Child,
    /// Closing it stops the worker.
    input: Option<UnixStream>,
    lines: Receiver<Result<Line, String>>,
    last_words: JoinHandle<String>,
}

/// Why no more lines are read.
enum Over {
    /// The worker closed its output.
    Closed,
    Silent,
    /// It was stopped and went on.
    Unresponsive,
    /// It wrote a line that is not of the protocol.
    Malformed(String),
}

fn start(program: &Path, task: &Task<'_>) -> std::io::Result<(Worker, std::io::Result<()>)> {
    // A socket and no pipe: writing to a pipe that nobody reads raises SIGPIPE, which ends a host
    // that is not written in Rust.
    let (input, theirs) = UnixStream::pair()?;
    let mut command = Command::new(program);
    command
        .arg("worker")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    NOT_INHERITED
        .iter()
        .for_each(|name| _ = command.env_remove(name));
    // The one folder that it may write into.
    command.env("TMPDIR", folder_of(&task.plan.out));
    // ggml would start a debugger on a process that it ends.
    command.env("GGML_NO_BACKTRACE", "1");
    let mut child = command.spawn()?;
    task.runs_as(child.id());
    // Our copy of its end goes, so that sending to a dead worker fails.
    drop(command);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let lines = read_lines(stdout);
    let last_words = std::thread::spawn(move || read_last_words(stderr));
    let order = Order {
        protocol: PROTOCOL,
        plan: task.plan.clone(),
        nice: task.config.nice,
        memory: task.config.memory,
    };
    let sent = serde_json::to_vec(&order)
        .map_err(std::io::Error::from)
        .and_then(|mut bytes| {
            bytes.push(b'\n');
            send_all(&input, &bytes)
        });
    Ok((
        Worker {
            child,
            input: Some(input),
            lines,
            last_words,
        },
        sent,
    ))
}

/// The folder that a file lies in.
pub(super) fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(not(target_vendor = "apple"))]
const QUIETLY: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const QUIETLY: SendFlags = SendFlags::empty();

fn send_all(socket: &UnixStream, mut bytes: &[u8]) -> std::io::Result<()> {
    #[cfg(target_vendor = "apple")]
    rustix::net::sockopt::set_socket_nosigpipe(socket, true)?;
    while !bytes.is_empty() {
        match send(socket, bytes, QUIETLY) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn read_lines(stdout: Option<ChildStdout>) -> Receiver<Result<Line, String>> {
    let (sender, receiver) = bounded(LINES_QUEUED_MAX);
    std::thread::spawn(move || {
        let Some(stdout) = stdout else { return };
        let mut reader = BufReader::new(stdout);
        loop {
            let mut line = Vec::new();
            match reader
                .by_ref()
                .take(LINE_BYTES_MAX)
                .read_until(b'\n', &mut line)
            {
                // Half a line is the last one of a worker that died.
                Ok(_) if line.last() != Some(&b'\n') && (line.len() as u64) < LINE_BYTES_MAX => {
                    return;
                }
                Ok(_) => {}
                Err(_) => return,
            }
            let read = serde_json::from_slice(&line).map_err(|_| {
                String::from_utf8_lossy(&line[..line.len().min(80)])
                    .trim_end()
                    .to_owned()
            });
            let bad = read.is_err();
            if sender.send(read).is_err() || bad {
                return;
            }
        }
    });
    receiver
}

fn read_last_words(stderr: Option<ChildStderr>) -> String {
    let Some(mut stderr) = stderr else {
        return String::new();
    };
    let (mut kept, mut chunk) = (Vec::new(), [0; 1024]);
    while let Ok(n) = stderr.read(&mut chunk) {
        if n == 0 {
            break;
        }
        kept.extend_from_slice(&chunk[..n]);
        kept.drain(..kept.len().saturating_sub(LAST_WORDS_BYTES_MAX));
    }
    let text = String::from_utf8_lossy(&kept);
    text.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default()
        .trim()
        .to_owned()
}

impl Worker {
    /// Listen until the worker is gone; it is gone when this returns.
    fn watch(mut self, task: &Task<'_>, sent: std::io::Result<()>) -> End {
        let (mut end, mut stopping, mut too_late, mut greeted) = (None, false, never(), false);
        let over = loop {
            let line = select! {
                recv(self.lines) -> line => line,
                recv(task.stop.bell) -> _ => {
                    self.input = None;
                    (stopping, too_late) = (true, after(Config::GRACE));
                    continue;
                }
                recv(too_late) -> _ => break Over::Unresponsive,
                default(task.config.silence()) => break Over::Silent,
            };
            match line {
                Err(_) => break Over::Closed,
                Ok(Err(said)) => break Over::Malformed(said),
                Ok(Ok(Line::Hello {
                    protocol,
                    version,
                    engine,
                })) => {
                    greeted = true;
                    if (protocol, version.as_str(), engine.as_str()) != (PROTOCOL, VERSION, ENGINE)
                    {
                        end = Some(End::Failed(other_version(&version, &engine)));
                        break Over::Closed;
                    }
                }
                Ok(Ok(_)) if !greeted => break Over::Malformed("no greeting".into()),
                Ok(Ok(Line::Alive)) => {}
                Ok(Ok(Line::Event { event })) => task.push(event),
                Ok(Ok(Line::Done { report })) => end = Some(End::Done(report)),
                Ok(Ok(Line::Failed { problem })) => end = Some(End::Failed(problem)),
            }
        };
        let status = self.finish();
        let last_words = self.last_words.join().unwrap_or_default();
        match end {
            Some(end) => end,
            None if stopping => End::Failed(Problem::cancelled()),
            None => End::Failed(lost(task, &over, status, &last_words, sent.err())),
        }
    }

    /// Kill what is left of the worker and its children, and take its exit status.
    fn finish(&mut self) -> Option<ExitStatus> {
        self.input = None;
        // A worker that closed its output is ending; one that is not has nothing more to say.
        for _ in 0..20 {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                // A host that ignores SIGCHLD, or waits for all children, took the status away.
                Err(_) => return None,
                Ok(None) if self.lines.is_empty() => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                Ok(None) => break,
            }
        }
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            _ = kill_process_group(group, Signal::KILL);
        }
        self.child.wait().ok()
    }
}

fn other_version(version: &str, engine: &str) -> Problem {
    let said = format!(
        "the worker is translora {version} with the engine {engine}, and this is {VERSION} with {ENGINE}"
    );
    Problem::new(Fault::Machine, said, Step::NameWorker)
}

/// The problem of a worker that ended without a result.
fn lost(
    task: &Task<'_>,
    over: &Over,
    status: Option<ExitStatus>,
    last_words: &str,
    unsent: Option<std::io::Error>,
) -> Problem {
    let quoted = if last_words.is_empty() {
        String::new()
    } else {
        format!("; its last words: {last_words}")
    };
    match (
        over,
        status.and_then(|status| status.signal()),
        status.and_then(|status| status.code()),
    ) {
        (Over::Silent, ..) => {
            let seconds = task.config.silence().as_secs();
            Problem::new(
                Fault::Machine,
                format!(
                    "the worker hung: it said nothing for {seconds} seconds and was killed{quoted}"
                ),
                Remedy::Resume,
            )
        }
        (Over::Malformed(said), ..) => Problem::new(
            Fault::Machine,
            format!("the worker is not one: it said {said:?}"),
            Step::NameWorker,
        ),
        (_, Some(signal), _) => {
            let name = Signal::from_named_raw(signal)
                .map_or(String::new(), |signal| format!(" ({signal:?})"));
            // Most often memory ran out.
            let memory = if task.config.memory.is_some() {
                Remedy::raise("memory")
            } else {
                Step::CloseOthers.into()
            };
            Problem::new(
                Fault::Machine,
                format!("the worker was ended by signal {signal}{name}{quoted}"),
                Remedy::then([memory, Remedy::Resume]),
            )
        }
        (_, None, code) => {
            let code = code.map_or("an unknown status".into(), |code| format!("status {code}"));
            let unsent = unsent.map_or(String::new(), |error| {
                format!(" (it did not take its order: {error})")
            });
            Problem::new(
                Fault::Machine,
                format!("the worker ended with {code} and without a result{unsent}{quoted}"),
                Remedy::Resume,
            )
        }
    }
}
