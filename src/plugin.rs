//! The library's side of the C ABI: its calls carried out by `jobs`, `adapters` and `pipeline`, and
//! their errors as codes of the ABI.
//!
//! Knows no stage. Only the export line in `lib.rs` may name it; a host reaches it through
//! `translora.h`.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use translora_abi::{Failure, HostTable, JobState, Plugin, Progress, Status};

use crate::adapters::{self, AdaptersError, Refused};
#[cfg(target_os = "linux")]
use crate::control;
use crate::jobs::{Config, JobId, Jobs, JobsError, State};
use crate::pipeline::{self, PipelineError};
use crate::record::{Blame, Fault, InJson, Remedy, Step, SystemClock};
use crate::request::{Request, Transfer};

/// One instance of the plugin.
pub struct Instance {
    queue: Mutex<Queue>,
    adapters: adapters::Adapters,
}

/// The first job creates the queue: until then it can be configured.
enum Queue {
    Not(Config),
    Yet(Arc<Jobs>),
    Closed,
}

impl Plugin for Instance {
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const ENGINE: &'static str = if cfg!(feature = "ggml") {
        "ggml"
    } else {
        "toy"
    };

    fn create() -> Result<Self, Failure> {
        let config = config().map_err(|error| of_jobs(&error))?;
        Ok(Self {
            queue: Mutex::new(Queue::Not(config)),
            adapters: adapters::Adapters::default(),
        })
    }

    fn close(&self) {
        // Without the lock: what waits for a job holds the queue, and nobody the lock.
        let queue = std::mem::replace(&mut *self.queue(), Queue::Closed);
        if let Queue::Yet(jobs) = queue {
            jobs.close();
        }
    }

    fn inspect(&self, path: &str) -> Result<String, Failure> {
        let found = pipeline::inspect(Path::new(path)).map_err(|error| of_pipeline(&error))?;
        json(&found)
    }
}

/// How jobs run: as the environment says, with the worker that lies beside this library.
fn config() -> Result<Config, JobsError> {
    let mut config = Config::from_env()?;
    config
        .beside
        .extend(translora_abi::library_path().and_then(|path| path.parent().map(Path::to_owned)));
    Ok(config)
}

impl Instance {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue, created now if it is not there.
    fn opened(&self) -> Result<Arc<Jobs>, Failure> {
        let mut queue = self.queue();
        if let Queue::Not(config) = &*queue {
            *queue = Queue::Yet(Arc::new(Jobs::new(
                config.clone(),
                Arc::new(SystemClock::default()),
            )));
        }
        match &*queue {
            Queue::Yet(jobs) => Ok(Arc::clone(jobs)),
            _ => Err(Failure::new(
                Status::BadHandle,
                "the instance is being destroyed",
            )),
        }
    }

    /// The queue where there is one: before the first job no job is known.
    fn of(&self, job: u64) -> Result<(Arc<Jobs>, JobId), Failure> {
        let id = JobId::from(job);
        match &*self.queue() {
            Queue::Yet(jobs) => Ok((Arc::clone(jobs), id)),
            _ => Err(of_jobs(&JobsError::NoSuchJob(id))),
        }
    }
}

impl translora_abi::Jobs for Instance {
    fn configure(&self, json: &str) -> Result<(), Failure> {
        let mut queue = self.queue();
        let config = match &*queue {
            Queue::Not(config) => config,
            Queue::Yet(jobs) if jobs.list().is_empty() => jobs.config(),
            _ => {
                return Err(Failure {
                    hint: Remedy::from(Step::FreeJobs).words(&InJson),
                    ..Failure::new(Status::NotNow, "there are jobs already")
                });
            }
        };
        *queue = Queue::Not(config.with(json).map_err(|error| of_jobs(&error))?);
        Ok(())
    }

