//! Jinja as transformers sets it up: the switches, functions, filters and tests.

use jiff::{Timestamp, tz::TimeZone};
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};

use crate::methods;
use crate::python::{self, Json};
use crate::values::{self, Generator};

/// Steps of one rendering. A conversation of a thousand turns takes some hundred thousand.
const FUEL: u64 = 10_000_000;
/// Calls inside each other.
const RECURSION_MAX: usize = 200;
/// Where the time is kept while a template runs.
pub(crate) const NOW: &str = "translora_unix_seconds";

pub(crate) fn environment() -> Environment<'static> {
    let mut jinja = Environment::new();
    jinja.set_trim_blocks(true);
    jinja.set_lstrip_blocks(true);
    jinja.set_fuel(Some(FUEL));
    jinja.set_recursion_limit(RECURSION_MAX);
    jinja.set_unknown_method_callback(methods::call);
    jinja.set_formatter(|out, _, value| {
        let written = match value.as_str() {
            Some(text) => out.write_str(text),
            None => out.write_str(&python::text(value)),
        };
        written.map_err(|_| Error::from(ErrorKind::WriteFailure))
    });
    jinja.add_function("raise_exception", |text: &Value| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, python::text(text)))
    });
    jinja.add_function("strftime_now", strftime_now);
    jinja.add_filter("tojson", tojson);
    add_generators(&mut jinja);
    jinja.add_filter("string", |value: &Value| python::text(value));
    jinja.add_filter("indent", indent);
    jinja.add_filter("int", int);
    jinja.add_filter("float", |value: &Value, default: Option<f64>| {
        number(value).unwrap_or(default.unwrap_or(0.0))
    });
    jinja.add_filter("forceescape", |state: &State, value: &Value| {
        state.apply_filter("escape", &[python::text(value).into()])
    });
    jinja.add_filter("wordcount", |text: &str| text.split_whitespace().count());
    jinja.add_filter("center", |text: &str, width: Option<usize>| {
        methods::padded(text, "center", width.unwrap_or(80), " ")
    });
    jinja.add_filter("dictsort", |value: Value, named: Kwargs| {
        let sorted = filters::dictsort(&value, named)?;
        sorted
            .try_iter()
            .map(|pairs| pairs.map(|pair| values::tuple(&pair)).collect::<Value>())
    });
    jinja.add_function("joiner", minijinja_contrib::globals::joiner);
    jinja.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    for name in ["length", "count"] {
        jinja.add_filter(name, length);
    }
    jinja.add_test("sequence", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map
        )
    });
    jinja.add_test("iterable", |value: &Value| {
        value.kind() == ValueKind::String || (!value.is_none() && value.try_iter().is_ok())
    });
    jinja.add_test("number", |value: &Value| {
        matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
    });
    jinja
}

/// Filters whose value can be read once, from front to back: it has no length, is always true, and
/// is no JSON.
fn add_generators(jinja: &mut Environment<'_>) {
    macro_rules! generators {
        ($($name:ident),+) => {$(
            jinja.add_filter(
                stringify!($name),
                |state: &State, value: Value, args: Rest<Value>| {
                    let all = [&[value], &args[..]].concat();
                    Value::from_function(filters::$name).call(state, &all)
                        .map(|values| generator(stringify!($name), values))
                },
            );
        )+};
    }
    generators!(
        batch, items, map, reject, rejectattr, reverse, select, selectattr, slice, unique
    );
}

fn generator(name: &str, values: Value) -> Value {
    match values.kind() {
        ValueKind::String => values,
        _ if name == "items" => {
            let pairs: Value = values
                .try_iter()
                .into_iter()
                .flatten()
                .map(|pair| values::tuple(&pair))
                .collect();
            Value::from_object(Generator::of(&pairs))
        }
        _ => Value::from_object(Generator::of(&values)),
    }
}

fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    value.len().ok_or_else(|| {
        let reason = format!("a value of type {} has no length", value.kind());
        Error::new(ErrorKind::InvalidOperation, reason)
    })
}

/// The time of the rendering in the local zone, as C's `strftime` writes it.
fn strftime_now(state: &State, format: &str) -> Result<String, Error> {
    let refuse = |reason: String| Error::new(ErrorKind::InvalidOperation, reason);
    let seconds = state.lookup(NOW).and_then(|now| i64::try_from(now).ok());
    let now = Timestamp::from_second(seconds.unwrap_or(0));
    let now = now
        .map_err(|error| refuse(error.to_string()))?
        .to_zoned(TimeZone::system());
    jiff::fmt::strtime::format(format, &now).map_err(|error| refuse(error.to_string()))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "minijinja passes the arguments of a filter by value"
)]
fn tojson(value: &Value, args: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let positional: Vec<Value> = args.iter().cloned().collect();
    let argument = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        let named: Option<Value> = named.get(name)?;
        let value = named.or_else(|| positional.get(at).cloned());
        Ok(value.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let ascii = argument(0, "ensure_ascii")?.is_some_and(|value| value.is_true());
    let indent = match argument(1, "indent")? {
        None => None,
        Some(value) => match value.as_str() {
            Some(text) => Some(text.to_owned()),
            None => Some(" ".repeat(usize::try_from(value)?.min(INDENT_MAX))),
        },
    };
    let mut json = Json {
        item: if indent.is_some() {
            ",".into()
        } else {
            ", ".into()
        },
        key: ": ".into(),
        indent,
        sorted: argument(3, "sort_keys")?.is_some_and(|value| value.is_true()),
        ascii,
    };
    if let Some(separators) = argument(2, "separators")? {
        let mut separators = separators.try_iter()?.map(|value| python::text(&value));
        if let (Some(item), Some(key)) = (separators.next(), separators.next()) {
            (json.item, json.key) = (item, key);
        }
    }
    named.assert_all_used()?;
    json.write(value)
}

fn number(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some(text) => text.trim().parse().ok(),
        None if value.kind() == ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        None => f64::try_from(value.clone()).ok(),
    }
}

fn int(value: &Value, default: Option<Value>, base: Option<u32>) -> Value {
    let whole = match value.as_str() {
        Some(text) => i64::from_str_radix(text.trim(), base.unwrap_or(10).clamp(2, 36)).ok(),
        None => i64::try_from(value.clone()).ok(),
    };
    // A float loses what follows its point, as in Python.
    let whole = whole.or_else(|| number(value).filter(|x| x.is_finite()).map(|x| x as i64));
    whole
        .map(Value::from)
        .or(default)
        .unwrap_or_else(|| Value::from(0))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "minijinja passes the arguments of a filter by value"
)]
fn indent(
    text: &str,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    named: Kwargs,
) -> Result<String, Error> {
    let width = width.or(named.get("width")?);
    let first = first.or(named.get("first")?).unwrap_or(false);
    let blank = blank.or(named.get("blank")?).unwrap_or(false);
    named.assert_all_used()?;
    let by = match width
        .as_ref()
        .map(|width| (width.as_str(), width.as_usize()))
    {
        Some((Some(text), _)) => text.to_owned(),
        Some((None, Some(width))) => " ".repeat(width.min(INDENT_MAX)),
        _ => " ".repeat(4),
    };
    let mut out = String::new();
    for (at, line) in text.split('\n').enumerate() {
        out.push_str(if at == 0 { "" } else { "\n" });
        let indented = if at == 0 {
            first
        } else {
            blank || !line.is_empty()
        };
        out.push_str(if indented { &by } else { "" });
        out.push_str(line);
    }
    Ok(out)
}

/// Spaces of one level of JSON.
const INDENT_MAX: usize = 64;
