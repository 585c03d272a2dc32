//! OpenAI's endpoints: models, completions, chat.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::answer::{
    Whole, end_of_stream, event, finite, named, piece, probabilities, streamed, timings, usage,
    whole,
};
use super::options::{Options, chosen, raw, short};
use super::prompt::{conversation, encode, prompts};
use super::schema::{Chat, Common, Completion, Count, Integer};
use super::submit::{Pending, submit};
use super::tools::{Calls, Said, Tools};
use super::{App, Shared, body, lora, shown};
use crate::engine::host::Weights;
use crate::serve::error::ApiError;
use crate::serve::live::generation;
use crate::serve::sampler::Drawn;
use crate::serve::slots::{End, Event};

/// What `system_fingerprint` says.
const FINGERPRINT: &str = concat!("b-translora-", env!("CARGO_PKG_VERSION"));

pub(super) async fn models(State(app): Shared) -> Response {
    axum::Json(json!({ "object": "list", "data": listed(&app) })).into_response()
}

pub(super) async fn model(
    State(app): Shared,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    lora::find(&app, &id).await?;
    let found = listed(&app)
        .into_iter()
        .find(|model| model["id"] == id.as_str());
    found
        .map(|model| axum::Json(model).into_response())
        .ok_or_else(|| ApiError::no_model(&id))
}

/// The base and each adapter.
fn listed(app: &App) -> Vec<Value> {
    let info = app.host.info();
    let registry = app.registry();
    let meta = json!({ "n_vocab": info.vocabulary, "n_ctx": info.context, "n_params": info.parameters, "size": info.bytes });
    let base = json!({
        "id": app.name, "object": "model", "created": 0, "owned_by": "translora", "root": shown(&info.path), "parent": null,
        "meta": meta, "translora": {
            "generation": generation(&registry.usual().key), "sha256": info.hash,
            "chat_template": { "from": app.host.chat().info().origin.name() },
        },
    });
    let template = |weights: &Weights| match &weights.chat {
        Some(own) => json!({ "from": own.info().origin.name(), "text": own.info().text }),
        None => json!({ "from": "base" }),
    };
    let adapter = |(name, named): (&String, crate::serve::live::Named<'_>)| {
        json!({
            "id": name, "object": "model", "created": 0, "owned_by": "translora", "root": shown(&named.live.path), "parent": app.name,
            "translora": {
                "generation": named.live.number.to_string(), "sha256": named.live.weights.hash,
                "chat_template": template(&named.live.weights),
            },
        })
    };
    std::iter::once(base)
        .chain(registry.all().into_iter().map(adapter))
        .collect()
}

fn reason(end: &End) -> &'static str {
    if *end == End::Limit { "length" } else { "stop" }
}

/// What all objects of one response begin with.
#[derive(Clone)]
struct Frame {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    generation: String,
}

impl Frame {
    fn new(app: &App, kind: &str, object: &'static str, options: &Options) -> Self {
        let (created, model) = (app.clock.unix_seconds(), options.model.clone());
        Self {
            id: app.id(kind),
            object,
            created,
            model,
            generation: generation(&options.with.key),
        }
    }

    fn with(&self, choices: &Value) -> Value {
        json!({
            "id": self.id, "object": self.object, "created": self.created, "model": self.model, "system_fingerprint": FINGERPRINT,
            "generation": self.generation, "choices": choices,
        })
    }

    fn counted(&self, choices: &Value, done: &crate::serve::slots::Done) -> Value {
        let mut object = self.with(choices);
        object["usage"] = usage(done);
        object["timings"] = timings(done);
        object
    }
}

