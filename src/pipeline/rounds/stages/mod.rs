//! Call the models: generate, filter, label. Each stage is kept in the journal, and opens what it
//! needs; the loop closes it again.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::distill::{Fitted, fit};
use crate::engine::{Engine, Monitor, With};
use crate::filter::{self, Judge, Judged, Rules, Valid, Validity};
use crate::generate::{Candidate, InputSampler, Instruction, Settings, Yield};
use crate::kit::Seed;
use crate::pipeline::inputs::Generator;
use crate::pipeline::job::{Done, Job, Session, fitting, recipe};
use crate::pipeline::journal::blob_name;
use crate::pipeline::{PipelineError, Stage, TransferPlan};
use crate::record::{Pair, Prompt, Rng};
use crate::request::Training;

use super::policy::TRIAL_DRAWS;

mod teacher;

/// Passes over the inputs that a generator is fitted on.
const TUNED_EPOCHS: f32 = 4.0;
/// Values that are drawn for the keys of objects after each round.
const VALUES: usize = 128;
/// Lines of anything that the teacher answers, to see its labels.
const PROBES: usize = 96;

/// The models of the rounds. One is open at a time.
pub(in crate::pipeline) struct Sessions<'a> {
    source: Session<'a>,
    target: Session<'a>,
    /// The target once more, as it is to be trained.
    tuner: Session<'a>,
}

impl<'a> Sessions<'a> {
    /// `adapters`: what the source needs, the teacher first.
    pub fn new(
        engine: &'a dyn Engine,
        plan: &'a TransferPlan,
        adapters: Vec<PathBuf>,
        now: u64,
    ) -> Self {
        let target = || Session::new(engine, &plan.target, &plan.machine, Vec::new()).at(now);
        let source = Session::of_source(engine, plan, adapters).at(now);
        let memory = plan.training.shape.memory;
        Self {
            source: source.for_answers(memory),
            target: target().for_answers(memory),
            tuner: target(),
        }
    }
}

pub(super) struct Stages<'a> {
    plan: &'a TransferPlan,
    seeds: &'a [Seed],
    sessions: Sessions<'a>,
    judge: Judge,
    pub sampler: InputSampler<'a>,
    pub validity: Validity,
}

/// What a round is to generate.
pub(super) struct Order<'o> {
    pub round: usize,
    pub generator: &'o Generator,
    /// The adapter of a tuned generator.
    pub tuned: Option<PathBuf>,
    /// Valid inputs, and how many draws they may take.
    pub wanted: usize,
    pub draws_max: u64,
    /// Valid inputs for each draw; with fewer after [`TRIAL_DRAWS`] draws the round ends.
    pub least_yield: f64,
}

/// What a round generated.
pub(super) struct Generated {
    pub valid: Vec<Valid>,
    pub drawn: Yield,
    /// Inputs with the answer that they were generated for.
    pub intended: Vec<(String, String)>,
}

/// The head of a round of generation in the journal; its rows are candidates.
#[derive(Serialize, Deserialize)]
struct Drawn {
    rounds: u64,
    drawn: Yield,
}

impl<'a> Stages<'a> {
    /// Nothing is opened yet.
    pub fn new(
        plan: &'a TransferPlan,
        seeds: &'a [Seed],
        judge: Judge,
        rules: Rules,
        sessions: Sessions<'a>,
    ) -> Result<Self, PipelineError> {
        let settings = Settings {
            temperature: plan.temperature,
            tokens_max: plan.input.input_tokens,
            sequences: plan.limits.sequences_max,
            variants: !matches!(judge, Judge::None),
            seed: plan.run.seed,
        };
        Ok(Self {
            plan,
            seeds,
            sessions,
            judge,
            sampler: InputSampler::new(seeds, settings)?,
            validity: Validity::new(seeds.iter().map(Seed::text), rules),
        })
    }

    /// Close the source model.
    pub fn close_source(&mut self) {
        self.sessions.source.close();
    }

    /// Close the target model.
    pub fn close_target(&mut self) {
        self.sessions.target.close();
    }

    /// Fit a LoRA on the target that generates inputs like these; answers where it lies.
    ///
    /// What a list of examples or pieces of them never give, such as brackets that match, such a
    /// model takes from hundreds of inputs.
    pub fn tune(
        &mut self,
        job: &mut Job<'_>,
        round: usize,
        rows: &[Pair],
    ) -> Result<PathBuf, PipelineError> {
        let key = format!("tune.{round}");
        let (context, plan, tuner) = (job.context, self.plan, &mut self.sessions.tuner);
        let training = Training {
            early_stop: 0,
            ..plan.training.clone()
        };
        job.stage(&key, Stage::Distill, |_, journal| {
            let (model, _) = tuner.get()?;
            let recipe = recipe(&training, TUNED_EPOCHS, plan.run.seed, model.info().width);
            let Fitted {
                adapter, report, ..
            } = fitting(context, journal, &key, &[], &[], |run| {
                fit(model, rows, &recipe, run)
            })?;
            let summary = format!(
                "a generator of inputs: {} inputs, {} steps, loss {:.4}",
                report.examples, report.steps, report.loss_last
            );
            Ok(Done {
                head: (),
                rows: Vec::<()>::new(),
                blob: Some(adapter),
                summary,
            })
        })?;
        tuner.close();
        Ok(job.journal.path(&blob_name(&key)))
    }

