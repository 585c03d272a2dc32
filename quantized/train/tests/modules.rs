//! No circle between the modules of the crate: what a module imports lies below it. A folder is one
//! module; unit tests are not looked at.
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test says what it measures"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use syn::visit::{self, Visit};

/// Module → the modules that it names by `crate::`.
type Imports = BTreeMap<String, BTreeSet<String>>;

#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    /// What stands after `crate` in a tree of imports.
    fn take(&mut self, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => self.0.insert(path.ident.to_string()),
            syn::UseTree::Name(name) => self.0.insert(name.ident.to_string()),
            syn::UseTree::Rename(name) => self.0.insert(name.ident.to_string()),
            syn::UseTree::Glob(_) => self.0.insert("*".into()),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.take(tree));
                true
            }
        };
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if let syn::UseTree::Path(path) = &item.tree
            && path.ident == "crate"
        {
            self.take(&path.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 && path.segments[0].ident == "crate" {
            self.0.insert(path.segments[1].ident.to_string());
        }
        visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let test = |attribute: &syn::Attribute| {
            attribute.path().is_ident("cfg")
                && attribute
                    .parse_args::<syn::Ident>()
                    .is_ok_and(|what| what == "test")
        };
        if !item.attrs.iter().any(test) {
            visit::visit_item_mod(self, item);
        }
    }
}

fn names(source: &str) -> BTreeSet<String> {
    let mut names = Names::default();
    names.visit_file(&syn::parse_file(source).unwrap());
    names.0
}

/// The imports of every file below `folder`; `module` is the one that they all belong to.
fn read(folder: &Path, module: Option<&str>, imports: &mut Imports) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let module = module.unwrap_or(stem);
        if path.is_dir() {
            read(&path, Some(module), imports);
        } else if module != "lib" {
            let found = names(&std::fs::read_to_string(&path).unwrap());
            imports.entry(module.to_owned()).or_default().extend(found);
        }
    }
}

/// What is wrong: a name after `crate::` that is no module, and each module that can be reached
/// from itself.
fn faults(imports: &Imports) -> Vec<String> {
    let mut faults = Vec::new();
    for (module, named) in imports {
        let unknown = named.iter().filter(|name| !imports.contains_key(*name));
        faults.extend(unknown.map(|name| format!("{module}: crate::{name} is no module")));
        let (mut reached, mut next) = (BTreeSet::new(), Vec::new());
        next.extend(named.iter().filter(|name| *name != module));
        while let Some(name) = next.pop() {
            if reached.insert(name) {
                next.extend(imports.get(name).into_iter().flatten());
            }
        }
        if reached.contains(module) {
            let circle = reached.into_iter().filter(|name| named.contains(*name));
            let by: Vec<&str> = circle.map(String::as_str).collect();
            faults.push(format!("{module} imports itself, by way of one of {by:?}"));
        }
    }
    faults
}

#[test]
fn modules_make_no_circle() {
    let mut imports = Imports::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    read(&source, None, &mut imports);
    assert!(imports["trainer"].len() > 3, "{imports:?}");
    let faults = faults(&imports);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_circle_is_found() {
    let of = |sources: &[(&str, &str)]| -> Imports {
        let one = |(module, source): &(&str, &str)| ((*module).to_owned(), names(source));
        sources.iter().map(one).collect()
    };
    let ground = ("c", "#[cfg(test)] mod tests { use crate::a::A; }");
    let good = of(&[
        ("a", "use crate::{b::B, c};"),
        ("b", "use crate::c;"),
        ground,
    ]);
    assert_eq!(faults(&good), Vec::<String>::new());
    let own = of(&[("a", "mod inner { use crate::a::A; }")]);
    assert_eq!(faults(&own), Vec::<String>::new());
    let bad = of(&[
        ("a", "use crate::b::B;"),
        ("b", "fn f(x: Vec<crate::c::C>) {}"),
        ("c", "mod inner { use crate::{a}; }"),
    ]);
    assert_eq!(faults(&bad).len(), 3, "{:?}", faults(&bad));
    assert_eq!(faults(&of(&[("a", "use crate::Trainer;")])).len(), 1);
}
