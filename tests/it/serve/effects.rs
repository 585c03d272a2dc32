//! What a load says of an adapter, and what it wants to be so: how far the adapter moves answers, on
//! which base and in the place of which generation it goes live.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use translora::engine::toy::Toy;
use translora::record::SystemClock;
use translora::serve::{Config, Server};
use translora_gguf::{Gguf, Writer};

use super::client::{get, post, with};
use super::{Lab, endless, serve, served};

/// A copy of an adapter whose B is so small that it changes no logit: sound, and of no use.
fn faint(adapter: &Path) -> Vec<u8> {
    let bytes = fs::read(adapter).expect("it was written");
    let gguf = Gguf::parse(&bytes).expect("a whole file");
    let mut writer = Writer::copy_of(&gguf);
    writer.retain_tensors(|tensor| {
        if tensor.name.ends_with("lora_b") {
            for four in tensor.bytes().chunks_exact_mut(4) {
                let number = f32::from_le_bytes(four.try_into().expect("four bytes"));
                four.copy_from_slice(&(number * 1e-30).to_le_bytes());
            }
        }
        true
    });
    writer.to_bytes().expect("a small file")
}

#[test]
fn a_load_says_how_far_answers_move_and_refuses_what_moves_none() {
    let lab = Lab::new();
    fs::write(lab.world.path("faint.gguf"), faint(&lab.adapters[0])).expect("writable");
    let (_server, address) = serve(lab.config());
    let moved = |live: &Value| {
        let effect = |of: &str| live["effect"][of].as_f64().expect("a number");
        effect("logits") > 0.0 && effect("probabilities") > 0.0
    };
    let load = json!({ "name": "task", "path": "second.gguf" });
    let loaded = post(address, "/v1/adapters", &load).json();
    assert!(moved(&loaded["live"]), "{loaded}");
    let list = get(address, "/v1/adapters").json();
    for adapter in list["data"].as_array().expect("a list") {
        assert!(moved(&adapter["live"]), "{adapter}");
    }
    // The folder has it, too.
    let refused = &list["refused"][0];
    let reason = refused["reason"].as_str().expect("text");
    assert!(
        reason.starts_with("faint.gguf changes no answer"),
        "{reason}"
    );
    let ways = [
        (
            "/v1/adapters",
            json!({ "name": "faint", "path": "faint.gguf" }),
        ),
        (
            "/v1/load_lora_adapter",
            json!({ "lora_name": "faint", "lora_path": "faint.gguf", "load_inplace": true }),
        ),
    ];
    // While all slots are taken, and without a word to those that go on.
    let streams: Vec<_> = (0..4).map(|_| endless(address, "ticket")).collect();
    for (path, body) in &ways {
        let reply = post(address, path, body);
        assert_eq!(reply.status, 400, "{path}: {reply:?}");
        assert!(
            reply.error().contains("changes no answer"),
            "{path}: {reply:?}"
        );
        assert_eq!(get(address, "/v1/models/faint").status, 400);
    }
    for (path, body) in &ways {
        let mut body = body.clone();
        body["force"] = json!(true);
        assert_eq!(post(address, path, &body).status, 200, "{path}");
    }
    let shown = get(address, "/v1/adapters").json();
    let all = shown["data"].as_array().expect("a list");
    let faint = all
        .iter()
        .find(|one| one["name"] == "faint")
        .expect("it is live");
    let none = json!({ "logits": 0.0, "probabilities": 0.0 });
    assert_eq!(faint["live"]["effect"], none);
    drop(streams);
}

#[test]
fn what_moves_no_answer_ends_the_start_unless_that_is_wanted() {
    let lab = Lab::new();
    let file = lab.world.path("faint.gguf");
    fs::write(&file, faint(&lab.adapters[0])).expect("writable");
    let start = |force: bool| {
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&said);
        let config = Config {
            adapters: vec![("faint".into(), file.clone(), 1.0)],
            folder: None,
            force,
            ..lab.config()
        };
        let say = Arc::new(move |line: &str| heard.lock().expect("unpoisoned").push(line.into()));
        let started = Server::start(&Toy, config, Arc::new(SystemClock::default()), say);
        let said = said.lock().expect("unpoisoned").join("\n");
        (started.map(drop).map_err(|error| error.to_string()), said)
    };
    let (started, _) = start(false);
    let error = started.expect_err("it is refused");
    assert!(error.contains("faint.gguf changes no answer"), "{error}");
    let (started, said) = start(true);
    assert!(started.is_ok(), "{said}");
    assert!(said.contains("changes no answer"), "{said}");
}

#[test]
fn a_load_goes_live_where_it_is_meant_to() {
    let (_lab, _server, address) = served();
    for (more, status, says) in [
        (json!({ "base_model_name": "other" }), 400, "\"base\""),
        (
            json!({ "expected_generation": 7 }),
            409,
            "generation 1, and not by 7",
        ),
        (json!({ "expected_generation": "0" }), 409, "not by 0"),
        (
            json!({ "expected_generation": "1+2" }),
            400,
            "number of one load",
        ),
        (json!({ "expected": 1 }), 400, "expected"),
        (
            json!({ "base_model_name": "base", "expected_generation": "1" }),
            200,
            "",
        ),
        (json!({ "expected_generation": 1 }), 409, "generation 3"),
        (
            json!({ "name": "fresh", "expected_generation": 0 }),
            200,
            "",
        ),
        (json!({}), 200, ""),
    ] {
        let body = with(json!({ "name": "ticket", "path": "second.gguf" }), &more);
        let reply = post(address, "/v1/adapters", &body);
        assert_eq!(reply.status, status, "{more}: {reply:?}");
        assert!(
            status == 200 || reply.error().contains(says),
            "{more}: {reply:?}"
        );
    }
}
