//! The two ways in which versions of llama.cpp decode: a batch that libllama keeps
//! (`llama_process`), and a structure that the caller fills (`llama_decode`, before llama.cpp 0.5).

use std::collections::HashMap;

use crate::error::AttachError;
use crate::server::{Key, batches};
use crate::real::{Handle, Kept, Structs};

/// `LLAMA_PROCESS_TYPE_DECODE`
pub const DECODE: i32 = 1;

/// One row of a batch.
#[derive(Clone, Debug)]
pub struct Row {
    pub sequences: Vec<i32>,
    /// None for an embedding: an image, a sound.
    pub token: Option<i32>,
    pub position: i32,
    pub output: bool,
    /// It has an embedding beside or in place of its token.
    pub embedded: bool,
}

/// `struct llama_batch`: `tokens` rows, each array as long or null.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Batch {
    tokens: i32,
    token: *mut i32,
    embd: *mut f32,
    pos: *mut i32,
    n_seq_id: *mut i32,
    seq_id: *mut *mut i32,
    logits: *mut i8,
}

/// The batch that libllama decodes.
#[derive(Clone, Copy)]
pub enum Sent {
    /// A `llama_batch_ext`.
    Kept(Handle),
    Struct(Batch),
}

/// The functions of the server's libllama that decode.
pub enum Batches {
    Kept(Kept),
    Structs(Structs),
}

impl Batches {
    /// Take the functions out of the library at `path`, which is loaded.
    ///
    /// fails: with the names of the newer way that the library does not have, where it has not
    /// those of the older either
    pub fn of(path: &str) -> Result<Self, AttachError> {
        Kept::of(path)
            .map(Self::Kept)
            .or_else(|reason| Structs::of(path).map(Self::Structs).map_err(|_| reason))
    }

    /// True for `llama_process`.
    pub fn are_kept(&self) -> bool {
        matches!(self, Self::Kept(_))
    }

    /// Decode.
    ///
    /// # Safety
    /// As for `llama_process` or `llama_decode`: the handles live, and this is the thread that
    /// decodes.
    pub unsafe fn decode(&self, context: Handle, sent: Sent) -> i32 {
        match (self, sent) {
            // SAFETY: as the caller promises; here and below.
            (Self::Kept(functions), Sent::Kept(batch)) => unsafe {
                (functions.process)(context, DECODE, batch)
            },
            // SAFETY: see above.
            (Self::Structs(functions), Sent::Struct(batch)) => unsafe {
                (functions.decode)(context, batch)
            },
            // -1: an invalid batch. source: llama.h
            _ => -1,
        }
    }
}

impl Batch {
    /// The rows. Where positions are left out they go on behind what a sequence holds, which is
    /// what `held` says.
    ///
    /// # Safety
    /// The batch is one that libllama would take.
    pub unsafe fn rows(&self, held: impl Fn(i32) -> i32) -> Vec<Row> {
        let mut next: HashMap<i32, i32> = HashMap::new();
        let count = usize::try_from(self.tokens).unwrap_or_default();
        let mut row = |i: usize| {
            // SAFETY: arrays of `tokens` elements where they are not null, by the contract of
            // llama.h.
            let (sequences, token, position, output) = unsafe {
                let sequences = if self.n_seq_id.is_null() || self.seq_id.is_null() {
                    vec![0]
                } else {
                    let length = usize::try_from(*self.n_seq_id.add(i)).unwrap_or_default();
                    std::slice::from_raw_parts(*self.seq_id.add(i), length).to_vec()
                };
                let token = (!self.token.is_null()).then(|| *self.token.add(i));
                let position = (!self.pos.is_null()).then(|| *self.pos.add(i));
                let output = if self.logits.is_null() {
                    i + 1 == count
                } else {
                    *self.logits.add(i) != 0
                };
                (sequences, token, position, output)
            };
            let first = sequences.first().copied().unwrap_or_default();
            let behind = next.entry(first).or_insert_with(|| held(first));
            let position = position.unwrap_or(*behind);
            *behind = position + 1;
            Row {
                sequences,
                token,
                position,
                output,
                embedded: !self.embd.is_null(),
            }
        };
        (0..count).map(&mut row).collect()
    }
}

