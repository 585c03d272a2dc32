//! A transfer inside a llama-server that the library was loaded into: started over its socket,
//! followed to its end.

use std::path::Path;

use serde_json::{Map, Value, json};
use translora::control::{Backend, Command, Job, Problem, Reply, Socket, State};
use translora::pipeline::TransferPlan;
use translora::record::Remedy;
use translora::request::{Fields, Kind, Transfer};

use crate::adapters::absolute;
use crate::failure::{Failure, InFlags};
use crate::progress::Verbosity;
use crate::{Outcome, out};

/// Start the transfer in the server at `socket` and wait for its end. The server swaps the new
/// adapter in if the gate accepts it.
pub fn transfer(
    socket: &Path,
    plan: &TransferPlan,
    verbosity: Verbosity,
) -> Result<Outcome, Failure> {
    let server = Socket::new(socket.into());
    let request = request(plan)?;
    let command = Command::Transfer {
        name: None,
        request,
    };
    let queued = job(&server, command)?;
    let id = queued.id;
    if !verbosity.quiet {
        out::say(&format!(
            "job {id} in the server at {}; it goes on if this command is stopped",
            socket.display()
        ));
    }
    let ended = follow(&server, queued, verbosity)?;
    if ended.state != State::Done {
        let unknown = || Problem {
            cause: String::new(),
            message: format!("job {id} did not come to its end"),
            remedy: None,
            hint: "the server's log has more".into(),
        };
        let problem = ended.problem.unwrap_or_else(unknown);
        let remedy = problem
            .remedy
            .and_then(|data| serde_json::from_value(data).ok());
        let hint = remedy.map_or(problem.hint, |remedy: Remedy| remedy.words(&InFlags));
        let message = problem.message;
        return Err(Failure::Usage { message, hint });
    }
    let mut report = ended.report.unwrap_or_default();
    report["generation"] = json!(ended.generation);
    report["not_live"] = json!(ended.not_live);
    out::data(&if verbosity.json {
        report.to_string()
    } else {
        out::columns(&out::rows(&report)).join("\n")
    })?;
    match (ended.verdict.as_deref(), ended.not_live) {
        (Some("accept"), None) => Ok(Outcome::Done),
        (Some("accept"), Some(reason)) => Err(Failure::Usage {
            message: format!("the new adapter was accepted, but not swapped in: {reason}"),
            hint: "load it by hand".into(),
        }),
        _ => Ok(Outcome::Refused),
    }
}

/// Say which stage a job is at, until it ends.
fn follow(server: &Socket, mut job: Job, verbosity: Verbosity) -> Result<Job, Failure> {
    let mut stage = None;
    while !job.state.is_end() {
        // Answers when there is something new, or after a moment.
        let (id, after) = (job.id, job.last_event);
        server.carry(Command::Events { job: id, after })?;
        job = self::job(server, Command::Job { job: id })?;
        if job.stage != stage {
            stage.clone_from(&job.stage);
            if let Some(stage) = stage.as_ref().filter(|_| !verbosity.quiet) {
                out::say(&format!("  {stage}"));
            }
        }
    }
    Ok(job)
}

fn job(server: &Socket, command: Command) -> Result<Job, Failure> {
    match server.carry(command)? {
        Reply::Job(job) => Ok(*job),
        _ => Err(Failure::Bug(
            "the server answered another command than it was asked".into(),
        )),
    }
}

/// The plan as the server takes it: with whole paths, for it may run in another folder.
fn request(plan: &TransferPlan) -> Result<Map<String, Value>, Failure> {
    let mut values = plan.values();
    for (field, _) in Transfer::rows() {
        if let (Kind::Path, Some(Value::String(path))) = (field.kind, values.get_mut(field.name)) {
            *path = absolute(Path::new(path))?;
        }
    }
    for name in ["chat_template", "source_chat_template"] {
        if let Some(Value::String(template)) = values.get_mut(name)
            && Path::new(&*template).is_file()
        {
            *template = absolute(Path::new(&*template))?;
        }
    }
    Ok(values)
}
