//! `translora train`, `translora kit` and `translora eval`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::job::{
    Done, Job, Session, announce, check_rows, fitting, hash_inputs, introduce, once, read_rows,
    recipe,
};
use super::journal::Journal;
use super::transfer::metadata;
use super::{Context, EvalPlan, EvalReport, PipelineError, Stage, TrainPlan, TrainReport};
use crate::distill::{Fitted, fit};
use crate::engine::{Engine, With};
use crate::evaluate::{self, Arm};
use crate::kit::{Completion, Reading, Rows};
use crate::publish::{self, Outputs};
use crate::record::{Pair, Prompt};
use crate::request::Learn;

/// Fit an adapter on rows with answers.
pub fn train(
    engine: &dyn Engine,
    plan: &TrainPlan,
    context: &Context<'_>,
) -> Result<TrainReport, PipelineError> {
    let announced = announce(context, "train", plan);
    let outputs = Outputs::beside(&plan.out);
    let ((rows, hashes), seconds) = once(context, Stage::Kit, |monitor| {
        let reading = Reading {
            completion: Completion::Required,
            format: plan.rows.format,
            learn: plan.learn,
            limits: &plan.limits,
        };
        let rows = read_rows(context, &plan.data, &reading)?;
        let hashes = hash_inputs(&[("model", &plan.model), ("data", &plan.data)], monitor)?;
        let summary = format!("{} answers to learn", rows.pairs.len());
        Ok(((rows, hashes), summary))
    })?;
    let begun = Journal::lies_beside(&plan.out)?;
    if !(plan.run.resume && begun) {
        publish::check_writable(&[&outputs.adapter, &outputs.report])?;
    }
    let mut header = BTreeMap::from([
        ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("seed".to_owned(), plan.run.seed.to_string()),
    ]);
    header.extend(
        hashes
            .iter()
            .map(|(name, hash)| (format!("{name}.sha256"), hash.to_string())),
    );
    let mut job = Job::open(context, "train", announced, hashes, &plan.out)?;
    job.seconds.insert(Stage::Kit.name().into(), seconds);
    let result = train_in(engine, plan, &rows, &header, &outputs, &mut job);
    job.end(result)
}

fn train_in(
    engine: &dyn Engine,
    plan: &TrainPlan,
    rows: &Rows,
    header: &BTreeMap<String, String>,
    outputs: &Outputs,
    job: &mut Job<'_>,
) -> Result<TrainReport, PipelineError> {
    let (context, now) = (job.context, job.now);
    let done = job.stage("distill", Stage::Distill, |_, journal| {
        let mut session = Session::new(engine, &plan.model, &plan.machine, Vec::new()).at(now);
        let (model, _) = session.get()?;
        check_rows(model, &plan.data, (&rows.pairs, &rows.lines), context)?;
        let recipe = recipe(
            &plan.training,
            plan.epochs,
            plan.run.seed,
            model.info().width,
        );
        let mut header = header.clone();
        header.extend(introduce(context, model).map(|text| ("chat_template".to_owned(), text)));
        header.insert(
            "recipe".into(),
            serde_json::to_string(&recipe).unwrap_or_default(),
        );
        let fitted = fitting(
            context,
            journal,
            "distill",
            &metadata(&header),
            &[],
            |run| fit(model, &rows.pairs, &recipe, run),
        );
        let Fitted {
            adapter, report, ..
        } = fitted.map_err(|error| error.in_rows_of(&plan.data, &rows.lines))?;
        let summary = format!(
            "{} rows, {} steps, loss {:.4}",
            report.examples, report.steps, report.loss_last
        );
        Ok(Done {
            head: report,
            rows: Vec::<()>::new(),
            blob: Some(adapter),
            summary,
        })
    })?;
    let mut report = TrainReport {
        adapter: outputs.adapter.clone(),
        report: outputs.report.clone(),
        examples: done.head.examples,
        steps: done.head.steps,
        loss_first: done.head.loss_first,
        loss_last: done.head.loss_last,
        fit: done.head,
        seconds: job.seconds.clone(),
    };
    let (_, seconds) = once(context, Stage::Publish, |monitor| {
        monitor.tick(0, 1)?;
        let json = job.settle(
            "report",
            serde_json::to_string_pretty(&report).unwrap_or_default() + "\n",
        )?;
        publish::write_new(&outputs.report, json.as_bytes())?;
        publish::unjudged(
            done.blob.as_deref().unwrap_or_default(),
            &[],
            &outputs.adapter,
        )?;
        Ok(((), outputs.adapter.display().to_string()))
    })?;
    report.seconds.insert(Stage::Publish.name().into(), seconds);
    Ok(report)
}

