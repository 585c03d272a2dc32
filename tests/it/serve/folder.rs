//! The folder of adapters: what lies there answers under one rule for names, whatever else does.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use translora::engine::toy::Toy;
use translora::record::SystemClock;
use translora::serve::{Config, Limits, Server};

use super::client::{ask, get, post, said};
use super::{Lab, serve, served};

/// Reasons by file name, as `/v1/adapters` lists them.
fn left_out(list: &Value) -> Vec<(String, String)> {
    let refused = list["refused"].as_array().expect("a list");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let one = |row: &Value| {
        let path = text(&row["path"]);
        let file = path.rsplit('/').next().expect("a name").to_owned();
        (file, text(&row["reason"]))
    };
    refused.iter().map(one).collect()
}

#[test]
fn files_that_are_no_adapters_are_left_out_and_listed_and_the_rest_answers() {
    let lab = Lab::new();
    let folder = lab.world.path("served");
    fs::create_dir(&folder).expect("writable");
    let [first, second] = &lab.adapters;
    fs::copy(first, folder.join("my task, v2.gguf")).expect("writable");
    symlink(second, folder.join("link.gguf")).expect("writable");
    symlink(folder.join("nowhere"), folder.join("dangling.gguf")).expect("writable");
    fs::write(folder.join("cut.gguf"), b"GGUF").expect("writable");
    fs::copy(&lab.world.source, folder.join("model.gguf")).expect("writable");
    fs::copy(first, folder.join("base.gguf")).expect("writable");
    fs::copy(first, folder.join(" blank.gguf")).expect("writable");
    fs::copy(first, folder.join(OsStr::from_bytes(b"caf\xe9.gguf"))).expect("writable");
    fs::copy(first, folder.join("ticket.gguf")).expect("writable");
    fs::copy(first, folder.join("zzz.gguf")).expect("writable");
    let (_server, address) = serve(Config {
        folder: Some(folder.clone()),
        limits: Limits {
            adapters_max: 4,
            ..Limits::default()
        },
        ..lab.config()
    });
    let list = get(address, "/v1/adapters").json();
    let names: Vec<&str> = list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|adapter| adapter["name"].as_str())
        .collect();
    assert_eq!(names, ["ticket", "second", "link", "my task, v2"]);
    let left = left_out(&list);
    for (file, says) in [
        ("dangling.gguf", "No such file"),
        ("cut.gguf", ""),
        ("model.gguf", ""),
        ("base.gguf", "the name of the base"),
        (" blank.gguf", "white space"),
        ("caf\u{fffd}.gguf", "not UTF-8"),
        ("ticket.gguf", "another file is served"),
        ("zzz.gguf", "4 adapters are loaded already"),
    ] {
        let found = left.iter().find(|(name, _)| name == file);
        let (_, reason) = found.unwrap_or_else(|| panic!("{file} is not in {left:?}"));
        assert!(reason.contains(says), "{file}: {reason}");
    }
    assert_eq!(left.len(), 8, "{left:?}");
    for path in ["/v1/models", "/lora-adapters", "/props"] {
        assert_eq!(get(address, path).status, 200, "{path}");
    }
    assert_eq!(
        said(&ask(address, "my task, v2", &lab.prompts[0])),
        lab.answers(Some(first))[0]
    );
    assert_eq!(
        said(&ask(address, "link", &lab.prompts[0])),
        lab.answers(Some(second))[0]
    );
    // A link is loaded over HTTP as it is at the start, and so is the path that a list shows.
    let shown = get(address, "/v1/models/link").json()["root"].clone();
    for path in [json!("link.gguf"), shown] {
        let body = json!({ "lora_name": "link", "lora_path": path, "load_inplace": true });
        let reply = post(address, "/v1/load_lora_adapter", &body);
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
    }
}

