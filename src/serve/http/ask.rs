//! From what a client wrote to a request for the decode thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::App;
use super::fields::Fields;
use crate::engine::host::{Token, Turn};
use crate::record::Rng;
use crate::serve::error::ApiError;
use crate::serve::live::{Choice, generation};
use crate::serve::sampler::Sampling;
use crate::serve::slots::{Event, Request};
use crate::serve::worker::Command;

/// What is the same for every prompt of a request, whichever API it came through.
#[derive(Clone)]
pub(super) struct Options {
    /// The model that answers, as the response calls it.
    pub model: String,
    pub with: Choice,
    pub sampling: Sampling,
    pub stops: Vec<String>,
    /// None: until the context is full.
    pub tokens_max: Option<usize>,
    pub ignore_end: bool,
    pub alternatives: Option<usize>,
    pub cache: bool,
    pub stream: bool,
    /// End a stream with the counts.
    pub usage: bool,
}

impl Options {
    /// Read the fields that all APIs share.
    ///
    /// fails: a value out of range, an unknown model, a field that is not supported.
    pub(super) fn read(app: &App, fields: Fields<'_>) -> Result<Self, ApiError> {
        refuse_unsupported(fields)?;
        let (model, with) = chosen(app, fields)?;
        let most =
            ["max_completion_tokens", "max_tokens", "n_predict"].map(|name| fields.whole(name));
        let most = most
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
            .next();
        let wanted = match most {
            None | Some(-1) => None,
            Some(n) => Some(
                usize::try_from(n)
                    .map_err(|_| ApiError::input("the number of tokens must not be negative"))?,
            ),
        };
        let usage = match fields.get("stream_options") {
            Some(options) => Fields::of(options)?
                .truth("include_usage")?
                .unwrap_or(false),
            None => false,
        };
        Ok(Self {
            model,
            with,
            sampling: sampling(app, fields)?,
            stops: stops(app, fields)?,
            tokens_max: wanted.into_iter().chain(app.config.tokens_max).min(),
            ignore_end: fields.truth("ignore_eos")?.unwrap_or(false),
            alternatives: None,
            cache: fields.truth("cache_prompt")?.unwrap_or(true),
            stream: fields.truth("stream")?.unwrap_or(false),
            usage,
        })
    }

    /// Report the probability of each token, and of so many others.
    pub(super) fn report(&mut self, app: &App, alternatives: i64) -> Result<(), ApiError> {
        let most = app.config.limits.logprobs_max;
        let count = usize::try_from(alternatives)
            .ok()
            .filter(|count| *count <= most);
        self.alternatives = Some(count.ok_or_else(|| {
            ApiError::input(format!(
                "probabilities of 0 to {most} tokens can be reported"
            ))
        })?);
        Ok(())
    }
}

/// The adapters that a request runs under, and what its response calls the model.
fn chosen(app: &App, fields: Fields<'_>) -> Result<(String, Choice), ApiError> {
    let registry = app.registry();
    if let Some(list) = fields.get("lora") {
        return Ok((app.name.clone(), registry.scaled(&scales(list)?)?));
    }
    match fields.text("model")? {
        Some(name) if name != app.name => match registry.only(name) {
            Some(choice) => Ok((name.to_owned(), choice)),
            None if app.config.any_model => Ok((app.name.clone(), registry.usual())),
            None => Err(ApiError::no_model(name)),
        },
        _ => Ok((app.name.clone(), registry.usual())),
    }
}

/// `[{"id": 0, "scale": 1.0}]`; anything else in it is refused, so that nobody believes to have
/// loaded a file.
pub(super) fn scales(list: &Value) -> Result<Vec<(usize, f32)>, ApiError> {
    let list = list
        .as_array()
        .ok_or_else(|| ApiError::input("expected a list of {\"id\", \"scale\"}"))?;
    let one = |item: &Value| {
        let fields = Fields::of(item)?.only(&["id", "scale"])?;
        let id = fields
            .whole("id")?
            .and_then(|id| usize::try_from(id).ok())
            .ok_or_else(|| ApiError::input("\"id\" is missing"))?;
        let scale = fields
            .number("scale", f32::MIN, f32::MAX)?
            .ok_or_else(|| ApiError::input("\"scale\" is missing"))?;
        Ok((id, scale))
    };
    list.iter().map(one).collect()
}

