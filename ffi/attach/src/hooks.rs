//! The functions that the server calls in place of those of its libllama. Each takes the lock, does
//! what the real one does, and notes it.
//!
//! Each has the contract of the function of llama.h whose name it carries. No hook panics, and none
//! catches: a C++ exception of the real function passes through to the server.

use std::ffi::{CStr, c_char};
use std::path::Path;

use crate::batch::{Batch, Batches, DECODE, Row, Sent};
use crate::carried::{noted_adapter, read_note, read_trailer, trailer, trailer_bytes, write_note};
use crate::control;
use crate::faults;
use crate::host::{Host, Key, batches, lock, real};
use crate::log::say;
use crate::provenance::{AS_STARTED, After, Log, Maker, Sequence};
use crate::real::{Embd, Handle, Kept};

/// `LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY`
const PARTIAL: u32 = 1;

/// Whose calls are exchanged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Every library of the server.
    All,
    /// The library that holds the server itself, and not the helpers beside it.
    Server,
}

macro_rules! hooks {
    ($name:ident $($symbol:literal $callers:ident $function:ident;)*) => {
        fn $name() -> Vec<Hook> {
            vec![$(($symbol, Callers::$callers, $function as *const () as usize)),*]
        }
    };
}

/// What is exchanged: name, whose calls, by what.
type Hook = (&'static str, Callers, usize);

/// The hooks of a libllama, by whether it keeps batches itself.
pub fn all(kept: bool) -> Vec<Hook> {
    [
        common(),
        if kept {
            of_kept_batches()
        } else {
            of_structures()
        },
    ]
    .concat()
}

hooks! { common
    "llama_adapter_lora_free" All adapter_free;
    "llama_adapter_lora_init" All adapter_init;
    "llama_free" All free;
    "llama_get_embeddings_ith" All embeddings_ith;
    "llama_get_embeddings_seq" All embeddings_seq;
    "llama_get_logits_ith" All logits_ith;
    "llama_memory_clear" All memory_clear;
    "llama_memory_seq_add" All seq_add;
    "llama_memory_seq_cp" All seq_cp;
    "llama_memory_seq_pos_min" All pos_min;
    "llama_memory_seq_rm" All seq_rm;
    "llama_model_free" All model_free;
    "llama_n_ctx_seq" Server n_ctx_seq;
    "llama_n_ubatch" Server n_ubatch;
    "llama_set_adapters_lora" All set_adapters;
    "llama_set_embeddings" All set_embeddings;
    "llama_set_sampler" All set_sampler;
    "llama_state_seq_get_data_ext" All get_state;
    "llama_state_seq_get_size_ext" All get_size;
    "llama_state_seq_load_file" All load_file;
    "llama_state_seq_save_file" All save_file;
    "llama_state_seq_set_data_ext" All set_state;
    "_Z26llama_set_embeddings_nextnP13llama_contextbb" All set_next;
    "_Z30llama_set_embeddings_layer_inpP13llama_contextjb" All set_layer_input;
}

hooks! { of_kept_batches
    "llama_batch_ext_add_embd" All add_embd;
    "llama_batch_ext_add_seq" All add_seq;
    "llama_batch_ext_add_token" All add_token;
    "llama_batch_ext_clear" All batch_clear;
    "llama_batch_ext_free" All batch_free;
    "llama_batch_ext_set_embd_token" All set_embd_token;
    "llama_batch_ext_set_output_logits" All set_output;
    "llama_batch_ext_set_pos" All set_pos;
    "llama_process" All process;
}

hooks! { of_structures
    "llama_decode" All decode;
}

fn end(position: i32) -> Option<i32> {
    (position >= 0).then_some(position)
}

/// The functions of batches that libllama keeps; their hooks are put in only where there are such.
fn kept() -> &'static Kept {
    match batches() {
        Batches::Kept(functions) => functions,
        Batches::Structs(_) => unreachable!("these hooks are not put in"),
    }
}

impl Host {
    /// The sequence behind a memory, where the memory is that of a context that answers requests.
    fn sequence(&mut self, memory: Handle, sequence: i32) -> Option<(Handle, bool, &mut Sequence)> {
        let context = *self.memories.get(&(memory as Key))?;
        let known = self.contexts.get_mut(&context)?;
        Some((
            context as Handle,
            known.in_turn,
            known.sequences.entry(sequence).or_default(),
        ))
    }

    fn row(&mut self, batch: Handle, row: i32) -> Option<&mut Row> {
        self.batches
            .get_mut(&(batch as Key))?
            .get_mut(usize::try_from(row).ok()?)
    }

