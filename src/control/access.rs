//! What both routers put around their paths: a number for each request, a line for it in the log.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, Request, Response};
use tower_http::request_id::{
    MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer,
};
use tower_http::trace::TraceLayer;
use tracing::field::display;
use tracing::{Span, error_span, info, warn};

/// Names a request, in both directions.
pub const REQUEST_ID: &str = "x-request-id";

/// What the lines of requests are called in the log.
const TARGET: &str = "translora::access";

/// What of a response the log names: who answered.
#[derive(Clone, Debug)]
pub struct AnsweredBy {
    /// As the request called it.
    pub model: String,
    /// Its generation.
    pub generation: String,
}

impl fmt::Display for AnsweredBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (generation {})", self.model, self.generation)
    }
}

/// Numbers for requests that came without one: unique where the start of the process is.
#[derive(Clone)]
struct Numbers {
    start: u64,
    next: Arc<AtomicU64>,
}

impl MakeRequestId for Numbers {
    fn make_request_id<B>(&mut self, _: &Request<B>) -> Option<RequestId> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let text = format!("req-{:x}-{number:x}", self.start);
        HeaderValue::from_str(&text).ok().map(RequestId::new)
    }
}

fn span<B>(request: &Request<B>) -> Span {
    // No query: nothing here reads one, and it could hold anything.
    // A line of any level is to name its request.
    error_span!(
        target: TARGET,
        "request",
        method = %request.method(),
        path = %request.uri().path(),
    )
}

/// The line of a request. What the server is to blame for is a warning.
fn line<B>(response: &Response<B>, latency: Duration, _: &Span) {
    let status = response.status().as_u16();
    let ms = latency.as_micros() as f64 / 1e3;
    let adapter = response.extensions().get::<AnsweredBy>().map(display);
    let id = response.headers().get(REQUEST_ID);
    let id = id.and_then(|id| id.to_str().ok()).map(display);
    if response.status().is_server_error() {
        warn!(target: TARGET, status, ms, adapter, id);
    } else {
        info!(target: TARGET, status, ms, adapter, id);
    }
}

/// The router with request ids and a log. Of a request, method, path and id are logged, and nothing
/// else: headers hold keys, bodies hold prompts.
///
/// `start`: when the process began. units: seconds since 1970
pub fn observed(router: Router, start: u64) -> Router {
    let name = HeaderName::from_static(REQUEST_ID);
    let numbers = Numbers {
        start,
        next: Arc::default(),
    };
    let log = TraceLayer::new_for_http()
        .make_span_with(span)
        .on_request(())
        .on_response(line)
        .on_body_chunk(())
        .on_eos(())
        .on_failure(());
    router
        .layer(PropagateRequestIdLayer::new(name.clone()))
        .layer(log)
        .layer(SetRequestIdLayer::new(name, numbers))
}
