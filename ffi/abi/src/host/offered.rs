//! What a host in Rust offers, behind the functions of the host's table.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::copied;
use crate::c;
use crate::failure::Status;

/// A host in Rust. None of its functions may call the plugin. thread: any
pub trait Callbacks: Send + Sync {
    /// Take a line for the log; the levels are those of the header.
    fn log(&self, level: i32, line: &str);

    /// Exchange adapters, where the host can.
    fn swapper(&self) -> Option<&dyn Swapper> {
        None
    }
}

/// A host that exchanges adapters. thread: all but `is_decode_thread` on the thread that called
/// commit, rollback or unload
pub trait Swapper {
    /// Whether this is the thread that decodes.
    fn is_decode_thread(&self) -> bool;
    /// Load a LoRA file onto the model that is served; the number must not be 0.
    fn load(&self, path: &str) -> Result<u64, Status>;
    /// From the next decode on, answer `name` with this adapter, or with the bare base.
    fn set(&self, name: &str, adapter: Option<u64>, generation: u64) -> Result<(), Status>;
    /// Free an adapter that no name is set to.
    fn free(&self, adapter: u64) -> Result<(), Status>;
}

/// What the table's context points to.
pub(super) type Context = Arc<dyn Callbacks>;

/// The table of a host; it must not outlive `host`.
pub(super) fn table(host: &Context) -> c::Host {
    let swaps = host.swapper().is_some();
    c::Host {
        context: (&raw const *host).cast_mut().cast(),
        log: Some(log),
        is_decode_thread: swaps.then_some(is_decode_thread as c::IsDecodeThread),
        adapter_load: swaps.then_some(adapter_load as c::AdapterLoad),
        adapter_set: swaps.then_some(adapter_set as c::AdapterSet),
        adapter_free: swaps.then_some(adapter_free as c::AdapterFree),
        ..c::Host::empty()
    }
}

/// Run a function of the host; a panic must not reach the plugin.
///
/// # Safety
/// `context` comes from [`table`], whose host lives.
unsafe fn with_host<T>(
    context: *mut c_void,
    broken: T,
    ask: impl FnOnce(&dyn Callbacks) -> T,
) -> T {
    // SAFETY: by this function's contract.
    let host = unsafe { &*context.cast_const().cast::<Context>() };
    catch_unwind(AssertUnwindSafe(|| ask(host.as_ref()))).unwrap_or(broken)
}

/// As [`with_host`], for what a host that exchanges adapters does.
///
/// # Safety
/// As there.
unsafe fn swapping(
    context: *mut c_void,
    ask: impl FnOnce(&dyn Swapper) -> Result<(), Status>,
) -> i32 {
    let ask = |host: &dyn Callbacks| {
        host.swapper()
            .map_or(Err(Status::Unsupported), ask)
            .map_or_else(|status| status as i32, |()| 0)
    };
    // SAFETY: by this function's contract.
    unsafe { with_host(context, Status::Internal as i32, ask) }
}

unsafe extern "C" fn log(context: *mut c_void, level: i32, line: c::Text) {
    // SAFETY: the plugin passes the context back, and a line that is readable during the call.
    unsafe { with_host(context, (), |host| host.log(level, &copied(line))) };
}

unsafe extern "C" fn is_decode_thread(context: *mut c_void) -> i32 {
    // SAFETY: the plugin passes the context back.
    unsafe {
        with_host(context, 0, |host| {
            i32::from(host.swapper().is_some_and(Swapper::is_decode_thread))
        })
    }
}

unsafe extern "C" fn adapter_load(context: *mut c_void, path: c::Text, out: *mut u64) -> i32 {
    let load = |swapper: &dyn Swapper| {
        if out.is_null() || !out.is_aligned() {
            return Err(Status::InvalidArgument);
        }
        // SAFETY: the path is readable during the call; the output was checked, and is the plugin's
        // to be written.
        unsafe { out.write(swapper.load(&copied(path))?) };
        Ok(())
    };
    // SAFETY: the plugin passes the context back.
    unsafe { swapping(context, load) }
}

unsafe extern "C" fn adapter_set(
    context: *mut c_void,
    name: c::Text,
    adapter: u64,
    generation: u64,
) -> i32 {
    // SAFETY: the plugin passes the context back, and a name that is readable during the call.
    unsafe {
        swapping(context, |swapper| {
            swapper.set(
                &copied(name),
                Some(adapter).filter(|number| *number != 0),
                generation,
            )
        })
    }
}

unsafe extern "C" fn adapter_free(context: *mut c_void, adapter: u64) -> i32 {
    // SAFETY: the plugin passes the context back.
    unsafe { swapping(context, |swapper| swapper.free(adapter)) }
}
