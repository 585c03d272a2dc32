//! From the fields of a request to how its answers are generated.

use std::collections::BTreeMap;

use serde_json::Value;

use super::App;
use super::prompt::tokens_of;
use super::schema::{Common, FormatKind, Integer, OneOrMany, Scale};
use crate::engine::host::Token;
use crate::record::Rng;
use crate::serve::error::ApiError;
use crate::serve::grammar::{self, Json};
use crate::serve::live::Choice;
use crate::serve::sampler::{PENALTY, REPEAT_PENALTY, SHARE, Sampling, TEMPERATURE};

/// What is the same for every prompt of a request, whichever API it came through.
#[derive(Clone)]
pub(super) struct Options {
    /// The model that answers, as the response calls it.
    pub model: String,
    pub with: Choice,
    pub sampling: Sampling,
    pub stops: Vec<String>,
    /// What the answer is held to, in llama.cpp's notation.
    pub grammar: Option<String>,
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
    /// fails: a value out of range, an unknown model.
    pub(super) fn read(app: &App, fields: Common) -> Result<Self, ApiError> {
        let (model, with) = chosen(app, fields.model.as_deref(), fields.lora.as_deref())?;
        let wanted = [
            ("max_completion_tokens", fields.max_completion_tokens),
            ("max_tokens", fields.max_tokens),
            ("n_predict", fields.n_predict),
        ];
        // Each is checked, and the first counts.
        let one = |(name, whole): (&str, Option<Integer>)| {
            let whole = whole.map(|Integer(whole)| match whole {
                -1 => Ok(None),
                most => count(name, most).map(Some),
            });
            whole.transpose()
        };
        let wanted = wanted.into_iter().map(one).collect::<Result<Vec<_>, _>>()?;
        let wanted = wanted.into_iter().flatten().next().flatten();
        let usage = fields.stream_options.as_ref();
        Ok(Self {
            model,
            with,
            sampling: sampling(app, &fields)?,
            grammar: grammar(app, &fields)?,
            stops: stops(app, fields.stop)?,
            tokens_max: wanted.into_iter().chain(app.config.tokens_max).min(),
            ignore_end: fields.ignore_eos.unwrap_or(false),
            alternatives: None,
            cache: fields.cache_prompt.unwrap_or(true),
            stream: fields.stream.unwrap_or(false),
            usage: usage
                .and_then(|options| options.include_usage)
                .unwrap_or(false),
        })
    }

