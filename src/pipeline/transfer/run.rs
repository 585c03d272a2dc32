//! The stages of a transfer, in order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::reporting::Findings;
use super::{Transfer, metadata};
use crate::distill::{Recipe, Run, Trained, check_memory, distill};
use crate::engine::{ChatInfo, Model, With};
use crate::evaluate::{self, Arm, Halves};
use crate::label::Labeled;
use crate::pipeline::inputs::Roles;
use crate::pipeline::job::{Done, Job, Session, check_rows, fitting, introduce, recipe};
use crate::pipeline::journal::blob_name;
use crate::pipeline::judging::{Arms, Evaluation, Teacher};
use crate::pipeline::rounds::{Rounds, Samples, Sessions};
use crate::pipeline::teaching::{self, Known, ObjectiveReport, Teaching};
use crate::pipeline::{HeldOutScores, InputAudit, PipelineError, Stage, TransferReport, audit};
use crate::record::{Pair, Rng};
use crate::request::ObjectiveChoice;

/// What was learned of both models by opening them.
#[derive(Serialize, Deserialize)]
struct Opened {
    input_audit: InputAudit,
    same_vocabulary: bool,
    /// The target's.
    width: usize,
}

impl<'a> Transfer<'a> {
    /// Run all stages.
    pub fn run(&self, job: &mut Job<'_>) -> Result<TransferReport, PipelineError> {
        let opened = self.check_models(job)?;
        let roles = Roles::of(self.plan, self.data, job)?;
        let filter = roles.filter;
        let mut samples = self.rounds(job, roles)?;
        let mut target = self.target(job.now);
        let bare = self.bare(job, &mut target, samples.teacher.as_ref())?;
        // Seeds are never held out: that the adapter answers what it was shown says nothing.
        let mut labeled = std::mem::take(&mut samples.seeds);
        labeled.append(&mut samples.labeled);
        let trained = labeled.len();
        let [chosen, others] = std::mem::take(&mut samples.held_out);
        let of_chosen = chosen.len();
        labeled.extend(chosen.into_iter().chain(others));
        let arms = samples.teacher.as_ref().zip(bare.as_ref());
        let (mut train, mut objective) =
            self.teach(job, &mut target, labeled, opened.same_vocabulary, arms)?;
        let held_out = train.split_off(trained);
        samples.counts.extend([
            ("trained".to_owned(), train.len() as u64),
            ("held_out".to_owned(), held_out.len() as u64),
        ]);
        let recipe = self.recipe(opened.width, &objective).of_passes(
            f64::from(self.plan.epochs) * (self.plan.samples + self.data.seeds.len()) as f64,
            train.len(),
        );
        let provenance = self.provenance(&recipe, filter, &objective);
        let synthetic: Vec<Pair> = held_out.iter().map(Labeled::pair).collect();
        let trained = self.distill(job, &mut target, (&train, &synthetic), &recipe, &provenance)?;
        let arms = self.evaluate(job, &mut target, &synthetic, samples.teacher.as_ref(), bare)?;
        objective.divergence = Self::divergence(job, &mut target, &held_out)?;
        target.close();
        let [bare, adapted] = arms.gate();
        let rows: &[Pair] = self.data.eval.as_deref().unwrap_or(&synthetic);
        let mut rng = Rng::new(self.plan.run.seed, "gate and report");
        let halves = Halves::of(bare.rows(), &mut rng);
        let budget = f64::from(self.plan.flip_budget);
        let (comparison, outcome) =
            evaluate::gate(trained, bare, adapted, rows, &halves.gate, budget)?;
        let held_out =
            HeldOutScores::of(&synthetic, &arms.synthetic[1], of_chosen, &samples.answers);
        let findings = Findings {
            samples,
            arms,
            held_out_rows: &synthetic,
            held_out,
            rows,
            comparison,
            halves,
            objective,
            provenance,
            input_audit: opened.input_audit,
        };
        self.publish(job, &outcome, &findings)
    }

