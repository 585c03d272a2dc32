use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};

mod past;

use self::past::Past;
pub use self::past::{Kept, Lasting};
use super::{Command, Event, Job, Kind, Problem, Refusal, Reply, State};
use crate::jobs::{self, Config, JobId, Jobs, JobsError, Status};
use crate::pipeline::{self, Stage, TransferPlan, Verdict};
use crate::record::{Blame, Clock, Fault, InJson};
use crate::request::{Request, Transfer};

/// How long one command for events waits for the next.
const EVENTS_WAIT: Duration = Duration::from_millis(500);
/// The end of a job wakes its watcher; this bounds the wait for a wake-up that was lost.
const WATCH_WAIT: Duration = Duration::from_secs(60);

/// Where it is said what becomes of a transfer.
pub type Say = Arc<dyn Fn(&str) + Send + Sync>;

/// Transfers whose adapters go live when they are accepted.
///
/// Those of earlier processes are listed with them, until they are taken up or forgotten.
pub struct Transfers {
    jobs: Jobs,
    goals: Mutex<HashMap<JobId, Goal>>,
    past: Mutex<Past>,
    settled: Condvar,
    say: Say,
    keep: Box<dyn Fn(Vec<Kept>) -> Result<(), String> + Send + Sync>,
    /// Held while what is kept changes.
    keeping: Mutex<()>,
    closing: AtomicBool,
}

/// What a transfer is for.
struct Goal {
    /// The name it goes live under, where adapters have names.
    name: Option<String>,
    out: PathBuf,
    /// The fields of the request.
    request: Map<String, Value>,
    /// The generation that it became, or why it is not live; none until that is known.
    outcome: Option<Result<String, String>>,
}

impl Transfers {
    /// A queue in which nothing waits.
    pub fn new(config: Config, clock: Arc<dyn Clock>, say: Say, lasting: Lasting) -> Arc<Self> {
        let mut past = lasting.past;
        past.drain(..past.len().saturating_sub(config.ended_max));
        let last = past.iter().map(|kept| kept.job.id).max();
        JobId::skip(last.unwrap_or(0));
        Arc::new(Self {
            jobs: Jobs::new(config, clock),
            goals: Mutex::default(),
            past: Mutex::new(Past(past)),
            settled: Condvar::new(),
            say,
            keep: lasting.keep,
            keeping: Mutex::default(),
            closing: AtomicBool::new(false),
        })
    }

    /// Those that ended with an earlier process.
    pub fn interrupted(&self) -> Vec<Kept> {
        let past = self.past();
        past.0
            .iter()
            .filter(|kept| kept.interrupted)
            .cloned()
            .collect()
    }

    /// The output of the last transfer of a name that failed or was stopped, and can be taken up.
    pub fn to_resume(&self, name: &str) -> Option<PathBuf> {
        let known = self.known();
        let mut all = known.into_iter().rev();
        let wanted = |job: &Job| job.name.as_deref() == Some(name) && Kept::is_unfinished(job);
        all.find(|job| wanted(job) && !self.is_active(&job.out))
            .map(|job| job.out)
    }

    /// Whether a transfer that has not ended writes to `out`.
    fn is_active(&self, out: &Path) -> bool {
        let all = self.jobs.list();
        all.iter()
            .any(|status| status.out == out && !status.state.is_end())
    }

    /// Every transfer, those of earlier processes first.
    fn known(&self) -> Vec<Job> {
        let mut all: Vec<Job> = self.past().0.iter().map(|kept| kept.job.clone()).collect();
        all.extend(self.jobs.list().into_iter().map(|status| self.view(status)));
        all
    }

    /// Keep every transfer as it is now.
    fn keep(&self) -> Result<(), Refusal> {
        let _keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = self.past().0.clone();
        for status in self.jobs.list() {
            let request = self
                .goals()
                .get(&status.id)
                .map(|goal| goal.request.clone());
            all.push(Kept {
                job: self.view(status),
                request: request.unwrap_or_default(),
                interrupted: false,
            });
        }
        (self.keep)(all).map_err(|reason| {
            let message = format!("the transfers cannot be kept beside the adapters: {reason}");
            Refusal::new(Kind::Internal, message)
        })
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn goals(&self) -> MutexGuard<'_, HashMap<JobId, Goal>> {
        self.goals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True where a transfer that is known will write its adapter to `path`.
    pub fn promises(&self, path: &Path) -> bool {
        self.goals().values().any(|goal| goal.out == path)
    }

    /// Queue a transfer; it is kept before it is answered. `fields` are those of its request. One of
    /// the same output that ended before is forgotten: this one goes on with it. `make_live` is called with the adapter's file if it is accepted, and answers
    /// the generation that it became.
    ///
    /// fails: the request cannot be carried out, or the queue is full
    pub fn start(
        self: &Arc<Self>,
        request: &TransferPlan,
        fields: Map<String, Value>,
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
            request: fields,
            outcome: None,
        };
        goals.insert(id, goal);
        drop(goals);
        self.forget_of(&request.out, id);
        if let Err(refusal) = self.keep() {
            self.goals().remove(&id);
            _ = self.jobs.free(id);
            return Err(refusal);
        }
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
        // One that ends with the server is to be found as it was.
        if !self.closing.load(Ordering::SeqCst)
            && let Err(refusal) = self.keep()
        {
            (self.say)(&format!("warning: {refusal}"));
        }
    }

    /// Forget what ended before, and is gone on with by transfer `id`.
    fn forget_of(&self, out: &Path, id: JobId) {
        self.past().forget_of(out);
        for status in self.jobs.list() {
            if status.out == out && status.id != id && status.state.is_end() {
                self.goals().remove(&status.id);
                _ = self.jobs.free(status.id);
            }
        }
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
            Command::Jobs {} => Reply::Jobs(self.known()),
            Command::Job { job } => Reply::Job(Box::new(self.job((*job).into())?)),
            // Nothing more happens to them.
            Command::Events { job, .. } if self.past().get(*job).is_some() => {
                Reply::Events(Vec::new())
            }
            Command::Report { job } if self.past().get(*job).is_some() => {
                let message =
                    "it ended with an earlier process: its report lies beside its adapter";
                return Err(Refusal::new(Kind::Conflict, message));
            }
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
        self.closing.store(true, Ordering::SeqCst);
        self.jobs.close();
    }

    fn job(&self, id: JobId) -> Result<Job, Refusal> {
        if let Some(job) = self.past().get(id.number()) {
            return Ok(job.clone());
        }
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
        if !job.state.is_end() {
            self.jobs.cancel(id).map_err(|error| of_jobs(&error))?;
            return self.job(id);
        }
        if !self.is_active(&job.out) {
            pipeline::discard(&job.out).map_err(|error| {
                let kind = match error.fault() {
                    Fault::Input => Kind::Conflict,
                    _ => Kind::Internal,
                };
                Refusal::new(kind, error.to_string())
            })?;
        }
        let past = self.past().get(id.number()).is_some();
        if past {
            self.past().forget(id.number());
        } else {
            self.goals().remove(&id);
            self.jobs.free(id).map_err(|error| of_jobs(&error))?;
        }
        self.keep()?;
        // It is answered as it was.
        Ok(job)
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