    fn start(&self, request: &str) -> Result<u64, Failure> {
        let request = Transfer::from_json(request).map_err(|refusal| of_jobs(&refusal.into()))?;
        let id = self
            .opened()?
            .start(&request)
            .map_err(|error| of_jobs(&error))?;
        Ok(id.number())
    }

    fn poll(&self, job: u64) -> Result<Progress, Failure> {
        self.wait(job, Duration::ZERO)
    }

    fn wait(&self, job: u64, timeout: Duration) -> Result<Progress, Failure> {
        let (jobs, id) = self.of(job)?;
        let status = jobs.wait(id, timeout).map_err(|error| of_jobs(&error))?;
        Ok(Progress {
            state: match status.state {
                State::Waiting => JobState::Waiting,
                State::Running => JobState::Running,
                State::Done => JobState::Done,
                State::Failed => JobState::Failed,
                State::Cancelled => JobState::Cancelled,
            },
            ahead: u32::try_from(status.ahead).unwrap_or(u32::MAX),
            process: status.process.unwrap_or(0),
            done: status.done,
            total: status.total,
            last_event: status.last_event,
            stage: status.stage.map_or("", pipeline::Stage::name),
        })
    }

    fn events(&self, job: u64, after: u64, timeout: Duration) -> Result<String, Failure> {
        let (jobs, id) = self.of(job)?;
        json(
            &jobs
                .wait_events(id, after, timeout)
                .map_err(|error| of_jobs(&error))?,
        )
    }

    fn status(&self, job: u64) -> Result<String, Failure> {
        let (jobs, id) = self.of(job)?;
        json(&jobs.status(id).map_err(|error| of_jobs(&error))?)
    }

    fn list(&self) -> Result<String, Failure> {
        match &*self.queue() {
            Queue::Yet(jobs) => json(&jobs.list()),
            _ => Ok("[]".into()),
        }
    }

    fn cancel(&self, job: u64) -> Result<(), Failure> {
        let (jobs, id) = self.of(job)?;
        jobs.cancel(id).map_err(|error| of_jobs(&error))
    }

    fn report(&self, job: u64) -> Result<String, Failure> {
        let (jobs, id) = self.of(job)?;
        json(&jobs.report(id).map_err(|error| of_jobs(&error))?)
    }

    fn free(&self, job: u64) -> Result<(), Failure> {
        let (jobs, id) = self.of(job)?;
        jobs.free(id).map_err(|error| of_jobs(&error))
    }
}

impl translora_abi::Adapters for Instance {
    fn base(&self, path: &str) -> Result<(), Failure> {
        self.adapters
            .set_base(Path::new(path))
            .map_err(|error| of_adapters(&error))
    }

    fn check(&self, path: &str) -> Result<String, Failure> {
        json(
            &self
                .adapters
                .check(Path::new(path))
                .map_err(|error| of_adapters(&error))?,
        )
    }

    fn answers(&self) -> Result<String, Failure> {
        json(&self.adapters.list())
    }

    fn prepare(&self, name: &str, path: &str) -> Result<u64, Failure> {
        let force = match &*self.queue() {
            Queue::Not(config) => config.force,
            Queue::Yet(jobs) => jobs.config().force,
            Queue::Closed => false,
        };
        self.adapters
            .prepare(name, Path::new(path), force)
            .map_err(|error| of_adapters(&error))
    }

    fn commit(&self, swap: u64, host: &HostTable) -> Result<u64, Failure> {
        self.adapters
            .commit(swap, &TableLoader(host))
            .map_err(|error| of_adapters(&error))
    }

    fn discard(&self, swap: u64) -> Result<(), Failure> {
        self.adapters
            .discard(swap)
            .map_err(|error| of_adapters(&error))
    }

    fn rollback(&self, name: &str, host: &HostTable) -> Result<u64, Failure> {
        self.adapters
            .rollback(name, &TableLoader(host))
            .map_err(|error| of_adapters(&error))
    }

