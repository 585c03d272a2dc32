//! OpenAI's endpoints: models, completions, chat.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response, sse};
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{Whole, end_of_stream, event, named, streamed, whole};
use super::generated::{
    Answer, ChatChoice, ChatPart, ChatProbabilities, Chunk, Delta, FinishReason, Reply, TextChoice,
    TextProbabilities,
};
use super::openapi::{ChatBody, CompletionBody};
use super::options::{Options, raw, short};
use super::prompt::{asking_of_chat, asking_of_text, conversation, encode, prompts};
use super::schema::{Chat, Common, Completion, Count, Integer};
use super::submit::{Pending, submit};
use super::tools::{Calls, Said, Tools};
use super::{App, Role, Shared, body, in_turn, lora, shown};
use crate::control::Segment;
use crate::control::openapi::ErrorBody;
use crate::engine::host::Conversations;
use crate::record::ContentHash;
use crate::serve::error::ApiError;
use crate::serve::live::generation;
use crate::serve::slots::{Done, End, Event};

/// What `system_fingerprint` says.
const FINGERPRINT: &str = concat!("b-translora-", env!("CARGO_PKG_VERSION"));

/// The base and the adapters.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelList {
    /// `list`
    object: &'static str,
    data: Vec<Model>,
}

/// The base or an adapter.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Model {
    /// What requests call it.
    id: String,
    /// `model`
    object: &'static str,
    /// Always 0.
    created: u64,
    /// `translora`
    owned_by: &'static str,
    /// The file.
    root: String,
    /// The base, of an adapter.
    parent: Option<String>,
    /// Of the base.
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<Meta>,
    translora: Loaded,
}

/// The size of a base.
#[derive(Debug, Serialize, ToSchema)]
struct Meta {
    n_vocab: usize,
    /// Tokens of one slot.
    n_ctx: usize,
    n_params: u64,
    /// units: bytes
    size: u64,
}

/// One load of a file.
#[derive(Debug, Serialize, ToSchema)]
struct Loaded {
    /// Its number, as answers name it.
    generation: String,
    /// Of the file, in hexadecimal.
    #[schema(value_type = String)]
    sha256: ContentHash,
    chat_template: TemplateInfo,
}

/// What renders the conversations of a model.
#[derive(Debug, Serialize, ToSchema)]
struct TemplateInfo {
    /// `request`, `model` or `plain` of the base; `adapter` or `base` of an adapter.
    from: &'static str,
    /// Of an adapter that has one of its own; `/props` has that of the base.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

impl TemplateInfo {
    fn of(chat: &Conversations) -> Self {
        Self {
            from: chat.info().origin.name(),
            text: None,
        }
    }

    fn of_adapter(own: Option<&Conversations>) -> Self {
        match own {
            Some(own) => Self {
                text: Some(own.info().text.clone()),
                ..Self::of(own)
            },
            None => Self {
                from: "base",
                text: None,
            },
        }
    }
}

/// The base and each adapter
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI", responses(
    (status = 200, description = "The models.", body = ModelList),
))]
pub(super) async fn models(State(app): Shared) -> Response {
    let data = listed(&app);
    axum::Json(ModelList {
        object: "list",
        data,
    })
    .into_response()
}

/// One model
#[utoipa::path(get, path = "/v1/models/{id}", tag = "OpenAI",
    params(("id" = String, Path, description = "What requests call it.")), responses(
    (status = 200, description = "The model.", body = Model),
    (status = 404, description = "No model is called so.", body = ErrorBody),
))]
pub(super) async fn model(
    State(app): Shared,
    Extension(role): Extension<Role>,
    Segment(id): Segment,
) -> Result<Response, ApiError> {
    lora::find(&app, &id, Some(role)).await?;
    let found = listed(&app).into_iter().find(|model| model.id == id);
    found
        .map(|model| axum::Json(model).into_response())
        .ok_or_else(|| ApiError::no_model(&id))
}

