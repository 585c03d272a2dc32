//! JSON from outside: an object in which a key is there twice is refused, since nobody knows which
//! of the two was meant.

use serde_json::Value;

use crate::record::json;

/// What some editors put before a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Read one JSON value.
///
/// fails: not JSON, or a repeated key; with a sentence that says where
pub fn parse(bytes: &[u8]) -> Result<Value, String> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let text = str::from_utf8(bytes).map_err(|error| format!("the body is not JSON: {error}"))?;
    json::parse(text).map_err(|error| {
        let (line, column) = (error.line, error.column);
        if error.repeated {
            format!("the body cannot be meant: {error} at line {line} column {column}")
        } else {
            format!("the body is not JSON: {error} at line {line} column {column}")
        }
    })
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
                "the key \"a\" is there twice at line 1",
            ),
            (
                r#"[{"b": {"c": 1, "c": 2}}]"#,
                "the key \"c\" is there twice",
            ),
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
