//! The one way into the library. Every exported function is a call of [`enter`] or
//! [`enter_instance`]: nothing else turns a result into a status, catches a panic or writes an
//! error.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use crate::c;
use crate::failure::{Failure, Status};
use crate::registry::{self, Living};
use crate::{table, text};

/// Run a call that has no instance yet.
///
/// # Safety
/// `error` is null or points to a writable pointer, for the duration of the call.
pub(crate) unsafe fn enter(
    error: *mut *mut c::Error,
    body: impl FnOnce() -> Result<(), Failure>,
) -> i32 {
    let result = from_outside().and_then(|()| fenced(body));
    // SAFETY: passed on from this function's own contract.
    unsafe { answer(error, result) }
}

/// Refuse a call that a function of the host's table makes.
pub(crate) fn from_outside() -> Result<(), Failure> {
    if !table::inside_the_host() {
        return Ok(());
    }
    let hint = "return from the host's function first".into();
    Err(Failure {
        hint,
        ..Failure::new(
            Status::Reentered,
            "called from inside a function of the host's table",
        )
    })
}

/// Run a call that belongs on the thread that decodes, and that no other such call may meet.
///
/// # Safety
/// `error` is null or points to a writable pointer, for the duration of the call.
pub(crate) unsafe fn enter_decoding(
    handle: *mut c::Instance,
    error: *mut *mut c::Error,
    body: impl FnOnce(&Living) -> Result<(), Failure>,
) -> i32 {
    let guarded = |living: &Living| {
        living.host.can_swap()?;
        if living.host.is_decode_thread() == Some(false) {
            return Err(Failure::new(
                Status::WrongThread,
                "this call belongs on the thread that decodes",
            ));
        }
        if living.decoding.swap(true, Ordering::Acquire) {
            return Err(Failure::new(
                Status::WrongThread,
                "another call that belongs on the thread that decodes is under way",
            ));
        }
        let result = fenced(|| body(living));
        living.decoding.store(false, Ordering::Release);
        result
    };
    // SAFETY: passed on from this function's own contract.
    unsafe { enter_instance(handle, false, error, guarded) }
}

/// Run a call on a living instance that no earlier call poisoned (`tolerant` ones run on a poisoned
/// instance too).
///
/// # Safety
/// `error` is null or points to a writable pointer, for the duration of the call.
pub(crate) unsafe fn enter_instance(
    handle: *mut c::Instance,
    tolerant: bool,
    error: *mut *mut c::Error,
    body: impl FnOnce(&Living) -> Result<(), Failure>,
) -> i32 {
    // The reference is dropped inside the fence of `enter`: after a destroy elsewhere it may be the
    // last one, and run a destructor.
    let guarded = || {
        let living = registry::find(handle)?;
        if !tolerant && living.poisoned.load(Ordering::Acquire) {
            let said = "an earlier call on this instance panicked";
            return Err(Failure {
                hint: "destroy it and create another".into(),
                ..Failure::new(Status::Poisoned, said)
            });
        }
        let result = fenced(|| body(&living));
        if let Err(failure) = &result
            && failure.status == Status::Panicked
        {
            living.poisoned.store(true, Ordering::Release);
            living.host.log(c::LOG_ERROR, &failure.message);
        }
        result
    };
    // SAFETY: passed on from this function's own contract.
    unsafe { enter(error, guarded) }
}

/// Turn a panic into a failure. The state behind it counts as broken from then on: the caller
/// poisons the instance.
pub(crate) fn fenced<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        let said = what_was_said(payload.as_ref());
        // A payload's own destructor may panic again; nothing may leave this function.
        std::mem::forget(payload);
        Err(Failure::new(
            Status::Panicked,
            format!("translora panicked: {said}"),
        ))
    })
}

fn what_was_said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}

unsafe fn answer(error: *mut *mut c::Error, result: Result<(), Failure>) -> i32 {
    let Err(failure) = result else { return 0 };
    let status = failure.status as i32;
    if !error.is_null() && error.is_aligned() {
        // SAFETY: not null, aligned, and writable by the contract of `enter`.
        unsafe { error.write(text::error(failure)) };
    }
    status
}

/// Check an output pointer before any work is done for it.
pub(crate) fn output<T>(name: &str, out: *mut T) -> Result<(), Failure> {
    if out.is_null() {
        return Err(Failure::invalid(format!(
            "{name} is null: there is nowhere to write the result"
        )));
    }
    aligned(name, out)
}

/// Check an output struct, whose maker wrote struct_size, and answer that size.
///
/// # Safety
/// `out` is null, misaligned, or readable for the struct_size that it begins with.
pub(crate) unsafe fn room<T>(out: *mut T) -> Result<u32, Failure> {
    output("out", out)?;
    // SAFETY: not null and aligned; every such struct begins with struct_size, which is readable by
    // this function's contract.
    let room = unsafe { out.cast::<u32>().read() };
    let needed = size_of::<T>();
    if room as usize >= needed {
        Ok(room)
    } else {
        Err(Failure::invalid(format!(
            "out.struct_size is {room}; this version needs {needed}"
        )))
    }
}

/// Refuse a pointer that its type cannot stand at.
pub(crate) fn aligned<T>(name: &str, pointer: *const T) -> Result<(), Failure> {
    if pointer.is_aligned() {
        Ok(())
    } else {
        Err(Failure::invalid(format!("{name} is not aligned")))
    }
}
