//! Methods of Python's strings, lists and dictionaries that the package of minijinja lacks, or
//! does without their keywords.

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

pub(crate) fn call(
    state: &State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let ours = match value.as_str() {
        Some(text) => of_string(text, method, args)?,
        None if value.kind() == ValueKind::Seq => of_list(value, method, args)?,
        None => None,
    };
    match ours {
        Some(value) => Ok(value),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn wrong(reason: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.to_owned())
}

fn of_string(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let one = || from_args::<(&str,)>(args).map(|(argument,)| argument);
    Ok(Some(match method {
        "split" | "rsplit" => split(text, method, args)?,
        "partition" => {
            let separator = one()?;
            let parts = text.split_once(separator);
            let parts = parts.map_or([text, "", ""], |(a, b)| [a, separator, b]);
            Value::from(parts.map(Value::from).to_vec())
        }
        "rpartition" => {
            let separator = one()?;
            let parts = text.rsplit_once(separator);
            let parts = parts.map_or(["", "", text], |(a, b)| [a, separator, b]);
            Value::from(parts.map(Value::from).to_vec())
        }
        "removeprefix" => Value::from(text.strip_prefix(one()?).unwrap_or(text)),
        "removesuffix" => Value::from(text.strip_suffix(one()?).unwrap_or(text)),
        "casefold" => Value::from(text.to_lowercase()),
        "swapcase" => {
            let swapped = text.chars().flat_map(|c| {
                let c = c.to_string();
                let other = if c.to_lowercase() == c {
                    c.to_uppercase()
                } else {
                    c.to_lowercase()
                };
                other.chars().collect::<Vec<_>>()
            });
            Value::from(swapped.collect::<String>())
        }
        "find" | "rfind" | "index" | "rindex" => {
            let part = one()?;
            let at = match method {
                "find" | "index" => text.find(part),
                _ => text.rfind(part),
            };
            match at {
                Some(at) => Value::from(text[..at].chars().count()),
                None if method.ends_with("find") => Value::from(-1),
                None => return Err(wrong("substring not found")),
            }
        }
        "ljust" | "rjust" | "center" | "zfill" => {
            let (width, fill) = from_args::<(usize, Option<&str>)>(args)?;
            Value::from(padded(
                text,
                method,
                width.min(WIDTH_MAX),
                fill.unwrap_or(" "),
            ))
        }
        _ => return Ok(None),
    }))
}

fn split(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, pieces) = split_arguments(args)?;
    let mut pieces = match (separator.as_deref(), method) {
        (Some(""), _) => return Err(wrong("empty separator")),
        (Some(separator), "split") => {
            let pieces = text.splitn(pieces, separator);
            pieces.map(Value::from).collect::<Vec<_>>()
        }
        (Some(separator), _) => {
            let pieces = text.rsplitn(pieces, separator);
            pieces.map(Value::from).collect::<Vec<_>>()
        }
        (None, "split") => words(text, pieces),
        (None, _) => last_words(text, pieces),
    };
    if method == "rsplit" {
        pieces.reverse();
    }
    Ok(Value::from(pieces))
}

/// The widest that a text is filled up to. units: characters
const WIDTH_MAX: usize = 1 << 16;

pub(crate) fn padded(text: &str, method: &str, width: usize, fill: &str) -> String {
    let missing = width.saturating_sub(text.chars().count());
    match method {
        "ljust" => format!("{text}{}", fill.repeat(missing)),
        "rjust" => format!("{}{text}", fill.repeat(missing)),
        "zfill" => {
            let digits = text.trim_start_matches(['+', '-']);
            let (sign, digits) = text.split_at(text.len() - digits.len());
            format!("{sign}{}{digits}", "0".repeat(missing))
        }
        _ => {
            let before = missing / 2 + (missing & width & 1);
            format!(
                "{}{text}{}",
                fill.repeat(before),
                fill.repeat(missing - before)
            )
        }
    }
}

/// The separator, and the most pieces.
fn split_arguments(args: &[Value]) -> Result<(Option<String>, usize), Error> {
    let (args, named): (&[Value], Kwargs) = from_args(args)?;
    let separator = named
        .get::<Option<Value>>("sep")?
        .or_else(|| args.first().cloned());
    let most = named.get::<Option<i64>>("maxsplit")?;
    let most = match args.get(1) {
        Some(most) => Some(i64::try_from(most.clone())?),
        None => most,
    };
    named.assert_all_used()?;
    let separator = separator.filter(|separator| !separator.is_none());
    let text = |separator: Value| match separator.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(wrong("a separator is a string or none")),
    };
    let pieces = most.and_then(|most| usize::try_from(most).ok());
    let pieces = pieces.map_or(usize::MAX, |most| most.saturating_add(1));
    Ok((separator.map(text).transpose()?, pieces))
}

/// The first words, and what follows them as the last piece.
fn words(text: &str, pieces: usize) -> Vec<Value> {
    let (mut out, mut rest) = (Vec::new(), text.trim_start());
    while !rest.is_empty() {
        let end = rest
            .find(char::is_whitespace)
            .filter(|_| out.len() + 1 < pieces);
        let Some(end) = end else {
            let last = if out.len() + 1 < pieces {
                rest.trim_end()
            } else {
                rest
            };
            out.push(Value::from(last));
            break;
        };
        out.push(Value::from(&rest[..end]));
        rest = rest[end..].trim_start();
    }
    out
}

/// The last words from the end, and what stands before them as the last piece.
fn last_words(text: &str, pieces: usize) -> Vec<Value> {
    let (mut out, mut rest) = (Vec::new(), text.trim_end());
    while !rest.is_empty() {
        let start = rest
            .rfind(char::is_whitespace)
            .filter(|_| out.len() + 1 < pieces);
        let Some(start) = start else {
            out.push(Value::from(rest));
            break;
        };
        let word = rest[start..].trim_start();
        out.push(Value::from(word));
        rest = rest[..start].trim_end();
    }
    out
}

fn of_list(list: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "index" => {
            let (wanted,) = from_args::<(Value,)>(args)?;
            let at = list.try_iter()?.position(|item| item == wanted);
            Value::from(at.ok_or_else(|| wrong("the value is not in the list"))?)
        }
        "copy" => list.clone(),
        _ => return Ok(None),
    }))
}
