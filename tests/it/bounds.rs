//! Where bounds are: see `src/record/limits.rs`.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use translora::kit::Kit;
use translora::pipeline;
use translora::{record, serve};

use crate::pipeline::{kit, seeds_plan, sound, stopping, trained};
use crate::source::{files, parse, paths};
use crate::walls::{ROOMS, rows};

/// The names of the fields of a struct, from what `Debug` writes of it.
fn fields(debug: &str) -> BTreeSet<String> {
    debug
        .split([' ', ':', ',', '{', '}'])
        .filter(|word| word.ends_with("_max"))
        .map(str::to_owned)
        .collect()
}

/// Every key of an object in `value`, and of those inside.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| {
            found.insert(key.clone());
            keys(value, found);
        }),
        Value::Array(list) => list.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[test]
fn plans_journals_and_kits_say_what_bounds_a_run_and_nothing_of_serving() {
    let run = fields(&format!("{:?}", record::Limits::default()));
    let serving = fields(&format!("{:?}", serve::Limits::default()));
    assert!(run.len() > 5 && serving.len() > 5, "{run:?} {serving:?}");
    assert!(run.is_disjoint(&serving));

    let (world, lora) = trained();
    let packed = Kit::open(&kit(&world, &lora), &record::Limits::default()).expect("a kit");
    let plan = seeds_plan(&world, &lora, "new.gguf");
    stopping(4, |context| {
        pipeline::transfer(&translora::engine::toy::Toy, &sound(&plan), context)
    })
    .expect_err("it was stopped");
    let journal = fs::read_dir(world.path("new.gguf.journal")).expect("a journal");
    let lines: Vec<String> = journal
        .filter_map(|entry| fs::read_to_string(entry.expect("an entry").path()).ok())
        .collect();
    let journal: Vec<Value> = lines
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let written = [
        ("plan", serde_json::to_value(sound(&plan)).expect("a plan")),
        (
            "kit",
            serde_json::to_value(packed.manifest()).expect("a manifest"),
        ),
        ("journal", Value::Array(journal)),
    ];
    for (what, value) in written {
        let mut found = BTreeSet::new();
        keys(&value, &mut found);
        // A journal holds the hash of its plan.
        assert!(
            what == "journal" || run.is_subset(&found),
            "{what}: {found:?}"
        );
        assert!(serving.is_disjoint(&found), "{what}: {found:?}");
    }
}

/// The room that a file of `src/` lies in.
fn room(file: &str) -> &str {
    let inside = file.trim_start_matches("src/");
    inside
        .split('/')
        .next()
        .unwrap_or(inside)
        .trim_end_matches(".rs")
}

/// Constants `…_MAX` and `…_MIN` that are read in another room than their own. The program may
/// read them: it says in its help what a room takes.
fn shared(file: &str, source: &str) -> Vec<String> {
    let paths = paths(&parse(source));
    let other =
        |name: &str| name != room(file) && rows(ROOMS).iter().any(|(room, _)| *room == name);
    let imported = |name: &str| {
        paths
            .iter()
            .any(|path| path.len() == 2 && path[0] == "crate" && path[1] == name)
    };
    let of_another = |path: &&Vec<String>| {
        let name = path.last().expect("a path has segments");
        (name.ends_with("_MAX") || name.ends_with("_MIN"))
            && match path[0].as_str() {
                "crate" => other(&path[1]),
                first => other(first) && imported(first),
            }
    };
    paths
        .iter()
        .filter(of_another)
        .map(|path| format!("{file}: {}: see src/record/limits.rs", path.join("::")))
        .collect()
}

#[test]
fn a_constant_bounds_its_own_room() {
    let cases = [
        ("src/kit/rows.rs", "use super::ROWS_MAX;", 0),
        ("src/kit/rows.rs", "use crate::kit::{Seed, ROWS_MAX};", 0),
        ("src/filter/mod.rs", "use crate::kit::{Seed, ROWS_MAX};", 1),
        (
            "src/filter/mod.rs",
            "use crate::kit; const X: u8 = kit::rows::ROWS_MIN;",
            1,
        ),
    ];
    for (file, source, found) in cases {
        assert_eq!(shared(file, source).len(), found, "{file}: {source}");
    }
    let mut rooms = files("src", &["rs"]);
    rooms.retain(|(file, _)| room(file) != "bin");
    let found: Vec<String> = rooms
        .iter()
        .flat_map(|(file, source)| shared(file, source))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}
