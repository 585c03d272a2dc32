//! Decodes one batch of the server with several adapters: requests that began before a swap go on
//! beside those that began after it.
//!
//! The rows of each adapter are decoded in a batch of their own. What the server then asks for by
//! its own row numbers is answered out of copies for all but the last of them.

use std::collections::HashMap;

use crate::batch::{Row, Sent};
use crate::faults;
use crate::server::{Server, Key, batches, real};
use crate::provenance::AdapterId;
use crate::real::Handle;

/// `LLAMA_POOLING_TYPE_RANK`: a sequence has one number for each class.
const RANK: i32 = 4;

/// Where the output of a row of the server's batch lies.
#[derive(Debug)]
enum Place {
    /// In a copy: logits or an embedding.
    Copied(Vec<f32>),
    /// In the context, under this row number.
    Row(i32),
}

/// Where the outputs of a split batch lie.
#[derive(Debug, Default)]
pub struct Outputs {
    rows: HashMap<i32, Place>,
    last: i32,
    pooled: HashMap<i32, Vec<f32>>,
}

impl Outputs {
    /// The copy of a row's output, or the row number to ask the context for. A negative number
    /// counts from the end, as in llama.h.
    pub fn row(&mut self, row: i32) -> Result<*mut f32, i32> {
        let row = if row < 0 { self.last + 1 + row } else { row };
        match self.rows.get_mut(&row) {
            Some(Place::Copied(values)) => Ok(values.as_mut_ptr()),
            Some(Place::Row(row)) => Err(*row),
            None => Err(row),
        }
    }

    /// The copy of a sequence's pooled embedding.
    pub fn pooled(&mut self, sequence: i32) -> Option<*mut f32> {
        self.pooled.get_mut(&sequence).map(Vec::as_mut_ptr)
    }
}

impl Server {
    /// Decode a batch of the server.
    ///
    /// # Safety
    /// As for `llama_process`: the handles live, `rows` are those of the batch, and this is the
    /// thread that decodes.
    pub unsafe fn decode(&mut self, context: Handle, batch: Sent, rows: &[Row]) -> i32 {
        let groups = self.groups(context as Key, rows);
        let mut outputs = Outputs {
            last: rows.len() as i32 - 1,
            ..Outputs::default()
        };
        let mut status = 0;
        let mut done: Vec<usize> = Vec::new();
        let split = groups.len() > 1;
        let count = groups.len();
        for (at, (id, members)) in groups.into_iter().enumerate() {
            let by = self.apply(context, id);
            let Some(known) = self.contexts.get_mut(&(context as Key)) else {
                return -3;
            };
            let sent = if split {
                known
                    .scratch
                    .fill(context, members.iter().map(|member| &rows[*member]))
            } else {
                batch
            };
            // SAFETY: as the caller promises; a batch of ours has rows that the server's batch has.
            status = unsafe { batches().decode(context, sent) };
            if status != 0 {
                break;
            }
            let mut prompts = Vec::new();
            for row in members.iter().map(|member| &rows[*member]) {
                for sequence in &row.sequences {
                    let token = row.token.filter(|_| !row.embedded);
                    known.images |= token.is_none();
                    let of = known.sequences.entry(*sequence).or_default();
                    of.decoded(row.position, token, by);
                    if row.output && of.answers() {
                        prompts.push((*sequence, row.position + 1));
                    }
                }
            }
            if split {
                outputs.keep(
                    known.model,
                    context,
                    rows,
                    &members,
                    at + 1 == count,
                    known.embeddings,
                );
                done.extend(members);
            }
            self.keep_prompts(context as Key, &prompts, by);
        }
        if status != 0 && !done.is_empty() && !self.undo(context as Key, rows, &done) {
            status = -3;
        }
        self.grow_old(context as Key);
        if let Some(known) = self.contexts.get_mut(&(context as Key)) {
            known.outputs = (split && !faults::on("rows")).then_some(outputs);
        }
        status
    }

