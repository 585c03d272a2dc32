//! The functions that the server calls in place of those of its libllama. Each takes the lock, does
//! what the real one does, and notes it.
//!
//! Each has the contract of the function of llama.h whose name it carries. No hook panics, and none
//! catches: a C++ exception of the real function reaches the server.

use std::ffi::{CStr, c_char};

use crate::control;
use crate::provenance::Sequence;
use crate::real::Handle;
use crate::server::{Key, lock, real};

/// Whose calls are exchanged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Every library of the server.
    All,
    /// The library that holds the server itself, and not the helpers beside it.
    Server,
}

/// A function that lists hooks: the symbol, whose calls are exchanged, the function in its place.
macro_rules! hooks {
    ($name:ident $($symbol:literal $callers:ident $function:ident;)*) => {
        pub(super) fn $name() -> Vec<$crate::hooks::Hook> {
            vec![$(($symbol, $crate::hooks::Callers::$callers, $function as *const () as usize)),*]
        }
    };
}

mod batches;
mod memory;
mod outputs;
mod states;

/// What is exchanged: name, whose calls, by what.
pub type Hook = (&'static str, Callers, usize);

/// The hooks of a libllama, by whether it keeps batches itself.
pub fn all(kept: bool) -> Vec<Hook> {
    [
        contexts(),
        memory::hooks(),
        outputs::hooks(),
        states::hooks(),
        if kept {
            batches::of_kept_batches()
        } else {
            batches::of_structures()
        },
    ]
    .concat()
}

hooks! { contexts
    "llama_adapter_lora_free" All adapter_free;
    "llama_adapter_lora_init" All adapter_init;
    "llama_free" All free;
    "llama_model_free" All model_free;
    "llama_n_ctx_seq" Server n_ctx_seq;
    "llama_n_ubatch" Server n_ubatch;
    "llama_set_adapters_lora" All set_adapters;
}

unsafe extern "C-unwind" fn adapter_init(model: Handle, path: *const c_char) -> Handle {
    let mut server = lock();
    // SAFETY: the caller's arguments, passed on; here and in every hook below.
    let adapter = unsafe { (real().adapter_init)(model, path) };
    if !adapter.is_null() && !path.is_null() {
        // SAFETY: the real function has just read the terminated path.
        server.started_with(&unsafe { CStr::from_ptr(path) }.to_string_lossy());
    }
    adapter
}

unsafe extern "C-unwind" fn adapter_free(adapter: Handle) {
    let _host = lock();
    // SAFETY: passed on.
    unsafe { (real().adapter_free)(adapter) }
}

unsafe extern "C-unwind" fn free(context: Handle) {
    let mut server = lock();
    server.forget_context(context as Key);
    // SAFETY: passed on.
    unsafe { (real().free)(context) }
}

unsafe extern "C-unwind" fn model_free(model: Handle) {
    let mut server = lock();
    server.forget_model(model as Key);
    // SAFETY: passed on.
    unsafe { (real().model_free)(model) }
}

/// The server calls this for the context that answers requests, when the context is new.
unsafe extern "C-unwind" fn n_ctx_seq(context: Handle) -> u32 {
    lock().serves(context);
    control::open_once();
    // SAFETY: passed on.
    unsafe { (real().n_ctx_seq)(context) }
}

/// The server begins to put a batch together.
unsafe extern "C-unwind" fn n_ubatch(context: Handle) -> u32 {
    let mut server = lock();
    server.serves(context);
    if let Some(known) = server.contexts.get_mut(&(context as Key)) {
        known.in_turn = true;
        known.sequences.values_mut().for_each(Sequence::turn);
    }
    // SAFETY: passed on.
    unsafe { (real().n_ubatch)(context) }
}

/// The batch is put together; the server says which adapters it wants for it.
unsafe extern "C-unwind" fn set_adapters(
    context: Handle,
    adapters: *mut Handle,
    count: usize,
    scales: *mut f32,
) -> i32 {
    let mut server = lock();
    let live = server.live;
    if let Some(known) = server.contexts.get_mut(&(context as Key)) {
        known.in_turn = false;
        known.requested.clear();
        for i in 0..if adapters.is_null() || scales.is_null() {
            0
        } else {
            count
        } {
            // SAFETY: two arrays of `count` by the contract of the real function.
            known
                .requested
                .push(unsafe { (*adapters.add(i) as Key, *scales.add(i)) });
        }
        server.apply(context, live);
        return 0;
    }
    // SAFETY: passed on.
    unsafe { (real().set_adapters)(context, adapters, count, scales) }
}
