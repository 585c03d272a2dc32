//! The tables, and the functions in them.

use std::ffi::{CStr, OsStr, c_void};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::{Failure, Status};
use crate::gate;
use crate::plugin::Plugin;
use crate::registry::{self, Living};
use crate::table::HostTable;
use crate::{c, text};

mod adapters;
mod jobs;

/// Answer the table of a plugin for one major version, or null where that version is not spoken.
pub fn entry<P: Plugin>(abi_major: u32) -> *const c::Entry {
    if abi_major == c::ABI_MAJOR {
        &raw const *Tables::<P>::ENTRY
    } else {
        std::ptr::null()
    }
}

/// The file that this code was loaded from: the plugin's library, or the program it is linked into.
pub fn library_path() -> Option<PathBuf> {
    let mut found = MaybeUninit::<libc::Dl_info>::uninit();
    let here = (library_path as fn() -> Option<PathBuf>) as *const c_void;
    // SAFETY: any address may be looked up; the answer goes to a local.
    if unsafe { libc::dladdr(here, found.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: dladdr answered, so it filled the struct; its name is a C string that lives as long
    // as the library, or null.
    let name = unsafe {
        let name = found.assume_init().dli_fname;
        if name.is_null() {
            return None;
        }
        CStr::from_ptr(name)
    };
    // Of a program it is what it was called by, which may be no path.
    std::fs::canonicalize(OsStr::from_bytes(name.to_bytes())).ok()
}

struct Tables<P>(PhantomData<P>);

impl<P: Plugin> Tables<P> {
    const ENTRY: &'static c::Entry = &c::Entry {
        struct_size: size_of::<c::Entry>() as u32,
        abi_major: c::ABI_MAJOR,
        abi_minor: c::ABI_MINOR,
        reserved: 0,
        create: Some(create::<P>),
        destroy: Some(destroy::<P>),
        info: Some(info::<P>),
        capability: Some(capability::<P>),
    };
    const ECHO: &'static c::Echo1 = &c::Echo1 {
        struct_size: size_of::<c::Echo1>() as u32,
        reserved: 0,
        echo: Some(echo),
        fail: Some(echo_fail),
        panic: Some(echo_panic),
    };
    const INSPECT: &'static c::Inspect1 = &c::Inspect1 {
        struct_size: size_of::<c::Inspect1>() as u32,
        reserved: 0,
        inspect: Some(inspect::<P>),
    };
    const JOBS: &'static c::Jobs1 = &jobs::table::<P>();
    const ADAPTERS: &'static c::Adapters1 = &adapters::table::<P>();
    const HOTSWAP: &'static c::Hotswap1 = &adapters::hotswap::<P>();
}

unsafe extern "C" fn create<P: Plugin>(
    host: *const c::Host,
    out: *mut *mut c::Instance,
    error: *mut *mut c::Error,
) -> i32 {
    let body = || {
        gate::output("out", out)?;
        // SAFETY: the header's rule for `host`: null, or a table of at least struct_size readable
        // bytes during the call.
        let host = unsafe { read_host(host) }?;
        let plugin = Box::new(P::create()?);
        let (poisoned, decoding) = (AtomicBool::new(false), AtomicBool::new(false));
        let living = Living {
            plugin,
            host: HostTable::of(host),
            poisoned,
            decoding,
        };
        // SAFETY: checked by `output`; writable by the header's rule for outputs.
        unsafe { out.write(registry::insert(living)) };
        Ok(())
    };
    // SAFETY: the header's rule for `error`: null or writable during the call.
    unsafe { gate::enter(error, body) }
}

/// Copy the host's table, as far as the host has it.
///
/// # Safety
/// `host` is null or readable for the struct_size that it begins with.
unsafe fn read_host(host: *const c::Host) -> Result<Option<c::Host>, Failure> {
    if host.is_null() {
        return Ok(None);
    }
    gate::aligned("host", host)?;
    // SAFETY: not null, aligned, and every table has at least its struct_size.
    let size = unsafe { (&raw const (*host).struct_size).read() } as usize;
    if size < c::Host::SIZE_1_0 {
        let needed = c::Host::SIZE_1_0;
        return Err(Failure::invalid(format!(
            "host.struct_size is {size}; the first version of this table has {needed}"
        )));
    }
    let mut copy = c::Host::empty();
    let bytes = size.min(size_of::<c::Host>());
    // SAFETY: the host says that it has at least `bytes`; `copy` has room for them; every field is
    // valid as zeros and as a pointer, and a field that the host's table ends inside of is put back
    // below.
    unsafe {
        std::ptr::copy_nonoverlapping(host.cast::<u8>(), (&raw mut copy).cast::<u8>(), bytes);
    };
    copy.forget_beyond(bytes);
    Ok(Some(copy))
}

unsafe extern "C" fn destroy<P: Plugin>(
    instance: *mut c::Instance,
    error: *mut *mut c::Error,
) -> i32 {
    let body = || {
        let living = registry::remove(instance)?;
        // A call under way elsewhere holds its own reference; whoever lets go last runs the
        // plugin's destructor.
        plugin::<P>(&living)?.close();
        Ok(())
    };
    // SAFETY: the header's rule for `error`: null or writable during the call.
    unsafe { gate::enter(error, body) }
}

