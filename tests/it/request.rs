//! One request through every door: the command line, JSON and the reference have the same names,
//! bounds and defaults, and each refuses what is out of bounds before any work.

use std::collections::HashSet;
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};
use translora::record::{Blame, InJson};
use translora::request::{self, Eval, Field, Fields, Inputs, Kind, Kit, Request, Train, Transfer};

use crate::source::root;

/// A field, what it may be, and what it may not, as a flag says it. Written down a second time, on
/// purpose. `·` is a blank, and `""` an empty value.
const CASES: &str = r#"
samples              | 1 1000000 | 0 1000001 -1 1.5 x
chat_template        | chatml template.jinja | ""
source_chat_template | chatml | ""
chat_template_kwargs | {} {"enable_thinking":·false} | [1] 1 x ""
filter               | contrast none | best Auto ""
generator            | source-lora | source_lora nobody
label                | consistent | best
objective            | delta | best
token_weights        | confidence | best
schedule             | linear | cos
temperature          | 0.001 5 | 0 5.001 -1 nan inf
kl_budget            | 0.001 100 | 0 100.1 nan inf
flip_budget          | 0 1 | -0.001 1.001 nan inf
near                 | 0 1 | -0.001 1.001 nan -inf
seed_run             | 0 1 | -0.001 1.001 nan inf
epochs               | 0.001 1000 | 0 1000.1 -1 nan inf
input_epochs         | 0.001 1000 | 0 1000.1 nan
restarts             | 0 100 | 101 -1 0.5
rank                 | 1 1024 | 0 1025 -1 8.5
alpha                | 0.001 1e30 | 0 -1 nan inf 1e39
modules              | q,v dense all | "" q, all,q attn q·v
layers               | 12..24 12.. ..8 | "" 12 7..7 9..3 a..b
lora_plus            | 0.001 16 | 0 -1 nan inf
batch                | 1 4096 | 0 4097
micro_batch          | 0 4096 | -1 4097
weight_decay         | 0 1e4 | -0.001 nan inf
lora_dropout         | 0 0.999 | 1 -0.001 nan 0.99999999999
clip                 | 0 1e4 | -0.001 nan inf
lr                   | 1e-9 auto | 0 -1 nan inf fast
warmup               | 0 1 | -0.001 1.001 nan
early_stop           | 0 1000 | -1 1001
input_tokens         | 1 65536 | 0 65537
answer_tokens        | 1 65536 | 0 65537
threads              | 0 1024 | -1 1025
gpu_layers           | -1 0 99 all | -2 1000001 many 1.5
device               | none | ""
format               | auto messages alpaca | xml ""
learn                | last all | first ""
ctx_size             | 0 1048576 | -1 1048577
seed                 | 0 18446744073709551615 | -1 18446744073709551616 1.5
memory               | 1KiB 2GiB | 0MiB 2 2GB -1MiB 1.5GiB 99999999999GiB ""
"#;

/// The rows of `CASES`.
fn cases() -> Vec<(&'static str, Vec<String>, Vec<String>)> {
    let values = |cell: &str| {
        let value = |text: &str| text.replace("\"\"", "").replace('·', " ");
        cell.split_whitespace().map(value).collect()
    };
    let case = |line: &'static str| {
        let mut cells = line.split('|').map(str::trim);
        let mut cell = || cells.next().expect("three cells");
        (cell(), values(cell()), values(cell()))
    };
    CASES.trim().lines().map(case).collect()
}

/// Of JSON only: other types, and numbers where a flag has units.
const JSON: &[(&str, &[&str], &[&str])] = &[
    (
        "memory",
        &["1", "2147483648", "null"],
        &["0", "-1", "1.5", "\"2GiB\"", "true"],
    ),
    ("rank", &["null"], &["\"8\"", "true", "[]", "8.0"]),
    ("lr", &["null", "1", "\"auto\""], &["\"1\"", "[1]"]),
    ("gpu_layers", &["\"all\"", "null"], &["\"-1\"", "false"]),
    ("rslora", &["true", "null"], &["1", "\"true\""]),
    ("layers", &["null"], &["[0, 8]", "8"]),
    ("modules", &["null"], &["[]", "[\"q\"]", "7"]),
    ("filter", &["null"], &["1", "[\"none\"]"]),
    ("source", &[], &["1", "\"\"", "null"]),
    ("eval", &["null"], &["1", "\"\""]),
];