    fn add_row(&mut self, batch: Handle, row: i32, sequence: i32, token: Option<i32>) {
        let rows = self.batches.entry(batch as Key).or_default();
        if row >= 0 && row as usize == rows.len() {
            rows.push(Row {
                sequences: vec![sequence],
                token,
                position: 0,
                output: false,
                embedded: token.is_none(),
            });
        }
    }
}

unsafe extern "C-unwind" fn adapter_init(model: Handle, path: *const c_char) -> Handle {
    let mut host = lock();
    // SAFETY: the caller's arguments, passed on; here and in every hook below.
    let adapter = unsafe { (real().adapter_init)(model, path) };
    if !adapter.is_null() && !path.is_null() {
        // SAFETY: the real function has just read the terminated path.
        host.started_with(&unsafe { CStr::from_ptr(path) }.to_string_lossy());
    }
    adapter
}

unsafe extern "C-unwind" fn adapter_free(adapter: Handle) {
    let _host = lock();
    // SAFETY: passed on.
    unsafe { (real().adapter_free)(adapter) }
}

unsafe extern "C-unwind" fn batch_clear(batch: Handle) {
    // SAFETY: passed on.
    unsafe { (kept().batch_clear)(batch) };
    lock().batches.entry(batch as Key).or_default().clear();
}

unsafe extern "C-unwind" fn batch_free(batch: Handle) {
    lock().batches.remove(&(batch as Key));
    // SAFETY: passed on.
    unsafe { (kept().batch_free)(batch) }
}

unsafe extern "C-unwind" fn add_token(batch: Handle, sequence: i32, token: i32) -> i32 {
    // SAFETY: passed on.
    let row = unsafe { (kept().add_token)(batch, sequence, token) };
    lock().add_row(batch, row, sequence, Some(token));
    row
}

unsafe extern "C-unwind" fn add_embd(batch: Handle, sequence: i32, embd: Embd) -> i32 {
    // SAFETY: passed on.
    let row = unsafe { (kept().add_embd)(batch, sequence, embd) };
    lock().add_row(batch, row, sequence, None);
    row
}

unsafe extern "C-unwind" fn add_seq(batch: Handle, row: i32, sequence: i32) -> bool {
    // SAFETY: passed on.
    let added = unsafe { (kept().add_seq)(batch, row, sequence) };
    if added && let Some(row) = lock().row(batch, row) {
        row.sequences.push(sequence);
    }
    added
}

unsafe extern "C-unwind" fn set_embd_token(batch: Handle, row: i32, embd: Embd) -> bool {
    // SAFETY: passed on.
    let set = unsafe { (kept().set_embd_token)(batch, row, embd) };
    if set && let Some(row) = lock().row(batch, row) {
        row.embedded = true;
    }
    set
}

unsafe extern "C-unwind" fn set_output(batch: Handle, row: i32, value: bool) -> bool {
    // SAFETY: passed on.
    let set = unsafe { (kept().set_output)(batch, row, value) };
    if set && let Some(row) = lock().row(batch, row) {
        row.output = value;
    }
    set
}

unsafe extern "C-unwind" fn set_pos(batch: Handle, row: i32, position: *const i32) -> bool {
    // SAFETY: passed on.
    let set = unsafe { (kept().set_pos)(batch, row, position) };
    if set && let Some(row) = lock().row(batch, row) {
        // SAFETY: the real function has read at least one position there.
        row.position = unsafe { *position };
    }
    set
}

unsafe extern "C-unwind" fn free(context: Handle) {
    let mut host = lock();
    host.forget_context(context as Key);
    // SAFETY: passed on.
    unsafe { (real().free)(context) }
}

unsafe extern "C-unwind" fn model_free(model: Handle) {
    let mut host = lock();
    host.forget_model(model as Key);
    // SAFETY: passed on.
    unsafe { (real().model_free)(model) }
}

/// The server asks this of the context that answers requests, when it has made it.
unsafe extern "C-unwind" fn n_ctx_seq(context: Handle) -> u32 {
    lock().serves(context);
    control::open_once();
    // SAFETY: passed on.
    unsafe { (real().n_ctx_seq)(context) }
}

