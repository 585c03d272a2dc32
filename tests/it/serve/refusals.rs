//! What clients get wrong. The server says so, in OpenAI's words, and goes on.

use serde_json::{Value, json};
use translora::serve::Config;
use translora::serve::Limits;

use super::client::{ask, get, open, post, with};
use super::{Lab, endless, serve, served};

#[test]
fn bad_requests_are_refused_by_name() {
    let (lab, _server, address) = served();
    let chat = |more: Value| {
        let body = json!({ "model": "ticket", "messages": [{ "role": "user", "content": "hi" }] });
        post(address, "/v1/chat/completions", &with(body, &more))
    };
    let cases = [
        (json!({ "messages": null }), 400, "messages"),
        (json!({ "messages": [] }), 400, "messages"),
        (json!({ "messages": [{}] }), 400, "role"),
        (
            json!({ "messages": [{ "role": "user", "content": 3 }] }),
            400,
            "content",
        ),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
            400,
            "text",
        ),
        (json!({ "model": "nobody" }), 404, "nobody"),
        (json!({ "temperature": -1 }), 400, "temperature"),
        (json!({ "top_p": 2 }), 400, "top_p"),
        (json!({ "max_tokens": "many" }), 400, "max_tokens"),
        (json!({ "max_tokens": -7 }), 400, "tokens"),
        (json!({ "n": 2 }), 400, "\"n\""),
        (json!({ "stop": ["x".repeat(257)] }), 400, "stop"),
        (json!({ "stop": vec!["x"; 17] }), 400, "stop"),
        (json!({ "tools": [{}] }), 400, "tools"),
        (
            json!({ "response_format": { "type": "json_object" } }),
            400,
            "the toy engine has none",
        ),
        (
            json!({ "response_format": { "type": "xml" } }),
            400,
            "response_format",
        ),
        (
            json!({ "response_format": { "type": "json_schema", "json_schema": {} } }),
            400,
            "has no",
        ),
        (
            json!({ "json_schema": { "type": "string", "pattern": "a+" } }),
            400,
            "\"pattern\"",
        ),
        (
            json!({ "grammar": "root ::= \"a\"", "json_schema": {} }),
            400,
            "exclude each other",
        ),
        (
            json!({ "grammar": "x".repeat(200_000) }),
            400,
            "131072 bytes",
        ),
        (json!({ "tool_choice": "required" }), 400, "tool_choice"),
        (
            json!({ "tools": [{ "type": "browser", "function": { "name": "x" } }] }),
            400,
            "browser",
        ),
        (
            json!({ "tools": [{ "type": "function", "function": { "name": "x" } }], "json_schema": {} }),
            400,
            "exclude each other",
        ),
        (json!({ "logprobs": true, "top_logprobs": 101 }), 400, "100"),
        (json!({ "logit_bias": { "100000": 1 } }), 400, "logit_bias"),
        (
            json!({ "model": "base", "lora": [{ "id": 7, "scale": 1 }] }),
            400,
            "7",
        ),
        (json!({ "stream": "yes" }), 400, "stream"),
    ];
    for (more, status, says) in cases {
        let reply = chat(more.clone());
        assert_eq!(reply.status, status, "{more}: {reply:?}");
        assert!(reply.error().contains(says), "{more}: {}", reply.error());
    }
    let raw =
        |method: &str, path: &str, body: &[u8]| open(address, method, path, &[], body).whole();
    assert_eq!(
        raw("POST", "/v1/chat/completions", b"{\"messages\": ").status,
        400
    );
    assert_eq!(raw("POST", "/v1/chat/completions", b"\xff\xfe").status, 400);
    assert_eq!(raw("POST", "/v1/completions", b"[]").status, 400);
    assert_eq!(raw("GET", "/v1/completions", b"").status, 405);
    for (path, says) in [
        ("/v2/completions", "GET /openapi.json lists those there are"),
        ("/v1/embeddings", "GET /openapi.json lists those there are"),
        ("/v1/models/", "is /v1/models meant?"),
        ("//v1/completions", "is /v1/completions meant?"),
    ] {
        let said = format!("not_found_error: there is no such path: {says}");
        assert_eq!(raw("GET", path, b"").error(), said);
    }
    for (body, says) in [
        (&b"\x1f\x8b\x08\0"[..], "gzip"),
        (b"\xff\xfe{\0}\0", "UTF-16"),
    ] {
        let reply = raw("POST", "/v1/completions", body);
        assert_eq!(reply.status, 400, "{reply:?}");
        assert!(reply.error().contains(says), "{}", reply.error());
    }
    assert_eq!(
        post(address, "/v1/completions", &json!({ "prompt": "" })).status,
        400
    );
    assert_eq!(
        post(
            address,
            "/v1/completions",
            &json!({ "prompt": [1, 2, 999_999] })
        )
        .status,
        400
    );
    let (_other, without) = serve(Config {
        folder: None,
        ..lab.config()
    });
    for (path, body) in [
        ("/v1/transfers", json!({ "name": "x" })),
        ("/v1/adapters", json!({ "path": "second.gguf" })),
    ] {
        let reply = post(without, path, &body);
        assert_eq!(reply.status, 403, "{reply:?}");
        assert!(reply.error().contains("adapters"), "{reply:?}");
    }
    lab.check(address, "ticket", Some(0));
}

