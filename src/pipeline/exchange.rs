//! `translora import`, `translora export` and `translora merge`: an adapter in the formats of others.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::PipelineError;
use super::job::Session;
use crate::engine::{Answer, CompletionScore, Engine, EngineError, Merged, Monitor, With};
use crate::kit::{self, Completion, Reading};
use crate::publish::{self, PublishError};
use crate::record::{Blame, Cancel, Fault, Limits, Pair};
use crate::request::{Learn, Machine, RowFormat};

/// What both models are asked where there are no rows.
const QUESTIONS: [&str; 8] = [
    "Hello, who are you?",
    "Write one sentence about the sea.",
    "What is 12 plus 30?",
    "Name three colours.",
    "The printer on the second floor is broken again.",
    "Translate to French: good morning",
    "List the days of the week.",
    "Is a whale a fish? Answer yes or no.",
];
/// Tokens of an answer that are compared at most.
const ANSWER_TOKENS: usize = 64;
/// Rows of a file that are compared at most.
const ROWS_MAX: usize = 100;

/// An adapter that was written in another format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExchangeReport {
    /// The base whose names and rows were used.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub model: PathBuf,
    /// What was read.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub lora: PathBuf,
    /// The file or folder that was written.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub out: PathBuf,
    /// Matrices that it adapts.
    pub matrices: usize,
    /// The highest rank of a pair.
    pub rank: u64,
    /// LoRA's alpha: a pair is scaled by alpha / rank.
    pub alpha: f32,
}

/// A base that was written with an adapter in its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergeReport {
    /// The base.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub model: PathBuf,
    /// The adapter.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub lora: PathBuf,
    /// The file that was written.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub out: PathBuf,
    /// What the adapter was multiplied by.
    pub scale: f32,
    /// What that did to the weights.
    #[serde(flatten)]
    pub merged: Merged,
    /// What that did to its answers.
    pub cost: Option<MergeCost>,
    /// Why that is not known: no engine answers at another scale than 1, or from such a base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_compared: Option<String>,
}

/// A merged model beside the base with the adapter, on the same rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergeCost {
    /// Rows that were compared.
    pub rows: usize,
    /// The answers of the base with the adapter are taken for the right ones: there were no rows.
    pub by_itself: bool,
    /// Loss of the answers under the base with the adapter. units: nats a token
    pub nll_before: f64,
    /// The same under the merged model.
    pub nll_after: f64,
    /// Greedy answers that are the same.
    pub same: usize,
}

/// Write an adapter of PEFT or MLX as GGUF for a base.
///
/// fails: it cannot be read or held, does not fit the base or its words, or `out` is there already
pub fn import(
    engine: &dyn Engine,
    (lora, model): (&Path, &Path),
    out: &Path,
) -> Result<ExchangeReport, PipelineError> {
    publish::check_writable(&[out])?;
    let (bytes, read) = kit::adapter_bytes(lora, model)?;
    engine.same_words(model, lora)?;
    publish::write_new(out, &bytes)?;
    Ok(report(lora, model, out, &read))
}

/// Write an adapter as a folder of PEFT.
///
/// fails: it does not fit the base, transformers has no module for a matrix of it, or `folder` is
/// there already
pub fn export(lora: &Path, model: &Path, folder: &Path) -> Result<ExchangeReport, PipelineError> {
    let (files, read) = kit::peft_files(lora, model)?;
    publish::folder(folder, &files)?;
    Ok(report(lora, model, folder, &read))
}

fn report(lora: &Path, model: &Path, out: &Path, read: &kit::AdapterFacts) -> ExchangeReport {
    ExchangeReport {
        model: model.to_owned(),
        lora: lora.to_owned(),
        out: out.to_owned(),
        matrices: read.matrices,
        rank: read.rank,
        alpha: read.alpha,
    }
}

