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
    let text = match bytes {
        [0x1f, 0x8b, ..] => Err("the body is packed with gzip: send it as it is".to_owned()),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] => {
            Err("the body is UTF-16: send UTF-8".to_owned())
        }
        bytes => str::from_utf8(bytes).map_err(|error| {
            let at = error.valid_up_to();
            format!("the body is not UTF-8 at byte {at}: send UTF-8")
        }),
    }?;
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
        for (bytes, says) in [
            (&b"\"\xff\""[..], "not UTF-8 at byte 1"),
            (b"\xff\xfe{\0}\0", "UTF-16"),
            (b"{\0}\0", "UTF-16"),
            (b"\0{\0}", "UTF-16"),
            (b"\x1f\x8b\x08\0", "gzip"),
        ] {
            let error = parse(bytes).expect_err(says);
            assert!(error.contains(says), "{error}");
        }
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
