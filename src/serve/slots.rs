//! The slots of the decode thread: who gets one, whose turn it is, what of a prompt is there
//! already.
//!
//! A slot is a sequence of the decoder. Slots with different adapters cannot share a step, so
//! adapters take turns, a step each; within a turn all slots of that adapter go on side by side.
//! What a slot has decoded stays until the slot is needed, and a new request whose prompt begins
//! alike, under the same generations, begins there. Nothing is ever taken over from another
//! generation.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

use super::effect::Probe;
use super::harvest::Asking;
use super::live::{Choice, Key};
use super::meters::Finished;
use super::sampler::{Drawn, Sampler, Sampling};
use super::text::Text;
use crate::control::Effect;
use crate::engine::host::{Decoder, Grammar, Host, Row, Token, Weights};
use crate::engine::{EngineError, is_distribution};
use crate::record::Clock;

/// One prompt to be continued.
pub(super) struct Request {
    pub id: u64,
    pub prompt: Vec<Token>,
    pub with: Choice,
    pub sampling: Sampling,
    pub stops: Vec<String>,
    /// What the answer is held to.
    pub grammar: Option<Box<dyn Grammar>>,
    pub tokens_max: usize,
    /// Go on where the model would end.
    pub ignore_end: bool,
    /// Likeliest tokens to report with each token; none: no probabilities.
    pub alternatives: Option<usize>,
    /// Begin with what another request has decoded.
    pub cache: bool,
    /// When it came. units: milliseconds of the server's clock
    pub sent_ms: f64,
    /// What may be kept of it.
    pub asking: Option<Asking>,
    pub events: UnboundedSender<Event>,
}

impl Request {
    /// Remember a piece of the answer, where answers are kept.
    fn note(&mut self, text: &str) {
        if let Some(answer) = self
            .asking
            .as_mut()
            .and_then(|asking| asking.answer.as_mut())
        {
            answer.push_str(text);
        }
    }
}

/// What a request receives while it runs.
#[derive(Debug)]
pub(super) enum Event {
    /// Text that is free to go, and the tokens since the last piece.
    Piece {
        text: String,
        drawn: Vec<Drawn>,
    },
    Done(Done),
    Failed(String),
}

/// How an answer ended.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub slot: usize,
    pub end: End,
    pub prompt_tokens: usize,
    /// Of those, how many were decoded before.
    pub cached: usize,
    pub tokens: usize,
    pub prompt_ms: f64,
    pub answer_ms: f64,
    /// The context was full.
    pub truncated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Model,
    Word(String),
    Limit,
}

/// What the outside may see of a slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub request: Option<u64>,
    pub prompt_tokens: usize,
    pub tokens: usize,
    pub held: usize,
    pub key: Key,
    /// Of the adapters of its request.
    pub names: Arc<[String]>,
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub prompt_ms: f64,
    pub tokens: u64,
    pub answer_ms: f64,
    pub steps: u64,
    pub switches: u64,
    pub done: u64,
    pub cancelled: u64,
    pub failed: u64,
}

struct Work {
    request: Request,
    sampler: Sampler,
    text: Text,
    /// Tokens since the last piece of text.
    unsent: Vec<Drawn>,
    cached: usize,
    tokens: usize,
    began_ms: f64,
    answering_ms: Option<f64>,
    /// The token to decode next, once the prompt is decoded.
    next: Option<Token>,
}

#[derive(Default)]
struct Slot {
    /// What the decoder holds of this sequence, and under which key.
    tokens: Vec<Token>,
    key: Key,
    work: Option<Work>,
    used: u64,
}

impl Slot {
    /// Tokens that `prompt` shares with what is here; at least one is left to decode.
    fn shared(&self, request: &Request) -> usize {
        if self.key != request.with.key {
            return 0;
        }
        let most = request.prompt.len().saturating_sub(1);
        self.tokens
            .iter()
            .zip(&request.prompt[..most])
            .take_while(|(a, b)| a == b)
            .count()
    }
}

