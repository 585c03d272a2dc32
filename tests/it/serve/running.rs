//! What a server shows of itself, and how it ends while clients ask.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use translora::serve::Config;
use translora::serve::Limits;

use super::client::{ask, get, metric, open, post, said};
use super::{Lab, endless, serve};

#[test]
fn the_counters_tell_what_was_done() {
    let lab = Lab::new();
    let (_server, address) = serve(Config {
        slots: 1,
        context: 4 << 20,
        ..lab.config()
    });
    let reply = get(address, "/metrics");
    let media = reply.header("content-type");
    assert!(
        media.starts_with("application/openmetrics-text"),
        "{reply:?}"
    );
    let (lines, end) = reply.body.split_at(reply.body.len() - 6);
    assert_eq!(end, "# EOF\n");
    let (mut names, mut family, mut kind) = (HashSet::new(), "", "");
    for line in lines.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            (family, kind) = rest.split_once(' ').expect("a name and a type");
            assert!(names.insert(family), "{family} is there twice");
            let reference = include_str!("../../../docs/reference/http.md");
            assert!(reference.contains(&format!("`{family}`")), "{family}");
        } else if !line.starts_with("# HELP ") {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            let sample = name.strip_prefix(family).unwrap_or("another's");
            // What only grows is called so.
            let suffix = if kind == "counter" { "_total" } else { "" };
            let right = sample == suffix || sample.starts_with('{');
            assert!(right && value.parse::<f64>().is_ok(), "{line}");
        }
    }
    let done = post(
        address,
        "/completion",
        &json!({ "prompt": "a b", "n_predict": 4 }),
    )
    .json();
    assert_eq!(done["tokens_predicted"], 4);
    let counted = [
        "llamacpp:prompt_tokens_total",
        "llamacpp:tokens_predicted_total",
        "translora:requests_done_total",
        "translora:adapters",
    ];
    assert_eq!(
        counted.map(|name| metric(address, name)),
        [3.0, 4.0, 1.0, 2.0]
    );
    let mut running = endless(address, "base");
    running.events().expect("it has begun");
    let waiting = thread::spawn(move || endless(address, "base"));
    let began = Instant::now();
    while metric(address, "llamacpp:requests_deferred") < 1.0 {
        assert!(began.elapsed() < Duration::from_secs(30), "nobody waits");
    }
    assert_eq!(metric(address, "llamacpp:requests_processing"), 1.0);
    drop(running);
    drop(waiting.join().expect("it was answered"));
}

#[test]
fn answers_are_counted_by_adapter_and_generation_as_gateways_read_them() {
    let lab = Lab::new();
    let (_server, address) = serve(Config {
        slots: 1,
        context: 4 << 20,
        ..lab.config()
    });
    ask(address, "ticket", &lab.prompts[0]);
    ask(address, "ticket", &lab.prompts[1]);
    ask(address, "base", &lab.prompts[0]);
    for (name, count) in [
        (
            "adapter_requests_total{adapter=\"ticket\",generation=\"1\"}",
            2.0,
        ),
        (
            "adapter_requests_total{adapter=\"base\",generation=\"0\"}",
            1.0,
        ),
        (
            "time_to_first_token_seconds_count{adapter=\"ticket\",generation=\"1\"}",
            2.0,
        ),
        (
            "request_seconds_count{adapter=\"ticket\",generation=\"1\"}",
            2.0,
        ),
    ] {
        assert_eq!(
            metric(address, &format!("translora:{name}")),
            count,
            "{name}"
        );
    }
    let info = |running: &str, waiting: &str| {
        let labels = format!(
            "running_lora_adapters=\"{running}\",waiting_lora_adapters=\"{waiting}\",max_lora=\"64\""
        );
        get(address, "/metrics")
            .body
            .contains(&format!("vllm:lora_requests_info{{{labels}}} "))
    };
    assert!(info("", ""));
    let mut running = endless(address, "second");
    running.events().expect("it has begun");
    let waiting = thread::spawn(move || endless(address, "ticket"));
    let began = Instant::now();
    while !info("second", "ticket") {
        assert!(began.elapsed() < Duration::from_secs(30), "nobody waits");
    }
    drop(running);
    drop(waiting.join().expect("it was answered"));
}

#[test]
fn any_of_several_keys_is_taken() {
    let lab = Lab::new();
    let (_server, address) = serve(Config {
        api_keys: vec!["one".into(), "two".into()],
        ..lab.config()
    });
    for (key, status) in [
        ("one", 200),
        ("two", 200),
        ("on", 401),
        ("one,two", 401),
        ("", 401),
    ] {
        let bearer = format!("Bearer {key}");
        for header in [("Authorization", bearer.as_str()), ("x-api-key", key)] {
            let reply = open(address, "GET", "/v1/models", &[header], b"").whole();
            assert_eq!(reply.status, status, "{header:?}");
        }
    }
}