/// A command with the files it needs, none of which is there.
fn least(verb: &str) -> Map<String, Value> {
    let least = match verb {
        "transfer" => {
            json!({"source": "missing", "source_lora": "b", "target": "c", "seeds": "s", "out": "o"})
        }
        "train" => json!({"model": "missing", "data": "missing", "out": "o"}),
        "kit" => json!({"model": "missing", "lora": "b", "data": "missing", "out": "o"}),
        _ => json!({"model": "missing", "data": "missing"}),
    };
    least.as_object().cloned().expect("an object")
}

fn flag(name: &str) -> String {
    format!("--{}", name.replace('_', "-"))
}

/// Run the program where nothing is: its exit status and what it says of it.
fn program(verb: &str, changes: &[(&str, &str)]) -> (i32, String) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut command = Command::new(env!("CARGO_BIN_EXE_translora"));
    command.arg(verb).current_dir(&folder).stdin(Stdio::null());
    for (name, value) in least(verb) {
        if !changes.iter().any(|(changed, _)| *changed == name) {
            command.arg(flag(&name)).arg(request::text(&value));
        }
    }
    for (name, value) in changes {
        // With `=`, a value may look like a flag.
        command.arg(format!("{}={value}", flag(name)));
    }
    let output = command.output().expect("the program runs");
    assert!(output.stdout.is_empty(), "{verb} {changes:?}");
    let left = std::fs::read_dir(&folder).expect("it is there").count();
    assert_eq!(left, 0, "{verb} {changes:?} left something behind");
    let said = String::from_utf8(output.stderr).expect("it is UTF-8");
    (output.status.code().expect("an exit status"), said)
}

/// A request as JSON text, with one field as text.
fn json_with(verb: &str, name: &str, value: &str) -> String {
    let mut fields = least(verb);
    fields.remove(name);
    let object = Value::from(fields).to_string();
    format!("{}, \"{name}\": {value}}}", object.trim_end_matches('}'))
}

/// A flag's value as JSON: a number where it is one.
fn as_json(field: &Field, value: &str) -> String {
    let read = match field.kind {
        Kind::Whole(..) | Kind::Real(..) => serde_json::from_str::<f64>(value).is_ok(),
        Kind::Object => serde_json::from_str::<Value>(value).is_ok(),
        _ => false,
    };
    if read {
        value.into()
    } else {
        Value::from(value).to_string()
    }
}

/// Each field of a verb that was not seen yet, through both doors.
fn each_bound<T: Request>(verb: &str, seen: &mut HashSet<&'static str>) {
    for (field, _) in T::rows() {
        let name = field.name;
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let case = cases().into_iter().find(|(of, ..)| *of == name);
        let (inside, outside): (Vec<String>, Vec<String>) = match case {
            Some((_, inside, outside)) => (inside, outside),
            None if field.kind == Kind::Path => (Vec::new(), texts(&[""])),
            None if field.kind == Kind::Switch => continue,
            None if verb == "kit" && name == "seeds" => {
                (texts(&["1", "1000"]), texts(&["0", "1001", "-1"]))
            }
            None => panic!("{verb}: say in CASES what {name} may be"),
        };
        let json = field.kind != Kind::Size;
        for value in inside.iter().filter(|_| json) {
            let text = json_with(verb, name, &as_json(field, value));
            T::from_json(&text).unwrap_or_else(|refusal| panic!("{text}: {refusal}"));
        }
        for value in outside.iter().filter(|_| json) {
            refused_in_json::<T>(field, &json_with(verb, name, &as_json(field, value)));
        }
        if !seen.insert(name) {
            continue;
        }
        for value in &inside {
            let (code, said) = program(verb, &[(name, value)]);
            assert!(code == 2, "{verb} {name} {value}: {said}");
            assert!(said.contains("missing"), "{verb} {name} {value}: {said}");
            assert!(
                !said.contains("invalid value"),
                "{verb} {name} {value}: {said}"
            );
        }
        for value in &outside {
            let (code, said) = program(verb, &[(name, value)]);
            let bounds = match field.kind {
                Kind::Choice(words) => words.join(", "),
                _ => field.expects(),
            };
            assert!(code == 2, "{verb} {name} {value}: {said}");
            assert!(said.contains(&flag(name)), "{verb} {name} {value}: {said}");
            assert!(said.contains(&bounds), "{verb} {name} {value}: {said}");
        }
    }
}