/// What would change the answer and is not there is refused, not left out in silence.
fn refuse_unsupported(fields: Fields<'_>) -> Result<(), ApiError> {
    let wanted = |name: &str| match fields.get(name) {
        None | Some(Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty() && text != "none",
        Some(Value::Array(items)) => !items.is_empty(),
        Some(_) => true,
    };
    let names = [
        "tools",
        "tool_choice",
        "functions",
        "grammar",
        "json_schema",
        "suffix",
        "echo",
        "image_data",
        "audio",
    ];
    if let Some(name) = names.into_iter().find(|name| {
        wanted(name) && !(*name == "tool_choice" && fields.text(name) == Ok(Some("auto")))
    }) {
        return Err(ApiError::input(format!(
            "{name:?} is not supported by this server"
        )));
    }
    if let Some(name) = ["n", "best_of"]
        .into_iter()
        .find(|name| fields.get(name).is_some_and(|n| n.as_f64() != Some(1.0)))
    {
        return Err(ApiError::input(format!(
            "{name:?} must be 1: this server gives one answer to a prompt"
        )));
    }
    match fields
        .get("response_format")
        .map(|format| format["type"].as_str())
    {
        None | Some(Some("text")) => Ok(()),
        Some(_) => Err(ApiError::input(
            "\"response_format\" is not supported by this server, but for {\"type\": \"text\"}",
        )),
    }
}

fn sampling(app: &App, fields: Fields<'_>) -> Result<Sampling, ApiError> {
    let usual = Sampling {
        temperature: app.config.temperature,
        ..Sampling::default()
    };
    let seed = match fields.whole("seed")?.filter(|seed| *seed >= 0) {
        // As llama.cpp, which has 32 bits.
        Some(seed) => seed as u32,
        None => match app.config.seed {
            Some(seed) => seed,
            None => {
                Rng::new(app.clock.unix_seconds() ^ (app.number() << 32), "serve").next_u64() as u32
            }
        },
    };
    Ok(Sampling {
        temperature: fields
            .number("temperature", 0.0, 100.0)?
            .unwrap_or(usual.temperature),
        top_k: fields
            .whole("top_k")?
            .map_or(usual.top_k, |k| usize::try_from(k).unwrap_or(0)),
        top_p: fields.number("top_p", 0.0, 1.0)?.unwrap_or(usual.top_p),
        min_p: fields.number("min_p", 0.0, 1.0)?.unwrap_or(usual.min_p),
        repeat_penalty: fields
            .number("repeat_penalty", 0.01, 100.0)?
            .unwrap_or(usual.repeat_penalty),
        presence_penalty: fields
            .number("presence_penalty", -100.0, 100.0)?
            .unwrap_or(usual.presence_penalty),
        frequency_penalty: fields
            .number("frequency_penalty", -100.0, 100.0)?
            .unwrap_or(usual.frequency_penalty),
        repeat_last_n: usual.repeat_last_n,
        bias: bias(app, fields)?,
        seed,
    })
}

/// `{"15043": -100}` as OpenAI has it, `[[15043, -100], ["text", false]]` as llama-server has it.
fn bias(app: &App, fields: Fields<'_>) -> Result<Vec<(Token, f32)>, ApiError> {
    let bad = || {
        ApiError::input(
            "\"logit_bias\" must be an object of token: number, or a list of [token or text, number or false]",
        )
    };
    let pairs: Vec<(Value, &Value)> = match fields.get("logit_bias") {
        None => Vec::new(),
        Some(Value::Object(map)) => {
            let key = |key: &String| {
                key.parse::<Token>()
                    .map_or_else(|_| Value::from(key.as_str()), Value::from)
            };
            map.iter().map(|(name, value)| (key(name), value)).collect()
        }
        Some(Value::Array(items)) => {
            let pair = |item: &'_ Value| item.as_array().is_some_and(|pair| pair.len() == 2);
            if !items.iter().all(pair) {
                return Err(bad());
            }
            items
                .iter()
                .map(|item| (item[0].clone(), &item[1]))
                .collect()
        }
        Some(_) => return Err(bad()),
    };
    let mut all = Vec::new();
    for (token, value) in pairs {
        let number = match value {
            Value::Bool(false) => f32::NEG_INFINITY,
            value => value
                .as_f64()
                .map(|x| x as f32)
                .filter(|x| x.is_finite())
                .ok_or_else(bad)?,
        };
        match &token {
            Value::String(text) => all.extend(
                app.host
                    .encode(text, false)?
                    .into_iter()
                    .map(|token| (token, number)),
            ),
            token => all.push((known(app, token).ok_or_else(bad)?, number)),
        }
    }
    Ok(all)
}

/// A token of the vocabulary.
pub(super) fn known(app: &App, value: &Value) -> Option<Token> {
    value
        .as_u64()
        .filter(|token| *token < app.host.info().vocabulary as u64)
        .map(|token| token as Token)
}

fn stops(app: &App, fields: Fields<'_>) -> Result<Vec<String>, ApiError> {
    let limits = &app.config.limits;
    let bad = || {
        ApiError::input(format!(
            "\"stop\" must be up to {} texts of 1 to {} bytes",
            limits.stops_max, limits.stop_bytes_max
        ))
    };
    let texts: Vec<&Value> = match fields.get("stop") {
        None => Vec::new(),
        Some(Value::Array(items)) => items.iter().collect(),
        Some(one) => vec![one],
    };
    if texts.len() > limits.stops_max {
        return Err(bad());
    }
    let text = |value: &&Value| {
        value
            .as_str()
            .filter(|text| (1..=limits.stop_bytes_max).contains(&text.len()))
            .map(str::to_owned)
    };
    texts
        .iter()
        .map(|value| text(value).ok_or_else(bad))
        .collect()
}

/// Tokens of text that a model goes on from, with what it wants at the beginning.
pub(super) fn encode(app: &App, text: &str) -> Result<Vec<Token>, ApiError> {
    let mut tokens = app.host.encode(text, true)?;
    if let Some(bos) = app.host.bos().filter(|bos| tokens.first() != Some(bos)) {
        tokens.insert(0, bos);
    }
    Ok(tokens)
}

/// The prompts of a completion: text, tokens, both in turns, `{"prompt_string"}`, or a list of
/// such.
pub(super) fn prompts(app: &App, value: &Value) -> Result<(Vec<Vec<Token>>, bool), ApiError> {
    let most = app.config.limits.prompts_per_request_max;
    let list = value
        .as_array()
        .filter(|items| !items.iter().any(Value::is_number));
    match list {
        Some(items) if items.len() > most => Err(ApiError::input(format!(
            "a request may have {most} prompts, not {}",
            items.len()
        ))),
        Some(items) => Ok((
            items
                .iter()
                .map(|item| prompt(app, item))
                .collect::<Result<_, _>>()?,
            items.len() > 1,
        )),
        None => Ok((vec![prompt(app, value)?], false)),
    }
}

fn prompt(app: &App, value: &Value) -> Result<Vec<Token>, ApiError> {
    let bad = || ApiError::input("a prompt must be text, tokens of this model, or a list of such");
    match value {
        Value::String(text) => encode(app, text),
        Value::Object(_) => encode(
            app,
            Fields::of(value)?
                .only(&["prompt_string"])?
                .needed("prompt_string")?,
        ),
        Value::Array(parts) => {
            let mut tokens = Vec::new();
            for (at, part) in parts.iter().enumerate() {
                match part.as_str() {
                    Some(text) if at == 0 => tokens = encode(app, text)?,
                    Some(text) => tokens.extend(app.host.encode(text, true)?),
                    None => tokens.push(known(app, part).ok_or_else(bad)?),
                }
            }
            Ok(tokens)
        }
        _ => Err(bad()),
    }
}

/// A conversation as the text that the model goes on from.
pub(super) fn conversation(app: &App, fields: Fields<'_>) -> Result<String, ApiError> {
    let messages = fields
        .get("messages")
        .and_then(Value::as_array)
        .filter(|messages| !messages.is_empty());
    let messages =
        messages.ok_or_else(|| ApiError::input("\"messages\" must be a list of messages"))?;
    let mut turns = messages.iter().map(turn).collect::<Result<Vec<_>, _>>()?;
    let continues = fields.truth("continue_final_message")?;
    let opens = fields.truth("add_generation_prompt")?;
    if continues == Some(true) && opens == Some(true) {
        return Err(ApiError::input(
            "\"add_generation_prompt\" and \"continue_final_message\" exclude each other",
        ));
    }
    // An answer that was begun is gone on with.
    let begun = turns.pop_if(|turn| turn.role == "assistant" && continues != Some(false));
    if begun.is_some() && turns.last().is_some_and(|turn| turn.role == "assistant") {
        return Err(ApiError::input(
            "two messages of the assistant at the end: which one is to be gone on with?",
        ));
    }
    if turns.is_empty() {
        return Err(ApiError::input(
            "the conversation needs a message that is not the assistant's",
        ));
    }
    let text = app
        .host
        .render(&turns, begun.is_some() || opens != Some(false))?;
    Ok(text + begun.as_ref().map_or("", |turn| turn.content.as_str()))
}

fn turn(value: &Value) -> Result<Turn, ApiError> {
    let fields = Fields::of(value).map_err(|_| {
        ApiError::input("a message must be an object with \"role\" and \"content\"")
    })?;
    let role = fields.needed("role")?.to_owned();
    let content = match fields.get("content") {
        None if role == "assistant" => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let part = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
                (Some("text"), Some(text)) => Ok(text.to_owned()),
                _ => Err(ApiError::input(
                    "parts of a message must be {\"type\": \"text\", \"text\"}: this server reads text only",
                )),
            };
            parts
                .iter()
                .map(part)
                .collect::<Result<Vec<_>, _>>()?
                .join("\n")
        }
        _ => return Err(ApiError::input("\"content\" of a message must be text")),
    };
    Ok(Turn { role, content })
}

/// A prompt whose answer is under way.
pub(super) struct Pending {
    pub events: UnboundedReceiver<Event>,
    pub prompt: Vec<Token>,
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
/// fails: it is empty, does not fit, or too many wait already.
pub(super) fn submit(
    app: &Arc<App>,
    options: &Options,
    prompt: Vec<Token>,
) -> Result<Pending, ApiError> {
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
    let (events, receiver) = unbounded_channel();
    let free = context - prompt.len();
    let request = Request {
        id: app.number(),
        prompt: prompt.clone(),
        with: options.with.clone(),
        sampling: options.sampling.clone(),
        stops: options.stops.clone(),
        tokens_max: options.tokens_max.unwrap_or(free).min(free),
        ignore_end: options.ignore_end,
        alternatives: options.alternatives,
        cache: options.cache,
        events,
    };
    if !app.send(Command::Submit(Box::new(request))) {
        return Err(ApiError::ended());
    }
    Ok(Pending {
        events: receiver,
        prompt,
        generation: generation(&options.with.key),
        _open: open,
    })
}
