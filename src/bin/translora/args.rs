//! Flags from the table of requests, and the checks of the flags that are not in it.

use std::ffi::OsString;
use std::marker::PhantomData;
use std::path::Path;

use clap::builder::{PossibleValuesParser, TypedValueParser, ValueParser};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use translora::record::{Blame, Remedy};
use translora::request::{Field, Fields, Kind, Machine, Plan, Refusal, Request};

use crate::failure::{Failure, InFlags};
use crate::llama_server;

/// Values of flags, one for each row of a request.
#[derive(Clone, Debug)]
pub struct Flags<T> {
    values: Map<String, Value>,
    request: PhantomData<T>,
}

impl<T: Request> Flags<T> {
    /// The plan that the flags ask for, with its files on this disk.
    ///
    /// fails: flags that do not go together, a file that cannot be found
    pub fn plan(mut self) -> Result<Plan<T>, Failure> {
        crate::files::resolve(&mut self.values)?;
        Ok(T::of(self.values)?.plan()?)
    }
}

impl<T: Fields> Args for Flags<T> {
    fn augment_args(command: Command) -> Command {
        command.args(
            T::rows()
                .into_iter()
                .map(|(field, default)| arg(field, &default)),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<T: Fields> FromArgMatches for Flags<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut values = Map::new();
        for (field, _) in T::rows() {
            let value = match field.kind {
                Kind::Switch => Some(matches.get_flag(field.name).into()),
                _ => matches.get_one::<Value>(field.name).cloned(),
            };
            values.extend(value.map(|value| (field.name.to_owned(), value)));
        }
        Ok(Self {
            values,
            request: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        Self::from_arg_matches(matches).map(|flags| *self = flags)
    }
}

/// The flag of a row.
fn arg(field: &'static Field, default: &Value) -> Arg {
    let arg = Arg::new(field.name)
        .long(field.flag().split_off(2))
        .help(field.about())
        .required(field.needed)
        .visible_aliases(field.alias);
    let arg = match field.short {
        Some(short) => arg.short(short),
        None => arg,
    };
    let arg = match field.heading {
        "" => arg,
        heading => arg.help_heading(heading),
    };
    if field.kind == Kind::Switch {
        return arg.action(ArgAction::SetTrue);
    }
    let arg = arg
        .value_name(field.value_name)
        .allow_negative_numbers(true)
        .value_parser(parser(field));
    match field.default_text(default) {
        text if text.is_empty() => arg,
        text => arg.default_value(text),
    }
}

fn parser(field: &'static Field) -> ValueParser {
    if let Kind::Choice(words) = field.kind {
        return PossibleValuesParser::new(words).map(Value::from).into();
    }
    ValueParser::new(move |text: &str| {
        let read = field.read(text);
        read.map_err(|_| format!("it must be {}", field.expects()))
    })
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let words = |remedy: Remedy| remedy.words(&InFlags);
        Self::Usage {
            message: refusal.what(&InFlags),
            hint: refusal.remedy().map_or(String::new(), words),
        }
    }
}

/// Read a value by the row that another command has for it.
fn by_row<T: Fields, V: DeserializeOwned>(name: &str, text: &str) -> Result<V, String> {
    let rows = T::rows();
    let (field, default) = rows
        .iter()
        .find(|(field, _)| field.name == name)
        .ok_or("a bug: there is no such row")?;
    let value = match field.read(text) {
        Ok(Value::Null) => default.clone(),
        Ok(value) => value,
        Err(_) => return Err(format!("it must be {}", field.expects())),
    };
    serde_json::from_value(value).map_err(|error| error.to_string())
}

pub fn gpu_layers(text: &str) -> Result<i32, String> {
    by_row::<Machine, _>("gpu_layers", text)
}

pub fn template_arguments(text: &str) -> Result<Map<String, Value>, String> {
    by_row::<Machine, _>("chat_template_kwargs", text)
}

/// Rewrite the spellings of llama.cpp that clap has no notion of: the start lines of llama-server
/// for `serve`, `-ngl N`, `-dev NAME` and `-np N` for the other commands. With what of the line is
/// not read.
///
/// fails: a flag of llama-server that `serve` cannot have
pub fn with_llama_names(
    args: impl IntoIterator<Item = OsString>,
) -> Result<(Vec<OsString>, Vec<String>), Failure> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let is_flag = |arg: &OsString| arg.to_str().is_some_and(|arg| arg.starts_with('-'));
    let command = args.iter().skip(1).position(|arg| !is_flag(arg));
    let Some(at) = command.filter(|at| args[at + 1] == "serve") else {
        return Ok((with_short_names(args), Vec::new()));
    };
    // The program's name and what stands before the command.
    let behind = args.split_off(at + 2);
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let line = llama_server::rewrite(behind, std::env::vars_os().filter_map(text))?;
    args.extend(with_short_names(line.args));
    Ok((args, line.notes))
}

/// `-ngl N`, `-ngl=N`, and so for `-dev` and `-np`; and `-hf OWNER/REPO`, a model by its name on a
/// hub.
fn with_short_names(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut on_hub = false;
    let rewrite = |arg: OsString| match arg.to_str() {
        Some(repo) if std::mem::take(&mut on_hub) => format!("hf:{repo}").into(),
        Some("-hf" | "-hfr" | "--hf-repo") => {
            on_hub = true;
            "--model".into()
        }
        Some(text) if text.starts_with("--hf-repo=") => {
            text.replacen("--hf-repo=", "--model=hf:", 1).into()
        }
        Some("-ngl") => "--gpu-layers".into(),
        Some("-dev") => "--device".into(),
        Some(text) if text.starts_with("-ngl=") => text.replacen("-ngl", "--gpu-layers", 1).into(),
        Some("-np") => "--parallel".into(),
        Some(text) if text.starts_with("-np=") => text.replacen("-np", "--parallel", 1).into(),
        _ => arg,
    };
    args.into_iter().map(rewrite).collect()
}

/// Why a line was refused that holds a word which is no UTF-8, where that was the reason.
pub fn not_text(error: &clap::Error, words: &[OsString]) -> Option<Failure> {
    if error.kind() != ErrorKind::InvalidUtf8 {
        return None;
    }
    let at = words.iter().position(|word| word.to_str().is_none())?;
    let before = at.checked_sub(1).and_then(|at| words[at].to_str());
    let flag = before.filter(|word| word.starts_with('-')).unwrap_or("");
    Some(Failure::Usage {
        message: format!(
            "{flag} {}: this is not UTF-8, and a request is kept as JSON, which is",
            words[at].display()
        )
        .trim_start()
        .to_owned(),
        hint: "rename the file, or make a link to it with a plain name; of a folder, go into it \
            and name what lies there"
            .into(),
    })
}

/// A whole number between two bounds, both allowed.
pub fn between<const LEAST: usize, const MOST: usize>(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if (LEAST..=MOST).contains(&n) => Ok(n),
        _ => Err(format!("must be a whole number from {LEAST} to {MOST}")),
    }
}

