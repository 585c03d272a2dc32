//! The KV cache: what the server removes, copies and moves in it.

use crate::faults;
use crate::provenance::{After, Sequence};
use crate::real::Handle;
use crate::server::{Key, Server, lock, real};

hooks! { hooks
    "llama_memory_clear" All memory_clear;
    "llama_memory_seq_add" All seq_add;
    "llama_memory_seq_cp" All seq_cp;
    "llama_memory_seq_pos_min" All pos_min;
    "llama_memory_seq_rm" All seq_rm;
}

fn end(position: i32) -> Option<i32> {
    (position >= 0).then_some(position)
}

impl Server {
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
}

unsafe extern "C-unwind" fn pos_min(memory: Handle, sequence: i32) -> i32 {
    let mut server = lock();
    // SAFETY: passed on.
    let position = unsafe { (real().pos_min)(memory, sequence) };
    let live = server.live;
    match server.sequence(memory, sequence) {
        Some((_, true, sequence)) if !faults::on("reprocess") => {
            sequence.smallest_position(position, live)
        }
        _ => position,
    }
}

unsafe extern "C-unwind" fn seq_rm(memory: Handle, sequence: i32, from: i32, to: i32) -> bool {
    let mut server = lock();
    // SAFETY: passed on.
    let removed = unsafe { (real().seq_rm)(memory, sequence, from, to) };
    let live = server.live;
    if removed && sequence < 0 {
        forget(&mut server, memory, from, to);
    } else if removed && let Some((context, in_turn, known)) = server.sequence(memory, sequence) {
        let after = known.removed(from, end(to), in_turn, live);
        server.after(context, sequence, after);
    }
    removed
}

/// A removal in all sequences.
fn forget(server: &mut Server, memory: Handle, from: i32, to: i32) {
    let live = server.live;
    let context = server.memories.get(&(memory as Key)).copied();
    for sequence in context
        .and_then(|context| server.contexts.get_mut(&context))
        .into_iter()
        .flat_map(|known| known.sequences.values_mut())
    {
        let after = sequence.removed(from, end(to), false, live);
        debug_assert_eq!(after, After::Nothing);
    }
}

unsafe extern "C-unwind" fn seq_cp(memory: Handle, from: i32, to: i32, start: i32, stop: i32) {
    let mut server = lock();
    // SAFETY: passed on.
    unsafe { (real().seq_cp)(memory, from, to, start, stop) };
    let Some(source) = server
        .sequence(memory, from)
        .map(|(_, _, known)| known.clone())
    else {
        return;
    };
    if let Some((_, _, target)) = server.sequence(memory, to) {
        target.copied(&source, start, end(stop));
    }
}

unsafe extern "C-unwind" fn seq_add(memory: Handle, sequence: i32, from: i32, to: i32, delta: i32) {
    let mut server = lock();
    // SAFETY: passed on.
    unsafe { (real().seq_add)(memory, sequence, from, to, delta) };
    if let Some((_, _, known)) = server
        .sequence(memory, sequence)
        .filter(|_| !faults::on("shift"))
    {
        known.shifted(from, end(to), delta);
    }
}

unsafe extern "C-unwind" fn memory_clear(memory: Handle, data: bool) {
    let mut server = lock();
    // SAFETY: passed on.
    unsafe { (real().memory_clear)(memory, data) };
    forget(&mut server, memory, 0, -1);
}
