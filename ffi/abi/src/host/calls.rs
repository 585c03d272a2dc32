//! The capabilities, as a host in Rust calls them. Each function is the one of the header with its
//! name.

use std::time::Duration;

use super::instance::{absent, outcome, text};
use super::{Instance, view};
use crate::c;
use crate::failure::{Failure, Status};
use crate::plugin::{JobState, Progress};

/// `translora.jobs/1` of an instance.
#[derive(Clone, Copy)]
pub struct Jobs<'a> {
    instance: &'a Instance,
    table: &'static c::Jobs1,
}

/// `translora.adapters/1` of an instance.
#[derive(Clone, Copy)]
pub struct Adapters<'a> {
    instance: &'a Instance,
    table: &'static c::Adapters1,
}

/// `translora.hotswap/1` of an instance.
#[derive(Clone, Copy)]
pub struct Hotswap<'a> {
    instance: &'a Instance,
    table: &'static c::Hotswap1,
}

impl Instance {
    /// Transfers beside the host's own work. fails: the library does not have them
    pub fn jobs(&self) -> Result<Jobs<'_>, Failure> {
        Ok(Jobs {
            instance: self,
            table: self.table(c::JOBS_1)?,
        })
    }

    /// What fits the model that is served. fails: the library does not have it
    pub fn adapters(&self) -> Result<Adapters<'_>, Failure> {
        Ok(Adapters {
            instance: self,
            table: self.table(c::ADAPTERS_1)?,
        })
    }

    /// Exchange an adapter while the host serves. fails: the library does not have it
    pub fn hotswap(&self) -> Result<Hotswap<'_>, Failure> {
        Ok(Hotswap {
            instance: self,
            table: self.table(c::HOTSWAP_1)?,
        })
    }
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// A function of a table, or what a host hears where it is NULL.
fn there<F>(function: Option<F>, name: &str) -> Result<F, Failure> {
    function.ok_or_else(|| absent(name))
}

fn number(call: impl FnOnce(*mut u64, *mut *mut c::Error) -> i32) -> Result<u64, Failure> {
    let mut out = 0;
    outcome(|error| call(&raw mut out, error))?;
    Ok(out)
}

fn progress(
    call: impl FnOnce(*mut c::JobProgress, *mut *mut c::Error) -> i32,
) -> Result<Progress, Failure> {
    let struct_size = size_of::<c::JobProgress>() as u32;
    let mut out = c::JobProgress {
        struct_size,
        state: -1,
        ahead: 0,
        process: 0,
        done: 0,
        total: 0,
        last_event: 0,
        stage: view(""),
    };
    outcome(|error| call(&raw mut out, error))?;
    let c::JobProgress {
        state,
        ahead,
        process,
        done,
        total,
        last_event,
        stage,
        ..
    } = out;
    let state = JobState::ALL
        .into_iter()
        .find(|known| *known as i32 == state);
    let state = state.ok_or_else(|| {
        Failure::new(
            Status::Internal,
            format!("the plugin says that a job is in state {}", out.state),
        )
    })?;
    let stage = if stage.data.is_null() {
        &[][..]
    } else {
        stage_bytes(stage)
    };
    let stage = std::str::from_utf8(stage).map_err(|_| {
        Failure::new(
            Status::Internal,
            "the plugin names a stage that is not UTF-8",
        )
    })?;
    Ok(Progress {
        state,
        ahead,
        process,
        done,
        total,
        last_event,
        stage,
    })
}

fn stage_bytes(stage: c::Text) -> &'static [u8] {
    let length = usize::try_from(stage.length.min(c::TEXT_BYTES_MAX)).unwrap_or(0);
    // SAFETY: the header lets the name of a stage live as long as the library, which is never
    // unloaded.
    unsafe { std::slice::from_raw_parts(stage.data.cast(), length) }
}

