use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};

use super::{Command, Event, Job, Kind, Problem, Refusal, Reply, State};
use crate::jobs::{self, Config, JobId, Jobs, JobsError, Status};
use crate::pipeline::TransferPlan;
use crate::pipeline::{Stage, Verdict};
use crate::record::Clock;
use crate::record::{Blame, Fault, InJson};
use crate::request::{Request, Transfer};

/// How long one command for events waits for the next.
const EVENTS_WAIT: Duration = Duration::from_millis(500);
/// The end of a job wakes its watcher; this bounds the wait for a wake-up that was lost.
const WATCH_WAIT: Duration = Duration::from_secs(60);

/// Where it is said what becomes of a transfer.
pub type Say = Arc<dyn Fn(&str) + Send + Sync>;

/// Transfers whose adapters go live when they are accepted.
pub struct Transfers {
    jobs: Jobs,
    goals: Mutex<HashMap<JobId, Goal>>,
    settled: Condvar,
    say: Say,
}

/// What a transfer is for.
struct Goal {
    /// The name it goes live under, where adapters have names.
    name: Option<String>,
    out: PathBuf,
    /// The generation that it became, or why it is not live; none until that is known.
    outcome: Option<Result<String, String>>,
}

impl Transfers {
    /// A queue without transfers.
    pub fn new(config: Config, clock: Arc<dyn Clock>, say: Say) -> Arc<Self> {
        Arc::new(Self {
            jobs: Jobs::new(config, clock),
            goals: Mutex::default(),
            settled: Condvar::new(),
            say,
        })
    }

    fn goals(&self) -> MutexGuard<'_, HashMap<JobId, Goal>> {
        self.goals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True where a transfer that is known will write its adapter to `path`.
    pub fn promises(&self, path: &Path) -> bool {
        self.goals().values().any(|goal| goal.out == path)
    }

    /// Queue a transfer. `make_live` is called with the adapter's file if it is accepted, and answers
    /// the generation that it became.
    ///
    /// fails: the request cannot be carried out, or the queue is full
    pub fn start(
        self: &Arc<Self>,
        request: &TransferPlan,
        name: Option<String>,
        make_live: impl FnOnce(PathBuf) -> Result<String, String> + Send + 'static,
    ) -> Result<Job, Refusal> {
        // Held until the goal is there, so that nobody sees the job without it.
        let mut goals = self.goals();
        let id = self.jobs.start(request).map_err(|error| of_jobs(&error))?;
        let known: Vec<JobId> = self.jobs.list().iter().map(|status| status.id).collect();
        goals.retain(|id, _| known.contains(id));
        (self.say)(&format!(
            "transfer {id} is queued: {}",
            request.out.display()
        ));
        let goal = Goal {
            name,
            out: request.out.clone(),
            outcome: None,
        };
        goals.insert(id, goal);
        drop(goals);
        let watched = Arc::clone(self);
        let watcher = std::thread::Builder::new().name("transfer".into());
        if let Err(error) = watcher.spawn(move || watched.watch(id, make_live)) {
            self.settle(
                id,
                Err(format!("no thread watches it: {error}; load it yourself")),
            );
        }
        self.job(id)
    }

    /// Wait for the end of a job, and make live what was accepted.
    fn watch(&self, id: JobId, make_live: impl FnOnce(PathBuf) -> Result<String, String>) {
        let ended = loop {
            match self.jobs.wait(id, WATCH_WAIT) {
                Ok(status) if status.state.is_end() => break status,
                Ok(_) => {}
                // It was forgotten.
                Err(_) => return,
            }
        };
        let outcome = match (ended.state, ended.verdict, ended.adapter) {
            (jobs::State::Done, Some(Verdict::Accept), Some(adapter)) => make_live(adapter),
            (jobs::State::Done, verdict, _) => Err(format!(
                "the verdict is {}",
                verdict.map_or("unknown", Verdict::name)
            )),
            (state, ..) => Err(format!("the transfer ended as {}", state.name())),
        };
        (self.say)(&match &outcome {
            Ok(generation) => format!("transfer {id} is live: generation {generation}"),
            Err(reason) => format!("transfer {id} changes nothing: {reason}"),
        });
        self.settle(id, outcome);
    }

    fn settle(&self, id: JobId, outcome: Result<String, String>) {
        if let Some(goal) = self.goals().get_mut(&id) {
            goal.outcome = Some(outcome);
        }
        self.settled.notify_all();
    }

