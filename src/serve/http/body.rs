//! Reads the body of a request: JSON without repeated keys, then the fields of its endpoint. What is
//! unknown, of the wrong kind or not supported is refused by name.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::header;
use serde::de::value::Error as Named;
use serde::de::{DeserializeOwned, Deserializer, Visitor};
use serde_json::{Map, Value};

use super::schema::Common;
use super::{App, lora};
use crate::control;
use crate::serve::error::ApiError;

/// Fields that change no answer here, whatever they say: they are accepted and not read.
pub(super) const ACCEPTED: &[&str] = &[
    "id_slot",
    "keep_alive",
    "metadata",
    "n_cache_reuse",
    "n_discard",
    "n_keep",
    "prediction",
    "priority",
    "prompt_cache_key",
    "request_id",
    "return_progress",
    "safety_identifier",
    "service_tier",
    "store",
    "timings_per_token",
    "user",
    // These only say how something works that is off; to switch it on is refused below.
    "dry_allowed_length",
    "dry_base",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "dynatemp_exponent",
    "mirostat_eta",
    "mirostat_tau",
    "xtc_threshold",
];

/// Fields of other servers that would change an answer and are not there, each with the values that
/// change nothing, as JSON.
pub(super) const UNSUPPORTED: &[(&str, &str)] = &[
    ("adaptive_target", "[-1]"),
    ("allowed_token_ids", "[]"),
    ("audio", "[]"),
    ("bad_words", "[[]]"),
    ("best_of", "[1]"),
    ("chat_template", "[]"),
    ("documents", "[[]]"),
    ("dry_multiplier", "[0]"),
    ("dynatemp_range", "[0]"),
    ("early_stopping", "[false]"),
    ("echo", "[false]"),
    ("function_call", "[\"none\", \"auto\"]"),
    ("functions", "[[]]"),
    ("guided_choice", "[]"),
    ("guided_grammar", "[]"),
    ("guided_json", "[]"),
    ("guided_regex", "[]"),
    ("image_data", "[[]]"),
    ("include_stop_str_in_output", "[false]"),
    ("length_penalty", "[1]"),
    ("lora_request", "[]"),
    ("min_keep", "[0]"),
    ("min_tokens", "[0]"),
    ("mirostat", "[0]"),
    ("modalities", "[[\"text\"]]"),
    ("n", "[1]"),
    ("penalize_nl", "[false]"),
    ("post_sampling_probs", "[false]"),
    ("prompt_logprobs", "[]"),
    ("reasoning", "[]"),
    ("reasoning_effort", "[\"none\"]"),
    ("reasoning_format", "[\"none\"]"),
    ("repetition_penalty", "[1]"),
    ("skip_special_tokens", "[true]"),
    ("smoothing_factor", "[0]"),
    ("stop_token_ids", "[[]]"),
    ("structured_outputs", "[]"),
    ("suffix", "[\"\"]"),
    ("t_max_predict_ms", "[0, -1]"),
    ("tfs_z", "[1]"),
    ("thinking_budget_tokens", "[-1]"),
    ("top_a", "[0]"),
    ("top_n_sigma", "[-1, 0]"),
    ("truncate_prompt_tokens", "[]"),
    ("typ_p", "[1]"),
    ("typical_p", "[1]"),
    ("use_beam_search", "[false]"),
    ("verbosity", "[\"medium\"]"),
    ("web_search_options", "[]"),
    ("xtc_probability", "[0]"),
];

/// The samplers that are there, in the order in which they run; a request may name others between
/// them, as long as nothing switches those on.
pub(super) const SAMPLERS: [&str; 5] = ["penalties", "top_k", "top_p", "min_p", "temperature"];

