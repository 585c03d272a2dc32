//! Take a text apart into objects, with the line of each: JSON lines, a JSON array, or CSV.

use serde_json::{Map, Value};

use super::sniff::lines;
use crate::kit::LineFault;
use crate::record::json::{self, JsonError};

/// One row as it stands in the file.
pub(super) type Object = Map<String, Value>;
/// A fault with the line of the file that it is in.
pub(super) type At = (usize, LineFault);
/// Takes each row with the line that it begins in.
pub(super) type Each<'e> = dyn FnMut(usize, Object) -> Result<(), At> + 'e;

/// How rows lie in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Container {
    /// An object on each line, or several lines each.
    #[default]
    Lines,
    /// A list of objects.
    Array,
    /// A header with the keys, and a line of texts for each row.
    Csv,
}

/// White space of JSON.
const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

/// Read every row of a text. `is_header`: these columns are those of a CSV with rows.
///
/// bounds: `bytes_max` a row
/// fails: at the first row that is none
pub(super) fn rows(
    text: &str,
    bytes_max: usize,
    is_header: &dyn Fn(&[String]) -> bool,
    each: &mut Each<'_>,
) -> Result<Container, At> {
    match text.trim_start_matches(SPACE).chars().next() {
        None => Ok(Container::Lines),
        Some('{') => json_lines(text, bytes_max, each).map(|()| Container::Lines),
        Some('[') => json_array(text, bytes_max, each).map(|()| Container::Array),
        Some(_) => match delimiter(text, is_header) {
            Some(delimiter) => csv_rows(text, delimiter, bytes_max, each).map(|()| Container::Csv),
            None => json_lines(text, bytes_max, each).map(|()| Container::Lines),
        },
    }
}

/// A place in a text.
struct Cursor<'t> {
    rest: &'t str,
    line: usize,
}

impl Cursor<'_> {
    fn skip(&mut self, bytes: usize) {
        self.line += lines(&self.rest.as_bytes()[..bytes]);
        self.rest = &self.rest[bytes..];
    }

    /// Skip white space; returns the line ends in it.
    fn skip_space(&mut self) -> usize {
        let (line, space) = (
            self.line,
            self.rest.len() - self.rest.trim_start_matches(SPACE).len(),
        );
        self.skip(space);
        self.line - line
    }

    /// Take the object that follows.
    fn object(&mut self, bytes_max: usize) -> Result<Object, At> {
        let first = self.line;
        let wrong = |error: JsonError| fault(self.rest, self.line, &error);
        let parsed = json::parse_first(self.rest).map_err(wrong)?;
        let (value, bytes) = parsed.unwrap_or_default();
        if bytes > bytes_max {
            return Err((first, LineFault::TooLong { bytes_max }));
        }
        self.skip(bytes);
        match value {
            Value::Object(object) => Ok(object),
            other => {
                let found = super::shape::kind(&other);
                Err((first, LineFault::NotAnObject { found }))
            }
        }
    }
}

fn json_lines(text: &str, bytes_max: usize, each: &mut Each<'_>) -> Result<(), At> {
    let mut cursor = Cursor {
        rest: text,
        line: 1,
    };
    let mut is_first = true;
    loop {
        let line_ends = cursor.skip_space();
        if cursor.rest.is_empty() {
            return Ok(());
        }
        if cursor.rest.starts_with(',') {
            return Err((cursor.line, LineFault::CommaBetween));
        }
        if !is_first && line_ends == 0 {
            return Err((cursor.line, LineFault::TwoOnALine));
        }
        is_first = false;
        let line = cursor.line;
        each(line, cursor.object(bytes_max)?)?;
    }
}

