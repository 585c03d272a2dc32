//! What `/metrics` sends: counters, gauges and histograms, in the text format of OpenMetrics. What
//! llama-server has as well is under its names, what vLLM's gateways read under vLLM's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::{App, Shared};
use crate::serve::error::ApiError;
use crate::serve::slots::Totals;
use crate::serve::worker::Shown;

/// The text's media type.
const MEDIA: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Counters, gauges and histograms, as Prometheus reads them
#[utoipa::path(get, path = "/metrics", tag = "llama-server", responses(
    (status = 200, description = "The text format of OpenMetrics.", body = String,
        content_type = "application/openmetrics-text"),
))]
pub(super) async fn metrics(State(app): Shared) -> Result<Response, ApiError> {
    let shown = app.board.read();
    let mut registry = Registry::default();
    of_llama_server(&mut registry, &shown);
    of_requests(&mut registry, &shown.totals);
    of_adapters(&mut registry, &app);
    app.board.meters.register(&mut registry);
    if let Some(harvest) = &app.harvest {
        harvest.register(&mut registry);
    }
    of_vllm(&mut registry, &app, &shown);
    let mut sent = String::new();
    text::encode(&mut sent, &registry)
        .map_err(|error| ApiError::internal(format!("the metrics: {error}")))?;
    Ok(([(header::CONTENT_TYPE, MEDIA)], sent).into_response())
}

/// Counters; the format adds `_total` to their names.
fn counters<const N: usize>(registry: &mut Registry, rows: [(&str, &str, f64); N]) {
    for (name, help, value) in rows {
        registry.register(name, help, ConstCounter::new(value));
    }
}

fn gauges<const N: usize>(registry: &mut Registry, rows: [(&str, &str, f64); N]) {
    for (name, help, value) in rows {
        registry.register(name, help, ConstGauge::new(value));
    }
}

fn of_llama_server(registry: &mut Registry, shown: &Shown) {
    let totals = &shown.totals;
    let busy = shown.slots.iter().filter(|slot| slot.request.is_some());
    let per_second = |count: u64, ms: f64| {
        if ms > 0.0 {
            1e3 * count as f64 / ms
        } else {
            0.0
        }
    };
    let counted = [
        (
            "llamacpp:prompt_tokens",
            "Prompt tokens decoded",
            totals.prompt_tokens as f64,
        ),
        (
            "llamacpp:prompt_seconds",
            "Time spent on prompts",
            totals.prompt_ms / 1e3,
        ),
        (
            "llamacpp:tokens_predicted",
            "Tokens generated",
            totals.tokens as f64,
        ),
        (
            "llamacpp:tokens_predicted_seconds",
            "Time spent on generation",
            totals.answer_ms / 1e3,
        ),
        (
            "llamacpp:n_decode",
            "Steps of the model",
            totals.steps as f64,
        ),
    ];
    let measured = [
        (
            "llamacpp:prompt_tokens_seconds",
            "Prompt tokens a second",
            per_second(totals.prompt_tokens, totals.prompt_ms),
        ),
        (
            "llamacpp:predicted_tokens_seconds",
            "Generated tokens a second, of one request",
            per_second(totals.tokens, totals.answer_ms),
        ),
        (
            "llamacpp:requests_processing",
            "Requests that have a slot",
            busy.count() as f64,
        ),
        (
            "llamacpp:requests_deferred",
            "Requests that wait for one",
            shown.waiting.len() as f64,
        ),
    ];
    counters(registry, counted);
    gauges(registry, measured);
}

fn of_requests(registry: &mut Registry, totals: &Totals) {
    let rows = [
        (
            "translora:prompt_tokens_cached",
            "Prompt tokens that were decoded before",
            totals.cached_tokens as f64,
        ),
        (
            "translora:adapter_turns",
            "Times that the model went on with other adapters",
            totals.switches as f64,
        ),
        (
            "translora:requests_done",
            "Answers that were finished",
            totals.done as f64,
        ),
        (
            "translora:requests_cancelled",
            "Answers whose client went away",
            totals.cancelled as f64,
        ),
        (
            "translora:requests_failed",
            "Answers that failed",
            totals.failed as f64,
        ),
    ];
    counters(registry, rows);
}

fn of_adapters(registry: &mut Registry, app: &App) {
    let adapters = app.registry();
    let live = adapters.all().len() as f64;
    let counted = [
        (
            "translora:adapter_swaps",
            "Adapters that took another's place",
            adapters.swaps as f64,
        ),
        (
            "translora:adapter_rollbacks",
            "Times that the one before came back",
            adapters.rollbacks as f64,
        ),
    ];
    counters(registry, counted);
    let slots = app.config.slots as f64;
    let measured = [
        ("translora:adapters", "Adapters that are live", live),
        (
            "translora:slots",
            "Requests that can run side by side",
            slots,
        ),
    ];
    gauges(registry, measured);
}

/// The labels that the gateways of the Gateway API Inference Extension read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoraInfo {
    running_lora_adapters: String,
    waiting_lora_adapters: String,
    max_lora: usize,
}

/// vLLM's gauge of adapters: its value is the time, in seconds since 1970.
fn of_vllm(registry: &mut Registry, app: &App, shown: &Shown) {
    let running = shown.slots.iter().map(|slot| &slot.names);
    let labels = LoraInfo {
        running_lora_adapters: joined(running),
        waiting_lora_adapters: joined(shown.waiting.iter()),
        max_lora: app.config.limits.adapters_max,
    };
    let family = Family::<LoraInfo, Gauge<f64, AtomicU64>>::default();
    let now = app.clock.unix_seconds() as f64;
    family.get_or_create(&labels).set(now);
    let help = "Adapters of requests that run and that wait";
    registry.register("vllm:lora_requests_info", help, family);
}

/// Each name once, with commas between.
fn joined<'n>(names: impl Iterator<Item = &'n Arc<[String]>>) -> String {
    let names: BTreeSet<&str> = names
        .flat_map(|names| names.iter().map(String::as_str))
        .collect();
    names.into_iter().collect::<Vec<_>>().join(",")
}
