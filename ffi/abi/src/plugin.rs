use std::time::Duration;

use crate::failure::Failure;
use crate::table::HostTable;

/// What a plugin does behind the gate. One value for each instance that a host creates.
///
/// thread: any, and several at once.
pub trait Plugin: Jobs + Adapters + Send + Sync + 'static {
    /// The library's own version.
    const VERSION: &'static str;
    /// The engine it was built with.
    const ENGINE: &'static str;

    /// Create the state of a new instance.
    fn create() -> Result<Self, Failure>
    where
        Self: Sized;

    /// Stop what goes on in the background, and return when it has. Calls that wait for it on other
    /// threads return, too.
    fn close(&self);

    /// Describe the file at `path` as one JSON object.
    fn inspect(&self, path: &str) -> Result<String, Failure>;
}

/// `translora.jobs/1`. A job that is not known is [`crate::Status::BadHandle`].
pub trait Jobs {
    /// Say how jobs run; before the first.
    fn configure(&self, json: &str) -> Result<(), Failure>;
    /// Put a transfer into the queue.
    fn start(&self, request: &str) -> Result<u64, Failure>;
    /// How far a job is.
    fn poll(&self, job: u64) -> Result<Progress, Failure>;
    /// Wait until a job ends, or the time is over.
    fn wait(&self, job: u64, timeout: Duration) -> Result<Progress, Failure>;
    /// The events behind a number, as a JSON array; wait for one where there is none.
    fn events(&self, job: u64, after: u64, timeout: Duration) -> Result<String, Failure>;
    /// All that is known of a job, as a JSON object.
    fn status(&self, job: u64) -> Result<String, Failure>;
    /// All that is known of all, as a JSON array.
    fn list(&self) -> Result<String, Failure>;
    /// Ask a job to stop.
    fn cancel(&self, job: u64) -> Result<(), Failure>;
    /// The report of a job that is done.
    fn report(&self, job: u64) -> Result<String, Failure>;
    /// Forget a job.
    fn free(&self, job: u64) -> Result<(), Failure>;
}

/// How far a job is, as the header has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How far it is on the whole.
    pub state: JobState,
    /// Jobs that come before it.
    pub ahead: u32,
    /// The worker's process, or 0.
    pub process: u32,
    /// Of `total`, in this stage.
    pub done: u64,
    /// Both 0 where that is not known.
    pub total: u64,
    /// The number of the newest event.
    pub last_event: u64,
    /// Empty before the first.
    pub stage: &'static str,
}

/// The states of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum JobState {
    /// Others come before it.
    Waiting = 0,
    /// It runs.
    Running = 1,
    /// It has a report.
    Done = 2,
    /// It has an error.
    Failed = 3,
    /// Somebody stopped it.
    Cancelled = 4,
}

impl JobState {
    /// Every state, in the order of the header.
    pub const ALL: [Self; 5] = [
        Self::Waiting,
        Self::Running,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
    ];
}

/// `translora.adapters/1` and `translora.hotswap/1`. What takes a host is called on the host's
/// decode thread.
pub trait Adapters {
    /// Name the base model that is served.
    fn base(&self, path: &str) -> Result<(), Failure>;
    /// Check that an adapter fits it, and describe it as a JSON object.
    fn check(&self, path: &str) -> Result<String, Failure>;
    /// What each name answers with, as a JSON array.
    fn answers(&self) -> Result<String, Failure>;
    /// Check an adapter that `name` is to answer with.
    fn prepare(&self, name: &str, path: &str) -> Result<u64, Failure>;
    /// Load it and let `name` answer with it; the new generation.
    fn commit(&self, swap: u64, host: &HostTable) -> Result<u64, Failure>;
    /// Give a prepared exchange up.
    fn discard(&self, swap: u64) -> Result<(), Failure>;
    /// Let `name` answer with what it had before; the new generation.
    fn rollback(&self, name: &str, host: &HostTable) -> Result<u64, Failure>;
    /// Let `name` answer with the bare base; the new generation.
    fn unload(&self, name: &str, host: &HostTable) -> Result<u64, Failure>;
}