unsafe extern "C" fn info<P: Plugin>(
    instance: *mut c::Instance,
    out: *mut c::Info,
    error: *mut *mut c::Error,
) -> i32 {
    let body = |living: &Living| {
        // SAFETY: the header's rule that the caller sets struct_size.
        let room = unsafe { gate::room(out) }?;
        let info = c::Info {
            struct_size: room,
            abi_major: c::ABI_MAJOR,
            abi_minor: c::ABI_MINOR,
            poisoned: i32::from(living.poisoned.load(Ordering::Acquire)),
            version: text::fixed(P::VERSION),
            engine: text::fixed(P::ENGINE),
        };
        // SAFETY: the caller says that the struct has room for every field written here.
        unsafe { out.write(info) };
        Ok(())
    };
    // SAFETY: the header's rule for `error`: null or writable during the call.
    unsafe { gate::enter_instance(instance, true, error, body) }
}

unsafe extern "C" fn capability<P: Plugin>(id: c::Text) -> *const c_void {
    let found = gate::fenced(|| {
        gate::from_outside()?;
        // SAFETY: the header's rule for text arguments.
        let id = unsafe { text::read("id", id) }?;
        Ok(match id {
            c::ECHO_1 => (&raw const *Tables::<P>::ECHO).cast(),
            c::INSPECT_1 => (&raw const *Tables::<P>::INSPECT).cast(),
            c::JOBS_1 => (&raw const *Tables::<P>::JOBS).cast(),
            c::ADAPTERS_1 => (&raw const *Tables::<P>::ADAPTERS).cast(),
            c::HOTSWAP_1 => (&raw const *Tables::<P>::HOTSWAP).cast(),
            _ => std::ptr::null(),
        })
    });
    found.unwrap_or(std::ptr::null())
}

/// The plugin behind an instance.
fn plugin<P: Plugin>(living: &Living) -> Result<&P, Failure> {
    let plugin = living.plugin.downcast_ref::<P>();
    plugin.ok_or_else(|| Failure::new(Status::BadHandle, "this instance belongs to another plugin"))
}

/// Write the answer of `ask`, on success only, to an output that is checked before `ask` runs.
///
/// # Safety
/// `out` is null, misaligned or writable.
unsafe fn output<T>(out: *mut T, ask: impl FnOnce() -> Result<T, Failure>) -> Result<(), Failure> {
    gate::output("out", out)?;
    let answer = ask()?;
    // SAFETY: checked by `gate::output`; writable by this function's contract.
    unsafe { out.write(answer) };
    Ok(())
}

/// As [`output`], for a text.
///
/// # Safety
/// `out` is null, misaligned or writable.
unsafe fn reply(
    out: *mut *mut c::OwnedText,
    ask: impl FnOnce() -> Result<String, Failure>,
) -> Result<(), Failure> {
    // SAFETY: passed on from this function's own contract.
    unsafe { output(out, || ask().map(text::owned)) }
}

unsafe extern "C" fn echo(
    instance: *mut c::Instance,
    said: c::Text,
    out: *mut *mut c::OwnedText,
    error: *mut *mut c::Error,
) -> i32 {
    let body = |_: &Living| {
        gate::output("out", out)?;
        // SAFETY: the header's rule for text arguments.
        let said = unsafe { text::read("text", said) }?;
        // SAFETY: checked by `output`; writable by the header's rule for outputs.
        unsafe { out.write(text::owned(said.to_owned())) };
        Ok(())
    };
    // SAFETY: the header's rule for `error`: null or writable during the call.
    unsafe { gate::enter_instance(instance, false, error, body) }
}

unsafe extern "C" fn echo_fail(
    instance: *mut c::Instance,
    status: i32,
    message: c::Text,
    error: *mut *mut c::Error,
) -> i32 {
    let body = |_: &Living| {
        // SAFETY: the header's rule for text arguments.
        let message = unsafe { text::read("message", message) }?;
        // Only a panic may say that one happened: the gate poisons on that status.
        let wanted = Status::from_code(status).filter(|s| *s != Status::Panicked);
        let status = wanted.ok_or_else(|| {
            Failure::invalid(format!(
                "{status} is not a status that a call can fail with"
            ))
        })?;
        Err(Failure {
            hint: "this failure was requested".into(),
            ..Failure::new(status, message)
        })
    };
    // SAFETY: the header's rule for `error`: null or writable during the call.
    unsafe { gate::enter_instance(instance, false, error, body) }
}

unsafe extern "C" fn echo_panic(instance: *mut c::Instance, error: *mut *mut c::Error) -> i32 {
    // SAFETY: the header's rule for `error`: null or writable during the call.
    unsafe {
        gate::enter_instance(instance, false, error, |_| {
            panic!("as translora.echo/1 promises")
        })
    }
}

unsafe extern "C" fn inspect<P: Plugin>(
    instance: *mut c::Instance,
    path: c::Text,
    out: *mut *mut c::OwnedText,
    error: *mut *mut c::Error,
) -> i32 {
    let body = |living: &Living| {
        gate::output("out", out)?;
        // SAFETY: the header's rule for text arguments.
        let path = unsafe { text::read("path", path) }?;
        let json = plugin::<P>(living)?.inspect(path)?;
        // SAFETY: checked by `output`; writable by the header's rule for outputs.
        unsafe { out.write(text::owned(json)) };
        Ok(())
    };
    // SAFETY: the header's rule for `error`: null or writable during the call.
    unsafe { gate::enter_instance(instance, false, error, body) }
}
