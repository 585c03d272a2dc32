//! The other side of the pipes: what `translora worker` does.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rustix::process::{Signal, getpid, kill_process};
use translora_system::sandbox;

use super::config::NICE_MAX;
use super::entry::End;
use super::protocol::{ENGINE, LINE_BYTES_MAX, Line, Order, PROTOCOL, VERSION};
use super::{Config, Problem, process, thread};
use crate::pipeline::{Event, TransferPlan};
use crate::record::{Cancel, Clock, Fault, Remedy, Step, SystemClock};

/// The longest a worker is silent.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// The machine's clock, which knows how much memory this process takes, too.
#[derive(Default)]
pub struct Meter(SystemClock);

impl Clock for Meter {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn unix_seconds(&self) -> u64 {
        self.0.unix_seconds()
    }

    fn peak_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()
            .map(|kib| kib * 1024)
    }
}

/// Nobody reads what the worker says.
#[derive(Debug, thiserror::Error)]
#[error("nobody listens to this worker: {0}")]
pub struct Lost(#[from] io::Error);

/// Work for the host at the other end of this process's standard input and output, until it is done
/// or `cancel` stops it. What else writes to standard output, such as a library in C, is led to
/// standard error.
///
/// `begun` is called when the process keeps to the files of its job: threads that are started before
/// are not held to them.
///
/// fails: nobody reads
pub fn work(cancel: &Cancel, begun: impl FnOnce()) -> Result<(), Lost> {
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdout(io::stderr()).map_err(io::Error::from)?;
    work_on(io::BufReader::new(io::stdin()), output, cancel, begun)
}

/// Read one order from `input`, carry it out, and write to `output` what happens. The end of `input`
/// stops the work; two seconds later the process ends itself.
///
/// fails: nobody reads `output`
fn work_on<I>(
    mut input: I,
    mut output: impl Write,
    cancel: &Cancel,
    begun: impl FnOnce(),
) -> Result<(), Lost>
where
    I: BufRead + Send + 'static,
{
    say(
        &mut output,
        &Line::Hello {
            protocol: PROTOCOL,
            version: VERSION.into(),
            engine: ENGINE.into(),
        },
    )?;
    let order = match read_order(&mut input) {
        Ok(order) => order,
        Err(problem) => return say(&mut output, &Line::Failed { problem }),
    };
    confine(&order.plan);
    begun();
    let stopped = cancel.clone();
    // Before the limit on memory: this thread must not fail for want of a stack.
    std::thread::spawn(move || end_with(input, &stopped));
    if let Err(error) = lower(&order) {
        let remedy = Remedy::or([Remedy::raise("memory"), Remedy::leave_out("memory")]);
        let problem = Problem::new(
            Fault::Machine,
            format!("the worker cannot limit itself: {error}"),
            remedy,
        );
        return say(&mut output, &Line::Failed { problem });
    }
    let mut written = Ok(());
    // What says that this process lives is not put aside with what computes.
    let idle = Some(order.nice).filter(|nice| *nice > NICE_MAX);
    let end = thread::run_plan(&order.plan, cancel, &Meter::default(), idle, |events| {
        written = forward(&mut output, events);
        if written.is_err() {
            cancel.cancel();
        }
    });
    written?;
    say(
        &mut output,
        &match end {
            End::Done(report) => Line::Done { report },
            End::Failed(problem) => Line::Failed { problem },
        },
    )
}

fn read_order(input: &mut impl BufRead) -> Result<Order, Problem> {
    let refused = |why: String| {
        Problem::new(
            Fault::Bug,
            format!("the worker cannot read its order: {why}"),
            Step::SameBuild,
        )
    };
    let mut line = String::new();
    input
        .take(LINE_BYTES_MAX)
        .read_line(&mut line)
        .map_err(|error| refused(error.to_string()))?;
    let order: Order = serde_json::from_str(&line).map_err(|error| refused(error.to_string()))?;
    if order.protocol == PROTOCOL {
        Ok(order)
    } else {
        Err(refused(format!(
            "it is in version {}, and not {PROTOCOL}",
            order.protocol
        )))
    }
}

/// Backends for GPUs, which lie beside the program.
const GPU_MODULES: [&str; 3] = ["libggml-cuda.so", "libggml-hip.so", "libggml-vulkan.so"];

/// Keep this process to the files of its job, before it opens one of them. Not where a GPU may be
/// used: what drivers reach is theirs.
fn confine(plan: &TransferPlan) {
    let program = std::env::current_exe().unwrap_or_default();
    let beside = |module: &str| process::folder_of(&program).join(module).exists();
    let machine = &plan.machine;
    let on_gpu = machine.gpu_layers != 0 && machine.device.as_deref() != Some("none");
    if !(on_gpu && GPU_MODULES.iter().any(|module| beside(module))) {
        let out = process::folder_of(&plan.out).to_owned();
        _ = sandbox::confine(&inputs(plan), &[out]);
    }
}

/// The files that a plan names, and what belongs to them: other parts of a model, the configuration
/// beside an adapter, and what links in a folder lead to.
fn inputs(plan: &TransferPlan) -> Vec<PathBuf> {
    let files = [&plan.source, &plan.source_lora, &plan.target].into_iter();
    let more = [
        &plan.kit,
        &plan.seeds,
        &plan.harvest,
        &plan.eval,
        &plan.oracle,
    ];
    let templates = [&plan.machine.chat.chat_template, &plan.source_chat_template];
    let templates = templates.into_iter().flatten().map(PathBuf::from);
    let files = files.chain(more.into_iter().flatten()).cloned();
    let mut all: Vec<PathBuf> = files.chain(templates).collect();
    let is_one_of_many = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.contains("-of-") || name.ends_with(".safetensors")
    };
    let folders = all.iter().filter(|file| is_one_of_many(file));
    let folders: Vec<PathBuf> = folders
        .map(|file| process::folder_of(file).to_owned())
        .collect();
    all.extend(folders);
    let links = all.iter().filter_map(|path| std::fs::read_dir(path).ok());
    let links: Vec<PathBuf> = links
        .flatten()
        .filter_map(|entry| entry.ok()?.path().canonicalize().ok())
        .collect();
    all.extend(links);
    all
}

