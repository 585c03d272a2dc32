//! `translora kit`: seeds, a discriminator and a manifest, packed beside a source adapter while its
//! data is at hand.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::job::{
    Done, Job, Session, announce, check_rows, fitting, hash_inputs, introduce, once, read_rows,
    recipe,
};
use super::journal::{Journal, blob_name};
use super::{Context, KitPlan, KitReport, PipelineError, Stage};
use crate::distill::{FitReport, Fitted, Recipe, check_memory, fit};
use crate::engine::{Engine, GenerateRequest, Model, Monitor, Start, With};
use crate::filter::{self, Rules, Validity};
use crate::generate::{InputSampler, Instruction, MIN_P, Settings};
use crate::kit::{
    self, Completion, DiscriminatorCard, DiscriminatorData, InputModelCard, InputStatistics,
    Manifest, Reading, Rows, Seed, discriminator_data,
};
use crate::publish;
use crate::record::{ContentHash, Pair, Prompt, Question, Rng};
use crate::request::Learn;

/// Done-up inputs are drawn at this temperature, the one of `translora transfer`.
const TEMPERATURE: f32 = 1.0;
/// Who makes the inputs up that a discriminator learns to tell from real ones.
const MADE_UP_BY: &str = "source";
/// Rounds of inputs that are drawn of an input model to see what it gives away.
const INPUT_MODEL_ROUNDS: usize = 8;
/// Fewer real inputs than this teach a discriminator nothing.
const POSITIVES_MIN: usize = 10;

/// How the discriminator did on what it had not seen.
#[derive(Serialize, Deserialize)]
struct Judgement {
    right: usize,
    rows: usize,
    /// Log-odds of held-out real and made-up inputs, and of as many real ones that it was trained
    /// on.
    real: Vec<f64>,
    made_up: Vec<f64>,
    trained: Vec<f64>,
}

/// Make a kit.
pub fn kit(
    engine: &dyn Engine,
    plan: &KitPlan,
    context: &Context<'_>,
) -> Result<KitReport, PipelineError> {
    let announced = announce(context, "kit", plan);
    let ((rows, seeds, hashes), seconds) = once(context, Stage::Kit, |monitor| {
        let reading = Reading {
            completion: Completion::Optional,
            format: plan.rows.format,
            learn: Learn::Last,
            limits: &plan.limits,
        };
        let rows = read_rows(context, &plan.data, &reading)?;
        let seeds = kit::choose_seeds(
            &plan.data,
            &rows.pairs,
            plan.seeds,
            &mut Rng::new(plan.run.seed, "kit seeds"),
        )?;
        let lora = kit::teacher(&plan.lora, &plan.model)?;
        let hashes = hash_inputs(
            &[
                ("model", &plan.model),
                ("lora", &lora),
                ("data", &plan.data),
            ],
            monitor,
        )?;
        let summary = format!("{} rows, {} seeds", rows.pairs.len(), seeds.len());
        Ok(((rows, seeds, hashes), summary))
    })?;
    let begun = Journal::lies_beside(&plan.out)?;
    if !(plan.run.resume && begun) {
        publish::check_writable(&[&plan.out])?;
    }
    let mut job = Job::open(context, "kit", announced, hashes.clone(), &plan.out)?;
    job.seconds.insert(Stage::Kit.name().into(), seconds);
    let kit_job = KitJob {
        engine,
        plan,
        rows: &rows,
        seeds: &seeds,
        real: distinct(&rows.pairs),
        hashes: &hashes,
        question: Question::about(&name(&plan.out)),
    };
    let result = kit_job.run(&mut job);
    job.end(result)
}

/// The data set's name, as the discriminator is asked about it: the kit's own.
fn name(out: &Path) -> String {
    out.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn distinct(rows: &[Pair]) -> Vec<String> {
    let mut seen = HashSet::new();
    rows.iter()
        .map(|row| row.prompt.text.trim().to_owned())
        .filter(|prompt| seen.insert(prompt.clone()))
        .collect()
}

struct KitJob<'a> {
    engine: &'a dyn Engine,
    plan: &'a KitPlan,
    rows: &'a Rows,
    seeds: &'a [Seed],
    /// Distinct inputs of the data.
    real: Vec<String>,
    hashes: &'a BTreeMap<String, ContentHash>,
    question: Question,
}

