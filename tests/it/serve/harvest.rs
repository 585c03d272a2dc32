//! What a server keeps of prompts, where that was requested, and what becomes of requests where it
//! cannot.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use translora::engine::toy::Toy;
use translora::record::SystemClock;
use translora::serve::{Config, Keeping, Server};
use translora_harvest::{Asked, Bounds, Contents, file_of, read};

use super::client::{get, post};
use super::{Lab, serve};

fn keeping(lab: &Lab) -> Keeping {
    Keeping {
        folder: lab.world.path("kept"),
        bounds: Bounds::default(),
        answers: false,
    }
}

fn chat(address: SocketAddr, model: &str, text: &str) -> String {
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": text }] });
    let reply = post(address, "/v1/chat/completions", &body);
    assert_eq!(reply.status, 200, "{reply:?}");
    let content = &reply.json()["choices"][0]["message"]["content"];
    content.as_str().expect("text").to_owned()
}

/// A line of the metrics by its beginning.
fn metric(address: SocketAddr, name: &str) -> Option<f64> {
    let text = get(address, "/metrics").body;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}

/// Wait until a metric has a value; prompts are written beside the answers.
fn until(address: SocketAddr, name: &str, value: f64) {
    for _ in 0..600 {
        if metric(address, name) == Some(value) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{name} {value}: {}", get(address, "/metrics").body);
}

fn kept(folder: &Path, adapter: &str) -> Contents {
    read(&folder.join(file_of(adapter)), 0).expect("it can be read")
}

/// What was asked, with the answer.
fn asked(contents: Contents) -> BTreeMap<String, Option<String>> {
    let text = |asked| match asked {
        Asked::Turns(mut turns) => turns.pop().expect("a turn").content,
        Asked::Text(text) => text,
    };
    let rows = contents.rows.into_iter();
    rows.map(|row| (text(row.asked), row.answer)).collect()
}

#[test]
fn nothing_is_kept_unless_it_was_requested() {
    let lab = Lab::new();
    let before = lab.world.names();
    let (server, address) = serve(lab.config());
    chat(address, "ticket", &lab.prompts[0]);
    assert!(!get(address, "/metrics").body.contains("harvest"));
    server.stop();
    let mut after = lab.world.names();
    // What is live, and nothing of a request.
    after.retain(|name| !name.contains("serve-state"));
    assert_eq!(after, before);
}

#[test]
fn prompts_that_one_adapter_answers_are_kept_under_its_name() {
    let lab = Lab::new();
    let (server, address) = serve(Config {
        harvest: Some(keeping(&lab)),
        ..lab.config()
    });
    let folder = lab.world.path("kept");
    for text in &lab.prompts[..6] {
        chat(address, "ticket", text);
        chat(address, "ticket", text);
    }
    chat(address, "second", &lab.prompts[6]);
    // What the base answers, or an adapter by half, or two of them.
    chat(address, "base", "of the base");
    for scales in [
        json!([{ "id": 0, "scale": 0.5 }]),
        json!([{ "id": 0, "scale": 1.0 }, { "id": 1, "scale": 1.0 }]),
    ] {
        let body =
            json!({ "messages": [{ "role": "user", "content": "of scales" }], "lora": scales });
        assert_eq!(post(address, "/v1/chat/completions", &body).status, 200);
    }
    // A text is kept as such, with what a template wrote into it.
    let text = format!("user: {}\nassistant: ", lab.prompts[7]);
    let body = json!({ "model": "ticket", "prompt": text, "max_tokens": 4 });
    assert_eq!(post(address, "/v1/completions", &body).status, 200);
    // A conversation that is gone on with is no prompt.
    let begun = json!({ "model": "ticket", "messages": [
        { "role": "user", "content": "begun" }, { "role": "assistant", "content": "an" }] });
    assert_eq!(post(address, "/v1/chat/completions", &begun).status, 200);
    let turns = json!([{ "role": "system", "content": "be brief" }, { "role": "user", "content": "with a system prompt" }]);
    let body = json!({ "model": "ticket", "messages": turns });
    assert_eq!(post(address, "/v1/chat/completions", &body).status, 200);
    until(address, "translora:harvest_rows{adapter=\"ticket\"}", 8.0);
    until(address, "translora:harvest_rows{adapter=\"second\"}", 1.0);
    let count = |name: &str| metric(address, name);
    assert_eq!(
        count("translora:harvest_seen_total{adapter=\"ticket\"}"),
        Some(14.0)
    );
    let unfit = "translora:harvest_dropped_total{adapter=\"ticket\",reason=\"unfit\"}";
    assert_eq!(count(unfit), Some(1.0));
    let long = json!({ "model": "ticket", "messages": [{ "role": "user", "content": "x".repeat(70_000) }] });
    let refused = post(address, "/v1/chat/completions", &long);
    assert_eq!(refused.status, 400, "{refused:?}");
    server.stop();
    let ticket = kept(&folder, "ticket");
    assert_eq!(ticket.adapter, "ticket");
    let hash = translora::record::ContentHash::of(&fs::read(&lab.adapters[0]).expect("readable"));
    assert!(ticket.rows.iter().all(|row| row.sha256 == hash.to_string()));
    let system = |row: &translora_harvest::Row| matches!(&row.asked, Asked::Turns(turns) if turns.len() == 2);
    assert_eq!(ticket.rows.iter().filter(|row| system(row)).count(), 1);
    let mut right: Vec<&str> = lab.prompts[..6].iter().map(String::as_str).collect();
    right.extend([text.as_str(), "with a system prompt"]);
    right.sort_unstable();
    let found = asked(ticket);
    assert_eq!(found.keys().collect::<Vec<_>>(), right);
    assert!(found.values().all(Option::is_none), "{found:?}");
    assert_eq!(asked(kept(&folder, "second")).len(), 1);
    for (path, right) in [
        (folder.clone(), 0o700),
        (folder.join(file_of("ticket")), 0o600),
    ] {
        let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o7777;
        assert_eq!(mode, right, "{}", path.display());
    }
}

#[test]
fn answers_are_kept_on_request_where_they_ended_by_themselves() {
    let lab = Lab::new();
    let (server, address) = serve(Config {
        harvest: Some(Keeping {
            answers: true,
            ..keeping(&lab)
        }),
        ..lab.config()
    });
    let answer = chat(address, "ticket", &lab.prompts[0]);
    for (text, field) in [
        ("cut", json!({ "max_tokens": 1 })),
        (lab.prompts[2].as_str(), json!({ "stop": "[" })),
    ] {
        let mut body =
            json!({ "model": "ticket", "messages": [{ "role": "user", "content": text }] });
        body.as_object_mut()
            .expect("an object")
            .extend(field.as_object().expect("one").clone());
        assert_eq!(post(address, "/v1/chat/completions", &body).status, 200);
    }
    let body = json!({ "model": "ticket", "stream": true, "messages": [{ "role": "user", "content": lab.prompts[1] }] });
    assert_eq!(post(address, "/v1/chat/completions", &body).status, 200);
    until(address, "translora:harvest_rows{adapter=\"ticket\"}", 4.0);
    server.stop();
    let right = lab.answers(Some(&lab.adapters[0]));
    assert_eq!(answer, right[0]);
    let found = asked(kept(&lab.world.path("kept"), "ticket"));
    assert_eq!(found[&lab.prompts[0]], Some(answer));
    assert_eq!(found[&lab.prompts[1]], Some(right[1].clone()));
    assert_eq!((&found["cut"], &found[&lab.prompts[2]]), (&None, &None));
}

#[test]
fn a_folder_that_is_gone_fails_no_request_and_is_said_once() {
    let lab = Lab::new();
    let said = Arc::new(Mutex::new(Vec::new()));
    let say = Arc::clone(&said);
    let server = Server::start(
        &Toy,
        Config {
            harvest: Some(keeping(&lab)),
            ..lab.config()
        },
        Arc::new(SystemClock::default()),
        Arc::new(move |line: &str| say.lock().expect("nobody panics").push(line.to_owned())),
    )
    .expect("it starts");
    let address = server.addresses()[0];
    let folder = lab.world.path("kept");
    chat(address, "ticket", &lab.prompts[4]);
    until(address, "translora:harvest_rows{adapter=\"ticket\"}", 1.0);
    fs::remove_dir_all(&folder).expect("ours");
    fs::write(&folder, "in the way").expect("writable");
    for text in &lab.prompts[..3] {
        chat(address, "ticket", text);
    }
    let failed = "translora:harvest_dropped_total{adapter=\"ticket\",reason=\"failed\"}";
    until(address, failed, 3.0);
    // It goes on as soon as it can.
    fs::remove_file(&folder).expect("ours");
    fs::create_dir(&folder).expect("writable");
    chat(address, "ticket", &lab.prompts[3]);
    until(
        address,
        "translora:harvest_seen_total{adapter=\"ticket\"}",
        5.0,
    );
    server.stop();
    assert_eq!(asked(kept(&folder, "ticket")).len(), 1);
    let said = said.lock().expect("nobody panics");
    let lines = |what: &str| said.iter().filter(|line| line.contains(what)).count();
    assert_eq!(lines("warning: prompts are not kept: "), 1, "{said:?}");
    assert_eq!(
        lines("2000 of each at most, for 30 days, without their answers"),
        1,
        "{said:?}"
    );
}

#[test]
fn a_folder_that_others_enter_keeps_the_server_from_starting() {
    let lab = Lab::new();
    let folder = lab.world.path("kept");
    fs::create_dir(&folder).expect("writable");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("ours");
    let output = program(&[
        "serve",
        "-m",
        &text(&lab.world.source),
        "--harvest",
        &text(&folder),
    ]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("others may enter this folder (mode 755)"),
        "{said}"
    );
    assert!(
        said.contains("hint: choose a folder that nobody else may enter"),
        "{said}"
    );
    let alone = program(&["serve", "-m", "x", "--harvest-rows", "5"]);
    assert_eq!(alone.status.code(), Some(2));
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

fn program(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_translora"));
    command.args(words).output().expect("the program runs")
}

/// The disk is full for what is longer than four kilobytes: a write fails in its middle.
#[test]
fn a_full_disk_leaves_whole_rows_and_answers_everybody() {
    let lab = Lab::new();
    let folder = lab.world.path("kept");
    let line = format!(
        "ulimit -f 8; exec {} serve -m {} --adapters {} --port 0 --json --harvest {}",
        env!("CARGO_BIN_EXE_translora"),
        text(&lab.world.source),
        text(&lab.world.folder),
        text(&folder)
    );
    let mut child = Command::new("sh")
        .args(["-c", &line])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut ready = String::new();
    let stdout = child.stdout.take().expect("it is piped");
    BufReader::new(stdout)
        .read_line(&mut ready)
        .expect("it listens");
    let ready: Value = serde_json::from_str(&ready).expect("JSON");
    let address = ready["listening"][0].as_str().expect("an address");
    let address: SocketAddr = address.trim_start_matches("http://").parse().expect("one");
    let prompt = |number: usize| format!("{number} {}", "word ".repeat(60));
    for number in 0..20 {
        chat(address, "ticket", &prompt(number));
    }
    until(
        address,
        "translora:harvest_seen_total{adapter=\"ticket\"}",
        20.0,
    );
    let rows = "translora:harvest_rows{adapter=\"ticket\"}";
    let failed = "translora:harvest_dropped_total{adapter=\"ticket\",reason=\"failed\"}";
    for _ in 0..600 {
        let both = metric(address, rows).zip(metric(address, failed));
        if both.is_some_and(|(rows, failed)| rows + failed == 20.0) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let kept_rows = metric(address, rows).expect("some are kept") as usize;
    // Killed, as a power cut would.
    child.kill().expect("it runs");
    let mut said = String::new();
    let mut stderr = child.stderr.take().expect("it is piped");
    stderr.read_to_string(&mut said).expect("UTF-8");
    child.wait().expect("it ran");
    assert_eq!(
        said.matches("warning: prompts are not kept: ").count(),
        1,
        "{said}"
    );
    assert!(kept_rows > 3 && kept_rows < 20, "{kept_rows}");
    let found = asked(kept(&folder, "ticket"));
    assert_eq!(found.len(), kept_rows);
    assert!(
        (0..kept_rows).all(|number| found.contains_key(&prompt(number))),
        "{found:?}"
    );
}

/// What a server kept, for the commands.
fn filled(lab: &Lab) -> PathBuf {
    let (server, address) = serve(Config {
        harvest: Some(keeping(lab)),
        ..lab.config()
    });
    for text in &lab.prompts[..3] {
        chat(address, "ticket", text);
    }
    chat(address, "second", &lab.prompts[0]);
    server.stop();
    lab.world.path("kept")
}

#[test]
fn what_is_kept_is_listed_shown_and_erased() {
    let lab = Lab::new();
    let folder = filled(&lab);
    let place = text(&folder);
    fs::write(folder.join("diary.jsonl"), "dear diary\n").expect("writable");
    let said = |words: &[&str]| {
        let output = program(words);
        let of = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), of(&output.stdout), of(&output.stderr))
    };
    let (code, listed, warned) = said(&["harvest", "list", &place]);
    assert_eq!(code, Some(0), "{warned}");
    assert!(
        listed.contains("ticket  3 prompts, 0 answers, ") && listed.contains("second  1 prompts"),
        "{listed}"
    );
    assert!(
        listed.contains("erased within 29 days") || listed.contains("erased within 30 days"),
        "{listed}"
    );
    assert!(
        warned.contains("diary.jsonl:1: no file of kept prompts"),
        "{warned}"
    );
    let (_, json, _) = said(&["harvest", "list", &place, "--json"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json.as_array().map(Vec::len), Some(3), "{json}");
    // What is shown are rows of data.
    let (_, shown, _) = said(&["harvest", "show", &place, "ticket"]);
    let rows: Vec<Value> = shown
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let mut prompts: Vec<&str> = rows
        .iter()
        .filter_map(|row| row["prompt"].as_str())
        .collect();
    prompts.sort_unstable();
    let mut right: Vec<&str> = lab.prompts[..3].iter().map(String::as_str).collect();
    right.sort_unstable();
    assert_eq!(prompts, right);
    for words in [
        ["harvest", "show", &place, "nobody"],
        ["harvest", "erase", &place, "nobody"],
    ] {
        let (code, _, said) = said(&words);
        assert_eq!(code, Some(2), "{said}");
        assert!(
            said.contains("nothing is kept of \"nobody\"")
                && said.contains("there are prompts of second, ticket"),
            "{said}"
        );
    }
    assert_eq!(
        said(&["harvest", "erase", &place, "--expired"]).1,
        "erased: 0 prompts\n"
    );
    assert_eq!(said(&["harvest", "erase", &place, "ticket"]).0, Some(0));
    assert!(!folder.join(file_of("ticket")).exists() && folder.join(file_of("second")).exists());
    let (code, _, warned) = said(&["harvest", "erase", &place]);
    assert_eq!(code, Some(0), "{warned}");
    assert!(warned.contains("diary.jsonl stays"), "{warned}");
    assert!(!folder.join(file_of("second")).exists() && folder.join("diary.jsonl").exists());
    assert_eq!(
        said(&["harvest", "list", &text(&lab.world.path("nowhere"))]).0,
        Some(2)
    );
}
