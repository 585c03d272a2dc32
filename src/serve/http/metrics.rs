//! Counters in Prometheus' text format; those that llama-server has, under its names.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::{App, Shared};
use crate::serve::slots::Totals;
use crate::serve::worker::Shown;

/// Name, type, help, value.
type Row = (&'static str, &'static str, &'static str, f64);

/// Counters, in Prometheus' format
#[utoipa::path(get, path = "/metrics", tag = "llama-server", responses(
    (status = 200, description = "The counters.", body = String, content_type = "text/plain"),
))]
pub(super) async fn metrics(State(app): Shared) -> Response {
    let shown = app.board.read();
    let rows = of_llama_server(&shown)
        .into_iter()
        .chain(of_requests(&shown.totals))
        .chain(of_adapters(&app));
    let text: String = rows
        .map(|(name, kind, help, value)| {
            format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n")
        })
        .collect();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// What llama-server has as well, under its names.
fn of_llama_server(shown: &Shown) -> [Row; 9] {
    let totals = &shown.totals;
    let busy = shown.slots.iter().filter(|slot| slot.request.is_some());
    let per_second = |count: u64, ms: f64| {
        if ms > 0.0 {
            1e3 * count as f64 / ms
        } else {
            0.0
        }
    };
    [
        (
            "llamacpp:prompt_tokens_total",
            "counter",
            "Prompt tokens decoded.",
            totals.prompt_tokens as f64,
        ),
        (
            "llamacpp:prompt_seconds_total",
            "counter",
            "Time spent on prompts.",
            totals.prompt_ms / 1e3,
        ),
        (
            "llamacpp:tokens_predicted_total",
            "counter",
            "Tokens generated.",
            totals.tokens as f64,
        ),
        (
            "llamacpp:tokens_predicted_seconds_total",
            "counter",
            "Time spent on generation.",
            totals.answer_ms / 1e3,
        ),
        (
            "llamacpp:n_decode_total",
            "counter",
            "Steps of the model.",
            totals.steps as f64,
        ),
        (
            "llamacpp:prompt_tokens_seconds",
            "gauge",
            "Prompt tokens a second.",
            per_second(totals.prompt_tokens, totals.prompt_ms),
        ),
        (
            "llamacpp:predicted_tokens_seconds",
            "gauge",
            "Generated tokens a second, of one request.",
            per_second(totals.tokens, totals.answer_ms),
        ),
        (
            "llamacpp:requests_processing",
            "gauge",
            "Requests that have a slot.",
            busy.count() as f64,
        ),
        (
            "llamacpp:requests_deferred",
            "gauge",
            "Requests that wait for one.",
            shown.waiting as f64,
        ),
    ]
}

fn of_requests(totals: &Totals) -> [Row; 5] {
    [
        (
            "translora:prompt_tokens_cached_total",
            "counter",
            "Prompt tokens that were decoded before.",
            totals.cached_tokens as f64,
        ),
        (
            "translora:adapter_turns_total",
            "counter",
            "Times that the model went on with other adapters.",
            totals.switches as f64,
        ),
        (
            "translora:requests_done_total",
            "counter",
            "Answers that were finished.",
            totals.done as f64,
        ),
        (
            "translora:requests_cancelled_total",
            "counter",
            "Answers whose client went away.",
            totals.cancelled as f64,
        ),
        (
            "translora:requests_failed_total",
            "counter",
            "Answers that failed.",
            totals.failed as f64,
        ),
    ]
}

fn of_adapters(app: &App) -> [Row; 4] {
    let registry = app.registry();
    [
        (
            "translora:adapters",
            "gauge",
            "Adapters that are live.",
            registry.all().len() as f64,
        ),
        (
            "translora:adapter_swaps_total",
            "counter",
            "Adapters that took another's place.",
            registry.swaps as f64,
        ),
        (
            "translora:adapter_rollbacks_total",
            "counter",
            "Times that the one before came back.",
            registry.rollbacks as f64,
        ),
        (
            "translora:slots",
            "gauge",
            "Requests that can run side by side.",
            app.config.slots as f64,
        ),
    ]
}
