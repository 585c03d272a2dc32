//! Decodes many sequences side by side over a prefix that is computed once.

use std::path::Path;

use translora_llama::{Batch, Context, LlamaError};

use super::{BATCH, SEQUENCES};
use crate::engine::is_distribution;

/// One sequence to run: what follows the shared prefix, and at which of those tokens logits are
/// wanted.
pub(super) struct Job {
    pub tokens: Vec<i32>,
    /// The first token whose logits are wanted; all later ones follow.
    pub outputs_from: usize,
}

/// Tells what to do with the logits of job `job` after its token `at`: the next token, or nothing
/// more.
pub(super) trait Reader {
    fn read(&mut self, job: usize, at: usize, logits: &[f32]) -> Option<i32>;
    /// Job `job` has no more tokens: how many of them to go back to, and the token to go on with
    /// from there, if any.
    fn back(&mut self, _job: usize) -> Option<(usize, i32)> {
        None
    }
    /// Job `job` ended.
    fn done(&mut self, job: usize) -> Result<(), super::EngineError>;
}

struct Slot {
    job: usize,
    /// Tokens of this job decoded so far.
    at: usize,
    /// Tokens to decode next.
    next: Vec<i32>,
}

/// Count the tokens that all of `prompts` begin with, leaving each at least one of its own.
pub(super) fn common_prefix(prompts: &[&[i32]]) -> usize {
    let Some(first) = prompts.first() else {
        return 0;
    };
    let mut shared = first.len().saturating_sub(1);
    for prompt in prompts {
        shared = shared.min(prompt.len().saturating_sub(1));
        shared = first[..shared]
            .iter()
            .zip(*prompt)
            .take_while(|(a, b)| a == b)
            .count();
    }
    shared
}

/// Run `jobs` to their ends on an empty context. `room`: the most tokens a job may add to the
/// prefix.
///
/// Sequence 0 holds the prefix; each job takes one of the others, and a new one begins as soon as
/// one ends.
pub(super) fn run(
    context: &mut Context,
    prefix: &[i32],
    jobs: &[Job],
    room: usize,
    reader: &mut dyn Reader,
) -> Result<(), super::EngineError> {
    let cells = context.params().context as usize;
    let too_long = |needed: usize| super::EngineError::Context {
        needed,
        context: cells,
    };
    let side_by_side = (cells.saturating_sub(prefix.len()) / room.max(1)).min(SEQUENCES - 1);
    if side_by_side == 0 {
        return Err(too_long(prefix.len() + room));
    }
    decode_prefix(context, prefix).map_err(super::internal)?;
    let mut slots: Vec<Option<Slot>> = (0..side_by_side).map(|_| None).collect();
    let mut waiting = jobs.iter().enumerate();
    let mut batch = Batch::default();
    loop {
        for (number, slot) in slots
            .iter_mut()
            .enumerate()
            .filter(|(_, slot)| slot.is_none())
        {
            let Some((job, Job { tokens, .. })) = waiting.next() else {
                break;
            };
            if tokens.len() > room {
                return Err(too_long(prefix.len() + tokens.len()));
            }
            context.truncate(number as i32 + 1, 0);
            if !prefix.is_empty() {
                context.fork(0, number as i32 + 1);
            }
            *slot = Some(Slot {
                job,
                at: 0,
                next: tokens.clone(),
            });
        }
        if slots.iter().all(Option::is_none) {
            return Ok(());
        }
        let wanted = fill(&mut batch, &mut slots, jobs, prefix.len());
        context.decode(&batch).map_err(super::internal)?;
        for (row, number, at) in wanted {
            let Some(slot) = &mut slots[number] else {
                continue;
            };
            let last = slot.next.is_empty() && at + 1 == slot.at;
            check(context, row, prefix, &jobs[slot.job].tokens, at)?;
            let next = reader.read(slot.job, at, context.logits(row).map_err(super::internal)?);
            match next.filter(|_| slot.at < room) {
                Some(token) if last => slot.next.push(token),
                _ if last => match reader.back(slot.job).filter(|(at, _)| *at < room) {
                    Some((at, token)) => {
                        context.truncate(number as i32 + 1, (prefix.len() + at) as i32);
                        *slot = Slot {
                            at,
                            next: vec![token],
                            ..*slot
                        };
                    }
                    None => {
                        reader.done(slot.job)?;
                        slots[number] = None;
                    }
                },
                _ => {}
            }
        }
    }
}

/// Put as many waiting tokens into one batch as fit; returns (row, slot, token of the job) of each
/// wanted output.
fn fill(
    batch: &mut Batch,
    slots: &mut [Option<Slot>],
    jobs: &[Job],
    prefix: usize,
) -> Vec<(usize, usize, usize)> {
    batch.clear();
    let mut wanted = Vec::new();
    for (number, slot) in slots.iter_mut().enumerate() {
        let Some(slot) = slot else { continue };
        let take = slot.next.len().min(BATCH - batch.len());
        for token in slot.next.drain(..take) {
            let output = slot.at >= jobs[slot.job].outputs_from;
            let row = batch.push(token, (prefix + slot.at) as i32, number as i32 + 1, output);
            if output {
                wanted.push((row, number, slot.at));
            }
            slot.at += 1;
        }
    }
    wanted
}

/// Check that a row of logits, after token `at` of a job, makes a distribution.
fn check(
    context: &mut Context,
    row: usize,
    prefix: &[i32],
    own: &[i32],
    at: usize,
) -> Result<(), super::EngineError> {
    if is_distribution(context.logits(row).map_err(super::internal)?) {
        return Ok(());
    }
    let read = [prefix, &own[..own.len().min(at + 1)]].concat();
    Err(culprit(context, &read)?)
}

/// Who it is that makes no distribution after these tokens: an active adapter, unless the model
/// makes none without it either.
fn culprit(
    context: &mut Context,
    tokens: &[i32],
) -> Result<super::EngineError, super::EngineError> {
    let active = context.adapters().to_vec();
    context.set_adapters(&[]).map_err(super::internal)?;
    let mut batch = Batch::default();
    let mut alone = true;
    for (start, chunk) in tokens.chunks(BATCH).enumerate() {
        batch.clear();
        for (i, token) in chunk.iter().enumerate() {
            let at = start * BATCH + i;
            batch.push(*token, at as i32, 0, at + 1 == tokens.len());
        }
        context.decode(&batch).map_err(super::internal)?;
        if start * BATCH + chunk.len() == tokens.len() {
            let logits = context.logits(chunk.len() - 1).map_err(super::internal)?;
            alone = is_distribution(logits);
        }
    }
    context.set_adapters(&active).map_err(super::internal)?;
    let model = context.model().path();
    let who = match active.first() {
        Some((adapter, scale)) if alone => named(adapter.file(), *scale),
        _ => format!("the model {}", model.display()),
    };
    Ok(super::EngineError::NoDistribution { who })
}

/// An adapter as errors call it.
fn named(adapter: &Path, scale: f32) -> String {
    let scale = if scale == 1.0 {
        String::new()
    } else {
        format!(" at a scale of {scale:e}")
    };
    format!("the adapter {}{scale}", adapter.display())
}

fn decode_prefix(context: &mut Context, prefix: &[i32]) -> Result<(), LlamaError> {
    let mut batch = Batch::default();
    for (start, chunk) in prefix.chunks(BATCH).enumerate() {
        batch.clear();
        for (i, token) in chunk.iter().enumerate() {
            batch.push(*token, (start * BATCH + i) as i32, 0, false);
        }
        context.decode(&batch)?;
    }
    Ok(())
}