/// units: bytes
#[cfg(feature = "ggml")]
pub fn memory(text: &str) -> Result<usize, String> {
    by_row::<translora::request::Shape, _>("memory", text)
}

#[cfg(feature = "ggml")]
pub fn modules(text: &str) -> Result<String, String> {
    by_row::<translora::request::Shape, _>("modules", text)
}

#[cfg(feature = "ggml")]
pub fn not_negative(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if x.is_finite() && x >= 0.0 => Ok(x),
        _ => Err("must be zero or a number above it, and finite".into()),
    }
}

/// The keys in a file, one a line: those to ask with, and those to manage with.
pub fn keys_of(file: &Path) -> Result<(Vec<String>, Vec<String>), Failure> {
    let refuse = |message: String| Failure::Usage {
        message: format!("{}: {message}", file.display()),
        hint: "--api-key-file takes a file with a key a line".into(),
    };
    let text = std::fs::read_to_string(file).map_err(|error| refuse(error.to_string()))?;
    let lines = text.lines().map(str::trim);
    let keys = lines.filter(|line| !(line.is_empty() || line.starts_with('#')));
    let (mut ask, mut manage) = (Vec::new(), Vec::new());
    for line in keys {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [key] | ["ask", key] => ask.push(key.to_owned()),
            ["manage", key] => manage.push(key.to_owned()),
            // Not the line: it holds a key.
            _ => {
                return Err(refuse(
                    "a line is neither KEY, ask KEY nor manage KEY".into(),
                ));
            }
        }
    }
    if ask.is_empty() && manage.is_empty() {
        // Else everybody would be answered.
        return Err(refuse("there is no key in it".into()));
    }
    Ok((ask, manage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_bounds() {
        assert_eq!(between::<1, 4>("4"), Ok(4));
        for bad in ["0", "5", "-1", "", "1.5", "99999999999999999999999"] {
            assert!(between::<1, 4>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn llama_spellings() {
        let of = |words: &[&str]| with_llama_names(words.iter().map(OsString::from));
        let (served, notes) = of(&["x", "-q", "serve", "-ngl", "7", "--jinja"]).expect("fine");
        assert!(served.starts_with(&["x", "-q", "serve", "--gpu-layers=7"].map(OsString::from)));
        assert!(
            notes.iter().any(|note| note.starts_with("--jinja")),
            "{notes:?}"
        );
        assert!(of(&["x", "eval", "-m", "serve", "-ctk"]).is_ok());
        assert!(of(&["x", "serve", "-ctk", "q8_0"]).is_err());
        let seen = with_short_names(["x", "-ngl", "7", "-ngl=all", "-nglx"].map(OsString::from));
        assert_eq!(
            seen,
            ["x", "--gpu-layers", "7", "--gpu-layers=all", "-nglx"].map(OsString::from)
        );
        let (served, _) = of(&["x", "serve", "-hf", "a/b:Q8_0"]).expect("fine");
        assert!(served.starts_with(&["x", "serve", "--model=hf:a/b:Q8_0"].map(OsString::from)));
        let seen = with_short_names(["eval", "-hf", "a/b", "-t", "1"].map(OsString::from));
        let on_hub = ["eval", "--model", "hf:a/b", "-t", "1"];
        assert_eq!(seen, on_hub.map(OsString::from));
        assert_eq!(gpu_layers("all"), Ok(-1));
        assert_eq!(gpu_layers("-1"), Ok(-1));
        assert_eq!(gpu_layers("3"), Ok(3));
        assert!(gpu_layers("many").is_err());
    }
}
