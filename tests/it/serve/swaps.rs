//! Adapters that come and go while clients are answered.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use super::client::{Reply, ask, get, metric, open, post, said, with};
use super::{Lab, endless, serve, served};

/// Put a file of the folder in the place of an adapter.
fn load(address: SocketAddr, name: &str, file: &str) -> Reply {
    post(
        address,
        "/v1/load_lora_adapter",
        &json!({ "lora_name": name, "lora_path": file, "load_inplace": true }),
    )
}

#[test]
fn every_answer_is_that_of_the_generation_it_names() {
    const SWAPS: usize = 60;
    let (lab, _server, address) = served();
    let answers = [
        lab.answers(Some(&lab.adapters[0])),
        lab.answers(Some(&lab.adapters[1])),
    ];
    let heard: Mutex<Vec<(String, usize, String)>> = Mutex::default();
    let over = AtomicBool::new(false);
    let mut files: HashMap<String, usize> = HashMap::from([("1".to_owned(), 0)]);
    thread::scope(|scope| {
        for client in 0..8 {
            let (heard, over, prompts) = (&heard, &over, &lab.prompts);
            scope.spawn(move || {
                let mut i = client;
                while !over.load(Ordering::SeqCst) {
                    let reply = ask(address, "ticket", &prompts[i % prompts.len()]);
                    let generation = reply.generation().to_owned();
                    assert_eq!(reply.json()["generation"], generation.as_str());
                    heard
                        .lock()
                        .unwrap()
                        .push((generation, i % prompts.len(), said(&reply)));
                    i += 1;
                }
            });
        }
        for swap in 0..SWAPS {
            let which = (swap + 1) % 2;
            let reply = load(address, "ticket", ["ticket.gguf", "second.gguf"][which]);
            assert_eq!(reply.status, 200, "{reply:?}");
            files.insert(reply.generation().to_owned(), which);
            // A request after the swap is answered by what was swapped in.
            let after = ask(address, "ticket", &lab.prompts[0]);
            assert_eq!(after.generation(), reply.generation());
            assert_eq!(said(&after), answers[which][0].clone());
        }
        over.store(true, Ordering::SeqCst);
    });
    let heard = heard.into_inner().unwrap();
    for (generation, prompt, said) in &heard {
        assert_eq!(
            said, &answers[files[generation]][*prompt],
            "generation {generation}"
        );
    }
    assert!(heard.len() > SWAPS, "{} answers", heard.len());
    assert_eq!(
        metric(address, "translora:adapter_swaps_total"),
        SWAPS as f64
    );
}

/// Text of a toy turns to exclamation marks where its cells are of several adapters.
#[test]
fn a_stream_keeps_its_generation_while_others_come() {
    let lab = Lab::new();
    let (_server, address) = serve(translora::serve::Config {
        context: 4 << 20,
        ..lab.config()
    });
    let mut stream = endless(address, "ticket");
    assert_eq!(stream.reply.generation(), "1");
    let mut swapped = 0;
    let mut text = String::new();
    while swapped < 6 {
        let events = stream.events().expect("it goes on");
        text.extend(events.iter().map(|event| {
            serde_json::from_str::<Value>(event).expect("JSON")["choices"][0]["text"]
                .as_str()
                .unwrap()
                .to_owned()
        }));
        if text.len() > swapped * 40 {
            swapped += 1;
            assert_eq!(
                load(
                    address,
                    "ticket",
                    ["ticket.gguf", "second.gguf"][swapped % 2]
                )
                .status,
                200
            );
            let after = ask(address, "ticket", &lab.prompts[1]);
            assert_eq!(after.generation(), (2 + swapped).to_string());
        }
    }
    let pattern = " and".repeat(text.len() / 4 + 1);
    assert!(pattern.starts_with(&text), "{text}");
    assert!(metric(address, "translora:adapter_turns_total") >= 6.0);
}