    fn unload(&self, name: &str, host: &HostTable) -> Result<u64, Failure> {
        self.adapters
            .unload(name, &TableLoader(host))
            .map_err(|error| of_adapters(&error))
    }
}

/// A host behind the C ABI.
struct TableLoader<'a>(&'a HostTable);

impl adapters::Loader for TableLoader<'_> {
    fn load(&self, path: &Path) -> Result<u64, Refused> {
        let text = path.to_str().ok_or_else(|| {
            Refused(format!(
                "{}: a path that is not UTF-8 cannot be passed to a host",
                path.display()
            ))
        })?;
        self.0.adapter_load(text).map_err(refused)
    }

    fn set(&self, name: &str, adapter: Option<u64>, generation: u64) -> Result<(), Refused> {
        self.0
            .adapter_set(name, adapter, generation)
            .map_err(refused)
    }

    fn free(&self, adapter: u64) -> Result<(), Refused> {
        self.0.adapter_free(adapter).map_err(refused)
    }
}

fn refused(failure: Failure) -> Refused {
    Refused(failure.message)
}

fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::new(Status::Internal, error.to_string()))
}

/// An error as a code of the ABI, and its remedy in a program's words.
///
/// Codes are never used again for something else: a fault has one, and what only a handle or a
/// moment is to blame for has another.
fn failure(error: &impl Blame, status: Option<Status>) -> Failure {
    let of_fault = match error.fault() {
        Fault::Input => Status::Input,
        Fault::Machine => Status::Machine,
        Fault::Bug => Status::Internal,
        Fault::Cancelled => Status::Cancelled,
    };
    Failure {
        hint: error
            .remedy()
            .map_or(String::new(), |remedy| remedy.words(&InJson)),
        ..Failure::new(status.unwrap_or(of_fault), error.to_string())
    }
}

fn of_pipeline(error: &PipelineError) -> Failure {
    failure(error, None)
}

fn of_jobs(error: &JobsError) -> Failure {
    let status = match error {
        JobsError::NoSuchJob(_) => Some(Status::BadHandle),
        JobsError::Full { .. } | JobsError::NoReport { .. } => Some(Status::NotNow),
        _ => None,
    };
    failure(error, status)
}

fn of_adapters(error: &AdaptersError) -> Failure {
    let status = match error {
        AdaptersError::NoSuchSwap(_) => Some(Status::BadHandle),
        AdaptersError::NoBase
        | AdaptersError::Full { .. }
        | AdaptersError::NothingBefore { .. } => Some(Status::NotNow),
        _ => None,
    };
    failure(error, status)
}

/// The transfers of a server that the library is loaded into.
#[cfg(target_os = "linux")]
struct Attached(Arc<control::Transfers>);

/// Carry out transfers in the server that this library is loaded into.
#[cfg(target_os = "linux")]
pub fn transfers() -> Result<Box<dyn translora_attach::Transfers>, control::Refusal> {
    let config = config().map_err(|error| control::of_jobs(&error))?;
    let clock = Arc::new(SystemClock::default());
    Ok(Box::new(Attached(control::Transfers::new(
        config,
        clock,
        Arc::new(translora_attach::say),
        control::Lasting::default(),
    ))))
}

#[cfg(target_os = "linux")]
impl translora_attach::Transfers for Attached {
    fn carry(&self, command: control::Command) -> Result<control::Reply, control::Refusal> {
        let (name, request) = match command {
            control::Command::Transfer { name, request } => (name, request),
            command => return self.0.carry(&command),
        };
        if name.is_some() {
            return Err((&translora_attach::AttachError::Named).into());
        }
        let make_live = |adapter| match translora_attach::load(adapter) {
            Ok(swapped) => Ok(swapped.generation),
            Err(refusal) => Err(refusal.message),
        };
        let plan = control::request(request.clone())?;
        let job = self.0.start(&plan, request, None, make_live)?;
        Ok(control::Reply::Job(Box::new(job)))
    }
}
