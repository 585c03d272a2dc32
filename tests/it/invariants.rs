//! Invariants that the source itself shows: who may bring a noun back, and who draws randomness
//! from what. Reads the source and fails on any place that breaks them.

use crate::source::{code, files, tokens};

/// The nouns, and the file that each lives in.
const NOUNS: &[(&str, &str)] = &[
    ("Seed", "src/kit/mod.rs"),
    ("Candidate", "src/generate/candidate.rs"),
    ("Valid", "src/filter/validity.rs"),
    ("Judged", "src/filter/judge.rs"),
    ("Kept", "src/filter/mod.rs"),
    ("Labeled", "src/label/mod.rs"),
    ("Trained", "src/distill/mod.rs"),
    ("Passed", "src/evaluate/mod.rs"),
];

/// What a noun may derive. `Default` and `Deserialize` would be constructors.
const DERIVED: &[&str] = &["Clone", "Debug", "PartialEq", "Eq", "Serialize"];

/// Where the right to bring nouns back is defined, and who uses it (by the start of the path).
const RESTORES: &[&str] = &["src/record/restore.rs", "src/pipeline/journal"];

/// What is seeded: `TYPE::new(seed, …)`.
const STREAMS: &[&str] = &["Rng", "Mersenne"];

/// Words that stand for randomness from outside the run.
const FOREIGN: &[&str] = &[
    "getrandom",
    "OsRng",
    "ThreadRng",
    "StdRng",
    "SmallRng",
    "from_entropy",
    "from_os_rng",
    "from_rng",
    "RandomState",
    "DefaultHasher",
];

/// The one place that draws from something else than a seed: a request to `serve` that names none
/// is answered differently each time. It draws from the clock that the host was opened with.
const UNSEEDED: &str = "src/serve/http/ask.rs";

/// The tokens of a file's code, without its tests.
fn product(source: &str) -> Vec<String> {
    let code = code(source);
    let end = code.find("#[cfg(test)]\nmod tests").unwrap_or(code.len());
    tokens(&code[..end])
}

fn words(text: &str) -> Vec<String> {
    tokens(text)
}

/// The places where these tokens stand one after the other.
fn places<'t>(tokens: &'t [String], these: &'t [String]) -> impl Iterator<Item = usize> + 't {
    let found = move |at: &usize| tokens[*at..].starts_with(these);
    (0..tokens.len()).filter(found)
}

