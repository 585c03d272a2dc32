//! One case for each thing that could mix adapters.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::models::{self, Set};
use crate::server::{Place, Server, Way};

/// What the cases share: where things are, and what stock servers answer.
pub struct World {
    pub place: Place,
    pub set: Set,
    pub prompts: Vec<String>,
    stock: HashMap<PathBuf, Server>,
    known: HashMap<(PathBuf, String, usize), Vec<i64>>,
}

impl World {
    /// What a stock server that was started with this adapter (none: without one) answers; `count` tokens of a stream, or a short answer
    /// where it is 0.
    fn reference(&mut self, set: &Set, adapter: Option<&Path>, prompt: &str, count: usize) -> Vec<i64> {
        let key = adapter.unwrap_or(&set.base).to_owned();
        let place = &self.place;
        let server = self.stock.entry(key.clone()).or_insert_with(|| {
            let lora = adapter.map(|path| path.display().to_string());
            let more: Vec<&str> =
                lora.iter().flat_map(|path| ["--lora", path]).chain(["-c", "2048", "-np", "1", "--cache-ram", "0"]).collect();
            Server::start(place, Way::Stock, &set.base, &more)
        });
        let answer = || {
            if count > 0 { server.stream_anew(prompt, count).read(count).to_vec() } else { server.ask_anew(prompt) }
        };
        self.known.entry((key, prompt.into(), count)).or_insert_with(answer).clone()
    }

    pub fn short(&mut self, adapter: Option<usize>, prompt: &str) -> Vec<i64> {
        let set = Set { base: self.set.base.clone(), adapters: self.set.adapters.clone() };
        self.reference(&set, adapter.map(|i| set.adapters[i].as_path()), prompt, 0)
    }

    /// The same for an adapter by its file.
    pub fn short_of(&mut self, adapter: &Path, prompt: &str) -> Vec<i64> {
        let set = Set { base: self.set.base.clone(), adapters: Vec::new() };
        self.reference(&set, Some(adapter), prompt, 0)
    }

    /// The adapter of the old base, which a transfer begins with.
    pub fn source_adapter(&self) -> PathBuf {
        self.set.adapters[0].with_file_name("source.gguf")
    }

    fn adapter(&self, i: usize) -> PathBuf {
        self.set.adapters[i].clone()
    }

    fn start(&self, way: Way, more: &[&str]) -> Server {
        Server::start(&self.place, way, &self.set.base, &[&["-c", "2048"], more].concat())
    }

    /// The answer now is that of a server started with this adapter.
    fn check(&mut self, server: &Server, adapter: Option<usize>, prompt: usize) {
        let prompt = self.prompts[prompt].clone();
        let wanted = self.short(adapter, &prompt);
        assert_eq!(server.ask(&prompt, 0), wanted, "{prompt:?} with adapter {adapter:?}\n{}", server.said());
    }
}

type Case = (&'static str, fn(&mut World));

const CASES: &[Case] = &[
    ("same prompt again", same_prompt_again),
    ("rollback and unload", rollback_and_unload),
    ("a server's own adapter", own_adapter),
    ("RAM prompt cache", ram_prompt_cache),
    ("slot file", slot_file),
    ("sleep and wake", sleep_and_wake),
    ("stream in flight", stream_in_flight),
    ("sliding-window model", sliding_window),
    ("context shift", context_shift),
    ("bad file", bad_file),
    ("two servers", two_servers),
    ("command line", command_line),
    ("launcher", launcher),
    ("many swaps under load", crate::load::many_swaps),
    ("transfer over HTTP", crate::jobs::transfer_over_http),
];

pub fn run(llama_server: &Path) -> ExitCode {
    let mut world = world(llama_server);
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let mut failed = 0;
    for (name, case) in CASES.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str()))) {
        let begun = Instant::now();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&mut world)));
        println!("{name:28} {} ({:.1} s)", if outcome.is_ok() { "ok" } else { "FAILED" }, begun.elapsed().as_secs_f64());
        failed += usize::from(outcome.is_err());
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn world(llama_server: &Path) -> World {
    let program = Path::new(env!("CARGO_BIN_EXE_translora"));
    let beside = program.parent().expect("a program lies in a folder");
    let built = [beside.join("deps/libtranslora.so"), beside.join("libtranslora.so")].into_iter().filter(|path| path.exists());
    let plugin = built.max_by_key(|path| path.metadata().and_then(|m| m.modified()).ok()).expect("cargo builds the cdylib with the tests");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("attach");
    _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the test folder is writable");
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lab");
    let adapters = beside.parent().expect("debug lies in a folder").join("attach");
    let tasks = ["ticket", "date_iso", "boolean_expressions"];
    let adapters: Vec<PathBuf> = tasks.iter().map(|task| adapters.join(format!("{task}.gguf"))).collect();
    for adapter in &adapters {
        assert!(adapter.exists(), "{} is missing; scripts/check-attach makes it", adapter.display());
    }
    let prompts = tasks.iter().flat_map(|task| prompts(&lab.join("tasks").join(task).join("eval.jsonl")));
    let place = Place { llama_server: llama_server.into(), plugin, folder };
    World {
        place,
        set: Set { base: lab.join("branch.f16.gguf"), adapters },
        prompts: prompts.collect(),
        stock: HashMap::new(),
        known: HashMap::new(),
    }
}

