//! The connections of a server: how many there are, what each one does, and which have to go.
//!
//! One that waits for its client has a deadline, and gives way to a new one where all places are
//! taken. One whose answer is on the way has none, as long as the client reads.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The most connections however many descriptors there are.
const PLACES_MAX: u64 = 4096;
/// The part of its time after which a client that reads nothing gives way to a new one: one second of
/// a minute. Who reads slowly is between two reads at any moment.
const UNREAD_PART: u32 = 60;

/// What is granted to connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Connections at a time.
    pub connections_max: usize,
    /// Time for the head of a request, from its first byte, or from the beginning of the connection.
    pub head: Duration,
    /// Time between two requests.
    pub idle: Duration,
    /// Time in which a client reads nothing of its answer.
    pub unread: Duration,
}

impl Default for Bounds {
    /// Three quarters of the descriptors that this process may have; the rest is for files.
    fn default() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let places = (descriptors - descriptors / 4).clamp(8, PLACES_MAX);
        Self {
            connections_max: usize::try_from(places).unwrap_or(usize::MAX),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            unread: Duration::from_secs(60),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing has come since the last answer.
    Idle,
    /// A head has begun, or the connection.
    Head,
    /// The body of a request comes in; who reads it has a deadline for it.
    Body,
    /// The answer is worked on, or goes out.
    Answer,
    /// It has been ended.
    Over,
}

#[derive(Debug)]
struct Now {
    phase: Phase,
    since: Instant,
    /// Since when the client has read nothing, where something is to be sent.
    unread: Option<Instant>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Place {
    now: Mutex<Now>,
    over: Notify,
}

impl Place {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, phase: Phase) {
        let mut now = self.now();
        if now.phase != Phase::Over {
            (now.phase, now.since) = (phase, Instant::now());
        }
    }

    /// A request has come. Returned: what is held while its body comes in, and until its answer has
    /// been written.
    pub(super) fn request(self: &Arc<Self>, has_body: bool) -> (Arriving, Answering) {
        self.enter(if has_body { Phase::Body } else { Phase::Answer });
        (Arriving(Arc::clone(self)), Answering(Arc::clone(self)))
    }

    /// Wait until it has to end.
    pub(super) async fn over(&self) {
        self.over.notified().await;
    }

    fn end(&self) {
        self.enter(Phase::Over);
        self.over.notify_one();
    }

    fn read(&self) {
        if self.now().phase == Phase::Idle {
            self.enter(Phase::Head);
        }
    }

    fn wrote(&self) {
        let mut now = self.now();
        now.unread = None;
        if now.phase == Phase::Idle {
            // The rest of the answer.
            now.since = Instant::now();
        }
    }

    fn cannot_write(&self) {
        self.now().unread.get_or_insert_with(Instant::now);
    }
}

/// Held while the body of a request comes in.
pub(super) struct Arriving(Arc<Place>);

impl Drop for Arriving {
    fn drop(&mut self) {
        if self.0.now().phase == Phase::Body {
            self.0.enter(Phase::Answer);
        }
    }
}

/// Held until an answer has been written.
pub(super) struct Answering(Arc<Place>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
    }
}

/// All connections.
#[derive(Debug)]
pub(super) struct Table {
    bounds: Bounds,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    all: BTreeMap<u64, Arc<Place>>,
}

impl Table {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            places: Mutex::default(),
        }
    }

    pub(super) fn connections_max(&self) -> usize {
        self.bounds.connections_max
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_full(&self) -> bool {
        self.places().all.len() >= self.bounds.connections_max
    }

    /// A place for a new connection, until it is dropped.
    pub(super) fn take(self: &Arc<Self>) -> Held {
        let mut places = self.places();
        let number = places.next;
        places.next += 1;
        let place = Arc::new(Place {
            now: Mutex::new(Now {
                phase: Phase::Head,
                since: Instant::now(),
                unread: None,
            }),
            over: Notify::new(),
        });
        places.all.insert(number, Arc::clone(&place));
        Held {
            table: Arc::clone(self),
            number,
            place,
        }
    }

    /// End the connection that has waited longest for its client, or to be read by it. False where
    /// all work.
    pub(super) fn end_one(&self) -> bool {
        let mut places = self.places();
        let patience = self.bounds.unread / UNREAD_PART;
        let waiting = |(number, place): (&u64, &Arc<Place>)| {
            let now = place.now();
            let waits = matches!(now.phase, Phase::Idle | Phase::Head | Phase::Body);
            let unread = now.unread.filter(|since| since.elapsed() > patience);
            let since = if waits { Some(now.since) } else { unread };
            since.map(|since| (since, *number))
        };
        let longest = places.all.iter().filter_map(waiting).min();
        let Some((_, number)) = longest else {
            return false;
        };
        if let Some(place) = places.all.remove(&number) {
            place.end();
        }
        true
    }

    /// End those whose time is over.
    pub(super) fn sweep(&self) {
        let over = |place: &Place| {
            let now = place.now();
            let too_long = |since: Instant, most| since.elapsed() > most;
            now.unread
                .is_some_and(|since| too_long(since, self.bounds.unread))
                || match now.phase {
                    Phase::Idle => too_long(now.since, self.bounds.idle),
                    Phase::Head => too_long(now.since, self.bounds.head),
                    Phase::Body | Phase::Answer | Phase::Over => false,
                }
        };
        self.end_where(over);
    }

    /// End those that no request has come from.
    pub(super) fn end_without_request(&self) {
        self.end_where(|place| matches!(place.now().phase, Phase::Idle | Phase::Head));
    }

    fn end_where(&self, over: impl Fn(&Place) -> bool) {
        let places = self.places();
        let ended = places.all.values().filter(|place| over(place));
        ended.for_each(|place| place.end());
    }
}

/// A place in the table.
pub(super) struct Held {
    table: Arc<Table>,
    number: u64,
    pub place: Arc<Place>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.table.places().all.remove(&self.number);
    }
}

/// A stream that notes what comes and goes.
pub(super) struct Watched {
    stream: TcpStream,
    place: Arc<Place>,
}

impl Watched {
    pub(super) fn new(stream: TcpStream, place: Arc<Place>) -> Self {
        Self { stream, place }
    }

    fn note<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match written {
            Poll::Pending => self.place.cannot_write(),
            Poll::Ready(_) => self.place.wrote(),
        }
        written
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        if into.filled().len() > before {
            self.place.read();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