    /// The rows of a batch by the adapter of their request, in the order of rows.
    fn groups(&mut self, context: Key, rows: &[Row]) -> Vec<(AdapterId, Vec<usize>)> {
        let live = self.live;
        let mut groups: Vec<(AdapterId, Vec<usize>)> = Vec::new();
        let Some(known) = self.contexts.get_mut(&context) else {
            return groups;
        };
        for (i, row) in rows.iter().enumerate() {
            let sequence = row.sequences.first().copied().unwrap_or_default();
            let id = known.sequences.entry(sequence).or_default().adapter(live);
            let id = if faults::on("pin") { live } else { id };
            match groups.iter_mut().find(|(group, _)| *group == id) {
                Some((_, members)) => members.push(i),
                None => groups.push((id, vec![i])),
            }
        }
        // Rows with embeddings cannot be put together again; such batches hold one request.
        if rows.is_empty() || (groups.len() > 1 && rows.iter().any(|row| row.embedded)) {
            let first = groups.first().map_or(live, |(id, _)| *id);
            return vec![(first, (0..rows.len()).collect())];
        }
        groups
    }

    /// Take back rows that were decoded in a batch of which a later part failed: the server will
    /// send them again.
    fn undo(&mut self, context: Key, rows: &[Row], done: &[usize]) -> bool {
        let Some(known) = self.contexts.get_mut(&context) else {
            return false;
        };
        let mut first: HashMap<i32, i32> = HashMap::new();
        for row in done.iter().map(|i| &rows[*i]) {
            for sequence in &row.sequences {
                let from = first.entry(*sequence).or_insert(row.position);
                *from = row.position.min(*from);
            }
        }
        first.into_iter().all(|(sequence, from)| {
            // SAFETY: the memory of a context that lives.
            let removed = unsafe { (real().seq_rm)(known.memory as Handle, sequence, from, -1) };
            if let Some(sequence) = known.sequences.get_mut(&sequence) {
                sequence.removed(from, None, false, 0);
            }
            removed
        })
    }
}

impl Outputs {
    /// Remember the outputs of one part of a split batch; those of the last part stay where they
    /// are.
    fn keep(
        &mut self,
        model: Key,
        context: Handle,
        rows: &[Row],
        members: &[usize],
        last: bool,
        embeddings: bool,
    ) {
        let real = real();
        for (at, member) in (0..).zip(members) {
            if last {
                self.rows.insert(*member as i32, Place::Row(at));
                continue;
            }
            if !rows[*member].output && !embeddings {
                continue;
            }
            // SAFETY: the context lives and has decoded a batch with this row, whose output has
            // that many numbers.
            unsafe {
                (real.synchronize)(context);
                let width = |count: i32| count.max(0) as usize;
                let (values, width) = if embeddings {
                    (
                        (real.embeddings_ith)(context, at),
                        width((real.n_embd_out)(model as Handle)),
                    )
                } else {
                    (
                        (real.logits_ith)(context, at),
                        width((real.n_tokens)((real.vocab)(model as Handle))),
                    )
                };
                if !values.is_null() {
                    self.rows.insert(
                        *member as i32,
                        Place::Copied(std::slice::from_raw_parts(values, width).to_vec()),
                    );
                }
                if embeddings && (real.pooling_type)(context) > 0 {
                    let pooled = (real.embeddings_seq)(context, rows[*member].sequences[0]);
                    if !pooled.is_null() {
                        let ranks = (real.pooling_type)(context) == RANK;
                        let width = if ranks {
                            (real.n_classes)(model as Handle) as usize
                        } else {
                            width
                        };
                        let values = std::slice::from_raw_parts(pooled, width).to_vec();
                        self.pooled.insert(rows[*member].sequences[0], values);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_the_servers_numbers() {
        let mut outputs = Outputs {
            last: 2,
            ..Outputs::default()
        };
        outputs.rows.insert(1, Place::Copied(vec![0.5]));
        outputs.rows.insert(0, Place::Row(0));
        outputs.rows.insert(2, Place::Row(1));
        let copied = outputs.row(1).expect("a copy");
        // SAFETY: one number, owned by `outputs`.
        assert_eq!(unsafe { *copied }, 0.5);
        assert_eq!(outputs.row(2), Err(1));
        assert_eq!(outputs.row(-1), Err(1));
        assert_eq!(outputs.row(-3), Err(0));
        assert_eq!(outputs.pooled(0), None);
    }
}
