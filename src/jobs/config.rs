use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::JobsError;
use crate::pipeline::TransferPlan;
use crate::record::{self, Remedy, Step};

/// The file that holds the worker: the program itself.
const PROGRAM: &str = "translora";

/// The system's largest niceness.
pub(super) const NICE_MAX: u8 = 19;

/// What a worker holds before it has opened a model, generously.
const MEMORY_BYTES_MIN: u64 = 64 << 20;

/// Where a job runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// In a child process: whatever happens to it, the host lives.
    #[default]
    Process,
    /// On a thread of the host, for hosts that may not spawn. ggml ends the process on what it
    /// dislikes, and that is then the host's.
    Thread,
}

/// How jobs run. Read from JSON by the plugin's `configure`; what is left out keeps its default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A child process for each job, or a thread of the host.
    pub isolation: Isolation,
    /// The worker program; none looks beside the library and beside the running program.
    pub worker: Option<PathBuf>,
    /// Folders to look for the worker in, before the one of the running program.
    pub beside: Vec<PathBuf>,
    /// Processor threads that a job may use at most; 0 takes half of them.
    pub threads: usize,
    /// What a job may hold at most, the model's file not counted in the hard limit. units: bytes
    pub memory: Option<u64>,
    /// Added to the worker's niceness; above `NICE_MAX` it computes only while nothing else wants
    /// the processor, where the system is Linux.
    pub nice: u8,
    /// A worker that is silent for longer counts as hung: it says every second that it lives.
    /// units: seconds
    pub silence_seconds_max: u64,
    /// Adapters that were made for another base are exchanged by the host, too.
    pub force: bool,
    /// Jobs that may wait.
    pub waiting_max: usize,
    /// Jobs that are remembered after their end; the oldest is forgotten first.
    pub ended_max: usize,
    /// Events of a job that are remembered; the oldest are forgotten first.
    pub events_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            isolation: Isolation::Process,
            worker: None,
            beside: Vec::new(),
            threads: 0,
            memory: None,
            nice: 10,
            silence_seconds_max: 60,
            force: false,
            waiting_max: 64,
            ended_max: 256,
            events_max: 4096,
        }
    }
}

impl Config {
    /// The time between stopping a worker and killing it: with it, a cancellation
    /// takes effect within two seconds.
    pub(super) const GRACE: Duration = Duration::from_millis(1500);

    /// The defaults, changed by `TRANSLORA_WORKER` (a program), `TRANSLORA_JOBS` (`process` or
    /// `thread`), `TRANSLORA_THREADS`, `TRANSLORA_NICE` and `TRANSLORA_MEMORY` (bytes).
    ///
    /// fails: a variable says what it cannot mean
    pub fn from_env() -> Result<Self, JobsError> {
        let mut config = Self {
            worker: std::env::var_os("TRANSLORA_WORKER").map(PathBuf::from),
            ..Self::default()
        };
        if let Some(text) = variable("TRANSLORA_JOBS")? {
            config.isolation = match text.as_str() {
                "process" => Isolation::Process,
                "thread" => Isolation::Thread,
                _ => {
                    return Err(JobsError::request(
                        format!("TRANSLORA_JOBS is {text:?}"),
                        Remedy::variable("TRANSLORA_JOBS", "process or thread"),
                    ));
                }
            };
        }
        if let Some(threads) = number("TRANSLORA_THREADS")? {
            config.threads = usize::try_from(threads).unwrap_or(usize::MAX);
        }
        if let Some(nice) = number("TRANSLORA_NICE")? {
            config.nice = u8::try_from(nice).unwrap_or(u8::MAX);
        }
        config.memory = number("TRANSLORA_MEMORY")?;
        Ok(config)
    }

    /// These settings with some changed: a JSON object of their names.
    ///
    /// fails: not an object, a name that is not known or is there twice, a value that cannot be meant
    pub fn with(&self, json: &str) -> Result<Self, JobsError> {
        let refuse = |error: &dyn std::fmt::Display| {
            JobsError::request(
                format!("the configuration cannot be read: {error}"),
                Step::JsonConfiguration,
            )
        };
        let changes = match record::json::parse(json).map_err(|error| refuse(&error))? {
            Value::Object(changes) => changes,
            other => {
                let kind = record::json::kind(&other);
                return Err(refuse(&format!("it is {kind}, and no object")));
            }
        };
        let mut all = serde_json::to_value(self).map_err(|error| refuse(&error))?;
        if let Some(all) = all.as_object_mut() {
            all.extend(changes);
        }
        let config: Self = serde_json::from_value(all).map_err(|error| refuse(&error))?;
        config.check().map(|()| config)
    }

    /// Refuse what cannot be meant.
    ///
    /// fails: a limit below what the worker itself needs
    pub fn check(&self) -> Result<(), JobsError> {
        match self.memory {
            Some(bytes) if bytes < MEMORY_BYTES_MIN => {
                let said = format!("jobs may hold {bytes} bytes");
                Err(JobsError::request(
                    said,
                    Remedy::takes(
                        "memory",
                        format!(
                            "some hundred MiB more than the {MEMORY_BYTES_MIN} bytes of the worker itself"
                        ),
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn silence(&self) -> Duration {
        Duration::from_secs(self.silence_seconds_max.max(2))
    }

    /// Find the worker program.
    ///
    /// fails: it is nowhere; the error names the places
    pub fn find_worker(&self) -> Result<PathBuf, JobsError> {
        let mut looked = Vec::new();
        match &self.worker {
            Some(named) => looked.push(named.clone()),
            None => {
                let running = std::env::current_exe().ok();
                let folders = self
                    .beside
                    .iter()
                    .map(PathBuf::as_path)
                    .chain(running.as_deref().and_then(Path::parent));
                for folder in folders {
                    // Beside it, a build's `deps` folder below it, and lib/ beside bin/.
                    looked.extend([
                        folder.join(PROGRAM),
                        folder.join("..").join(PROGRAM),
                        folder.join("../bin").join(PROGRAM),
                    ]);
                }
            }
        }
        match looked.iter().find(|path| path.is_file()) {
            Some(found) => Ok(found.clone()),
            None => Err(JobsError::NoWorker { looked }),
        }
    }

    /// Keep a plan within the share of the machine that jobs have.
    pub(super) fn limit(&self, plan: &mut TransferPlan) {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        let share = if self.threads == 0 {
            all.div_ceil(2)
        } else {
            self.threads
        };
        plan.cap(share, self.memory);
    }
}

fn variable(name: &'static str) -> Result<Option<String>, JobsError> {
    match std::env::var(name) {
        Ok(text) => Ok(Some(text)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(JobsError::request(
            format!("{name} is not UTF-8"),
            Remedy::variable(name, "text in UTF-8"),
        )),
    }
}

fn number(name: &'static str) -> Result<Option<u64>, JobsError> {
    let Some(text) = variable(name)? else {
        return Ok(None);
    };
    let wrong = |_| {
        JobsError::request(
            format!("{name} is {text:?}"),
            Remedy::variable(name, "a whole number"),
        )
    };
    text.parse().map(Some).map_err(wrong)
}
