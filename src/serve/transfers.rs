//! Transfers beside serving, through the plugin's C ABI and nothing else: the reference host has no
//! door that other hosts lack.
//!
//! A transfer is asked for under an adapter's name. When the plugin accepts what it made, that is
//! loaded and goes live under the name.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
pub(super) use translora_abi::JobState;
use translora_abi::host::{Instance, Jobs, Library};
use translora_abi::{Failure, Progress, Status};

use super::error::ApiError;

/// An instance of the plugin, and what its jobs are for.
pub(super) struct Transfers {
    instance: Instance,
    goals: Mutex<HashMap<u64, Goal>>,
}

/// What becomes of a transfer.
#[derive(Clone, Debug, Default)]
pub(super) struct Goal {
    /// The name it goes live under.
    pub name: String,
    pub out: PathBuf,
    /// The generation that it became.
    pub generation: Option<u64>,
    /// Why it is not live.
    pub reason: Option<String>,
}

impl Transfers {
    /// fails: the library is no plugin, or has no jobs.
    pub(super) fn open(library: &Path) -> Result<Self, String> {
        let library = Library::open(library).map_err(|error| error.to_string())?;
        let instance = library
            .create(None)
            .map_err(|failure| failure.to_string())?;
        instance.jobs().map_err(|failure| failure.to_string())?;
        Ok(Self {
            instance,
            goals: Mutex::default(),
        })
    }

    fn jobs(&self) -> Result<Jobs<'_>, ApiError> {
        self.instance.jobs().map_err(|failure| refused(&failure))
    }

    fn goals(&self) -> MutexGuard<'_, HashMap<u64, Goal>> {
        self.goals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queue a transfer. `request` has the flags of `translora transfer`; target and output are the
    /// server's to say.
    pub(super) fn start(
        &self,
        mut request: Value,
        name: &str,
        target: &Path,
        folder: &Path,
    ) -> Result<u64, ApiError> {
        // Held while a name for the file is looked for, so that no two transfers are given the
        // same.
        let mut goals = self.goals();
        let out = free_name(folder, name, &goals);
        request["target"] = Value::from(text(target)?);
        request["out"] = Value::from(text(&out)?);
        let job = self
            .jobs()?
            .start(&request.to_string())
            .map_err(|failure| refused(&failure))?;
        goals.insert(
            job,
            Goal {
                name: name.to_owned(),
                out,
                ..Goal::default()
            },
        );
        Ok(job)
    }

    pub(super) fn goal(&self, job: u64) -> Option<Goal> {
        self.goals().get(&job).cloned()
    }

    /// Write down what became of a job.
    pub(super) fn settle(&self, job: u64, outcome: Result<u64, String>) {
        if let Some(goal) = self.goals().get_mut(&job) {
            match outcome {
                Ok(generation) => goal.generation = Some(generation),
                Err(reason) => goal.reason = Some(reason),
            }
        }
    }

    /// Block until a job has ended or the time is over.
    pub(super) fn wait(&self, job: u64, timeout: Duration) -> Result<Progress, ApiError> {
        self.jobs()?
            .wait(job, timeout)
            .map_err(|failure| refused(&failure))
    }

    /// Events after the one of that number; blocks until there is one, or the time is over.
    pub(super) fn events(
        &self,
        job: u64,
        after: u64,
        timeout: Duration,
    ) -> Result<Vec<Value>, ApiError> {
        let events = json(
            &self
                .jobs()?
                .events(job, after, timeout)
                .map_err(|failure| refused(&failure))?,
        )?;
        Ok(events.as_array().cloned().unwrap_or_default())
    }

    /// What is known of a job, with the report of one that is done.
    pub(super) fn status(&self, job: u64) -> Result<Value, ApiError> {
        let jobs = self.jobs()?;
        let mut status = json(&jobs.status(job).map_err(|failure| refused(&failure))?)?;
        if status["state"] == "done" {
            status["report"] = json(&jobs.report(job).map_err(|failure| refused(&failure))?)?;
        }
        Ok(self.with_goal(status))
    }

    pub(super) fn list(&self) -> Result<Vec<Value>, ApiError> {
        let list = json(&self.jobs()?.list().map_err(|failure| refused(&failure))?)?;
        Ok(list
            .as_array()
            .cloned()
            .unwrap_or_default()
            .into_iter()
            .map(|status| self.with_goal(status))
            .collect())
    }

    fn with_goal(&self, mut status: Value) -> Value {
        if let Some(goal) = status["id"].as_u64().and_then(|job| self.goal(job)) {
            status["name"] = goal.name.into();
            status["generation"] = goal.generation.map(|number| number.to_string()).into();
            status["not_live"] = goal.reason.into();
        }
        status
    }

    /// Stop a job that has not ended; forget one that has.
    pub(super) fn remove(&self, job: u64) -> Result<Value, ApiError> {
        let status = self.status(job)?;
        let jobs = self.jobs()?;
        if matches!(status["state"].as_str(), Some("waiting" | "running")) {
            jobs.cancel(job).map_err(|failure| refused(&failure))?;
            return self.status(job);
        }
        jobs.free(job).map_err(|failure| refused(&failure))?;
        self.goals().remove(&job);
        Ok(status)
    }

    /// Stop all jobs, for the end of the server.
    pub(super) fn close(&self) {
        let jobs: Vec<u64> = self.goals().keys().copied().collect();
        for job in jobs {
            // One that has ended needs no stopping.
            _ = self.jobs().map(|jobs| jobs.cancel(job));
        }
    }
}

/// `NAME@1.gguf`, or the next number that neither lies in the folder nor is promised: nothing is
/// overwritten.
fn free_name(folder: &Path, name: &str, goals: &HashMap<u64, Goal>) -> PathBuf {
    let taken = |path: &PathBuf| {
        path.exists()
            || path.with_extension("rejected.gguf").exists()
            || goals.values().any(|goal| goal.out == *path)
    };
    let mut number = 1_u64;
    loop {
        let path = folder.join(format!("{name}@{number}.gguf"));
        if !taken(&path) {
            return path;
        }
        number += 1;
    }
}

fn text(path: &Path) -> Result<&str, ApiError> {
    path.to_str()
        .ok_or_else(|| ApiError::internal(format!("{}: the path is not UTF-8", path.display())))
}

fn json(text: &str) -> Result<Value, ApiError> {
    serde_json::from_str(text)
        .map_err(|error| ApiError::internal(format!("the plugin's answer is not JSON: {error}")))
}

fn refused(failure: &Failure) -> ApiError {
    let message = if failure.hint.is_empty() {
        failure.message.clone()
    } else {
        format!("{} (hint: {})", failure.message, failure.hint)
    };
    match failure.status {
        Status::BadHandle => ApiError::not_found(message),
        Status::Input | Status::InvalidArgument => ApiError::input(message),
        Status::NotNow => ApiError::conflict(message),
        _ => ApiError::internal(message),
    }
}
