//! Keeps prompts, where that was requested: those of requests that one adapter answered at full
//! scale, under its name.
//!
//! Files are a thread's own. Who answers clients or decodes sends it what may be kept through a
//! bounded queue and never waits: what finds the queue full is counted and dropped. A disk that is
//! full is a warning and a count.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use translora_harvest::{Asked, Bounds, Harvest, HarvestError, Kept, Row, random_seed};

use super::live::Choice;
use super::slots::End;
use super::{Say, ServeError};
use crate::record::Clock;

/// Prompts that wait to be written.
const QUEUED_MAX: usize = 256;
/// How often rows whose time is over are looked for.
const EXPIRY: Duration = Duration::from_secs(3600);
/// How long the end of a server waits for prompts to be written.
const LAST_ROWS: Duration = Duration::from_secs(2);
/// Adapters that are counted by name; the others are counted as one.
const COUNTED_MAX: usize = 128;

/// What is kept of requests, and where.
#[derive(Clone, Debug)]
pub struct Keeping {
    /// The folder; only its owner may enter it.
    pub folder: PathBuf,
    /// How much, and for how long.
    pub bounds: Bounds,
    /// Keep the answers, too.
    pub answers: bool,
}

impl Keeping {
    /// What the start of a server says of it.
    fn announced(&self) -> String {
        let Bounds {
            rows_max,
            ttl_seconds,
            ..
        } = self.bounds;
        let answers = if self.answers { "with" } else { "without" };
        format!(
            "prompts are kept in {}: those that one adapter answers, {rows_max} of each at most, \
             for {}, {answers} their answers",
            self.folder.display(),
            duration(ttl_seconds)
        )
    }
}

/// A time as a person writes it.
fn duration(seconds: u64) -> String {
    let units = [(24 * 3600, "days"), (3600, "hours"), (60, "minutes")];
    let unit = units
        .into_iter()
        .find(|(unit, _)| seconds.is_multiple_of(*unit));
    let (unit, name) = unit.unwrap_or((1, "seconds"));
    format!("{} {name}", seconds / unit)
}

/// A prompt that may be kept once it was answered.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    adapter: String,
    sha256: String,
    asked: Asked,
    /// The answer so far, where answers are kept.
    pub answer: Option<String>,
}

