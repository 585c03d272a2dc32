//! Who may know whom. Reads the source and `cargo metadata`, and fails on any edge that the plan of
//! the house does not have.

use std::path::Path;
use std::process::Command;

use crate::source::{files, parse, paths, root};

/// Room → what it may import from other rooms: a whole room, or one noun of it.
pub const ROOMS: &str = "
record:
request:  record
fetch:    record
engine:   record request::Machine request::Shape
kit:      record request::Learn request::RowFormat engine
generate: record engine kit::Seed
filter:   record engine generate::Candidate
label:    record request::TokenWeights engine filter::Kept
distill:  record request engine label::Labeled
evaluate: record engine distill::Trained
publish:  record engine evaluate::Passed
pipeline: record request engine kit generate filter label distill evaluate publish
jobs:     record request engine pipeline
adapters: record engine kit
plugin:   record request engine pipeline jobs adapters control
control:  record request pipeline jobs
serve:    record request engine jobs control adapters
bin:      record request fetch engine pipeline jobs control serve
";

/// Crate → the places (by the start of the path) that may name it. A dependency that is not here is
/// refused.
const CRATES: &str = "
serde:               src/
serde_json:          src/
csv:                 src/kit/
thiserror:           src/
sha2:                src/record/
rand_chacha:         src/record/
crossbeam_channel:   src/pipeline/ src/jobs/ src/bin/
rustix:              src/jobs/ src/serve/backend.rs src/control/
                     src/bin/translora/attach.rs src/engine/renderer.rs
unicode_properties:  src/filter/
unicode_script:      src/filter/
clap:                src/bin/
serde_path_to_error: src/serve/http/body
strsim:              src/serve/http/body
indicatif:           src/bin/
hf_hub:              src/fetch/
ureq:                src/fetch/
object:              src/bin/translora/elf.rs
shlex:               src/bin/
signal_hook:         src/bin/translora/job.rs
axum:                src/serve/ src/control/
futures_util:        src/serve/ src/control/
http_body_util:      src/control/door.rs
hyper:               src/control/door.rs
hyper_util:          src/control/door.rs
tokio:               src/serve/ src/control/
tower:               src/control/door.rs
tower_http:          src/serve/ src/control/
tracing:             src/serve/ src/control/ src/bin/translora/log.rs
tracing_subscriber:  src/bin/translora/log.rs
prometheus_client:   src/serve/
utoipa:              src/serve/ src/control/
utoipa_axum:         src/serve/ src/control/
num_cpus:            src/engine/ggml src/bin/translora/doctor
translora_abi:       src/plugin.rs src/lib.rs src/bin/translora/doctor src/bin/translora/worker
translora_attach:    src/plugin.rs src/lib.rs src/control/
translora_chat:      src/engine/
translora_gguf:      src/kit/ src/adapters/ src/publish/ src/pipeline/ src/engine/ src/fetch/
translora_lora:      src/kit/ src/adapters/ src/engine/ src/pipeline/inspect
translora_harvest:   src/kit/ src/serve/ src/bin/
translora_llama:     src/engine/ggml
translora_system:    src/jobs/ src/engine/renderer.rs src/bin/translora/doctor
                     src/bin/translora/main.rs
translora_train:     src/engine/ggml
";

/// Where `std::fs` may be named: who reads inputs, who writes outputs, who keeps the journal, who
/// opens models, and the program.
const FILES: &[&str] = &[
    "src/kit/",
    "src/publish/",
    "src/pipeline/journal",
    "src/engine/",
    "src/fetch/",
    "src/bin/",
    "src/jobs/worker",
    "src/control/inputs",
    "src/serve/folder",
    "src/serve/state",
];

/// Workspace member → members it may depend on (development and build dependencies too).
const MEMBERS: &str = "
translora:        translora-abi translora-attach translora-chat translora-gguf translora-harvest
                  translora-llama translora-lora translora-system translora-train