fn refused_in_json<T: Request>(field: &Field, text: &str) {
    let Err(refusal) = T::from_json(text) else {
        panic!("{text} was taken")
    };
    let hint = refusal.remedy().map(|remedy| remedy.words(&InJson));
    let (what, hint) = (refusal.to_string(), hint.unwrap_or_default());
    let missing = text.contains("null");
    assert!(
        what.contains(&format!("\"{}\"", field.name)),
        "{text}: {what}; {hint}"
    );
    assert!(
        (missing || what.contains(&field.expects())),
        "{text}: {what}; {hint}"
    );
    assert!(!hint.is_empty(), "{text}: {what}; {hint}");
    assert!(!hint.contains("--"), "{text}: {what}; {hint}");
}

#[test]
fn each_bound_is_refused_by_each_door_before_any_work() {
    let mut seen = HashSet::new();
    each_bound::<Transfer>("transfer", &mut seen);
    seen.remove("seeds");
    each_bound::<Kit>("kit", &mut seen);
    each_bound::<Train>("train", &mut seen);
    each_bound::<Eval>("eval", &mut seen);
    for (name, ..) in cases() {
        assert!(seen.contains(name), "{name} is no field");
    }
}

#[test]
fn other_types_are_refused_and_null_is_the_same_as_nothing() {
    let rows = Transfer::rows();
    for (name, inside, outside) in JSON {
        let (field, default) = rows
            .iter()
            .find(|(field, _)| field.name == *name)
            .expect("a field");
        for value in *inside {
            let text = json_with("transfer", name, value);
            let plan =
                Transfer::from_json(&text).unwrap_or_else(|refusal| panic!("{text}: {refusal}"));
            if ["null", "\"auto\"", "\"all\""].contains(value) {
                assert_eq!(&plan.values()[*name], default, "{text}");
            }
        }
        for value in *outside {
            refused_in_json::<Transfer>(field, &json_with("transfer", name, value));
        }
    }
    for bad in ["", "[]", "{", "3", "null", "{} {}"] {
        assert!(Transfer::from_json(bad).is_err(), "{bad}");
    }
    let refusal = Transfer::from_json(r#"{"lr": 1, "seed": 2, "lr": 3}"#).unwrap_err();
    assert!(
        refusal
            .to_string()
            .contains("the key \"lr\" is there twice"),
        "{refusal}"
    );
}

#[test]
fn fields_that_do_not_go_together_are_refused_in_the_words_of_each_door() {
    let cases = [
        (("kit", "k"), "\"kit\" or \"seeds\"", "--kit"),
        (
            ("filter", "kit"),
            "\"filter\": \"kit\" needs \"kit\"",
            "--filter kit needs --kit",
        ),
        (
            ("filter", "both"),
            "\"filter\": \"both\" needs \"kit\"",
            "--filter both needs --kit",
        ),
        (
            ("oracle", "x"),
            "\"oracle\": \"x\" needs \"eval\"",
            "--oracle x needs --eval",
        ),
    ];
    for ((name, value), json, flags) in cases {
        let text = json_with("transfer", name, &format!("\"{value}\""));
        let refusal = Transfer::from_json(&text).unwrap_err();
        assert!(refusal.to_string().contains(json), "{text}: {refusal}");
        let (code, said) = program("transfer", &[(name, value)]);
        assert!(code == 2 && said.contains(flags), "{name} {value}: {said}");
    }
    for (name, known) in [
        ("source-lora", "\"source-lora\"; it is \"source_lora\""),
        ("sample", "\"sample\"; the fields are source, source_lora,"),
    ] {
        let refusal = Transfer::from_json(&json_with("transfer", name, "1")).unwrap_err();
        assert!(refusal.to_string().contains(known), "{refusal}");
    }
}

/// The flags of a command and their defaults, as `--help` prints them.
fn helped(verb: &str) -> Vec<(String, String)> {
    let output = Command::new(env!("CARGO_BIN_EXE_translora"))
        .args([verb, "--help"])
        .output()
        .expect("the program runs");
    let text = String::from_utf8(output.stdout).expect("it is UTF-8");
    let mut found: Vec<(String, String)> = Vec::new();
    for whole in text.lines() {
        let line = whole.trim();
        // What a flag is for stands further in, and may begin a line with another flag.
        let is_flag = line.starts_with('-') && whole.len() - line.len() < 8;
        let flag = line
            .split([' ', ','])
            .find(|word| is_flag && word.starts_with("--"));
        found.extend(flag.map(|flag| (flag.to_owned(), String::new())));
        let default = line
            .strip_prefix("[default: ")
            .and_then(|rest| rest.strip_suffix(']'));
        if let (Some((_, of)), Some(default)) = (found.last_mut(), default) {
            *of = default.to_owned();
        }
    }
    found
}

fn same_everywhere<T: Request>(verb: &str) {
    const OTHERS: [&str; 6] = [
        "--json",
        "--quiet",
        "--verbose",
        "--offline",
        "--help",
        "--attach",
    ];
    let flags = helped(verb);
    let plan = T::from_json(&Value::from(least(verb)).to_string()).expect("it is enough");
    let values = plan.values();
    for (field, default) in T::rows() {
        let written = field.default_text(&default);
        let (_, of) = flags
            .iter()
            .find(|(flag, _)| *flag == field.flag())
            .unwrap_or_else(|| panic!("{verb}: {} is no flag", field.flag()));
        assert_eq!(*of, written, "{verb} {}", field.flag());
        if !least(verb).contains_key(field.name) {
            assert_eq!(values[field.name], default, "{verb} {}", field.name);
        }
        let line = format!("| `{}` | {} |", field.name, field.expects());
        assert!(
            request::page().contains(&line),
            "{line} is not in the reference"
        );
        assert!(
            field.help.lines().count() > 0,
            "{}: {}",
            field.name,
            field.about()
        );
        assert!(
            !field.about().ends_with('.'),
            "{}: {}",
            field.name,
            field.about()
        );
    }
    for (flag, _) in flags {
        let known = T::rows().iter().any(|(field, _)| field.flag() == flag);
        assert!(
            known || OTHERS.contains(&flag.as_str()),
            "{verb}: {flag} is no field"
        );
    }
}

#[test]
fn names_and_defaults_are_the_same_everywhere() {
    same_everywhere::<Transfer>("transfer");
    same_everywhere::<Train>("train");
    same_everywhere::<Kit>("kit");
    same_everywhere::<Eval>("eval");
    let near = f64::from(Transfer::default().near);
    assert!((near - translora::filter::NEAR).abs() < 1e-6);
}

#[test]
fn a_plan_is_read_back_as_it_was_written() {
    let text = json_with("transfer", "flip_budget", "0.1");
    let mut plan = Transfer::from_json(&text).expect("it is within its bounds");
    plan.limits.teacher_bytes_max = 100;
    plan.cap(3, Some(1 << 30));
    let written = serde_json::to_string(&plan).expect("it is JSON");
    assert!(written.contains("\"flip_budget\":0.1,") && written.contains("\"threads\":3"));
    let read: request::Plan<Transfer> = serde_json::from_str(&written).expect("it was written");
    assert_eq!(read, plan);
    assert_eq!(plan.inputs(), Inputs::Seeds("s".as_ref()));
    // Limits are not the user's to choose.
    assert!(Transfer::from_json(&written).is_err());
    let other = written.replace("\"flip_budget\":0.1", "\"flip_budget\":1.1");
    assert!(serde_json::from_str::<request::Plan<Transfer>>(&other).is_err());
}

/// Compare a text with what the table prints, or write it where `TRANSLORA_BLESS` is set.
fn blessed(file: &str, now: &str) {
    let path = root().join(file);
    if std::env::var_os("TRANSLORA_BLESS").is_some() {
        std::fs::write(&path, now).expect("the document is writable");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == now,
        "{file} is not what the table prints: TRANSLORA_BLESS=1 cargo test --test it reference writes it"
    );
}

#[test]
fn the_reference_is_what_the_table_prints() {
    blessed("docs/reference/transfer.md", &request::page());
}

#[test]
fn the_reference_of_http_is_the_document_in_words() {
    blessed("docs/reference/http.md", &translora::serve::reference());
}