    /// Report the probability of each token, and of so many others.
    pub(super) fn report(&mut self, app: &App, alternatives: Integer) -> Result<(), ApiError> {
        let most = app.config.limits.logprobs_max;
        let count = usize::try_from(alternatives.0)
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

fn count(name: &str, whole: i128) -> Result<usize, ApiError> {
    usize::try_from(whole)
        .map_err(|_| ApiError::input(format!("{name:?} counts tokens: {whole} is no such number")))
}

/// A number between two bounds, both allowed.
fn within(
    name: &str,
    value: Option<f32>,
    usual: f32,
    (least, most): (f32, f32),
) -> Result<f32, ApiError> {
    match value {
        None => Ok(usual),
        Some(value) if (least..=most).contains(&value) => Ok(value),
        Some(value) => Err(ApiError::input(format!(
            "{name:?} must be from {least} to {most}, not {value}"
        ))),
    }
}

/// The adapters that a request runs under, and what its response calls the model.
///
/// fails: an unknown model or number; an adapter chosen by both fields.
pub(super) fn chosen(
    app: &App,
    model: Option<&str>,
    lora: Option<&[Scale]>,
) -> Result<(String, Choice), ApiError> {
    let registry = app.registry();
    let adapter = match model {
        Some(name) if name != app.name => match registry.only(name) {
            Some(choice) => Some((name, choice)),
            None if app.config.any_model => None,
            None => return Err(ApiError::no_model(name)),
        },
        _ => None,
    };
    match (adapter, lora) {
        (Some((name, _)), Some(_)) => Err(ApiError::input(format!(
            "\"model\" names the adapter {name:?}, and \"lora\" chooses adapters too: leave out one of them, or name the base"
        ))),
        (Some((name, choice)), None) => Ok((name.to_owned(), choice)),
        (None, Some(scales)) => Ok((app.name.clone(), registry.scaled(&pairs(scales))?)),
        (None, None) => Ok((app.name.clone(), registry.usual())),
    }
}

/// Numbers and scales.
pub(super) fn pairs(scales: &[Scale]) -> Vec<(usize, f32)> {
    scales.iter().map(|scale| (scale.id, scale.scale)).collect()
}

fn sampling(app: &App, fields: &Common) -> Result<Sampling, ApiError> {
    let usual = &app.config.sampling;
    let seed = match fields.seed.filter(|seed| seed.0 >= 0) {
        // As llama.cpp, which has 32 bits.
        Some(seed) => seed.0 as u32,
        None => match app.config.seed {
            Some(seed) => seed,
            None => {
                Rng::new(app.clock.unix_seconds() ^ (app.number() << 32), "serve").next_u64() as u32
            }
        },
    };
    Ok(Sampling {
        temperature: within(
            "temperature",
            fields.temperature,
            usual.temperature,
            TEMPERATURE,
        )?,
        // Nothing but 0 is "all" in other servers; some clients write -1.
        top_k: fields
            .top_k
            .map_or(usual.top_k, |k| usize::try_from(k.0).unwrap_or(0)),
        top_p: within("top_p", fields.top_p, usual.top_p, SHARE)?,
        min_p: within("min_p", fields.min_p, usual.min_p, SHARE)?,
        repeat_penalty: within(
            "repeat_penalty",
            fields.repeat_penalty,
            usual.repeat_penalty,
            REPEAT_PENALTY,
        )?,
        presence_penalty: within(
            "presence_penalty",
            fields.presence_penalty,
            usual.presence_penalty,
            PENALTY,
        )?,
        frequency_penalty: within(
            "frequency_penalty",
            fields.frequency_penalty,
            usual.frequency_penalty,
            PENALTY,
        )?,
        repeat_last_n: match fields.repeat_last_n {
            None => usual.repeat_last_n.min(app.host.info().context),
            Some(Integer(-1)) => app.host.info().context,
            Some(n) => count("repeat_last_n", n.0)?.min(app.host.info().context),
        },
        bias: bias(app, fields.logit_bias.as_ref())?,
        seed,
    })
}

/// `{"15043": -100}` as OpenAI has it, `[[15043, -100], ["text", false]]` as llama-server has it.
fn bias(app: &App, field: Option<&Value>) -> Result<Vec<(Token, f32)>, ApiError> {
    let bad = || {
        ApiError::input(
            "\"logit_bias\" must be an object of token: number, or a list of [token or text, number or false]",
        )
    };
    let pairs: Vec<(Value, &Value)> = match field {
        None => Vec::new(),
        Some(Value::Object(map)) => {
            // A number is a token's, and no text.
            let key = |key: &String| match key.parse::<i128>() {
                Ok(number) => Value::from(i64::try_from(number).unwrap_or(-1)),
                Err(_) => Value::from(key.as_str()),
            };
            map.iter().map(|(name, value)| (key(name), value)).collect()
        }
        Some(Value::Array(items)) => {
            let pair = |item: &Value| item.as_array().is_some_and(|pair| pair.len() == 2);
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
    let mut all = BTreeMap::new();
    for (token, value) in pairs {
        let number = match value {
            Value::Bool(false) => f32::NEG_INFINITY,
            value => value
                .as_f64()
                .map(|x| x as f32)
                .filter(|x| x.is_finite())
                .ok_or_else(bad)?,
        };
        let tokens = match &token {
            Value::String(text) => tokens_of(app, text, false)?,
            token => vec![
                token
                    .as_i64()
                    .and_then(|token| known(app, token))
                    .ok_or_else(bad)?,
            ],
        };
        for token in tokens {
            let sum = all.entry(token).or_insert(0.0);
            *sum += number;
            // Without an end in one direction only: a token may be forbidden, not forced.
            if sum.is_nan() || *sum == f32::INFINITY {
                return Err(bad());
            }
        }
    }
    Ok(all.into_iter().collect())
}

/// A token of the vocabulary.
pub(super) fn known(app: &App, token: impl TryInto<Token>) -> Option<Token> {
    let vocabulary = app.host.info().vocabulary;
    let token = token.try_into().ok()?;
    usize::try_from(token)
        .is_ok_and(|token| token < vocabulary)
        .then_some(token)
}

/// The grammar that the fields for structured answers come to; one of them may be there.
///
/// fails: several of them, a schema that no grammar says, too long.
fn grammar(app: &App, fields: &Common) -> Result<Option<String>, ApiError> {
    let text = fields.grammar.as_ref().filter(|text| !text.is_empty());
    let format = fields.response_format.as_ref();
    let format = format.filter(|format| format.kind != FormatKind::Text);
    let present = [
        ("grammar", text.is_some()),
        ("json_schema", fields.json_schema.is_some()),
        ("response_format", format.is_some()),
    ];
    let mut present = present.iter().filter(|(_, is)| *is).map(|(name, _)| name);
    if let (Some(first), Some(second)) = (present.next(), present.next()) {
        return Err(ApiError::input(format!(
            "{first:?} and {second:?} exclude each other"
        )));
    }
    let path: &[&str] = match format {
        None if fields.json_schema.is_some() => &["json_schema"],
        None => return text.map(|text| short(app, text.clone())).transpose(),
        Some(format) => match (format.kind, &format.schema, &format.json_schema) {
            (_, Some(_), _) => &["response_format", "schema"],
            (FormatKind::JsonSchema, None, Some(named)) if named.schema.is_some() => {
                &["response_format", "json_schema", "schema"]
            }
            (FormatKind::JsonSchema, None, _) => {
                return Err(ApiError::input(
                    "\"response_format\" has no \"json_schema\" with a \"schema\"",
                ));
            }
            (FormatKind::JsonObject | FormatKind::Text, None, _) => {
                return short(app, grammar::any_object()).map(Some);
            }
        },
    };
    let schema = raw(fields)?;
    let schema = schema.at(path).unwrap_or(&Json::Null);
    let rules = grammar::of_schema(schema);
    let rules = rules.map_err(|error| ApiError::input(format!("{:?}: {error}", path.join("."))))?;
    short(app, rules).map(Some)
}

/// The body, in its own order.
pub(super) fn raw(fields: &Common) -> Result<Json, ApiError> {
    json_of(&fields.raw)
}

/// A body in its own order.
pub(super) fn json_of(raw: &[u8]) -> Result<Json, ApiError> {
    Json::read(raw).map_err(|error| ApiError::input(error.to_string()))
}

/// A grammar that is not too long.
pub(super) fn short(app: &App, rules: String) -> Result<String, ApiError> {
    let most = app.config.limits.grammar_bytes_max;
    if rules.len() <= most {
        return Ok(rules);
    }
    Err(ApiError::input(format!(
        "the grammar, or what the schema comes to, is longer than {most} bytes"
    )))
}

fn stops(app: &App, field: Option<OneOrMany>) -> Result<Vec<String>, ApiError> {
    let limits = &app.config.limits;
    let mut texts = field.map_or(Vec::new(), OneOrMany::into_vec);
    // As llama-server: an empty text ends nothing.
    texts.retain(|text| !text.is_empty());
    if texts.len() > limits.stops_max || texts.iter().any(|text| text.len() > limits.stop_bytes_max)
    {
        return Err(ApiError::input(format!(
            "\"stop\" must be up to {} texts of up to {} bytes",
            limits.stops_max, limits.stop_bytes_max
        )));
    }
    Ok(texts)
}
