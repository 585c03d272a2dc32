//! The host's table: copied at creation, called from here and nowhere else.

use std::cell::Cell;
use std::ffi::c_void;

use crate::c;
use crate::failure::{Failure, Status};

thread_local! {
    /// Whether this thread is inside a function of a host's table.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether the caller was called by a function of a host's table.
pub(crate) fn inside_the_host() -> bool {
    INSIDE.get()
}

/// What the host offers, as a plugin may use it.
pub struct HostTable {
    table: c::Host,
}

// SAFETY: the header makes the table's functions callable from any thread with `context`, which
// this library only ever passes back; those of the decode thread are only
// called behind the gate for such calls.
unsafe impl Send for HostTable {}
// SAFETY: as above; concurrent calls are allowed by the same rule.
unsafe impl Sync for HostTable {}

/// Take note that the host is being called, until dropped.
struct Calling(bool);

impl Calling {
    fn host() -> Self {
        Self(INSIDE.replace(true))
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        INSIDE.set(self.0);
    }
}

fn view(text: &str) -> c::Text {
    c::Text {
        data: text.as_ptr().cast(),
        length: text.len() as u64,
    }
}

/// What a status of the host's means for the call that needed it.
fn answered(what: &str, status: i32) -> Result<(), Failure> {
    let failed = |status| Failure::new(status, format!("the host's {what} answered {status:?}"));
    match status {
        0 => Ok(()),
        code => Err(failed(
            Status::from_code(code)
                .filter(|s| *s != Status::Panicked)
                .unwrap_or(Status::Internal),
        )),
    }
}

fn absent(what: &str) -> Failure {
    Failure::new(
        Status::Unsupported,
        format!("the host's table has no {what}"),
    )
}

impl HostTable {
    pub(crate) fn of(host: Option<c::Host>) -> Self {
        Self {
            table: host.unwrap_or(c::Host::empty()),
        }
    }

    fn context(&self) -> *mut c_void {
        self.table.context
    }

    /// Send the host a line for its log.
    pub fn log(&self, level: i32, line: &str) {
        if let Some(log) = self.table.log {
            let calling = Calling::host();
            // SAFETY: the header keeps `log` and `context` valid until destroy and all calls have
            // returned; we are inside a call, and `line` outlives this one.
            unsafe { log(self.context(), level, view(line)) };
            drop(calling);
        }
    }

    /// Whether this is the thread that decodes; none where the host does not say.
    pub(crate) fn is_decode_thread(&self) -> Option<bool> {
        let decodes = self.table.is_decode_thread?;
        let _calling = Calling::host();
        // SAFETY: as in `log`; callable from any thread.
        Some(unsafe { decodes(self.context()) } != 0)
    }

    /// Fail where the host cannot exchange adapters.
    pub fn can_swap(&self) -> Result<(), Failure> {
        let has = [
            ("adapter_load", self.table.adapter_load.is_some()),
            ("adapter_set", self.table.adapter_set.is_some()),
            ("adapter_free", self.table.adapter_free.is_some()),
        ];
        has.into_iter()
            .find(|(_, has)| !has)
            .map_or(Ok(()), |(name, _)| Err(absent(name)))
    }

    /// Load an adapter; on the decode thread.
    pub fn adapter_load(&self, path: &str) -> Result<u64, Failure> {
        let load = self
            .table
            .adapter_load
            .ok_or_else(|| absent("adapter_load"))?;
        let mut number = 0;
        let _calling = Calling::host();
        // SAFETY: as in `log`; behind the gate of the decode thread. The output is a
        // local.
        answered("adapter_load", unsafe {
            load(self.context(), view(path), &raw mut number)
        })?;
        if number == 0 {
            Err(Failure::new(
                Status::Internal,
                "the host's adapter_load answered with the number 0",
            ))
        } else {
            Ok(number)
        }
    }

    /// Let `name` answer with an adapter, or with the base where it is none; on the decode thread.
    pub fn adapter_set(
        &self,
        name: &str,
        adapter: Option<u64>,
        generation: u64,
    ) -> Result<(), Failure> {
        let set = self
            .table
            .adapter_set
            .ok_or_else(|| absent("adapter_set"))?;
        let _calling = Calling::host();
        // SAFETY: as in `log`; behind the gate of the decode thread.
        answered("adapter_set", unsafe {
            set(self.context(), view(name), adapter.unwrap_or(0), generation)
        })
    }

    /// Free an adapter; on the decode thread.
    pub fn adapter_free(&self, adapter: u64) -> Result<(), Failure> {
        let free = self
            .table
            .adapter_free
            .ok_or_else(|| absent("adapter_free"))?;
        let _calling = Calling::host();
        // SAFETY: as in `log`; behind the gate of the decode thread.
        answered("adapter_free", unsafe { free(self.context(), adapter) })
    }
}