pub(super) struct Slots<'h> {
    host: &'h dyn Host,
    decoder: Box<dyn Decoder>,
    clock: &'h dyn Clock,
    slots: Vec<Slot>,
    /// Tokens that one slot may hold.
    context: usize,
    uses: u64,
    last: Key,
    totals: Totals,
    /// Requests that are over, and their last events; see [`Slots::send_ends`].
    ends: Vec<(UnboundedSender<Event>, Event)>,
    /// Answers that were finished since they were last taken.
    finished: Vec<Finished>,
    /// A request without adapters had logits that are not finite: adapters are not to blame.
    broken_model: bool,
    probe: Probe,
}

impl<'h> Slots<'h> {
    pub(super) fn new(
        host: &'h dyn Host,
        decoder: Box<dyn Decoder>,
        clock: &'h dyn Clock,
        count: usize,
        probe: Probe,
    ) -> Self {
        let slots = (0..count).map(|_| Slot::default()).collect();
        Self {
            context: host.info().context,
            host,
            decoder,
            clock,
            slots,
            uses: 0,
            last: Key::new(),
            totals: Totals::default(),
            ends: Vec::new(),
            finished: Vec::new(),
            broken_model: false,
            probe,
        }
    }

    /// Compare an adapter with the base, beside what runs.
    pub(super) fn effect(&mut self, weights: &Weights) -> Result<Option<Effect>, EngineError> {
        self.probe.effect(&mut *self.decoder, weights)
    }

    /// Run the model once, so that the first request does not wait for what is done at the first
    /// step.
    pub(super) fn warm(&mut self) {
        let row = Row {
            token: self.host.bos().unwrap_or(0),
            position: 0,
            sequence: 0,
            output: true,
        };
        // What is wrong with the model is the answer to its first request.
        _ = self.decoder.step(&[], &[row]);
        self.decoder.truncate(0, 0);
    }

    pub(super) fn is_free(&self) -> bool {
        self.slots.iter().any(|slot| slot.work.is_none())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.slots.iter().all(|slot| slot.work.is_none())
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        let one = |slot: &Slot| Seen {
            request: slot.work.as_ref().map(|work| work.request.id),
            prompt_tokens: slot
                .work
                .as_ref()
                .map_or(0, |work| work.request.prompt.len()),
            tokens: slot.work.as_ref().map_or(0, |work| work.tokens),
            held: slot.tokens.len(),
            key: slot.key.clone(),
            names: slot
                .work
                .as_ref()
                .map_or_else(Arc::default, |work| Arc::clone(&work.request.with.names)),
        };
        self.slots.iter().map(one).collect()
    }

    fn now_ms(&self) -> f64 {
        self.clock.elapsed().as_secs_f64() * 1e3
    }

    /// Give a request a slot; the caller knows that one is free.
    pub(super) fn begin(&mut self, mut request: Request) {
        let shared = |slot: &Slot| {
            if request.cache {
                slot.shared(&request)
            } else {
                0
            }
        };
        let oldest = (0..self.slots.len())
            .filter(|&i| self.slots[i].work.is_none())
            .min_by_key(|&i| self.slots[i].used);
        let Some(oldest) = oldest else { return };
        let best = (0..self.slots.len())
            .max_by_key(|&i| {
                (
                    shared(&self.slots[i]),
                    self.slots[i].work.is_none(),
                    usize::MAX - i,
                )
            })
            .unwrap_or(oldest);
        let cached = shared(&self.slots[best]);
        // A slot most of which goes on is taken; of another the beginning is copied, and it stays
        // for whoever comes back to it.
        let goes_on =
            self.slots[best].work.is_none() && 2 * cached >= self.slots[best].tokens.len();
        let chosen = if cached > 0 && goes_on { best } else { oldest };
        if chosen == best || cached == 0 {
            self.decoder.truncate(chosen, cached);
            self.slots[chosen].tokens.truncate(cached);
        } else {
            self.decoder.fork(best, chosen, cached);
            self.slots[chosen].tokens = request.prompt[..cached].to_vec();
        }
        self.uses += 1;
        let began_ms = self.now_ms();
        let slot = &mut self.slots[chosen];
        slot.key.clone_from(&request.with.key);
        slot.used = self.uses;
        slot.work = Some(Work {
            sampler: Sampler::new(
                request.sampling.clone(),
                &request.prompt,
                request.grammar.take(),
            ),
            text: Text::new(request.stops.clone()),
            unsent: Vec::new(),
            cached,
            tokens: 0,
            began_ms,
            answering_ms: None,
            next: None,
            request,
        });
    }