/// The server begins to put a batch together.
unsafe extern "C-unwind" fn n_ubatch(context: Handle) -> u32 {
    let mut host = lock();
    host.serves(context);
    if let Some(known) = host.contexts.get_mut(&(context as Key)) {
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
    let mut host = lock();
    let live = host.live;
    if let Some(known) = host.contexts.get_mut(&(context as Key)) {
        known.in_turn = false;
        known.asked.clear();
        for i in 0..if adapters.is_null() || scales.is_null() {
            0
        } else {
            count
        } {
            // SAFETY: two arrays of `count` by the contract of the real function.
            known
                .asked
                .push(unsafe { (*adapters.add(i) as Key, *scales.add(i)) });
        }
        host.apply(context, live);
        return 0;
    }
    // SAFETY: passed on.
    unsafe { (real().set_adapters)(context, adapters, count, scales) }
}

unsafe extern "C-unwind" fn process(context: Handle, kind: i32, batch: Handle) -> i32 {
    let mut host = lock();
    if kind == DECODE && host.contexts.contains_key(&(context as Key)) {
        let rows = host
            .batches
            .get(&(batch as Key))
            .cloned()
            .unwrap_or_default();
        // SAFETY: passed on.
        return unsafe { host.decode(context, Sent::Kept(batch), &rows) };
    }
    // Under the lock all the same: this may be another context of a model that an adapter is being
    // put into.
    // SAFETY: passed on.
    unsafe { (kept().process)(context, kind, batch) }
}

/// The older way. source: llama.h of llama.cpp 0.1
unsafe extern "C-unwind" fn decode(context: Handle, batch: Batch) -> i32 {
    let mut host = lock();
    let Some(known) = host.contexts.get(&(context as Key)) else {
        // SAFETY: passed on, under the lock as above.
        return unsafe { batches().decode(context, Sent::Struct(batch)) };
    };
    // SAFETY: the server hands a batch that libllama takes.
    let rows = unsafe {
        batch.rows(|sequence| {
            known
                .sequences
                .get(&sequence)
                .map_or(0, |known| known.log().end())
        })
    };
    // SAFETY: passed on.
    unsafe { host.decode(context, Sent::Struct(batch), &rows) }
}

unsafe extern "C-unwind" fn logits_ith(context: Handle, row: i32) -> *mut f32 {
    let mut host = lock();
    match host
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
    let mut host = lock();
    match host
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
    let mut host = lock();
    let outputs = host
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
    let mut host = lock();
    if let Some(known) = host.contexts.get_mut(&(context as Key)) {
        known.embeddings = value;
    }
    // SAFETY: passed on.
    unsafe { (real().set_embeddings)(context, value) }
}

unsafe extern "C-unwind" fn set_sampler(context: Handle, sequence: i32, sampler: Handle) -> bool {
    let mut host = lock();
    // SAFETY: passed on.
    let set = unsafe { (real().set_sampler)(context, sequence, sampler) };
    if set && !sampler.is_null() {
        host.samplers.insert(context as Key);
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

unsafe extern "C-unwind" fn pos_min(memory: Handle, sequence: i32) -> i32 {
    let mut host = lock();
    // SAFETY: passed on.
    let position = unsafe { (real().pos_min)(memory, sequence) };
    let live = host.live;
    match host.sequence(memory, sequence) {
        Some((_, true, sequence)) if !faults::on("reprocess") => {
            sequence.smallest_position(position, live)
        }
        _ => position,
    }
}

unsafe extern "C-unwind" fn seq_rm(memory: Handle, sequence: i32, from: i32, to: i32) -> bool {
    let mut host = lock();
    // SAFETY: passed on.
    let removed = unsafe { (real().seq_rm)(memory, sequence, from, to) };
    let live = host.live;
    if removed && sequence < 0 {
        forget(&mut host, memory, from, to);
    } else if removed && let Some((context, in_turn, known)) = host.sequence(memory, sequence) {
        let after = known.removed(from, end(to), in_turn, live);
        host.after(context, sequence, after);
    }
    removed
}

/// A removal in all sequences.
fn forget(host: &mut Host, memory: Handle, from: i32, to: i32) {
    let live = host.live;
    let context = host.memories.get(&(memory as Key)).copied();
    for sequence in context
        .and_then(|context| host.contexts.get_mut(&context))
        .into_iter()
        .flat_map(|known| known.sequences.values_mut())
    {
        let after = sequence.removed(from, end(to), false, live);
        debug_assert_eq!(after, After::Nothing);
    }
}

unsafe extern "C-unwind" fn seq_cp(memory: Handle, from: i32, to: i32, start: i32, stop: i32) {
    let mut host = lock();
    // SAFETY: passed on.
    unsafe { (real().seq_cp)(memory, from, to, start, stop) };
    let Some(source) = host
        .sequence(memory, from)
        .map(|(_, _, known)| known.clone())
    else {
        return;
    };
    if let Some((_, _, target)) = host.sequence(memory, to) {
        target.copied(&source, start, end(stop));
    }
}

unsafe extern "C-unwind" fn seq_add(memory: Handle, sequence: i32, from: i32, to: i32, delta: i32) {
    let mut host = lock();
    // SAFETY: passed on.
    unsafe { (real().seq_add)(memory, sequence, from, to, delta) };
    if let Some((_, _, known)) = host
        .sequence(memory, sequence)
        .filter(|_| !faults::on("shift"))
    {
        known.shifted(from, end(to), delta);
    }
}

unsafe extern "C-unwind" fn memory_clear(memory: Handle, data: bool) {
    let mut host = lock();
    // SAFETY: passed on.
    unsafe { (real().memory_clear)(memory, data) };
    forget(&mut host, memory, 0, -1);
}

unsafe extern "C-unwind" fn get_size(context: Handle, sequence: i32, flags: u32) -> usize {
    let mut host = lock();
    // SAFETY: passed on.
    let size = unsafe { (real().get_size)(context, sequence, flags) };
    let known = host
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
    let mut host = lock();
    let mark = host.mark;
    let tail = host.contexts.get_mut(&(context as Key)).map(|known| {
        let known = known.sequences.entry(sequence).or_default();
        trailer(known.log(), known.maker(), mark)
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
    let mut host = lock();
    let (mark, live) = (host.mark, host.live);
    let Some(known) = host.contexts.get_mut(&(context as Key)) else {
        // SAFETY: passed on.
        return unsafe { (real().set_state)(context, state, size, sequence, flags) };
    };
    // SAFETY: `size` readable bytes by the contract of the real function.
    let carried = read_trailer(unsafe { std::slice::from_raw_parts(state, size) }, mark);
    let (behind, log, maker) = carried.unwrap_or((0, Log::default(), Maker::Unknown));
    // SAFETY: passed on, without what is ours at the end.
    let read = unsafe { (real().set_state)(context, state, size - behind, sequence, flags) };
    if read == 0 {
        return 0;
    }
    let maker = if faults::on("states") {
        Maker::One(live)
    } else {
        maker
    };
    known
        .sequences
        .entry(sequence)
        .or_default()
        .restored(log, maker, flags & PARTIAL != 0);
    read + behind
}

unsafe extern "C-unwind" fn save_file(
    context: Handle,
    path: *const c_char,
    sequence: i32,
    tokens: *const i32,
    count: usize,
) -> usize {
    let mut host = lock();
    host.serves(context);
    // SAFETY: passed on.
    let written = unsafe { (real().save_file)(context, path, sequence, tokens, count) };
    let known = host
        .contexts
        .get(&(context as Key))
        .and_then(|known| known.sequences.get(&sequence));
    if written > 0
        && let Some(known) = known
        && let Some(adapter) = host.identity(known.maker())
    {
        // SAFETY: the real function has just read the terminated path.
        let file = unsafe { CStr::from_ptr(path) }.to_string_lossy();
        if let Err(error) = write_note(Path::new(&*file), adapter, known.log()) {
            say(&format!(
                "{file}: which adapter made this state could not be written beside it ({error}); it will be computed again"
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
    let mut host = lock();
    host.serves(context);
    // SAFETY: passed on.
    let read = unsafe { (real().load_file)(context, path, sequence, tokens, room, count) };
    // Without room for tokens the real function counts them and loads nothing.
    if read > 0 && !tokens.is_null() {
        // SAFETY: the real function has just read the terminated path.
        let file = unsafe { CStr::from_ptr(path) }.to_string_lossy();
        let (log, maker) = match read_note(Path::new(&*file)) {
            Some((adapter, log)) => (log, Maker::One(host.number(&adapter))),
            // Written again by somebody since, in a server that was never swapped: as without this
            // module.
            None if host.generation == 0
                && noted_adapter(Path::new(&*file)).as_deref()
                    == host.identity(Maker::One(AS_STARTED)) =>
            {
                (Log::default(), Maker::One(AS_STARTED))
            }
            None => {
                say(&format!(
                    "{file}: nothing says which adapter made this state; the next prompt in its slot is computed anew"
                ));
                (Log::default(), Maker::Unknown)
            }
        };
        let maker = if faults::on("notes") {
            Maker::One(host.live)
        } else {
            maker
        };
        if let Some(known) = host.contexts.get_mut(&(context as Key)) {
            known
                .sequences
                .entry(sequence)
                .or_default()
                .restored(log, maker, false);
        }
    }
    read
}
