//! A transfer inside a llama-server that the library was loaded into: started over its socket,
//! followed to its end.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use translora::jobs::TransferRequest;
use translora::pipeline::{Inputs, TransferPlan};
use translora::record::Remedy;

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
