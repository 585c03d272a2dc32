//! `translora transfer`: source base + LoRA and seeds in, a judged LoRA for the target out.
//!
//! Here is what is read and refused before any model is opened; `run` has the stages,
//! `reporting` the report and the files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::inputs;
use super::job::{Job, announce, announce_rows, hash_inputs, once, read_rows};
use super::journal::Journal;
use super::traffic::{self, Traffic};
use super::{Context, PipelineError, Stage, TransferPlan, TransferReport};
use crate::engine::{Engine, Monitor};
use crate::kit::{self, Completion, Kit, Reading, Rows, Seed};
use crate::publish::{self, Outputs};
use crate::record::{ContentHash, Pair};
use crate::request::{Inputs, Learn};

mod reporting;
mod run;

/// The longest report that is read back. units: bytes
const REPORT_BYTES_MAX: u64 = 256 << 20;

/// Everything read before any model is opened.
pub(super) struct TransferData {
    pub seeds: Vec<Seed>,
    pub kit: Option<Kit>,
    /// The lines of the seeds in their file; empty for those of a kit.
    pub seed_lines: Vec<usize>,
    pub eval: Option<Vec<Pair>>,
    /// The lines of the rows of `--eval`.
    pub eval_lines: Vec<usize>,
    pub hashes: BTreeMap<String, ContentHash>,
    /// What a server kept of what users asked, where that was requested.
    pub traffic: Option<Traffic>,
}

/// One transfer.
struct Transfer<'a> {
    engine: &'a dyn Engine,
    plan: &'a TransferPlan,
    /// The plan as it was announced.
    announced: serde_json::Value,
    data: &'a TransferData,
    outputs: Outputs,
}

/// Transfer an adapter to another base.
///
/// fails: with [`PipelineError::Cancelled`] when stopped; the journal is then kept
pub fn transfer(
    engine: &dyn Engine,
    plan: &TransferPlan,
    context: &Context<'_>,
) -> Result<TransferReport, PipelineError> {
    let announced = announce(context, "transfer", plan);
    let outputs = Outputs::beside(&plan.out);
    let (mut data, seconds) = once(context, Stage::Kit, |monitor| {
        let data = read(plan, context, monitor)?;
        let from = if data.kit.is_some() {
            " from the kit"
        } else {
            ""
        };
        let summary = match plan.inputs() {
            Inputs::Harvest(_) => "seeds from what users asked".into(),
            _ => format!("{} seeds{from}", data.seeds.len()),
        };
        Ok((data, summary))
    })?;
    let publishing = Journal::lies_beside(&plan.out)? && plan.run.resume;
    if plan.run.resume
        && !publishing
        && let Some(report) = published(&outputs, &announced, &data.hashes)
    {
        let text = "this run has ended: what it published lies there";
        context.events.note(Stage::Publish, text);
        return Ok(report);
    }
    if !publishing {
        publish::check_writable(&outputs.all())?;
    }
    let mut job = Job::open(
        context,
        "transfer",
        announced.clone(),
        data.hashes.clone(),
        &plan.out,
    )?;
    job.seconds.insert(Stage::Kit.name().into(), seconds);
    let heard = traffic::read(engine, plan, &mut data, &mut job);
    let result = heard.and_then(|()| {
        Transfer {
            engine,
            plan,
            announced,
            data: &data,
            outputs,
        }
        .run(&mut job)
    });
    job.end(result)
}

/// The report of a run of this plan with these files that has ended already.
fn published(
    outputs: &Outputs,
    announced: &serde_json::Value,
    hashes: &BTreeMap<String, ContentHash>,
) -> Option<TransferReport> {
    let plan = lasting(announced).to_string();
    // As it is read back from a file.
    let plan: serde_json::Value = serde_json::from_str(&plan).ok()?;
    let read = |path: &PathBuf| {
        let bytes = kit::read_bytes(path, REPORT_BYTES_MAX).ok()?;
        let report: TransferReport = serde_json::from_slice(&bytes).ok()?;
        let same = |(name, hash): (&String, &ContentHash)| {
            report.provenance.get(&format!("{name}.sha256")) == Some(&hash.to_string())
        };
        let is_it = report.plan == plan && hashes.iter().all(same) && report.adapter.is_file();
        is_it.then_some(report)
    };
    [&outputs.report, &outputs.rejected_report]
        .into_iter()
        .find_map(read)
}

/// The plan for the report, which is the same whether a run was stopped or not.
fn lasting(announced: &serde_json::Value) -> serde_json::Value {
    let mut plan = announced.clone();
    plan.as_object_mut().map(|plan| plan.remove("resume"));
    plan
}

fn read(
    plan: &TransferPlan,
    context: &Context<'_>,
    monitor: &mut Monitor<'_>,
) -> Result<TransferData, PipelineError> {
    let inputs = plan.inputs();
    let reading = |completion| Reading {
        completion,
        format: plan.rows.format,
        learn: Learn::Last,
        limits: &plan.limits,
    };
    let mut seed_lines = Vec::new();
    let (seeds, kit) = match inputs {
        Inputs::Seeds(path) => {
            let (seeds, rows) = kit::read_seeds(path, &reading(Completion::Optional))?;
            announce_rows(context, path, &rows);
            seed_lines = rows.lines;
            (seeds, None)
        }
        Inputs::Kit(path) => {
            let kit = Kit::open(path, &plan.limits)?;
            (kit.seeds().to_vec(), Some(kit))
        }
        // Read once, under the journal.
        Inputs::Harvest(_) => (Vec::new(), None),
    };
    let known = reading(Completion::Required);
    let eval = plan.eval.as_ref();
    let eval = eval.map(|path| read_rows(context, path, &known));
    let eval: Option<Rows> = eval.transpose()?;
    let source_lora = kit::teacher(&plan.source_lora, &plan.source)?;
    let oracle = plan.oracle.as_deref();
    let oracle = oracle.map(|path| kit::teacher(path, &plan.target));
    let oracle = oracle.transpose()?;
    let mut files: Vec<(&str, &Path)> = vec![
        ("source", &plan.source),
        ("source_lora", &source_lora),
        ("target", &plan.target),
    ];
    if !matches!(inputs, Inputs::Harvest(_)) {
        files.push((inputs.name(), inputs.path()));
    }
    files.extend(plan.eval.as_deref().map(|path| ("eval", path)));
    files.extend(oracle.as_deref().map(|path| ("oracle", path)));
    let hashes = hash_inputs(&files, monitor)?;
    if let Some(kit) = &kit {
        kit.check_made_for(
            inputs.path(),
            (&plan.source, hashes["source"]),
            (&plan.source_lora, hashes["source_lora"]),
        )?;
        inputs::check(plan, kit)?;
    }
    Ok(TransferData {
        seeds,
        kit,
        seed_lines,
        eval_lines: eval.iter().flat_map(|rows| rows.lines.clone()).collect(),
        eval: eval.map(|rows| rows.pairs),
        hashes,
        traffic: None,
    })
}

/// Provenance as keys of a GGUF header.
pub(super) fn metadata(provenance: &BTreeMap<String, String>) -> Vec<(String, String)> {
    provenance
        .iter()
        .map(|(name, value)| (format!("translora.{name}"), value.clone()))
        .collect()
}
