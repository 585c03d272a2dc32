//! Invariants that the source itself shows: who may bring a noun back, and who draws randomness
//! from what. Reads the source and fails on any place that breaks them.

use syn::visit::{self, Visit};

use crate::source::{arguments, files, for_tests, parse, paths, product};

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

/// The one place that draws from something else than a seed: a request to `serve` that names none
/// is answered differently each time. It draws from the clock that the host was opened with.
const UNSEEDED: &str = "src/serve/http/options.rs";

/// A visibility that reaches beyond the room of this file.
fn reaches_out(visibility: &syn::Visibility, file: &str) -> bool {
    match visibility {
        syn::Visibility::Public(_) => true,
        syn::Visibility::Restricted(to) if to.path.is_ident("super") => file.ends_with("/mod.rs"),
        syn::Visibility::Restricted(to) => !to.path.is_ident("self"),
        syn::Visibility::Inherited => false,
    }
}

/// Whether a type, or one of its arguments, has one of these names.
fn names(of: &syn::ReturnType, these: &[&str]) -> bool {
    struct Names<'a>(&'a [&'a str], bool);
    impl<'ast> Visit<'ast> for Names<'_> {
        fn visit_ident(&mut self, word: &'ast syn::Ident) {
            self.1 |= self.0.iter().any(|name| word == name);
        }
    }
    let mut names = Names(these, false);
    names.visit_return_type(of);
    names.1
}

fn is_noun(of: &syn::Type, noun: &str) -> bool {
    matches!(of, syn::Type::Path(of) if of.path.is_ident(noun))
}

/// Ways that other rooms would have to put a noun together.
fn constructors(noun: &str, file: &str, source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut defined = false;
    for item in product(source).items {
        match item {
            syn::Item::Struct(item) if item.ident == noun => {
                defined = true;
                let derives = item.attrs.iter().filter(|of| of.path().is_ident("derive"));
                for derive in derives {
                    let each = derive.parse_nested_meta(|derived| {
                        if !DERIVED.iter().any(|may| derived.path.is_ident(may)) {
                            let name = &derived.path.segments[0].ident;
                            found.push(format!("{file}: {noun} may not derive {name}"));
                        }
                        Ok(())
                    });
                    each.expect("a list of names");
                }
                if item
                    .fields
                    .iter()
                    .any(|field| reaches_out(&field.vis, file))
                {
                    found.push(format!("{file}: {noun} has a field that others see"));
                }
            }
            syn::Item::Impl(item) if item.trait_.is_none() && is_noun(&item.self_ty, noun) => {
                for inner in item.items {
                    let syn::ImplItem::Fn(inner) = inner else {
                        continue;
                    };
                    if inner.sig.receiver().is_none()
                        && names(&inner.sig.output, &["Self", noun])
                        && !for_tests(&inner.attrs)
                        && reaches_out(&inner.vis, file)
                    {
                        let name = inner.sig.ident;
                        found.push(format!("{file}: {noun}::{name} puts one together"));
                    }
                }
            }
            _ => {}
        }
    }
    if !defined {
        found.push(format!("{file}: {noun} is not here: say in NOUNS where"));
    }
    found
}

/// Implementations of traits for a noun anywhere, but for what the journal needs.
fn implementations(file: &str, source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for item in product(source).items {
        let syn::Item::Impl(syn::ItemImpl {
            trait_: Some((_, of, _)),
            self_ty,
            ..
        }) = item
        else {
            continue;
        };
        let name = &of.segments.last().expect("a trait has a name").ident;
        for (noun, _) in NOUNS.iter().filter(|(noun, _)| is_noun(&self_ty, noun)) {
            if name != "Restored" {
                found.push(format!("{file}: {name} for {noun}"));
            }
        }
    }
    found
}

/// A use of the right to bring nouns back where nobody has it.
fn restoring(file: &str, source: &str) -> Vec<String> {
    let allowed = RESTORES.iter().any(|place| file.starts_with(place));
    let uses = |path: &Vec<String>| path.last().is_some_and(|name| name == "from_journal");
    if !allowed && paths(&parse(source)).iter().any(uses) {
        vec![format!("{file}: only the journal brings nouns back")]
    } else {
        Vec::new()
    }
}

/// Randomness that was not seeded by its caller.
fn unseeded(file: &str, source: &str) -> Vec<String> {
    let mut calls = Unseeded(Vec::new());
    if !file.starts_with("src/record/") && file != UNSEEDED {
        calls.visit_file(&product(source));
    }
    let found = calls.0.iter();
    found
        .map(|stream| format!("{file}: {stream} of no seed"))
        .collect()
}

/// The streams of randomness that begin with something else than a seed or a number.
struct Unseeded(Vec<String>);

impl<'ast> Visit<'ast> for Unseeded {
    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        struct Seed(bool);
        impl<'ast> Visit<'ast> for Seed {
            fn visit_ident(&mut self, word: &'ast syn::Ident) {
                self.0 |= word == "seed";
            }
        }
        if let syn::Expr::Path(called) = &*call.func
            && let [.., stream, new] = &Vec::from_iter(&called.path.segments)[..]
            && new.ident == "new"
            && STREAMS.iter().any(|name| stream.ident == name)
            && let Some(first) = call.args.first()
        {
            let mut seed = Seed(matches!(first, syn::Expr::Lit(_)));
            seed.visit_expr(first);
            if !seed.0 {
                self.0.push(stream.ident.to_string());
            }
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        arguments(call).iter().for_each(|of| self.visit_expr(of));
    }
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
    assert!(source.contains("pub struct Restore(Vec<u8>);"));
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
    let right = "const X: Kept = Kept::restore(from, Restore::from_journal(Vec::new()));";
    assert_eq!(restoring("src/label/mod.rs", right).len(), 1);
    assert_eq!(restoring("src/pipeline/rounds/pool.rs", right).len(), 1);
    assert!(restoring("src/pipeline/journal.rs", right).is_empty());
    for source in [
        "const X: Rng = Rng::new(clock.unix_seconds(), \"x\");",
        "const X: Rng = Rng::new(7 ^ number(), \"seed\");",
        "const X: Rng = Mersenne::new(entropy as u32);",
    ] {
        assert_eq!(
            unseeded("src/serve/http/mod.rs", source).len(),
            1,
            "{source}"
        );
    }
    for source in [
        "const X: Rng = Rng::new(self.settings.seed, \"x\");",
        "const X: Rng = Rng::new(request.seed.wrapping_add(i as u64), \"x\");",
        "const X: Rng = Rng::new(1, \"bench\");",
        "const X: Rng = Mersenne::new(sampling.seed);",
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