    /// Draw inputs on the target.
    pub fn generate(
        &mut self,
        job: &mut Job<'_>,
        order: &Order<'_>,
    ) -> Result<Generated, PipelineError> {
        let key = format!("generate.{}", order.round);
        let mut valid = Vec::new();
        let done = job.stage(&key, Stage::Generate, |monitor, _| {
            let (drawn, rows) = self.draw(order, &mut valid, monitor)?;
            let summary = format!(
                "{} valid inputs of {} draws by {}",
                valid.len(),
                drawn.drawn,
                order.generator.name
            );
            Ok(Done {
                head: Drawn {
                    rounds: self.sampler.rounds(),
                    drawn,
                },
                rows,
                blob: None,
                summary,
            })
        })?;
        if done.resumed {
            self.sampler.remember(done.head.rounds, &done.rows);
            valid = self.validity.pass(&done.rows);
        }
        let intended = |candidate: &Candidate| {
            Some((
                candidate.text().to_owned(),
                candidate.intended()?.to_owned(),
            ))
        };
        Ok(Generated {
            valid,
            drawn: done.head.drawn,
            intended: done.rows.iter().filter_map(intended).collect(),
        })
    }

    /// Draw until there are enough valid inputs.
    fn draw(
        &mut self,
        order: &Order<'_>,
        valid: &mut Vec<Valid>,
        monitor: &mut Monitor<'_>,
    ) -> Result<(Yield, Vec<Candidate>), PipelineError> {
        let generator = order.generator;
        let session = if generator.target {
            &mut self.sessions.target
        } else {
            &mut self.sessions.source
        };
        let (model, _) = session.get()?;
        let with = match &order.tuned {
            Some(adapter) => With::Adapter(model.attach(adapter)?),
            None => generator.with,
        };
        let (mut drawn, mut rows) = (Yield::default(), Vec::new());
        while valid.len() < order.wanted && drawn.drawn < order.draws_max {
            monitor.tick(valid.len(), order.wanted)?;
            // The stage counts what is valid.
            let mut silent = Monitor {
                cancel: monitor.cancel,
                progress: &mut |_, _| {},
            };
            let (fresh, count) =
                self.sampler
                    .round(model, with, generator.prompt(), &mut silent)?;
            drawn += count;
            valid.extend(self.validity.pass(&fresh));
            rows.extend(fresh);
            let least = order.least_yield * drawn.drawn as f64;
            if drawn.drawn >= TRIAL_DRAWS && (valid.len() as f64) < least {
                break;
            }
        }
        Ok((drawn, rows))
    }

    /// Judge what is valid, on the source.
    pub fn filter(
        &mut self,
        job: &mut Job<'_>,
        round: usize,
        valid: &[Valid],
    ) -> Result<Vec<Judged>, PipelineError> {
        self.judge(job, &format!("filter.{round}"), valid)
    }

    /// Check and judge what users asked. It is not generated again.
    pub fn hear(
        &mut self,
        job: &mut Job<'_>,
        asked: &[Candidate],
    ) -> Result<Vec<Judged>, PipelineError> {
        self.sampler.remember(0, asked);
        let valid = self.validity.pass(asked);
        self.judge(job, "filter.harvest", &valid)
    }

    fn judge(
        &mut self,
        job: &mut Job<'_>,
        key: &str,
        valid: &[Valid],
    ) -> Result<Vec<Judged>, PipelineError> {
        let (source, judge) = (&mut self.sessions.source, &self.judge);
        let done = job.stage(key, Stage::Filter, |monitor, _| {
            let rows = judge.judge(source.get()?.0, valid, monitor)?;
            let accepted = rows
                .iter()
                .filter(|judged| judged.rejected().is_none())
                .count();
            let summary = format!("{accepted} of {} accepted", rows.len());
            Ok(Done::rows(rows, summary))
        })?;
        Ok(done.rows)
    }

    /// Have the target write values for the keys of objects like the known ones.
    pub fn values(
        &mut self,
        job: &mut Job<'_>,
        round: usize,
        known: &[(String, String)],
    ) -> Result<Vec<(String, String)>, PipelineError> {
        let (sampler, target) = (&self.sampler, &mut self.sessions.target);
        let key = format!("values.{round}");
        let done = job.stage(&key, Stage::Generate, |monitor, _| {
            let mut rng = Rng::new(sampler.settings().seed, &key);
            let model = target.get()?.0;
            let rows = sampler.values(known, VALUES, &mut rng, model, monitor)?;
            let summary = format!("{} values for the keys of objects", rows.len());
            Ok(Done::rows(rows, summary))
        })?;
        target.close();
        Ok(done.rows)
    }

    /// Have the target write anything and the teacher answer it.
    pub fn probe(&mut self, job: &mut Job<'_>) -> Result<Vec<Judged>, PipelineError> {
        let limits = &self.plan.limits;
        let Sessions { source, target, .. } = &mut self.sessions;
        let settings = Settings {
            variants: false,
            ..self.sampler.settings().clone()
        };
        let done = job.stage("probe", Stage::Generate, |monitor, _| {
            let mut sampler = InputSampler::new(self.seeds, settings)?;
            let mut texts: Vec<Prompt> = Vec::new();
            for _ in 0..PROBES.div_ceil(limits.sequences_max) {
                let model = target.get()?.0;
                let mut silent = Monitor {
                    cancel: monitor.cancel,
                    progress: &mut |_, _| {},
                };
                let (fresh, _) =
                    sampler.round(model, With::Base, Instruction::Anything, &mut silent)?;
                texts.extend(
                    fresh
                        .iter()
                        .filter(|line| line.finished() && !line.text().is_empty())
                        .map(|line| line.prompt().clone()),
                );
            }
            target.close();
            let (model, adapters) = source.get()?;
            let summary = format!("asked the teacher about {} lines of anything", texts.len());
            let teacher = With::Adapter(adapters[0]);
            let rows = filter::probe(
                model,
                teacher,
                texts,
                self.plan.answer.answer_tokens,
                monitor,
            )?;
            source.close();
            Ok(Done::rows(rows, summary))
        })?;
        Ok(done.rows)
    }
}
