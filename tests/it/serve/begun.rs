//! Transfers that did not come to their end: taken up, started anew, taken away, found again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use translora::serve::Config;

use super::client::{Reply, get, open, post};
use super::transfers::{config, request, wait};
use super::{Lab, serve};

fn start(address: SocketAddr, lab: &Lab, resume: bool) -> Value {
    let mut body = request(lab, "moved");
    body["resume"] = json!(resume);
    let reply = post(address, "/v1/transfers", &body);
    assert_eq!(reply.status, 202, "{reply:?}");
    reply.json()
}

fn delete(address: SocketAddr, id: &Value) -> Reply {
    open(address, "DELETE", &format!("/v1/transfers/{id}"), &[], b"").whole()
}

fn number(job: &Value) -> u64 {
    job["id"].as_u64().expect("a number")
}

fn file(job: &Value) -> String {
    let out = PathBuf::from(job["out"].as_str().expect("a path"));
    out.file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned()
}

/// Wait until a transfer has done something that can be gone on with.
fn begun(lab: &Lab, job: &Value) {
    let index = lab
        .world
        .path(&format!("{}.journal/journal.jsonl", file(job)));
    while !std::fs::read_to_string(&index).is_ok_and(|text| text.lines().count() > 1) {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Start a transfer, and stop it when it has begun.
fn stopped(address: SocketAddr, lab: &Lab, resume: bool) -> Value {
    let job = start(address, lab, resume);
    begun(lab, &job);
    assert_eq!(delete(address, &job["id"]).status, 200);
    wait(address, number(&job), |job| !job["not_live"].is_null())
}

#[test]
fn one_that_was_stopped_is_taken_up_started_anew_and_taken_away() {
    let lab = Lab::new();
    let (server, address) = serve(config(&lab));
    let first = stopped(address, &lab, false);
    assert_eq!(
        (first["state"].as_str(), file(&first)),
        (Some("cancelled"), "moved@1.gguf".into())
    );
    // Anew: nothing is in its way.
    let anew = stopped(address, &lab, false);
    assert_eq!(file(&anew), "moved@2.gguf");
    let journal = |file: &str| lab.world.path(&format!("{file}.journal")).is_dir();
    assert!(journal("moved@1.gguf") && journal("moved@2.gguf"));
    // Taken away, after a start as well.
    drop(server);
    let (_server, address) = serve(config(&lab));
    let listed = get(address, "/v1/transfers").json();
    let ids: Vec<&Value> = listed["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|job| &job["id"])
        .collect();
    assert_eq!(ids, [&first["id"], &anew["id"]], "{listed}");
    assert_eq!(delete(address, &anew["id"]).status, 200);
    assert!(!journal("moved@2.gguf"));
    // Taken up: the one that it goes on with is not listed any more.
    let again = start(address, &lab, true);
    assert_eq!(file(&again), "moved@1.gguf");
    assert!(number(&again) > number(&anew), "{again}");
    let done = wait(address, number(&again), |job| !job["generation"].is_null());
    assert_eq!(done["verdict"], "accept", "{done}");
    assert_eq!(
        get(address, &format!("/v1/transfers/{}", first["id"])).status,
        404
    );
    assert!(!journal("moved@1.gguf"));
}

#[test]
fn one_that_ended_with_the_server_is_found_and_taken_up_when_that_is_wanted() {
    let lab = Lab::new();
    let (server, address) = serve(config(&lab));
    let job = start(address, &lab, false);
    begun(&lab, &job);
    drop(server);
    let (server, address) = serve(config(&lab));
    let found = get(address, &format!("/v1/transfers/{}", job["id"])).json();
    assert_eq!(found["state"], "failed", "{found}");
    assert!(
        found["problem"]["message"]
            .as_str()
            .expect("text")
            .contains("the server ended")
    );
    drop(server);
    let taken_up = Config {
        resume_transfers: true,
        ..config(&lab)
    };
    let (server, address) = serve(taken_up);
    let listed = get(address, "/v1/transfers").json();
    let again = number(&listed["data"][0]);
    let done = wait(address, again, |job| !job["generation"].is_null());
    assert_eq!(
        (file(&done), done["verdict"].as_str()),
        (file(&job), Some("accept"))
    );
    let live = get(address, "/v1/models/moved").json();
    assert_eq!(live["id"], "moved", "{live}");
    drop(server);
    // One that has ended is listed after the next start, as it ended.
    let (_server, address) = serve(config(&lab));
    let kept = get(address, &format!("/v1/transfers/{again}")).json();
    assert_eq!(
        (&kept["state"], &kept["generation"]),
        (&json!("done"), &done["generation"])
    );
    assert_eq!(get(address, "/v1/models/moved").status, 200);
}

#[test]
fn a_journal_of_which_nothing_is_known_is_listed_and_can_be_taken_away() {
    let lab = Lab::new();
    let (server, address) = serve(config(&lab));
    let job = stopped(address, &lab, false);
    drop(server);
    std::fs::write(lab.world.path("serve-state.json"), "{").expect("writable");
    let (_server, address) = serve(config(&lab));
    let listed = get(address, "/v1/transfers").json();
    assert_eq!(file(&listed["data"][0]), file(&job), "{listed}");
    assert_eq!(delete(address, &listed["data"][0]["id"]).status, 200);
    assert_eq!(get(address, "/v1/transfers").json()["data"], json!([]));
    assert!(!lab.world.path("moved@1.gguf.journal").exists());
}
