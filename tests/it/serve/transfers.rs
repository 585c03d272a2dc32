//! A transfer over HTTP: the adapter it makes goes live under the name of the request.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use translora::serve::Config;

use super::client::{ask, get, open, post, said};
use super::{Lab, endless, serve};

/// Longer than a toy transfer takes, on a machine with other work too.
const LONG: Duration = Duration::from_secs(120);

/// The new base is served; the old base and its adapter are files.
pub fn config(lab: &Lab) -> Config {
    Config {
        model: lab.world.target.clone(),
        alias: "new".into(),
        adapters: Vec::new(),
        ..lab.config()
    }
}

pub fn request(lab: &Lab, name: &str) -> Value {
    let world = &lab.world;
    json!({
        "name": name, "source": world.source, "source_lora": lab.adapters[0], "seeds": world.seeds, "eval": world.eval,
        "samples": 120, "rank": 8, "lr": 4e-3,
    })
}

pub fn wait(address: std::net::SocketAddr, id: u64, until: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let status = get(address, &format!("/v1/transfers/{id}")).json();
        if until(&status) {
            return status;
        }
        assert!(began.elapsed() < LONG, "{status}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_accepted_transfer_goes_live_while_a_stream_runs() {
    let lab = Lab::new();
    let (_server, address) = serve(Config {
        context: 4 << 20,
        ..config(&lab)
    });
    let mut stream = endless(address, "new");
    let reply = post(address, "/v1/transfers", &request(&lab, "moved"));
    assert_eq!(reply.status, 202, "{reply:?}");
    let id = reply.json()["id"].as_u64().expect("a number");
    assert_eq!(ask(address, "moved", &lab.prompts[0]).status, 404);
    let events = open(
        address,
        "GET",
        &format!("/v1/transfers/{id}/events"),
        &[],
        b"",
    )
    .rest();
    let events: Vec<Value> = events
        .iter()
        .map(|event| serde_json::from_str(event).expect("events are JSON"))
        .collect();
    assert_eq!(events[0]["event"], "plan");
    assert_eq!(events[0]["number"], 1);
    let end = events.last().expect("there is an end");
    assert_eq!(end["state"], "done", "{end}");
    assert_eq!(end["verdict"], "accept", "{end}");
    assert_eq!(end["generation"], "1", "{end}");
    assert_eq!(end["report"]["verdict"], "accept");
    let report = get(address, &format!("/v1/transfers/{id}/report")).json();
    assert_eq!(report, end["report"]);
    // Who comes back goes on behind the last event that was seen.
    let last = events[events.len() - 3]["number"].to_string();
    let rest = open(
        address,
        "GET",
        &format!("/v1/transfers/{id}/events"),
        &[("Last-Event-ID", &last)],
        b"",
    )
    .rest();
    let rest: Vec<Value> = rest
        .iter()
        .map(|event| serde_json::from_str(event).expect("events are JSON"))
        .collect();
    assert_eq!(rest, events[events.len() - 2..]);
    for wrong in ["first", "-1", "1.5", "99999999999999999999"] {
        let path = format!("/v1/transfers/{id}/events");
        let reply = open(address, "GET", &path, &[("Last-Event-ID", wrong)], b"").whole();
        assert_eq!(reply.status, 400, "{wrong}: {reply:?}");
        assert!(reply.error().contains("Last-Event-ID"), "{reply:?}");
    }
    let answers = lab.answers(Some(&lab.adapters[0]));
    let right = lab
        .prompts
        .iter()
        .zip(&answers)
        .filter(|(prompt, answer)| said(&ask(address, "moved", prompt)) == **answer)
        .count();
    assert!(
        2 * right > lab.prompts.len(),
        "{right} of {} answers are the old adapter's",
        lab.prompts.len()
    );
    assert!(
        lab.world.names().contains(&"moved@1.gguf".to_owned()),
        "{:?}",
        lab.world.names()
    );
    stream.events().expect("the stream goes on");
    let again = post(address, "/v1/transfers", &request(&lab, "moved")).json()["id"]
        .as_u64()
        .expect("a number");
    let status = wait(address, again, |status| !status["generation"].is_null());
    assert_eq!(status["generation"], "2");
    assert!(
        status["adapter"]
            .as_str()
            .is_some_and(|path| path.ends_with("moved@2.gguf"))
    );
    assert_eq!(
        get(address, "/v1/transfers").json()["data"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    assert_eq!(
        open(address, "DELETE", &format!("/v1/transfers/{id}"), &[], b"")
            .whole()
            .status,
        200
    );
    assert_eq!(get(address, &format!("/v1/transfers/{id}")).status, 404);
}

#[test]
fn a_transfer_can_be_stopped_and_bad_ones_are_refused() {
    let lab = Lab::new();
    let (_server, address) = serve(config(&lab));
    let mut long = request(&lab, "moved");
    long["samples"] = json!(5000);
    let id = post(address, "/v1/transfers", &long).json()["id"]
        .as_u64()
        .expect("a number");
    let stopped = open(address, "DELETE", &format!("/v1/transfers/{id}"), &[], b"").whole();
    assert_eq!(stopped.status, 200);
    let status = wait(address, id, |status| {
        status["state"] == "cancelled" && !status["not_live"].is_null()
    });
    assert_eq!(status["not_live"], "the transfer ended as cancelled");
    assert_eq!(&status["generation"], &Value::Null);
    assert_eq!(ask(address, "moved", &lab.prompts[0]).status, 404);
    let report = get(address, &format!("/v1/transfers/{id}/report"));
    assert_eq!(report.status, 409, "{report:?}");
    let with = |field: &str, value: Value| {
        let mut body = request(&lab, "moved");
        body[field] = value;
        post(address, "/v1/transfers", &body)
    };
    for (field, value) in [
        ("name", json!("../x")),
        ("name", json!("new")),
        ("out", json!("x.gguf")),
        ("target", json!("x")),
        ("sample", json!(3)),
        ("samples", json!(0)),
    ] {
        let reply = with(field, value.clone());
        assert_eq!(reply.status, 400, "{field} {value}: {reply:?}");
    }
    assert_eq!(get(address, "/v1/transfers/99").status, 404);
    assert_eq!(get(address, "/v1/transfers/x").status, 404);
}
