//! The decode thread: takes requests, runs the slots, ends on command.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::effect::Probe;
use super::harvest::Keeper;
use super::meters::Meters;
use super::slots::{Event, Request, Seen, Slots, Totals};
use crate::control::Effect;
use crate::engine::EngineError;
use crate::engine::host::{Hosted, Weights};
use crate::record::Clock;

/// To the decode thread.
pub(super) enum Command {
    /// Queue a request.
    Submit(Box<Request>),
    /// Compare an adapter with the base, between two steps.
    Probe(Weights, Sender<Result<Option<Effect>, EngineError>>),
    /// End running requests and the thread.
    Stop,
}

/// What the decode thread shows of itself.
pub(super) struct Board {
    shown: Mutex<Shown>,
    ended: AtomicBool,
    /// What the base is called.
    base: String,
    pub meters: Meters,
}

/// Says that the decode thread has ended, however it did.
struct Ends<'b>(&'b Board);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::SeqCst);
    }
}

#[derive(Clone, Default)]
pub(super) struct Shown {
    pub slots: Vec<Seen>,
    /// The adapters of each request that waits.
    pub waiting: Vec<Arc<[String]>>,
    pub totals: Totals,
}

impl Board {
    /// Nothing was done. `base`: what the base is called
    pub(super) fn new(base: &str) -> Self {
        Self {
            shown: Mutex::default(),
            ended: AtomicBool::new(false),
            base: base.to_owned(),
            meters: Meters::default(),
        }
    }

    pub(super) fn read(&self) -> Shown {
        self.lock().clone()
    }

    /// The decode thread runs no more: nothing will be answered.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Run requests until a command to stop, or until nobody can send one any more.
pub(super) fn run(
    hosted: Hosted,
    clock: &dyn Clock,
    (slots, probe): (usize, Probe),
    commands: &Receiver<Command>,
    board: &Arc<Board>,
    keeper: Option<&Keeper>,
) {
    let _ends = Ends(board);
    let mut slots = Slots::new(&*hosted.host, hosted.decoder, clock, slots, probe);
    slots.warm();
    let mut waiting: VecDeque<Box<Request>> = VecDeque::new();
    let mut probes = Vec::new();
    loop {
        let asleep = slots.is_idle() && waiting.is_empty();
        if !receive(commands, &mut waiting, &mut probes, asleep) {
            break;
        }
        for (weights, answer) in probes.drain(..) {
            // Who asked may be gone.
            _ = answer.send(slots.effect(&weights));
        }
        slots.sweep();
        waiting.retain(|request| !request.events.is_closed());
        while slots.is_free()
            && let Some(request) = waiting.pop_front()
        {
            slots.begin(*request);
        }
        show(board, &mut slots, &waiting, keeper);
        slots.step();
        show(board, &mut slots, &waiting, keeper);
        slots.send_ends();
    }
    let why = "the server is shutting down";
    slots.fail_all(why);
    slots.send_ends();
    waiting
        .into_iter()
        .for_each(|request| _ = request.events.send(Event::Failed(why.into())));
}

fn show(
    board: &Board,
    slots: &mut Slots<'_>,
    waiting: &VecDeque<Box<Request>>,
    keeper: Option<&Keeper>,
) {
    for mut finished in slots.take_finished() {
        board.meters.count(&finished, &board.base);
        if let Some((keeper, asking)) = keeper.zip(finished.asking.take()) {
            keeper.send(asking);
        }
    }
    let names = waiting
        .iter()
        .map(|request| Arc::clone(&request.with.names));
    let waiting = names.collect();
    let mut shown = board.lock();
    *shown = Shown {
        slots: slots.seen(),
        waiting,
        totals: slots.totals(),
    };
}

/// An adapter to compare, and where the answer goes.
type Asked = (Weights, Sender<Result<Option<Effect>, EngineError>>);

/// Take what was sent; wait for something if there is nothing to do. False: the end.
fn receive(
    commands: &Receiver<Command>,
    waiting: &mut VecDeque<Box<Request>>,
    probes: &mut Vec<Asked>,
    asleep: bool,
) -> bool {
    if asleep {
        match commands.recv() {
            Ok(Command::Submit(request)) => waiting.push_back(request),
            Ok(Command::Probe(weights, answer)) => probes.push((weights, answer)),
            Ok(Command::Stop) | Err(_) => return false,
        }
    }
    loop {
        match commands.try_recv() {
            Ok(Command::Submit(request)) => waiting.push_back(request),
            Ok(Command::Probe(weights, answer)) => probes.push((weights, answer)),
            Err(TryRecvError::Empty) => return true,
            Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
        }
    }
}