impl KitJob<'_> {
    fn run(&self, job: &mut Job<'_>) -> Result<KitReport, PipelineError> {
        if self.real.len() < POSITIVES_MIN {
            let path = self.plan.data.clone();
            return Err(kit::KitError::TooFewRows {
                path,
                distinct: self.real.len(),
                needed: POSITIVES_MIN,
            }
            .into());
        }
        let mut source = Session::new(
            self.engine,
            &self.plan.model,
            &self.plan.machine,
            vec![self.plan.lora.clone()],
        )
        .at(job.now);
        let template = self.check_model(job, &mut source)?;
        let made_up = self.made_up(job, &mut source)?;
        let data = discriminator_data(
            &self.question,
            &self.real,
            &made_up,
            &mut Rng::new(self.plan.run.seed, "kit halves"),
        );
        let (fit, adapter) = self.train(job, &mut source, &data)?;
        let judged = self.judge(job, &mut source, &data)?;
        let inputs = if self.plan.input_model {
            Some(self.input_model(job, &mut source)?)
        } else {
            None
        };
        source.close();
        let calibration = kit::calibrate(&judged.real, &judged.made_up);
        let card = DiscriminatorCard {
            auc: calibration.map(|found| found.auc),
            threshold: calibration.map_or(0.0, |found| found.threshold),
            passed: calibration.map(|found| found.passed),
            made_up_by: Some(MADE_UP_BY.into()),
            membership_auc: kit::auc(&judged.trained, &judged.real),
            sha256: ContentHash::of(&adapter),
            accuracy: judged.right as f64 / judged.rows.max(1) as f64,
            held_out: judged.rows,
            positives: data.positives,
            negatives: data.positives,
        };
        if card.accuracy < 0.7 {
            let text = format!(
                "the discriminator is right on {:.0} % of held-out inputs only: consider more \
                epochs",
                100.0 * card.accuracy
            );
            job.context.events.warn(Stage::Evaluate, text);
        }
        job.context.events.note(
            Stage::Kit,
            format!("discriminator trained in {} steps", fit.steps),
        );
        let template = Some(template).filter(|text| !text.is_empty());
        self.publish(job, &card, &adapter, inputs, template)
    }

    fn recipe(&self, epochs: f32, model: &dyn Model) -> Recipe {
        let (training, seed) = (&self.plan.training, self.plan.run.seed);
        recipe(training, epochs, seed, model.info().width)
    }

    fn check_model(
        &self,
        job: &mut Job<'_>,
        source: &mut Session<'_>,
    ) -> Result<String, PipelineError> {
        let context = job.context;
        let done = job.stage("open", Stage::Open, |_, _| {
            let (model, _) = source.get()?;
            let template = introduce(context, model).unwrap_or_default();
            let rows = (self.rows.pairs.as_slice(), self.rows.lines.as_slice());
            check_rows(model, &self.plan.data, rows, context)?;
            let yes = &self.question.yes;
            let ask = |input: &String| Pair::new(self.question.ask(input), yes.as_str());
            let pairs: Vec<Pair> = self.real.iter().map(ask).collect();
            let recipe = self.recipe(self.plan.epochs, model);
            check_memory(model, &pairs, &recipe)?;
            Ok(Done::head(template, model.info().name.clone()))
        })?;
        Ok(done.head)
    }

    /// The source base's own continuations of the seeds, as many as there are real inputs where it
    /// can make them.
    fn made_up(
        &self,
        job: &mut Job<'_>,
        source: &mut Session<'_>,
    ) -> Result<Vec<String>, PipelineError> {
        let done = job.stage("generate", Stage::Generate, |monitor, _| {
            let settings = Settings {
                temperature: TEMPERATURE,
                tokens_max: self.plan.input.input_tokens,
                sequences: self.plan.limits.sequences_max,
                variants: true,
                seed: self.plan.run.seed,
            };
            let mut sampler = InputSampler::new(self.seeds, settings)?;
            let seeds = || self.seeds.iter().map(Seed::text);
            let mut validity = Validity::new(seeds(), Rules::from_seeds(seeds()));
            let (model, _) = source.get()?;
            let real: HashSet<&str> = self.real.iter().map(String::as_str).collect();
            let drawn_max = (self.real.len() * self.plan.limits.candidates_per_sample_max) as u64;
            let (mut rows, mut drawn) = (Vec::new(), 0);
            while rows.len() < self.real.len() && drawn < drawn_max {
                monitor.tick(rows.len(), self.real.len())?;
                let mut silent = Monitor {
                    cancel: monitor.cancel,
                    progress: &mut |_, _| {},
                };
                let (fresh, count) =
                    sampler.round(model, With::Base, Instruction::List, &mut silent)?;
                drawn += count.drawn;
                let valid = validity.pass(&fresh);
                rows.extend(
                    valid
                        .iter()
                        .map(|valid| valid.text().to_owned())
                        .filter(|text| !real.contains(text.as_str())),
                );
            }
            rows.truncate(self.real.len());
            if rows.len() < POSITIVES_MIN {
                return Err(PipelineError::NotEnough {
                    got: rows.len(),
                    needed: POSITIVES_MIN,
                    drawn,
                    rejected: BTreeMap::new(),
                });
            }
            let summary = format!("{} made-up inputs of {drawn} drawn", rows.len());
            Ok(Done {
                head: (),
                rows,
                blob: None,
                summary,
            })
        })?;
        Ok(done.rows)
    }

    fn train(
        &self,
        job: &mut Job<'_>,
        source: &mut Session<'_>,
        data: &DiscriminatorData,
    ) -> Result<(FitReport, Vec<u8>), PipelineError> {
        let context = job.context;
        let metadata = [("translora.role".to_owned(), "discriminator".to_owned())];
        let done = job.stage("distill", Stage::Distill, |_, journal| {
            let (model, _) = source.get()?;
            let recipe = self.recipe(self.plan.epochs, model);
            let Fitted {
                adapter, report, ..
            } = fitting(context, journal, "distill", &metadata, &[], |run| {
                fit(model, &data.train, &recipe, run)
            })?;
            let summary = format!(
                "{} inputs, {} steps, loss {:.4}",
                report.examples, report.steps, report.loss_last
            );
            Ok(Done {
                head: report,
                rows: Vec::<()>::new(),
                blob: Some(adapter),
                summary,
            })
        })?;
        Ok((done.head, done.blob.unwrap_or_default()))
    }

    fn judge(
        &self,
        job: &mut Job<'_>,
        source: &mut Session<'_>,
        data: &DiscriminatorData,
    ) -> Result<Judgement, PipelineError> {
        let done = job.stage("evaluate", Stage::Evaluate, |monitor, journal| {
            let (model, _) = source.get()?;
            let adapter = With::Adapter(model.attach(&journal.path(&blob_name("distill")))?);
            let is_real = |pair: &&Pair| pair.completion == self.question.yes;
            let real = data.held_out.iter().filter(is_real);
            let made_up = data.held_out.iter().filter(|pair| !is_real(pair));
            let trained = data
                .train
                .iter()
                .filter(is_real)
                .take(data.held_out.len() / 2);
            let mut odds = |pairs: &mut dyn Iterator<Item = &Pair>| {
                let prompts: Vec<Prompt> = pairs.map(|pair| pair.prompt.clone()).collect();
                model.preference(
                    adapter,
                    &prompts,
                    &self.question.yes,
                    &self.question.no,
                    monitor,
                )
            };
            let (real, made_up, trained) = (
                odds(&mut { real })?,
                odds(&mut { made_up })?,
                odds(&mut { trained })?,
            );
            let right = real.iter().filter(|odds| **odds > 0.0).count()
                + made_up.iter().filter(|odds| **odds <= 0.0).count();
            let summary = format!(
                "discriminator right on {right} of {} held-out inputs",
                data.held_out.len()
            );
            Ok(Done::head(
                Judgement {
                    right,
                    rows: data.held_out.len(),
                    real,
                    made_up,
                    trained,
                },
                summary,
            ))
        })?;
        Ok(done.head)
    }

    /// A LoRA that makes inputs, fitted on all of them, and how many of what it makes are theirs
    /// word for word.
    fn input_model(
        &self,
        job: &mut Job<'_>,
        source: &mut Session<'_>,
    ) -> Result<(InputModelCard, Vec<u8>), PipelineError> {
        let context = job.context;
        let question = format!("Write an input of the {} dataset.", name(&self.plan.out));
        let pair = |input: &String| Pair::new(question.as_str(), input.as_str());
        let rows: Vec<Pair> = self.real.iter().map(pair).collect();
        let metadata = [("translora.role".to_owned(), "input model".to_owned())];
        let done = job.stage("inputs", Stage::Distill, |_, journal| {
            let (model, _) = source.get()?;
            let recipe = self.recipe(self.plan.input_epochs, model);
            let Fitted {
                adapter, report, ..
            } = fitting(context, journal, "inputs", &metadata, &[], |run| {
                fit(model, &rows, &recipe, run)
            })?;
            let summary = format!(
                "input model: {} inputs, {} steps, loss {:.4}",
                report.examples, report.steps, report.loss_last
            );
            Ok(Done {
                head: report,
                rows: Vec::<()>::new(),
                blob: Some(adapter),
                summary,
            })
        })?;
        let adapter = done.blob.unwrap_or_default();
        let [drawn, verbatim, near] = self.gives_away(job, source, &question)?;
        let card = InputModelCard {
            sha256: ContentHash::of(&adapter),
            question,
            rows: rows.len(),
            drawn,
            verbatim,
            near,
        };
        Ok((card, adapter))
    }

    /// How many inputs an input model was made to draw, how many of those are inputs of the data,
    /// and how many more are nearly so.
    fn gives_away(
        &self,
        job: &mut Job<'_>,
        source: &mut Session<'_>,
        question: &str,
    ) -> Result<[usize; 3], PipelineError> {
        let done = job.stage("inputs.drawn", Stage::Evaluate, |monitor, journal| {
            let (model, _) = source.get()?;
            let adapter = With::Adapter(model.attach(&journal.path(&blob_name("inputs")))?);
            let real: HashSet<&str> = self.real.iter().map(String::as_str).collect();
            let (mut drawn, mut verbatim, mut others) = (0, 0, Vec::new());
            for round in 0..INPUT_MODEL_ROUNDS {
                monitor.tick(round, INPUT_MODEL_ROUNDS)?;
                let request = GenerateRequest {
                    start: Start::Chat(question.into()),
                    openings: vec![String::new(); self.plan.limits.sequences_max],
                    tokens_max: self.plan.input.input_tokens,
                    temperature: TEMPERATURE,
                    min_p: MIN_P,
                    stop: String::new(),
                    seed: Rng::new(self.plan.run.seed, &format!("kit inputs {round}")).next_u64(),
                };
                let mut silent = Monitor {
                    cancel: monitor.cancel,
                    progress: &mut |_, _| {},
                };
                let inputs = model.generate(adapter, &request, &mut silent)?;
                drawn += inputs.len();
                let (same, other): (Vec<_>, Vec<_>) = inputs
                    .into_iter()
                    .partition(|input| real.contains(input.text.trim()));
                verbatim += same.len();
                others.extend(other.into_iter().map(|input| input.text));
            }
            let near = filter::near_copies(
                others.iter().map(String::as_str),
                self.real.iter().map(String::as_str),
            );
            let summary = format!(
                "{verbatim} of {drawn} inputs drawn are inputs of the data, \
                word for word, {near} more nearly so"
            );
            Ok(Done::head([drawn, verbatim, near], summary))
        })?;
        Ok(done.head)
    }

    fn publish(
        &self,
        job: &mut Job<'_>,
        card: &DiscriminatorCard,
        adapter: &[u8],
        inputs: Option<(InputModelCard, Vec<u8>)>,
        chat_template: Option<String>,
    ) -> Result<KitReport, PipelineError> {
        let (input_card, input_model) = inputs.unzip();
        let manifest = Manifest {
            version: Manifest::VERSION,
            name: name(&self.plan.out),
            base: self.hashes["model"],
            adapter: self.hashes["lora"],
            prompt_format: Manifest::CHAT.into(),
            chat_template,
            question: self.question.clone(),
            discriminator: Some(card.clone()),
            input_model: input_card.clone(),
            inputs: InputStatistics::of(&self.real),
            limits: self.plan.limits.clone(),
            seed: self.plan.run.seed,
        };
        let (_, seconds) = once(job.context, Stage::Publish, |monitor| {
            monitor.tick(0, 1)?;
            publish::write_new(
                &self.plan.out,
                &kit::pack(&manifest, self.seeds, Some(adapter), input_model.as_deref())?,
            )?;
            Ok(((), self.plan.out.display().to_string()))
        })?;
        let mut spent = job.seconds.clone();
        spent.insert(Stage::Publish.name().into(), seconds);
        Ok(KitReport {
            kit: self.plan.out.clone(),
            seeds: self.seeds.len(),
            positives: card.positives,
            negatives: card.negatives,
            accuracy: Some(card.accuracy),
            auc: card.auc,
            passed: card.passed,
            privacy: manifest.privacy(self.seeds.len()),
            accuracy_rows: card.held_out,
            input_model: input_card,
            seconds: spent,
        })
    }
}
