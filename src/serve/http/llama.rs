//! llama-server's own endpoints.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{Whole, event, named, streamed, whole};
use super::generated::{
    Completed, Completion, CompletionEvent, CompletionPart, Completions, DrawnToken, Settings,
};
use super::openapi::{DetokenizeBody, LlamaCompletionBody, TemplateBody, TokenizeBody};
use super::options::{Options, chosen, json_of, known};
use super::prompt::{asking_of_text, conversation, prompts};
use super::schema::{Detokenize, Integer, LlamaCompletion, Template, Tokenize};
use super::submit::{Pending, submit};
use super::tools::Tools;
use super::{App, Shared, body, in_turn, lora, shown};
use crate::control::openapi::ErrorBody;
use crate::engine::host::Token;
use crate::serve::error::ApiError;
use crate::serve::live::generation;
use crate::serve::sampler::{Drawn, Sampling};
use crate::serve::slots::{Done, End, Event};

/// Whether the server lives.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok`
    status: &'static str,
}

/// A slot.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Slot {
    id: usize,
    /// Tokens that it may hold.
    n_ctx: usize,
    is_processing: bool,
    /// The request that has it.
    id_task: Option<u64>,
    n_prompt_tokens: usize,
    n_decoded: usize,
    /// Tokens that it holds for a request that begins alike.
    n_held: usize,
    /// The adapters that it decodes under.
    generation: String,
}

/// What the server was started with.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Props {
    /// Of requests that say nothing else.
    default_generation_settings: Defaults,
    total_slots: usize,
    model_path: String,
    /// What requests call the base.
    model_alias: String,
    /// Of the base.
    chat_template: String,
    /// The token that texts begin with; empty where there is none.
    bos_token: String,
    modalities: Modalities,
    /// The program and its version.
    build_info: &'static str,
}

/// What holds for requests that say nothing else.
#[derive(Debug, Serialize, ToSchema)]
struct Defaults {
    /// Tokens of one slot.
    n_ctx: usize,
    params: Settings,
}

/// What the model can read besides text: nothing.
#[derive(Debug, Serialize, ToSchema)]
struct Modalities {
    /// False.
    vision: bool,
    /// False.
    audio: bool,
}

/// Tokens of a text.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Tokens {
    tokens: Vec<TokenOfText>,
}

/// A token, with its text where that is requested.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum TokenOfText {
    /// Its number.
    Number(Token),
    /// Both.
    Both {
        /// Its number.
        #[schema(value_type = i32)]
        id: Token,
        /// Its text.
        piece: PieceOfText,
    },
}

/// The text of a token.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum PieceOfText {
    /// As it is.
    Text(String),
    /// Bytes that are no text on their own.
    Bytes(Vec<u8>),
}

/// A text.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Text {
    content: String,
}

/// A conversation as text.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Rendered {
    prompt: String,
}

/// Whether the server lives; needs no key
#[utoipa::path(get, path = "/health", tag = "llama-server", responses(
    (status = 200, description = "It does.", body = Health),
))]
pub(super) async fn health(State(app): Shared) -> Result<Response, ApiError> {
    if app.board.has_ended() {
        return Err(ApiError::ended());
    }
    Ok(axum::Json(Health { status: "ok" }).into_response())
}

/// What the server was started with
#[utoipa::path(get, path = "/props", tag = "llama-server", responses(
    (status = 200, description = "Settings, the model, its chat template.", body = Props),
))]
pub(super) async fn props(State(app): Shared) -> Response {
    let info = app.host.info();
    let sampling = Sampling {
        seed: app.config.seed.unwrap_or(u32::MAX),
        ..app.config.sampling.clone()
    };
    let text = |token: Option<Token>| {
        token.map(|token| String::from_utf8_lossy(&app.host.piece(token, true)).into_owned())
    };
    axum::Json(Props {
        default_generation_settings: Defaults {
            n_ctx: info.context,
            params: Settings::new(&sampling, &[], app.config.tokens_max),
        },
        total_slots: app.config.slots,
        model_path: shown(&info.path),
        model_alias: app.name.clone(),
        chat_template: app.host.chat().info().text.clone(),
        bos_token: text(app.host.bos()).unwrap_or_default(),
        modalities: Modalities {
            vision: false,
            audio: false,
        },
        build_info: concat!("translora ", env!("CARGO_PKG_VERSION")),
    })
    .into_response()
}

