//! Saved states: in the server's memory, and in slot files.

use std::ffi::{CStr, c_char};
use std::path::Path;

use crate::carried::{noted_adapter, read_note, read_trailer, trailer, trailer_bytes, write_note};
use crate::faults;
use crate::log::say;
use crate::provenance::{AS_STARTED, ComputedBy, Log};
use crate::real::Handle;
use crate::server::{Key, lock, real};

/// `LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY`
const PARTIAL: u32 = 1;

hooks! { hooks
    "llama_state_seq_get_data_ext" All get_state;
    "llama_state_seq_get_size_ext" All get_size;
    "llama_state_seq_load_file" All load_file;
    "llama_state_seq_save_file" All save_file;
    "llama_state_seq_set_data_ext" All set_state;
}

unsafe extern "C-unwind" fn get_size(context: Handle, sequence: i32, flags: u32) -> usize {
    let mut server = lock();
    // SAFETY: passed on.
    let size = unsafe { (real().get_size)(context, sequence, flags) };
    let known = server
        .contexts
        .get_mut(&(context as Key))
        .filter(|_| size > 0);
    size + known.map_or(0, |known| {
        trailer_bytes(known.sequences.entry(sequence).or_default().log())
    })
}

unsafe extern "C-unwind" fn get_state(
    context: Handle,
    state: *mut u8,
    size: usize,
    sequence: i32,
    flags: u32,
) -> usize {
    let mut server = lock();
    let mark = server.mark;
    let tail = server.contexts.get_mut(&(context as Key)).map(|known| {
        let known = known.sequences.entry(sequence).or_default();
        trailer(known.log(), known.computed_by(), mark)
    });
    let Some((tail, room)) =
        tail.and_then(|tail| size.checked_sub(tail.len()).map(|room| (tail, room)))
    else {
        // SAFETY: passed on.
        return unsafe { (real().get_state)(context, state, size, sequence, flags) };
    };
    // SAFETY: passed on, with less room than there is.
    let written = unsafe { (real().get_state)(context, state, room, sequence, flags) };
    if written == 0 || written > room {
        return 0;
    }
    // SAFETY: behind what was written there is room for the trailer: `room` is what the buffer has
    // beside it.
    unsafe { std::ptr::copy_nonoverlapping(tail.as_ptr(), state.add(written), tail.len()) };
    written + tail.len()
}

unsafe extern "C-unwind" fn set_state(
    context: Handle,
    state: *const u8,
    size: usize,
    sequence: i32,
    flags: u32,
) -> usize {
    let mut server = lock();
    let (mark, live) = (server.mark, server.live);
    let Some(known) = server.contexts.get_mut(&(context as Key)) else {
        // SAFETY: passed on.
        return unsafe { (real().set_state)(context, state, size, sequence, flags) };
    };
    // SAFETY: `size` readable bytes by the contract of the real function.
    let carried = read_trailer(unsafe { std::slice::from_raw_parts(state, size) }, mark);
    let (behind, log, computed_by) = carried.unwrap_or((0, Log::default(), ComputedBy::Unknown));
    // SAFETY: passed on, without what is ours at the end.
    let read = unsafe { (real().set_state)(context, state, size - behind, sequence, flags) };
    if read == 0 {
        return 0;
    }
    let computed_by = if faults::on("states") {
        ComputedBy::One(live)
    } else {
        computed_by
    };
    known
        .sequences
        .entry(sequence)
        .or_default()
        .restored(log, computed_by, flags & PARTIAL != 0);
    read + behind
}

unsafe extern "C-unwind" fn save_file(
    context: Handle,
    path: *const c_char,
    sequence: i32,
    tokens: *const i32,
    count: usize,
) -> usize {
    let mut server = lock();
    server.serves(context);
    // SAFETY: passed on.
    let written = unsafe { (real().save_file)(context, path, sequence, tokens, count) };
    let known = server
        .contexts
        .get(&(context as Key))
        .and_then(|known| known.sequences.get(&sequence));
    if written > 0
        && let Some(known) = known
        && let Some(adapter) = server.identity(known.computed_by())
    {
        // SAFETY: the real function has just read the terminated path.
        let file = unsafe { CStr::from_ptr(path) }.to_string_lossy();
        if let Err(error) = write_note(Path::new(&*file), adapter, known.log()) {
            say(&format!(
                "{file}: which adapter computed this state could not be written beside it ({error}); it will be computed again"
            ));
        }
    }
    written
}

unsafe extern "C-unwind" fn load_file(
    context: Handle,
    path: *const c_char,
    sequence: i32,
    tokens: *mut i32,
    room: usize,
    count: *mut usize,
) -> usize {
    let mut server = lock();
    server.serves(context);
    // SAFETY: passed on.
    let read = unsafe { (real().load_file)(context, path, sequence, tokens, room, count) };
    // Without room for tokens the real function counts them and loads nothing.
    if read > 0 && !tokens.is_null() {
        // SAFETY: the real function has just read the terminated path.
        let file = unsafe { CStr::from_ptr(path) }.to_string_lossy();
        let (log, computed_by) = match read_note(Path::new(&*file)) {
            Some((adapter, log)) => (log, ComputedBy::One(server.number(&adapter))),
            // Written again by somebody since, in a server that was never swapped: as without this
            // module.
            None if server.generation == 0
                && noted_adapter(Path::new(&*file)).as_deref()
                    == server.identity(ComputedBy::One(AS_STARTED)) =>
            {
                (Log::default(), ComputedBy::One(AS_STARTED))
            }
            None => {
                say(&format!(
                    "{file}: nothing says which adapter computed this state; the next prompt in its slot is computed anew"
                ));
                (Log::default(), ComputedBy::Unknown)
            }
        };
        let computed_by = if faults::on("notes") {
            ComputedBy::One(server.live)
        } else {
            computed_by
        };
        if let Some(known) = server.contexts.get_mut(&(context as Key)) {
            known
                .sequences
                .entry(sequence)
                .or_default()
                .restored(log, computed_by, false);
        }
    }
    read
}