impl Asking {
    /// Without its answer where that did not end by itself.
    pub(super) fn ended(self, end: &End) -> Self {
        Self {
            answer: self.answer.filter(|_| *end == End::Model),
            ..self
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    adapter: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Lost {
    adapter: String,
    reason: &'static str,
}

/// What became of prompts.
#[derive(Default)]
pub(super) struct Counts {
    rows: Family<Of, Gauge>,
    seen: Family<Of, Counter>,
    dropped: Family<Lost, Counter>,
    known: Mutex<BTreeSet<String>>,
    answers: bool,
}

impl Counts {
    fn label(&self, adapter: &str) -> String {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(adapter) || known.len() < COUNTED_MAX {
            known.insert(adapter.to_owned());
            return adapter.to_owned();
        }
        "others".into()
    }

    fn lose(&self, adapter: &str, reason: &'static str) {
        let adapter = self.label(adapter);
        self.dropped.get_or_create(&Lost { adapter, reason }).inc();
    }

    /// What may be kept of a request: where one adapter answers it at full scale, and `asked` is a
    /// conversation or a text.
    ///
    /// `whole`: the answer is as the adapter gives it by itself
    pub(super) fn asking(
        &self,
        with: &Choice,
        whole: bool,
        asked: impl FnOnce() -> Option<Asked>,
    ) -> Option<Asking> {
        let ([name], [(weights, scale)]) = (&*with.names, &*with.weights) else {
            return None;
        };
        if scale.to_bits() != 1.0_f32.to_bits() {
            return None;
        }
        let Some(asked) = asked() else {
            self.lose(name, "unfit");
            return None;
        };
        Some(Asking {
            adapter: name.clone(),
            sha256: weights.hash.to_string(),
            asked,
            answer: (self.answers && whole).then(String::new),
        })
    }

    /// Put them among those that are sent.
    pub(super) fn register(&self, registry: &mut Registry) {
        let rows = "Prompts that are kept";
        registry.register("translora:harvest_rows", rows, self.rows.clone());
        let seen = "Answered prompts that could be kept; most are there already, or not drawn";
        registry.register("translora:harvest_seen", seen, self.seen.clone());
        let dropped = "Prompts that could not be kept: \
            no conversation (unfit), too long, the queue full (busy), or an error (failed)";
        registry.register("translora:harvest_dropped", dropped, self.dropped.clone());
    }
}

/// Sends prompts to the thread that writes them.
pub(super) struct Keeper {
    queue: SyncSender<Asking>,
    counts: Arc<Counts>,
}

impl Keeper {
    /// Keep a prompt that was answered, or count it as dropped. Does not wait.
    pub(super) fn send(&self, asking: Asking) {
        let of = Of {
            adapter: self.counts.label(&asking.adapter),
        };
        self.counts.seen.get_or_create(&of).inc();
        if let Err(mpsc::TrySendError::Full(asking) | mpsc::TrySendError::Disconnected(asking)) =
            self.queue.try_send(asking)
        {
            self.counts.lose(&asking.adapter, "busy");
        }
    }
}

/// The thread that writes.
pub(super) struct Writer {
    pub counts: Arc<Counts>,
    ended: Receiver<()>,
}

impl Writer {
    /// Open the folder, and start the thread. It ends when the keeper is gone.
    ///
    /// fails: the folder cannot be created, others may enter it, or the system gives no thread
    pub(super) fn start(
        keeping: &Keeping,
        clock: Arc<dyn Clock>,
        say: &Say,
    ) -> Result<(Self, Keeper), ServeError> {
        let harvest = Harvest::open(&keeping.folder, keeping.bounds)?;
        let counts = Arc::new(Counts {
            answers: keeping.answers,
            ..Counts::default()
        });
        let (queue, waiting) = sync_channel(QUEUED_MAX);
        let (ending, ended) = mpsc::channel();
        let mut thread = Thread {
            harvest,
            seed: random_seed()?,
            clock,
            counts: Arc::clone(&counts),
            say: Arc::clone(say),
            failure: None,
        };
        say(&keeping.announced());
        let builder = std::thread::Builder::new().name("harvest".into());
        let run = move || {
            thread.run(&waiting);
            _ = ending.send(());
        };
        builder.spawn(run).map_err(ServeError::Threads)?;
        let keeper = Keeper {
            queue,
            counts: Arc::clone(&counts),
        };
        Ok((Self { counts, ended }, keeper))
    }

    /// Wait until what was sent is written, for a moment; the keeper is gone by then.
    pub(super) fn end(&self) {
        _ = self.ended.recv_timeout(LAST_ROWS);
    }
}

struct Thread {
    harvest: Harvest,
    /// Of the files that are begun.
    seed: u64,
    clock: Arc<dyn Clock>,
    counts: Arc<Counts>,
    say: Say,
    /// What was said last of what fails.
    failure: Option<String>,
}

impl Thread {
    fn run(&mut self, waiting: &Receiver<Asking>) {
        let mut swept = None;
        loop {
            let now = self.clock.elapsed();
            if swept.is_none_or(|swept: Duration| now - swept >= EXPIRY) {
                swept = Some(now);
                let expired = self.harvest.expire(self.clock.unix_seconds());
                self.report(expired.map(drop));
            }
            match waiting.recv_timeout(EXPIRY) {
                Ok(asking) => self.keep(asking),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn keep(&mut self, asking: Asking) {
        let now = self.clock.unix_seconds();
        let row = Row {
            at: now,
            until: self.harvest.until(now),
            sha256: asking.sha256,
            asked: asking.asked,
            answer: asking.answer,
        };
        let kept = self.harvest.keep(&asking.adapter, &row, self.seed);
        match kept {
            Ok(Kept::TooLong) => self.counts.lose(&asking.adapter, "too_long"),
            Ok(Kept::Added | Kept::Repeated | Kept::NotDrawn) => {}
            Err(_) => self.counts.lose(&asking.adapter, "failed"),
        }
        let of = Of {
            adapter: self.counts.label(&asking.adapter),
        };
        let rows = self.harvest.rows(&asking.adapter);
        self.counts.rows.get_or_create(&of).set(rows as i64);
        self.report(kept.map(drop));
    }

    /// Say what fails, once for each reason until it works again.
    fn report(&mut self, done: Result<(), HarvestError>) {
        let failure = done.err().map(|error| error.to_string());
        if let Some(reason) = &failure
            && self.failure != failure
        {
            (self.say)(&format!("warning: prompts are not kept: {reason}"));
        }
        self.failure = failure;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_in_its_largest_unit() {
        let cases = [
            (30 * 24 * 3600, "30 days"),
            (36 * 3600, "36 hours"),
            (90, "90 seconds"),
            (120, "2 minutes"),
        ];
        for (seconds, words) in cases {
            assert_eq!(duration(seconds), words);
        }
    }
}
