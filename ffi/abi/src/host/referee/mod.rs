//! Judge a plugin build by the header: each check does to it what a host may do, or must not, and
//! compares the answer with the law.
//!
//! A check may crash or hang with the plugin that it judges: run each in a process of its own.

use std::path::Path;
use std::sync::Arc;

use super::instance::outcome;
use super::{Library, view};
use crate::c;
use crate::failure::Status;

mod capabilities;
mod tables;

/// One check.
pub struct Check {
    /// What it is called.
    pub name: &'static str,
    /// What it looks at.
    pub what: &'static str,
    run: fn(&Subject) -> Finding,
}

/// Ends with a word on what was seen, or with what broke the law.
type Finding = Result<Seen, String>;

/// What a check came to that did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// As the header has it.
    Right(String),
    /// The plugin does not have what was to be looked at, which is its right.
    Absent,
}

/// Every check, in the order in which they are listed.
pub const CHECKS: &[Check] = &[
    Check {
        name: "load",
        what: "it loads and speaks this version",
        run: tables::load,
    },
    Check {
        name: "versions",
        what: "other versions are answered with NULL, and this one always with the same table",
        run: tables::versions,
    },
    Check {
        name: "life",
        what: "an instance is created, says what it is, and ends",
        run: tables::life,
    },
    Check {
        name: "stale",
        what: "an instance that ended, or never was, is recognised",
        run: tables::stale,
    },
    Check {
        name: "null",
        what: "NULL where something must be written is refused; an error is optional",
        run: tables::nulls,
    },
    Check {
        name: "sizes",
        what: "tables of older and newer hosts are taken, and truncated ones refused",
        run: tables::sizes,
    },
    Check {
        name: "capabilities",
        what: "unknown ids are NULL, known tables are whole",
        run: capabilities::tables,
    },
    Check {
        name: "echo",
        what: "texts come back as they were, and what is no text is refused",
        run: capabilities::echo,
    },
    Check {
        name: "errors",
        what: "errors have their status, a message and a release",
        run: capabilities::errors,
    },
    Check {
        name: "panic",
        what: "a panic poisons its instance and no other",
        run: capabilities::panic,
    },
    Check {
        name: "reentry",
        what: "a call from inside a function of the host is refused",
        run: capabilities::reentry,
    },
    Check {
        name: "threads",
        what: "calls from many threads, and an end in the middle of them",
        run: capabilities::threads,
    },
    Check {
        name: "inspect",
        what: "a file that is not there is the caller's fault",
        run: capabilities::inspect,
    },
    Check {
        name: "jobs",
        what: "requests are read, and jobs that are not there are recognised",
        run: capabilities::jobs,
    },
    Check {
        name: "worker",
        what: "a job is run, and its failure reported",
        run: capabilities::worker,
    },
    Check {
        name: "hotswap",
        what: "exchanges keep to the decode thread and to a host that can",
        run: capabilities::hotswap,
    },
];

impl Check {
    /// Judge the library at `path`. Runs its code in this process, whatever that does.
    pub fn run(&self, path: &Path) -> Finding {
        let library = Library::open(path).map_err(|error| error.to_string())?;
        (self.run)(&Subject { library })
    }
}

/// The plugin that is judged.
struct Subject {
    library: Arc<Library>,
}

/// An instance, not yet wrapped: checks do with it what a wrapper would not.
type Handle = *mut c::Instance;

/// Compare, and say what was compared where it differs.
#[expect(
    clippy::needless_pass_by_value,
    reason = "callers pass temporary values"
)]
fn expect<T: PartialEq + std::fmt::Debug>(what: &str, got: T, wanted: T) -> Result<(), String> {
    if got == wanted {
        Ok(())
    } else {
        Err(format!("{what}: {got:?} and not {wanted:?}"))
    }
}

/// The status of a call, as a word; a failing one must say why.
fn status(call: impl FnOnce(*mut *mut c::Error) -> i32) -> Result<Option<Status>, String> {
    match outcome(call) {
        Ok(()) => Ok(None),
        Err(failure) if failure.message.is_empty() => Err(format!(
            "it failed with {:?} and an empty message",
            failure.status
        )),
        Err(failure) => Ok(Some(failure.status)),
    }
}

impl Subject {
    fn entry(&self) -> &'static c::Entry {
        self.library.entry
    }

    /// Create an instance with a table of a host's, or with none.
    fn create(&self, host: *const c::Host) -> Result<Handle, String> {
        let mut handle = std::ptr::null_mut();
        match self.create_into(host, &raw mut handle)? {
            None if handle.is_null() => Err("create succeeded and wrote no instance".into()),
            None => Ok(handle),
            Some(status) => Err(format!("create answered {status:?}")),
        }
    }

    fn create_into(
        &self,
        host: *const c::Host,
        out: *mut Handle,
    ) -> Result<Option<Status>, String> {
        let create = self.entry().create.ok_or("no create")?;
        // SAFETY: `host` is null or a table with as many bytes as it says; `out` is null or a local
        // of the check.
        status(|error| unsafe { create(host, out, error) })
    }

    fn destroy(&self, handle: Handle) -> Result<Option<Status>, String> {
        let destroy = self.entry().destroy.ok_or("no destroy")?;
        // SAFETY: the header lets a handle be any number.
        status(|error| unsafe { destroy(handle, error) })
    }

    fn info(&self, handle: Handle, out: *mut c::Info) -> Result<Option<Status>, String> {
        let info = self.entry().info.ok_or("no info")?;
        // SAFETY: the header lets a handle be any number; `out` is null or a whole local that may
        // say that it is smaller.
        status(|error| unsafe { info(handle, out, error) })
    }

    /// The table of a capability, where the plugin has it.
    fn table<T>(&self, id: &'static str) -> Result<Option<&'static T>, String> {
        self.library.table(id).map_err(|failure| failure.message)
    }
}

/// An info that says it has `size` bytes.
fn blank(size: usize) -> c::Info {
    let nothing = view("");
    c::Info {
        struct_size: size as u32,
        abi_major: 77,
        abi_minor: 0,
        poisoned: -1,
        version: nothing,
        engine: nothing,
    }
}