    fn target(&self, now: u64) -> Session<'a> {
        Session::new(
            self.engine,
            &self.plan.target,
            &self.plan.machine,
            Vec::new(),
        )
        .at(now)
    }

    fn source(&self, now: u64) -> Session<'a> {
        let adapters = vec![self.plan.source_lora.clone()];
        Session::of_source(self.engine, self.plan, adapters).at(now)
    }

    fn rounds(&self, job: &mut Job<'_>, roles: Roles) -> Result<Samples, PipelineError> {
        let sessions = Sessions::new(self.engine, self.plan, roles.adapters.clone(), job.now);
        Rounds::new(self.plan, self.data, roles, sessions)?.run(job)
    }

    fn recipe(&self, width: usize, objective: &ObjectiveReport) -> Recipe {
        let plan = self.plan;
        let mut recipe = recipe(&plan.training, plan.epochs, plan.run.seed, width);
        recipe.restarts = plan.restarts;
        recipe.spec.objective = objective.minimized();
        recipe
    }

    /// Open both models with everything they will have to hold, so that what cannot work fails in
    /// the first minute.
    fn check_models(&self, job: &mut Job<'_>) -> Result<Opened, PipelineError> {
        let (context, now) = (job.context, job.now);
        let events = &context.events;
        let done = job.stage("open", Stage::Open, |monitor, _| {
            let (mut names, mut vocabularies, mut input_audit, mut width) =
                (Vec::new(), Vec::new(), InputAudit::default(), 0);
            for i in 0..2 {
                monitor.tick(i, 2)?;
                let mut session = if i == 0 {
                    self.source(now)
                } else {
                    self.target(now)
                };
                let (model, adapters) = session.get()?;
                introduce(context, model);
                if let [teacher] = *adapters {
                    input_audit = audit::input(model, teacher, self.plan, self.data, monitor)?;
                } else if let Some(oracle) = &self.plan.oracle {
                    model.attach(oracle)?;
                }
                for (at, seed) in self.data.seeds.iter().enumerate() {
                    let mut texts = seed.prompt().texts();
                    texts
                        .try_for_each(|text| model.check_text(text))
                        .map_err(|source| PipelineError::Row {
                            path: self.plan.inputs().path().to_owned(),
                            line: self.data.seed_lines.get(at).copied().unwrap_or(at + 1),
                            source,
                        })?;
                }
                if let (Some(path), Some(rows)) = (&self.plan.eval, &self.data.eval) {
                    let rows = (rows.as_slice(), self.data.eval_lines.as_slice());
                    check_rows(model, path, rows, context)?;
                }
                vocabularies.push(model.vocabulary());
                if i == 1 {
                    let same_vocabulary = vocabularies[0] == vocabularies[1];
                    let objective = teaching::choose(
                        self.plan,
                        Known {
                            same_vocabulary,
                            answer_bytes: 0,
                            arms: None,
                        },
                    )?;
                    self.check_memory(model, &objective)?;
                }
                width = model.info().width;
                names.push(format!(
                    "{} ({})",
                    model.info().name,
                    model.info().architecture
                ));
            }
            let same_vocabulary = vocabularies[0] == vocabularies[1];
            Ok(Done::head(
                Opened {
                    input_audit,
                    same_vocabulary,
                    width,
                },
                names.join(" to "),
            ))
        })?;
        if done.head.input_audit.made_for_source == Some(false) {
            let text = "the source adapter says that it was trained on another file than the \
                source: fine if that is another quantization of \
                        the same model";
            events.warn(Stage::Open, text);
        }
        Ok(done.head)
    }

    /// The bare target on the rows of `--eval`, where the objective depends on it.
    fn bare(
        &self,
        job: &mut Job<'_>,
        target: &mut Session<'_>,
        teacher: Option<&Teacher>,
    ) -> Result<Option<Arm>, PipelineError> {
        let (Some(rows), Some(_), ObjectiveChoice::Auto) =
            (&self.data.eval, teacher, self.plan.objective)
        else {
            return Ok(None);
        };
        let done = job.stage("evaluate.bare", Stage::Evaluate, |monitor, _| {
            let arm = evaluate::arm(
                target.get()?.0,
                With::Base,
                rows,
                self.plan.answer.answer_tokens,
                monitor,
            )?;
            let summary = format!("bare target {:.1} % of {}", 100.0 * arm.exact(), arm.rows());
            Ok(Done::head(arm, summary))
        })?;
        target.close();
        Ok(Some(done.head))
    }

    /// Choose the objective, and give the labelled inputs what it needs of the teacher.
    fn teach<'s>(
        &'s self,
        job: &mut Job<'_>,
        target: &mut Session<'s>,
        labeled: Vec<Labeled>,
        same_vocabulary: bool,
        arms: Option<(&Teacher, &Arm)>,
    ) -> Result<(Vec<Labeled>, ObjectiveReport), PipelineError> {
        let answer_bytes = labeled
            .iter()
            .map(|labeled| labeled.completion().len() + 1)
            .sum();
        let rows = self.data.eval.as_deref().unwrap_or_default();
        let arms = arms.map(|(teacher, bare)| (&teacher.arm, bare, rows));
        let mut objective = teaching::choose(
            self.plan,
            Known {
                same_vocabulary,
                answer_bytes,
                arms,
            },
        )?;
        teaching::announce(job.context, &objective);
        let source = self.source(job.now);
        let labeled = Teaching {
            plan: self.plan,
            source,
            target,
        }
        .run(job, labeled, &mut objective)?;
        Ok((labeled, objective))
    }

    /// How far the bare target and the new adapter are from what was fitted to, where that is more
    /// than text.
    fn divergence(
        job: &mut Job<'_>,
        target: &mut Session<'_>,
        held_out: &[Labeled],
    ) -> Result<Option<teaching::Divergences>, PipelineError> {
        if held_out.iter().all(|labeled| {
            labeled
                .labels()
                .is_none_or(|labels| labels.words.is_empty())
        }) {
            return Ok(None);
        }
        let done = job.stage("divergence", Stage::Evaluate, |monitor, journal| {
            let (model, _) = target.get()?;
            let adapter = With::Adapter(model.attach(&journal.path(&blob_name("distill")))?);
            let found = teaching::divergence(model, adapter, held_out, monitor)?;
            let summary = found.map_or(String::new(), |of| {
                format!(
                    "bare target {:.4}, transferred {:.4} nats a token",
                    of.target, of.transferred
                )
            });
            Ok(Done::head(found, summary))
        })?;
        Ok(done.head)
    }

    /// Training on inputs like the seeds, and on the rows of `--eval`, fits the memory that was
    /// allowed.
    fn check_memory(
        &self,
        model: &mut dyn Model,
        objective: &ObjectiveReport,
    ) -> Result<(), PipelineError> {
        let seeds = self.data.seeds.iter();
        let seeds = seeds.map(|seed| Pair::new(seed.prompt().clone(), seed.text()));
        let rows: Vec<Pair> = seeds
            .chain(self.data.eval.iter().flatten().cloned())
            .collect();
        let recipe = self.recipe(model.info().width, objective);
        Ok(check_memory(model, &rows, &recipe)?)
    }

    fn distill(
        &self,
        job: &mut Job<'_>,
        target: &mut Session<'_>,
        (train, held_out): (&[Labeled], &[Pair]),
        recipe: &Recipe,
        provenance: &BTreeMap<String, String>,
    ) -> Result<Trained, PipelineError> {
        let context = job.context;
        let done = job.stage("distill", Stage::Distill, |_, journal| {
            let (model, _) = target.get()?;
            let mut provenance = provenance.clone();
            let carried = model.chat().and_then(ChatInfo::carried).map(str::to_owned);
            provenance.extend(carried.map(|text| ("chat_template".to_owned(), text)));
            let metadata = metadata(&provenance);
            let fit = |run: Run<'_>| distill(model, train, recipe, run);
            let trained = fitting(context, journal, "distill", &metadata, held_out, fit)?;
            let report = trained.report();
            let summary = format!(
                "{} samples, {} steps, loss {:.4}",
                report.examples, report.steps, report.loss_last
            );
            Ok(Done {
                blob: Some(trained.adapter().to_vec()),
                head: trained,
                rows: Vec::<()>::new(),
                summary,
            })
        })?;
        Ok(done.head)
    }

    fn evaluate(
        &self,
        job: &mut Job<'_>,
        target: &mut Session<'_>,
        synthetic: &[Pair],
        teacher: Option<&Teacher>,
        bare: Option<Arm>,
    ) -> Result<Arms, PipelineError> {
        let evaluation = Evaluation {
            synthetic,
            eval: self.data.eval.as_deref(),
            source_lora: &self.plan.source_lora,
            oracle: self.plan.oracle.as_deref(),
            teacher,
            bare,
            tokens_max: self.plan.answer.answer_tokens,
        };
        let done = job.stage("evaluate", Stage::Evaluate, |monitor, journal| {
            let (model, _) = target.get()?;
            let adapter = With::Adapter(model.attach(&journal.path(&blob_name("distill")))?);
            let arms = evaluation.run(model, adapter, monitor)?;
            let [bare, adapted] = arms.gate();
            let summary = format!(
                "bare target {:.1} %, transferred {:.1} % of {}",
                100.0 * bare.exact(),
                100.0 * adapted.exact(),
                bare.rows()
            );
            Ok(Done::head(arms, summary))
        })?;
        Ok(done.head)
    }
}