fn json_array(text: &str, bytes_max: usize, each: &mut Each<'_>) -> Result<(), At> {
    let mut cursor = Cursor {
        rest: text,
        line: 1,
    };
    let wrong = |cursor: &Cursor<'_>, what: &str| {
        let what = what.to_owned();
        Err((cursor.line, LineFault::NotJson { what }))
    };
    cursor.skip_space();
    cursor.skip(1);
    cursor.skip_space();
    let mut is_last = cursor.rest.starts_with(']');
    while !is_last {
        let line = cursor.line;
        each(line, cursor.object(bytes_max)?)?;
        cursor.skip_space();
        match cursor.rest.chars().next() {
            Some(',') => cursor.skip(1),
            Some(']') => is_last = true,
            Some(_) => return wrong(&cursor, "a comma is missing between two rows of the list"),
            None => return wrong(&cursor, "the list of rows does not end: \"]\" is missing"),
        }
        cursor.skip_space();
    }
    cursor.skip(1);
    cursor.skip_space();
    if cursor.rest.is_empty() {
        Ok(())
    } else {
        wrong(&cursor, "there is more after the list of rows")
    }
}

/// What is wrong where JSON was expected. `text` begins at `line` of the file.
fn fault(text: &str, line: usize, error: &JsonError) -> At {
    let at = line + error.line.max(1) - 1;
    if error.repeated {
        let what = error.what.clone();
        return (at, LineFault::RepeatedKey { what });
    }
    let here = text.lines().nth(error.line.max(1) - 1).unwrap_or_default();
    let rest = here
        .get(error.column.saturating_sub(1)..)
        .unwrap_or_default();
    let begins = |words: &[&str]| words.iter().any(|word| rest.starts_with(word));
    let what = if begins(&["//", "/*", "#"]) {
        "a comment, and JSON has none".to_owned()
    } else if begins(&["'"]) {
        "single quotes, and JSON has double quotes".to_owned()
    } else if begins(&["NaN", "Infinity", "-Infinity"]) {
        "NaN and Infinity are no numbers of JSON".to_owned()
    } else if begins(&["True", "False", "None"]) {
        "JSON writes true, false and null in lower case".to_owned()
    } else if error.what.starts_with("EOF") {
        "the row does not end".to_owned()
    } else {
        format!("{} at byte {} of the line", error.what, error.column)
    };
    (at, LineFault::NotJson { what })
}

/// What parts the columns of a CSV; nothing where the first line is no header.
fn delimiter(text: &str, is_header: &dyn Fn(&[String]) -> bool) -> Option<u8> {
    [b',', b'\t', b';'].into_iter().find(|&delimiter| {
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .from_reader(text.as_bytes());
        reader
            .headers()
            .is_ok_and(|header| is_header(&columns(header)))
    })
}

fn columns(header: &csv::StringRecord) -> Vec<String> {
    header
        .iter()
        .map(|column| column.trim().to_owned())
        .collect()
}

fn csv_rows(text: &str, delimiter: u8, bytes_max: usize, each: &mut Each<'_>) -> Result<(), At> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .from_reader(text.as_bytes());
    let wrong = |error: csv::Error| {
        let line = error.position().map_or(1, csv::Position::line);
        let what = match error.kind() {
            csv::ErrorKind::UnequalLengths {
                expected_len, len, ..
            } => format!("{len} columns, and the header has {expected_len}"),
            _ => error.to_string(),
        };
        (line as usize, LineFault::Csv { what })
    };
    let header = columns(reader.headers().map_err(wrong)?);
    if let Some(twice) = (1..header.len()).find(|&at| header[..at].contains(&header[at])) {
        let what = format!("the column {:?} is there twice", header[twice]);
        return Err((1, LineFault::RepeatedKey { what }));
    }
    let mut cursor = Cursor {
        rest: text,
        line: 1,
    };
    for record in reader.records() {
        let record = record.map_err(wrong)?;
        let byte = record.position().map_or(0, csv::Position::byte) as usize;
        cursor.skip(byte.saturating_sub(text.len() - cursor.rest.len()));
        // Blank lines before a row count to it.
        let blank = cursor.rest.len() - cursor.rest.trim_start_matches(['\r', '\n']).len();
        cursor.skip(blank);
        let line = cursor.line;
        if record.as_slice().len() > bytes_max {
            return Err((line, LineFault::TooLong { bytes_max }));
        }
        let value = |cell: &str| match cell {
            "" => Value::Null,
            cell => cell.into(),
        };
        let cells = record.iter().map(value);
        each(line, header.iter().cloned().zip(cells).collect())?;
    }
    Ok(())
}
