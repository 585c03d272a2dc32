use std::error::Error;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{JobId, State};
use crate::record::{Blame, Fault, InJson, Remedy, Step};
use crate::request::Refusal;

/// Why a call on the queue was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JobsError {
    /// The number is of no job of this queue.
    #[error("job {0}: there is no such job; it was freed, or never started here")]
    NoSuchJob(JobId),
    /// The request itself cannot be carried out.
    #[error(transparent)]
    Refused(Refusal),
    /// A setting of the queue cannot be meant.
    #[error("{what}")]
    Request {
        /// The setting and its value, in words.
        what: String,
        /// What it takes instead.
        remedy: Remedy,
    },
    /// `waiting_max` jobs wait.
    #[error("{waiting} jobs are waiting already, and the queue takes no more")]
    Full {
        /// Jobs that wait.
        waiting: usize,
    },
    /// Jobs run in processes, and there is no program for them.
    #[error("no worker program: looked for {}", listed(looked))]
    NoWorker {
        /// Where it was looked for, in this order.
        looked: Vec<PathBuf>,
    },
    /// The report comes with the end of a job, and this one goes on.
    #[error("job {id} has no report: it is {}", state.name())]
    NoReport {
        /// Whose report.
        id: JobId,
        /// How far it is.
        state: State,
    },
    /// The job itself failed.
    #[error("{}", .0.message)]
    Failed(Problem),
    /// The system refuses a thread or a process, or the queue was closed.
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

impl JobsError {
    pub(super) fn request(what: impl Into<String>, remedy: impl Into<Remedy>) -> Self {
        Self::Request {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

impl From<Refusal> for JobsError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Blame for JobsError {
    fn fault(&self) -> Fault {
        match self {
            Self::Failed(problem) => problem.cause,
            Self::Machine(_) => Fault::Machine,
            Self::NoSuchJob(_)
            | Self::Refused(_)
            | Self::Request { .. }
            | Self::Full { .. }
            | Self::NoWorker { .. }
            | Self::NoReport { .. } => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::Refused(refusal) => return refusal.remedy(),
            Self::Request { remedy, .. } => remedy.clone(),
            Self::Full { .. } => Remedy::or([Step::WaitForEnd.into(), Step::CancelOne.into()]),
            Self::NoWorker { .. } => Remedy::or([Step::NameWorker.into(), Step::NoWorker.into()]),
            Self::NoReport { .. } => Step::WaitForEnd.into(),
            Self::Failed(problem) => return problem.remedy.clone(),
            Self::NoSuchJob(_) => Step::ListJobs.into(),
            Self::Machine(_) => Step::CloseOthers.into(),
        })
    }
}

/// Why a job failed, as people and programs read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Whose fault it is.
    pub cause: Fault,
    /// The reason and what is behind it, as one sentence.
    pub message: String,
    /// What to do about it, for a program that words it by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Remedy>,
    /// The same in words; may be empty.
    pub hint: String,
}

impl Problem {
    pub(super) fn new(cause: Fault, message: impl Into<String>, remedy: impl Into<Remedy>) -> Self {
        Self::with(cause, message.into(), Some(remedy.into()))
    }

    pub(super) fn cancelled() -> Self {
        Self::new(Fault::Cancelled, "cancelled", Remedy::Resume)
    }

    pub(super) fn of(error: &impl Blame) -> Self {
        Self::with(error.fault(), chain(error), error.remedy())
    }

    fn with(cause: Fault, message: String, remedy: Option<Remedy>) -> Self {
        let words = |remedy: &Remedy| remedy.words(&InJson);
        Self {
            cause,
            message,
            hint: remedy.as_ref().map_or(String::new(), words),
            remedy,
        }
    }
}

/// An error and what is behind it, each said once.
fn chain(error: &dyn Error) -> String {
    let mut chained = error.to_string();
    let mut behind = error.source();
    while let Some(error) = behind {
        let text = error.to_string();
        if !chained.contains(&text) {
            chained = format!("{chained}: {text}");
        }
        behind = error.source();
    }
    chained
}
