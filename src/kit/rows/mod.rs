//! Read data: JSON lines, a JSON array or CSV, in the formats that people have.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::{KitError, LineFault};
use crate::record::{Limits, Pair, Prompt, Role, Turn};
use crate::request::{Learn, RowFormat};

mod container;
mod shape;
mod sniff;
#[cfg(test)]
mod tests;

use container::Container;
use shape::{Row, Shape};
pub use sniff::Foreign;

/// The largest file of data. units: bytes
const FILE_BYTES_MAX: u64 = 4 << 30;
/// Keys that a warning names at most.
const KEYS_NAMED_MAX: usize = 8;

/// Whether a row must have an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// It must.
    Required,
    /// It may.
    Optional,
}

/// How to read a file.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// Whether each row must have an answer.
    pub completion: Completion,
    /// The format, or that it is to be found out.
    pub format: RowFormat,
    /// Which answers of a conversation become pairs.
    pub learn: Learn,
    /// Bounds of a row and of the file.
    pub limits: &'a Limits,
}

/// The pairs of a file, and what it looks like.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// A pair for each answer that is to be learnt.
    pub pairs: Vec<Pair>,
    /// The line of the file that the row of each pair begins in.
    pub lines: Vec<usize>,
    /// Rows of the file.
    count: usize,
    container: Container,
    /// What the format is called.
    format: String,
    /// Turns of users and of the model, and rows with a system prompt.
    turns: usize,
    systems: usize,
    /// Answers that no user's turn comes before.
    unasked: usize,
    /// Keys that were not read, with how many rows have each.
    unread: BTreeMap<String, usize>,
}

impl Rows {
    /// What was found, such as "1000 rows of messages, 3.0 turns on average, system prompt in
    /// 40 %".
    pub fn in_words(&self) -> String {
        let rows = self.count.max(1) as f64;
        let mut words = format!("{} rows of {}", self.count, self.format);
        if self.container == Container::Csv {
            words += " (CSV)";
        }
        if self.turns > 2 * self.count {
            words += &format!(", {:.1} turns on average", self.turns as f64 / rows);
        }
        if self.systems > 0 {
            let share = 100.0 * self.systems as f64 / rows;
            words += &format!(", system prompt in {share:.0} %");
        }
        if self.pairs.len() != self.count {
            words += &format!(", {} answers to learn", self.pairs.len());
        }
        words
    }

    /// What was left out, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut all = Vec::new();
        if !self.unread.is_empty() {
            let key = |(key, rows): (&String, &usize)| format!("{key:?} ({rows})");
            let mut keys: Vec<String> = self.unread.iter().take(KEYS_NAMED_MAX).map(key).collect();
            if self.unread.len() > KEYS_NAMED_MAX {
                keys.push(format!("{} more", self.unread.len() - KEYS_NAMED_MAX));
            }
            all.push(format!(
                "keys that are not read, with the number of rows that have them: {}",
                keys.join(", ")
            ));
        }
        if self.unasked > 0 {
            all.push(format!(
                "{} turns of the model follow no turn of a user: they are shown to it, not learnt",
                self.unasked
            ));
        }
        all
    }

    fn take(
        &mut self,
        line: usize,
        turns: &[Turn],
        reading: &Reading<'_>,
    ) -> Result<(), LineFault> {
        self.count += 1;
        let is = |turn: &Turn, role: Role| turn.role == role;
        self.turns += turns.iter().filter(|turn| !is(turn, Role::System)).count();
        self.systems += usize::from(turns.iter().any(|turn| is(turn, Role::System)));
        let answers: Vec<usize> = (0..turns.len())
            .filter(|&at| is(&turns[at], Role::Assistant))
            .collect();
        let is_asked = |at: &usize| *at > 0 && is(&turns[at - 1], Role::User);
        self.unasked += answers.iter().filter(|at| !is_asked(at)).count();
        let last = turns.len() - 1;
        if is(&turns[last], Role::System) {
            return Err(LineFault::Turn {
                turn: turns.len(),
                what: "is a system prompt, and there is nothing after it".into(),
            });
        }
        let chosen: Vec<usize> = match (reading.learn, reading.completion) {
            (Learn::All, _) => answers.into_iter().filter(is_asked).collect(),
            (Learn::Last, _) if is_asked(&last) && is(&turns[last], Role::Assistant) => vec![last],
            (Learn::Last, Completion::Optional) if is(&turns[last], Role::User) => {
                vec![turns.len()]
            }
            (Learn::Last, _) => Vec::new(),
        };
        if chosen.is_empty() {
            return Err(LineFault::NoAnswer);
        }
        for at in chosen {
            let (before, asked) = (&turns[..at - 1], &turns[at - 1]);
            let answer = turns.get(at).map_or("", |turn| turn.content.as_str());
            let prompt = Prompt::behind(before, asked.content.as_str());
            self.pairs.push(Pair::new(prompt, answer));
            self.lines.push(line);
        }
        Ok(())
    }
}