    /// Carry out a command about transfers that are queued already.
    ///
    /// fails: there is no such transfer, or it has no report
    pub fn carry(&self, command: &Command) -> Result<Reply, Refusal> {
        Ok(match command {
            Command::Jobs {} => Reply::Jobs(
                self.jobs
                    .list()
                    .into_iter()
                    .map(|status| self.view(status))
                    .collect(),
            ),
            Command::Job { job } => Reply::Job(Box::new(self.job((*job).into())?)),
            Command::Events { job, after } => Reply::Events(self.events((*job).into(), *after)?),
            Command::Cancel { job } => Reply::Job(Box::new(self.cancel((*job).into())?)),
            Command::Report { job } => Reply::Report(
                self.jobs
                    .report((*job).into())
                    .map_err(|error| of_jobs(&error))?,
            ),
            _ => {
                return Err(Refusal::new(
                    Kind::Unsupported,
                    "this is no command about a transfer that is queued",
                ));
            }
        })
    }

    /// Stop all transfers, and return when none runs.
    pub fn close(&self) {
        self.jobs.close();
    }

    fn job(&self, id: JobId) -> Result<Job, Refusal> {
        let status = self.jobs.status(id).map_err(|error| of_jobs(&error))?;
        let mut job = self.view(status);
        job.report = self.jobs.report(id).ok();
        Ok(job)
    }

    /// What is known of a job and of its goal. It counts as done when that is settled.
    fn view(&self, status: Status) -> Job {
        let mut job = of_status(status);
        if let Some(goal) = self.goals().get(&job.id.into()) {
            job.name.clone_from(&goal.name);
            match &goal.outcome {
                Some(Ok(generation)) => job.generation = Some(generation.clone()),
                Some(Err(reason)) => job.not_live = Some(reason.clone()),
                None if job.state == State::Done => job.state = State::Running,
                None => {}
            }
        }
        job
    }

    /// The events behind a number. Waits a moment where there are none, and where all that is
    /// missing is the adapter going live.
    fn events(&self, id: JobId, after: u64) -> Result<Vec<Event>, Refusal> {
        let events = self
            .jobs
            .wait_events(id, after, EVENTS_WAIT)
            .map_err(|error| of_jobs(&error))?;
        let ended = self
            .jobs
            .status(id)
            .is_ok_and(|status| status.state.is_end());
        if events.is_empty() && ended {
            let unsettled = |goals: &mut HashMap<JobId, Goal>| {
                goals.get(&id).is_some_and(|goal| goal.outcome.is_none())
            };
            drop(
                self.settled
                    .wait_timeout_while(self.goals(), EVENTS_WAIT, unsettled),
            );
        }
        let plain = |event| serde_json::from_value(serde_json::to_value(event)?);
        let events: Result<_, serde_json::Error> = events.iter().map(plain).collect();
        events.map_err(|error| Refusal::new(Kind::Internal, format!("an event: {error}")))
    }

    fn cancel(&self, id: JobId) -> Result<Job, Refusal> {
        let job = self.job(id)?;
        let cancel = if job.state.is_end() {
            self.goals().remove(&id);
            Jobs::free
        } else {
            Jobs::cancel
        };
        cancel(&self.jobs, id).map_err(|error| of_jobs(&error))?;
        // One that was forgotten is answered as it was.
        Ok(self.job(id).unwrap_or(job))
    }
}

fn of_status(status: Status) -> Job {
    Job {
        id: status.id.number(),
        state: match status.state {
            jobs::State::Waiting => State::Waiting,
            jobs::State::Running => State::Running,
            jobs::State::Done => State::Done,
            jobs::State::Failed => State::Failed,
            jobs::State::Cancelled => State::Cancelled,
        },
        ahead: status.ahead,
        stage: status.stage.map(|stage| Stage::name(stage).into()),
        done: status.done,
        total: status.total,
        note: status.note,
        source: status.source,
        target: status.target,
        out: status.out,
        verdict: status.verdict.map(|verdict| verdict.name().into()),
        adapter: status.adapter,
        problem: status.problem.map(|problem| Problem {
            cause: problem.cause.name().into(),
            message: problem.message,
            remedy: problem
                .remedy
                .and_then(|remedy| serde_json::to_value(remedy).ok()),
            hint: problem.hint,
        }),
        process: status.process,
        last_event: status.last_event,
        queued_at: status.queued_at,
        began_at: status.began_at,
        ended_at: status.ended_at,
        ..Job::default()
    }
}

/// Read the fields of a transfer.
///
/// fails: a name that is not known, a value that cannot be meant
pub fn request(fields: Map<String, Value>) -> Result<TransferPlan, Refusal> {
    Transfer::from_json(&Value::Object(fields).to_string())
        .map_err(|refusal| of_jobs(&refusal.into()))
}

/// A refusal of the queue, as the socket and HTTP have it.
pub fn of_jobs(error: &JobsError) -> Refusal {
    let kind = match error {
        JobsError::NoSuchJob(_) => Kind::NotFound,
        JobsError::Full { .. } | JobsError::NoReport { .. } | JobsError::Failed(_) => {
            Kind::Conflict
        }
        error if error.fault() == Fault::Input => Kind::Input,
        _ => Kind::Internal,
    };
    let hint = error.remedy().map(|remedy| remedy.words(&InJson));
    Refusal::new(kind, error.to_string()).hint(hint.unwrap_or_default())
}
