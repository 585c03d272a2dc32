//! A transfer inside a llama-server that the library was loaded into: started over its socket,
//! followed to its end.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use translora::control::{Backend, Command, Job, Problem, Reply, Socket, State};
use translora::jobs::TransferRequest;
use translora::pipeline::{Inputs, TransferPlan};
use translora::record::Remedy;

use crate::adapters::absolute;
use crate::failure::{Failure, InFlags};
use crate::progress::Talk;
use crate::{Outcome, out};

/// Start the transfer in the server at `socket` and wait for its end. The server swaps the new
/// adapter in if the gate accepts it.
pub fn transfer(socket: &Path, plan: &TransferPlan, talk: Talk) -> Result<Outcome, Failure> {
    let server = Socket::new(socket.into());
    let Value::Object(request) = request(plan)? else {
        return Err(Failure::Bug("a request is no object".into()));
    };
    let command = Command::Transfer {
        name: None,
        request,
    };
    let queued = job(&server, command)?;
    let id = queued.id;
    if !talk.quiet {
        out::say(&format!(
            "job {id} in the server at {}; it goes on if this command is stopped",
            socket.display()
        ));
    }
    let ended = follow(&server, queued, talk)?;
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
    out::data(&if talk.json {
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
fn follow(server: &Socket, mut job: Job, talk: Talk) -> Result<Job, Failure> {
    let mut stage = None;
    while !job.state.is_end() {
        // Answers when there is something new, or after a moment.
        let (id, after) = (job.id, job.last_event);
        server.carry(Command::Events { job: id, after })?;
        job = self::job(server, Command::Job { job: id })?;
        if job.stage != stage {
            stage.clone_from(&job.stage);
            if let Some(stage) = stage.as_ref().filter(|_| !talk.quiet) {
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
fn request(plan: &TransferPlan) -> Result<Value, Failure> {
    let whole = |path: &PathBuf| absolute(path).map(PathBuf::from);
    let (kit, seeds) = match &plan.inputs {
        Inputs::Kit(kit) => (Some(whole(kit)?), None),
        Inputs::Seeds(seeds) => (None, Some(whole(seeds)?)),
    };
    let recipe = &plan.recipe;
    let request = TransferRequest {
        source: whole(&plan.source)?,
        source_lora: whole(&plan.source_lora)?,
        target: whole(&plan.target)?,
        kit,
        seeds,
        out: whole(&plan.out)?,
        samples: plan.samples,
        filter: plan.filter,
        generator: plan.generator,
        label: plan.label,
        objective: plan.objective,
        token_weights: plan.token_weights,
        kl_budget: plan.kl_budget,
        eval: plan.eval.as_ref().map(whole).transpose()?,
        oracle: plan.oracle.as_ref().map(whole).transpose()?,
        flip_budget: plan.flip_budget,
        allow_weak_source: plan.allow_weak_source,
        temperature: plan.temperature,
        input_tokens: plan.limits.input_tokens_max,
        answer_tokens: plan.limits.completion_tokens_max,
        near: plan.repeats.near,
        ignore_numbers: plan.repeats.numbers,
        seed_run: plan.repeats.seed_run,
        epochs: recipe.epochs,
        restarts: recipe.restarts,
        rank: recipe.rank,
        alpha: recipe.alpha,
        rslora: recipe.rslora,
        modules: recipe.modules.clone(),
        layers: recipe.layers,
        lr: recipe.learning_rate,
        lora_plus: recipe.b_rate,
        schedule: recipe.schedule,
        warmup: recipe.warmup,
        batch: recipe.batch,
        micro_batch: recipe.micro_batch,
        memory: recipe.memory,
        weight_decay: recipe.weight_decay,
        lora_dropout: recipe.dropout,
        clip: recipe.clip_norm,
        early_stop: recipe.patience,
        threads: plan.open.threads,
        gpu_layers: plan.open.gpu_layers,
        device: plan.open.device.clone(),
        ctx_size: plan.open.context,
        seed: plan.seed,
        resume: plan.resume,
    };
    serde_json::to_value(request)
        .map_err(|error| Failure::Bug(format!("a request is not JSON: {error}")))
}
