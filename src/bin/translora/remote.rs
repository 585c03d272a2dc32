//! A transfer inside a llama-server that the library was loaded into: started over its socket,
//! followed to its end.

use std::path::Path;

use serde_json::{Value, json};
use translora::pipeline::TransferPlan;
use translora::record::Remedy;
use translora::request::{Fields, Kind, Transfer};

use crate::adapters::{absolute, ask};
use crate::failure::{Failure, InFlags};
use crate::progress::Talk;
use crate::{Outcome, out};

/// Start the transfer in the server at `socket` and wait for its end. The server swaps the new
/// adapter in if the gate accepts it.
pub fn transfer(socket: &Path, plan: &TransferPlan, talk: Talk) -> Result<Outcome, Failure> {
    let job = ask(
        socket,
        &json!({"do": "transfer", "request": request(plan)?}),
    )?["job"]
        .clone();
    if !talk.quiet {
        out::say(&format!(
            "job {job} in the server at {}; it goes on if this command is stopped",
            socket.display()
        ));
    }
    let (mut after, mut stage) = (json!(0), String::new());
    let status = loop {
        let status = ask(socket, &json!({"do": "job", "job": job}))?["job"].take();
        if !matches!(status["state"].as_str(), Some("waiting" | "running")) {
            break status;
        }
        // Answers when there is something new, or after two seconds.
        for event in ask(socket, &json!({"do": "events", "job": job, "after": after}))?["events"]
            .as_array()
            .into_iter()
            .flatten()
        {
            after = event["number"].clone();
        }
        if let Some(now) = status["stage"]
            .as_str()
            .filter(|now| *now != stage && !talk.quiet)
        {
            out::say(&format!("  {now}"));
            stage = now.into();
        }
    };
    if status["state"] != "done" {
        let said = |name: &str| status["problem"][name].as_str().map(str::to_owned);
        let message =
            said("message").unwrap_or_else(|| format!("the job ended as {}", status["state"]));
        return Err(Failure::Usage {
            message,
            hint: serde_json::from_value(status["problem"]["remedy"].clone()).map_or_else(
                |_| "the server's log has more".into(),
                |remedy: Remedy| remedy.words(&InFlags),
            ),
        });
    }
    let mut report = ask(socket, &json!({"do": "report", "job": job}))?["report"].take();
    report["swap"] = status["swap"].clone();
    out::data(&if talk.json {
        report.to_string()
    } else {
        out::columns(&out::rows(&report)).join("\n")
    })?;
    match (
        status["verdict"] == "accept",
        status["swap"]["error"].as_str(),
    ) {
        (true, None) => Ok(Outcome::Done),
        (true, Some(error)) => Err(Failure::Usage {
            message: format!("the new adapter was accepted, but not swapped in: {error}"),
            hint: "load it by hand".into(),
        }),
        (false, _) => Ok(Outcome::Refused),
    }
}

/// The plan as the server takes it: with whole paths, for it may run in another folder.
fn request(plan: &TransferPlan) -> Result<Value, Failure> {
    let mut values = plan.values();
    for (field, _) in Transfer::rows() {
        if let (Kind::Path, Some(Value::String(path))) = (field.kind, values.get_mut(field.name)) {
            *path = absolute(Path::new(path))?;
        }
    }
    Ok(values.into())
}