/// The fields of an endpoint that generates, and those that all of these share.
///
/// fails: not a JSON object, a field that is unknown, not supported, or of the wrong kind; the model
/// is a new file in the folder that cannot be loaded.
pub(super) async fn generation<T: DeserializeOwned>(
    app: &Arc<App>,
    request: Request,
) -> Result<(T, Common), ApiError> {
    let role = request.extensions().get().copied();
    let (value, raw) = read(app, request).await?;
    let mut fields = object(value)?;
    refuse_unsupported(&mut fields)?;
    let (own, shared) = (names::<T>(), names::<Common>());
    let known: Vec<&str> = own.iter().chain(shared).copied().collect();
    refuse_unknown(&fields, &known)?;
    let common = |(name, _): &(&String, &mut Value)| shared.contains(&name.as_str());
    let common: Map<String, Value> = fields
        .iter_mut()
        .filter(common)
        .map(|(name, value)| (name.clone(), value.take()))
        .collect();
    fields.retain(|name, _| own.contains(&name.as_str()));
    let common = Common {
        raw,
        ..parse(common.into())?
    };
    if let Some(name) = &common.model {
        lora::find(app, name, role).await?;
    }
    Ok((parse(fields.into())?, common))
}

/// The fields of an endpoint that generates nothing.
///
/// fails: not a JSON object, a field that is unknown or of the wrong kind.
pub(super) async fn fields<T: DeserializeOwned>(
    app: &App,
    request: Request,
) -> Result<T, ApiError> {
    fields_and_raw(app, request).await.map(|(fields, _)| fields)
}

/// The same with the body as it came.
pub(super) async fn fields_and_raw<T: DeserializeOwned>(
    app: &App,
    request: Request,
) -> Result<(T, Bytes), ApiError> {
    let (value, raw) = read(app, request).await?;
    let mut fields = object(value)?;
    fields.retain(|name, _| !ACCEPTED.contains(&name.as_str()));
    refuse_unknown(&fields, names::<T>())?;
    Ok((parse(fields.into())?, raw))
}

/// The body of a request as JSON.
///
/// fails: too long, too slow, not JSON, a key that stands twice in one object.
pub(super) async fn json(app: &App, request: Request) -> Result<Value, ApiError> {
    read(app, request).await.map(|(value, _)| value)
}

/// A body as JSON, and as it came.
async fn read(app: &App, request: Request) -> Result<(Value, Bytes), ApiError> {
    let most = app.config.limits.request_bytes_max;
    let patience = std::time::Duration::from_secs(app.config.limits.request_seconds_max);
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    if length.is_some_and(|length: usize| length > most) {
        return Err(ApiError::too_large(most));
    }
    let read =
        tokio::time::timeout(patience, axum::body::to_bytes(request.into_body(), most)).await;
    let bytes = read
        .map_err(|_| ApiError::too_slow())?
        .map_err(|_| ApiError::too_large(most))?;
    let value = control::parse(&bytes).map_err(ApiError::input)?;
    // A mark of the byte order is no part of it.
    let start = bytes.len() - bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes).len();
    Ok((value, bytes.slice(start..)))
}

/// A value as one of the kinds of `schema`.
///
/// fails: a field of the wrong kind, named by its path.
pub(super) fn parse<T: DeserializeOwned>(value: Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let (path, why) = (error.path().to_string(), error.inner().to_string());
        ApiError::input(match path.as_str() {
            "." => why,
            path => format!("{path:?}: {why}"),
        })
    })
}

fn object(value: Value) -> Result<Map<String, Value>, ApiError> {
    match value {
        // What is null is not there.
        Value::Object(mut fields) => {
            fields.retain(|_, value| !value.is_null());
            Ok(fields)
        }
        _ => Err(ApiError::input("expected a JSON object")),
    }
}

/// Take out what changes nothing, and refuse what would change an answer and is not there.
fn refuse_unsupported(fields: &mut Map<String, Value>) -> Result<(), ApiError> {
    fields.retain(|name, _| !ACCEPTED.contains(&name.as_str()));
    for (name, neutral) in UNSUPPORTED {
        let Some(value) = fields.remove(*name) else {
            continue;
        };
        let values: Vec<Value> = serde_json::from_str(neutral)
            .map_err(|error| ApiError::internal(format!("the table of fields: {error}")))?;
        if values.iter().any(|neutral| same(neutral, &value)) {
            continue;
        }
        let but = match values.first() {
            Some(value) => format!("; only {value} is accepted, which changes nothing"),
            None => String::new(),
        };
        return Err(ApiError::input(format!(
            "{name:?} is not supported by this server{but}"
        )));
    }
    match fields.remove("samplers") {
        Some(list) if !has_our_order(&list) => Err(ApiError::input(format!(
            "\"samplers\" must have {} in this order: another one is not supported by this server",
            SAMPLERS.join(", ")
        ))),
        _ => Ok(()),
    }
}

