//! The fields of a request: what would change an answer and is not there is refused by name, what
//! changes nothing is taken, and nothing is left out in silence.

use super::served;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::client::{Reply, ask, get, open, post, said, send};

fn raw(address: SocketAddr, path: &str, body: &[u8]) -> Reply {
    open(address, "POST", path, &[], body).whole()
}

/// A body with one more field.
fn with(body: &Value, name: &str, value: &Value) -> Value {
    let mut body = body.clone();
    body[name] = value.clone();
    body
}

#[test]
fn what_would_change_an_answer_and_is_not_there_is_refused_by_name() {
    let (_lab, _server, address) = served();
    let chat = json!({ "messages": [{ "role": "user", "content": "hi" }] });
    let text = json!({ "prompt": "a b", "max_tokens": 2 });
    let unsupported = [
        ("typical_p", json!(0.5)),
        ("xtc_probability", json!(0.5)),
        ("dry_multiplier", json!(0.8)),
        ("mirostat", json!(2)),
        ("dynatemp_range", json!(0.5)),
        ("top_n_sigma", json!(1.0)),
        ("samplers", json!(["top_k"])),
        ("min_keep", json!(3)),
        ("stop_token_ids", json!([5])),
        ("repetition_penalty", json!(1.3)),
        ("min_tokens", json!(5)),
        ("guided_json", json!({})),
        ("guided_regex", json!("a+")),
        ("guided_choice", json!(["a"])),
        ("structured_outputs", json!({})),
        ("chat_template", json!("{{ 1 }}")),
        ("documents", json!([{ "text": "x" }])),
        ("lora_request", json!({ "lora_name": "ticket" })),
        ("reasoning_effort", json!("high")),
        ("best_of", json!(3)),
        ("n", json!(2)),
        ("echo", json!(true)),
        ("suffix", json!("x")),
        ("min_token", json!(5)),
        ("made_up", json!(false)),
    ];
    for path in ["/v1/chat/completions", "/v1/completions", "/completion"] {
        let body = if path.contains("chat") { &chat } else { &text };
        for (name, value) in &unsupported {
            let reply = post(address, path, &with(body, name, value));
            assert_eq!(reply.status, 400, "{path} {name}: {reply:?}");
            let error = reply.error();
            assert!(error.contains(&format!("{name:?}")), "{path}: {error}");
        }
    }
    for (path, body) in [
        ("/tokenize", json!({ "content": "a", "contents": "b" })),
        ("/detokenize", json!({ "tokens": [97], "token": 1 })),
        ("/apply-template", with(&chat, "messages2", &json!([]))),
        (
            "/v1/load_lora_adapter",
            json!({ "lora_name": "a", "lora_path": "b", "scale": 1 }),
        ),
        (
            "/v1/unload_lora_adapter",
            json!({ "lora_name": "a", "force": true }),
        ),
    ] {
        let reply = post(address, path, &body);
        assert_eq!(reply.status, 400, "{path}: {reply:?}");
        assert!(reply.error().contains("unknown field"), "{path}: {reply:?}");
    }
}

#[test]
fn what_changes_nothing_is_taken() {
    let (lab, _server, address) = served();
    let right = &lab.answers(Some(&lab.adapters[0]))[0];
    let body = json!({
        "model": "ticket", "temperature": 0,
        "messages": [{ "role": "user", "content": lab.prompts[0], "name": "me" }],
    });
    for (name, value) in [
        ("keep_alive", json!("5m")),
        ("timings_per_token", json!(true)),
        ("store", json!(false)),
        ("metadata", json!({ "a": "b" })),
        ("user", json!("somebody")),
        ("tools", json!([])),
        ("tools", Value::Null),
        ("tool_choice", json!("none")),
        ("response_format", json!({ "type": "text" })),
        ("mirostat", json!(0)),
        ("mirostat_tau", json!(5.0)),
        ("typical_p", json!(1)),
        ("n", json!(1)),
        ("stop", json!("")),
        ("stop", json!(["", ""])),
        ("seed", json!(u64::MAX)),
        ("seed", json!(-1)),
        ("max_completion_tokens", json!(300.0)),
    ] {
        let reply = post(address, "/v1/chat/completions", &with(&body, name, &value));
        assert_eq!(&said(&reply), right, "{name} {value}");
    }
    let marked = [b"\xef\xbb\xbf", body.to_string().as_bytes()].concat();
    assert_eq!(&said(&raw(address, "/v1/chat/completions", &marked)), right);
}

