//! One case for each thing that could mix adapters.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::models;
use crate::server::{Place, Server, Way};
use crate::tokenizer::{WORDS, tokenizer};
use crate::world::World;

pub fn same_prompt_again(world: &mut World) {
    for way in [Way::Preload, Way::Backend] {
        let server = world.start(way, &["-np", "1"]);
        for (adapter, prompt) in [
            (None, 0),
            (Some(0), 0),
            (Some(1), 0),
            (Some(1), 4),
            (Some(0), 4),
            (Some(2), 4),
        ] {
            if let Some(adapter) = adapter {
                server.load(&world.adapter(adapter));
            }
            world.check(&server, adapter, prompt);
            world.check(&server, adapter, prompt);
        }
    }
}

pub fn rollback_and_unload(world: &mut World) {
    let server = world.start(Way::Preload, &["-np", "1"]);
    assert!(server.refuses(&json!({"do": "rollback"})));
    server.load(&world.adapter(0));
    server.load(&world.adapter(1));
    world.check(&server, Some(1), 0);
    for wanted in [0, 1] {
        assert!(!server.refuses(&json!({"do": "rollback"})));
        world.check(&server, Some(wanted), 0);
    }
    assert!(!server.refuses(&json!({"do": "unload"})));
    world.check(&server, None, 0);
    assert!(!server.refuses(&json!({"do": "rollback"})));
    world.check(&server, Some(1), 0);
    for nonsense in [json!({"do": "dance"}), json!([]), json!({"do": "load"})] {
        assert!(server.refuses(&nonsense));
    }
    world.check(&server, Some(1), 0);
}

/// A server that was started with `--lora`: the loaded adapter takes the place of its own.
pub fn own_adapter(world: &mut World) {
    let own = world.adapter(2).display().to_string();
    let prompt = world.telling(2, 0);
    let server = world.start(Way::Preload, &["-np", "1", "--lora", &own]);
    world.check_prompt(&server, Some(2), &prompt);
    server.load(&world.adapter(0));
    world.check_prompt(&server, Some(0), &prompt);
    server.command(&json!({"do": "unload"}));
    world.check_prompt(&server, Some(2), &prompt);
}

pub fn ram_prompt_cache(world: &mut World) {
    let server = world.start(
        Way::Preload,
        &[
            "-np",
            "1",
            "--cache-ram",
            "64",
            "--slot-prompt-similarity",
            "0.9",
        ],
    );
    server.load(&world.adapter(0));
    for prompt in [0, 4, 8] {
        world.check(&server, Some(0), prompt);
    }
    server.load(&world.adapter(1));
    for prompt in [0, 4, 8, 0] {
        world.check(&server, Some(1), prompt);
    }
    server.load(&world.adapter(0));
    for prompt in [8, 4, 0] {
        world.check(&server, Some(0), prompt);
    }
}

pub fn slot_file(world: &mut World) {
    let folder = world.place.folder.join("slots");
    fs::create_dir_all(&folder).expect("writable");
    let slots = folder.display().to_string();
    let more = ["-np", "1", "--slot-save-path", &slots];
    let action = |server: &Server, action: &str| {
        server.post(
            &format!("/slots/0?action={action}"),
            &json!({"filename": "a.bin"}),
        )
    };
    // Saved with one adapter, used with another, and the answer tells.
    let prompt = world.telling(0, 1);
    let server = world.start(Way::Preload, &more);
    server.load(&world.adapter(0));
    world.check_prompt(&server, Some(0), &prompt);
    action(&server, "save");
    server.load(&world.adapter(1));
    world.check(&server, Some(1), 4);
    action(&server, "restore");
    world.check_prompt(&server, Some(1), &prompt);
    // Another process, with the adapter that made the file: nothing is computed again but the last
    // token.
    let second = world.start(Way::Preload, &more);
    second.load(&world.adapter(0));
    action(&second, "restore");
    assert_eq!(second.evaluated(&prompt), 1, "{}", second.said());
    world.check_prompt(&second, Some(0), &prompt);
    // A file that nothing is known of.
    fs::remove_file(folder.join("a.bin.translora.json")).expect("the note lies beside the file");
    second.load(&world.adapter(1));
    action(&second, "restore");
    world.check_prompt(&second, Some(1), &prompt);
}

pub fn sleep_and_wake(world: &mut World) {
    let server = world.start(Way::Preload, &["-np", "1", "--sleep-idle-seconds", "1"]);
    server.load(&world.adapter(0));
    world.check(&server, Some(0), 0);
    asleep(&server);
    world.check(&server, Some(0), 0);
    asleep(&server);
    server.load(&world.adapter(1));
    world.check(&server, Some(1), 0);
}

