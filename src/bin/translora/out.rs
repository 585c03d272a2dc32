//! The two streams. stdout is data, stderr is for people; nothing else writes to either.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;

use translora::jobs::Meter;
use translora::record::Clock;

use crate::failure::Failure;

/// Write a line to stderr. A stderr that is closed is no error.
pub fn say(line: &str) {
    _ = writeln!(io::stderr().lock(), "{line}");
}

/// Write data. A reader that went away early, as in `| head`, is no error.
pub fn data(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}

/// Make a word stand out where standard error is a terminal that may have colours.
pub fn marked(word: &str) -> String {
    if colours() {
        format!("\x1b[1;31m{word}\x1b[0m")
    } else {
        word.to_owned()
    }
}

fn colours() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal()
        && !set("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// A path as a shell takes it.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    // It would be read as a flag.
    let text = if text.starts_with('-') {
        format!("./{text}")
    } else {
        text
    };
    match shlex::try_quote(&text) {
        Ok(quoted) => quoted.into_owned(),
        // A zero byte, which no path has.
        Err(_) => text,
    }
}

/// Lines of `name  value`, names padded to one width.
pub fn columns(rows: &[(String, String)]) -> Vec<String> {
    let width = rows
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    rows.iter()
        .map(|(name, value)| format!("  {name:width$}  {value}"))
        .collect()
}

/// What a JSON object says, as rows for [`columns`]: small nested objects on one line, large ones a
/// row a field, what is empty left out.
pub fn rows(object: &serde_json::Value) -> Vec<(String, String)> {
    const INLINE_MAX: usize = 240;
    let mut rows = Vec::new();
    for (name, value) in object
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| !value.is_null())
    {
        let text = plain(value).replace('\n', "\\n");
        match value.as_object() {
            Some(fields) if text.len() > INLINE_MAX => {
                let field = |(inner, value): (&String, _)| {
                    let whole = if inner.starts_with(name) {
                        inner.clone()
                    } else {
                        format!("{name}.{inner}")
                    };
                    (whole, plain(value).replace('\n', "\\n"))
                };
                rows.extend(fields.iter().map(field));
            }
            _ if text.is_empty() => {}
            _ => rows.push((spaced(name), text)),
        }
    }
    rows
}

/// `gpu_layers` as a person writes it; names with dots are keys of a file and stay as they are.
fn spaced(name: &str) -> String {
    if name.contains('.') {
        name.to_owned()
    } else {
        name.replace('_', " ")
    }
}

fn plain(value: &serde_json::Value) -> String {
    use serde_json::Value::{Array, Number, Object, String};
    match value {
        String(text) => text.clone(),
        Number(number) => match number.as_f64() {
            // A plan's f32 would print its f64 digits: 0.05 as 0.05000000074505806.
            Some(x) if number.is_f64() => format!("{}", x as f32),
            _ => number.to_string(),
        },
        Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Object(fields) => {
            let known = fields.iter().filter(|(_, value)| !value.is_null());
            known
                .map(|(name, value)| format!("{} {}", spaced(name), plain(value)))
                .collect::<Vec<_>>()
                .join(", ")
        }
        other => other.to_string(),
    }
}

/// Seconds as a person reads them.
pub fn seconds(s: f64) -> String {
    match s {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s => format!(
            "{:.0} min {:02.0} s",
            (s / 60.0).floor(),
            (s % 60.0).floor()
        ),
    }
}

/// The most memory that this process ever held, where the system tells.
/// units: bytes.
pub fn memory_bytes_max() -> Option<u64> {
    Meter::default().peak_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_become_rows() {
        let value = serde_json::json!({"gpu_layers": -1, "lr": 0.05_f32, "none": null, "open": {"a_b": 1, "none": null, "c": [1, "x"]}});
        let mut rows = rows(&value);
        rows.sort();
        let expected = [
            ("gpu layers", "-1"),
            ("lr", "0.05"),
            ("open", "a b 1, c 1, x"),
        ]
        .map(|(a, b)| (a.into(), b.into()));
        assert_eq!(rows, expected);
        assert_eq!(columns(&rows)[1], "  lr          0.05");
    }

    #[test]
    fn paths_are_words_of_a_shell() {
        let cases = [
            ("a/new.gguf", "a/new.gguf"),
            ("my models/new.gguf", "'my models/new.gguf'"),
            ("it's.gguf", "\"it's.gguf\""),
            ("$HOME.gguf", "'$HOME.gguf'"),
            ("-new.gguf", "./-new.gguf"),
        ];
        for (path, word) in cases {
            assert_eq!(quoted(Path::new(path)), word);
            let read = shlex::split(word).expect("a word");
            assert_eq!(read, [path.replace("-new", "./-new")]);
        }
    }

    #[test]
    fn seconds_read_well() {
        assert_eq!(
            [0.04, 9.96, 75.4, 119.9, 61.0 * 60.0].map(seconds),
            ["0.0 s", "10.0 s", "75 s", "120 s", "61 min 00 s"]
        );
    }
}