/// Give way to everything else on this machine, and die with the host.
fn lower(order: &Order) -> Result<(), rustix::io::Errno> {
    // To be nicer is always allowed; where it is not, the job still runs.
    _ = rustix::process::nice(i32::from(order.nice));
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // An image of its memory would hold weights and rows.
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        setrlimit(Resource::Core, none)?;
        // Where memory ends for the whole machine, the job goes and the host stays.
        _ = std::fs::write("/proc/self/oom_score_adj", "1000");
        if let Some(bytes) = order.memory {
            // Data: what is allocated, without the model's file, which is mapped.
            setrlimit(
                Resource::Data,
                Rlimit {
                    current: Some(bytes),
                    maximum: Some(bytes),
                },
            )?;
        }
    }
    Ok(())
}

/// Read `input` to its end, then stop the work, and end this process if it does not.
fn end_with(mut input: impl Read, cancel: &Cancel) {
    _ = io::copy(&mut input, &mut io::sink());
    cancel.cancel();
    std::thread::sleep(Config::GRACE);
    _ = kill_process(getpid(), Signal::KILL);
}

/// Pass events on until they end, and say now and then that this process lives.
fn forward(output: &mut impl Write, events: &Receiver<Event>) -> Result<(), Lost> {
    loop {
        match events.recv_timeout(ALIVE_EVERY) {
            Ok(event) => say(output, &Line::Event { event })?,
            Err(RecvTimeoutError::Timeout) => say(output, &Line::Alive)?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

fn say(output: &mut impl Write, line: &Line) -> Result<(), Lost> {
    let mut text = serde_json::to_string(line).map_err(io::Error::from)?;
    text.push('\n');
    output.write_all(text.as_bytes())?;
    Ok(output.flush()?)
}
