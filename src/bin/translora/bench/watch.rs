//! A stream that is read on a thread of its own, which writes down when its events come.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use translora::record::Clock;

use super::client::{Reply, post};
use crate::failure::Failure;

/// Longer than a step of a large model takes on a small machine.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Watched {
    heard: Arc<Heard>,
    reader: JoinHandle<Result<(), Failure>>,
}

#[derive(Default)]
struct Heard {
    arrivals: Mutex<Vec<Arrival>>,
    news: Condvar,
    over: AtomicBool,
}

#[derive(Clone, Copy)]
struct Arrival {
    at: Duration,
    /// Of its stream: the time before it is no gap.
    first: bool,
}

impl Watched {
    /// Begin to read; where the stream ends another is asked for.
    ///
    /// fails: the server refuses
    pub fn start(
        address: SocketAddr,
        body: Value,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, Failure> {
        let first = post(address, PATH, &body)?;
        let heard = Arc::<Heard>::default();
        let (writes, clock) = (Arc::clone(&heard), Arc::clone(clock));
        let reader = thread::spawn(move || {
            let end = read(first, address, &body, &writes, &*clock);
            writes.over.store(true, Ordering::SeqCst);
            writes.news.notify_all();
            end
        });
        Ok(Self { heard, reader })
    }

    /// Wait until so many events more have come.
    ///
    /// fails: the stream broke off
    pub fn wait(&self, more: usize) -> Result<(), Failure> {
        let arrivals = self
            .heard
            .arrivals
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let wanted = arrivals.len() + more;
        let missing = |arrivals: &mut Vec<Arrival>| {
            arrivals.len() < wanted && !self.heard.over.load(Ordering::SeqCst)
        };
        let waited = self
            .heard
            .news
            .wait_timeout_while(arrivals, PATIENCE, missing);
        let came = waited.unwrap_or_else(PoisonError::into_inner).0.len() >= wanted;
        let hint = || "run `translora serve` alone and ask it, to see why".into();
        if came {
            Ok(())
        } else {
            Err(Failure::Usage {
                message: "the stream that is measured broke off".into(),
                hint: hint(),
            })
        }
    }

    /// The times between two events that lie, in whole or in part, between `from` and `to`. units:
    /// milliseconds
    pub fn gaps(&self, from: Duration, to: Duration) -> Vec<f64> {
        let arrivals = self
            .heard
            .arrivals
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let within = arrivals
            .windows(2)
            .filter(|pair| !pair[1].first && pair[1].at > from && pair[0].at < to);
        within
            .map(|pair| milliseconds(pair[1].at - pair[0].at))
            .collect()
    }

    /// Leave the stream.
    ///
    /// fails: it broke off before
    pub fn end(self) -> Result<(), Failure> {
        self.heard.over.store(true, Ordering::SeqCst);
        self.reader
            .join()
            .unwrap_or_else(|_| Err(Failure::Bug("the reader of a stream panicked".into())))
    }
}

const PATH: &str = "/v1/completions";

fn read(
    first: Reply,
    address: SocketAddr,
    body: &Value,
    heard: &Heard,
    clock: &dyn Clock,
) -> Result<(), Failure> {
    let (mut stream, mut is_first) = (first, true);
    while !heard.over.load(Ordering::SeqCst) {
        if stream.event()? {
            let arrival = Arrival {
                at: clock.elapsed(),
                first: is_first,
            };
            heard
                .arrivals
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(arrival);
            heard.news.notify_all();
            is_first = false;
        } else {
            (stream, is_first) = (post(address, PATH, body)?, true);
        }
    }
    Ok(())
}

pub fn milliseconds(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}