#[test]
fn what_was_before_comes_back() {
    let (lab, _server, address) = served();
    let answers = [
        lab.answers(Some(&lab.adapters[0])),
        lab.answers(Some(&lab.adapters[1])),
    ];
    let rollback = |name: &str| {
        post(
            address,
            &format!("/v1/adapters/{name}/rollback"),
            &json!({}),
        )
    };
    assert_eq!(rollback("ticket").status, 409);
    assert_eq!(rollback("nobody").status, 404);
    assert_eq!(load(address, "ticket", "second.gguf").status, 200);
    assert_eq!(
        said(&ask(address, "ticket", &lab.prompts[0])),
        answers[1][0]
    );
    for (generation, which) in [("1", 0), ("3", 1), ("1", 0)] {
        let reply = rollback("ticket");
        assert_eq!(reply.status, 200);
        assert_eq!(reply.json()["generation"].as_str(), Some(generation));
        let after = ask(address, "ticket", &lab.prompts[0]);
        assert_eq!(after.generation(), generation);
        assert_eq!(said(&after), answers[which][0].clone());
    }
    let listed = get(address, "/v1/adapters").json();
    assert_eq!(listed["data"][0]["live"]["generation"], "1");
    assert_eq!(listed["data"][0]["previous"]["generation"], "3");
}

#[test]
fn a_file_that_is_no_adapter_changes_nothing() {
    let (lab, _server, address) = served();
    let whole = fs::read(&lab.adapters[0]).expect("it was made");
    fs::write(lab.world.path("cut.gguf"), &whole[..whole.len() / 2]).expect("writable");
    fs::write(lab.world.path("none.gguf"), b"no adapter at all").expect("writable");
    let wide = crate::pipeline::train(&lab.world, &lab.world.target, &lab.world.train, "wide.gguf");
    assert!(wide.exists());
    for (file, status) in [
        ("cut.gguf", 400),
        ("none.gguf", 400),
        ("wide.gguf", 400),
        ("missing.gguf", 404),
        ("../x.gguf", 403),
        ("/etc/hostname", 403),
    ] {
        let reply = load(address, "ticket", file);
        assert_eq!(reply.status, status, "{file}: {reply:?}");
        assert!(!reply.error().is_empty());
        let reply = ask(address, "ticket", &lab.prompts[0]);
        assert_eq!(reply.generation(), "1", "{file}");
        assert_eq!(
            said(&reply),
            lab.answers(Some(&lab.adapters[0]))[0].clone(),
            "{file}"
        );
    }
    assert_eq!(
        post(
            address,
            "/v1/load_lora_adapter",
            &json!({ "lora_name": "ticket", "lora_path": "second.gguf" })
        )
        .status,
        400
    );
    let unknown = json!({ "lora_name": "ticket", "lora_path": "second.gguf", "scale": 1 });
    assert_eq!(post(address, "/v1/load_lora_adapter", &unknown).status, 400);
}

#[test]
fn adapters_come_and_go_by_name() {
    let (lab, _server, address) = served();
    let load = post(
        address,
        "/v1/load_lora_adapter",
        &json!({ "lora_name": "new", "lora_path": "second.gguf" }),
    );
    assert_eq!((load.status, load.generation()), (200, "3"));
    lab.check(address, "new", Some(1));
    assert_eq!(
        post(
            address,
            "/v1/unload_lora_adapter",
            &json!({ "lora_name": "new" })
        )
        .status,
        200
    );
    assert_eq!(
        post(
            address,
            "/v1/unload_lora_adapter",
            &json!({ "lora_name": "new" })
        )
        .status,
        404
    );
    assert_eq!(ask(address, "new", &lab.prompts[0]).status, 404);
}

