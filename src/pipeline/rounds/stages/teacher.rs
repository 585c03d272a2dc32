//! Ask the teacher: the source with its adapter answers the seeds, the rows of `--eval`, and what
//! was kept.

use super::Stages;
use crate::engine::With;
use crate::evaluate;
use crate::filter::Kept;
use crate::label::{self, Draws, Labeled, Rejections};
use crate::pipeline::job::{Done, Job};
use crate::pipeline::judging::Teacher;
use crate::pipeline::{PipelineError, Stage};
use crate::record::{Pair, Prompt};

/// Answers that are drawn to see what most agree on, at which temperature, and the share that must.
const ANSWERS_DRAWN: usize = 8;
const ANSWERS_TEMPERATURE: f32 = 1.0;
const AGREED_MIN: f64 = 0.5;

impl Stages<'_> {
    /// Have the teacher answer the seeds while the source is open anyway: of all inputs they are
    /// the surest to be of the task.
    pub fn label_seeds(&mut self, job: &mut Job<'_>) -> Result<Vec<Labeled>, PipelineError> {
        let tokens_max = self.plan.answer.answer_tokens;
        let seeds = self.seeds.iter();
        let prompts: Vec<Prompt> = seeds.map(|seed| seed.prompt().clone()).collect();
        let source = &mut self.sessions.source;
        let done = job.stage("seeds", Stage::Label, |monitor, _| {
            let (model, adapters) = source.get()?;
            let teacher = With::Adapter(adapters[0]);
            let rows = label::label_prompts(model, teacher, &prompts, tokens_max, monitor)?;
            let summary = format!("{} of {} seeds answered", rows.len(), prompts.len());
            Ok(Done::rows(rows, summary))
        })?;
        Ok(done.rows)
    }

    /// Have the teacher answer the rows of `--eval` while the source is open anyway.
    pub fn evaluate_source(
        &mut self,
        job: &mut Job<'_>,
        rows: &[Pair],
        shots: Vec<Pair>,
    ) -> Result<Teacher, PipelineError> {
        let tokens_max = self.plan.answer.answer_tokens;
        let source = &mut self.sessions.source;
        let done = job.stage("evaluate.source", Stage::Evaluate, |monitor, _| {
            let (model, adapters) = source.get()?;
            let arm = evaluate::arm(model, With::Adapter(adapters[0]), rows, tokens_max, monitor)?;
            let summary = format!("source+LoRA {:.1} % of {}", 100.0 * arm.exact(), arm.rows());
            Ok(Done::head(Teacher { arm, shots }, summary))
        })?;
        Ok(done.head)
    }

    /// Put the teacher's greedy answers to what was kept.
    pub fn label(
        &mut self,
        job: &mut Job<'_>,
        kept: &[Kept],
    ) -> Result<(Vec<Labeled>, Rejections), PipelineError> {
        if self.judge.has_answers() {
            // The answers came with the scores.
            return Ok(label::label_answered(kept));
        }
        let tokens_max = self.plan.answer.answer_tokens;
        let source = &mut self.sessions.source;
        let done = job.stage("label", Stage::Label, |monitor, _| {
            let (model, adapters) = source.get()?;
            let teacher = With::Adapter(adapters[0]);
            let (rows, rejections) = label::label(model, teacher, kept, tokens_max, monitor)?;
            let summary = format!("{} of {} answered", rows.len(), kept.len());
            Ok(Done {
                head: rejections,
                rows,
                blob: None,
                summary,
            })
        })?;
        Ok((done.rows, done.head))
    }

    /// Put the answer that most of several agree on in place of the greedy one.
    pub fn agree(
        &mut self,
        job: &mut Job<'_>,
        labeled: Vec<Labeled>,
    ) -> Result<(Vec<Labeled>, Rejections), PipelineError> {
        let draws = Draws {
            samples: ANSWERS_DRAWN,
            temperature: ANSWERS_TEMPERATURE,
            agreed_min: AGREED_MIN,
            tokens_max: self.plan.answer.answer_tokens,
            seed: self.plan.run.seed,
        };
        let source = &mut self.sessions.source;
        let done = job.stage("consistent", Stage::Label, |monitor, _| {
            let (model, adapters) = source.get()?;
            let (all, teacher) = (labeled.len(), With::Adapter(adapters[0]));
            let (rows, rejections) = label::consistent(model, teacher, labeled, &draws, monitor)?;
            let summary = format!(
                "most of {ANSWERS_DRAWN} answers agree on {} of {all} inputs",
                rows.len()
            );
            Ok(Done {
                head: rejections,
                rows,
                blob: None,
                summary,
            })
        })?;
        Ok((done.rows, done.head))
    }
}
