//! One row of the table: what a field is called, what it may be, and what it is for.

use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::ops::RangeBounds;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};

use crate::record::Layers;

/// The modules that an adapter may have.
const MODULES: [&str; 7] = ["q", "k", "v", "o", "gate", "up", "down"];
/// Words that stand for a whole list of them.
const MODULE_GROUPS: [&str; 2] = ["all", "dense"];
/// Units of a size in bytes, as powers of two.
const UNITS: [(&str, u32); 3] = [("KiB", 10), ("MiB", 20), ("GiB", 30)];

/// What a field may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A whole number; both bounds are allowed.
    Whole(i128, i128),
    /// A number that fits 32 bits and is finite.
    Real(Bound<f32>, Bound<f32>),
    /// One of some words.
    Choice(&'static [&'static str]),
    /// A list of modules, or a word for several.
    Modules,
    /// A range of layers, such as `12..24`.
    Layers,
    /// Bytes: text such as `2GiB` as a flag, a whole number in JSON.
    Size,
    /// The name of a file.
    Path,
    /// Any text.
    Text,
    /// A JSON object.
    Object,
    /// On or off.
    Switch,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field {
    /// Its name in JSON, plans and reports. The flag has `-` for `_`.
    pub name: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// It has no default.
    pub needed: bool,
    /// Words that stand for the default.
    pub words: &'static [&'static str],
    /// What a document calls its value.
    pub value_name: &'static str,
    /// The one-letter flag, where llama.cpp has one.
    pub short: Option<char>,
    /// Another name of the flag, which llama.cpp has.
    pub alias: Option<&'static str>,
    /// The heading that help and reference put it under.
    pub heading: &'static str,
    /// Lines of documentation, as they stand in the table.
    pub help: &'static str,
}

/// A whole number; both bounds are allowed.
pub(super) const fn whole(from: i128, to: i128) -> Field {
    Field::new(Kind::Whole(from, to), "N")
}

/// A number above `low`.
pub(super) const fn above(low: f32) -> Field {
    Field::new(Kind::Real(Excluded(low), Unbounded), "X")
}

/// A number that is `low` or more.
pub(super) const fn at_least(low: f32) -> Field {
    Field::new(Kind::Real(Included(low), Unbounded), "X")
}

/// A number above 0 and at most `high`.
pub(super) const fn up_to(high: f32) -> Field {
    Field::new(Kind::Real(Excluded(0.0), Included(high)), "X")
}

/// A number from 0 to 1.
pub(super) const fn share() -> Field {
    Field::new(Kind::Real(Included(0.0), Included(1.0)), "X")
}

/// A number from 0 to below 1.
pub(super) const fn part() -> Field {
    Field::new(Kind::Real(Included(0.0), Excluded(1.0)), "X")
}

/// One of some words.
pub(super) const fn choice(words: &'static [&'static str]) -> Field {
    Field::new(Kind::Choice(words), "NAME")
}

/// A file.
pub(super) const fn file(value_name: &'static str) -> Field {
    Field::new(Kind::Path, value_name)
}

/// Anything else.
pub(super) const fn of(kind: Kind, value_name: &'static str) -> Field {
    Field::new(kind, value_name)
}

/// On or off.
pub(super) const fn switch() -> Field {
    Field::new(Kind::Switch, "")
}

impl Field {
    const fn new(kind: Kind, value_name: &'static str) -> Self {
        Self {
            name: "",
            kind,
            needed: false,
            words: &[],
            value_name,
            short: None,
            alias: None,
            heading: "",
            help: "",
        }
    }