    /// Free the slots whose clients went away.
    pub(super) fn sweep(&mut self) {
        for slot in &mut self.slots {
            if slot
                .work
                .as_ref()
                .is_some_and(|work| work.request.events.is_closed())
            {
                slot.work = None;
                self.totals.cancelled += 1;
            }
        }
    }

    /// Send the last event of each request that is over. The caller has published the totals by
    /// then: who has an answer finds it counted.
    pub(super) fn send_ends(&mut self) {
        for (events, event) in self.ends.drain(..) {
            _ = events.send(event);
        }
    }

    /// Take what was finished since the last time.
    pub(super) fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    /// End every running request with a reason.
    pub(super) fn fail_all(&mut self, why: &str) {
        (0..self.slots.len()).for_each(|i| self.fail(i, why));
    }

    fn fail(&mut self, slot: usize, why: &str) {
        let slot_number = slot;
        let slot = &mut self.slots[slot];
        let Some(work) = slot.work.take() else { return };
        let failed = Event::Failed(why.to_owned());
        self.ends.push((work.request.events, failed));
        // Nobody knows what of the step was done.
        slot.tokens.clear();
        self.decoder.truncate(slot_number, 0);
        self.totals.failed += 1;
    }

    /// The adapters whose turn it is: of those that wait the first after the last, in their order.
    fn turn(&self) -> Option<Key> {
        let waiting = || {
            self.slots
                .iter()
                .filter(|slot| slot.work.is_some())
                .map(|slot| &slot.key)
        };
        waiting()
            .filter(|key| **key > self.last)
            .min()
            .or_else(|| waiting().min())
            .cloned()
    }

    /// One step of the model, for those whose turn it is.
    pub(super) fn step(&mut self) {
        let Some(key) = self.turn() else { return };
        if key != self.last {
            self.totals.switches += 1;
            self.last = key;
        }
        let (rows, outputs) = self.rows();
        let with = outputs
            .first()
            .map(|(slot, _)| *slot)
            .or_else(|| rows.first().map(|row| row.sequence));
        let with = with
            .and_then(|slot| self.slots[slot].work.as_ref())
            .map_or(Vec::new(), |work| work.request.with.weights.clone());
        let stepped = self.decoder.step(&with, &rows);
        self.totals.steps += 1;
        match stepped {
            Ok(logits) => {
                for row in &rows {
                    self.slots[row.sequence].tokens.push(row.token);
                }
                for ((slot, _), logits) in outputs.into_iter().zip(logits) {
                    self.read(slot, logits);
                }
            }
            Err(error) => self.fail_turn(&rows, &error),
        }
    }

    fn fail_turn(&mut self, rows: &[Row], error: &EngineError) {
        let mut slots: Vec<usize> = rows.iter().map(|row| row.sequence).collect();
        slots.dedup();
        slots
            .into_iter()
            .for_each(|slot| self.fail(slot, &error.to_string()));
    }

    /// The rows of this turn: a token for each slot that answers, then as much of the prompts as
    /// fits. And the slots with an output.
    fn rows(&self) -> (Vec<Row>, Vec<(usize, usize)>) {
        let most = self.decoder.rows_max();
        let (mut rows, mut outputs) = (Vec::new(), Vec::new());
        let mine = || {
            self.slots
                .iter()
                .enumerate()
                .filter(|(_, slot)| slot.key == self.last)
        };
        for (number, slot) in mine() {
            if let Some(token) = slot.work.as_ref().and_then(|work| work.next) {
                outputs.push((number, rows.len()));
                rows.push(Row {
                    token,
                    position: slot.tokens.len(),
                    sequence: number,
                    output: true,
                });
            }
        }
        for (number, slot) in mine() {
            let Some(work) = slot.work.as_ref().filter(|work| work.next.is_none()) else {
                continue;
            };
            let (from, all) = (slot.tokens.len(), work.request.prompt.len());
            let take = (all - from).min(most - rows.len());
            for position in from..from + take {
                let output = position + 1 == all;
                if output {
                    outputs.push((number, rows.len()));
                }
                rows.push(Row {
                    token: work.request.prompt[position],
                    position,
                    sequence: number,
                    output,
                });
            }
        }
        (rows, outputs)
    }

