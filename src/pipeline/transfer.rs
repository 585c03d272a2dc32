//! `translora transfer`: source base + LoRA and seeds in, a judged LoRA for the target out.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::audit;
use super::inputs::{self, Hands};
use super::job::{Job, Made, Session, announce, check_rows, fitting, hash_inputs, once, recipe};
use super::journal::{Journal, Product, blob_name};
use super::judging::{Arms, Asked, Teacher};
use super::rounds::Rounds;
use super::teaching::{self, Known, ObjectiveReport, Teaching};
use super::{Context, InputAudit, PipelineError, Stage, TransferPlan, TransferReport};
use crate::distill::{FitReport, Probe, Recipe, Run, Trained, check_memory, distill};
use crate::engine::{Engine, Model, Talk, With};
use crate::evaluate::{self, Arm, Halves, Outcome, Verdict};
use crate::kit::{self, Completion, Kit, Seed};
use crate::label::Labeled;
use crate::publish::{self, Outputs};
use crate::record::{ContentHash, Pair, Rng};
use crate::request::{Inputs, ObjectiveChoice};

/// One labelled sample in this many is held out to measure fidelity.
const HELD_OUT_ONE_IN: usize = 10;

/// Everything read before any model is opened.
pub(super) struct Given {
    pub seeds: Vec<Seed>,
    pub kit: Option<Kit>,
    pub eval: Option<Vec<Pair>>,
    pub hashes: BTreeMap<String, ContentHash>,
}

/// Transfer an adapter to another base.
///
/// fails: with [`PipelineError::Cancelled`] when asked to stop; the journal is then kept
pub fn transfer(
    engine: &dyn Engine,
    plan: &TransferPlan,
    context: &Context<'_>,
) -> Result<TransferReport, PipelineError> {
    let announced = announce(context, "transfer", plan);
    let outputs = Outputs::beside(&plan.out);
    let (given, seconds) = once(context, Stage::Kit, |talk| {
        let given = read(plan, talk)?;
        let summary = format!(
            "{} seeds{}",
            given.seeds.len(),
            if given.kit.is_some() {
                " from the kit"
            } else {
                ""
            }
        );
        Ok((given, summary))
    })?;
    let publishing = plan.run.resume && Journal::lies_beside(&plan.out);
    if !publishing {
        publish::check_writable(&outputs.all())?;
    }
    let mut job = Job::open(
        context,
        "transfer",
        announced.clone(),
        given.hashes.clone(),
        &plan.out,
    )?;
    job.seconds.insert(Stage::Kit.name().into(), seconds);
    let result = Transfer {
        engine,
        plan,
        asked: announced,
        given: &given,
        outputs,
    }
    .run(&mut job);
    job.end(result)
}

fn read(plan: &TransferPlan, talk: &mut Talk<'_>) -> Result<Given, PipelineError> {
    let inputs = plan.inputs();
    let (seeds, kit) = match inputs {
        Inputs::Seeds(path) => (kit::read_seeds(path, &plan.limits)?, None),
        Inputs::Kit(path) => {
            let kit = Kit::open(path, &plan.limits)?;
            (kit.seeds().to_vec(), Some(kit))
        }
    };
    let eval = plan
        .eval
        .as_ref()
        .map(|path| kit::read_rows(path, Completion::Required, &plan.limits))
        .transpose()?;
    let mut files: Vec<(&str, &Path)> = vec![
        ("source", &plan.source),
        ("source_lora", &plan.source_lora),
        ("target", &plan.target),
        (inputs.name(), inputs.path()),
    ];
    files.extend(plan.eval.as_deref().map(|path| ("eval", path)));
    files.extend(plan.oracle.as_deref().map(|path| ("oracle", path)));
    let hashes = hash_inputs(&files, talk)?;
    if let Some(kit) = &kit {
        kit.check_made_for(
            inputs.path(),
            (&plan.source, hashes["source"]),
            (&plan.source_lora, hashes["source_lora"]),
        )?;
        inputs::check(plan, kit)?;
    }
    Ok(Given {
        seeds,
        kit,
        eval,
        hashes,
    })
}

