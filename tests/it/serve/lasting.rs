//! What was answered is what is live after the next start, however the server ended.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use translora::engine::toy::Toy;
use translora::record::{Rng, SystemClock};
use translora::serve::{Config, Server};

use super::client::{Reply, ask, get, post};
use super::{Lab, serve};

/// The names that are used.
const NAMES: [&str; 3] = ["ticket", "second", "third"];
/// The files that lie in the folder from the start on.
const FILES: [&str; 4] = ["ticket.gguf", "ticket@2.gguf", "second.gguf", "other.gguf"];

fn folder(lab: &Lab, name: &str) -> PathBuf {
    let folder = lab.world.path(name);
    fs::create_dir(&folder).expect("writable");
    for (place, file) in FILES.iter().enumerate() {
        let copied = fs::copy(&lab.adapters[place % 2], folder.join(file));
        copied.expect("writable");
    }
    folder
}

fn config(lab: &Lab, folder: &Path) -> Config {
    Config {
        adapters: Vec::new(),
        folder: Some(folder.to_owned()),
        ..lab.config()
    }
}

/// What is live and what was before, by name, with numbers, hashes and scales.
fn live(address: SocketAddr) -> Vec<Value> {
    let list = get(address, "/v1/adapters").json();
    let one = |generation: &Value| json!([generation["generation"], generation["sha256"]]);
    let row = |row: &Value| {
        let before = match &row["previous"] {
            Value::Null => Value::Null,
            previous => one(previous),
        };
        json!([row["name"], row["scale"], one(&row["live"]), before])
    };
    let mut rows: Vec<Value> = list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(row)
        .collect();
    rows.sort_by_key(Value::to_string);
    rows
}

fn load(address: SocketAddr, name: &str, file: &str) -> Reply {
    let body = json!({ "lora_name": name, "lora_path": file, "load_inplace": true });
    post(address, "/v1/load_lora_adapter", &body)
}

fn rollback(address: SocketAddr, name: &str) -> Reply {
    post(
        address,
        &format!("/v1/adapters/{name}/rollback"),
        &json!({}),
    )
}

fn unload(address: SocketAddr, name: &str) -> Reply {
    post(address, &format!("/v1/adapters/{name}/unload"), &json!({}))
}

/// One change, drawn at random; some are refused.
fn change(address: SocketAddr, rng: &mut Rng) -> String {
    let name = NAMES[rng.below(NAMES.len())];
    let file = FILES[rng.below(FILES.len())];
    let (what, reply) = match rng.below(6) {
        0 | 1 => (format!("load {name} {file}"), load(address, name, file)),
        2 | 3 => (format!("rollback {name}"), rollback(address, name)),
        4 => (format!("unload {name}"), unload(address, name)),
        _ => {
            let list = get(address, "/lora-adapters").json();
            let ids = list.as_array().expect("a list").iter();
            let scales: Vec<Value> = ids
                .map(|row| json!({ "id": row["id"], "scale": rng.below(3) }))
                .collect();
            let reply = post(address, "/lora-adapters", &json!(scales));
            (format!("scales {scales:?}"), reply)
        }
    };
    assert!([200, 404, 409].contains(&reply.status), "{what}: {reply:?}");
    what
}

/// A copy of the folder as it lies on the disk now: what a process that is killed leaves.
fn killed(lab: &Lab, from: &Path, number: usize) -> PathBuf {
    let copy = lab.world.path(&format!("killed{number}"));
    fs::create_dir(&copy).expect("writable");
    for entry in fs::read_dir(from).expect("readable") {
        let path = entry.expect("readable").path();
        let name = path.file_name().expect("a name");
        fs::copy(&path, copy.join(name)).expect("writable");
    }
    copy
}

#[test]
fn what_was_answered_is_live_after_every_end() {
    const SEQUENCES: usize = 8;
    const CHANGES: usize = 12;
    let lab = Lab::new();
    for sequence in 0..SEQUENCES {
        let mut rng = Rng::new(sequence as u64, "what lasts");
        let mut place = folder(&lab, &format!("folder{sequence}"));
        let mut running: Option<(Server, SocketAddr)> = Some(serve(config(&lab, &place)));
        let mut done = Vec::new();
        for number in 0..CHANGES {
            let (_, address) = running.as_ref().expect("it runs");
            done.push(change(*address, &mut rng));
            let right = live(*address);
            match rng.below(3) {
                0 => continue,
                1 => drop(running.take()),
                _ => {
                    place = killed(&lab, &place, sequence * CHANGES + number);
                    done.push("killed".into());
                }
            }
            let started = serve(config(&lab, &place));
            let found = live(started.1);
            assert_eq!(found, right, "sequence {sequence}: {done:?}");
            running = Some(started);
        }
    }
}

