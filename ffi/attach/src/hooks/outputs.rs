//! What the server reads of a decoded batch, and what else it has computed.

use crate::real::Handle;
use crate::server::{Key, lock, real};

hooks! { hooks
    "llama_get_embeddings_ith" All embeddings_ith;
    "llama_get_embeddings_seq" All embeddings_seq;
    "llama_get_logits_ith" All logits_ith;
    "llama_set_embeddings" All set_embeddings;
    "llama_set_sampler" All set_sampler;
    "_Z26llama_set_embeddings_nextnP13llama_contextbb" All set_next;
    "_Z30llama_set_embeddings_layer_inpP13llama_contextjb" All set_layer_input;
}

unsafe extern "C-unwind" fn logits_ith(context: Handle, row: i32) -> *mut f32 {
    let mut server = lock();
    match server
        .contexts
        .get_mut(&(context as Key))
        .and_then(|known| known.outputs.as_mut())
        .map(|outputs| outputs.row(row))
    {
        Some(Ok(copy)) => copy,
        // SAFETY: passed on.
        Some(Err(row)) => unsafe { (real().logits_ith)(context, row) },
        // SAFETY: passed on.
        None => unsafe { (real().logits_ith)(context, row) },
    }
}

unsafe extern "C-unwind" fn embeddings_ith(context: Handle, row: i32) -> *mut f32 {
    let mut server = lock();
    match server
        .contexts
        .get_mut(&(context as Key))
        .and_then(|known| known.outputs.as_mut())
        .map(|outputs| outputs.row(row))
    {
        Some(Ok(copy)) => copy,
        // SAFETY: passed on.
        Some(Err(row)) => unsafe { (real().embeddings_ith)(context, row) },
        // SAFETY: passed on.
        None => unsafe { (real().embeddings_ith)(context, row) },
    }
}

unsafe extern "C-unwind" fn embeddings_seq(context: Handle, sequence: i32) -> *mut f32 {
    let mut server = lock();
    let outputs = server
        .contexts
        .get_mut(&(context as Key))
        .and_then(|known| known.outputs.as_mut());
    if let Some(copy) = outputs.and_then(|outputs| outputs.pooled(sequence)) {
        return copy;
    }
    // SAFETY: passed on.
    unsafe { (real().embeddings_seq)(context, sequence) }
}

unsafe extern "C-unwind" fn set_embeddings(context: Handle, value: bool) {
    let mut server = lock();
    if let Some(known) = server.contexts.get_mut(&(context as Key)) {
        known.embeddings = value;
    }
    // SAFETY: passed on.
    unsafe { (real().set_embeddings)(context, value) }
}

unsafe extern "C-unwind" fn set_sampler(context: Handle, sequence: i32, sampler: Handle) -> bool {
    let mut server = lock();
    // SAFETY: passed on.
    let set = unsafe { (real().set_sampler)(context, sequence, sampler) };
    if set && !sampler.is_null() {
        server.samplers.insert(context as Key);
    }
    set
}

unsafe extern "C-unwind" fn set_next(context: Handle, value: bool, masked: bool) {
    if value {
        lock().readers.insert(context as Key);
    }
    // SAFETY: passed on.
    unsafe { (real().set_next)(context, value, masked) }
}

unsafe extern "C-unwind" fn set_layer_input(context: Handle, layer: u32, value: bool) {
    if value {
        lock().readers.insert(context as Key);
    }
    // SAFETY: passed on.
    unsafe { (real().set_layer_input)(context, layer, value) }
}
