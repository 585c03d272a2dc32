//! `translora.jobs/1`.

use std::time::Duration;

use super::{output, plugin, reply};
use crate::failure::Failure;
use crate::plugin::{Plugin, Progress};
use crate::{c, gate, text};

pub(super) const fn table<P: Plugin>() -> c::Jobs1 {
    c::Jobs1 {
        struct_size: size_of::<c::Jobs1>() as u32,
        reserved: 0,
        configure: Some(configure::<P>),
        start: Some(start::<P>),
        poll: Some(poll::<P>),
        wait: Some(wait::<P>),
        events: Some(events::<P>),
        status: Some(status::<P>),
        list: Some(list::<P>),
        cancel: Some(cancel::<P>),
        report: Some(report::<P>),
        free: Some(free::<P>),
    }
}

unsafe extern "C" fn configure<P: Plugin>(
    instance: *mut c::Instance,
    json: c::Text,
    error: *mut *mut c::Error,
) -> i32 {
    // SAFETY: the header's rules for text arguments and for `error`.
    unsafe {
        gate::enter_instance(instance, false, error, |living| {
            plugin::<P>(living)?.configure(text::read("json", json)?)
        })
    }
}

unsafe extern "C" fn start<P: Plugin>(
    instance: *mut c::Instance,
    request: c::Text,
    out: *mut u64,
    error: *mut *mut c::Error,
) -> i32 {
    // SAFETY: the header's rules for text arguments, outputs and `error`.
    unsafe {
        gate::enter_instance(instance, false, error, |living| {
            output(out, || {
                plugin::<P>(living)?.start(text::read("request", request)?)
            })
        })
    }
}

unsafe extern "C" fn poll<P: Plugin>(
    instance: *mut c::Instance,
    job: u64,
    out: *mut c::JobProgress,
    error: *mut *mut c::Error,
) -> i32 {
    // SAFETY: the header's rules for outputs with a struct_size and for `error`.
    unsafe {
        gate::enter_instance(instance, false, error, |living| {
            progress(out, || plugin::<P>(living)?.poll(job))
        })
    }
}

unsafe extern "C" fn wait<P: Plugin>(
    instance: *mut c::Instance,
    job: u64,
    timeout_ms: u32,
    out: *mut c::JobProgress,
    error: *mut *mut c::Error,
) -> i32 {
    let timeout = Duration::from_millis(timeout_ms.into());
    // SAFETY: the header's rules for outputs with a struct_size and for `error`.
    unsafe {
        gate::enter_instance(instance, false, error, |living| {
            progress(out, || plugin::<P>(living)?.wait(job, timeout))
        })
    }
}

/// Write how far a job is.
///
/// # Safety
/// `out` is null or writable for the struct_size that it begins with.
unsafe fn progress(
    out: *mut c::JobProgress,
    ask: impl FnOnce() -> Result<Progress, Failure>,
) -> Result<(), Failure> {
    // SAFETY: passed on from this function's own contract.
    let struct_size = unsafe { gate::room(out) }?;
    let Progress {
        state,
        ahead,
        process,
        done,
        total,
        last_event,
        stage,
    } = ask()?;
    let stage = text::fixed(stage);
    let progress = c::JobProgress {
        struct_size,
        state: state as i32,
        ahead,
        process,
        done,
        total,
        last_event,
        stage,
    };
    // SAFETY: `room` found place for every field written here.
    unsafe { out.write(progress) };
    Ok(())
}

unsafe extern "C" fn events<P: Plugin>(
    instance: *mut c::Instance,
    job: u64,
    after: u64,
    timeout_ms: u32,
    out: *mut *mut c::OwnedText,
    error: *mut *mut c::Error,
) -> i32 {
    let timeout = Duration::from_millis(timeout_ms.into());
    // SAFETY: the header's rules for outputs and for `error`.
    unsafe {
        gate::enter_instance(instance, false, error, |living| {
            reply(out, || plugin::<P>(living)?.events(job, after, timeout))
        })
    }
}

unsafe extern "C" fn status<P: Plugin>(
    instance: *mut c::Instance,
    job: u64,
    out: *mut *mut c::OwnedText,
    error: *mut *mut c::Error,
) -> i32 {
    // SAFETY: the header's rules for outputs and for `error`.
    unsafe {
        gate::enter_instance(instance, false, error, |living| {
            reply(out, || plugin::<P>(living)?.status(job))
        })
    }
}

unsafe extern "C" fn list<P: Plugin>(
    instance: *mut c::Instance,
    out: *mut *mut c::OwnedText,
    error: *mut *mut c::Error,
) -> i32 {
    // SAFETY: the header's rules for outputs and for `error`.
    unsafe {
        gate::enter_instance(instance, false, error, |living| {
            reply(out, || plugin::<P>(living)?.list())
        })
    }
}

unsafe extern "C" fn cancel<P: Plugin>(
    instance: *mut c::Instance,
    job: u64,
    error: *mut *mut c::Error,
) -> i32 {
    // SAFETY: the header's rule for `error`.
    unsafe {
        gate::enter_instance(instance, false, error, |living| {
            plugin::<P>(living)?.cancel(job)
        })
    }
}

unsafe extern "C" fn report<P: Plugin>(
    instance: *mut c::Instance,
    job: u64,
    out: *mut *mut c::OwnedText,
    error: *mut *mut c::Error,
) -> i32 {
    // SAFETY: the header's rules for outputs and for `error`.
    unsafe {
        gate::enter_instance(instance, false, error, |living| {
            reply(out, || plugin::<P>(living)?.report(job))
        })
    }
}

unsafe extern "C" fn free<P: Plugin>(
    instance: *mut c::Instance,
    job: u64,
    error: *mut *mut c::Error,
) -> i32 {
    // SAFETY: the header's rule for `error`.
    unsafe {
        gate::enter_instance(instance, false, error, |living| {
            plugin::<P>(living)?.free(job)
        })
    }
}
