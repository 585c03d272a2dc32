//! A plugin that does nothing but answer, and how a host calls it.
#![allow(dead_code, reason = "each test program uses a part")]

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::time::Duration;

use translora_abi::{
    Adapters, Failure, HostTable, JobState, Jobs, Plugin, Progress, Status, c, entry,
};

pub struct Mirror;

impl Plugin for Mirror {
    const VERSION: &'static str = "9.8.7";
    const ENGINE: &'static str = "none";

    fn create() -> Result<Self, Failure> {
        Ok(Self)
    }

    fn close(&self) {}

    fn inspect(&self, path: &str) -> Result<String, Failure> {
        match path {
            "missing" => Err(Failure {
                hint: "look elsewhere".into(),
                ..Failure::new(Status::Input, "missing: no such file")
            }),
            _ => Ok(format!("{{\"path\":{path:?}}}")),
        }
    }
}

/// The only job.
pub const JOB: u64 = 7;

fn known(job: u64) -> Result<(), Failure> {
    if job == JOB {
        Ok(())
    } else {
        Err(Failure::new(Status::BadHandle, format!("job {job}")))
    }
}

impl Jobs for Mirror {
    fn configure(&self, json: &str) -> Result<(), Failure> {
        if json == "{}" {
            Ok(())
        } else {
            Err(Failure::new(Status::Input, json))
        }
    }

    fn start(&self, request: &str) -> Result<u64, Failure> {
        assert_ne!(request, "panic", "the panic that was requested");
        Ok(JOB)
    }

    fn poll(&self, job: u64) -> Result<Progress, Failure> {
        self.wait(job, Duration::ZERO)
    }

    fn wait(&self, job: u64, timeout: Duration) -> Result<Progress, Failure> {
        known(job)?;
        let total = timeout.as_millis() as u64;
        Ok(Progress {
            state: JobState::Running,
            ahead: 1,
            process: 2,
            done: 3,
            total,
            last_event: 4,
            stage: "label",
        })
    }

    fn events(&self, job: u64, after: u64, timeout: Duration) -> Result<String, Failure> {
        known(job).map(|()| format!("[{after},{}]", timeout.as_millis()))
    }

    fn status(&self, job: u64) -> Result<String, Failure> {
        known(job).map(|()| "{}".into())
    }

    fn list(&self) -> Result<String, Failure> {
        Ok("[]".into())
    }

    fn cancel(&self, job: u64) -> Result<(), Failure> {
        known(job)
    }

    fn report(&self, job: u64) -> Result<String, Failure> {
        known(job)?;
        Err(Failure::new(Status::NotNow, "not yet"))
    }

    fn free(&self, job: u64) -> Result<(), Failure> {
        known(job)
    }
}

impl Adapters for Mirror {
    fn base(&self, _: &str) -> Result<(), Failure> {
        Ok(())
    }

    fn check(&self, _: &str) -> Result<String, Failure> {
        Ok("{}".into())
    }

    fn answers(&self) -> Result<String, Failure> {
        Ok("[]".into())
    }

    fn prepare(&self, _: &str, _: &str) -> Result<u64, Failure> {
        Ok(JOB)
    }

    fn commit(&self, swap: u64, host: &HostTable) -> Result<u64, Failure> {
        known(swap)?;
        let adapter = host.adapter_load("a.gguf")?;
        host.adapter_set("name", Some(adapter), 1)?;
        host.adapter_free(adapter)?;
        Ok(1)
    }

    fn discard(&self, swap: u64) -> Result<(), Failure> {
        known(swap)
    }

    fn rollback(&self, name: &str, host: &HostTable) -> Result<u64, Failure> {
        host.adapter_set(name, None, 2).map(|()| 2)
    }

    fn unload(&self, name: &str, host: &HostTable) -> Result<u64, Failure> {
        host.adapter_set(name, None, 3).map(|()| 3)
    }
}

