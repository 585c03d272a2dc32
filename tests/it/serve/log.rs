//! The log of the program: a line for each request, and nothing that a client keeps to itself.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::Lab;
use super::client::{Reply, get, open};

const KEY: &str = "key-of-a-client";
const PROMPT: &str = "prompt-of-a-client";

/// The program with a server in it.
struct Running {
    child: Child,
    address: SocketAddr,
}

impl Running {
    fn start(lab: &Lab, flags: &[&str]) -> Self {
        let base = lab.world.source.to_str().expect("UTF-8");
        let adapter = lab.adapters[0].to_str().expect("UTF-8");
        let mut child = Command::new(env!("CARGO_BIN_EXE_translora"))
            .args(["serve", "-m", base, "--lora", adapter, "--port", "0"])
            .args(["--json", "--api-key", KEY])
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("it says where it listens");
        let ready: Value = serde_json::from_str(&line).expect("JSON");
        let address = ready["listening"][0].as_str().expect("an address");
        let address = address.trim_start_matches("http://").parse();
        Self {
            child,
            address: address.expect("an address"),
        }
    }

    /// What it said on standard error, to its end.
    fn end(mut self) -> String {
        self.child.kill().expect("it runs");
        let mut text = String::new();
        let mut stderr = self.child.stderr.take().expect("it is piped");
        stderr.read_to_string(&mut text).expect("UTF-8");
        self.child.wait().expect("it ran");
        text
    }
}

/// A question with a key, an id, and a prompt; then one with a wrong key.
fn two_requests(address: SocketAddr) -> Reply {
    let body = json!({ "model": "ticket", "messages": [{ "role": "user", "content": PROMPT }] });
    let bearer = format!("Bearer {KEY}");
    let headers = [("Authorization", bearer.as_str()), ("x-request-id", "id-7")];
    let path = format!("/v1/chat/completions?{PROMPT}={KEY}");
    let reply = open(
        address,
        "POST",
        &path,
        &headers,
        body.to_string().as_bytes(),
    )
    .whole();
    let wrong = [("x-api-key", "key-of-nobody")];
    assert_eq!(
        open(address, "GET", "/props", &wrong, b"").whole().status,
        401
    );
    reply
}

#[test]
fn a_request_is_a_line_without_its_key_and_its_prompt() {
    let lab = Lab::new();
    let running = Running::start(&lab, &["--log-level", "debug"]);
    let reply = two_requests(running.address);
    assert_eq!((reply.status, reply.header("x-request-id")), (200, "id-7"));
    let unnamed = get(running.address, "/health");
    assert!(
        unnamed.header("x-request-id").starts_with("req-"),
        "{unnamed:?}"
    );
    let log = running.end();
    let line = log
        .lines()
        .find(|line| line.starts_with("POST"))
        .expect("a line");
    assert!(line.starts_with("POST /v1/chat/completions 200 "), "{line}");
    assert!(line.ends_with(" ms ticket (generation 1) [id-7]"), "{line}");
    assert!(log.contains("GET /props 401 "), "{log}");
    assert!(log.contains("GET /health 200 "), "{log}");
    for secret in [KEY, PROMPT, "key-of-nobody"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

#[test]
fn a_log_in_json_has_an_object_a_line() {
    let lab = Lab::new();
    let running = Running::start(&lab, &["--log-format", "json", "--log-level", "debug"]);
    two_requests(running.address);
    let log = running.end();
    let lines = log.lines().filter(|line| !line.starts_with("warning: "));
    let lines: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let asked = lines
        .iter()
        .find(|line| line["id"] == "id-7")
        .expect("a line");
    assert_eq!(asked["status"], 200);
    assert_eq!(asked["adapter"], "ticket (generation 1)");
    assert_eq!(asked["span"]["path"], "/v1/chat/completions");
    for secret in [KEY, PROMPT, "key-of-nobody"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

#[test]
fn quiet_logs_no_requests() {
    let lab = Lab::new();
    for flags in [["--quiet"].as_slice(), &["--log-level", "warn"]] {
        let running = Running::start(&lab, flags);
        two_requests(running.address);
        let log = running.end();
        assert!(!log.contains("POST"), "{log}");
    }
}