/// Where the bracket that opens at `open` is closed.
fn closed(tokens: &[String], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        depth += i32::from(matches!(token.as_str(), "(" | "{" | "["));
        depth -= i32::from(matches!(token.as_str(), ")" | "}" | "]"));
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

/// The visibility in front of `at` reaches beyond the room of this file.
fn reaches_out(tokens: &[String], at: usize, file: &str) -> bool {
    let before = |back: usize| at.checked_sub(back).map_or("", |at| tokens[at].as_str());
    match (before(4), before(3), before(2), before(1)) {
        ("pub", "(", "super", ")") => file.ends_with("/mod.rs"),
        ("pub", "(", "self", ")") => false,
        (_, _, _, "const") => reaches_out(tokens, at - 1, file),
        (_, _, _, "pub" | ")") => true,
        _ => false,
    }
}

/// Ways that other rooms would have to put a noun together.
fn constructors(noun: &str, file: &str, source: &str) -> Vec<String> {
    let tokens = product(source);
    let mut found = Vec::new();
    let Some(defined) = places(&tokens, &words(&format!("struct {noun}"))).next() else {
        return vec![format!("{file}: {noun} is not here: say in NOUNS where")];
    };
    let start = tokens[..defined]
        .iter()
        .rposition(|token| matches!(token.as_str(), "}" | ";"));
    let derived = tokens[start.unwrap_or(0)..defined].iter();
    for name in derived.filter(|word| word.starts_with(char::is_uppercase)) {
        if !DERIVED.contains(&name.as_str()) {
            found.push(format!("{file}: {noun} may not derive {name}"));
        }
    }
    let body = defined + 2..closed(&tokens, defined + 2);
    for field in body {
        if tokens[field] == "pub" {
            let name = field + if tokens[field + 1] == "(" { 4 } else { 1 };
            if reaches_out(&tokens, name, file) {
                found.push(format!("{file}: {noun} has a field that others see"));
            }
        }
    }
    for at in places(&tokens, &words(&format!("impl {noun} {{"))) {
        let end = closed(&tokens, at + 2);
        for function in (at..end).filter(|&at| tokens[at] == "fn") {
            let open = function + 2;
            let close = closed(&tokens, open);
            let takes_self = tokens[open..close].iter().any(|token| token == "self");
            let mut answer = tokens[close..].iter().take_while(|token| *token != "{");
            let makes = answer.any(|token| token == "Self" || token == noun);
            // Attributes stand behind the body before.
            let body = tokens[..function]
                .iter()
                .rposition(|token| matches!(token.as_str(), "{" | "}"));
            let attributes = &tokens[body.unwrap_or(0)..function];
            let for_tests = places(attributes, &words("#[cfg(test)]")).next().is_some();
            if makes && !takes_self && !for_tests && reaches_out(&tokens, function, file) {
                let name = &tokens[function + 1];
                found.push(format!("{file}: {noun}::{name} puts one together"));
            }
        }
    }
    found
}

/// Implementations of traits for a noun anywhere, but for what the journal needs.
fn implementations(file: &str, source: &str) -> Vec<String> {
    let tokens = product(source);
    let mut found = Vec::new();
    for (noun, _) in NOUNS {
        for at in places(&tokens, &words(&format!("for {noun} {{"))) {
            if tokens[at - 1] != "Restored" {
                found.push(format!("{file}: {} for {noun}", tokens[at - 1]));
            }
        }
    }
    found
}

/// A use of the right to bring nouns back where nobody has it.
fn restoring(file: &str, source: &str) -> Vec<String> {
    let allowed = RESTORES.iter().any(|place| file.starts_with(place));
    let uses = tokens(&code(source))
        .iter()
        .any(|token| token == "from_journal");
    if uses && !allowed {
        vec![format!("{file}: only the journal brings nouns back")]
    } else {
        Vec::new()
    }
}

/// Randomness that was not seeded by whoever asked for it.
fn unseeded(file: &str, source: &str) -> Vec<String> {
    let tokens = product(source);
    let mut found = Vec::new();
    for word in tokens
        .iter()
        .filter(|word| FOREIGN.contains(&word.as_str()))
    {
        found.push(format!("{file}: {word} is not of the run's seed"));
    }
    if file.starts_with("src/record/") || file == UNSEEDED {
        return found;
    }
    for stream in STREAMS {
        for at in places(&tokens, &words(&format!("{stream}::new("))) {
            let open = at + 3;
            let first: Vec<&str> = tokens[open + 1..closed(&tokens, open)]
                .iter()
                .map(String::as_str)
                .take_while(|token| *token != ",")
                .collect();
            let literal =
                matches!(first[..], [number] if number.starts_with(|c: char| c.is_ascii_digit()));
            if !literal && !first.contains(&"seed") {
                found.push(format!("{file}: {stream} of {}", first.join("")));
            }
        }
    }
    found
}

/// Every file of `src/` but those that are tests throughout.
fn product_files() -> Vec<(String, String)> {
    let mut files = files("src", &["rs"]);
    files.retain(|(file, _)| !file.ends_with("tests.rs"));
    files
}

fn broken(check: impl Fn(&str, &str) -> Vec<String>) -> String {
    let found: Vec<String> = product_files()
        .iter()
        .flat_map(|(file, source)| check(file, source))
        .collect();
    found.join("\n")
}

#[test]
fn only_the_pipeline_brings_nouns_back() {
    assert_eq!(broken(restoring), "");
    // The right itself: one tuple with a private field, put together in one place.
    let (file, source) = product_files()
        .into_iter()
        .find(|(file, _)| file == RESTORES[0])
        .expect("it is there");
    assert_eq!(constructors("Restore", &file, &source).len(), 1);
    assert!(code(&source).contains("pub struct Restore(Vec<u8>);"));
}

#[test]
fn a_noun_has_private_fields_and_no_public_constructor() {
    assert_eq!(broken(implementations), "");
    let files = product_files();
    for (noun, file) in NOUNS {
        let (_, source) = files
            .iter()
            .find(|(name, _)| name == file)
            .unwrap_or_else(|| panic!("{file} is not there: say in NOUNS where {noun} is"));
        assert_eq!(constructors(noun, file, source), Vec::<String>::new());
    }
}

#[test]
fn no_room_draws_randomness_that_it_was_not_given() {
    assert_eq!(broken(unseeded), "");
}

#[test]
fn each_invariant_can_be_broken() {
    let noun = |rest: &str| {
        format!(
            "use x::Y;\n/// Text.\n#[derive(Clone, Debug)]\npub struct Kept {{ prompt: String }}\n{rest}"
        )
    };
    let broken = [
        "#[derive(Clone, Default)] pub struct Kept { prompt: String }".to_owned(),
        "#[derive(Deserialize)] pub struct Kept { prompt: String }".to_owned(),
        "pub struct Kept { pub prompt: String }".to_owned(),
        "pub struct Kept { pub(crate) prompt: String }".to_owned(),
        "pub struct Kept { pub(super) prompt: String }".to_owned(),
        "pub struct Kept(pub String);".to_owned(),
        noun("impl Kept { pub fn new(prompt: String) -> Self { x } }"),
        noun("impl Kept { pub(crate) fn new(prompt: String) -> Kept { x } }"),
        noun("impl Kept { pub const fn new() -> Option<Self> { x } }"),
        noun("impl Kept { fn f(&self) {} pub fn new() -> Result<Self, E> { x } }"),
        "pub struct Other;".to_owned(),
    ];
    for source in &broken {
        let found = constructors("Kept", "src/filter/mod.rs", source);
        assert_eq!(found.len(), 1, "{source}: {found:?}");
    }
    let sound = [
        noun("impl Kept { pub fn prompt(&self) -> &str { x } fn new() -> Self { x } }"),
        noun("impl Kept { pub fn with(self, x: X) -> Self { x } }"),
        noun("impl Kept { #[cfg(test)] pub(crate) fn example() -> Self { x } }"),
        noun("pub fn select(judged: &[Judged]) -> Vec<Kept> { x }"),
        noun("#[cfg(test)]\nmod tests { impl Kept { pub fn x() -> Self { x } } }"),
    ];
    for source in &sound {
        let found = constructors("Kept", "src/filter/mod.rs", source);
        assert_eq!(found, Vec::<String>::new(), "{source}");
    }
    let inner = "pub struct Kept { pub(super) prompt: String }";
    assert!(constructors("Kept", "src/filter/kept.rs", inner).is_empty());
    for source in [
        "impl Default for Kept { }",
        "impl<'de> Deserialize<'de> for Labeled { }",
        "impl From<String> for Seed { }",
    ] {
        assert_eq!(implementations("src/x.rs", source).len(), 1, "{source}");
    }
    assert!(implementations("src/x.rs", "impl Restored for Kept { }").is_empty());
    let right = "let kept = Kept::restore(from, Restore::from_journal(Vec::new()));";
    assert_eq!(restoring("src/label/mod.rs", right).len(), 1);
    assert_eq!(restoring("src/pipeline/rounds/pool.rs", right).len(), 1);
    assert!(restoring("src/pipeline/journal.rs", right).is_empty());
    for source in [
        "let rng = Rng::new(clock.unix_seconds(), \"x\");",
        "let rng = Rng::new(7 ^ number(), \"seed\");",
        "let rng = Mersenne::new(entropy as u32);",
        "let hash = RandomState::new();",
    ] {
        assert_eq!(
            unseeded("src/serve/http/mod.rs", source).len(),
            1,
            "{source}"
        );
    }
    for source in [
        "let rng = Rng::new(self.settings.seed, \"x\");",
        "let rng = Rng::new(request.seed.wrapping_add(i as u64), \"x\");",
        "let rng = Rng::new(1, \"bench\");",
        "let rng = Mersenne::new(sampling.seed);",
        "fn draw(rng: &mut Rng) {}",
        "#[cfg(test)]\nmod tests { fn f() { Rng::new(time(), \"x\") } }",
    ] {
        assert_eq!(
            unseeded("src/x.rs", source),
            Vec::<String>::new(),
            "{source}"
        );
    }
}
