//! The router over a socket: the module's own control thread in a process of its own, with no
//! llama-server around it. `tests/attach` has the server.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use translora::control::{ControlError, Server, Socket, Token};
use translora_gguf::{Gguf, Writer};

use crate::serve::client::{Reply, open};
use crate::toy::World;

const TOKEN: &str = "secret";
const START_MAX: Duration = Duration::from_secs(60);

/// A process with the module in it, which ends with its value.
struct Module {
    child: Child,
    socket: PathBuf,
}

impl Module {
    /// In a process whose model has the matrices of this adapter.
    fn start(world: &World, adapter: &Path) -> Self {
        let (socket, model) = (world.path("module.sock"), world.path("model.gguf"));
        write_base(adapter, &model);
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "control::the_module", "--ignored", "--nocapture"])
            .env("TRANSLORA_SOCKET", &socket)
            .env("LLAMA_ARG_MODEL", model)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("this program runs");
        let began = Instant::now();
        while !socket.exists() {
            assert!(began.elapsed() < START_MAX, "the module opens no socket");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { child, socket }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // Its standard input ends, and it with that.
        drop(self.child.stdin.take());
        _ = self.child.wait();
    }
}

#[test]
#[ignore = "the others start it, in a process of its own"]
fn the_module() {
    let place = translora_attach::place().expect("a place");
    translora_attach::register(translora::plugin::transfers);
    translora_attach::listen(&place).expect("a socket");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).expect("readable");
}

/// A base with the matrices that an adapter is for, and nothing else.
fn write_base(adapter: &Path, base: &Path) {
    let bytes = std::fs::read(adapter).expect("it was written");
    let gguf = Gguf::parse(&bytes).expect("a GGUF file");
    let architecture = gguf.get("general.architecture").expect("there is one");
    let mut writer = Writer::new();
    writer.set("general.architecture", architecture.clone());
    let tensor = |name: String| gguf.tensors().iter().find(|tensor| tensor.name == name);
    for a in gguf.tensors() {
        let Some(matrix) = a.name.strip_suffix(".lora_a") else {
            continue;
        };
        let b = tensor(format!("{matrix}.lora_b")).expect("two halves");
        let shape = [a.shape[0], b.shape[1]];
        let values = vec![0.5; (shape[0] * shape[1]) as usize];
        writer.tensor_f32(matrix.to_owned(), &shape, &values);
    }
    std::fs::write(base, writer.to_bytes().expect("a small file")).expect("writable");
}

fn control(socket: &Path) -> (Server, SocketAddr) {
    let backend = Arc::new(Socket::new(socket.into()));
    let token = Token::Chosen(TOKEN.into());
    let server = Server::start(backend, "127.0.0.1", 0, &token).expect("it starts");
    let address = server.address();
    (server, address)
}

fn send(address: SocketAddr, method: &str, path: &str, body: &Value) -> Reply {
    let authorization = format!("Bearer {TOKEN}");
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    open(
        address,
        method,
        path,
        &[("Authorization", &authorization)],
        body.as_bytes(),
    )
    .whole()
}

/// The smallest sound adapter.
fn adapter(world: &World, name: &str, value: f32) -> PathBuf {
    adapter_of(world, name, "blk.0.attn_q.weight", value)
}

fn adapter_of(world: &World, name: &str, matrix: &str, value: f32) -> PathBuf {
    let mut writer = Writer::new();
    writer
        .set("general.type", "adapter")
        .set("adapter.type", "lora")
        .set("general.architecture", "llama")
        .set("adapter.lora.alpha", 2.0_f32);
    writer.tensor_f32(format!("{matrix}.lora_a"), &[4, 1], &[value; 4]);
    writer.tensor_f32(format!("{matrix}.lora_b"), &[1, 4], &[value; 4]);
    let path = world.path(name);
    std::fs::write(&path, writer.to_bytes().expect("a small file")).expect("writable");
    path
}