pub(super) async fn chat(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let (fields, common): (Chat, Common) = body::generation(&app, request).await?;
    let tools = tools(&fields, &common)?;
    let mut options = Options::read(&app, common)?;
    let mut calls = None;
    if let Some(tools) = &tools {
        if options.grammar.is_some() {
            return Err(ApiError::input(
                "\"tools\" and a grammar, a schema or a \"response_format\" exclude each other",
            ));
        }
        let (grammar, form) = tools.grammar(options.with.chat(app.host.chat()))?;
        options.grammar = Some(short(&app, grammar)?);
        calls = Some(form);
    }
    if fields.logprobs == Some(true) {
        options.report(&app, fields.top_logprobs.unwrap_or(Integer(0)))?;
    }
    let text = conversation(&app, &options.with, fields.template(), tools.as_ref())?;
    let mut pending = submit(&app, &options, encode(&app, &text)?)?;
    if options.stream {
        return Ok(stream_chat(&app, &options, pending, calls));
    }
    let frame = Frame::new(&app, "chatcmpl", "chat.completion", &options);
    let Whole { text, drawn, done } = whole(&mut pending).await?;
    let (mut message, end) = message(&app, &text, calls.as_ref(), &done.end);
    message["role"] = "assistant".into();
    let choice = json!([{
        "index": 0, "message": message, "finish_reason": end,
        "logprobs": options.alternatives.map(|_| json!({ "content": probabilities(&app, &drawn, false) })),
    }]);
    Ok(named(
        &pending.generation,
        axum::Json(frame.counted(&choice, &done)),
    ))
}

/// The functions that a conversation may call.
fn tools(fields: &Chat, common: &Common) -> Result<Option<Tools>, ApiError> {
    let tools = fields.tools.as_deref().unwrap_or_default();
    let choice = fields.tool_choice.as_ref();
    if tools.is_empty() && choice.is_none() {
        return Ok(None);
    }
    let several = fields.parallel_tool_calls.unwrap_or(true);
    Tools::read(tools, choice, several, &raw(common)?)
}

/// What was said, and why it ends: text or calls.
fn message(app: &App, text: &str, calls: Option<&Calls>, end: &End) -> (Value, &'static str) {
    let Some(calls) = calls.filter(|_| *end != End::Limit) else {
        return (json!({ "content": text }), reason(end));
    };
    match calls.read(app, text) {
        Said::Text(text) => (json!({ "content": text }), reason(end)),
        Said::Calls { text, calls } => {
            let text = (!text.is_empty()).then_some(text);
            (
                json!({ "content": text, "tool_calls": calls }),
                "tool_calls",
            )
        }
    }
}

/// How many tokens a conversation comes to.
pub(super) async fn input_tokens(
    State(app): Shared,
    request: Request,
) -> Result<Response, ApiError> {
    let (fields, common): (Chat, Common) = body::generation(&app, request).await?;
    let tools = tools(&fields, &common)?;
    let (_, with) = chosen(&app, common.model.as_deref(), common.lora.as_deref())?;
    let text = conversation(&app, &with, fields.template(), tools.as_ref())?;
    Ok(axum::Json(json!({ "input_tokens": encode(&app, &text)?.len() })).into_response())
}

/// Calls go out whole, at the end: no part of one is of use to a client.
fn stream_chat(
    app: &Arc<App>,
    options: &Options,
    pending: Pending,
    calls: Option<Calls>,
) -> Response {
    let frame = Frame::new(app, "chatcmpl", "chat.completion.chunk", options);
    let chunk = |delta: &Value, logprobs: &Value, end: Option<&str>| json!([{ "index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": end }]);
    let opening = event(&frame.with(&chunk(
        &json!({ "role": "assistant", "content": null }),
        &Value::Null,
        None,
    )));
    let (app, counts, reported) = (
        Arc::clone(app),
        options.usage,
        options.alternatives.is_some(),
    );
    let mut all = String::new();
    streamed(pending, Some(opening), move |received| match received {
        Event::Piece { text, .. } if calls.is_some() => {
            all.push_str(text);
            Vec::new()
        }
        Event::Piece { text, drawn } => {
            let logprobs = if reported {
                json!({ "content": probabilities(&app, drawn, false) })
            } else {
                Value::Null
            };
            let delta = json!({ "content": text });
            vec![event(&frame.with(&chunk(&delta, &logprobs, None)))]
        }
        Event::Done(done) => {
            let (mut said, end) = message(&app, &all, calls.as_ref(), &done.end);
            for (index, call) in said["tool_calls"]
                .as_array_mut()
                .into_iter()
                .flatten()
                .enumerate()
            {
                call["index"] = index.into();
            }
            let said = calls
                .is_some()
                .then(|| event(&frame.with(&chunk(&said, &Value::Null, None))));
            let mut last = frame.with(&chunk(&json!({}), &Value::Null, Some(end)));
            if !counts {
                last["timings"] = timings(done);
            }
            let counted = counts.then(|| event(&frame.counted(&json!([]), done)));
            let events = [said, Some(event(&last)), counted, Some(end_of_stream())];
            events.into_iter().flatten().collect()
        }
        Event::Failed(_) => Vec::new(),
    })
}

