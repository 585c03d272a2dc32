//! Look at what comes in before any hour is spent, and at what goes out before it is published.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::judging::Arms;
use super::transfer::TransferData;
use super::{PipelineError, TransferPlan};
use crate::distill::Probe;
use crate::engine::{AdapterId, Answer, EngineError, Model, Monitor, With};
use crate::evaluate;
use crate::kit::{self, Seed};
use crate::record::{ContentHash, Pair, Prompt};

/// Seeds that show whether the source adapter changes anything.
const SEEDS_MAX: usize = 8;
/// Rows of `--eval` that the source answers with and without its adapter.
const ROWS_MAX: usize = 100;
/// Tokens that a bare base may go on for, beyond the adapter's longest answer.
const TOKENS_MORE: usize = 8;
/// Answers that are asked for again.
const ANSWERS_MAX: usize = 16;
/// Share of them that must be the judged ones. A few may turn where two tokens are as good as
/// equally likely: batches differ, and so does the rounding.
const SAME_MIN: f64 = 0.75;
/// The largest difference between llama.cpp's logits and the trainer's, as a share of the largest
/// logit. The trainer multiplies floats or 16-bit integers, llama.cpp activations in 8 bits where
/// the base is quantized.
const LOGITS_TOLERANCE: f64 = 0.1;
/// Keys that name the file an adapter was trained on.
const MADE_FOR: [&str; 2] = ["translora.target.sha256", "translora.model.sha256"];

/// What was found of the source adapter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InputAudit {
    /// Its header names the hash of the file it was trained on, and that is `--source`; none where
    /// it does not say.
    pub made_for_source: Option<bool>,
    /// Seeds that were asked, and those whose answer the adapter changes.
    pub seeds: usize,
    /// Of these seeds, those whose answer the adapter changes.
    pub answers_changed: usize,
    /// Rows of `--eval` that were asked, and those that are right with the adapter and without.
    pub rows: usize,
    /// Of these rows, those that are right with the adapter.
    pub source_lora_right: u64,
    /// Of these rows, those that are right without it.
    pub source_right: u64,
}

/// What was found of the adapter as it lies on the disk, loaded by llama.cpp into a fresh context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputAudit {
    /// Held-out rows whose logits were compared with the trainer's, and the tokens of theirs that
    /// were.
    pub rows: usize,
    /// Tokens whose logits were compared.
    pub tokens: usize,
    /// The largest difference, as a share of the largest logit, and how large it may be.
    pub logits_error: f64,
    /// How large [`OutputAudit::logits_error`] may be.
    pub logits_tolerance: f64,
    /// Rows on which the judged adapter was right and the bare target was not; how many of them it
    /// answers as it did then.
    pub answers: usize,
    /// Of these answers, those that are the same as then.
    pub answers_same: usize,
}

/// Audit the source adapter on an open source model.
///
/// fails: it changes nothing, changes no answer, ends no answer, or is right no more often than its
/// base; the last three may be forced
pub(super) fn input(
    model: &mut dyn Model,
    teacher: AdapterId,
    plan: &TransferPlan,
    data: &TransferData,
    monitor: &mut Monitor<'_>,
) -> Result<InputAudit, PipelineError> {
    let seeds = &data.seeds[..data.seeds.len().min(SEEDS_MAX)];
    changes_something(model, teacher, seeds, monitor)?;
    let mut audit = InputAudit {
        made_for_source: made_for(plan, data.hashes["source"])?,
        seeds: seeds.len(),
        ..InputAudit::default()
    };
    let tokens_max = plan.answer.answer_tokens;
    let prompts: Vec<Prompt> = seeds.iter().map(|seed| seed.prompt().clone()).collect();
    let adapted = model.answer(With::Adapter(teacher), &prompts, tokens_max, monitor)?;
    let longest = adapted
        .iter()
        .map(|answer| answer.tokens)
        .max()
        .unwrap_or(0);
    let bare = model.answer(
        With::Base,
        &prompts,
        tokens_max.min(longest + TOKENS_MORE),
        monitor,
    )?;
    audit.answers_changed = adapted
        .iter()
        .zip(&bare)
        .filter(|(a, b)| (a.text.trim(), a.finished) != (b.text.trim(), b.finished))
        .count();
    if let Some(rows) = &data.eval {
        let rows = &rows[..rows.len().min(ROWS_MAX)];
        let [bare, adapted] = [With::Base, With::Adapter(teacher)]
            .map(|with| evaluate::arm(model, with, rows, tokens_max, &mut silent(monitor)));
        (audit.rows, audit.source_right, audit.source_lora_right) =
            (rows.len(), bare?.right(), adapted?.right());
    }
    match weakness(&audit, &adapted) {
        Some(what) if !plan.allow_weak_source => Err(PipelineError::WeakSource { what }),
        _ => Ok(audit),
    }
}

fn silent<'t>(monitor: &'t mut Monitor<'_>) -> Monitor<'t> {
    Monitor {
        cancel: monitor.cancel,
        progress: &mut *monitor.progress,
    }
}

/// Why the adapter has nothing to teach, as far as can be seen.
fn weakness(audit: &InputAudit, adapted: &[Answer]) -> Option<String> {
    let InputAudit {
        seeds,
        rows,
        source_lora_right,
        source_right,
        ..
    } = audit;
    if !adapted
        .iter()
        .any(|answer| answer.finished && !answer.text.trim().is_empty())
    {
        return Some(format!(
            "the source adapter ends none of its answers to {seeds} seeds, or says nothing: there \
            is nothing to learn from it"
        ));
    }
    if *rows > 0 {
        return (source_lora_right <= source_right).then(|| {
            format!(
                "the source adapter does not help its own base: of {rows} rows \
                {source_lora_right} are right with it, and \
                 {source_right} without"
            )
        });
    }
    (audit.answers_changed == 0).then(|| {
        format!(
            "the source adapter changes no answer: to each of {seeds} seeds its base \
            says the same without it"
        )
    })
}

