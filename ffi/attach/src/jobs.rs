//! Transfers in a server: started by a command, run by whoever registered ([`register`]), and
//! swapped in when the gate accepts.
//!
//! `{"do":"transfer","request":{…}}` answers `{"ok":true,"job":N}`; `{"do":"jobs"}`,
//! `{"do":"job","job":N}`, `{"do":"events","job":N, "after":N}`, `{"do":"cancel","job":N}`,
//! `{"do":"report","job":N}`. A job that is done has `"swap"`: what came of putting its adapter in,
//! or null where the gate did not accept it.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::control;
use crate::log::say;

/// How long one question for events waits for the next.
const EVENTS_WAIT: Duration = Duration::from_secs(2);
const WATCH_WAIT: Duration = Duration::from_secs(60);

/// What carries out transfers. Texts are JSON; errors are sentences, with `; hint: ` before what to
/// do.
///
/// thread: any, and several at once
pub trait Jobs: Send + Sync {
    /// Put a transfer into the queue and answer its number.
    fn start(&self, request: &str) -> Result<u64, String>;
    /// Wait until a job ends, or for this long.
    fn wait(&self, job: u64, timeout: Duration) -> Result<(), String>;
    /// How far a job is.
    fn status(&self, job: u64) -> Result<String, String>;
    /// Every job.
    fn list(&self) -> Result<String, String>;
    /// The events behind number `after`, once there is one.
    fn events(&self, job: u64, after: u64, timeout: Duration) -> Result<String, String>;
    /// Ask a job to stop.
    fn cancel(&self, job: u64) -> Result<(), String>;
    /// What a job came to.
    fn report(&self, job: u64) -> Result<String, String>;
}

type Make = fn() -> Result<Box<dyn Jobs>, String>;

static MAKE: OnceLock<Make> = OnceLock::new();
static JOBS: OnceLock<Result<Box<dyn Jobs>, String>> = OnceLock::new();
/// What came of putting a job's adapter in.
static SWAPS: Mutex<Option<HashMap<u64, Value>>> = Mutex::new(None);

/// Say who carries out transfers.
pub fn register(make: Make) {
    _ = MAKE.set(make);
}

fn jobs() -> Result<&'static dyn Jobs, String> {
    let made = JOBS.get_or_init(|| {
        MAKE.get()
            .ok_or("this build of the library carries out no transfers")?()
    });
    made.as_ref().map(Box::as_ref).map_err(Clone::clone)
}

/// Answer a command about jobs; none where it is about something else.
pub fn answer(command: &Value) -> Option<Result<Value, String>> {
    let number = || {
        command["job"]
            .as_u64()
            .ok_or_else(|| "this command needs a \"job\" number".to_owned())
    };
    Some(match command["do"].as_str()? {
        "transfer" => start(&command["request"]),
        "jobs" => jobs().and_then(|jobs| object("jobs", &jobs.list()?)),
        "job" => number().and_then(status),
        "events" => number().and_then(|job| {
            let after = command["after"].as_u64().unwrap_or_default();
            object("events", &jobs()?.events(job, after, EVENTS_WAIT)?)
        }),
        "cancel" => number().and_then(|job| {
            jobs()?.cancel(job)?;
            status(job)
        }),
        "report" => number().and_then(|job| object("report", &jobs()?.report(job)?)),
        _ => return None,
    })
}

fn object(name: &str, text: &str) -> Result<Value, String> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| format!("a bug in translora: {error}"))?;
    Ok(json!({"ok": true, name: value}))
}

fn swaps() -> std::sync::MutexGuard<'static, Option<HashMap<u64, Value>>> {
    SWAPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How far a job is; a job that is done is told as done only when its adapter is live.
fn status(job: u64) -> Result<Value, String> {
    let mut told = object("job", &jobs()?.status(job)?)?;
    let swap = swaps().get_or_insert_default().get(&job).cloned();
    if told["job"]["state"] == "done" && swap.is_none() {
        told["job"]["state"] = "running".into();
    }
    told["job"]["swap"] = swap.unwrap_or_default();
    Ok(told)
}

fn start(request: &Value) -> Result<Value, String> {
    if !request.is_object() {
        return Err(
            "transfer needs a \"request\": an object with the flags of `translora transfer`".into(),
        );
    }
    let job = jobs()?.start(&request.to_string())?;
    say(&format!(
        "job {job}: a transfer to {}",
        request["out"].as_str().unwrap_or("?")
    ));
    let watched = std::thread::Builder::new()
        .name("translora".into())
        .spawn(move || {
            let swap = watch(job).unwrap_or_else(|error| json!({"ok": false, "error": error}));
            say(&format!(
                "job {job}: {}",
                if swap.is_null() {
                    "ended without a new adapter".into()
                } else {
                    swap.to_string()
                }
            ));
            swaps().get_or_insert_default().insert(job, swap);
        });
    watched.map_err(|error| {
        format!("no thread watches job {job}: {error}; its adapter has to be loaded by hand")
    })?;
    Ok(json!({"ok": true, "job": job}))
}

/// Wait for the end of a job, and put its adapter in if the gate accepted it.
fn watch(job: u64) -> Result<Value, String> {
    let jobs = jobs()?;
    loop {
        jobs.wait(job, WATCH_WAIT)?;
        let status: Value =
            serde_json::from_str(&jobs.status(job)?).map_err(|error| error.to_string())?;
        match status["state"].as_str().unwrap_or_default() {
            "done" if status["verdict"] == "accept" => {
                let adapter = status["adapter"]
                    .as_str()
                    .ok_or("an accepted job names no adapter")?;
                return control::carry(json!({"do": "load", "path": adapter}));
            }
            "waiting" | "running" => {}
            _ => return Ok(Value::Null),
        }
    }
}