#[test]
fn nobody_is_answered_without_the_token() {
    let world = World::new();
    let module = Module::start(&world, &adapter(&world, "one.gguf", 0.5));
    let (_server, address) = control(&module.socket);
    for headers in [
        &[][..],
        &[("Authorization", "Bearer wrong")],
        &[("Authorization", "Bearer secre")],
        &[("Authorization", TOKEN)],
    ] {
        for path in [
            "/v1/adapters",
            "/v1/transfers",
            "/",
            "/v1/transfers/1/events",
        ] {
            let reply = open(address, "GET", path, headers, b"").whole();
            assert_eq!(reply.status, 401, "{path} {headers:?}: {reply:?}");
        }
    }
    assert_eq!(
        send(address, "GET", "/v1/transfers", &Value::Null).status,
        200
    );
    assert_eq!(send(address, "GET", "/", &Value::Null).status, 404);
    assert_eq!(
        send(address, "PUT", "/v1/transfers", &Value::Null).status,
        405
    );
    // One that was made up is for this machine alone.
    let start = |host, token| {
        Server::start(
            Arc::new(Socket::new(module.socket.clone())),
            host,
            0,
            &token,
        )
    };
    let random = || Token::Random(TOKEN.into());
    assert!(start("127.0.0.1", random()).is_ok());
    assert!(matches!(
        start("0.0.0.0", random()),
        Err(ControlError::Exposed { .. })
    ));
    assert!(start("0.0.0.0", Token::Chosen(TOKEN.into())).is_ok());
}

#[test]
fn the_document_is_that_of_the_paths_there_are() {
    let (_server, address) = control(Path::new("/nowhere"));
    let document = send(address, "GET", "/openapi.json", &json!({})).json();
    assert_eq!(document, translora::control::openapi::document());
    for (path, item) in document["paths"].as_object().expect("paths") {
        let sent = path.replace("{id}", "7").replace("{name}", "nobody");
        for method in ["GET", "POST", "DELETE"] {
            let reply = send(address, method, &sent, &json!({ "path": "a.gguf" }));
            let operation = item.get(method.to_lowercase());
            assert_eq!(
                reply.status == 405,
                operation.is_none(),
                "{method} {path}: {reply:?}"
            );
            if let Some(operation) = operation {
                let listed = operation["responses"].get(reply.status.to_string());
                assert!(listed.is_some(), "{method} {path}: {reply:?}");
            } else {
                assert_ne!(reply.header("allow"), "", "{path}");
                assert!(reply.error().contains("other methods"), "{path}");
            }
        }
    }
}

#[test]
fn adapters_of_the_module_are_exchanged_over_http() {
    let world = World::new();
    let (one, two) = (
        adapter(&world, "one of two.gguf", 0.5),
        adapter(&world, "two.gguf", 0.25),
    );
    let module = Module::start(&world, &one);
    let (_server, address) = control(&module.socket);
    let load = |path: &Path| send(address, "POST", "/v1/adapters", &json!({ "path": path }));
    let live = || send(address, "GET", "/v1/adapters", &Value::Null).json()["data"][0].take();
    let back = |verb: &str, name: &str| {
        let path = format!("/v1/adapters/{name}/{verb}");
        send(address, "POST", &path, &Value::Null)
    };
    let started = live();
    assert_eq!(started["name"], "as started");
    assert_eq!(started["live"]["generation"], "0");
    assert_eq!(back("rollback", "as%20started").status, 409);
    let reply = load(&one);
    assert_eq!((reply.status, reply.generation()), (200, "1"), "{reply:?}");
    let reply = load(&two);
    assert_eq!((reply.status, reply.generation()), (200, "2"), "{reply:?}");
    let now = live();
    assert_eq!(now["name"], "two");
    assert_eq!(&now["live"]["path"], &json!(two));
    assert_eq!(&now["previous"]["path"], &json!(one));
    let whole = std::fs::read(&two).expect("it was written");
    std::fs::write(world.path("cut.gguf"), &whole[..whole.len() / 2]).expect("writable");
    let other = adapter_of(&world, "other.gguf", "blk.0.attn_k.weight", 0.5);
    for (body, status) in [
        (json!({ "path": world.path("cut.gguf") }), 400),
        (json!({ "path": other }), 400),
        (json!({ "path": world.path("missing.gguf") }), 404),
        (json!({ "path": one, "name": "two" }), 400),
        (json!({ "path": 3 }), 400),
        (json!([]), 400),
    ] {
        let reply = send(address, "POST", "/v1/adapters", &body);
        assert_eq!(reply.status, status, "{body}: {reply:?}");
        assert!(!reply.error().is_empty());
    }
    assert_eq!(back("rollback", "one%20of%20two").status, 404);
    assert_eq!(back("unload", "one%20of%20two").status, 404);
    assert_eq!(live(), now);
    assert_eq!(back("rollback", "two").json()["name"], "one of two");
    let reply = back("unload", "one%20of%20two");
    assert_eq!((reply.status, reply.generation()), (200, "4"), "{reply:?}");
    assert_eq!(reply.json()["live"], Value::Null);
    assert_eq!(live()["name"], "as started");
}

