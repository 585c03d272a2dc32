//! Transfers of earlier processes: what is kept of each, and what becomes of it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Job, Problem, State};
use crate::pipeline;
use crate::record::{Fault, InJson, Remedy};

/// A transfer as it outlasts the process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// How far it was, without its report.
    pub job: Job,
    /// The fields of its request; empty where they are not known.
    pub request: Map<String, Value>,
    /// The process ended before it did.
    #[serde(default)]
    pub interrupted: bool,
}

/// Where transfers are kept, and those that were.
pub struct Lasting {
    /// Of earlier processes.
    pub past: Vec<Kept>,
    /// Keeps all there are, before it returns; the reason where that is not possible.
    pub keep: Box<dyn Fn(Vec<Kept>) -> Result<(), String> + Send + Sync>,
}

impl Default for Lasting {
    /// Nothing lasts.
    fn default() -> Self {
        Self {
            past: Vec::new(),
            keep: Box::new(|_| Ok(())),
        }
    }
}

impl Kept {
    /// A run whose journal lies beside `out`, of which nothing else is known.
    pub fn found(id: u64, name: &str, out: PathBuf) -> Self {
        let job = Job {
            id,
            state: State::Failed,
            name: Some(name.to_owned()),
            out,
            problem: Some(problem("its journal was found, and nothing else of it")),
            ..Job::default()
        };
        Self {
            job,
            request: Map::new(),
            interrupted: false,
        }
    }

    /// The same for a process that did not start it: what had not ended was interrupted. What lies
    /// at its output was published before.
    ///
    /// `adapter`: the file that it became, accepted or not
    pub fn ended(mut self, adapter: Option<(PathBuf, bool)>) -> Self {
        let open = !self.job.state.is_end() || self.interrupted;
        let job = &mut self.job;
        match adapter {
            Some((path, accepted)) if open => {
                job.state = State::Done;
                job.problem = None;
                job.verdict = accepted.then(|| "accept".into());
                job.not_live = (!accepted).then(|| "it was not accepted".into());
                job.adapter = Some(path);
                self.interrupted = false;
            }
            None if open => {
                job.state = State::Failed;
                job.process = None;
                job.problem = Some(problem("the server ended before it did"));
                job.not_live = Some("the transfer ended with the server".into());
                self.interrupted = true;
            }
            _ => {}
        }
        self
    }

    /// Whether it may be taken up: it did not come to its end, and its journal is there.
    pub(super) fn is_unfinished(job: &Job) -> bool {
        matches!(job.state, State::Failed | State::Cancelled) && pipeline::is_unfinished(&job.out)
    }
}

fn problem(message: &str) -> Problem {
    Problem {
        cause: Fault::Machine.name().into(),
        message: message.into(),
        remedy: serde_json::to_value(Remedy::Resume).ok(),
        hint: Remedy::Resume.words(&InJson),
    }
}

/// The transfers of earlier processes, in the order in which they came.
#[derive(Default)]
pub(super) struct Past(pub Vec<Kept>);

impl Past {
    pub(super) fn get(&self, id: u64) -> Option<&Job> {
        let found = self.0.iter().find(|kept| kept.job.id == id);
        found.map(|kept| &kept.job)
    }

    pub(super) fn forget(&mut self, id: u64) {
        self.0.retain(|kept| kept.job.id != id);
    }

    /// Forget what another transfer goes on with.
    pub(super) fn forget_of(&mut self, out: &Path) {
        self.0.retain(|kept| kept.job.out != out);
    }
}