/// The base and each adapter.
fn listed(app: &App) -> Vec<Model> {
    let info = app.host.info();
    let registry = app.registry();
    let model = |id: &str, path: &std::path::Path, loaded| Model {
        id: id.to_owned(),
        object: "model",
        created: 0,
        owned_by: "translora",
        root: shown(path),
        parent: None,
        meta: None,
        translora: loaded,
    };
    let base = Model {
        meta: Some(Meta {
            n_vocab: info.vocabulary,
            n_ctx: info.context,
            n_params: info.parameters,
            size: info.bytes,
        }),
        ..model(
            &app.name,
            &info.path,
            Loaded {
                generation: generation(&registry.usual().key),
                sha256: info.hash,
                chat_template: TemplateInfo::of(app.host.chat()),
            },
        )
    };
    let adapter = |(name, named): (&String, crate::serve::live::Named<'_>)| Model {
        parent: Some(app.name.clone()),
        ..model(
            name,
            &named.live.path,
            Loaded {
                generation: named.live.number.to_string(),
                sha256: named.live.weights.hash,
                chat_template: TemplateInfo::of_adapter(named.live.weights.chat.as_deref()),
            },
        )
    };
    std::iter::once(base)
        .chain(registry.all().into_iter().map(adapter))
        .collect()
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

    fn answer<C>(self, choices: Vec<C>, done: &Done) -> Answer<C> {
        Answer {
            id: self.id,
            object: self.object,
            created: self.created,
            model: self.model,
            system_fingerprint: FINGERPRINT,
            generation: self.generation,
            choices,
            usage: done.into(),
            timings: done.into(),
        }
    }

    fn chunk<C>(&self, choices: Vec<C>) -> Chunk<C> {
        Chunk {
            id: self.id.clone(),
            object: self.object,
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: FINGERPRINT,
            generation: self.generation.clone(),
            choices,
            usage: None,
            timings: None,
        }
    }

    /// The events that end a stream: the last choice, the counts where they are requested.
    fn end<C: Serialize>(&self, last: C, usage: bool, done: &Done) -> Vec<sse::Event> {
        let (mut last, timings) = (self.chunk(vec![last]), Some(done.into()));
        if !usage {
            last.timings = timings;
            return vec![event(&last), end_of_stream()];
        }
        let counts = Chunk::<C> {
            usage: Some(done.into()),
            timings,
            ..self.chunk(Vec::new())
        };
        vec![event(&last), event(&counts), end_of_stream()]
    }
}

/// Answer a conversation
#[utoipa::path(post, path = "/v1/chat/completions", tag = "OpenAI", request_body = ChatBody,
    responses(
    (status = 200, description = "The answer; a stream where it is requested.", content(
        (Answer<ChatChoice> = "application/json"), (Chunk<ChatPart> = "text/event-stream"))),
    (status = 404, description = "No model is called so.", body = ErrorBody),
))]
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
    let asking = asking_of_chat(&app, &options, &fields);
    let prompt = || {
        let text = conversation(&app, &options.with, fields.template(), tools.as_ref())?;
        encode(&app, &text)
    };
    let prompt = in_turn(&app.prompting, prompt).await?;
    let mut pending = submit(&app, &options, prompt, asking)?;
    if options.stream {
        return Ok(stream_chat(&app, &options, pending, calls));
    }
    let frame = Frame::new(&app, "chatcmpl", "chat.completion", &options);
    let Whole { text, drawn, done } = whole(&mut pending).await?;
    let (message, finish_reason) = message(&app, text, calls.as_ref(), &done.end);
    let probabilities = || ChatProbabilities::new(&app, &drawn);
    let choice = ChatChoice {
        index: 0,
        message,
        finish_reason,
        logprobs: options.alternatives.map(|_| probabilities()),
    };
    Ok(named(
        &pending.model,
        &pending.generation,
        axum::Json(frame.answer(vec![choice], &done)),
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
fn message(app: &App, text: String, calls: Option<&Calls>, end: &End) -> (Reply, FinishReason) {
    let said = match calls.filter(|_| *end != End::Limit) {
        Some(calls) => calls.read(app, text),
        None => Said::Text(text),
    };
    let (content, tool_calls, reason) = match said {
        Said::Text(text) => (Some(text), None, end.into()),
        Said::Calls { text, calls } => {
            let text = (!text.is_empty()).then_some(text);
            (text, Some(calls), FinishReason::ToolCalls)
        }
    };
    let role = "assistant";
    let reply = Reply {
        role,
        content,
        tool_calls,
    };
    (reply, reason)
}

/// How many tokens a conversation comes to.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InputTokens {
    /// With what the template and the functions add.
    input_tokens: usize,
}

/// Count the tokens of a conversation
#[utoipa::path(post, path = "/v1/chat/completions/input_tokens", tag = "OpenAI",
    request_body = ChatBody, responses(
    (status = 200, description = "The count.", body = InputTokens),
    (status = 404, description = "No model is called so.", body = ErrorBody),
))]
pub(super) async fn input_tokens(
    State(app): Shared,
    request: Request,
) -> Result<Response, ApiError> {
    let (fields, common): (Chat, Common) = body::generation(&app, request).await?;
    let tools = tools(&fields, &common)?;
    // What would be refused with an answer is refused without one.
    let options = Options::read(&app, common)?;
    let count = || {
        let text = conversation(&app, &options.with, fields.template(), tools.as_ref())?;
        Ok(encode(&app, &text)?.len())
    };
    let input_tokens = in_turn(&app.prompting, count).await?;
    Ok(axum::Json(InputTokens { input_tokens }).into_response())
}