/// The tables as a host sees them, with calls that panic on a missing function and hand back
/// (status, message).
pub struct Seen {
    pub entry: &'static c::Entry,
    pub echo: &'static c::Echo1,
    pub inspect: &'static c::Inspect1,
    pub jobs: &'static c::Jobs1,
    pub adapters: &'static c::Adapters1,
    pub hotswap: &'static c::Hotswap1,
}

pub fn text(t: &str) -> c::Text {
    c::Text {
        data: t.as_ptr().cast(),
        length: t.len() as u64,
    }
}

/// Requested once: from inside a host's function nothing is answered.
pub fn seen() -> &'static Seen {
    static SEEN: OnceLock<Seen> = OnceLock::new();
    SEEN.get_or_init(tables)
}

fn tables() -> Seen {
    let table = |id: &str| -> *const c_void {
        // SAFETY: `entry` answers a static table, and the id is readable for the call.
        unsafe {
            (*entry::<Mirror>(c::ABI_MAJOR))
                .capability
                .expect("it is there")(text(id))
        }
    };
    // SAFETY: the header promises tables of these types, alive as long as the library.
    unsafe {
        Seen {
            entry: &*entry::<Mirror>(1),
            echo: &*table(c::ECHO_1).cast(),
            inspect: &*table(c::INSPECT_1).cast(),
            jobs: &*table(c::JOBS_1).cast(),
            adapters: &*table(c::ADAPTERS_1).cast(),
            hotswap: &*table(c::HOTSWAP_1).cast(),
        }
    }
}

pub fn create(host: *const c::Host) -> *mut c::Instance {
    let mut instance = null_mut();
    // SAFETY: `host` is null or a whole table of the caller; the output is a local.
    let status =
        unsafe { seen().entry.create.expect("it is there")(host, &raw mut instance, null_mut()) };
    assert_eq!(status, 0);
    instance
}

pub fn destroy(instance: *mut c::Instance) -> i32 {
    // SAFETY: a handle may be any number.
    unsafe { seen().entry.destroy.expect("it is there")(instance, null_mut()) }
}

/// Run a call that takes an error pointer; answer its status and what the error says.
pub fn failing(call: impl FnOnce(*mut *mut c::Error) -> i32) -> (i32, String) {
    let mut error: *mut c::Error = null_mut();
    let status = call(&raw mut error);
    if error.is_null() {
        return (status, String::new());
    }
    // SAFETY: the library made the error and it was not released yet.
    let said = unsafe {
        let e = &*error;
        assert_eq!(e.status, status);
        assert_eq!(e.struct_size as usize, size_of::<c::Error>());
        let view = |t: c::Text| {
            String::from_utf8_lossy(std::slice::from_raw_parts(t.data.cast(), t.length as usize))
                .into_owned()
        };
        let said = format!("{}|{}", view(e.message), view(e.hint));
        (e.release)(error);
        said
    };
    (status, said)
}

pub fn echoed(instance: *mut c::Instance, said: c::Text) -> Result<String, (i32, String)> {
    let mut out: *mut c::OwnedText = null_mut();
    // SAFETY: outputs are locals; `said` is whatever the test makes of it.
    let (status, why) = failing(|error| unsafe {
        seen().echo.echo.expect("it is there")(instance, said, &raw mut out, error)
    });
    if status != 0 {
        assert!(out.is_null(), "an output was written by a call that failed");
        return Err((status, why));
    }
    // SAFETY: the call succeeded, so `out` is a string to be released once.
    unsafe {
        let bytes =
            std::slice::from_raw_parts((*out).text.data.cast::<u8>(), (*out).text.length as usize)
                .to_vec();
        ((*out).release)(out);
        Ok(String::from_utf8(bytes).expect("text"))
    }
}

pub fn panicking(instance: *mut c::Instance) -> (i32, String) {
    // SAFETY: a handle may be any number.
    failing(|error| unsafe { seen().echo.panic.expect("it is there")(instance, error) })
}
