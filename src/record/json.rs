//! JSON whose objects name no key twice.
//!
//! serde_json keeps the last of two equal keys and says nothing. Whoever wrote the first one meant
//! it, so here it is an error.

use std::fmt;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};

/// Why a text is not JSON. Line and column are those of the text, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct JsonError {
    /// What is wrong, without the place.
    pub what: String,
    /// The line of the text.
    pub line: usize,
    /// The byte of that line.
    pub column: usize,
    /// It is JSON, but an object has this key twice.
    pub repeated: bool,
}

/// Parse a text that is one value.
///
/// fails: it is not JSON, or an object in it has a key twice
pub fn parse(text: &str) -> Result<Value, JsonError> {
    serde_json::from_str::<Strict>(text)
        .map(|strict| strict.0)
        .map_err(|error| JsonError::of(&error))
}

/// Parse the value that a text begins with. Returns it with the bytes it takes, white space before
/// it included; nothing where there is only white space.
///
/// fails: as [`parse`]
pub fn parse_first(text: &str) -> Result<Option<(Value, usize)>, JsonError> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Strict>();
    match values.next() {
        None => Ok(None),
        Some(value) => value
            .map(|strict| Some((strict.0, values.byte_offset())))
            .map_err(|error| JsonError::of(&error)),
    }
}

impl JsonError {
    fn of(error: &serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        let place = format!(" at line {line} column {column}");
        let what = error.to_string();
        Self {
            what: what.strip_suffix(&place).unwrap_or(&what).to_owned(),
            line,
            column,
            // Nothing else of a value can be wrong that is JSON.
            repeated: error.is_data(),
        }
    }
}

/// What a value is, with its article.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A value whose objects were seen to name each key once.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Once)
    }
}

struct Once;

impl<'de> Visitor<'de> for Once {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Strict, E> {
        Ok(Strict(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Strict, E> {
        Ok(Strict(
            Number::from_f64(value).map_or(Value::Null, Value::Number),
        ))
    }

    fn visit_str<E>(self, value: &str) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Strict, A::Error> {
        let mut all = Vec::new();
        while let Some(Strict(value)) = from.next_element()? {
            all.push(value);
        }
        Ok(Strict(Value::Array(all)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Strict, A::Error> {
        let mut all = Map::new();
        while let Some(key) = from.next_key::<String>()? {
            if all.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} is there twice")));
            }
            let Strict(value) = from.next_value()?;
            all.insert(key, value);
        }
        Ok(Strict(Value::Object(all)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_serde_json_reads_is_read_the_same() {
        let texts = [
            "null",
            " [true, -1, 18446744073709551615, 1.5e3, \"a\\u00e9\\n\"] ",
            r#"{"a": {"b": []}, "c": {"b": {}}}"#,
        ];
        for text in texts {
            assert_eq!(
                parse(text).unwrap(),
                serde_json::from_str::<Value>(text).unwrap()
            );
        }
    }

    #[test]
    fn a_key_that_is_there_twice_is_named_at_any_depth() {
        for text in [r#"{"a":1,"b":2,"a":3}"#, r#"[{"x":{"a":1,"\u0061":2}}]"#] {
            let error = parse(text).unwrap_err();
            assert!(error.repeated, "{error:?}");
            assert_eq!(error.what, "the key \"a\" is there twice");
        }
    }

    #[test]
    fn errors_keep_the_place_apart() {
        let error = parse("{\n\"a\": NaN}").unwrap_err();
        assert_eq!((error.line, error.column, error.repeated), (2, 6, false));
        assert_eq!(error.what, "expected value");
    }

    #[test]
    fn the_first_value_says_how_long_it_is() {
        assert_eq!(
            parse_first(" {} []").unwrap(),
            Some((Value::Object(Map::new()), 3))
        );
        assert_eq!(parse_first(" \n").unwrap(), None);
        assert!(parse_first("{").is_err());
    }
}