/// Compare and swap: of two clients that read the same generation, one replaces it.
#[test]
fn a_load_may_expect_what_it_replaces() {
    let (_lab, _server, address) = served();
    let load = |name: &str, more: Value| {
        let body = json!({ "lora_name": name, "lora_path": "second.gguf" });
        post(address, "/v1/load_lora_adapter", &with(body, &more))
    };
    for (name, more, status, generation) in [
        ("ticket", json!({ "expected_generation": "1" }), 200, "3"),
        ("ticket", json!({ "expected_generation": "1" }), 409, ""),
        ("ticket", json!({ "expected_generation": 0 }), 409, ""),
        ("ticket", json!({ "expected_generation": 3 }), 200, "4"),
        ("new", json!({ "expected_generation": "7" }), 409, ""),
        ("new", json!({ "expected_generation": "0" }), 200, "5"),
        ("new", json!({ "expected_generation": "x" }), 400, ""),
        ("other", json!({ "base_model_name": "another" }), 400, ""),
        ("other", json!({ "base_model_name": "base" }), 200, "6"),
    ] {
        let reply = load(name, more.clone());
        assert_eq!(reply.status, status, "{name} {more}: {reply:?}");
        assert_eq!(reply.generation(), generation, "{name} {more}");
    }
    let wins = std::sync::atomic::AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            let (wins, load) = (&wins, &load);
            scope.spawn(move || {
                let reply = load("ticket", json!({ "expected_generation": "4" }));
                match reply.status {
                    200 => _ = wins.fetch_add(1, Ordering::SeqCst),
                    status => assert_eq!(status, 409, "{reply:?}"),
                }
            });
        }
    });
    assert_eq!(wins.into_inner(), 1);
}

#[test]
fn adapters_come_and_go_by_the_paths_of_every_server() {
    let (lab, _server, address) = served();
    let right = lab.answers(Some(&lab.adapters[1]));
    let load = |body: Value| post(address, "/v1/adapters", &body);
    // The file's name, where there is none, in place of what is called so.
    let reply = load(json!({ "path": "second.gguf" }));
    assert_eq!((reply.status, reply.generation()), (200, "3"), "{reply:?}");
    assert_eq!(reply.json()["name"], "second");
    let reply = load(json!({ "path": "second.gguf", "name": "new" }));
    assert_eq!((reply.status, reply.generation()), (200, "4"), "{reply:?}");
    assert_eq!(said(&ask(address, "new", &lab.prompts[0])), right[0]);
    let listed = get(address, "/v1/adapters").json();
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(3), "{listed}");
    let unload = || post(address, "/v1/adapters/new/unload", &json!({}));
    let reply = unload();
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["generation"], "0");
    assert_eq!(unload().status, 404);
    assert_eq!(ask(address, "new", &lab.prompts[0]).status, 404);
    for (body, status) in [
        (json!({ "path": "missing.gguf" }), 404),
        (json!({ "path": "/etc/hostname" }), 403),
        (json!({ "path": "second.gguf", "name": "base" }), 400),
        (json!({ "path": "second.gguf", "name": "../x" }), 400),
        (json!({ "path": "second.gguf", "scale": 1 }), 400),
        (json!({ "name": "new" }), 400),
        (json!([]), 400),
        (json!({ "path": "x".repeat(70_000) }), 400),
    ] {
        let reply = load(body.clone());
        assert_eq!(reply.status, status, "{body}: {reply:?}");
    }
    assert_eq!(
        open(address, "DELETE", "/v1/adapters", &[], b"")
            .whole()
            .status,
        405
    );
}

#[test]
fn scales_choose_what_answers_who_names_no_adapter() {
    let (lab, _server, address) = served();
    let answers = lab.answers(Some(&lab.adapters[1]));
    lab.check(address, "base", None);
    let reply = post(
        address,
        "/lora-adapters",
        &json!([{ "id": 1, "scale": 1.0 }]),
    );
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json(), json!({ "success": true }));
    let reply = ask(address, "base", &lab.prompts[0]);
    assert_eq!(reply.generation(), "2");
    assert_eq!(said(&reply), answers[0].clone());
    // What stock llama-server takes for a success that switches everything off is refused, and
    // nothing changes.
    for bad in [
        json!([{ "id": 0, "path": "x.gguf" }]),
        json!([{ "id": 9, "scale": 1 }]),
        json!([{ "id": 0 }]),
        json!({ "id": 0, "scale": 1 }),
    ] {
        assert_eq!(post(address, "/lora-adapters", &bad).status, 400, "{bad}");
    }
    let list = get(address, "/lora-adapters").json();
    assert_eq!(
        [&list[0]["scale"], &list[1]["scale"]],
        [&json!(0.0), &json!(1.0)]
    );
    let body = json!({ "lora": [], "temperature": 0, "messages": [{ "role": "user", "content": lab.prompts[0] }] });
    let bare = post(address, "/v1/chat/completions", &body);
    assert_eq!(bare.generation(), "0");
    assert_eq!(said(&bare), lab.answers(None)[0].clone());
}