/// Steps over one folder, and which file answers afterwards (0: none), after a start from the same
/// folder too.
#[test]
fn a_table_of_ends_and_starts() {
    enum Do {
        Load(&'static str),
        Back,
        Unload,
        Copy(usize, &'static str),
        Damage(&'static str),
        Remove(&'static str),
        Restart,
    }
    use Do::{Back, Copy, Damage, Load, Remove, Restart, Unload};
    let rows: [(&str, &[Do], Option<usize>); 11] = [
        ("the last file of a name is live", &[], Some(1)),
        ("a rollback lasts", &[Back, Restart], Some(0)),
        ("an unload lasts", &[Unload, Restart], None),
        (
            "a load after an unload lasts",
            &[Unload, Load("ticket.gguf"), Restart],
            Some(0),
        ),
        (
            "a file that is new is live",
            &[Back, Copy(1, "ticket@3.gguf"), Restart],
            Some(1),
        ),
        (
            "what was rolled back from is not new",
            &[
                Copy(1, "ticket@3.gguf"),
                Load("ticket@3.gguf"),
                Back,
                Back,
                Back,
                Restart,
            ],
            Some(1),
        ),
        (
            "what was unloaded is not new",
            &[Unload, Copy(1, "ticket@3.gguf"), Restart],
            None,
        ),
        (
            "a damaged file is left out, and the one before answers",
            &[Damage("ticket@2.gguf"), Restart],
            Some(0),
        ),
        (
            "but not one that was rolled back from",
            &[Back, Damage("ticket.gguf"), Restart],
            None,
        ),
        (
            "nor where the file is gone",
            &[Back, Remove("ticket.gguf"), Restart, Restart],
            None,
        ),
        (
            "a replaced file is loaded as it is",
            &[Copy(0, "ticket@2.gguf"), Restart],
            Some(0),
        ),
    ];
    let lab = Lab::new();
    for (number, (what, steps, right)) in rows.into_iter().enumerate() {
        let place = folder(&lab, &format!("row{number}"));
        let mut running = Some(serve(config(&lab, &place)));
        for step in steps {
            let (_, address) = *running.as_ref().expect("it runs");
            let reply = match step {
                Load(file) => Some(load(address, "ticket", file)),
                Back => Some(rollback(address, "ticket")),
                Unload => Some(unload(address, "ticket")),
                _ => None,
            };
            assert!(reply.is_none_or(|reply| reply.status == 200), "{what}");
            match step {
                Copy(which, file) => {
                    fs::copy(&lab.adapters[*which], place.join(file)).expect("writable");
                }
                Damage(file) => fs::write(place.join(file), "GGUF").expect("writable"),
                Remove(file) => fs::remove_file(place.join(file)).expect("writable"),
                Restart => {
                    drop(running.take());
                    running = Some(serve(config(&lab, &place)));
                }
                _ => {}
            }
        }
        let address = running.as_ref().expect("it runs").1;
        match right {
            Some(adapter) => lab.check(address, "ticket", Some(adapter)),
            None => {
                let reply = ask(address, "ticket", &lab.prompts[0]);
                assert!([400, 404].contains(&reply.status), "{what}: {reply:?}");
            }
        }
    }
}

#[test]
fn after_a_change_of_the_base_the_adapters_wait_and_come_back_with_it() {
    let lab = Lab::new();
    let place = folder(&lab, "moved");
    let (server, address) = serve(config(&lab, &place));
    assert_eq!(rollback(address, "ticket").status, 200);
    let right = live(address);
    drop(server);
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let listener = Arc::clone(&heard);
    let say = move |line: &str| listener.lock().expect("no panic").push(line.to_owned());
    let other = Config {
        model: lab.world.target.clone(),
        ..config(&lab, &place)
    };
    let clock = Arc::new(SystemClock::default());
    let server = Server::start(&Toy, other, clock, Arc::new(say)).expect("it starts");
    let address = server.addresses()[0];
    assert_eq!(live(address), Vec::<Value>::new());
    let list = get(address, "/v1/adapters").json();
    assert_eq!(list["refused"].as_array().map(Vec::len), Some(4), "{list}");
    drop(server);
    let heard = heard.lock().expect("no panic").join("\n");
    let waiting = "wait for a transfer to this base: \"other\", \"second\", \"ticket\"";
    assert!(heard.contains(waiting), "{heard}");
    // Nothing of it was forgotten.
    let (_server, address) = serve(config(&lab, &place));
    assert_eq!(live(address), right);
}

/// A change in place may be mapped; a rename is none.
#[test]
fn a_base_that_is_written_to_is_not_answered_by_and_one_that_is_renamed_over_is() {
    let lab = Lab::new();
    let model = lab.world.path("served.json");
    fs::copy(&lab.world.source, &model).expect("writable");
    let (_server, address) = serve(Config {
        model: model.clone(),
        ..lab.config()
    });
    lab.check(address, "ticket", Some(0));
    let aside = lab.world.path("aside.json");
    fs::copy(&lab.world.target, &aside).expect("writable");
    fs::rename(&aside, &model).expect("writable");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    lab.check(address, "ticket", Some(0));
    // But a transfer to it would be one to another base.
    let body = json!({
        "name": "moved", "source": lab.world.source, "source_lora": lab.adapters[0],
        "seeds": lab.world.seeds,
    });
    let reply = post(address, "/v1/transfers", &body);
    assert_eq!(reply.status, 409, "{reply:?}");
    assert!(
        reply.error().contains("served.json is another file"),
        "{reply:?}"
    );

    let model = lab.world.path("again.json");
    fs::copy(&lab.world.source, &model).expect("writable");
    let (_server, address) = serve(Config {
        model: model.clone(),
        ..lab.config()
    });
    lab.check(address, "ticket", Some(0));
    fs::write(&model, "{}").expect("writable");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    for _ in 0..2 {
        let reply = ask(address, "ticket", &lab.prompts[0]);
        assert_eq!(reply.status, 503, "{reply:?}");
        assert!(
            reply.error().contains("replace files by rename"),
            "{reply:?}"
        );
    }
    assert_eq!(rollback(address, "ticket").status, 409);
    assert_eq!(load(address, "ticket", "second.gguf").status, 503);
}