/// What the slots do
#[utoipa::path(get, path = "/slots", tag = "llama-server", responses(
    (status = 200, description = "The slots; none before the first request.", body = Vec<Slot>),
))]
pub(super) async fn slots(State(app): Shared) -> Response {
    let shown = app.board.read();
    let one = |(id, slot): (usize, &crate::serve::slots::Seen)| Slot {
        id,
        n_ctx: app.host.info().context,
        is_processing: slot.request.is_some(),
        id_task: slot.request,
        n_prompt_tokens: slot.prompt_tokens,
        n_decoded: slot.tokens,
        n_held: slot.held,
        generation: generation(&slot.key),
    };
    axum::Json(shown.slots.iter().enumerate().map(one).collect::<Vec<_>>()).into_response()
}

/// A text as tokens
#[utoipa::path(post, path = "/tokenize", tag = "llama-server", request_body = TokenizeBody,
    responses((status = 200, description = "The tokens.", body = Tokens)))]
pub(super) async fn tokenize(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let fields: Tokenize = body::fields(&app, request).await?;
    let special = fields.parse_special.unwrap_or(true);
    let encode = || Ok(app.host.encode(&fields.content, special)?);
    let mut tokens = in_turn(&app.tokenizing, encode).await?;
    if fields.add_special
        && let Some(bos) = app.host.bos()
    {
        tokens.insert(0, bos);
    }
    let one = |token: Token| {
        if !fields.with_pieces {
            return TokenOfText::Number(token);
        }
        let piece = String::from_utf8(app.host.piece(token, true));
        let piece = piece.map_or_else(|no| PieceOfText::Bytes(no.into_bytes()), PieceOfText::Text);
        TokenOfText::Both { id: token, piece }
    };
    let tokens = tokens.into_iter().map(one).collect();
    Ok(axum::Json(Tokens { tokens }).into_response())
}

/// Tokens as a text
#[utoipa::path(post, path = "/detokenize", tag = "llama-server", request_body = DetokenizeBody,
    responses((status = 200, description = "The text.", body = Text)))]
pub(super) async fn detokenize(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let Detokenize { tokens } = body::fields(&app, request).await?;
    let one = |Integer(token)| {
        known(&app, token).ok_or_else(|| {
            ApiError::input(format!(
                "\"tokens\" must be a list of tokens of this model: {token} is none"
            ))
        })
    };
    let tokens = tokens.into_iter().map(one).collect::<Result<Vec<_>, _>>()?;
    let content = text(&app, &tokens);
    Ok(axum::Json(Text { content }).into_response())
}

/// Tokens as text, markup included.
fn text(app: &App, tokens: &[Token]) -> String {
    let bytes: Vec<u8> = tokens
        .iter()
        .flat_map(|token| app.host.piece(*token, true))
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A conversation as the text that the model goes on from
#[utoipa::path(post, path = "/apply-template", tag = "llama-server", request_body = TemplateBody,
    responses(
    (status = 200, description = "The text.", body = Rendered),
    (status = 404, description = "No model is called so.", body = ErrorBody),
))]
pub(super) async fn apply_template(
    State(app): Shared,
    request: Request,
) -> Result<Response, ApiError> {
    let role = request.extensions().get().copied();
    let (fields, raw): (Template, _) = body::fields_and_raw(&app, request).await?;
    if let Some(name) = &fields.model {
        lora::find(&app, name, role).await?;
    }
    let tools = fields.tools.as_deref().unwrap_or_default();
    let tools = Tools::read(tools, fields.tool_choice.as_ref(), true, &json_of(&raw)?)?;
    let (_, with) = chosen(&app, fields.model.as_deref(), None)?;
    let render = || conversation(&app, &with, fields, tools.as_ref());
    let prompt = in_turn(&app.prompting, render).await?;
    Ok(axum::Json(Rendered { prompt }).into_response())
}