/// Read the rows of a file.
///
/// bounds: `line_bytes_max` a row, `rows_max` rows, `FILE_BYTES_MAX` the file
/// fails: the file holds no rows, or at the first row that is none, by its line
pub fn read_rows(path: &Path, reading: &Reading<'_>) -> Result<Rows, KitError> {
    if path == Path::new("-") {
        return Err(KitError::Stdin);
    }
    let bytes = super::read_bytes(path, FILE_BYTES_MAX)?;
    read_from(&bytes, path, reading)
}

fn read_from(bytes: &[u8], path: &Path, reading: &Reading<'_>) -> Result<Rows, KitError> {
    let path = || path.to_owned();
    if let Some(found) = sniff::foreign(bytes) {
        return Err(KitError::NoRowsIn {
            path: path(),
            found,
        });
    }
    let at = |(line, what)| KitError::Line {
        path: path(),
        line,
        what,
    };
    let text =
        sniff::text(bytes).map_err(|(line, byte)| at((line, LineFault::NotUtf8 { byte })))?;
    let (mut rows, mut shape) = (Rows::default(), None);
    let limits = reading.limits;
    let mut is_over = false;
    let mut each = |line: usize, object: container::Object| {
        is_over = rows.count == limits.rows_max;
        let wrong = |what| (line, what);
        if is_over {
            return Err((line, LineFault::NoAnswer));
        }
        let mut row = Row::of(object).map_err(wrong)?;
        let shape = match &mut shape {
            Some(shape) => shape,
            none => none.insert(Shape::of(reading.format, &row).map_err(wrong)?),
        };
        let turns = shape.read(&mut row).map_err(wrong)?;
        for key in row.keys() {
            *rows.unread.entry(key).or_default() += 1;
        }
        rows.take(line, &turns, reading).map_err(wrong)
    };
    let read = container::rows(text, limits.line_bytes_max, &shape::is_header, &mut each);
    if is_over {
        return Err(KitError::TooManyRows {
            path: path(),
            rows_max: limits.rows_max,
        });
    }
    rows.container = read.map_err(at)?;
    if rows.count == 0 {
        return Err(KitError::NoRows { path: path() });
    }
    rows.format = shape.map(|shape| shape.name).unwrap_or_default();
    Ok(rows)
}

/// Refuse seeds that repeat each other.
pub(super) fn check_distinct(path: &Path, rows: &Rows) -> Result<(), KitError> {
    let mut first: HashMap<(&[Turn], &str), usize> = HashMap::new();
    let mut repeated = None;
    for (row, &line) in rows.pairs.iter().zip(&rows.lines) {
        let prompt = (row.prompt.before.as_slice(), row.prompt.text.trim());
        let seen = *first.entry(prompt).or_insert(line);
        if seen != line && repeated.is_none() {
            repeated = Some((line, seen));
        }
    }
    match repeated {
        Some(_) if first.len() == 1 => Err(KitError::SameSeeds {
            path: path.to_owned(),
            rows: rows.pairs.len(),
        }),
        Some((line, first)) => Err(KitError::Line {
            path: path.to_owned(),
            line,
            what: LineFault::Repeated { first },
        }),
        None => Ok(()),
    }
}
