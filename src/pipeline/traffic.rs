//! Prompts that a server kept, as inputs of a transfer.
//!
//! They are read once and kept in the journal: a run that goes on has the same, whatever the
//! server keeps or erases meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::job::{Done, Job, Session};
use super::judging::Arms;
use super::report::{ArmScore, TrafficReport};
use super::transfer::TransferData;
use super::{PipelineError, Stage, TransferPlan};
use crate::engine::{Engine, Model, Monitor};
use crate::kit::{self, Heard, Seed};
use crate::record::{ContentHash, Pair, Prompt, Rng, without_thoughts};
use crate::request::Inputs;

/// Prompts that stand for seeds where there are no others.
const SEEDS: usize = 16;
/// Tokens that a chat template may write around a prompt.
const TEMPLATE_TOKENS: usize = 64;

/// A prompt, and what the old adapter answered where that was kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Asked {
    pub prompt: Prompt,
    pub answer: Option<String>,
}

/// What was read of a harvest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    /// The name that the adapter was served under.
    adapter: String,
    /// Texts that the source's template did not write, so that nobody knows what was asked.
    unread: usize,
    /// Prompts that the source cannot read, or has no room for with an answer.
    unfit: usize,
}

/// What users asked, but for what stands for seeds.
pub(super) struct Traffic {
    head: Head,
    /// Prompts that stand for seeds.
    seeds: usize,
    pub rows: Vec<Asked>,
}

/// Read the harvest where there is one; choose seeds of it where there are no others.
///
/// fails: nothing is kept of the adapter, or its file is damaged
pub(super) fn read(
    engine: &dyn Engine,
    plan: &TransferPlan,
    data: &mut TransferData,
    job: &mut Job<'_>,
) -> Result<(), PipelineError> {
    let Some(path) = &plan.harvest else {
        return Ok(());
    };
    let (context, lora) = (job.context, data.hashes["source_lora"]);
    let mut session = Session::of_source(engine, plan, Vec::new()).at(job.now);
    let done = job.stage("harvest", Stage::Kit, |monitor, _| {
        let harvest = kit::harvest(path, lora, context.clock.unix_seconds())?;
        let (model, _) = session.get()?;
        let (head, rows) = understood(model, harvest, plan, monitor)?;
        let summary = format!("{} prompts of users of {:?}", rows.len(), head.adapter);
        Ok(Done {
            head,
            rows,
            blob: None,
            summary,
        })
    })?;
    drop(session);
    let (head, mut rows) = (done.head, done.rows);
    if head.unread + head.unfit > 0 {
        let text = format!(
            "of the prompts that are kept, {} are texts that the source's chat template did not \
             write, and {} do not fit the source: they are left out",
            head.unread, head.unfit
        );
        context.events.warn(Stage::Kit, text);
    }
    // They decide the bytes of the adapter.
    let bytes = serde_json::to_vec(&rows).unwrap_or_default();
    data.hashes
        .insert("harvest".into(), ContentHash::of(&bytes));
    let mut seeds = 0;
    if let Inputs::Harvest(path) = plan.inputs() {
        data.seeds = seeds_of(path, &rows, plan.run.seed)?;
        let chosen: BTreeSet<&str> = data.seeds.iter().map(Seed::text).collect();
        rows.retain(|row| !chosen.contains(row.prompt.text.trim()));
        seeds = data.seeds.len();
    }
    data.traffic = Some(Traffic { head, seeds, rows });
    Ok(())
}

/// What was asked, each prompt once, as far as the source can tell and has room for it.
fn understood(
    model: &dyn Model,
    harvest: kit::Harvest,
    plan: &TransferPlan,
    monitor: &mut Monitor<'_>,
) -> Result<(Head, Vec<Asked>), PipelineError> {
    let mut head = Head {
        adapter: harvest.adapter,
        unread: 0,
        unfit: 0,
    };
    let (mut rows, mut seen) = (Vec::new(), BTreeSet::new());
    let count = harvest.rows.len();
    for (at, row) in harvest.rows.into_iter().enumerate() {
        monitor.tick(at, count)?;
        let prompt = match row.heard {
            Heard::Prompt(prompt) => Some(prompt),
            Heard::Text(text) => model.conversation(&text),
        };
        let Some(prompt) = prompt else {
            head.unread += 1;
            continue;
        };
        if !fits(model, &prompt, plan) {
            head.unfit += 1;
        } else if seen.insert(prompt.clone()) {
            let answer = row.answer;
            rows.push(Asked { prompt, answer });
        }
    }
    Ok((head, rows))
}

/// Prompts that stand for all: one of each answer before a second of any, where answers are kept.
fn seeds_of(path: &Path, rows: &[Asked], seed: u64) -> Result<Vec<Seed>, PipelineError> {
    let pair = |row: &Asked| {
        let answer = row.answer.clone().unwrap_or_default();
        Pair::new(row.prompt.clone(), answer)
    };
    let pairs: Vec<Pair> = rows.iter().map(pair).collect();
    let mut rng = Rng::new(seed, "seeds of traffic");
    let count = SEEDS.min(pairs.len());
    Ok(kit::choose_seeds(path, &pairs, count, &mut rng)?)
}

/// The source can read a prompt, with room for the template and an answer.
fn fits(model: &dyn Model, prompt: &Prompt, plan: &TransferPlan) -> bool {
    let room = " a".repeat(plan.answer.answer_tokens + TEMPLATE_TOKENS);
    let whole = format!("{}{room}", prompt.whole());
    model.check_text(&whole).is_ok()
}

impl Traffic {
    /// What it was worth. `held_out`: the rows that fidelity is of; `accepted`: prompts that the judge
    /// accepted.
    pub fn report(&self, arms: &Arms, held_out: &[Pair], accepted: usize) -> TrafficReport {
        let asked: BTreeMap<&Prompt, &Asked> =
            self.rows.iter().map(|row| (&row.prompt, row)).collect();
        let rows = held_out.iter().enumerate();
        let rows: Vec<(usize, &Asked)> = rows
            .filter_map(|(at, row)| Some((at, *asked.get(&row.prompt)?)))
            .collect();
        let [bare, adapted] = &arms.synthetic;
        let of = |right: &[bool]| {
            let right: Vec<bool> = rows.iter().map(|(at, _)| right[*at]).collect();
            ArmScore::of(&right)
        };
        let as_users_got = |(at, asked): &(usize, &Asked)| {
            let got = asked.answer.as_deref()?;
            Some(without_thoughts(got).0.trim() == adapted.answers.get(*at)?)
        };
        let users: Vec<bool> = rows.iter().filter_map(as_users_got).collect();
        TrafficReport {
            adapter: self.head.adapter.clone(),
            prompts: self.rows.len() + self.seeds,
            unread: self.head.unread,
            unfit: self.head.unfit,
            seeds: self.seeds,
            accepted,
            held_out: rows.len(),
            target: of(&bare.correct),
            transferred: of(&adapted.correct),
            users: (!users.is_empty()).then(|| ArmScore::of(&users)),
        }
    }
}