struct Transfer<'a> {
    engine: &'a dyn Engine,
    plan: &'a TransferPlan,
    /// The plan as it was told.
    asked: serde_json::Value,
    given: &'a Given,
    outputs: Outputs,
}

/// What training made: how it went, and what the trained graph says of rows that were held out.
#[derive(Serialize, Deserialize)]
struct Fit {
    report: FitReport,
    probes: Vec<Probe>,
}

/// What opening both models told.
#[derive(Serialize, Deserialize)]
struct Opened {
    input_audit: InputAudit,
    same_vocabulary: bool,
    /// The target's.
    width: usize,
}

impl Transfer<'_> {
    fn run(&self, job: &mut Job<'_>) -> Result<TransferReport, PipelineError> {
        let Opened {
            input_audit,
            same_vocabulary,
            width,
        } = self.check_models(job)?;
        let needed = samples_with_held_out(self.plan.samples);
        let hands = Hands::of(self.plan, self.given, job)?;
        let filter = hands.filter;
        let samples = {
            let memory = self.plan.training.shape.memory;
            let source = Session::new(
                self.engine,
                &self.plan.source,
                &self.plan.machine,
                hands.adapters.clone(),
            )
            .for_answers(memory);
            let target = Session::new(
                self.engine,
                &self.plan.target,
                &self.plan.machine,
                Vec::new(),
            )
            .for_answers(memory);
            let tuner = Session::new(
                self.engine,
                &self.plan.target,
                &self.plan.machine,
                Vec::new(),
            );
            Rounds::new(
                self.plan,
                self.given,
                hands,
                needed,
                [source, target, tuner],
            )?
            .run(job)?
        };
        let mut target = Session::new(
            self.engine,
            &self.plan.target,
            &self.plan.machine,
            Vec::new(),
        );
        let teacher = samples.teacher.as_ref();
        let bare = self.bare(job, &mut target, teacher)?;
        let seeds = samples.seeds.len();
        let labeled = samples.seeds.into_iter().chain(samples.labeled).collect();
        let (mut labeled, mut objective) = self.teach(
            job,
            &mut target,
            labeled,
            same_vocabulary,
            teacher.zip(bare.as_ref()),
        )?;
        // Seeds are never held out: that the adapter answers what it was shown says nothing.
        let (mut train, held_out) = split(
            labeled.split_off(seeds),
            self.plan.samples,
            self.plan.run.seed,
        );
        train.extend(labeled);
        let mut counts = samples.counts;
        counts.extend([
            ("trained".to_owned(), train.len() as u64),
            ("held_out".to_owned(), held_out.len() as u64),
        ]);
        let recipe = self.recipe(&objective, width);
        let provenance = self.provenance(&recipe, filter, &objective);
        let synthetic: Vec<Pair> = held_out.iter().map(Labeled::pair).collect();
        let fitted = self.distill(job, &mut target, (&train, &synthetic), &recipe, &provenance)?;
        let arms = self.evaluate(job, &mut target, &synthetic, teacher, bare)?;
        objective.divergence = Self::divergence(job, &mut target, &held_out)?;
        target.close();
        let Fit { report, probes } = fitted.head;
        let trained = Trained::replay(fitted.blob.unwrap_or_default(), report.clone());
        let [bare, adapted] = arms.gate();
        let judged: &[Pair] = self.given.eval.as_deref().unwrap_or(&synthetic);
        let halves = Halves::of(
            bare.rows(),
            &mut Rng::new(self.plan.run.seed, "gate and report"),
        );
        let (comparison, outcome) = evaluate::gate(
            trained,
            bare,
            adapted,
            judged,
            &halves.gate,
            f64::from(self.plan.flip_budget),
        )?;
        let outputs = &self.outputs;
        let [adapter, report_file, page] = if comparison.verdict == Verdict::Accept {
            [&outputs.adapter, &outputs.report, &outputs.page]
        } else {
            [
                &outputs.rejected,
                &outputs.rejected_report,
                &outputs.rejected_page,
            ]
        };
        let made = TransferReport {
            verdict: comparison.verdict,
            adapter: adapter.clone(),
            report: report_file.clone(),
            page: page.clone(),
            scores: arms.scores(
                &comparison,
                &halves,
                judged,
                samples.teacher.as_ref().map(|teacher| &teacher.arm),
                self.plan.run.seed,
            )?,
            flips: arms.flips(judged),
            confusion: arms.confusion(),
            counts,
            rounds: samples.rounds,
            inputs: samples.shown,
            coverage: samples.coverage,
            input_audit,
            output_audit: None,
            seconds: job.seconds.clone(),
            peak_bytes: job.peak_bytes.clone(),
            fit: report,
            objective,
            provenance,
            plan: self.told(),
        };
        self.publish(job, &outcome, &probes, (&arms, judged), made)
    }

    /// Open both models and everything they will be asked to hold, so that what cannot work fails
    /// in the first minute.
    ///
    fn check_models(&self, job: &mut Job<'_>) -> Result<Opened, PipelineError> {
        let events = &job.context.events;
        let made = job.stage("open", Stage::Open, |talk, _| {
            let (mut names, mut vocabularies, mut input_audit, mut width) =
                (Vec::new(), Vec::new(), InputAudit::default(), 0);
            let both = [
                (&self.plan.source, vec![self.plan.source_lora.clone()]),
                (&self.plan.target, Vec::new()),
            ];
            for (i, (base, adapters)) in both.into_iter().enumerate() {
                talk.tick(i, 2)?;
                let mut session = Session::new(self.engine, base, &self.plan.machine, adapters);
                let (model, adapters) = session.get()?;
                if let [teacher] = *adapters {
                    input_audit = audit::input(model, teacher, self.plan, self.given, talk)?;
                } else if let Some(oracle) = &self.plan.oracle {
                    model.attach(oracle)?;
                }
                for (i, seed) in self.given.seeds.iter().enumerate() {
                    model
                        .check_text(seed.text())
                        .map_err(|source| PipelineError::Row {
                            path: self.plan.inputs().path().to_owned(),
                            line: i + 1,
                            source,
                        })?;
                }
                if let (Some(path), Some(rows)) = (&self.plan.eval, &self.given.eval) {
                    check_rows(model, path, rows, talk.cancel)?;
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
            Ok(Made::head(
                Opened {
                    input_audit,
                    same_vocabulary,
                    width,
                },
                names.join(" to "),
            ))
        })?;
        if made.head.input_audit.made_for_source == Some(false) {
            let text = "the source adapter says that it was trained on another file than --source: fine if that is another quantization of \
                        the same model";
            events.warn(Stage::Open, text);
        }
        Ok(made.head)
    }

    /// The bare target on the rows of `--eval`, where the objective depends on it.
    fn bare(
        &self,
        job: &mut Job<'_>,
        target: &mut Session<'_>,
        teacher: Option<&Teacher>,
    ) -> Result<Option<Arm>, PipelineError> {
        let (Some(rows), Some(_), ObjectiveChoice::Auto) =
            (&self.given.eval, teacher, self.plan.objective)
        else {
            return Ok(None);
        };
        let made = job.stage("evaluate.bare", Stage::Evaluate, |talk, _| {
            let arm = evaluate::arm(
                target.get()?.0,
                With::Base,
                rows,
                self.plan.answer.answer_tokens,
                talk,
            )?;
            let summary = format!("bare target {:.1} % of {}", 100.0 * arm.exact(), arm.rows());
            Ok(Made::head(arm, summary))
        })?;
        target.close();
        Ok(Some(made.head))
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
        let rows = self.given.eval.as_deref().unwrap_or_default();
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
        let source = Session::new(
            self.engine,
            &self.plan.source,
            &self.plan.machine,
            vec![self.plan.source_lora.clone()],
        );
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
        let made = job.stage("divergence", Stage::Evaluate, |talk, journal| {
            let (model, _) = target.get()?;
            let adapter = With::Adapter(model.attach(&journal.path(&blob_name("distill")))?);
            let found = teaching::divergence(model, adapter, held_out, talk)?;
            let told = found.map_or(String::new(), |of| {
                format!(
                    "bare target {:.4}, transferred {:.4} nats a token",
                    of.target, of.transferred
                )
            });
            Ok(Made::head(found, told))
        })?;
        Ok(made.head)
    }

    /// The plan for the report, which is the same whether a run was stopped or not.
    fn told(&self) -> serde_json::Value {
        let mut plan = self.asked.clone();
        plan.as_object_mut().map(|plan| plan.remove("resume"));
        plan
    }

    /// Training on inputs like the seeds, and on the rows of `--eval`, fits the memory that was
    /// allowed.
    fn check_memory(
        &self,
        model: &mut dyn Model,
        objective: &ObjectiveReport,
    ) -> Result<(), PipelineError> {
        let seeds = self.given.seeds.iter().map(|seed| Pair {
            prompt: seed.text().to_owned(),
            completion: seed.text().to_owned(),
        });
        let rows: Vec<Pair> = seeds
            .chain(self.given.eval.iter().flatten().cloned())
            .collect();
        let recipe = self.recipe(objective, model.info().width);
        Ok(check_memory(model, &rows, &recipe)?)
    }

    fn recipe(&self, objective: &ObjectiveReport, width: usize) -> Recipe {
        let plan = self.plan;
        let mut recipe = recipe(&plan.training, plan.epochs, plan.run.seed, width);
        recipe.restarts = plan.restarts;
        recipe.spec.objective = objective.minimized();
        recipe
    }

    fn distill(
        &self,
        job: &mut Job<'_>,
        target: &mut Session<'_>,
        (train, held_out): (&[Labeled], &[Pair]),
        recipe: &Recipe,
        provenance: &BTreeMap<String, String>,
    ) -> Result<Product<Fit, ()>, PipelineError> {
        let context = job.context;
        let metadata = metadata(provenance);
        job.stage("distill", Stage::Distill, |_, journal| {
            let (model, _) = target.get()?;
            let fit = |run: Run<'_>| distill(model, train, recipe, run);
            let (trained, probes) = fitting(context, journal, "distill", &metadata, held_out, fit)?;
            let report = trained.report().clone();
            let summary = format!(
                "{} samples, {} steps, loss {:.4}",
                report.examples, report.steps, report.loss_last
            );
            Ok(Made {
                head: Fit { report, probes },
                rows: Vec::new(),
                blob: Some(trained.adapter().to_vec()),
                summary,
            })
        })
    }

    fn evaluate(
        &self,
        job: &mut Job<'_>,
        target: &mut Session<'_>,
        synthetic: &[Pair],
        teacher: Option<&Teacher>,
        bare: Option<Arm>,
    ) -> Result<Arms, PipelineError> {
        let asked = Asked {
            synthetic,
            eval: self.given.eval.as_deref(),
            source_lora: &self.plan.source_lora,
            oracle: self.plan.oracle.as_deref(),
            teacher,
            bare,
            tokens_max: self.plan.answer.answer_tokens,
        };
        let made = job.stage("evaluate", Stage::Evaluate, |talk, journal| {
            let (model, _) = target.get()?;
            let adapter = With::Adapter(model.attach(&journal.path(&blob_name("distill")))?);
            let arms = asked.ask(model, adapter, talk)?;
            let [bare, adapted] = arms.gate();
            let summary = format!(
                "bare target {:.1} %, transferred {:.1} % of {}",
                100.0 * bare.exact(),
                100.0 * adapted.exact(),
                bare.rows()
            );
            Ok(Made::head(arms, summary))
        })?;
        Ok(made.head)
    }

    /// Write the adapter, look at it once more, and give all files their names.
    fn publish(
        &self,
        job: &mut Job<'_>,
        outcome: &Outcome,
        probes: &[Probe],
        judged: (&Arms, &[Pair]),
        mut report: TransferReport,
    ) -> Result<TransferReport, PipelineError> {
        let scores = serde_json::to_string(&report.scores).unwrap_or_default();
        let metadata = [
            (
                "translora.verdict".to_owned(),
                report.verdict.name().to_owned(),
            ),
            ("translora.scores".to_owned(), scores),
        ];
        let context = job.context;
        let (_, seconds) = once(context, Stage::Publish, |talk| {
            talk.tick(0, 1)?;
            let staged = match outcome {
                Outcome::Passed(passed) => {
                    Some(publish::adapter(passed, &metadata, &report.adapter)?)
                }
                Outcome::Refused(_) => None,
            };
            if let Some(staged) = &staged {
                let mut fresh = Session::new(
                    self.engine,
                    &self.plan.target,
                    &self.plan.machine,
                    vec![staged.temporary().to_owned()],
                );
                let (model, adapters) = audit::reopened(&report.adapter, fresh.get())?;
                report.output_audit =
                    Some(audit::output(model, adapters[0], probes, judged, talk)?);
            }
            let json = job.settle(
                "report",
                serde_json::to_string_pretty(&report).unwrap_or_default() + "\n",
            )?;
            let page = job.settle(
                "page",
                publish::page(&super::card::page(&report, &self.plan.target)),
            )?;
            publish::write_new(&report.report, json.as_bytes())?;
            publish::write_new(&report.page, page.as_bytes())?;
            // The adapter last: where it lies, everything lies.
            match (staged, outcome) {
                (Some(staged), _) => staged.publish()?,
                (None, Outcome::Refused(trained)) => {
                    publish::unjudged(trained.adapter(), &metadata, &report.adapter)?
                }
                (None, Outcome::Passed(_)) => {}
            }
            Ok(((), report.adapter.display().to_string()))
        })?;
        report.seconds.insert(Stage::Publish.name().into(), seconds);
        Ok(report)
    }

    /// What decides the bytes of the adapter, for its header and its report.
    fn provenance(
        &self,
        recipe: &Recipe,
        filter: &str,
        objective: &ObjectiveReport,
    ) -> BTreeMap<String, String> {
        let mut all = BTreeMap::from([
            ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("engine".to_owned(), self.engine.version()),
            ("seed".to_owned(), self.plan.run.seed.to_string()),
            ("filter".to_owned(), filter.to_owned()),
            (
                "objective".to_owned(),
                objective.objective.name().to_owned(),
            ),
            (
                "recipe".to_owned(),
                serde_json::to_string(recipe).unwrap_or_default(),
            ),
        ]);
        all.extend(
            self.given
                .hashes
                .iter()
                .map(|(name, hash)| (format!("{name}.sha256"), hash.to_string())),
        );
        all
    }
}

/// Provenance as keys of a GGUF header.
pub(super) fn metadata(provenance: &BTreeMap<String, String>) -> Vec<(String, String)> {
    provenance
        .iter()
        .map(|(name, value)| (format!("translora.{name}"), value.clone()))
        .collect()
}

/// Samples to label so that `samples` are left to train on.
fn samples_with_held_out(samples: usize) -> usize {
    samples + samples.div_ceil(HELD_OUT_ONE_IN - 1)
}

/// Hold out a random tenth; the rest, at most `samples`, is trained on.
fn split(mut labeled: Vec<Labeled>, samples: usize, seed: u64) -> (Vec<Labeled>, Vec<Labeled>) {
    Rng::new(seed, "held out").shuffle(&mut labeled);
    let mut held_out = labeled.split_off(
        labeled.len()
            - labeled
                .len()
                .div_ceil(HELD_OUT_ONE_IN)
                .min(labeled.len() / 2),
    );
    if labeled.len() > samples {
        held_out.extend(labeled.split_off(samples));
    }
    (labeled, held_out)
}