/// Go on with a prompt
#[utoipa::path(post, path = "/completion", tag = "llama-server",
    request_body = LlamaCompletionBody, responses(
    (status = 200, description = "The answer; a stream where it is requested.", content(
        (Completions = "application/json"), (CompletionEvent = "text/event-stream"))),
    (status = 404, description = "No model is called so.", body = ErrorBody),
))]
pub(super) async fn completion(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let (fields, common): (LlamaCompletion, _) = body::generation(&app, request).await?;
    let mut options = Options::read(&app, common)?;
    if let Some(count) = fields.n_probs.filter(|count| count.0 != 0) {
        options.report(&app, count)?;
    }
    let shape = Shape {
        tokens: fields.return_tokens.unwrap_or(false),
        fields: fields.response_fields.unwrap_or_default(),
    };
    let (all, many) = in_turn(&app.prompting, || prompts(&app, fields.prompt)).await?;
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
            .map(|pending| stream(&app, options, shape, pending))
            .ok_or_else(|| ApiError::input("there is no prompt"));
    }
    let mut answers = Vec::new();
    for (index, pending) in pending.iter_mut().enumerate() {
        let Whole { text, drawn, done } = whole(pending).await?;
        let tokens = drawn.iter().filter(|_| shape.tokens);
        let answer = Completion {
            index,
            tokens: tokens.map(|drawn| drawn.token).collect(),
            completion_probabilities: probabilities(&app, &options, &drawn),
            ..closing(&app, &options, &pending.prompt, &done, text)
        };
        answers.push(shape.chosen(answer));
    }
    let answer = match answers.pop() {
        Some(answer) if !many => Completions::One(answer),
        last => Completions::Many(answers.into_iter().chain(last).collect()),
    };
    let generation = generation(&options.with.key);
    Ok(named(&options.model, &generation, axum::Json(answer)))
}

/// What of an answer a client wants to see.
struct Shape {
    tokens: bool,
    fields: Vec<String>,
}

impl Shape {
    /// `"generation_settings/seed"` takes a field of an object out of it.
    fn chosen(&self, answer: Completion) -> Completed {
        if self.fields.is_empty() {
            return Completed::Whole(Box::new(answer));
        }
        let answer = serde_json::to_value(answer).unwrap_or_default();
        let find = |path: &String| {
            let value = answer.pointer(&format!("/{path}"))?;
            Some((path.clone(), value.clone()))
        };
        Completed::Chosen(self.fields.iter().filter_map(find).collect())
    }
}

/// Of each token, where they are requested.
fn probabilities(app: &App, options: &Options, drawn: &[Drawn]) -> Option<Vec<DrawnToken>> {
    let one = |drawn: &Drawn| DrawnToken::new(app, drawn, true);
    let wanted = options.alternatives.is_some();
    wanted.then(|| drawn.iter().map(one).collect())
}

fn stream(app: &Arc<App>, options: Options, shape: Shape, pending: Pending) -> Response {
    let (app, prompt, mut said) = (Arc::clone(app), pending.prompt.clone(), String::new());
    streamed(pending, None, move |received| match received {
        Event::Piece { text, drawn } => {
            said.push_str(text);
            vec![event(&CompletionEvent::Part(CompletionPart {
                index: 0,
                content: text.clone(),
                tokens: drawn.iter().map(|drawn| drawn.token).collect(),
                stop: false,
                completion_probabilities: probabilities(&app, &options, drawn),
            }))]
        }
        Event::Done(done) => {
            let last = closing(&app, &options, &prompt, done, std::mem::take(&mut said));
            let last = shape.chosen(Completion {
                content: String::new(),
                ..last
            });
            vec![event(&CompletionEvent::End(last))]
        }
        Event::Failed(_) => Vec::new(),
    })
}

/// An answer at its end, without its tokens.
fn closing(
    app: &App,
    options: &Options,
    prompt: &[Token],
    done: &Done,
    content: String,
) -> Completion {
    let word = match &done.end {
        End::Word(word) => word.clone(),
        End::Model | End::Limit => String::new(),
    };
    Completion {
        index: 0,
        has_new_line: content.contains('\n'),
        content,
        tokens: Vec::new(),
        id_slot: done.slot,
        stop: true,
        model: options.model.clone(),
        generation: generation(&options.with.key),
        tokens_predicted: done.tokens,
        tokens_evaluated: done.prompt_tokens,
        tokens_cached: done.prompt_tokens + done.tokens.saturating_sub(1),
        generation_settings: Settings::new(&options.sampling, &options.stops, options.tokens_max),
        prompt: text(app, prompt),
        truncated: done.truncated,
        stop_type: (&done.end).into(),
        stopping_word: word,
        timings: done.into(),
        completion_probabilities: None,
    }
}