fn asleep(server: &Server) {
    let begun = Instant::now();
    while server
        .get("/props")
        .is_none_or(|(_, props)| props["is_sleeping"] != true)
    {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "it does not fall asleep\n{}",
            server.said()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A stream keeps its adapter to its end, beside requests on two later ones, each of which keeps
/// its own.
pub fn stream_in_flight(world: &mut World) {
    const TOKENS: usize = 400;
    let set = world.same_set();
    let server = world.start(Way::Preload, &["-np", "3"]);
    let (first, second) = (world.prompts[0].clone(), world.prompts[4].clone());
    server.load(&set.adapters[0]);
    let mut old = server.stream(&first, 1, TOKENS);
    old.read(20);
    server.load(&set.adapters[1]);
    let mut newer = server.stream(&second, 2, TOKENS);
    newer.read(20);
    server.load(&set.adapters[2]);
    for prompt in [0, 4, 8] {
        world.check(&server, Some(2), prompt);
    }
    assert!(old.tokens.len() < TOKENS && newer.tokens.len() < TOKENS);
    let wanted = world.reference(&set, Some(&set.adapters[0]), &first, TOKENS);
    assert_eq!(old.read(TOKENS), wanted, "the first stream");
    let wanted = world.reference(&set, Some(&set.adapters[1]), &second, TOKENS);
    assert_eq!(newer.read(TOKENS), wanted, "the second stream");
}

pub fn sliding_window(world: &mut World) {
    let set = models::sliding(&world.set, &world.place.folder);
    let server = world.start_of(Way::Preload, &set, &[]);
    let long = world.prompts.join(" ");
    let short = world.prompts[..8].join(" ");
    server.load(&set.adapters[0]);
    for (adapter, prompt) in [
        (0, &long),
        (0, &long),
        (1, &long),
        (1, &short),
        (2, &long),
        (0, &short),
        (0, &long),
    ] {
        server.load(&set.adapters[adapter]);
        let wanted = world.reference(&set, Some(&set.adapters[adapter]), prompt, 0);
        server.answers(prompt, &wanted, &format!("adapter {adapter}"));
    }
}

/// A stream longer than its context, with a swap after the shift: it keeps its adapter, and the
/// next request is clean.
pub fn context_shift(world: &mut World) {
    let server = Server::start(
        &world.place,
        Way::Preload,
        &world.set.base,
        &["-c", "256", "-np", "1", "--context-shift"],
    );
    let stock = Server::start(
        &world.place,
        Way::Stock,
        &world.set.base,
        &[
            "-c",
            "256",
            "-np",
            "1",
            "--context-shift",
            "--lora",
            &world.adapter(0).display().to_string(),
        ],
    );
    let prompt = world.prompts[0].clone();
    server.load(&world.adapter(0));
    let mut stream = server.stream(&prompt, 0, 500);
    stream.read(300);
    server.load(&world.adapter(1));
    assert_eq!(stream.read(500), stock.stream(&prompt, 0, 500).read(500));
    world.check(&server, Some(1), 0);
}

/// What PEFT saves is loaded as the GGUF file that it was written out of.
pub fn peft_folder(world: &mut World) {
    let folder = world.place.folder.join("saved-by-peft");
    fs::create_dir_all(&folder).expect("the folder is writable");
    let base = translora_lora::Base::open(&world.set.base).expect("a model of the lab");
    let gguf = fs::read(world.adapter(0)).expect("an adapter of the lab");
    let files = translora_lora::to_peft(&gguf, &base).expect("PEFT has a module for each matrix");
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes).expect("the folder is writable");
    }
    let server = world.start(Way::Preload, &["-np", "1"]);
    world.check(&server, None, 0);
    server.load(&folder);
    world.check(&server, Some(0), 0);
    let words = |words: &str| {
        let text = tokenizer(&world.set.base, words);
        fs::write(folder.join("tokenizer.json"), text).expect("the folder is writable");
        server.command(&json!({"do": "load", "path": folder}))
    };
    let said = words(WORDS);
    assert!(said["error"].is_null(), "{said}");
    let said = words(&WORDS.replace(r"[^\r\n\p{L}\p{N}]?\p{L}+", r"\p{L}+"));
    let error = said["error"]["message"].as_str();
    assert!(
        error.is_some_and(|error| error.contains("is not that of this base")),
        "{said}"
    );
    fs::remove_file(folder.join("adapter_model.safetensors")).expect("it is there");
    let said = server.command(&json!({"do": "load", "path": folder}));
    let error = said["error"]["message"].as_str();
    assert!(
        error.is_some_and(|error| error.contains("saved-by-peft")),
        "{said}"
    );
    world.check(&server, Some(0), 0);
}

pub fn bad_file(world: &mut World) {
    let server = world.start(Way::Preload, &["-np", "1"]);
    server.load(&world.adapter(0));
    world.check(&server, Some(0), 0);
    let before = server.generation();
    for (file, reason) in models::bad(&world.set, &world.place.folder) {
        let said = server.command(&json!({"do": "load", "path": file}));
        let error = said["error"]["message"].as_str();
        assert!(
            error.is_some_and(|error| error.contains(reason)),
            "{}: {said}",
            file.display()
        );
        world.check(&server, Some(0), 0);
    }
    assert_eq!(server.generation(), before);
}

