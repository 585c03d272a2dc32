//! A whole transfer inside a server that goes on answering.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cases::translora;
use crate::server::{Server, Way};
use crate::world::{GAP_MIN, World};

const CLIENTS: usize = 8;
const TRANSFER_MAX: Duration = Duration::from_secs(540);
const TOKEN: &str = "a-token-for-this-test";

/// The status of a job at its end.
fn followed(status: &dyn Fn() -> Value) -> Value {
    let begun = Instant::now();
    loop {
        let now = status();
        if !matches!(now["state"].as_str(), Some("waiting" | "running"))
            || begun.elapsed() > TRANSFER_MAX
        {
            return now;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Started over HTTP, under load from eight clients: it ends with the new adapter live, and every
/// answer is one adapter's.
pub fn transfer_over_http(world: &mut World) {
    let folder = world.place.folder.clone();
    let (source_lora, out) = (world.source_adapter(), folder.join("moved.gguf"));
    let lab = world
        .set
        .base
        .parent()
        .expect("the lab's folder")
        .to_owned();
    let more = ["-c", "4096", "-np", "8", "--cache-ram", "0"];
    let server = Server::start_with(&world.place, Way::Preload, &world.set.base, &more, &[]);
    let (_control, port) = control(&server);
    let ask = |method: &str, path: &str, body: &str| {
        Server::speak(port, &format!("{method} {path}"), TOKEN, body).expect("an answer")
    };
    assert_eq!(
        Server::speak(port, "GET /v1/transfers", "wrong", "")
            .expect("an answer")
            .0,
        401
    );

    // Under load, an answer that comes near another one may turn into it, with or without a swap.
    let prompts: Vec<String> = world
        .many
        .clone()
        .into_iter()
        .filter(|prompt| world.gap(None, prompt) > GAP_MIN)
        .collect();
    let before: Vec<Vec<i64>> = prompts
        .iter()
        .map(|prompt| world.short(None, prompt))
        .collect();
    let request = json!({
        "source": lab.join("sprout.f16.gguf"), "source_lora": source_lora, "target": world.set.base, "seeds": lab.join("tasks/ticket/seeds.jsonl"),
        "eval": lab.join("tasks/ticket/eval.jsonl"), "out": out, "samples": 250, "epochs": 4.0, "lr": 2e-3, "threads": 1,
    });
    let (stop, requests) = (AtomicBool::new(false), AtomicUsize::new(0));
    let answers: Mutex<Vec<(usize, bool, Vec<i64>)>> = Mutex::new(Vec::new());
    let live = AtomicBool::new(false);
    let mut ended = Value::Null;
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (server, prompts, stop, requests, answers, live) =
                (&server, &prompts, &stop, &requests, &answers, &live);
            scope.spawn(move || {
                for turn in client.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let prompt = turn * 5 % prompts.len();
                    let after = live.load(Ordering::SeqCst);
                    let answer = server.ask(&prompts[prompt], -1);
                    requests.fetch_add(1, Ordering::Relaxed);
                    answers
                        .lock()
                        .expect("no client panics here")
                        .push((prompt, after, answer));
                    // Eight clients that never rest would leave the transfer no processor.
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
        }
        let (status, started) = ask("POST", "/v1/transfers", &request.to_string());
        let begun = Instant::now();
        // A failure is not asserted here: the clients would go on for ever.
        ended = if status == 202 {
            followed(&|| ask("GET", &format!("/v1/transfers/{}", started["id"]), "").1)
        } else {
            started
        };
        live.store(true, Ordering::SeqCst);
        std::thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::SeqCst);
        println!(
            "  the transfer took {:.1} s, {} answers meanwhile",
            begun.elapsed().as_secs_f64(),
            requests.load(Ordering::SeqCst)
        );
    });
    assert_eq!(ended["state"], "done", "{ended}\n{}", server.said());
    assert_eq!(ended["generation"], "1", "{ended}\n{}", server.said());
    let events = Server::text(port, "GET /v1/transfers/1/events", TOKEN);
    assert!(events.contains("data: "), "{events}");
    assert!(events.contains("event: end"), "{events}");
    let after: Vec<Vec<i64>> = prompts
        .iter()
        .map(|prompt| world.short_of(&out, prompt))
        .collect();
    let (mut old, mut new) = (0, 0);
    let steady: Vec<bool> = prompts
        .iter()
        .map(|prompt| world.gap(Some(&out), prompt) > GAP_MIN)
        .collect();
    for (prompt, was_live, answer) in answers
        .into_inner()
        .expect("no client panicked")
        .into_iter()
        .filter(|(prompt, ..)| steady[*prompt])
    {
        let (is_old, is_new) = (answer == before[prompt], answer == after[prompt]);
        assert!(
            is_new || (is_old && !was_live),
            "{:?}: {answer:?}, live: {was_live}",
            prompts[prompt]
        );
        new += usize::from(is_new && !is_old);
        old += usize::from(is_old && !is_new);
    }
    println!("  {old} answers as started, {new} by the new adapter");
    assert!(old > 0 && new > 0);
    let telling = (0..prompts.len())
        .find(|at| steady[*at] && before[*at] != after[*at])
        .expect("some answers differ");
    back_by_name(
        &server,
        port,
        &prompts[telling],
        &before[telling],
        &after[telling],
    );
}

/// The router beside a server; it ends with its value.
struct Control(Child);

impl Drop for Control {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Start `translora control` for a server, and its port.
fn control(server: &Server) -> (Control, u16) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_translora"))
        .args(["control", "--port", "0", "--json", "--attach"])
        .arg(&server.socket)
        .env("TRANSLORA_CONTROL_TOKEN", TOKEN)
        .stdout(Stdio::piped())
        .spawn()
        .expect("translora runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped"))
        .read_line(&mut line)
        .expect("it says where it listens");
    let control = Control(child);
    let port = serde_json::from_str(&line).ok().and_then(|said: Value| {
        said["listening"][0]
            .as_str()?
            .rsplit_once(':')?
            .1
            .parse()
            .ok()
    });
    (control, port.unwrap_or_else(|| panic!("no port: {line:?}")))
}

