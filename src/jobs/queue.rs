use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::entry::{End, Entry, Stop};
use super::{
    Config, Isolation, JobId, JobsError, NumberedEvent, Problem, State, Status, process, thread,
};
use crate::pipeline::{Event, TransferPlan};
use crate::record::{Clock, Fault, Step};

/// A queue of transfers, of which one runs at a time.
///
/// thread: any. Dropping it cancels what runs, which takes two seconds at most where jobs run in
/// processes, and the whole safe step where they run on a thread.
pub struct Jobs {
    shared: Arc<Shared>,
    runner: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    config: Config,
    clock: Arc<dyn Clock>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: BTreeMap<JobId, Entry>,
    closing: bool,
}

/// A job that is to be run now.
pub(super) struct Task<'a> {
    pub id: JobId,
    pub plan: TransferPlan,
    pub stop: Stop,
    pub config: &'a Config,
    pub clock: &'a dyn Clock,
    shared: &'a Shared,
}

impl Jobs {
    /// A queue without jobs. Nothing is started or looked for until the first.
    pub fn new(config: Config, clock: Arc<dyn Clock>) -> Self {
        let shared = Shared {
            config,
            clock,
            queue: Mutex::default(),
            changed: Condvar::new(),
        };
        Self {
            shared: Arc::new(shared),
            runner: Mutex::default(),
        }
    }

    /// How jobs of this queue run.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Put a transfer into the queue. Its files are looked at when it runs.
    ///
    /// fails: the queue is full, or there is no worker to run it
    pub fn start(&self, plan: &TransferPlan) -> Result<JobId, JobsError> {
        let mut plan = plan.clone();
        self.shared.config.check()?;
        self.shared.config.limit(&mut plan);
        if self.shared.config.isolation == Isolation::Process {
            self.shared.config.find_worker()?;
        }
        self.run_runner()?;
        let mut queue = self.shared.lock();
        if queue.closing {
            return Err(JobsError::Machine("the queue was closed".into()));
        }
        let waiting = queue
            .jobs
            .values()
            .filter(|entry| entry.status.state == State::Waiting)
            .count();
        if waiting >= self.shared.config.waiting_max {
            return Err(JobsError::Full { waiting });
        }
        let id = JobId::fresh();
        queue
            .jobs
            .insert(id, Entry::new(id, plan, self.shared.clock.unix_seconds()));
        self.shared.changed.notify_all();
        Ok(id)
    }

    fn run_runner(&self) -> Result<(), JobsError> {
        let mut runner = self.runner.lock().unwrap_or_else(PoisonError::into_inner);
        if runner.is_none() {
            let shared = Arc::clone(&self.shared);
            // It lives as long as the queue: a worker dies with the thread that started it.
            let spawned = std::thread::Builder::new()
                .name("translora-jobs".into())
                .spawn(move || shared.run());
            *runner =
                Some(spawned.map_err(|error| JobsError::Machine(format!("no thread: {error}")))?);
        }
        Ok(())
    }

    /// Every job that is known, in the order of their start.
    pub fn list(&self) -> Vec<Status> {
        let queue = self.shared.lock();
        queue
            .jobs
            .values()
            .filter(|entry| !entry.freed)
            .map(|entry| queue.status(entry))
            .collect()
    }

    /// How far a job is.
    pub fn status(&self, id: JobId) -> Result<Status, JobsError> {
        let queue = self.shared.lock();
        queue.get(id).map(|entry| queue.status(entry))
    }

    /// The events of a job behind number `after`, oldest first; none where nothing is new. Progress
    /// is kept only until newer progress of its stage comes.
    pub fn events(&self, id: JobId, after: u64) -> Result<Vec<NumberedEvent>, JobsError> {
        self.shared.lock().get(id).map(|entry| {
            entry
                .events
                .iter()
                .filter(|numbered| numbered.number > after)
                .cloned()
                .collect()
        })
    }

    /// As [`Jobs::events`], but wait until there is one, or the job ends, or the time is over.
    pub fn wait_events(
        &self,
        id: JobId,
        after: u64,
        timeout: Duration,
    ) -> Result<Vec<NumberedEvent>, JobsError> {
        self.wait_until(id, timeout, |status| {
            status.last_event > after || status.state.is_end()
        })?;
        self.events(id, after)
    }

    /// Wait until a job ends, or the time is over, and say how far it is then.
    pub fn wait(&self, id: JobId, timeout: Duration) -> Result<Status, JobsError> {
        self.wait_until(id, timeout, |status| status.state.is_end())?;
        self.status(id)
    }

    fn wait_until(
        &self,
        id: JobId,
        timeout: Duration,
        enough: impl Fn(&Status) -> bool,
    ) -> Result<(), JobsError> {
        let queue = self.shared.lock();
        queue.get(id)?;
        // A job that is forgotten meanwhile has ended.
        let going_on = |queue: &mut Queue| {
            queue
                .jobs
                .get(&id)
                .is_some_and(|entry| !enough(&entry.status))
        };
        drop(
            self.shared
                .changed
                .wait_timeout_while(queue, timeout, going_on)
                .unwrap_or_else(PoisonError::into_inner),
        );
        Ok(())
    }

