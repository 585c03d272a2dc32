//! JSON from outside: an object in which a key stands twice is refused, since nobody knows which of
//! the two was meant.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// What some editors put before a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Read one JSON value.
///
/// fails: not JSON, or a repeated key; with a sentence that says where
pub fn parse(bytes: &[u8]) -> Result<Value, String> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let read: Result<Unique, serde_json::Error> = serde_json::from_slice(bytes);
    read.map(|unique| unique.0).map_err(|error| {
        if error.is_data() {
            format!("the body cannot be meant: {error}")
        } else {
            format!("the body is not JSON: {error}")
        }
    })
}

/// A value without repeated keys.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if all.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} stands twice")));
            }
            let Unique(value) = entries.next_value()?;
            all.insert(key, value);
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_as_serde_reads_it() {
        let text =
            r#"{"a": [1, -2, 0.5, 1e300, true, null, "é\n"], "b": {}, "c": 18446744073709551615}"#;
        let right: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(parse(text.as_bytes()), Ok(right.clone()));
        let marked = [BYTE_ORDER_MARK, text.as_bytes()].concat();
        assert_eq!(parse(&marked), Ok(right));
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for (text, says) in [
            (
                r#"{"a": 1, "a": 1}"#,
                "the key \"a\" stands twice at line 1",
            ),
            (r#"[{"b": {"c": 1, "c": 2}}]"#, "the key \"c\" stands twice"),
            (r#"{"a": "#, "not JSON: EOF"),
            ("NaN", "not JSON"),
            ("{} {}", "not JSON: trailing"),
        ] {
            let error = parse(text.as_bytes()).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(parse(b"\"\xff\"").is_err());
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