    /// Take the next token of a slot from its logits.
    fn read(&mut self, number: usize, mut logits: Vec<f32>) {
        if !is_distribution(&logits) {
            return self.fail_unfit(number);
        }
        let now = self.now_ms();
        let slot = &mut self.slots[number];
        let Some(work) = slot.work.as_mut() else {
            return;
        };
        if work.answering_ms.is_none() {
            work.answering_ms = Some(now);
            self.totals.prompt_ms += now - work.began_ms;
            self.totals.prompt_tokens += (work.request.prompt.len() - work.cached) as u64;
            self.totals.cached_tokens += work.cached as u64;
        }
        if work.request.tokens_max == 0 {
            return self.finish(number, End::Limit, false);
        }
        if work.request.ignore_end {
            let ends = (0..logits.len()).filter(|&token| self.host.is_end(token as Token));
            ends.for_each(|token| logits[token] = f32::NEG_INFINITY);
        }
        let drawn = match work.sampler.draw(logits, work.request.alternatives) {
            Ok(drawn) => drawn,
            Err(error) => return self.fail(number, &error.to_string()),
        };
        let token = drawn.token;
        work.tokens += 1;
        work.next = Some(token);
        if self.host.is_end(token) {
            return self.finish(number, End::Model, false);
        }
        let grown = work.text.push(&self.host.piece(token, false));
        work.unsent.push(drawn);
        let stopped = grown.stop.is_some();
        work.request.note(&grown.text);
        if !grown.text.is_empty() {
            let drawn = std::mem::take(&mut work.unsent);
            _ = work.request.events.send(Event::Piece {
                text: grown.text,
                drawn,
            });
        }
        let full = slot.tokens.len() + 1 >= self.context;
        if let Some(stop) = grown.stop {
            return self.finish(number, End::Word(stop), false);
        }
        if !stopped && (work.tokens >= work.request.tokens_max || full) {
            self.finish(number, End::Limit, full);
        }
    }

    /// End a request whose logits are no numbers to draw a token by.
    fn fail_unfit(&mut self, number: usize) {
        let Some(work) = &self.slots[number].work else {
            return;
        };
        self.broken_model |= work.request.with.key.is_empty();
        let with = if self.broken_model {
            "the model itself".into()
        } else {
            work.request.with.described()
        };
        let why = format!(
            "the logits of {with} are not finite, so there is no answer: a weight or a scale is \
             too large, or damaged"
        );
        self.fail(number, &why);
    }

    fn finish(&mut self, number: usize, end: End, truncated: bool) {
        let now = self.now_ms();
        let slot = &mut self.slots[number];
        let Some(mut work) = slot.work.take() else {
            return;
        };
        let rest = if matches!(end, End::Word(_)) {
            String::new()
        } else {
            work.text.finish()
        };
        let silent = rest.is_empty() && (work.unsent.is_empty() || matches!(end, End::Word(_)));
        work.request.note(&rest);
        if !silent {
            _ = work.request.events.send(Event::Piece {
                text: rest,
                drawn: work.unsent,
            });
        }
        let asking = work.request.asking.take();
        let asking = asking.map(|asking| asking.ended(&end));
        let answering_ms = work.answering_ms.unwrap_or(now);
        self.totals.tokens += work.tokens as u64;
        self.totals.answer_ms += now - answering_ms;
        self.totals.done += 1;
        self.finished.push(Finished {
            names: Arc::clone(&work.request.with.names),
            key: work.request.with.key.clone(),
            prompt_tokens: work.request.prompt.len(),
            tokens: work.tokens,
            first_seconds: (answering_ms - work.request.sent_ms) / 1e3,
            whole_seconds: (now - work.request.sent_ms) / 1e3,
            asking,
        });
        let done = Event::Done(Done {
            slot: number,
            end,
            prompt_tokens: work.request.prompt.len(),
            cached: work.cached,
            tokens: work.tokens,
            prompt_ms: answering_ms - work.began_ms,
            answer_ms: now - answering_ms,
            truncated,
        });
        self.ends.push((work.request.events, done));
    }
}

#[cfg(test)]
mod tests;