/// Write a base with an adapter in its weights, each matrix in the type that it has there, and
/// compare what both answer: on the rows of `eval`, else on questions of this program.
///
/// fails: the adapter is not sound or does not fit, a type cannot be written, or `out` is there
/// already
pub fn merge(
    engine: &dyn Engine,
    (model, lora, scale): (&Path, &Path, f32),
    out: &Path,
    eval: Option<&Path>,
    cancel: &Cancel,
) -> Result<MergeReport, PipelineError> {
    publish::check_writable(&[out])?;
    let rows = eval.map(rows).transpose()?;
    engine.same_words(model, lora)?;
    let written =
        publish::write_new_with(out, |file| engine.merge(model, lora, scale, file, cancel));
    let merged = match written? {
        Ok(merged) => merged,
        Err(EngineError::Output(source)) => {
            let path = out.to_owned();
            return Err(PublishError::Io { path, source }.into());
        }
        Err(error) => return Err(error.into()),
    };
    let asked = rows.is_some();
    let (cost, not_compared) = if scale == 1.0 {
        match compare(engine, (model, lora), out, rows, cancel) {
            Ok(cost) => (Some(cost), None),
            // The model is written all the same.
            Err(error) if !asked && error.fault() == Fault::Input => {
                (None, Some(error.to_string()))
            }
            Err(error) => return Err(error),
        }
    } else {
        (
            None,
            Some(format!("no engine answers at a scale of {scale}")),
        )
    };
    Ok(MergeReport {
        model: model.to_owned(),
        lora: lora.to_owned(),
        out: out.to_owned(),
        scale,
        merged,
        cost,
        not_compared,
    })
}

/// The rows that a merged model is judged on.
fn rows(path: &Path) -> Result<Vec<Pair>, PipelineError> {
    let limits = Limits::default();
    let reading = Reading {
        completion: Completion::Required,
        format: RowFormat::Auto,
        learn: Learn::Last,
        limits: &limits,
    };
    let mut pairs = kit::read_rows(path, &reading)?.pairs;
    pairs.truncate(ROWS_MAX);
    Ok(pairs)
}

/// Ask both models the same, one after the other.
fn compare(
    engine: &dyn Engine,
    (base, lora): (&Path, &Path),
    merged: &Path,
    rows: Option<Vec<Pair>>,
    cancel: &Cancel,
) -> Result<MergeCost, PipelineError> {
    let (machine, by_itself) = (Machine::default(), rows.is_none());
    let mut monitor = Monitor {
        cancel,
        progress: &mut |_, _| {},
    };
    let mut pairs = rows.unwrap_or_default();
    let mut session = Session::new(engine, base, &machine, vec![lora.to_owned()]);
    let (model, adapters) = session.get()?;
    let with = adapters.first().map_or(With::Base, |&id| With::Adapter(id));
    if by_itself {
        let prompts = QUESTIONS.map(Into::into);
        let answers = model.answer(with, &prompts, ANSWER_TOKENS, &mut monitor)?;
        let answered = prompts.iter().zip(answers);
        pairs = answered
            .map(|(prompt, answer)| Pair::new(prompt.clone(), answer.text))
            .collect();
    }
    let before = model.examine(with, &pairs, ANSWER_TOKENS, &mut monitor)?;
    session.close();
    let mut session = Session::new(engine, merged, &machine, Vec::new()).made_with(lora);
    let (model, _) = session.get()?;
    let after = model.examine(With::Base, &pairs, ANSWER_TOKENS, &mut monitor)?;
    let same = before.iter().zip(&after);
    Ok(MergeCost {
        rows: pairs.len(),
        by_itself,
        nll_before: nll(&before),
        nll_after: nll(&after),
        same: same
            .filter(|(before, after)| before.0.text == after.0.text)
            .count(),
    })
}

/// units: nats a token
fn nll(of: &[(Answer, CompletionScore)]) -> f64 {
    let tokens: usize = of.iter().map(|(_, score)| score.tokens).sum();
    let sum: f64 = of.iter().map(|(_, score)| score.log_probability).sum();
    -sum / tokens.max(1) as f64
}