/// The first prompts of a task.
fn prompts(rows: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(rows).expect("a task of the lab");
    let row = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?["prompt"].as_str().map(str::to_owned);
    text.lines().take(4).filter_map(row).collect()
}

fn same_prompt_again(world: &mut World) {
    for way in [Way::Preload, Way::Backend] {
        let server = world.start(way, &["-np", "1"]);
        for (adapter, prompt) in [(None, 0), (Some(0), 0), (Some(1), 0), (Some(1), 4), (Some(0), 4), (Some(2), 4)] {
            if let Some(adapter) = adapter {
                server.load(&world.adapter(adapter));
            }
            world.check(&server, adapter, prompt);
            world.check(&server, adapter, prompt);
        }
    }
}

fn rollback_and_unload(world: &mut World) {
    let server = world.start(Way::Preload, &["-np", "1"]);
    assert_eq!(server.command(&json!({"do": "rollback"}))["ok"], false);
    server.load(&world.adapter(0));
    server.load(&world.adapter(1));
    world.check(&server, Some(1), 0);
    for wanted in [0, 1] {
        assert_eq!(server.command(&json!({"do": "rollback"}))["ok"], true);
        world.check(&server, Some(wanted), 0);
    }
    assert_eq!(server.command(&json!({"do": "unload"}))["ok"], true);
    world.check(&server, None, 0);
    assert_eq!(server.command(&json!({"do": "rollback"}))["ok"], true);
    world.check(&server, Some(1), 0);
    for nonsense in [json!({"do": "dance"}), json!([]), json!({"do": "load"})] {
        assert_eq!(server.command(&nonsense)["ok"], false);
    }
    world.check(&server, Some(1), 0);
}

/// A server that was started with `--lora`: the loaded adapter takes the place of its own.
fn own_adapter(world: &mut World) {
    let own = world.adapter(2).display().to_string();
    let server = world.start(Way::Preload, &["-np", "1", "--lora", &own]);
    world.check(&server, Some(2), 0);
    server.load(&world.adapter(0));
    world.check(&server, Some(0), 0);
    server.command(&json!({"do": "unload"}));
    world.check(&server, Some(2), 0);
}

