//! The tables, and the functions in them.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::{Failure, Status};
use crate::gate;
use crate::registry::{self, HostTable, Living};
use crate::{Plugin, c, text};

/// Answer the table of a plugin for one major version, or null where that version is not spoken.
pub fn entry<P: Plugin>(abi_major: u32) -> *const c::Entry {
    if abi_major == c::ABI_MAJOR { &raw const *Tables::<P>::ENTRY } else { std::ptr::null() }
}

struct Tables<P>(PhantomData<P>);

impl<P: Plugin> Tables<P> {
    const ENTRY: &'static c::Entry = &c::Entry {
        struct_size: size_of::<c::Entry>() as u32,
        abi_major: c::ABI_MAJOR,
        abi_minor: c::ABI_MINOR,
        reserved: 0,
        create: Some(create::<P>),
        destroy: Some(destroy),
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
    const INSPECT: &'static c::Inspect1 =
        &c::Inspect1 { struct_size: size_of::<c::Inspect1>() as u32, reserved: 0, inspect: Some(inspect::<P>) };
}

unsafe extern "C" fn create<P: Plugin>(host: *const c::Host, out: *mut *mut c::Instance, error: *mut *mut c::Error) -> i32 {
    let body = || {
        gate::output("out", out)?;
        // SAFETY: the header's rule for `host`: null, or a table of at least struct_size readable bytes during the call.
        let host = unsafe { read_host(host) }?;
        let plugin = Box::new(P::create()?);
        let living = Living { plugin, host: HostTable::of(host.as_ref()), poisoned: AtomicBool::new(false) };
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
        return Err(Failure::invalid(format!("host.struct_size is {size}; the first version of this table has {needed}")));
    }
    let mut copy = c::Host::empty();
    let bytes = size.min(size_of::<c::Host>());
    // SAFETY: the host says that it has at least `bytes`; `copy` has room for them; every field is valid as zeros and as a pointer,
    // and a field that the host's table ends inside of is put back below.
    unsafe { std::ptr::copy_nonoverlapping(host.cast::<u8>(), (&raw mut copy).cast::<u8>(), bytes) };
    copy.forget_beyond(bytes);
    Ok(Some(copy))
}

unsafe extern "C" fn destroy(instance: *mut c::Instance, error: *mut *mut c::Error) -> i32 {
    // A call under way elsewhere holds its own reference; whoever lets go last runs the plugin's destructor.
    let body = || registry::remove(instance).map(drop);
    // SAFETY: the header's rule for `error`: null or writable during the call.
    unsafe { gate::enter(error, body) }
}

unsafe extern "C" fn info<P: Plugin>(instance: *mut c::Instance, out: *mut c::Info, error: *mut *mut c::Error) -> i32 {
    let body = |living: &Living| {
        gate::output("out", out)?;
        // SAFETY: checked by `output`; readable by the header's rule that the caller sets struct_size.
        let room = unsafe { (&raw const (*out).struct_size).read() };
        if (room as usize) < size_of::<c::Info>() {
            return Err(Failure::invalid(format!("out.struct_size is {room}; this version needs {}", size_of::<c::Info>())));
        }
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
        // SAFETY: the header's rule for text arguments.
        let id = unsafe { text::read("id", id) }?;
        Ok(match id {
            c::ECHO_1 => (&raw const *Tables::<P>::ECHO).cast(),
            c::INSPECT_1 => (&raw const *Tables::<P>::INSPECT).cast(),
            _ => std::ptr::null(),
        })
    });
    found.unwrap_or(std::ptr::null())
}

unsafe extern "C" fn echo(instance: *mut c::Instance, said: c::Text, out: *mut *mut c::OwnedText, error: *mut *mut c::Error) -> i32 {
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

unsafe extern "C" fn echo_fail(instance: *mut c::Instance, status: i32, message: c::Text, error: *mut *mut c::Error) -> i32 {
    let body = |_: &Living| {
        // SAFETY: the header's rule for text arguments.
        let message = unsafe { text::read("message", message) }?;
        // Only a panic may say that one happened: the gate poisons on that status.
        let wanted = Status::from_code(status).filter(|s| *s != Status::Panicked);
        let status = wanted.ok_or_else(|| Failure::invalid(format!("{status} is not a status that a call can be made to fail with")))?;
        Err(Failure { hint: "this failure was asked for".into(), ..Failure::new(status, message) })
    };
    // SAFETY: the header's rule for `error`: null or writable during the call.
    unsafe { gate::enter_instance(instance, false, error, body) }
}

unsafe extern "C" fn echo_panic(instance: *mut c::Instance, error: *mut *mut c::Error) -> i32 {
    // SAFETY: the header's rule for `error`: null or writable during the call.
    unsafe { gate::enter_instance(instance, false, error, |_| panic!("asked to by translora.echo/1")) }
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
        let plugin = living.plugin.downcast_ref::<P>();
        let plugin = plugin.ok_or_else(|| Failure::new(Status::BadHandle, "this instance belongs to another plugin"))?;
        let json = plugin.inspect(path)?;
        // SAFETY: checked by `output`; writable by the header's rule for outputs.
        unsafe { out.write(text::owned(json)) };
        Ok(())
    };
    // SAFETY: the header's rule for `error`: null or writable during the call.
    unsafe { gate::enter_instance(instance, false, error, body) }
}