#[test]
fn a_file_that_is_new_in_the_folder_is_found_when_it_is_named() {
    let (lab, _server, address) = served();
    let right = lab.answers(Some(&lab.adapters[1]));
    let ask_new = || ask(address, "new", &lab.prompts[0]);
    assert_eq!(ask_new().status, 404);
    fs::copy(&lab.adapters[1], lab.world.path("new.gguf")).expect("writable");
    let shown = get(address, "/v1/models/new").json();
    assert_eq!(shown["translora"]["generation"], "3", "{shown}");
    let replies: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(ask_new)).collect();
        all.into_iter()
            .map(|one| one.join().expect("it is answered"))
            .collect()
    });
    for reply in replies {
        assert_eq!((said(&reply), reply.generation()), (right[0].clone(), "3"));
    }
    // One that was unloaded does not come back by itself.
    let unload = json!({ "lora_name": "new" });
    assert_eq!(
        post(address, "/v1/unload_lora_adapter", &unload).status,
        200
    );
    assert_eq!(ask_new().status, 404);
    let load = json!({ "lora_name": "new", "lora_path": "new.gguf" });
    assert_eq!(post(address, "/v1/load_lora_adapter", &load).status, 200);
    assert_eq!(said(&ask_new()), right[0]);
    fs::write(lab.world.path("cut.gguf"), b"GGUF").expect("writable");
    let reply = ask(address, "cut", &lab.prompts[0]);
    assert_eq!(reply.status, 400, "{reply:?}");
    assert!(reply.error().contains("cut.gguf"), "{reply:?}");
    assert_eq!(ask(address, "../cut", &lab.prompts[0]).status, 404);
}

#[test]
fn one_rule_for_names_at_the_start_and_over_http() {
    let (lab, _server, address) = served();
    let long = "x".repeat(129);
    for (name, fits) in [
        ("my task, v2", true),
        ("Überweisung", true),
        ("task@1", true),
        ("", false),
        (" ", false),
        ("a\nb", false),
        ("a\0b", false),
        ("a/b", false),
        (".hidden", false),
        (long.as_str(), false),
        ("base", false),
    ] {
        let status = if fits { 200 } else { 400 };
        let vllm = json!({ "lora_name": name, "lora_path": "second.gguf" });
        let reply = post(address, "/v1/load_lora_adapter", &vllm);
        assert_eq!(reply.status, status, "{name:?}: {reply:?}");
        let reply = post(
            address,
            "/v1/adapters",
            &json!({ "name": name, "path": "second.gguf" }),
        );
        assert_eq!(reply.status, status, "{name:?}: {reply:?}");
        let config = Config {
            adapters: vec![(name.into(), lab.adapters[0].clone(), 1.0)],
            folder: None,
            ..lab.config()
        };
        let clock = std::sync::Arc::new(SystemClock::default());
        let started = Server::start(&Toy, config, clock, std::sync::Arc::new(|_: &str| {}));
        assert_eq!(started.is_ok(), fits, "{name:?}");
    }
}

#[test]
fn a_base_and_a_folder_whose_paths_are_not_utf8_are_served() {
    let lab = Lab::new();
    let folder = lab.world.path("").join(OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&folder).expect("writable");
    let model = folder.join("model.bin");
    fs::copy(&lab.world.source, &model).expect("writable");
    fs::copy(&lab.adapters[0], folder.join("task.gguf")).expect("writable");
    let (_server, address) = serve(Config {
        model,
        folder: Some(folder),
        ..lab.config()
    });
    for path in ["/v1/models", "/lora-adapters", "/v1/adapters", "/props"] {
        let reply = get(address, path);
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        assert!(reply.body.contains("caf\u{fffd}"), "{path}: {reply:?}");
    }
    lab.check(address, "task", Some(0));
}

#[test]
fn no_error_tells_where_files_lie() {
    let lab = Lab::new();
    let folder = lab.config().folder.expect("it has one");
    fs::write(folder.join("page.gguf"), "<html>not found</html>").expect("writable");
    let (_server, address) = serve(lab.config());
    let body = json!({ "lora_name": "page", "lora_path": "page.gguf" });
    let reply = post(address, "/v1/load_lora_adapter", &body);
    let error = reply.error();
    assert_eq!(reply.status, 400, "{error}");
    assert!(error.contains(": page.gguf: "), "{error}");
    assert!(error.contains("a web page"), "{error}");
    assert!(
        !reply.body.contains(&folder.display().to_string()),
        "{}",
        reply.body
    );
}