#[test]
fn a_load_goes_live_in_the_module_where_it_is_meant_to() {
    let world = World::new();
    // What holds the same numbers is no other load.
    let names = [("one.gguf", 0.5), ("two.gguf", 0.25), ("three.gguf", 0.125)];
    let files = names.map(|(name, value)| adapter(&world, name, value));
    let mut paths = files.iter().cycle();
    let mut path = paths.next();
    let module = Module::start(&world, &files[0]);
    let (_server, address) = control(&module.socket);
    for (more, status, says) in [
        (json!({ "base_model_name": "other" }), 400, "model.gguf"),
        (
            json!({ "expected_generation": 7 }),
            409,
            "generation 0 is live, and not 7",
        ),
        (
            json!({ "expected_generation": "1+2" }),
            400,
            "number of one load",
        ),
        (json!({ "expected": 0 }), 400, "expected"),
        (json!({ "expected_generation": 0 }), 200, "1"),
        (
            json!({ "expected_generation": "0" }),
            409,
            "generation 1 is live, and not 0",
        ),
        (
            json!({ "base_model_name": "model", "expected_generation": "1" }),
            200,
            "2",
        ),
        (
            json!({ "base_model_name": world.path("model.gguf") }),
            200,
            "3",
        ),
    ] {
        let mut body = more.clone();
        body["path"] = json!(path);
        let reply = send(address, "POST", "/v1/adapters", &body);
        assert_eq!(reply.status, status, "{more}: {reply:?}");
        if status == 200 {
            assert_eq!(reply.generation(), says, "{more}");
            path = paths.next();
        } else {
            assert!(reply.error().contains(says), "{more}: {reply:?}");
        }
    }
}

/// The worker of a build with llama.cpp opens no toys.
#[cfg(not(feature = "ggml"))]
#[test]
fn an_accepted_transfer_is_not_put_in_on_another_base() {
    let world = World::new();
    let lora = crate::pipeline::train(&world, &world.source, &world.train, "ticket.gguf");
    let fits = crate::pipeline::train(&world, &world.target, &world.train, "fits.gguf");
    let module = Module::start(&world, &fits);
    let (_server, address) = control(&module.socket);
    let request = json!({
        "source": world.source, "source_lora": lora, "target": world.target, "seeds": world.seeds, "eval": world.eval,
        "out": world.path("moved.gguf"), "samples": 120, "rank": 8, "lr": 4e-3,
    });
    for (field, value) in [
        ("name", json!("moved")),
        ("name", json!(3)),
        ("samples", json!(0)),
        ("sample", json!(3)),
    ] {
        let mut bad = request.clone();
        bad[field] = value;
        let reply = send(address, "POST", "/v1/transfers", &bad);
        assert_eq!(reply.status, 400, "{field}: {reply:?}");
    }
    let reply = send(address, "POST", "/v1/transfers", &request);
    assert_eq!(reply.status, 202, "{reply:?}");
    let path = format!("/v1/transfers/{}", reply.json()["id"]);
    let authorization = format!("Bearer {TOKEN}");
    let events = open(
        address,
        "GET",
        &format!("{path}/events"),
        &[("Authorization", &authorization)],
        b"",
    )
    .rest();
    let first: Value = serde_json::from_str(&events[0]).expect("events are JSON");
    let end: Value = serde_json::from_str(events.last().expect("an end")).expect("JSON");
    assert_eq!(first["event"], "plan");
    assert_eq!(first["number"], 1);
    assert_eq!(end["state"], "done", "{end}");
    assert_eq!(end["verdict"], "accept", "{end}");
    // The module's model has the shapes of the target, and is another file.
    let reason = end["not_live"].as_str().unwrap_or_default();
    assert!(reason.contains("made for a base with SHA-256"), "{reason}");
    assert_eq!(end["generation"], Value::Null);
    let live = send(address, "GET", "/v1/adapters", &Value::Null).json();
    assert_eq!(live["data"][0]["name"], "as started");
    assert_eq!(send(address, "GET", &path, &Value::Null).json(), end);
    assert_eq!(send(address, "DELETE", &path, &Value::Null).status, 200);
    assert_eq!(send(address, "GET", &path, &Value::Null).status, 404);
    assert_eq!(
        send(address, "GET", &format!("{path}/events"), &Value::Null).status,
        404
    );
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let (_server, address) = control(Path::new("/nowhere.sock"));
    let reply = send(address, "GET", "/v1/adapters", &Value::Null);
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(reply.error().contains("/nowhere.sock"), "{reply:?}");
}

