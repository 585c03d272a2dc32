//! Servers that are started in other ways: with several adapters, with another backend, as a
//! router.

use std::path::Path;

use serde_json::json;

use crate::server::{Server, Way, request, tokens};
use crate::world::World;

/// A server with several adapters of its own goes on as it was started, and says why nothing is
/// swapped in.
pub fn several_adapters(world: &mut World) {
    let [first, second] = [0, 1].map(|i| world.adapter(i).display().to_string());
    let more = [
        "-np",
        "1",
        "--lora",
        &first,
        "--lora-scaled",
        &format!("{second}:0.5"),
    ];
    let (server, stock) = (
        world.start(Way::Preload, &more),
        world.start(Way::Stock, &more),
    );
    for _ in 0..2 {
        assert_eq!(
            server.ask(&world.prompts[0], 0),
            stock.ask_anew(&world.prompts[0])
        );
        let said = server.command(&json!({"do": "load", "path": world.adapter(2)}));
        assert!(
            said["error"]["message"]
                .as_str()
                .is_some_and(|error| error.contains("several adapters")),
            "{said}"
        );
        assert!(said["error"]["hint"].is_string(), "{said}");
    }
    assert_eq!(server.generation(), "0");
}

/// There is one to chain-load.
pub fn has_another_backend() -> bool {
    ["TRANSLORA_OTHER_BACKEND", "TRANSLORA_OTHER_ARGS"]
        .iter()
        .all(|name| std::env::var(name).is_ok())
}

/// The loader's one variable names the module, which passes the backend to the server that stood
/// there before. `TRANSLORA_OTHER_BACKEND` names a backend library, `TRANSLORA_OTHER_ARGS` what
/// makes the server use it (`--rpc HOST:PORT -ngl 99`).
pub fn another_backend(world: &mut World) {
    let (Ok(library), Ok(more)) = (
        std::env::var("TRANSLORA_OTHER_BACKEND"),
        std::env::var("TRANSLORA_OTHER_ARGS"),
    ) else {
        println!(
            "  SKIPPED: no TRANSLORA_OTHER_BACKEND and TRANSLORA_OTHER_ARGS; nothing is chained here"
        );
        return;
    };
    let more: Vec<&str> = ["-c", "2048", "-np", "1"]
        .into_iter()
        .chain(more.split_whitespace())
        .collect();
    let prompts = [0, 4, 8].map(|i| world.prompts[i].clone());
    // One server after the other: some backends serve one at a time.
    let wanted = [0, 1].map(|i| {
        let lora = world.adapter(i).display().to_string();
        let more = [&more[..], &["--lora", &lora]].concat();
        let environment = [
            ("GGML_BACKEND_PATH", library.as_str()),
            ("LLAMA_ARG_OVERRIDE_TENSOR", "__x__=CPU"),
        ];
        let server = Server::start_with(
            &world.place,
            Way::Stock,
            &world.set.base,
            &more,
            &environment,
        );
        prompts.clone().map(|prompt| server.ask_anew(&prompt))
    });
    let server = Server::start_with(
        &world.place,
        Way::Backend,
        &world.set.base,
        &more,
        &[("TRANSLORA_CHAIN_BACKEND", &library)],
    );
    for (adapter, prompt) in [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2)] {
        server.load(&world.adapter(adapter));
        server.answers(
            &prompts[prompt],
            &wanted[adapter][prompt],
            &format!("prompt {prompt} with adapter {adapter}"),
        );
    }
    drop(server);
    // A library that is no backend is named, and the server starts without it.
    let without = Server::start_with(
        &world.place,
        Way::Backend,
        &world.set.base,
        &["-c", "2048", "-np", "1"],
        &[("TRANSLORA_CHAIN_BACKEND", "/no/such/backend.so")],
    );
    assert!(
        without
            .said()
            .contains("/no/such/backend.so: it cannot be loaded; going on without it"),
        "{}",
        without.said()
    );
    without.load(&world.adapter(0));
    world.check(&without, Some(0), 0);
}

/// A router has no model: the module sleeps in it, and works in the servers that it starts, each
/// with a socket of its own.
pub fn router(world: &mut World) {
    let folder = world.place.folder.join("models");
    std::fs::create_dir_all(&folder).expect("writable");
    for name in ["one.gguf", "two.gguf"] {
        std::fs::copy(&world.set.base, folder.join(name)).expect("a copy of the base");
    }
    let models = folder.display().to_string();
    let server = Server::launch(
        &world.place,
        Way::Preload,
        &["--models-dir", &models, "-c", "2048", "-np", "1"],
        &[],
    );
    assert!(
        !server.said().contains("translora: socket"),
        "the router has a socket\n{}",
        server.said()
    );
    let ask = |model: &str, prompt: &str| {
        let mut body = request(prompt, 0);
        body["model"] = model.into();
        tokens(&server.post("/completion", &body))
    };
    let prompt = world.prompts[0].clone();
    let bare = world.short(None, &prompt);
    assert_eq!(ask("one", &prompt), bare, "{}", server.said());
    assert_eq!(ask("two", &prompt), bare, "{}", server.said());
    let sockets = sockets(&server.said());
    assert_eq!(sockets.len(), 2, "{}", server.said());
    let wanted = [0, 1].map(|adapter| world.short(Some(adapter), &prompt));
    for (adapter, (socket, model)) in sockets.iter().zip(["one", "two"]).enumerate() {
        Server::load_at(Path::new(socket), &world.adapter(adapter));
        assert_eq!(ask(model, &prompt), wanted[adapter], "{}", server.said());
    }
    for (model, wanted) in ["one", "two"].iter().zip(&wanted) {
        assert_eq!(&ask(model, &prompt), wanted, "{}", server.said());
    }
    // A model that is unloaded and loaded again is a new process: as it was started.
    server.post("/models/unload", &json!({"model": "one"}));
    let begun = std::time::Instant::now();
    while Path::new(&sockets[0]).exists() {
        assert!(
            begun.elapsed().as_secs() < 30,
            "the socket of a server that ended lies there still\n{}",
            server.said()
        );
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(ask("one", &prompt), bare);
    assert_eq!(ask("two", &prompt), wanted[1]);
}

/// The sockets that a log names, in its order.
fn sockets(log: &str) -> Vec<String> {
    log.lines()
        .filter_map(|line| Some(line.split_once("translora: socket ")?.1.trim().to_owned()))
        .collect()
}