/// Refuse an adapter that is zero: its base gives every text the same probability without it.
fn changes_something(
    model: &mut dyn Model,
    teacher: AdapterId,
    seeds: &[Seed],
    monitor: &mut Monitor<'_>,
) -> Result<(), PipelineError> {
    let pair = |seed: &Seed| Pair::new(seed.prompt().clone(), seed.text());
    let pairs: Vec<Pair> = seeds.iter().map(pair).collect();
    if model.score(With::Base, &pairs, monitor)?
        != model.score(With::Adapter(teacher), &pairs, monitor)?
    {
        return Ok(());
    }
    Err(PipelineError::BlankSource)
}

/// Whether the adapter says that it was trained on this very file.
fn made_for(plan: &TransferPlan, source: ContentHash) -> Result<Option<bool>, PipelineError> {
    let source_lora = kit::teacher(&plan.source_lora, &plan.source)?;
    let (header, _) = kit::read_header(&source_lora, &plan.limits)?;
    let text = |key: &&str| {
        header
            .get(key)
            .and_then(|value| value.as_str())
            .and_then(|text| text.parse::<ContentHash>().ok())
    };
    Ok(MADE_FOR.iter().find_map(text).map(|hash| hash == source))
}

/// Audit an adapter that passed, on a target that was opened anew with the file on it.
///
/// fails: it does not do what the trained one did
pub(super) fn output(
    model: &mut dyn Model,
    adapter: AdapterId,
    probes: &[Probe],
    (arms, judged): (&Arms, &[Pair]),
    monitor: &mut Monitor<'_>,
) -> Result<OutputAudit, PipelineError> {
    let with = With::Adapter(adapter);
    let refuse = |what: String| PipelineError::Audit { what };
    let mut audit = OutputAudit {
        rows: probes.len(),
        tokens: probes.iter().map(Probe::tokens).sum(),
        logits_error: 0.0,
        logits_tolerance: LOGITS_TOLERANCE,
        answers: 0,
        answers_same: 0,
    };
    for (i, probe) in probes.iter().enumerate() {
        monitor.tick(i, probes.len() + 1)?;
        let error = probe.error(&model.logits(with, &probe.row)?);
        let error = error.ok_or_else(|| refuse("its tokens are not the trainer's".into()))?;
        audit.logits_error = audit.logits_error.max(error);
    }
    if audit.logits_error > LOGITS_TOLERANCE {
        let error = audit.logits_error;
        return Err(refuse(format!(
            "its logits differ from the trainer's by {error:.3} of the largest, and \
            {LOGITS_TOLERANCE} may be"
        )));
    }
    let [bare, adapted] = arms.gate();
    let won: Vec<usize> = (0..judged.len())
        .filter(|&row| adapted.correct[row] && !bare.correct[row])
        .take(ANSWERS_MAX)
        .collect();
    let prompts: Vec<Prompt> = won.iter().map(|&row| judged[row].prompt.clone()).collect();
    let longest = won
        .iter()
        .map(|&row| judged[row].completion.len())
        .max()
        .unwrap_or(0);
    let answers = model.answer(with, &prompts, longest + TOKENS_MORE, monitor)?;
    audit.answers = won.len();
    audit.answers_same = answers
        .iter()
        .zip(&won)
        .filter(|(answer, row)| answer.text.trim() == judged[**row].completion.trim())
        .count();
    if (audit.answers_same as f64) < SAME_MIN * audit.answers as f64 {
        let (same, all) = (audit.answers_same, audit.answers);
        return Err(refuse(format!(
            "of {all} answers that the bare target gave wrong and the trained adapter right it \
            gives {same} again"
        )));
    }
    Ok(audit)
}

/// What stands in the way of opening the file again is a failed audit, too.
pub(super) fn reopened<T>(path: &Path, opened: Result<T, EngineError>) -> Result<T, PipelineError> {
    opened.map_err(|error| match error {
        EngineError::Adapter { .. } | EngineError::AdapterLoad { .. } => PipelineError::Audit {
            what: format!("{} cannot be loaded: {error}", path.display()),
        },
        other => other.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_sources_are_judged_by_rows_where_there_are_any() {
        let answer = |text: &str, finished| Answer {
            text: text.into(),
            tokens: 1,
            finished,
            log_probability: 0.0,
        };
        let ends = [answer("yes", true), answer("", false)];
        let found =
            |audit: InputAudit, answers: &[Answer]| weakness(&audit, answers).unwrap_or_default();
        let seeds = InputAudit {
            seeds: 2,
            answers_changed: 1,
            ..InputAudit::default()
        };
        assert_eq!(found(seeds.clone(), &ends), "");
        assert!(
            found(seeds.clone(), &[answer(" ", true), answer("x", false)]).contains("ends none")
        );
        assert!(
            found(
                InputAudit {
                    answers_changed: 0,
                    ..seeds.clone()
                },
                &ends
            )
            .contains("changes no answer")
        );
        let rows = |with, without| InputAudit {
            rows: 9,
            source_lora_right: with,
            source_right: without,
            answers_changed: 0,
            ..seeds.clone()
        };
        assert_eq!(found(rows(3, 2), &ends), "");
        assert!(found(rows(2, 2), &ends).contains("of 9 rows 2 are right with it, and 2 without"));
    }
}