pub fn two_servers(world: &mut World) {
    let (one, two) = (
        world.start(Way::Preload, &["-np", "1"]),
        world.start(Way::Backend, &["-np", "1"]),
    );
    one.load(&world.adapter(0));
    two.load(&world.adapter(1));
    for prompt in [0, 4] {
        world.check(&one, Some(0), prompt);
        world.check(&two, Some(1), prompt);
    }
    two.load(&world.adapter(0));
    two.load(&world.adapter(2));
    world.check(&one, Some(0), 0);
    world.check(&two, Some(2), 0);
}

pub fn translora(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_translora"))
        .args(arguments)
        .output()
        .expect("translora runs");
    (
        output.status.success(),
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
    )
}

pub fn command_line(world: &mut World) {
    use std::os::unix::fs::PermissionsExt;
    let server = world.start(Way::Preload, &["-np", "1"]);
    let socket = server.socket.display().to_string();
    let mode = server
        .socket
        .metadata()
        .expect("the socket is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let adapter = world.adapter(0).display().to_string();
    let (ok, said) = translora(&["adapters", "--attach", &socket, "load", &adapter]);
    assert!(ok, "{said}");
    world.check(&server, Some(0), 0);
    let (ok, said) = translora(&["adapters", "--attach", &socket, "list", "--json"]);
    assert!(ok && said.contains("\"generation\":\"1\""), "{said}");
    let (ok, said) = translora(&["adapters", "--attach", &socket, "load", "no-such-file.gguf"]);
    assert!(!ok && said.contains("no-such-file.gguf"), "{said}");
    let second = world.adapter(1).display().to_string();
    let (ok, said) = translora(&["adapters", "--attach", &socket, "load", &second]);
    assert!(ok, "{said}");
    world.check(&server, Some(1), 0);
    let [first, second] = [0, 1].map(|i| {
        world
            .adapter(i)
            .file_stem()
            .and_then(|stem| stem.to_str())
            .expect("a name")
            .to_owned()
    });
    // Only the adapter that is live can be unloaded.
    let (ok, said) = translora(&["adapters", "--attach", &socket, "rollback", &first]);
    assert!(!ok, "{said}");
    assert!(said.contains(&first), "{said}");
    assert!(said.contains("hint:"), "{said}");
    world.check(&server, Some(1), 0);
    let (ok, said) = translora(&["adapters", "--attach", &socket, "rollback", &second]);
    assert!(ok, "{said}");
    world.check(&server, Some(0), 0);
    for (wanted, name) in [(1, &first), (0, &second)] {
        let (ok, said) = translora(&["adapters", "--attach", &socket, "rollback", name]);
        assert!(ok, "{said}");
        world.check(&server, Some(wanted), 0);
    }
    let (ok, said) = translora(&["adapters", "--attach", &socket, "unload"]);
    assert!(ok, "{said}");
    world.check(&server, None, 0);
    let (ok, said) = translora(&["adapters", "--attach", &socket, "rollback"]);
    assert!(ok, "{said}");
    world.check(&server, Some(0), 0);
    let (ok, said) = translora(&["adapters", "--attach", "/nowhere.sock", "list"]);
    assert!(!ok && said.contains("hint:"), "{said}");
}

/// `translora attach` says what it does and becomes the server; a program it cannot attach to is
/// named.
pub fn launcher(world: &mut World) {
    let wrapper = world.place.folder.join("launch");
    let (program, server) = (
        env!("CARGO_BIN_EXE_translora"),
        world.place.llama_server.display(),
    );
    // A library with faults is not the one beside the program.
    let library = std::env::var("TRANSLORA_FAULTS")
        .map_or(String::new(), |file| format!("--library '{file}'"));
    let text = format!(
        "#!/bin/sh\nTRANSLORA_FAULT='{}' exec '{program}' attach {library} -- '{server}' \"$@\"\n",
        world.place.fault
    );
    fs::write(&wrapper, text).expect("writable");
    fs::set_permissions(
        &wrapper,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("ours");
    let place = Place {
        llama_server: wrapper,
        ..world.place.clone()
    };
    let server = Server::start(
        &place,
        Way::Stock,
        &world.set.base,
        &["-c", "2048", "-np", "1"],
    );
    server.load(&world.adapter(0));
    world.check(&server, Some(0), 0);
    assert!(server.said().contains("LD_PRELOAD"), "{}", server.said());
    let (ok, said) = translora(&["attach", "--", env!("CARGO_BIN_EXE_translora"), "--version"]);
    assert!(!ok && said.contains("libllama"), "{said}");
    // The same with the router beside it, whose child says so.
    let program = env!("CARGO_BIN_EXE_translora");
    let (ok, said) = translora(&["attach", "--control", "0", "--", program, "--version"]);
    assert!(!ok && said.contains("libllama"), "{said}");
}