/// Answer rows with a model, with or without an adapter, and compare with their answers.
pub fn eval(
    engine: &dyn Engine,
    plan: &EvalPlan,
    context: &Context<'_>,
) -> Result<EvalReport, PipelineError> {
    announce(context, "eval", plan);
    let mut seconds = BTreeMap::new();
    let (rows, spent) = once(context, Stage::Kit, |_| {
        let reading = Reading {
            completion: Completion::Required,
            format: plan.rows.format,
            learn: Learn::Last,
            limits: &plan.limits,
        };
        let rows = read_rows(context, &plan.data, &reading)?;
        publish::check_writable(
            &plan
                .answers
                .iter()
                .map(PathBuf::as_path)
                .collect::<Vec<_>>(),
        )?;
        let summary = format!("{} rows", rows.pairs.len());
        Ok((rows, summary))
    })?;
    seconds.insert(Stage::Kit.name().to_owned(), spent);
    let adapters = plan.lora.iter().cloned().collect();
    let mut session = Session::new(engine, &plan.model, &plan.machine, adapters)
        .at(context.clock.unix_seconds())
        .for_answers(None);
    let ((), spent) = once(context, Stage::Open, |_| {
        let (model, _) = session.get()?;
        introduce(context, model);
        check_rows(model, &plan.data, (&rows.pairs, &rows.lines), context)?;
        Ok(((), model.info().name.clone()))
    })?;
    seconds.insert(Stage::Open.name().to_owned(), spent);
    let (arm, spent) = once(context, Stage::Evaluate, |monitor| {
        let (model, adapters) = session.get()?;
        let with = adapters.first().map_or(With::Base, |&id| With::Adapter(id));
        let arm = evaluate::arm(model, with, &rows.pairs, plan.answer.answer_tokens, monitor)?;
        let summary = format!("{:.1} % of {}", 100.0 * arm.exact(), arm.rows());
        Ok((arm, summary))
    })?;
    seconds.insert(Stage::Evaluate.name().to_owned(), spent);
    if let Some(path) = &plan.answers {
        publish::write_new(path, answered(&rows.pairs, &arm).as_bytes())?;
    }
    Ok(EvalReport {
        model: plan.model.clone(),
        lora: plan.lora.clone(),
        rows: arm.rows(),
        correct: arm.right(),
        exact: arm.exact(),
        interval: arm.interval(),
        verbatim: arm.verbatim,
        cut_off: arm.cut_off,
        answer_tokens: plan.answer.answer_tokens,
        nll: arm.nll,
        tokens_per_answer: arm.tokens_per_answer,
        seconds,
    })
}

/// A row with what was answered.
#[derive(Serialize)]
struct Answered<'a> {
    prompt: &'a Prompt,
    completion: &'a str,
    answer: &'a str,
    right: bool,
}

/// One line of JSON for each row.
fn answered(rows: &[Pair], arm: &Arm) -> String {
    let answers = arm.answers.iter().zip(&arm.correct);
    let line = |(row, (answer, &right)): (&Pair, (&String, &bool))| {
        let row = Answered {
            prompt: &row.prompt,
            completion: &row.completion,
            answer,
            right,
        };
        serde_json::to_string(&row).unwrap_or_default() + "\n"
    };
    rows.iter().zip(answers).map(line).collect()
}