/// Who may do what: a path, a body, and the status for each key, with and without the other one.
#[test]
fn a_key_for_requests_manages_nothing_where_there_is_one_that_does() {
    let lab = Lab::new();
    let keys = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    let (_server, address) = serve(Config {
        api_keys: keys(&["ask"]),
        admin_keys: keys(&["manage"]),
        ..lab.config()
    });
    let fresh = lab.world.path("fresh.gguf");
    std::fs::copy(&lab.adapters[0], &fresh).expect("there is room");
    let sent = |key: &str, method: &str, path: &str, body: &str| {
        let bearer = format!("Bearer {key}");
        let headers = [("Authorization", bearer.as_str())];
        open(address, method, path, &headers, body.as_bytes())
            .whole()
            .status
    };
    let fresh_chat = r#"{"model": "fresh", "max_tokens": 1, "prompt": "x"}"#;
    for (method, path, body, ask, manage) in [
        ("GET", "/v1/models", "", 200, 200),
        ("GET", "/v1/adapters", "", 200, 200),
        ("GET", "/lora-adapters", "", 200, 200),
        (
            "POST",
            "/v1/completions",
            r#"{"max_tokens": 1, "prompt": "x"}"#,
            200,
            200,
        ),
        ("GET", "/v1/models/fresh", "", 404, 200),
        ("POST", "/v1/completions", fresh_chat, 200, 200),
        ("POST", "/lora-adapters", "[]", 403, 200),
        ("POST", "/v1/load_lora_adapter", "{}", 403, 400),
        ("POST", "/v1/unload_lora_adapter", "{}", 403, 400),
        ("POST", "/v1/adapters", "{}", 403, 400),
        ("POST", "/v1/adapters/x/rollback", "", 403, 404),
        ("POST", "/v1/adapters/x/unload", "", 403, 404),
        ("GET", "/v1/transfers", "", 403, 200),
        ("GET", "/v1/transfers/1/report", "", 403, 404),
        ("POST", "/v1/transfers", "{}", 403, 400),
        ("DELETE", "/v1/transfers/1", "", 403, 404),
        ("OPTIONS", "/v1/transfers", "", 403, 405),
    ] {
        for (key, status) in [("ask", ask), ("manage", manage), ("other", 401)] {
            assert_eq!(
                sent(key, method, path, body),
                status,
                "{key}: {method} {path}"
            );
        }
    }
}

#[test]
fn health_needs_no_key_and_no_slot() {
    let lab = Lab::new();
    let (_server, address) = serve(Config {
        slots: 1,
        context: 4 << 20,
        api_keys: vec!["secret".into()],
        ..lab.config()
    });
    let body = json!({ "prompt": "on and", "stream": true, "max_tokens": 1_000_000 });
    let mut stream = open(
        address,
        "POST",
        "/v1/completions",
        &[("Authorization", "Bearer secret")],
        body.to_string().as_bytes(),
    );
    stream.events().expect("it has begun");
    for path in ["/health", "/v1/health"] {
        let reply = get(address, path);
        assert_eq!(reply.status, 200);
        assert_eq!(reply.json(), json!({ "status": "ok" }));
        assert_eq!(post(address, path, &json!({})).status, 405);
    }
    assert_eq!(get(address, "/metrics").status, 401);
}

/// Status and body of an answer; none if nobody took the request.
fn try_ask(address: SocketAddr, prompt: &str) -> Option<(u16, String)> {
    let body = json!({ "model": "ticket", "temperature": 0, "messages": [{ "role": "user", "content": prompt }] }).to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(address).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a timeout can be set");
    stream.write_all((head + &body).as_bytes()).ok()?;
    let mut reply = String::new();
    let read = stream.read_to_string(&mut reply);
    _ = stream.shutdown(Shutdown::Both);
    if reply.is_empty() {
        return None;
    }
    read.expect("an answer that has begun is not cut off");
    let (head, body) = reply.split_once("\r\n\r\n").expect("a head");
    let length = head.lines().find_map(|line| {
        line.to_lowercase()
            .strip_prefix("content-length: ")?
            .parse()
            .ok()
    });
    assert_eq!(length, Some(body.len()), "{reply}");
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

#[test]
fn a_server_that_stops_under_load_answers_whole_or_not_at_all() {
    let lab = Lab::new();
    let (server, address) = serve(Config {
        slots: 2,
        ..lab.config()
    });
    let right = lab.answers(Some(&lab.adapters[0]));
    assert_eq!(said(&ask(address, "ticket", &lab.prompts[0])), right[0]);
    let (whole, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for client in 0..8 {
            let (lab, right, whole, refused) = (&lab, &right, &whole, &refused);
            scope.spawn(move || {
                for i in (client..).map(|i| i % lab.prompts.len()) {
                    match try_ask(address, &lab.prompts[i]) {
                        Some((200, body)) => {
                            let body: Value = serde_json::from_str(&body).expect("whole JSON");
                            assert_eq!(body["choices"][0]["message"]["content"], right[i].as_str());
                            whole.fetch_add(1, Ordering::SeqCst);
                        }
                        Some((503, _)) => _ = refused.fetch_add(1, Ordering::SeqCst),
                        Some(other) => panic!("{other:?}"),
                        None => break,
                    }
                }
            });
        }
        let began = Instant::now();
        while whole.load(Ordering::SeqCst) < 40 {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "nobody is answered"
            );
            thread::sleep(Duration::from_millis(1));
        }
        server.stop();
        assert!(
            TcpStream::connect(address).is_err(),
            "nobody listens any more"
        );
    });
    assert!(whole.load(Ordering::SeqCst) >= 40);
}

#[test]
fn what_does_not_end_in_time_is_told_why_it_ends() {
    let lab = Lab::new();
    let limits = Limits {
        shutdown_seconds_max: 1,
        ..Limits::default()
    };
    let (server, address) = serve(Config {
        limits,
        context: 4 << 20,
        ..lab.config()
    });
    let mut stream = endless(address, "ticket");
    stream.events().expect("it has begun");
    let stopping = thread::spawn(move || server.stop());
    let events = stream.rest();
    stopping.join().expect("it stops");
    let last: Value =
        serde_json::from_str(events.last().expect("a last word")).expect("events are JSON");
    assert!(
        last["error"]["message"]
            .as_str()
            .is_some_and(|text| text.contains("shutting down")),
        "{last}"
    );
}
