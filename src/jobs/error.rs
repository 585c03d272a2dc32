use std::error::Error;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{JobId, State};
use crate::engine::{EngineError, Fault};
use crate::pipeline::PipelineError;
use crate::request::{Door, Refusal};

/// Why a call on the queue was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JobsError {
    #[error("job {0}: there is no such job; it was freed, or never started here")]
    NoSuchJob(JobId),
    #[error("{what}")]
    Request { what: String, hint: String },
    #[error("{waiting} jobs are waiting already, and the queue takes no more")]
    Full { waiting: usize },
    #[error("no worker program: looked for {}", listed(looked))]
    NoWorker { looked: Vec<PathBuf> },
    #[error("job {id} has no report: it is {}", state.name())]
    NoReport { id: JobId, state: State },
    /// The job itself failed.
    #[error("{}", .0.message)]
    Failed(Problem),
    #[error("jobs cannot run here: {0}")]
    Machine(String),
}

fn listed(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

impl From<Refusal> for JobsError {
    fn from(refusal: Refusal) -> Self {
        Self::request(refusal.what(Door::Json), refusal.hint(Door::Json))
    }
}

impl JobsError {
    pub(super) fn request(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Request {
            what: what.into(),
            hint: hint.into(),
        }
    }

    /// Whose fault it is; none for a job that was cancelled.
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Self::Failed(problem) => problem.cause.fault(),
            Self::Machine(_) => Some(Fault::Machine),
            _ => Some(Fault::Input),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Request { hint, .. } => hint.clone(),
            Self::Full { .. } => "wait for one to end, or cancel one".into(),
            Self::NoWorker { .. } => {
                "put the program `translora` of the same version beside the library, name it in TRANSLORA_WORKER or as \"worker\" in the \
                 configuration, or set \"isolation\": \"thread\""
                    .into()
            }
            Self::NoReport { .. } => "wait until it is done".into(),
            Self::Failed(problem) => problem.hint.clone(),
            Self::NoSuchJob(_) => "ask for the list of jobs".into(),
            Self::Machine(_) => "close other programs".into(),
        }
    }
}

/// What was behind a job that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// A file or value that the caller gave.
    Input,
    /// The machine, or whoever killed the worker.
    Machine,
    /// This program.
    Bug,
    /// Somebody asked it to stop.
    Cancelled,
}

impl Cause {
    /// Whose fault it is; none where nothing went wrong.
    pub fn fault(self) -> Option<Fault> {
        match self {
            Self::Input => Some(Fault::Input),
            Self::Machine => Some(Fault::Machine),
            Self::Bug => Some(Fault::Bug),
            Self::Cancelled => None,
        }
    }
}

/// Why a job failed, as people and programs read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub cause: Cause,
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

impl Problem {
    pub(super) fn new(cause: Cause, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            cause,
            message: message.into(),
            hint: hint.into(),
        }
    }

    pub(super) fn cancelled() -> Self {
        Self::new(
            Cause::Cancelled,
            "cancelled",
            "start it again; with \"resume\": true it goes on from its journal",
        )
    }

    pub(super) fn of(error: &PipelineError) -> Self {
        if matches!(error, PipelineError::Cancelled) {
            return Self::cancelled();
        }
        Self::new(
            cause(error.fault()),
            chain(error),
            error.hint().unwrap_or_default(),
        )
    }

    pub(super) fn of_engine(error: &EngineError) -> Self {
        Self::new(cause(error.fault()), chain(error), "")
    }
}

fn cause(fault: Fault) -> Cause {
    match fault {
        Fault::Input => Cause::Input,
        Fault::Machine => Cause::Machine,
        Fault::Bug => Cause::Bug,
    }
}

/// An error and what is behind it, each said once.
fn chain(error: &dyn Error) -> String {
    let mut told = error.to_string();
    let mut behind = error.source();
    while let Some(error) = behind {
        let text = error.to_string();
        if !told.contains(&text) {
            told = format!("{told}: {text}");
        }
        behind = error.source();
    }
    told
}