translora-abi:
translora-attach: translora-gguf translora-harvest translora-lora
translora-chat:
translora-gguf:
translora-harvest:
translora-llama:  translora-chat translora-gguf translora-lora
translora-lora:   translora-gguf
translora-system:
translora-train:  translora-gguf translora-llama
";

/// What stands at the left of a table, and what at the right; a line that begins with blanks goes on
/// with the one before.
pub fn rows(table: &str) -> Vec<(&str, Vec<&str>)> {
    let mut rows: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in table.trim().lines() {
        let (name, may) = line.split_once(": ").unwrap_or((line, ""));
        match rows.last_mut() {
            Some((_, more)) if line.starts_with(' ') => more.extend(line.split_whitespace()),
            _ => rows.push((name.trim_end_matches(':'), may.split_whitespace().collect())),
        }
    }
    rows
}

/// The room that a file of `src/` lies in; none for `lib.rs`, the map.
fn room(file: &str) -> Option<&str> {
    let inside = file.strip_prefix("src/")?;
    let name = inside.split('/').next()?.trim_end_matches(".rs");
    (name != "lib").then_some(name)
}

fn starts(file: &str, places: &[&str]) -> bool {
    places.iter().any(|place| file.starts_with(place))
}

/// Every broken rule of one file of `src/`.
fn broken(file: &str, source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for path in paths(&parse(source)) {
        let first = path[0].as_str();
        let edge = match first {
            "crate" | "super" if !file.starts_with("src/bin/") => &path[1..],
            "translora" => &path[1..],
            _ => &[],
        };
        if path.len() > 1 && path[0] == "super" && path[1] == "super" {
            found.push(format!(
                "{file}: super::super: name another room by `crate::`"
            ));
        }
        if edge.first().is_some_and(|to| to == "*" || to == "self") && first != "super" {
            found.push(format!(
                "{file}: the house is imported room by room, not as {}",
                path.join("::")
            ));
        }
        if let (Some(room), Some(to)) = (room(file), edge.first())
            && rows(ROOMS).iter().any(|(name, _)| name == to)
            && room != to
            && !allowed(room, edge)
        {
            found.push(format!("{file}: {room} may not import {}", edge.join("::")));
        }
        if let Some((_, places)) = rows(CRATES).iter().find(|(name, _)| *name == first)
            && !starts(file, places)
        {
            found.push(format!("{file}: may not name the crate {first}"));
        }
        if first == "std" && path[1] == "fs" && !starts(file, FILES) {
            found.push(format!("{file}: may not touch files (std::fs)"));
        }
    }
    found
}

fn allowed(room: &str, edge: &[String]) -> bool {
    let (_, may) = rows(ROOMS)
        .into_iter()
        .find(|(name, _)| *name == room)
        .unwrap_or_else(|| panic!("{room} is not a room in the table above"));
    let noun = edge
        .iter()
        .take(2)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join("::");
    may.iter().any(|m| *m == edge[0] || *m == noun)
}

