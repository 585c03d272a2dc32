//! Batches: what the server puts together, and what it decodes.

use crate::batch::{Batch, Batches, DECODE, Row, Sent};
use crate::real::{Embd, Handle, Kept};
use crate::server::{Key, Server, batches, lock};

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

/// The functions of batches that libllama keeps; their hooks are put in only where there are such.
fn kept() -> &'static Kept {
    match batches() {
        Batches::Kept(functions) => functions,
        Batches::Structs(_) => unreachable!("these hooks are not put in"),
    }
}

impl Server {
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

unsafe extern "C-unwind" fn process(context: Handle, kind: i32, batch: Handle) -> i32 {
    let mut server = lock();
    if kind == DECODE && server.contexts.contains_key(&(context as Key)) {
        let rows = server
            .batches
            .get(&(batch as Key))
            .cloned()
            .unwrap_or_default();
        // SAFETY: passed on.
        return unsafe { server.decode(context, Sent::Kept(batch), &rows) };
    }
    // Under the lock all the same: this may be another context of a model that an adapter is being
    // put into.
    // SAFETY: passed on.
    unsafe { (kept().process)(context, kind, batch) }
}

/// The older way. source: llama.h of llama.cpp 0.1
unsafe extern "C-unwind" fn decode(context: Handle, batch: Batch) -> i32 {
    let mut server = lock();
    let Some(known) = server.contexts.get(&(context as Key)) else {
        // SAFETY: passed on, under the lock as above.
        return unsafe { batches().decode(context, Sent::Struct(batch)) };
    };
    // SAFETY: the server passes a batch that libllama takes.
    let rows = unsafe {
        batch.rows(|sequence| {
            known
                .sequences
                .get(&sequence)
                .map_or(0, |known| known.log().end())
        })
    };
    // SAFETY: passed on.
    unsafe { server.decode(context, Sent::Struct(batch), &rows) }
}
