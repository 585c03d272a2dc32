//! Every error of every room knows whose fault it is and what to do, and says neither in the words
//! of a door that the reader may not have.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::process::Command;

use translora::record::{Blame, Field, InJson, Remedy, Step, Wording};

use crate::source::{files, literals, parse, root};

mod errors;
mod inputs;

use errors::{Room, not_enough, rooms};

/// Variants for which nothing is known to help.
const NO_REMEDY: &[(&str, &str)] = &[
    ("EngineError", "Cancelled"),
    ("EngineError", "Template"),
    ("EngineError", "Grammar"),
    ("EngineError", "Snapshot"),
    ("ServeError", "Threads"),
    ("ServeError", "Stopped"),
];

/// Fields of remedies that are no flags of the program: the ABI's argument of that name.
const NO_FLAGS: &[&str] = &["name"];

/// The remedies of all errors, of all reasons for too few samples, and all steps.
fn remedies() -> Vec<Remedy> {
    let reasons = [
        "repeated",
        "near_repeat",
        "other_numbers",
        "seed_run",
        "too_long",
        "too_short",
        "discriminator",
        "contrast",
        "no_answer",
        "empty",
    ];
    let rooms = rooms();
    let all = rooms.iter().flat_map(|Room(.., errors)| errors);
    all.filter_map(|error| error.remedy())
        .chain(reasons.map(|reason| not_enough(reason).remedy().expect("something helps")))
        .chain(Step::ALL.iter().map(|step| Remedy::from(*step)))
        .collect()
}

/// The variant that an error is, as `Debug` writes it.
fn variant(error: &dyn Blame) -> String {
    let debug = format!("{error:?}");
    let end = debug.find(|c: char| !c.is_alphanumeric());
    debug[..end.unwrap_or(debug.len())].to_owned()
}

/// The variants of an enum in Rust code.
fn variants(source: &str, name: &str) -> BTreeSet<String> {
    let of = enums(source).into_iter().find(|of| of.ident == name);
    let variants = of.unwrap_or_else(|| panic!("enum {name}")).variants;
    variants.iter().map(|of| of.ident.to_string()).collect()
}

fn enums(source: &str) -> Vec<syn::ItemEnum> {
    let items = parse(source).items.into_iter();
    let enums = items.filter_map(|item| match item {
        syn::Item::Enum(item) => Some(item),
        _ => None,
    });
    enums.collect()
}

#[test]
fn every_variant_has_a_fault_and_a_remedy_or_none_on_purpose() {
    for Room(file, name, errors) in rooms() {
        let source = std::fs::read_to_string(root().join(file)).expect(file);
        let here: BTreeSet<String> = errors.iter().map(|error| variant(error.as_ref())).collect();
        assert_eq!(here, variants(&source, name), "{name}");
        for error in errors {
            let variant = variant(error.as_ref());
            assert_eq!(
                error.remedy().is_none(),
                NO_REMEDY.contains(&(name, variant.as_str())),
                "{name}::{variant}: {:?}",
                error.remedy()
            );
            assert_eq!(error.is_cancelled(), variant == "Cancelled", "{name}");
        }
    }
}

#[test]
fn every_enum_of_errors_is_blamed() {
    let here: BTreeSet<&str> = rooms().iter().map(|Room(_, name, _)| *name).collect();
    for (file, source) in files("src", &["rs"]) {
        for of in enums(&source) {
            let (public, name) = (
                matches!(of.vis, syn::Visibility::Public(_)),
                of.ident.to_string(),
            );
            assert!(
                !(public && name.ends_with("Error")) || here.contains(name.as_str()),
                "{file}: {name} is not in the list of this test"
            );
        }
    }
}

/// What a program must not read: flags, and commands of the program.
fn is_for_a_terminal(text: &str) -> bool {
    let flag = text
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .any(|word| word.strip_prefix('-').is_some_and(|rest| !rest.is_empty()));
    flag || text.contains("`translora ") || text.contains("scripts/")
}

#[test]
fn no_program_reads_flags_or_commands() {
    for bad in ["raise --rank", "a larger -c", "with `translora inspect`"] {
        assert!(is_for_a_terminal(bad), "{bad}");
    }
    for remedy in remedies() {
        let words = remedy.words(&InJson);
        assert!(!is_for_a_terminal(&words), "{remedy:?}: {words}");
        assert!(!words.is_empty() && !words.ends_with('.'), "{remedy:?}");
        let count = words.split_whitespace().count();
        assert!(count <= 40, "{count} words: {words}");
    }
    for error in rooms().iter().flat_map(|Room(.., errors)| errors) {
        assert!(!is_for_a_terminal(&error.to_string()), "{error}");
    }
}

/// Texts of the library that name a flag or a command; the program alone may.
fn terminal_texts(file: &str, source: &str) -> Vec<String> {
    let named = |text: &String| {
        text.match_indices("--")
            .any(|(i, _)| text[i + 2..].starts_with(|c: char| c.is_ascii_lowercase()))
            || text.contains("`translora ")
    };
    let texts = literals(source).into_iter().filter(named);
    texts.map(|text| format!("{file}: {text}")).collect()
}

#[test]
fn only_the_program_speaks_of_flags() {
    let bad =
        "fn f() { x(\"use --rank\"); }\n/// --rank\nconst Y: &str = \"with `translora kit`\";\n";
    assert_eq!(terminal_texts("x.rs", bad).len(), 2);
    let found: Vec<String> = files("src", &["rs"])
        .iter()
        .filter(|(file, _)| !file.starts_with("src/bin/"))
        .flat_map(|(file, source)| terminal_texts(file, source))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Collects what is written to it.
#[derive(Default)]
struct Fields(RefCell<BTreeSet<String>>);

impl Wording for Fields {
    fn field(&self, field: &Field) -> String {
        self.0.borrow_mut().insert(field.name().to_owned());
        String::new()
    }

    fn set(&self, field: &Field, _: &serde_json::Value) -> String {
        self.field(field)
    }

    fn with(&self, _: &str) -> String {
        String::new()
    }
}

#[test]
fn every_setting_that_a_remedy_names_exists() {
    let fields = Fields::default();
    for remedy in remedies() {
        remedy.words(&fields);
    }
    let help: String = ["train", "kit", "transfer", "serve"]
        .map(|command| {
            let output = Command::new(env!("CARGO_BIN_EXE_translora"))
                .args([command, "--help"])
                .output()
                .expect("the program runs");
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
        .concat();
    let flags: BTreeSet<&str> = help
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .collect();
    let fields = fields.0.into_inner();
    assert!(fields.contains("ctx_size"), "{fields:?}");
    assert!(fields.len() > 15, "{fields:?}");
    for field in fields {
        let flag = format!("--{}", field.replace('_', "-"));
        assert!(
            flags.contains(flag.as_str()) || NO_FLAGS.contains(&field.as_str()),
            "{flag} is no flag of the program"
        );
    }
}
