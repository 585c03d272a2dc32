//! What the rules of the house read in a file: its syntax, the paths it names, its texts.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// The repository that the tests run in. Found when they run: a build folder may serve two
/// checkouts.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
    })
}

/// Every file below `folder` (of the repository) with one of these extensions, as (path from the
/// root, text), sorted.
pub fn files(folder: &str, extensions: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    walk(&root().join(folder), extensions, &mut found);
    found.sort();
    found
}

fn walk(folder: &Path, extensions: &[&str], found: &mut Vec<(String, String)>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries.map(|entry| {
        entry
            .expect("a folder of the repository is readable")
            .path()
    }) {
        let name = path
            .file_name()
            .expect("an entry has a name")
            .to_string_lossy()
            .into_owned();
        // A folder, or in a worktree a file.
        if name == ".git" {
            continue;
        }
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | ".cache" | "fixtures" | "shared") {
                walk(&path, extensions, found);
            }
        } else if extensions.contains(&path.extension().map_or("", |e| e.to_str().unwrap_or(""))) {
            let text =
                fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let from_root: PathBuf = path
                .strip_prefix(root())
                .expect("found below the root")
                .into();
            found.push((from_root.to_string_lossy().into_owned(), text));
        }
    }
}

/// The syntax of a file.
pub fn parse(source: &str) -> syn::File {
    syn::parse_file(source).unwrap_or_else(|error| panic!("{error}: {source}"))
}

/// The syntax of a file without the parts that exist only in tests.
pub fn product(source: &str) -> syn::File {
    let mut file = parse(source);
    file.items.retain(|item| match item {
        syn::Item::Mod(inner) => !for_tests(&inner.attrs),
        syn::Item::Impl(inner) => !for_tests(&inner.attrs),
        syn::Item::Fn(inner) => !for_tests(&inner.attrs),
        _ => true,
    });
    file
}

/// Whether one of these attributes is `#[cfg(test)]`.
pub fn for_tests(attributes: &[syn::Attribute]) -> bool {
    let test = |attribute: &syn::Attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    };
    attributes.iter().any(test)
}

/// The arguments of a macro, where they are expressions.
pub fn arguments(call: &syn::Macro) -> Vec<syn::Expr> {
    type Arguments = syn::punctuated::Punctuated<syn::Expr, syn::Token![,]>;
    let parsed = call.parse_body_with(Arguments::parse_terminated);
    parsed.into_iter().flatten().collect()
}

/// Every path of two or more segments, in `use` lines and elsewhere, with groups written out:
/// `a::{b, c::d}` is `a::b` and `a::c::d`.
pub fn paths(file: &syn::File) -> Vec<Vec<String>> {
    let mut paths = Paths(Vec::new());
    paths.visit_file(file);
    paths.0.retain(|path| path.len() > 1);
    paths.0
}

struct Paths(Vec<Vec<String>>);

impl Paths {
    fn imports(&mut self, tree: &syn::UseTree, mut before: Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                return self.imports(&path.tree, before);
            }
            syn::UseTree::Group(group) => {
                let inner = group.items.iter();
                return inner.for_each(|tree| self.imports(tree, before.clone()));
            }
            syn::UseTree::Name(name) => before.push(name.ident.to_string()),
            syn::UseTree::Rename(name) => before.push(name.ident.to_string()),
            syn::UseTree::Glob(_) => before.push("*".into()),
        }
        self.0.push(before);
    }

    /// The paths in what only a macro understands.
    fn tokens(&mut self, tokens: TokenStream) {
        let (mut path, mut colons) = (Vec::new(), 0);
        for token in tokens {
            match token {
                TokenTree::Ident(word) => {
                    if colons != 2 {
                        self.0.push(std::mem::take(&mut path));
                    }
                    path.push(word.to_string());
                    colons = 0;
                }
                TokenTree::Punct(sign) if sign.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => self.tokens(group.stream()),
                _ => colons = 0,
            }
        }
        self.0.push(path);
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.imports(&item.tree, Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter();
        self.0
            .push(segments.map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.tokens(call.tokens.clone());
    }

    fn visit_meta_list(&mut self, list: &'ast syn::MetaList) {
        self.tokens(list.tokens.clone());
    }
}

/// The literals of a file, as they are written; documentation is none.
pub fn literals(source: &str) -> Vec<String> {
    fn read(tokens: TokenStream, found: &mut Vec<String>) {
        for token in tokens {
            match token {
                TokenTree::Literal(literal) => found.push(literal.to_string()),
                TokenTree::Group(group) if !is_text(&group) => read(group.stream(), found),
                _ => {}
            }
        }
    }
    fn is_text(group: &proc_macro2::Group) -> bool {
        let first = group.stream().into_iter().next();
        matches!(first, Some(TokenTree::Ident(word)) if word == "doc")
    }
    let mut found = Vec::new();
    read(source.parse().expect("a file of Rust"), &mut found);
    found
}

#[test]
fn paths_are_written_out() {
    let seen = |source: &str| {
        let paths = paths(&parse(source));
        let words = paths.iter().map(|path| path.join("::"));
        words.collect::<Vec<_>>()
    };
    assert_eq!(
        seen("use crate::{a, b::{self, C}, d::*}; fn f() { x(crate::e::f::<T>(), g) }"),
        [
            "crate::a",
            "crate::b::self",
            "crate::b::C",
            "crate::d::*",
            "crate::e::f"
        ]
    );
    assert_eq!(
        seen(
            "#[derive(s::D)] struct A; fn f(a: std::fs::File) { m!(x, y: z => q::R {w}); } // a::b"
        ),
        ["s::D", "std::fs::File", "q::R"]
    );
    assert_eq!(
        literals("//! a\n/// b\n#[error(\"c\")] struct D; fn f() { g!(\"d\", 'e') }"),
        ["\"c\"", "\"d\"", "'e'"]
    );
}