    /// Stop a job. It ends as cancelled, within two seconds where it runs in a process; one
    /// that ended already stays as it is.
    pub fn cancel(&self, id: JobId) -> Result<(), JobsError> {
        let mut queue = self.shared.lock();
        let entry = queue
            .jobs
            .get_mut(&id)
            .filter(|entry| !entry.freed)
            .ok_or(JobsError::NoSuchJob(id))?;
        entry.stop.request();
        if entry.status.state == State::Waiting {
            entry.end(
                End::Failed(Problem::cancelled()),
                self.shared.clock.unix_seconds(),
            );
            self.shared.changed.notify_all();
        }
        Ok(())
    }

    /// The report of a job: the object that `translora transfer --json` prints.
    ///
    /// fails: it is not done; where it failed or was cancelled, with why
    pub fn report(&self, id: JobId) -> Result<serde_json::Value, JobsError> {
        let queue = self.shared.lock();
        let entry = queue.get(id)?;
        match (&entry.report, &entry.status.problem) {
            (Some(report), _) => Ok(report.clone()),
            (None, Some(problem)) => Err(JobsError::Failed(problem.clone())),
            (None, None) => Err(JobsError::NoReport {
                id,
                state: entry.status.state,
            }),
        }
    }

    /// Forget a job; one that has not ended is cancelled first and forgotten at its end.
    pub fn free(&self, id: JobId) -> Result<(), JobsError> {
        self.cancel(id)?;
        let mut queue = self.shared.lock();
        let entry = queue.jobs.get_mut(&id).ok_or(JobsError::NoSuchJob(id))?;
        entry.freed = true;
        queue.forget(usize::MAX);
        self.shared.changed.notify_all();
        Ok(())
    }
}

impl Jobs {
    /// Cancel every job, take no more, and return when none runs. What waits for a job on another
    /// thread returns too.
    pub fn close(&self) {
        let mut queue = self.shared.lock();
        queue.closing = true;
        for entry in queue.jobs.values_mut() {
            entry.stop.request();
            if entry.status.state == State::Waiting {
                entry.end(
                    End::Failed(Problem::cancelled()),
                    self.shared.clock.unix_seconds(),
                );
            }
        }
        drop(queue);
        self.shared.changed.notify_all();
        if let Some(runner) = self
            .runner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            // It catches panics itself.
            _ = runner.join();
        }
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Run what waits, one after the other, until the queue closes.
    fn run(&self) {
        while let Some(task) = self.next() {
            let work = || match self.config.isolation {
                Isolation::Process => process::run(&task),
                Isolation::Thread => thread::run(&task),
            };
            let end = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
                // A payload's own destructor may panic.
                std::mem::forget(payload);
                End::Failed(Problem::new(Fault::Bug, "the job panicked", Step::Report))
            });
            let mut queue = self.lock();
            if let Some(entry) = queue.jobs.get_mut(&task.id) {
                entry.end(end, self.clock.unix_seconds());
            }
            queue.forget(self.config.ended_max);
            self.changed.notify_all();
        }
    }

    /// Wait for the next job.
    fn next(&self) -> Option<Task<'_>> {
        let mut queue = self.lock();
        loop {
            if queue.closing {
                return None;
            }
            if let Some((id, entry)) = queue
                .jobs
                .iter_mut()
                .find(|(_, entry)| entry.status.state == State::Waiting)
            {
                entry.status.state = State::Running;
                entry.status.began_at = Some(self.clock.unix_seconds());
                let (id, plan, stop) = (*id, entry.plan.clone(), entry.stop.clone());
                self.changed.notify_all();
                return Some(Task {
                    id,
                    plan,
                    stop,
                    config: &self.config,
                    clock: self.clock.as_ref(),
                    shared: self,
                });
            }
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Task<'_> {
    pub fn push(&self, event: Event) {
        self.change(|entry| entry.push(event, self.config.events_max));
    }

    pub fn runs_as(&self, process: u32) {
        self.change(|entry| entry.status.process = Some(process));
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.shared.lock().jobs.get_mut(&self.id) {
            change(entry);
        }
        self.shared.changed.notify_all();
    }
}

impl Queue {
    fn get(&self, id: JobId) -> Result<&Entry, JobsError> {
        self.jobs
            .get(&id)
            .filter(|entry| !entry.freed)
            .ok_or(JobsError::NoSuchJob(id))
    }

    fn status(&self, entry: &Entry) -> Status {
        let before =
            |other: &&Entry| other.status.id < entry.status.id && !other.status.state.is_end();
        let ahead = if entry.status.state == State::Waiting {
            self.jobs.values().filter(before).count()
        } else {
            0
        };
        Status {
            ahead,
            ..entry.status.clone()
        }
    }

    /// Forget what was freed, and of the others the oldest until `ended_max` ended ones are left.
    fn forget(&mut self, ended_max: usize) {
        self.jobs
            .retain(|_, entry| !(entry.freed && entry.status.state.is_end()));
        let ended: Vec<JobId> = self
            .jobs
            .values()
            .filter(|e| e.status.state.is_end())
            .map(|e| e.status.id)
            .collect();
        for id in &ended[..ended.len().saturating_sub(ended_max)] {
            self.jobs.remove(id);
        }
    }
}