pub(super) async fn completions(
    State(app): Shared,
    request: Request,
) -> Result<Response, ApiError> {
    let (fields, common): (Completion, Common) = body::generation(&app, request).await?;
    let bounds = [
        common.max_tokens,
        common.max_completion_tokens,
        common.n_predict,
    ];
    let mut options = Options::read(&app, common)?;
    match fields.logprobs {
        Some(Count::Number(count)) => options.report(&app, count)?,
        Some(Count::Switch(true)) => options.report(&app, Integer(0))?,
        Some(Count::Switch(false)) | None => {}
    }
    if bounds.iter().all(Option::is_none) {
        // OpenAI's own default for this endpoint.
        options.tokens_max = Some(options.tokens_max.map_or(16, |most| most.min(16)));
    }
    let (all, _) = prompts(&app, fields.prompt)?;
    if options.stream && all.len() != 1 {
        return Err(ApiError::input("a stream has one prompt"));
    }
    let mut pending = all
        .into_iter()
        .map(|prompt| submit(&app, &options, prompt))
        .collect::<Result<Vec<_>, _>>()?;
    if options.stream {
        return pending
            .pop()
            .map(|pending| stream_completion(&app, &options, pending))
            .ok_or_else(|| ApiError::input("there is no prompt"));
    }
    let frame = Frame::new(&app, "cmpl", "text_completion", &options);
    let mut choices = Vec::new();
    let mut total: Option<crate::serve::slots::Done> = None;
    for (index, pending) in pending.iter_mut().enumerate() {
        let Whole { text, drawn, done } = whole(pending).await?;
        let logprobs = options.alternatives.map(|_| legacy(&app, &drawn, 0));
        choices.push(json!({ "index": index, "text": text, "finish_reason": reason(&done.end), "logprobs": logprobs }));
        match &mut total {
            Some(total) => {
                total.prompt_tokens += done.prompt_tokens;
                total.cached += done.cached;
                total.tokens += done.tokens;
            }
            None => total = Some(done),
        }
    }
    let total = total.ok_or_else(|| ApiError::input("there is no prompt"))?;
    Ok(named(
        &frame.generation,
        axum::Json(frame.counted(&choices.into(), &total)),
    ))
}

fn stream_completion(app: &Arc<App>, options: &Options, pending: Pending) -> Response {
    let frame = Frame::new(app, "cmpl", "text_completion", options);
    let (app, counts, reported, mut offset) = (
        Arc::clone(app),
        options.usage,
        options.alternatives.is_some(),
        0,
    );
    let chunk = |text: &str, logprobs: &Value, end: Option<&str>| json!([{ "index": 0, "text": text, "logprobs": logprobs, "finish_reason": end }]);
    streamed(pending, None, move |received| match received {
        Event::Piece { text, drawn } => {
            let logprobs = if reported {
                legacy(&app, drawn, offset)
            } else {
                Value::Null
            };
            offset += text.len();
            vec![event(&frame.with(&chunk(text, &logprobs, None)))]
        }
        Event::Done(done) => {
            let last = event(&frame.with(&chunk("", &Value::Null, Some(reason(&done.end)))));
            let counted = counts.then(|| event(&frame.counted(&json!([]), done)));
            let events = [Some(last), counted, Some(end_of_stream())];
            events.into_iter().flatten().collect()
        }
        Event::Failed(_) => Vec::new(),
    })
}

/// Probabilities as OpenAI's completions have them.
fn legacy(app: &App, drawn: &[Drawn], offset: usize) -> Value {
    let mut at = offset;
    let mut offsets = Vec::new();
    for drawn in drawn {
        offsets.push(at);
        at += piece(app, drawn.token).len();
    }
    let top = |drawn: &Drawn| {
        drawn
            .top
            .iter()
            .map(|(token, logprob)| (piece(app, *token), finite(*logprob).into()))
            .collect::<serde_json::Map<_, _>>()
    };
    json!({
        "tokens": drawn.iter().map(|drawn| piece(app, drawn.token)).collect::<Vec<_>>(),
        "token_logprobs": drawn.iter().map(|drawn| finite(drawn.log_probability)).collect::<Vec<_>>(),
        "top_logprobs": drawn.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}