/// Back to what was there before the transfer, by the name of what is live and by no other.
fn back_by_name(server: &Server, port: u16, prompt: &str, before: &[i64], after: &[i64]) {
    for (name, status, wanted) in [("nobody", 404, after), ("moved", 200, before)] {
        let answer = Server::speak(
            port,
            &format!("POST /v1/adapters/{name}/rollback"),
            TOKEN,
            "",
        );
        assert_eq!(
            answer.as_ref().map(|(status, _)| *status),
            Some(status),
            "{answer:?}"
        );
        assert_eq!(server.ask(prompt, 0), wanted, "{}", server.said());
    }
}

/// The same from a terminal: it ends when the new adapter is live. One that the gate does not
/// accept changes nothing.
pub fn transfer_by_command(world: &mut World) {
    let server = world.start(Way::Preload, &["-np", "1"]);
    let lab = world
        .set
        .base
        .parent()
        .expect("the lab's folder")
        .to_owned();
    let (folder, base, source_lora) = (
        world.place.folder.clone(),
        world.set.base.clone(),
        world.source_adapter(),
    );
    let run = |out: &str, more: &[&str]| {
        let out = folder.join(out);
        let paths = [
            server.socket.clone(),
            lab.join("sprout.f16.gguf"),
            source_lora.clone(),
            base.clone(),
            lab.join("tasks/ticket/seeds.jsonl"),
            lab.join("tasks/ticket/eval.jsonl"),
            out.clone(),
        ];
        let paths = paths.map(|path| path.display().to_string());
        let flags = [
            "--attach",
            "--source",
            "--source-lora",
            "--target",
            "--seeds",
            "--eval",
            "--out",
        ];
        let named: Vec<&str> = flags
            .iter()
            .zip(&paths)
            .flat_map(|(flag, path)| [*flag, path.as_str()])
            .collect();
        let (ok, said) =
            translora(&[&["transfer"], &named[..], &["--json", "-t", "1"], more].concat());
        (ok, said, out)
    };
    // Too little to learn anything from.
    let (ok, said, out) = run(
        "little.gguf",
        &["--samples", "12", "--epochs", "1", "--lr", "1e-6"],
    );
    assert!(!ok, "{said}");
    assert!(!out.exists(), "{said}");
    assert!(!said.contains("\"verdict\":\"accept\""), "{said}");
    assert_eq!(server.generation(), "0");
    world.check(&server, None, 0);
    let (ok, said, out) = run(
        "by-command.gguf",
        &["--samples", "250", "--epochs", "4", "--lr", "2e-3"],
    );
    assert!(ok, "{said}\n{}", server.said());
    assert!(
        said.contains("\"verdict\":\"accept\""),
        "{said}\n{}",
        server.said()
    );
    assert!(
        said.contains("\"generation\":\"1\""),
        "{said}\n{}",
        server.said()
    );
    let prompt = world.prompts[0].clone();
    let (old, new) = (world.short(None, &prompt), world.short_of(&out, &prompt));
    assert_ne!(old, new);
    assert_eq!(server.ask(&prompt, 0), new, "{}", server.said());
    // A request that cannot be carried out is refused before anything begins.
    let (ok, said, _) = run("by-command.gguf", &[]);
    assert!(!ok, "{said}");
    assert!(said.contains("by-command.gguf"), "{said}");
    assert!(said.contains("hint:"), "{said}");
}
