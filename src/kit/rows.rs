use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::Value;
use translora_gguf::open_file;

use super::{KitError, LineFault};
use crate::record::{Limits, Pair};

/// Whether a row must have an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    Required,
    Optional,
}

/// Read a JSONL file of prompts and answers, strictly.
///
/// bounds: `line_bytes_max` a line, `rows_max` rows; one line is in memory at a time besides the
/// rows
/// fails: at the first line that is not a row, by number
pub fn read_rows(
    path: &Path,
    completion: Completion,
    limits: &Limits,
) -> Result<Vec<Pair>, KitError> {
    let (file, _) = open_file(path).map_err(|error| KitError::of_file(path, error))?;
    read_from(BufReader::new(file), path, completion, limits)
}

fn read_from(
    mut input: impl BufRead,
    path: &Path,
    completion: Completion,
    limits: &Limits,
) -> Result<Vec<Pair>, KitError> {
    let mut rows = Vec::new();
    let mut line = Vec::new();
    // Two more than a line may have: its line feed and a carriage return.
    let bytes_max = limits.line_bytes_max as u64 + 2;
    for number in 1.. {
        line.clear();
        if input
            .by_ref()
            .take(bytes_max)
            .read_until(b'\n', &mut line)
            .map_err(|error| KitError::of_file(path, error))?
            == 0
        {
            break;
        }
        if rows.len() == limits.rows_max {
            return Err(KitError::TooManyRows {
                path: path.to_owned(),
                rows_max: limits.rows_max,
            });
        }
        let row = parse_line(&line, completion, limits.line_bytes_max);
        rows.push(row.map_err(|what| KitError::Line {
            path: path.to_owned(),
            line: number,
            what,
        })?);
    }
    if rows.is_empty() {
        Err(KitError::NoRows {
            path: path.to_owned(),
        })
    } else {
        Ok(rows)
    }
}

fn parse_line(line: &[u8], completion: Completion, bytes_max: usize) -> Result<Pair, LineFault> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > bytes_max {
        return Err(LineFault::TooLong { bytes_max });
    }
    let text = str::from_utf8(line).map_err(|error| LineFault::NotUtf8 {
        byte: error.valid_up_to(),
    })?;
    if text.trim().is_empty() {
        return Err(LineFault::Empty);
    }
    let object = match serde_json::from_str(text).map_err(LineFault::NotJson)? {
        Value::Object(object) => object,
        other => {
            return Err(LineFault::NotAnObject {
                found: kind(&other),
            });
        }
    };
    if let Some(key) = object
        .keys()
        .find(|key| !["prompt", "completion"].contains(&key.as_str()))
    {
        return Err(LineFault::UnknownKey { key: key.clone() });
    }
    let prompt = string(object.get("prompt"), "prompt")?.ok_or(LineFault::NoPrompt)?;
    let answer = string(object.get("completion"), "completion")?;
    if answer.is_none() && completion == Completion::Required {
        return Err(LineFault::NoCompletion);
    }
    Ok(Pair {
        prompt: prompt.into(),
        completion: answer.unwrap_or_default(),
    })
}

fn string(value: Option<&Value>, key: &'static str) -> Result<Option<String>, LineFault> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Err(LineFault::Blank { key }),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(LineFault::NotAString {
            key,
            found: kind(other),
        }),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Refuse seeds that repeat each other.
pub(super) fn check_distinct(path: &Path, rows: &[Pair]) -> Result<(), KitError> {
    let mut first: HashMap<&str, usize> = HashMap::new();
    let mut repeated = None;
    for (i, row) in rows.iter().enumerate() {
        let seen = *first.entry(row.prompt.text.trim()).or_insert(i + 1);
        if seen != i + 1 && repeated.is_none() {
            repeated = Some((i + 1, seen));
        }
    }
    match repeated {
        Some(_) if first.len() == 1 => Err(KitError::SameSeeds {
            path: path.to_owned(),
            rows: rows.len(),
        }),
        Some((line, first)) => Err(KitError::Line {
            path: path.to_owned(),
            line,
            what: LineFault::Repeated { first },
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Blame;

    fn read(text: &[u8], completion: Completion) -> Result<Vec<Pair>, String> {
        let limits = Limits {
            line_bytes_max: 80,
            rows_max: 3,
            ..Limits::default()
        };
        read_from(text, Path::new("d.jsonl"), completion, &limits).map_err(|error| {
            assert!(error.remedy().is_some(), "{error} has no remedy");
            error.to_string()
        })
    }

    #[test]
    fn good_rows_are_read_whole() {
        let rows = read(
            b"{\"prompt\":\"a\",\"completion\":\" b\"}\r\n{\"prompt\":\"c\"}",
            Completion::Optional,
        )
        .unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(
            (rows[0].completion.as_str(), rows[1].prompt.text.as_str()),
            (" b", "c")
        );
    }

    #[test]
    fn every_bad_line_is_named() {
        let long = format!("{{\"prompt\":\"{}\"}}\n", "x".repeat(80));
        let cases: [(&[u8], &str); 14] = [
            (b"", "d.jsonl: it has no rows"),
            (b"\n", "d.jsonl:1: the line is empty"),
            (b"{\"prompt\":\"a\"}\n \n", "d.jsonl:2: the line is empty"),
            (
                long.as_bytes(),
                "d.jsonl:1: the line is longer than 80 bytes",
            ),
            (b"{\"prompt\":\"\xff\"}", "d.jsonl:1: not UTF-8 at byte 11"),
            (b"prompt", "d.jsonl:1: not JSON"),
            (b"[1]", "d.jsonl:1: not an object but an array"),
            (b"{\"completion\":\"a\"}", "d.jsonl:1: no \"prompt\""),
            (
                b"{\"prompt\":7}",
                "d.jsonl:1: \"prompt\" is a number, expected a string",
            ),
            (b"{\"prompt\":\" \"}", "d.jsonl:1: \"prompt\" is blank"),
            (
                b"{\"prompt\":\"a\",\"completion\":\"\"}",
                "d.jsonl:1: \"completion\" is blank",
            ),
            (
                b"{\"prompt\":\"a\",\"answer\":\"b\"}",
                "d.jsonl:1: unknown key \"answer\"",
            ),
            (b"{\"prompt\":\"a\"}\n{\"prompt\"", "d.jsonl:2: not JSON"),
            (
                b"{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n{\"prompt\":\"c\"}\n{\"prompt\":\"d\"}",
                "d.jsonl: more than 3 rows",
            ),
        ];
        for (text, expected) in cases {
            let error = read(text, Completion::Optional).unwrap_err();
            assert!(error.starts_with(expected), "{error:?} is not {expected:?}");
        }
        assert!(
            read(b"{\"prompt\":\"a\"}", Completion::Required)
                .unwrap_err()
                .contains("no \"completion\"")
        );
    }

    #[test]
    fn seeds_must_differ() {
        let row = |prompt: &str| Pair {
            prompt: prompt.into(),
            completion: String::new(),
        };
        let check = |rows: &[Pair]| {
            check_distinct(Path::new("s.jsonl"), rows).map_err(|error| error.to_string())
        };
        assert_eq!(check(&[row("a")]), Ok(()));
        assert_eq!(check(&[row("a"), row("b")]), Ok(()));
        assert_eq!(
            check(&[row("a"), row("a ")]),
            Err("s.jsonl: all 2 seeds are the same text".into())
        );
        assert_eq!(
            check(&[row("a"), row("b"), row("a")]),
            Err("s.jsonl:3: the same prompt as line 1".into())
        );
    }
}