// SAFETY of every call below: the handle lives as long as `instance`, texts are readable during the
// call, outputs are locals.
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one comment says it for all of them"
)]
impl Jobs<'_> {
    /// Say how jobs run, while none is known.
    pub fn configure(&self, json: &str) -> Result<(), Failure> {
        let call = there(self.table.configure, "configure")?;
        outcome(|error| unsafe { call(self.instance.handle(), view(json), error) })
    }

    /// Queue a transfer; the number of its job.
    pub fn start(&self, request: &str) -> Result<u64, Failure> {
        let call = there(self.table.start, "start")?;
        number(|out, error| unsafe { call(self.instance.handle(), view(request), out, error) })
    }

    /// How far a job is.
    pub fn poll(&self, job: u64) -> Result<Progress, Failure> {
        let call = there(self.table.poll, "poll")?;
        progress(|out, error| unsafe { call(self.instance.handle(), job, out, error) })
    }

    /// Wait for the end of a job, but no longer than `timeout`; then how far it is.
    pub fn wait(&self, job: u64, timeout: Duration) -> Result<Progress, Failure> {
        let call = there(self.table.wait, "wait")?;
        progress(|out, error| unsafe {
            call(
                self.instance.handle(),
                job,
                milliseconds(timeout),
                out,
                error,
            )
        })
    }

    /// The events behind the number `after`, as a JSON array. Where there are none yet, wait for one,
    /// but no longer than `timeout`.
    pub fn events(&self, job: u64, after: u64, timeout: Duration) -> Result<String, Failure> {
        let call = there(self.table.events, "events")?;
        text(|out, error| unsafe {
            call(
                self.instance.handle(),
                job,
                after,
                milliseconds(timeout),
                out,
                error,
            )
        })
    }

    /// All that is known of a job, as a JSON object.
    pub fn status(&self, job: u64) -> Result<String, Failure> {
        let call = there(self.table.status, "status")?;
        text(|out, error| unsafe { call(self.instance.handle(), job, out, error) })
    }

    /// All that is known of every job, as a JSON array.
    pub fn list(&self) -> Result<String, Failure> {
        let call = there(self.table.list, "list")?;
        text(|out, error| unsafe { call(self.instance.handle(), out, error) })
    }

    /// Stop a job; its journal is kept.
    pub fn cancel(&self, job: u64) -> Result<(), Failure> {
        let call = there(self.table.cancel, "cancel")?;
        outcome(|error| unsafe { call(self.instance.handle(), job, error) })
    }

    /// The report of a job that is done, as a JSON object.
    pub fn report(&self, job: u64) -> Result<String, Failure> {
        let call = there(self.table.report, "report")?;
        text(|out, error| unsafe { call(self.instance.handle(), job, out, error) })
    }

    /// Forget a job; one that has not ended is cancelled first.
    pub fn free(&self, job: u64) -> Result<(), Failure> {
        let call = there(self.table.free, "free")?;
        outcome(|error| unsafe { call(self.instance.handle(), job, error) })
    }
}

// SAFETY of every call below: as above.
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one comment says it for all of them"
)]
impl Adapters<'_> {
    /// Name the file of the base model, against which adapters are checked.
    pub fn base(&self, path: &str) -> Result<(), Failure> {
        let call = there(self.table.base, "base")?;
        outcome(|error| unsafe { call(self.instance.handle(), view(path), error) })
    }

    /// Check that an adapter fits the base, and describe it as a JSON object.
    pub fn check(&self, path: &str) -> Result<String, Failure> {
        let call = there(self.table.check, "check")?;
        text(|out, error| unsafe { call(self.instance.handle(), view(path), out, error) })
    }

    /// What each name answers with, as a JSON array.
    pub fn list(&self) -> Result<String, Failure> {
        let call = there(self.table.list, "list")?;
        text(|out, error| unsafe { call(self.instance.handle(), out, error) })
    }
}

// SAFETY of every call below: as above; whether this is the decode thread is checked by the plugin.
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one comment says it for all of them"
)]
impl Hotswap<'_> {
    /// Read and check the adapter that `name` is to answer with; the number of the swap.
    pub fn prepare(&self, name: &str, path: &str) -> Result<u64, Failure> {
        let call = there(self.table.prepare, "prepare")?;
        number(|out, error| unsafe {
            call(self.instance.handle(), view(name), view(path), out, error)
        })
    }

    /// Load a prepared adapter and let its name answer with it; the generation.
    pub fn commit(&self, swap: u64) -> Result<u64, Failure> {
        let call = there(self.table.commit, "commit")?;
        number(|out, error| unsafe { call(self.instance.handle(), swap, out, error) })
    }

    /// Give a prepared swap up.
    pub fn discard(&self, swap: u64) -> Result<(), Failure> {
        let call = there(self.table.discard, "discard")?;
        outcome(|error| unsafe { call(self.instance.handle(), swap, error) })
    }

    /// Let `name` answer with what it had before; the generation.
    pub fn rollback(&self, name: &str) -> Result<u64, Failure> {
        let call = there(self.table.rollback, "rollback")?;
        number(|out, error| unsafe { call(self.instance.handle(), view(name), out, error) })
    }

    /// Let `name` answer with the bare base; the generation, which is 0.
    pub fn unload(&self, name: &str) -> Result<u64, Failure> {
        let call = there(self.table.unload, "unload")?;
        number(|out, error| unsafe { call(self.instance.handle(), view(name), out, error) })
    }
}