fn ram_prompt_cache(world: &mut World) {
    let server = world.start(Way::Preload, &["-np", "1", "--cache-ram", "64", "--slot-prompt-similarity", "0.9"]);
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

fn slot_file(world: &mut World) {
    let folder = world.place.folder.join("slots");
    std::fs::create_dir_all(&folder).expect("writable");
    let slots = folder.display().to_string();
    let more = ["-np", "1", "--slot-save-path", &slots];
    let server = world.start(Way::Preload, &more);
    server.load(&world.adapter(0));
    world.check(&server, Some(0), 0);
    server.post("/slots/0?action=save", &json!({"filename": "a.bin"}));
    server.load(&world.adapter(1));
    world.check(&server, Some(1), 4);
    server.post("/slots/0?action=restore", &json!({"filename": "a.bin"}));
    world.check(&server, Some(1), 0);
    // Another process, with the adapter that made the file: nothing is computed again but the last token.
    let second = world.start(Way::Preload, &more);
    second.load(&world.adapter(0));
    second.post("/slots/0?action=restore", &json!({"filename": "a.bin"}));
    world.check(&second, Some(0), 0);
    // A file that nothing is known of.
    std::fs::remove_file(folder.join("a.bin.translora.json")).expect("the note lies beside the file");
    second.load(&world.adapter(2));
    second.post("/slots/0?action=restore", &json!({"filename": "a.bin"}));
    world.check(&second, Some(2), 0);
}

fn sleep_and_wake(world: &mut World) {
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
    while server.get("/props").is_none_or(|(_, props)| props["is_sleeping"] != true) {
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not fall asleep\n{}", server.said());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A stream keeps its adapter to its end, beside requests on two later ones, each of which keeps its own.
fn stream_in_flight(world: &mut World) {
    const TOKENS: usize = 400;
    let set = Set { base: world.set.base.clone(), adapters: world.set.adapters.clone() };
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

fn sliding_window(world: &mut World) {
    let set = models::sliding(&world.set, &world.place.folder);
    let server = Server::start(&world.place, Way::Preload, &set.base, &["-c", "2048", "-np", "1"]);
    let long = world.prompts.join(" ");
    let short = world.prompts[..8].join(" ");
    server.load(&set.adapters[0]);
    for (adapter, prompt) in [(0, &long), (0, &long), (1, &long), (1, &short), (2, &long), (0, &short), (0, &long)] {
        server.load(&set.adapters[adapter]);
        let wanted = world.reference(&set, Some(&set.adapters[adapter]), prompt, 0);
        assert_eq!(server.ask(prompt, 0), wanted, "adapter {adapter}\n{}", server.said());
    }
}

/// A stream longer than its context, with a swap after the shift: it keeps its adapter, and the next request is clean.
fn context_shift(world: &mut World) {
    let server = Server::start(&world.place, Way::Preload, &world.set.base, &["-c", "256", "-np", "1", "--context-shift"]);
    let stock = Server::start(
        &world.place,
        Way::Stock,
        &world.set.base,
        &["-c", "256", "-np", "1", "--context-shift", "--lora", &world.adapter(0).display().to_string()],
    );
    let prompt = world.prompts[0].clone();
    server.load(&world.adapter(0));
    let mut stream = server.stream(&prompt, 0, 500);
    stream.read(300);
    server.load(&world.adapter(1));
    assert_eq!(stream.read(500), stock.stream(&prompt, 0, 500).read(500));
    world.check(&server, Some(1), 0);
}

fn bad_file(world: &mut World) {
    let server = world.start(Way::Preload, &["-np", "1"]);
    server.load(&world.adapter(0));
    world.check(&server, Some(0), 0);
    let before = server.command(&json!({"do": "list"}))["generation"].clone();
    for (file, reason) in models::bad(&world.set, &world.place.folder) {
        let said = server.command(&json!({"do": "load", "path": file}));
        assert_eq!(said["ok"], false, "{}", file.display());
        assert!(said["error"].as_str().is_some_and(|error| error.contains(reason)), "{said}");
        world.check(&server, Some(0), 0);
    }
    assert_eq!(server.command(&json!({"do": "list"}))["generation"], before);
}

fn two_servers(world: &mut World) {
    let (one, two) = (world.start(Way::Preload, &["-np", "1"]), world.start(Way::Backend, &["-np", "1"]));
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

fn translora(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_translora")).args(arguments).output().expect("translora runs");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn command_line(world: &mut World) {
    use std::os::unix::fs::PermissionsExt;
    let server = world.start(Way::Preload, &["-np", "1"]);
    let socket = server.socket.display().to_string();
    let mode = server.socket.metadata().expect("the socket is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let adapter = world.adapter(0).display().to_string();
    let (ok, said) = translora(&["adapters", "--attach", &socket, "load", &adapter]);
    assert!(ok, "{said}");
    world.check(&server, Some(0), 0);
    let (ok, said) = translora(&["adapters", "--attach", &socket, "list", "--json"]);
    assert!(ok && said.contains("\"generation\":1"), "{said}");
    let (ok, said) = translora(&["adapters", "--attach", &socket, "load", "no-such-file.gguf"]);
    assert!(!ok && said.contains("no-such-file.gguf"), "{said}");
    let (ok, said) = translora(&["adapters", "--attach", &socket, "rollback"]);
    assert!(ok, "{said}");
    world.check(&server, None, 0);
    let (ok, said) = translora(&["adapters", "--attach", "/nowhere.sock", "list"]);
    assert!(!ok && said.contains("hint:"), "{said}");
}

/// `translora attach` says what it does and becomes the server; a program it cannot attach to is named.
fn launcher(world: &mut World) {
    let wrapper = world.place.folder.join("launch");
    let text = format!("#!/bin/sh\nexec '{}' attach -- '{}' \"$@\"\n", env!("CARGO_BIN_EXE_translora"), world.place.llama_server.display());
    std::fs::write(&wrapper, text).expect("writable");
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    let place = Place { llama_server: wrapper, ..world.place.clone() };
    let server = Server::start(&place, Way::Stock, &world.set.base, &["-c", "2048", "-np", "1"]);
    server.load(&world.adapter(0));
    world.check(&server, Some(0), 0);
    assert!(server.said().contains("LD_PRELOAD"), "{}", server.said());
    let (ok, said) = translora(&["attach", "--", env!("CARGO_BIN_EXE_translora"), "--version"]);
    assert!(!ok && said.contains("libllama"), "{said}");
}