/// Numbers are the same whether they are written as 1 or as 1.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

fn has_our_order(list: &Value) -> bool {
    let Some(list) = list.as_array() else {
        return false;
    };
    let ours = list
        .iter()
        .filter_map(Value::as_str)
        .filter(|name| SAMPLERS.contains(name));
    ours.eq(SAMPLERS)
}

fn refuse_unknown(fields: &Map<String, Value>, known: &[&str]) -> Result<(), ApiError> {
    let Some(name) = fields.keys().find(|name| !known.contains(&name.as_str())) else {
        return Ok(());
    };
    let near = |known: &&&str| strsim::jaro_winkler(known, name) > 0.85;
    let meant = known.iter().find(near);
    let meant = meant.map_or(String::new(), |known| format!("; is {known:?} meant?"));
    Err(ApiError::input(format!(
        "unknown field {name:?}: this endpoint does not read it{meant}"
    )))
}

/// The names of a struct's fields, as JSON has them.
pub(super) fn names<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // It always fails: there is no value, only the names are wanted.
    _ = T::deserialize(Names(&mut names));
    names
}

struct Names<'n>(&'n mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = Named;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Named> {
        *self.0 = fields;
        Err(serde::de::Error::custom("only the names"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Named> {
        Err(serde::de::Error::custom("no struct"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(fields: Value) -> String {
        let mut fields = object(fields).expect("an object");
        match refuse_unsupported(&mut fields) {
            Ok(()) => format!("left: {:?}", fields.keys().collect::<Vec<_>>()),
            Err(error) => error.to_string(),
        }
    }

    /// Every row of the table parses, takes what it says, and refuses something else by name.
    #[test]
    fn each_unsupported_field_is_refused_by_name_but_for_what_changes_nothing() {
        for (name, neutral) in UNSUPPORTED {
            let values: Vec<Value> = serde_json::from_str(neutral).expect(name);
            for value in values.into_iter().chain([Value::Null]) {
                assert_eq!(refused(json!({ *name: value })), "left: []", "{name}");
            }
            let refused = refused(json!({ *name: { "x": 0.77 } }));
            assert!(
                refused.starts_with(&format!("{name:?} is not supported")),
                "{refused}"
            );
            assert!(!ACCEPTED.contains(name), "{name} is in both lists");
            assert!(!names::<Common>().contains(name), "{name} is supported");
        }
        for name in ACCEPTED {
            assert_eq!(refused(json!({ *name: { "x": 0.77 } })), "left: []");
        }
    }

    #[test]
    fn samplers_may_be_named_in_the_order_in_which_they_run() {
        let usual = json!([
            "penalties",
            "dry",
            "top_n_sigma",
            "top_k",
            "typ_p",
            "top_p",
            "min_p",
            "xtc",
            "temperature"
        ]);
        assert_eq!(refused(json!({ "samplers": usual })), "left: []");
        for other in [
            json!(["top_k"]),
            json!(["temperature", "penalties", "top_k", "top_p", "min_p"]),
            json!("kpmt"),
        ] {
            assert!(refused(json!({ "samplers": other })).starts_with("\"samplers\" must"));
        }
    }

    #[test]
    fn a_field_is_unknown_by_its_name_and_has_a_neighbour() {
        let fields = object(json!({ "max_token": 3, "seed": 1 })).expect("an object");
        let error = refuse_unknown(&fields, names::<Common>()).expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "unknown field \"max_token\": this endpoint does not read it; is \"max_tokens\" meant?"
        );
    }
}