#[test]
fn what_is_too_long_is_refused_with_the_bound() {
    let (lab, _server, address) = served();
    let reply = ask(address, "ticket", &"x".repeat(5000));
    let error = reply.json()["error"].clone();
    assert_eq!(reply.status, 400);
    assert_eq!(error["type"], "exceed_context_size_error");
    assert_eq!(error["code"], "context_length_exceeded");
    assert_eq!(error["n_ctx"], 1024);
    assert_eq!(error["n_prompt_tokens"].as_u64(), Some(5000 + 18));
    let huge = format!("{{\"prompt\": \"{}\"}}", "x".repeat(10 << 20));
    let reply = open(address, "POST", "/v1/completions", &[], huge.as_bytes()).whole();
    assert_eq!(reply.status, 413);
    lab.check(address, "ticket", Some(0));
}

#[test]
fn nobody_is_answered_without_the_key() {
    let lab = Lab::new();
    let (_server, address) = serve(Config {
        api_keys: vec!["right".into()],
        ..lab.config()
    });
    let with = |headers: &[(&str, &str)]| open(address, "GET", "/v1/models", headers, b"").whole();
    for headers in [
        &[][..],
        &[("Authorization", "Bearer wrong")],
        &[("Authorization", "Bearer righ")],
        &[("Authorization", "right")],
    ] {
        let reply = with(headers);
        assert_eq!(reply.status, 401, "{headers:?}");
        assert_eq!(
            reply.json()["error"]["type"],
            "authentication_error",
            "{headers:?}"
        );
    }
    assert_eq!(with(&[("Authorization", "Bearer right")]).status, 200);
    assert_eq!(with(&[("X-Api-Key", "right")]).status, 200);
    assert_eq!(get(address, "/health").status, 200);
    assert_eq!(
        post(address, "/v1/adapters/ticket/rollback", &json!({})).status,
        401
    );
    assert_eq!(post(address, "/lora-adapters", &json!([])).status, 401);
}

#[test]
fn only_the_pages_that_were_named_may_ask() {
    let lab = Lab::new();
    let page = ("Origin", "http://page.example");
    let asks = [page, ("Access-Control-Request-Method", "POST")];
    let (_server, address) = serve(lab.config());
    let refused = open(address, "OPTIONS", "/v1/completions", &asks, b"").whole();
    assert_eq!(
        (
            refused.status,
            refused.header("access-control-allow-origin")
        ),
        (403, "")
    );
    // What a page sends without asking first, and a name that was made to point at this machine.
    let unload = json!({ "lora_name": "ticket" }).to_string();
    let plain = ("Content-Type", "text/plain");
    let (evil, named) = (("Host", "evil.example"), ("Host", "localhost"));
    for (headers, status) in [
        (vec![page, plain, named], 403),
        (vec![evil], 403),
        (vec![evil, ("Origin", "http://evil.example")], 403),
        (vec![plain], 415),
    ] {
        let path = "/v1/unload_lora_adapter";
        let reply = open(address, "POST", path, &headers, unload.as_bytes()).whole();
        assert_eq!(reply.status, status, "{headers:?}: {reply:?}");
        let models = get(address, "/v1/models").body;
        assert!(models.contains("ticket"), "{headers:?}: {models}");
    }
    let (_server, address) = serve(Config {
        origins: vec!["http://page.example".into()],
        ..lab.config()
    });
    let reply = open(address, "OPTIONS", "/v1/completions", &asks, b"").whole();
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.header("access-control-allow-origin"),
        "http://page.example"
    );
    assert!(
        reply
            .header("access-control-allow-headers")
            .contains("authorization")
    );
    let other = open(
        address,
        "GET",
        "/health",
        &[("Origin", "http://other.example")],
        b"",
    )
    .whole();
    assert_eq!(other.status, 403);
    assert_eq!(other.header("access-control-allow-origin"), "");
}

#[test]
fn a_full_queue_says_so() {
    let lab = Lab::new();
    let limits = Limits {
        requests_queued_max: 1,
        ..Limits::default()
    };
    let (_server, address) = serve(Config {
        slots: 1,
        limits,
        context: 4 << 20,
        ..lab.config()
    });
    let mut running = endless(address, "base");
    running.events().expect("it has begun");
    let waiting = endless(address, "base");
    let refused = ask(address, "ticket", &lab.prompts[0]);
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["error"]["type"], "unavailable_error");
    drop((running, waiting));
    // The server notices within moments that both have gone.
    let answered = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        ask(address, "ticket", &lab.prompts[0]).status == 200
    });
    assert!(answered, "the queue stays full");
}