#[test]
fn a_key_that_stands_twice_is_refused_everywhere() {
    let (_lab, _server, address) = served();
    for (path, body) in [
        ("/v1/completions", r#"{"prompt": "a", "prompt": "b"}"#),
        ("/completion", r#"{"prompt": "a", "seed": 1, "seed": 1}"#),
        (
            "/v1/chat/completions",
            r#"{"messages": [{"role": "user", "content": "a", "content": "b"}]}"#,
        ),
        ("/tokenize", r#"{"content": "a", "content": "b"}"#),
        ("/lora-adapters", r#"[{"id": 0, "scale": 1, "scale": 0}]"#),
        (
            "/v1/adapters",
            r#"{"path": "second.gguf", "path": "ticket.gguf"}"#,
        ),
        (
            "/v1/transfers",
            r#"{"name": "a", "samples": 1, "samples": 2}"#,
        ),
    ] {
        let reply = raw(address, path, body.as_bytes());
        assert_eq!(reply.status, 400, "{path}: {reply:?}");
        assert!(
            reply.error().contains("is there twice"),
            "{path}: {reply:?}"
        );
    }
}

#[test]
fn what_is_of_the_wrong_kind_is_named_by_its_path() {
    let (_lab, _server, address) = served();
    let turn = |content: Value| json!({ "messages": [{ "role": "user", "content": content }] });
    for (body, says) in [
        (turn(json!(3)), "messages[0].content"),
        (
            turn(json!([{ "type": "image_url", "image_url": {} }])),
            "image_url",
        ),
        (
            with(&turn(json!("a")), "stream", &json!("yes")),
            "\"stream\"",
        ),
        (
            with(&turn(json!("a")), "temperature", &json!("hot")),
            "\"temperature\"",
        ),
        (with(&turn(json!("a")), "top_k", &json!(1.5)), "\"top_k\""),
        // A list of the values of an object's fields is no object.
        (json!({ "messages": [["user", "a"]] }), "messages[0]"),
        (turn(json!([["text", "a"]])), "messages[0].content"),
        (
            with(&turn(json!("a")), "stream_options", &json!([true])),
            "\"stream_options\"",
        ),
        (
            with(&turn(json!("a")), "response_format", &json!(["text"])),
            "\"response_format\"",
        ),
        (with(&turn(json!("a")), "stop", &json!([3])), "\"stop\""),
        (
            with(
                &turn(json!("a")),
                "lora",
                &json!([{ "id": -1, "scale": 1 }]),
            ),
            "lora[0].id",
        ),
        (
            with(&turn(json!("a")), "lora", &json!({ "id": 0 })),
            "\"lora\"",
        ),
    ] {
        let reply = post(address, "/v1/chat/completions", &body);
        assert_eq!(reply.status, 400, "{body}: {reply:?}");
        assert!(reply.error().contains(says), "{body}: {}", reply.error());
    }
}

#[test]
fn a_model_that_is_an_adapter_and_a_list_of_adapters_exclude_each_other() {
    let (lab, _server, address) = served();
    let body = |model: &str| {
        json!({
            "model": model, "temperature": 0, "lora": [{ "id": 1, "scale": 1.0 }],
            "messages": [{ "role": "user", "content": lab.prompts[0] }],
        })
    };
    let reply = post(address, "/v1/chat/completions", &body("ticket"));
    assert_eq!(reply.status, 400, "{reply:?}");
    assert!(reply.error().contains("ticket") && reply.error().contains("lora"));
    let reply = post(address, "/v1/chat/completions", &body("base"));
    assert_eq!(said(&reply), lab.answers(Some(&lab.adapters[1]))[0]);
}

/// Of two scales for one adapter, none is chosen in silence.
#[test]
fn an_adapter_has_one_scale_in_a_list() {
    let (_lab, _server, address) = served();
    let twice = json!([{ "id": 0, "scale": 1 }, { "id": 0, "scale": 0.5 }]);
    for (path, body) in [
        ("/lora-adapters", twice.clone()),
        ("/completion", json!({ "lora": twice, "prompt": "a" })),
    ] {
        let reply = post(address, path, &body);
        assert_eq!(reply.status, 400, "{path}: {reply:?}");
        assert!(reply.error().contains("id 0 stands twice"), "{reply:?}");
    }
}

/// Scales that overflow make logits of which no token can be drawn: an error, and no empty answer.
#[test]
fn logits_that_are_not_finite_are_an_error_that_names_the_adapter() {
    let (lab, _server, address) = served();
    let right = &lab.answers(None)[0];
    let mut body = json!({ "lora": [{ "id": 1, "scale": 1e38 }], "prompt": "a b" });
    for path in ["/completion", "/v1/completions"] {
        let reply = post(address, path, &body);
        assert_eq!(reply.status, 500, "{path}: {reply:?}");
        let error = reply.error();
        assert!(error.starts_with("server_error"), "{error}");
        assert!(error.contains("\"second\" (generation 2"), "{error}");
    }
    body["stream"] = json!(true);
    let events = send(address, "/completion", &body).rest();
    assert!(events.len() == 1, "{events:?}");
    assert!(events[0].contains("not finite"), "{events:?}");
    let scales = json!([{ "id": 0, "scale": 1e38 }]);
    assert_eq!(post(address, "/lora-adapters", &scales).status, 200);
    let reply = ask(address, "base", &lab.prompts[0]);
    assert_eq!(reply.status, 500, "{reply:?}");
    assert!(reply.error().contains("\"ticket\""), "{}", reply.error());
    assert_eq!(post(address, "/lora-adapters", &json!([])).status, 200);
    assert_eq!(&said(&ask(address, "base", &lab.prompts[0])), right);
    assert_eq!(get(address, "/health").status, 200);
}