    /// With words that stand for the default.
    pub(super) const fn or(self, words: &'static [&'static str]) -> Self {
        Self { words, ..self }
    }

    /// With llama.cpp's names beside its own.
    pub(super) const fn also(self, short: Option<char>, alias: Option<&'static str>) -> Self {
        Self {
            short,
            alias,
            ..self
        }
    }

    /// The flag, such as `--early-stop`.
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }

    /// What it is for, as one paragraph.
    pub fn about(&self) -> String {
        let lines: Vec<&str> = self.help.lines().map(str::trim).collect();
        lines.join(" ").trim().to_owned()
    }

    /// What it must be, such as "a whole number from 1 to 1024".
    pub fn expects(&self) -> String {
        let must = match self.kind {
            Kind::Whole(from, to) => format!("a whole number from {from} to {to}"),
            Kind::Real(low, high) => real(low, high),
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
            Kind::Modules => format!(
                "{}, or a list out of {}",
                MODULE_GROUPS.join(", "),
                MODULES.join(",")
            ),
            Kind::Layers => "a range of layers such as 12..24, 12.. or ..8".into(),
            Kind::Size => "a size above 0: 512MiB or 2GiB as a flag, bytes in JSON".into(),
            Kind::Path => "the name of a file".into(),
            Kind::Text => "text".into(),
            Kind::Object => "a JSON object".into(),
            Kind::Switch => "true or false".into(),
        };
        self.words
            .iter()
            .fold(must, |must, word| format!("{must}, or {word}"))
    }

    /// The default as a person writes it; empty where there is none.
    pub fn default_text(&self, default: &Value) -> String {
        match (self.words.first(), default) {
            (Some(word), _) => (*word).to_owned(),
            (None, Value::Null | Value::Bool(_)) => String::new(),
            (None, default) => text(default),
        }
    }

    /// Read a flag's value.
    ///
    /// fails: it is not what [`Field::expects`] says
    pub fn read(&self, text: &str) -> Result<Value, Wrong> {
        let read = match self.kind {
            _ if self.words.contains(&text) => Some(Value::Null),
            Kind::Whole(..) => {
                let whole = text.parse().ok().and_then(Number::from_i128);
                whole.map(Value::Number)
            }
            Kind::Real(..) => text.parse::<f32>().ok().and_then(shortest),
            Kind::Size => size(text).map(Value::from),
            Kind::Object => serde_json::from_str(text).ok(),
            Kind::Switch => text.parse().ok().map(Value::Bool),
            _ => Some(text.into()),
        };
        self.check(&read.ok_or(Wrong)?)
    }

    /// Check a value as JSON has it. What is left out, or stands for the default, is null.
    ///
    /// fails: it is not what [`Field::expects`] says
    pub fn check(&self, value: &Value) -> Result<Value, Wrong> {
        let word = value.as_str();
        let fits = match self.kind {
            _ if value.is_null() => true,
            _ if word.is_some_and(|word| self.words.contains(&word)) => return Ok(Value::Null),
            Kind::Whole(from, to) => whole_of(value).is_some_and(|n| (from..=to).contains(&n)),
            Kind::Real(low, high) => value
                .as_f64()
                .map(|x| x as f32)
                .is_some_and(|x| x.is_finite() && (low, high).contains(&x)),
            Kind::Choice(words) => word.is_some_and(|word| words.contains(&word)),
            Kind::Modules => return word.and_then(modules).map(Value::from).ok_or(Wrong),
            Kind::Layers => word.is_some_and(|word| word.parse::<Layers>().is_ok()),
            Kind::Size => value.as_u64().is_some_and(|bytes| bytes > 0),
            Kind::Path | Kind::Text => word.is_some_and(|word| !word.is_empty()),
            Kind::Object => value.is_object(),
            Kind::Switch => value.is_boolean(),
        };
        if fits { Ok(value.clone()) } else { Err(Wrong) }
    }
}

/// A value that is not what its field expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong;

/// A value as a person writes it.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            number.as_f64().map_or_else(String::new, |x| x.to_string())
        }
        other => other.to_string(),
    }
}

fn whole_of(value: &Value) -> Option<i128> {
    value
        .as_u64()
        .map(i128::from)
        .or_else(|| value.as_i64().map(i128::from))
}

fn real(low: Bound<f32>, high: Bound<f32>) -> String {
    match (low, high) {
        (Included(low), Included(high)) => format!("a number from {low} to {high}"),
        (Included(low), Excluded(high)) => format!("a number from {low} to below {high}"),
        (Excluded(low), Included(high)) => format!("a number above {low} and at most {high}"),
        (Excluded(low), Excluded(high)) => format!("a number above {low} and below {high}"),
        (Included(low), Unbounded) => format!("a number that is {low} or more"),
        (Excluded(low), Unbounded) => format!("a number above {low}"),
        (Unbounded, Included(high)) => format!("a number that is {high} or less"),
        (Unbounded, Excluded(high)) => format!("a number below {high}"),
        (Unbounded, Unbounded) => "a number".into(),
    }
}

/// The f64 with the digits that an f32 needs: 0.05, and not 0.05000000074505806.
fn shortest(x: f32) -> Option<Value> {
    let x = x.to_string().parse().ok()?;
    Number::from_f64(x).map(Value::Number)
}

/// A list of modules without spaces; none where it names one that there is not.
fn modules(text: &str) -> Option<String> {
    if MODULE_GROUPS.contains(&text) {
        return Some(text.to_owned());
    }
    let names: Vec<&str> = text.split(',').map(str::trim).collect();
    names
        .iter()
        .all(|name| MODULES.contains(name))
        .then(|| names.join(","))
}

/// A whole number with KiB, MiB or GiB. units: bytes
fn size(text: &str) -> Option<u64> {
    let (count, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)))?;
    count
        .trim_end()
        .parse::<u64>()
        .ok()?
        .checked_mul(1 << shift)
}

/// What the value of a field may be in Rust.
pub trait Knob: Serialize + DeserializeOwned {
    /// There is no default.
    const NEEDED: bool = false;

    /// As JSON has it; null where it is left out.
    fn value(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl Knob for f32 {
    fn value(&self) -> Value {
        // JSON has no word for what is not finite, and null would be the default.
        shortest(*self).unwrap_or_else(|| self.to_string().into())
    }
}

impl Knob for PathBuf {
    const NEEDED: bool = true;

    fn value(&self) -> Value {
        if self.as_os_str().is_empty() {
            return Value::Null;
        }
        self.to_str().map_or_else(|| false.into(), Value::from)
    }
}

impl<T: Knob> Knob for Option<T> {
    fn value(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::value)
    }
}

macro_rules! knobs {
    ($($type:ty)+) => {$(impl Knob for $type {})+};
}

knobs!(bool i32 u32 u64 usize String Layers Map<String, Value>);
knobs!(super::FilterChoice super::GeneratorChoice super::LabelChoice super::ObjectiveChoice);
knobs!(super::Schedule super::TokenWeights super::RowFormat super::Learn);