/// A launcher of a program that is no llama-server, with the router beside it.
struct Launched {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    address: SocketAddr,
}

impl Launched {
    /// The program is a script, and writes to standard error.
    fn start(world: &World, script: &str) -> Self {
        let program = world.path("server");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("writable");
        std::fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("ours");
        let mut child = Command::new(env!("CARGO_BIN_EXE_translora"))
            .args(["attach", "--quiet", "--control", "0", "--library"])
            .arg(crate::abi::plugin())
            .arg("--")
            .arg(program)
            .env("TRANSLORA_CONTROL_TOKEN", TOKEN)
            .env("TRANSLORA_SOCKET", world.path("none.sock"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("translora runs");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let first = lines.next().expect("a line").expect("text");
        let address = first
            .split_once("http://")
            .and_then(|(_, rest)| rest.split_once(' ')?.0.parse().ok())
            .unwrap_or_else(|| panic!("no address: {first}"));
        Self {
            child,
            lines,
            address,
        }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("a line").expect("text")
    }

    fn kill(&self, signal: &str) {
        let id = self.child.id().to_string();
        let killed = Command::new("kill").args([signal, &id]).status();
        assert!(killed.expect("kill is there").success());
    }

    fn end(mut self) -> Option<i32> {
        self.child.wait().expect("it ends").code()
    }
}

#[test]
fn a_launcher_passes_signals_and_the_exit_status_on() {
    let world = World::new();
    let waits = "trap 'echo stopping >&2; exit 7' TERM\necho \"ready $TRANSLORA_SOCKET\" >&2\n\
                 while :; do sleep 0.05; done";
    let mut launched = Launched::start(&world, waits);
    let socket = world.path("none.sock");
    assert_eq!(launched.line(), format!("ready {}", socket.display()));
    // The router is there before the server is.
    let reply = send(launched.address, "GET", "/v1/adapters", &Value::Null);
    assert_eq!(reply.status, 503, "{reply:?}");
    let logged = launched.line();
    assert!(logged.starts_with("GET /v1/adapters 503 "), "{logged}");
    launched.kill("-TERM");
    assert_eq!(launched.line(), "stopping");
    assert_eq!(launched.end(), Some(7));
    let launched = Launched::start(&world, "exit 3");
    assert_eq!(launched.end(), Some(3));
    // As shells have it.
    let launched = Launched::start(&world, "kill -KILL $$");
    assert_eq!(launched.end(), Some(128 + 9));
    // The server does not outlive a launcher that is killed.
    let mut launched = Launched::start(&world, waits);
    launched.line();
    launched.kill("-KILL");
    assert_eq!(launched.line(), "stopping");
    launched.end();
}

#[test]
fn a_launcher_hides_the_token_from_the_server() {
    let world = World::new();
    let says = "echo \"token $TRANSLORA_CONTROL_TOKEN.\" >&2";
    let mut launched = Launched::start(&world, says);
    assert_eq!(launched.line(), "token .");
    assert_eq!(launched.end(), Some(0));
}