/// A batch of our own, filled anew for every use.
#[derive(Default)]
pub struct Scratch {
    kept: Key,
    tokens: Vec<i32>,
    positions: Vec<i32>,
    counts: Vec<i32>,
    sequences: Vec<Vec<i32>>,
    pointers: Vec<Key>,
    outputs: Vec<i8>,
}

impl Scratch {
    /// Put these rows in; they have tokens. What is answered is good until the next call.
    pub fn fill<'a>(&mut self, context: Handle, rows: impl Iterator<Item = &'a Row>) -> Sent {
        match batches() {
            Batches::Kept(functions) => Sent::Kept(self.kept(functions, context, rows)),
            Batches::Structs(_) => Sent::Struct(self.structure(rows)),
        }
    }

    fn kept<'a>(
        &mut self,
        functions: &Kept,
        context: Handle,
        rows: impl Iterator<Item = &'a Row>,
    ) -> Handle {
        // SAFETY: the context lives; the batch is ours, and has room for as many rows as any batch
        // of this context.
        unsafe {
            if self.kept == 0 {
                self.kept = (functions.batch_init)(context) as Key;
            }
            let batch = self.kept as Handle;
            (functions.batch_clear)(batch);
            for row in rows {
                let at =
                    (functions.add_token)(batch, row.sequences[0], row.token.unwrap_or_default());
                for sequence in &row.sequences[1..] {
                    (functions.add_seq)(batch, at, *sequence);
                }
                (functions.set_pos)(batch, at, [row.position, 0, 0, 0].as_ptr());
                (functions.set_output)(batch, at, row.output);
            }
            batch
        }
    }

    fn structure<'a>(&mut self, rows: impl Iterator<Item = &'a Row>) -> Batch {
        *self = Self::default();
        for row in rows {
            self.tokens.push(row.token.unwrap_or_default());
            self.positions.push(row.position);
            self.counts.push(row.sequences.len() as i32);
            self.sequences.push(row.sequences.clone());
            self.outputs.push(i8::from(row.output));
        }
        self.pointers = self
            .sequences
            .iter_mut()
            .map(|sequences| sequences.as_mut_ptr() as Key)
            .collect();
        Batch {
            tokens: self.tokens.len() as i32,
            token: self.tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: self.positions.as_mut_ptr(),
            n_seq_id: self.counts.as_mut_ptr(),
            seq_id: self.pointers.as_mut_ptr().cast(),
            logits: self.outputs.as_mut_ptr(),
        }
    }

    /// Give the batch back; its context ends.
    pub fn free(self) {
        if let (Batches::Kept(functions), true) = (batches(), self.kept != 0) {
            // SAFETY: a batch of ours, freed once: this value is consumed.
            unsafe { (functions.batch_free)(self.kept as Handle) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_structure_come_back() {
        let rows = [
            Row {
                sequences: vec![3, 1],
                token: Some(7),
                position: 5,
                output: false,
                embedded: false,
            },
            Row {
                sequences: vec![2],
                token: Some(8),
                position: 0,
                output: true,
                embedded: false,
            },
        ];
        let mut scratch = Scratch::default();
        let batch = scratch.structure(rows.iter());
        // SAFETY: the arrays are those of `scratch`, which lives.
        let read = unsafe { batch.rows(|_| 0) };
        assert_eq!(format!("{read:?}"), format!("{rows:?}"));
        let short = Batch {
            pos: std::ptr::null_mut(),
            logits: std::ptr::null_mut(),
            seq_id: std::ptr::null_mut(),
            ..batch
        };
        // SAFETY: see above.
        let read = unsafe { short.rows(|sequence| if sequence == 0 { 4 } else { 0 }) };
        let wanted = [(vec![0], 4, false), (vec![0], 5, true)];
        assert_eq!(
            read.into_iter()
                .map(|row| (row.sequences, row.position, row.output))
                .collect::<Vec<_>>(),
            wanted
        );
    }
}