#[test]
fn rooms_import_what_the_plan_says() {
    let found: Vec<String> = files("src", &["rs"])
        .iter()
        .flat_map(|(file, source)| broken(file, source))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_room_is_in_the_table() {
    for (file, _) in files("src", &["rs"]) {
        let known =
            room(&file).is_none_or(|name| rows(ROOMS).iter().any(|(known, _)| *known == name));
        assert!(known, "{file}: say in ROOMS what this room may import");
    }
}

#[test]
fn crates_depend_on_what_the_plan_says() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    let output = command
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output();
    let output = output.expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let found =
        broken_members(&serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON"));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn broken_members(metadata: &serde_json::Value) -> Vec<String> {
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for package in list(&metadata["packages"]) {
        let name = text(&package["name"]);
        let members = rows(MEMBERS);
        let Some((_, may)) = members.iter().find(|(member, _)| *member == name) else {
            found.push(format!(
                "{name}: say in MEMBERS what this crate may depend on"
            ));
            continue;
        };
        for dependency in list(&package["dependencies"]) {
            let to = text(&dependency["name"]);
            if to.starts_with("translora") && to != name && !may.contains(&to.as_str()) {
                found.push(format!("{name} may not depend on {to}"));
            }
            if to.starts_with("llama-cpp") && name != "translora-llama" {
                found.push(format!(
                    "{name} may not depend on {to}: llama.cpp is behind translora-llama"
                ));
            }
            if name == "translora"
                && dependency["kind"].is_null()
                && !rows(CRATES)
                    .iter()
                    .any(|(known, _)| *known == to.replace('-', "_"))
            {
                found.push(format!("{name}: say in CRATES who may name {to}"));
            }
        }
        let in_ffi = Path::new(&text(&package["manifest_path"]))
            .strip_prefix(root())
            .is_ok_and(|path| path.starts_with("ffi"));
        let builds = list(&package["targets"]).iter().any(|target| {
            list(&target["kind"])
                .iter()
                .any(|kind| kind == "custom-build")
        });
        if builds && !in_ffi {
            found.push(format!(
                "{name} may not have a build script: only crates under ffi/ meet C"
            ));
        }
    }
    found
}

#[test]
fn each_rule_can_fail() {
    let bad = [
        ("src/record/x.rs", "use crate::engine::Model;"),
        ("src/generate/mod.rs", "use crate::kit::{Seed, open};"),
        ("src/generate/mod.rs", "fn f(x: crate::filter::Kept) {}"),
        ("src/label/mod.rs", "use crate::generate::Candidate;"),
        ("src/kit/mod.rs", "use super::pipeline::Plan;"),
        ("src/kit/mod.rs", "use super::super::publish;"),
        ("src/publish/mod.rs", "use crate::evaluate::{self};"),
        ("src/publish/mod.rs", "use crate::*;"),
        ("src/publish/mod.rs", "use crate::{self as house};"),
        ("src/bin/translora/main.rs", "use translora::kit::Seed;"),
        ("src/plugin.rs", "use crate::kit::Seed;"),
        ("src/engine/toy/mod.rs", "use translora_llama::Model;"),
        ("src/filter/mod.rs", "use translora_gguf::read;"),
        ("src/pipeline/mod.rs", "use translora_abi::Status;"),
        ("src/serve/backend.rs", "use translora_abi::Status;"),
        ("src/control/mod.rs", "use crate::serve::Config;"),
        ("src/pipeline/run.rs", "use std::{fs, io};"),
        ("src/kit/mod.rs", "use clap::Args;"),
    ];
    for (file, source) in bad {
        assert_eq!(
            broken(file, source).len(),
            1,
            "{file}: {source}: {:?}",
            broken(file, source)
        );
    }
    let good = [
        (
            "src/generate/mod.rs",
            "use crate::kit::Seed; use crate::record::{Rng, Pair}; // use crate::filter::Kept;",
        ),
        (
            "src/pipeline/journal.rs",
            "use std::fs::File; use crate::kit; use std::time::Duration;",
        ),
        (
            "src/kit/mod.rs",
            "use super::file; mod tests { use super::*; }",
        ),
        (
            "src/bin/translora/main.rs",
            "use crate::kit::Kit; use translora::pipeline;",
        ),
        ("src/lib.rs", "translora_abi::export!(plugin::Instance);"),
        ("src/engine/ggml.rs", "use translora_llama::Model;"),
    ];
    for (file, source) in good {
        assert_eq!(
            broken(file, source),
            Vec::<String>::new(),
            "{file}: {source}"
        );
    }
    let metadata = serde_json::json!({"packages": [
        {"name": "translora-gguf", "dependencies": [{"name": "translora-llama"}], "targets": [{"kind": ["custom-build"]}], "manifest_path": "x"},
        {"name": "translora", "dependencies": [{"name": "anyhow"}, {"name": "llama-cpp-2"}], "targets": [], "manifest_path": "x"},
        {"name": "stranger", "dependencies": [], "targets": [], "manifest_path": "x"},
    ]});
    assert_eq!(
        broken_members(&metadata).len(),
        6,
        "{:?}",
        broken_members(&metadata)
    );
}
