//! From a prompt to a request for the decode thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::App;
use super::options::Options;
use crate::engine::host::Token;
use crate::serve::error::ApiError;
use crate::serve::harvest::Asking;
use crate::serve::live::generation;
use crate::serve::slots::{Event, Request};
use crate::serve::worker::Command;

/// A prompt whose answer is under way.
pub(super) struct Pending {
    pub events: UnboundedReceiver<Event>,
    pub prompt: Vec<Token>,
    /// As the request called it.
    pub model: String,
    /// Of the adapters it runs under.
    pub generation: String,
    _open: Open,
}

/// Counts a request until it is dropped.
struct Open(Arc<App>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Send a prompt to the decode thread. Dropping what is returned cancels it.
///
/// `asking`: what may be kept of it once it is answered
///
/// fails: it is empty, does not fit, or too many wait already.
pub(super) fn submit(
    app: &Arc<App>,
    options: &Options,
    prompt: Vec<Token>,
    asking: Option<Asking>,
) -> Result<Pending, ApiError> {
    app.base.check(app.clock.elapsed(), &app.say)?;
    let context = app.host.info().context;
    if prompt.is_empty() {
        return Err(ApiError::input("the prompt is empty"));
    }
    if prompt.len() >= context {
        return Err(ApiError::context(prompt.len(), context));
    }
    let most = app.config.slots + app.config.limits.requests_queued_max;
    let before = app.open.fetch_add(1, Ordering::SeqCst);
    let open = Open(Arc::clone(app));
    if before >= most {
        return Err(ApiError::busy(before - app.config.slots));
    }
    let grammar = options.grammar.as_deref();
    let grammar = grammar.map(|text| app.host.grammar(text)).transpose()?;
    let (events, receiver) = unbounded_channel();
    let free = context - prompt.len();
    let request = Request {
        id: app.number(),
        prompt: prompt.clone(),
        with: options.with.clone(),
        sampling: options.sampling.clone(),
        stops: options.stops.clone(),
        grammar,
        tokens_max: options.tokens_max.unwrap_or(free).min(free),
        ignore_end: options.ignore_end,
        alternatives: options.alternatives,
        cache: options.cache,
        sent_ms: app.clock.elapsed().as_secs_f64() * 1e3,
        asking,
        events,
    };
    if !app.send(Command::Submit(Box::new(request))) {
        return Err(ApiError::ended());
    }
    Ok(Pending {
        events: receiver,
        prompt,
        model: options.model.clone(),
        generation: generation(&options.with.key),
        _open: open,
    })
}