/// Calls go out whole, at the end: no part of one is of use to a client.
fn stream_chat(
    app: &Arc<App>,
    options: &Options,
    pending: Pending,
    calls: Option<Calls>,
) -> Response {
    let frame = Frame::new(app, "chatcmpl", "chat.completion.chunk", options);
    let opening = event(&frame.chunk(vec![ChatPart::new(Delta {
        role: Some("assistant"),
        content: Some(None),
        tool_calls: None,
    })]));
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
            let delta = Delta {
                content: Some(Some(text.clone())),
                ..Delta::default()
            };
            let part = ChatPart {
                logprobs: reported.then(|| ChatProbabilities::new(&app, drawn)),
                ..ChatPart::new(delta)
            };
            vec![event(&frame.chunk(vec![part]))]
        }
        Event::Done(done) => {
            let all = std::mem::take(&mut all);
            let (mut said, reason) = message(&app, all, calls.as_ref(), &done.end);
            for (index, call) in said.tool_calls.iter_mut().flatten().enumerate() {
                call.index = Some(index);
            }
            let said = Delta {
                role: None,
                content: Some(said.content),
                tool_calls: said.tool_calls,
            };
            let said = calls
                .is_some()
                .then(|| event(&frame.chunk(vec![ChatPart::new(said)])));
            let last = ChatPart {
                finish_reason: Some(reason),
                ..ChatPart::new(Delta::default())
            };
            said.into_iter()
                .chain(frame.end(last, counts, done))
                .collect()
        }
        Event::Failed(_) => Vec::new(),
    })
}

/// Go on with a prompt
#[utoipa::path(post, path = "/v1/completions", tag = "OpenAI", request_body = CompletionBody,
    responses(
    (status = 200, description = "The answer; a stream where it is requested.", content(
        (Answer<TextChoice> = "application/json"), (Chunk<TextChoice> = "text/event-stream"))),
    (status = 404, description = "No model is called so.", body = ErrorBody),
))]
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
    let (all, _) = in_turn(&app.prompting, || prompts(&app, fields.prompt)).await?;
    if options.stream && all.len() != 1 {
        return Err(ApiError::input("a stream has one prompt"));
    }
    let mut pending = all
        .into_iter()
        .map(|prompt| {
            let asking = asking_of_text(&app, &options, &prompt);
            submit(&app, &options, prompt, asking)
        })
        .collect::<Result<Vec<_>, _>>()?;
    if options.stream {
        return pending
            .pop()
            .map(|pending| stream_completion(&app, &options, pending))
            .ok_or_else(|| ApiError::input("there is no prompt"));
    }
    let frame = Frame::new(&app, "cmpl", "text_completion", &options);
    let mut choices = Vec::new();
    let mut total: Option<Done> = None;
    for (index, pending) in pending.iter_mut().enumerate() {
        let Whole { text, drawn, done } = whole(pending).await?;
        let probabilities = || TextProbabilities::new(&app, &drawn, 0);
        choices.push(TextChoice {
            index,
            text,
            finish_reason: Some((&done.end).into()),
            logprobs: options.alternatives.map(|_| probabilities()),
        });
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
    let (model, generation) = (frame.model.clone(), frame.generation.clone());
    let answer = frame.answer(choices, &total);
    Ok(named(&model, &generation, axum::Json(answer)))
}

fn stream_completion(app: &Arc<App>, options: &Options, pending: Pending) -> Response {
    let frame = Frame::new(app, "cmpl", "text_completion", options);
    let (app, counts, reported, mut offset) = (
        Arc::clone(app),
        options.usage,
        options.alternatives.is_some(),
        0,
    );
    streamed(pending, None, move |received| match received {
        Event::Piece { text, drawn } => {
            let part = TextChoice {
                index: 0,
                text: text.clone(),
                finish_reason: None,
                logprobs: reported.then(|| TextProbabilities::new(&app, drawn, offset)),
            };
            offset += text.len();
            vec![event(&frame.chunk(vec![part]))]
        }
        Event::Done(done) => {
            let last = TextChoice {
                index: 0,
                text: String::new(),
                finish_reason: Some((&done.end).into()),
                logprobs: None,
            };
            frame.end(last, counts, done)
        }
        Event::Failed(_) => Vec::new(),
    })
}
