//! Generate and filter in turns until there are enough samples: target open, generate, close;
//! source open, filter and label, close. A round is made large enough that there are few.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::inputs::Hands;
use super::job::{Job, Made, Session, count_rejections, fitting, named, recipe};
use super::journal::blob_name;
use super::judging::Teacher;
use super::transfer::Given;
use super::{MadeInput, PipelineError, RoundCounts, Stage, TransferPlan};
use crate::distill::{Fitted, fit};
use crate::engine::{Answer, Talk, With};
use crate::evaluate;
use crate::filter::{self, Coverage, Judge, Judged, Kept, Reason, Shares, Valid, Validity};
use crate::generate::{self, Ask, Candidate, Generator, Settings, Yield};
use crate::kit::Seed;
use crate::label::{self, Draws, Labeled};
use crate::record::{Origin, Pair};
use crate::request::{LabelChoice, Training};

/// Valid inputs judged for each sample that is needed.
const CANDIDATES_PER_SAMPLE: usize = 6;
/// The same of an input model, whose inputs are of the task.
const INPUT_MODEL_CANDIDATES: f64 = 1.3;
/// Rounds they are made in; each makes variants of the best of those before.
const ROUNDS: usize = 4;
/// Inputs that a round makes variants of, for each sample that is needed.
const ADOPTED_SHARE: f64 = 0.25;
/// They are chosen from this part of what is good enough to be kept.
const ADOPTED_GOOD: f64 = 0.4;
/// The first round whose maker may be a model that was fitted on what the rounds before made, for
/// so many passes, and how much of what is needed it is fitted on.
const TUNED_FROM: usize = 2;
const TUNED_EPOCHS: f32 = 4.0;
const TUNED_SHARE: f64 = 0.5;
/// Draws that a round takes at most for each valid input it should make.
const DRAWS_PER_CANDIDATE: usize = 2;
/// Rounds after those make this many times what the measured acceptance asks for.
const MARGIN: f64 = 1.3;
/// Acceptance a later round reckons with at least, so that no round becomes endless.
const ACCEPTANCE_MIN: f64 = 0.05;

/// Answers that are drawn to see what most agree on, at which temperature, and the share that must.
const ANSWERS_DRAWN: usize = 8;
const ANSWERS_TEMPERATURE: f32 = 1.0;
const AGREED_MIN: f64 = 0.5;
/// Share of inputs that are expected to be dropped for that.
const UNSURE_SHARE: f64 = 0.2;
/// Inputs that a report shows: of those kept, and of those a judge rejected for each reason.
const KEPT_SHOWN_MAX: usize = 12;
const REJECTED_SHOWN_MAX: usize = 5;

/// Lines of anything that the teacher is asked about, to see its labels.
const PROBES: usize = 96;
/// Seeds that the bare target is shown at most.
const SHOTS_MAX: usize = 8;

/// What the rounds came to.
pub(super) struct Samples {
    pub labeled: Vec<Labeled>,
    /// The seeds with the teacher's answers.
    pub seeds: Vec<Labeled>,
    pub counts: BTreeMap<String, u64>,
    pub coverage: Coverage,
    pub teacher: Option<Teacher>,
    pub rounds: Vec<RoundCounts>,
    /// Some of what was made, kept and rejected.
    pub shown: Vec<MadeInput>,
}

/// A model that makes inputs up.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Maker {
    pub name: &'static str,
    /// The target makes them; else the source.
    pub target: bool,
    pub with: With,
    /// The question an input model answers; none for the list of seeds.
    pub question: Option<String>,
    /// It is shown the seeds.
    pub shown: bool,
    /// It is fitted on the best of the rounds before.
    pub tuned: bool,
}

impl Maker {
    fn ask(&self) -> Ask<'_> {
        match &self.question {
            Some(question) if self.tuned => Ask::Tuned(question),
            Some(question) => Ask::Question(question),
            None if self.shown => Ask::List,
            None => Ask::Anything,
        }
    }
}

/// The rounds of one transfer.
pub(super) struct Rounds<'a> {
    plan: &'a TransferPlan,
    given: &'a Given,
    judge: Judge,
    makers: Vec<Maker>,
    needed: usize,
    source: Session<'a>,
    target: Session<'a>,
    /// The target once more, as it is to be trained.
    tuner: Session<'a>,
    generator: Generator<'a>,
    validity: Validity,
    drawn: Yield,
    /// Whose each valid input is, by its place among the makers.
    origins: HashMap<String, usize>,
    /// The answers that inputs were asked for by.
    asked: HashMap<String, String>,
    /// What came of whose inputs.
    yields: BTreeMap<String, u64>,
    /// Everything valid so far, judged.
    judged: Vec<Judged>,
    /// Text of any kind that the teacher answered.
    probed: Vec<Judged>,
    labeled: Vec<Labeled>,
    seeds: Option<Vec<Labeled>>,
    rejected: BTreeMap<String, u64>,
    teacher: Option<Teacher>,
    counts: Vec<RoundCounts>,
}

/// A round of generation, as journalled: rows are texts with whether they came to an end.
#[derive(Serialize, Deserialize)]
struct Drawn {
    rounds: u64,
    drawn: Yield,
}

/// A candidate, as journalled: whether it came to an end, and what it was asked for by.
#[derive(Serialize, Deserialize)]
struct DrawnRow(String, bool, Origin, Option<String>);

/// A judged input, as journalled.
#[derive(Serialize, Deserialize)]
struct JudgedRow(String, Option<Answer>, f64, Option<Reason>, Origin);

impl<'a> Rounds<'a> {
    pub fn new(
        plan: &'a TransferPlan,
        given: &'a Given,
        hands: Hands,
        needed: usize,
        [source, target, tuner]: [Session<'a>; 3],
    ) -> Result<Self, PipelineError> {
        let Hands {
            judge,
            makers,
            rules,
            ..
        } = hands;
        let settings = Settings {
            temperature: plan.temperature,
            tokens_max: plan.input.input_tokens,
            sequences: plan.limits.sequences_max,
            variants: !matches!(judge, Judge::None),
            seed: plan.run.seed,
        };
        Ok(Self {
            plan,
            given,
            judge,
            makers,
            needed,
            source,
            target,
            tuner,
            generator: Generator::new(&given.seeds, settings)?,
            validity: Validity::new(given.seeds.iter().map(Seed::text), rules),
            drawn: Yield::default(),
            origins: HashMap::new(),
            asked: HashMap::new(),
            yields: BTreeMap::new(),
            judged: Vec::new(),
            probed: Vec::new(),
            labeled: Vec::new(),
            seeds: None,
            rejected: BTreeMap::new(),
            teacher: None,
            counts: Vec::new(),
        })
    }

    pub fn run(mut self, job: &mut Job<'_>) -> Result<Samples, PipelineError> {
        let mut round = 0;
        let seeds: Vec<&str> = self.given.seeds.iter().map(Seed::text).collect();
        while self.wants_more(round) && self.drawn.drawn < self.drawn_max() {
            let valid = self.generate(job, round)?;
            self.target.close();
            let (drawn, accepted) = (
                self.counts.iter().map(|round| round.drawn).sum::<u64>(),
                self.accepted(),
            );
            self.filter(job, round, &valid)?;
            self.counts.push(RoundCounts {
                by: self.makers[self.turn(round)].name.into(),
                drawn: self.drawn.drawn - drawn,
                valid: valid.len() as u64,
                accepted: (self.accepted() - accepted) as u64,
            });
            self.label_seeds(job)?;
            self.evaluate_source(job)?;
            self.source.close();
            let shares = self.shares();
            let (adopted, _) = filter::select(
                &self.judged,
                &seeds,
                (self.needed as f64 * ADOPTED_SHARE) as usize,
                Shares {
                    good: shares.good * ADOPTED_GOOD,
                    ..shares
                },
            );
            self.generator.adopt(adopted.iter().map(Kept::prompt));
            self.want(job, &adopted)?;
            if let Some(share) = self.lines_share() {
                self.generator.lean(share);
            }
            round += 1;
            if self.is_hopeless() {
                break;
            }
        }
        self.label(job)?;
        self.agree(job)?;
        self.source.close();
        self.finish(job)
    }

    /// Too few were accepted, or there may be better ones.
    fn wants_more(&self, round: usize) -> bool {
        self.accepted() < self.needed || (round < ROUNDS && self.judged.len() < self.candidates())
    }

    fn accepted(&self) -> usize {
        self.judged
            .iter()
            .filter(|judged| judged.rejected().is_none())
            .count()
    }

    fn drawn_max(&self) -> u64 {
        (self.needed * self.plan.limits.candidates_per_sample_max) as u64
    }

    /// Valid inputs to judge before any are chosen.
    fn candidates(&self) -> usize {
        match self.judge {
            Judge::None => self.needed,
            _ if self.makers.iter().all(|maker| maker.question.is_some()) => {
                (self.needed as f64 * INPUT_MODEL_CANDIDATES) as usize
            }
            Judge::Discriminator(_) | Judge::Contrast { .. } | Judge::Both { .. } => {
                self.needed * CANDIDATES_PER_SAMPLE
            }
        }
    }

    /// Valid inputs this round should make: an even share of the candidates, or more where too few
    /// of them were accepted.
    fn wanted(&self) -> usize {
        let (accepted, judged) = (self.accepted(), self.judged.len());
        let missing = self.needed.saturating_sub(accepted) as f64;
        let acceptance = if judged == 0 {
            1.0
        } else {
            (accepted as f64 / judged as f64).max(ACCEPTANCE_MIN)
        };
        let left = self.candidates().saturating_sub(judged);
        if left == 0 {
            (missing * MARGIN / acceptance).ceil() as usize
        } else {
            left.min(self.candidates().div_ceil(ROUNDS))
        }
    }

    /// At this rate, all the draws a run may take would give less than half of what is needed,
    /// which is less than it goes on with.
    fn is_hopeless(&self) -> bool {
        let (drawn, drawn_max) = (self.drawn.drawn as f64, self.drawn_max() as f64);
        self.accepted() as f64 / drawn.max(1.0) * drawn_max < self.needed as f64 / 2.0
    }

    /// As much of what is kept comes of whole lines as an input has words that no other seed shows.
    fn shares(&self) -> Shares {
        Shares {
            good: self.judge.good_share(),
            lines: self.generator.unseen(),
        }
    }

    /// How many of the rounds to come should draw lines: as lines are good as often as variants
    /// are. Good is what is among the best that were accepted.
    fn lines_share(&self) -> Option<f64> {
        let mut scores: Vec<f64> = self
            .judged
            .iter()
            .filter(|judged| judged.rejected().is_none())
            .map(Judged::score)
            .collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        let least = *scores
            .get((scores.len() as f64 * self.judge.good_share()).ceil() as usize)
            .or(scores.last())?;
        let good = |judged: &&Judged| judged.rejected().is_none() && judged.score() >= least;
        let share = |lines: bool| {
            let those = || {
                self.judged.iter().filter(|judged| {
                    judged.origin() != Origin::Tuned && (judged.origin() == Origin::Line) == lines
                })
            };
            let all = those().count();
            (all > 0).then(|| those().filter(good).count() as f64 / all as f64)
        };
        let (lines, variants) = (share(true)?, share(false)?);
        (lines + variants > 0.0).then(|| lines / (lines + variants))
    }

    /// Who makes the inputs of a round: all in turns, but the tuned one, which has every round from
    /// `TUNED_FROM` on.
    fn turn(&self, round: usize) -> usize {
        let tuned = self.makers.iter().position(|maker| maker.tuned);
        match tuned {
            Some(tuned) if round >= TUNED_FROM => tuned,
            Some(_) => round % (self.makers.len() - 1),
            None => round % self.makers.len(),
        }
    }

    /// Fit a LoRA on the target that makes inputs like the best so far; returns where it lies.
    ///
    /// What a list of examples or pieces of them never give, such as brackets that match, such a
    /// model takes from hundreds of inputs.
    fn tune(&mut self, job: &mut Job<'_>, round: usize) -> Result<PathBuf, PipelineError> {
        let key = format!("tune.{round}");
        let (context, plan) = (job.context, self.plan);
        let shares = self.shares();
        let seeds: Vec<&str> = self.given.seeds.iter().map(Seed::text).collect();
        let count = (self.needed as f64 * TUNED_SHARE).ceil() as usize;
        let (best, _) = filter::select(
            &self.judged,
            &seeds,
            count,
            Shares {
                good: shares.good * ADOPTED_GOOD,
                ..shares
            },
        );
        let question = self.makers[self.turn(round)]
            .question
            .clone()
            .unwrap_or_default();
        let labels = filter::has_labels(&self.judged);
        let row = |(answer, input): (&str, &str)| Pair {
            prompt: question.clone(),
            completion: generate::lesson(Some(answer.trim()).filter(|_| labels), input),
        };
        let seeds = self
            .seeds
            .iter()
            .flatten()
            .map(|seed| (seed.completion(), seed.prompt()));
        let best = best.iter().map(|kept| {
            (
                kept.answer().map_or("", |answer| answer.text.as_str()),
                kept.prompt(),
            )
        });
        let rows: Vec<Pair> = seeds.chain(best).map(row).collect();
        let training = Training {
            early_stop: 0,
            ..plan.training.clone()
        };
        let tuner = &mut self.tuner;
        job.stage(&key, Stage::Distill, |_, journal| {
            let (model, _) = tuner.get()?;
            let recipe = recipe(&training, TUNED_EPOCHS, plan.run.seed, model.info().width);
            let Fitted {
                adapter, report, ..
            } = fitting(context, journal, &key, &[], &[], |run| {
                fit(model, &rows, &recipe, run)
            })?;
            let summary = format!(
                "a maker of inputs: {} inputs, {} steps, loss {:.4}",
                report.examples, report.steps, report.loss_last
            );
            Ok(Made {
                head: (),
                rows: Vec::<()>::new(),
                blob: Some(adapter),
                summary,
            })
        })?;
        self.tuner.close();
        Ok(job.journal.path(&blob_name(&key)))
    }

    fn generate(&mut self, job: &mut Job<'_>, round: usize) -> Result<Vec<Valid>, PipelineError> {
        // Where little that is new comes, the round ends with less.
        let wanted = self.wanted();
        let share = (wanted * DRAWS_PER_CANDIDATE) as u64;
        let drawn_max = share.min(self.drawn_max().saturating_sub(self.drawn.drawn));
        let mut valid = Vec::new();
        let turn = self.turn(round);
        let tuned = if self.makers[turn].tuned {
            Some(self.tune(job, round)?)
        } else {
            None
        };
        let Self {
            source,
            target,
            generator,
            validity,
            ..
        } = self;
        let maker = &self.makers[turn];
        let made = job.stage(&format!("generate.{round}"), Stage::Generate, |talk, _| {
            let (model, _) = if maker.target {
                target.get()?
            } else {
                source.get()?
            };
            let with = match &tuned {
                Some(adapter) => With::Adapter(model.attach(adapter)?),
                None => maker.with,
            };
            let (mut drawn, mut rows) = (Yield::default(), Vec::new());
            while valid.len() < wanted && drawn.drawn < drawn_max {
                talk.tick(valid.len(), wanted)?;
                let mut quiet = Talk {
                    cancel: talk.cancel,
                    progress: &mut |_, _| {},
                };
                let (fresh, count) = generator.round(model, with, maker.ask(), &mut quiet)?;
                drawn += count;
                valid.extend(validity.pass(&fresh));
                let row = |candidate: Candidate| {
                    DrawnRow(
                        candidate.text().to_owned(),
                        candidate.finished(),
                        candidate.origin(),
                        candidate.asked().map(str::to_owned),
                    )
                };
                rows.extend(fresh.into_iter().map(row));
            }
            let summary = format!(
                "{} valid inputs of {} draws by {}",
                valid.len(),
                drawn.drawn,
                maker.name
            );
            Ok(Made {
                head: Drawn {
                    rounds: generator.rounds(),
                    drawn,
                },
                rows,
                blob: None,
                summary,
            })
        })?;
        let replay = |DrawnRow(text, finished, origin, asked)| {
            Candidate::replay(text, finished, origin, asked)
        };
        let candidates: Vec<Candidate> = made.rows.into_iter().map(replay).collect();
        let asked = |candidate: &Candidate| {
            Some((candidate.text().to_owned(), candidate.asked()?.to_owned()))
        };
        self.asked.extend(candidates.iter().filter_map(asked));
        if made.resumed {
            self.generator.remember(made.head.rounds, &candidates);
            valid = self.validity.pass(&candidates);
        }
        self.drawn += made.head.drawn;
        *self
            .yields
            .entry(format!("{}_drawn", self.makers[turn].name))
            .or_default() += made.head.drawn.drawn;
        self.origins
            .extend(valid.iter().map(|valid| (valid.text().to_owned(), turn)));
        Ok(valid)
    }

    fn filter(
        &mut self,
        job: &mut Job<'_>,
        round: usize,
        valid: &[Valid],
    ) -> Result<(), PipelineError> {
        let Self { source, judge, .. } = self;
        let made = job.stage(&format!("filter.{round}"), Stage::Filter, |talk, _| {
            let judged = judge.judge(source.get()?.0, valid, talk)?;
            let accepted = judged
                .iter()
                .filter(|judged| judged.rejected().is_none())
                .count();
            let row = |judged: &Judged| {
                JudgedRow(
                    judged.text().to_owned(),
                    judged.answer().cloned(),
                    judged.score(),
                    judged.rejected(),
                    judged.origin(),
                )
            };
            let summary = format!("{accepted} of {} accepted", judged.len());
            Ok(Made {
                head: (),
                rows: judged.iter().map(row).collect(),
                blob: None,
                summary,
            })
        })?;
        let replay = |JudgedRow(text, answer, score, rejected, origin)| {
            Judged::replay(text, answer, score, rejected, origin)
        };
        self.judged.extend(made.rows.into_iter().map(replay));
        if let Some(kappa) = filter::hold_to(&mut self.judged, &self.asked) {
            let text = format!(
                "inputs that were asked for by an answer get it with a kappa of {kappa:.2} (1: all do, 0: no more than by chance)"
            );
            job.context.events.note(Stage::Filter, text);
        }
        Ok(())
    }

    /// Where the answers of the teacher are labels, ask for inputs by them.
    ///
    /// Its answers to text that has nothing to do with the task are some of its labels, too.
    fn want(&mut self, job: &mut Job<'_>, adopted: &[Kept]) -> Result<(), PipelineError> {
        if !self.judge.has_answers() || !self.makers.iter().any(|maker| maker.ask() == Ask::List) {
            return Ok(());
        }
        if self.probed.is_empty() && filter::has_labels(&self.judged) {
            self.probe(job)?;
        }
        let seen: Vec<Judged> = self.judged.iter().chain(&self.probed).cloned().collect();
        let seeds = self
            .seeds
            .iter()
            .flatten()
            .map(|seed| (seed.completion().trim(), seed.prompt()));
        let adopted = adopted
            .iter()
            .filter_map(|kept| Some((kept.answer()?.text.trim(), kept.prompt())));
        self.generator
            .want(filter::labels(&seen), seeds.chain(adopted));
        Ok(())
    }

    /// Have the target write anything and the teacher answer it.
    fn probe(&mut self, job: &mut Job<'_>) -> Result<(), PipelineError> {
        let (plan, source, target) = (self.plan, &mut self.source, &mut self.target);
        let settings = self.generator.settings().clone();
        let made = job.stage("probe", Stage::Generate, |talk, _| {
            let mut generator = Generator::new(
                &self.given.seeds,
                Settings {
                    variants: false,
                    ..settings
                },
            )?;
            let mut quiet = Talk {
                cancel: talk.cancel,
                progress: &mut |_, _| {},
            };
            let mut texts: Vec<String> = Vec::new();
            for _ in 0..PROBES.div_ceil(plan.limits.sequences_max) {
                let (fresh, _) =
                    generator.round(target.get()?.0, With::Base, Ask::Anything, &mut quiet)?;
                texts.extend(
                    fresh
                        .iter()
                        .filter(|line| line.finished() && !line.text().is_empty())
                        .map(|line| line.text().to_owned()),
                );
            }
            target.close();
            let (model, adapters) = source.get()?;
            let answers = model.answer(
                With::Adapter(adapters[0]),
                &texts,
                plan.answer.answer_tokens,
                talk,
            )?;
            source.close();
            let summary = format!("asked the teacher about {} lines of anything", texts.len());
            Ok(Made {
                head: (),
                rows: texts.into_iter().zip(answers).collect(),
                blob: None,
                summary,
            })
        })?;
        let judged = |(text, answer)| {
            Judged::replay(text, Some(answer), 0.0, Some(Reason::Probe), Origin::Line)
        };
        self.probed = made.rows.into_iter().map(judged).collect();
        Ok(())
    }

    /// Choose the best of what was accepted and put the teacher's answers to it.
    fn label(&mut self, job: &mut Job<'_>) -> Result<(), PipelineError> {
        let seeds: Vec<&str> = self.given.seeds.iter().map(Seed::text).collect();
        if self.judge.has_answers() {
            // The answers came with the scores.
            let (kept, rejections) = filter::select(
                &self.judged,
                &seeds,
                self.needed + self.spare(),
                self.shares(),
            );
            let (labeled, unlabeled) = label::label_answered(&kept);
            count_rejections(&mut self.rejected, &rejections);
            count_rejections(&mut self.rejected, &unlabeled);
            self.labeled = labeled;
            return Ok(());
        }
        // A few more than are needed, because a teacher may fail to answer.
        let (kept, rejections) = filter::select(
            &self.judged,
            &seeds,
            self.needed + self.needed / 20 + 2 + self.spare(),
            self.shares(),
        );
        let (source, tokens_max) = (&mut self.source, self.plan.answer.answer_tokens);
        let made = job.stage("label", Stage::Label, |talk, _| {
            let (model, adapters) = source.get()?;
            let (labeled, rejections) =
                label::label(model, With::Adapter(adapters[0]), &kept, tokens_max, talk)?;
            let rows = labeled
                .iter()
                .map(|l| (l.prompt().to_owned(), l.completion().to_owned()))
                .collect();
            let summary = format!("{} of {} answered", labeled.len(), kept.len());
            Ok(Made {
                head: rejections,
                rows,
                blob: None,
                summary,
            })
        })?;
        count_rejections(&mut self.rejected, &rejections);
        count_rejections(&mut self.rejected, &made.head);
        self.labeled = made
            .rows
            .into_iter()
            .map(|(prompt, completion)| Labeled::replay(prompt, completion, 1.0))
            .collect();
        Ok(())
    }

    /// Inputs labelled beyond those that are needed, because the teacher may not agree with itself.
    fn spare(&self) -> usize {
        if self.plan.label == LabelChoice::Consistent {
            (self.needed as f64 * UNSURE_SHARE) as usize + 2
        } else {
            0
        }
    }

    /// Where that is asked for, put the answer that most of several agree on in place of the greedy
    /// one.
    fn agree(&mut self, job: &mut Job<'_>) -> Result<(), PipelineError> {
        if self.plan.label == LabelChoice::Greedy {
            return Ok(());
        }
        let draws = Draws {
            samples: ANSWERS_DRAWN,
            temperature: ANSWERS_TEMPERATURE,
            agreed_min: AGREED_MIN,
            tokens_max: self.plan.answer.answer_tokens,
            seed: self.plan.run.seed,
        };
        let (source, labeled) = (&mut self.source, std::mem::take(&mut self.labeled));
        let made = job.stage("consistent", Stage::Label, |talk, _| {
            let (model, adapters) = source.get()?;
            let (all, teacher) = (labeled.len(), With::Adapter(adapters[0]));
            let (kept, rejections) = label::consistent(model, teacher, labeled, &draws, talk)?;
            let rows = kept
                .iter()
                .map(|l| {
                    (
                        l.prompt().to_owned(),
                        l.completion().to_owned(),
                        l.confidence(),
                    )
                })
                .collect();
            let summary = format!(
                "most of {ANSWERS_DRAWN} answers agree on {} of {all} inputs",
                kept.len()
            );
            Ok(Made {
                head: rejections,
                rows,
                blob: None,
                summary,
            })
        })?;
        count_rejections(&mut self.rejected, &made.head);
        self.labeled = made
            .rows
            .into_iter()
            .map(|(prompt, completion, share)| Labeled::replay(prompt, completion, share))
            .collect();
        Ok(())
    }

    /// Ask the teacher about the seeds while the source is open anyway: of all inputs they are the
    /// surest to be of the task.
    fn label_seeds(&mut self, job: &mut Job<'_>) -> Result<(), PipelineError> {
        if self.seeds.is_some() {
            return Ok(());
        }
        let (source, tokens_max) = (&mut self.source, self.plan.answer.answer_tokens);
        let texts: Vec<String> = self
            .given
            .seeds
            .iter()
            .map(|seed| seed.text().to_owned())
            .collect();
        let made = job.stage("seeds", Stage::Label, |talk, _| {
            let (model, adapters) = source.get()?;
            let labeled =
                label::label_texts(model, With::Adapter(adapters[0]), &texts, tokens_max, talk)?;
            let rows: Vec<(String, String)> = labeled
                .iter()
                .map(|l| (l.prompt().to_owned(), l.completion().to_owned()))
                .collect();
            let summary = format!("{} of {} seeds answered", rows.len(), texts.len());
            Ok(Made {
                head: (),
                rows,
                blob: None,
                summary,
            })
        })?;
        self.seeds = Some(
            made.rows
                .into_iter()
                .map(|(prompt, completion)| Labeled::replay(prompt, completion, 1.0))
                .collect(),
        );
        Ok(())
    }

    /// Ask the teacher about the rows of `--eval` while the source is open anyway.
    fn evaluate_source(&mut self, job: &mut Job<'_>) -> Result<(), PipelineError> {
        let (Some(rows), None) = (&self.given.eval, &self.teacher) else {
            return Ok(());
        };
        let (source, tokens_max) = (&mut self.source, self.plan.answer.answer_tokens);
        let shots = self
            .seeds
            .iter()
            .flatten()
            .take(SHOTS_MAX)
            .map(Labeled::pair)
            .collect();
        let made = job.stage("evaluate.source", Stage::Evaluate, |talk, _| {
            let (model, adapters) = source.get()?;
            let arm = evaluate::arm(model, With::Adapter(adapters[0]), rows, tokens_max, talk)?;
            let summary = format!("source+LoRA {:.1} % of {}", 100.0 * arm.exact(), arm.rows());
            Ok(Made::head(Teacher { arm, shots }, summary))
        })?;
        self.teacher = Some(made.head);
        Ok(())
    }

    /// Count the valid, accepted and kept inputs of each maker.
    fn count_yields<'t>(&mut self, kept: impl Iterator<Item = &'t str>) {
        let valid = self.judged.iter().map(|judged| (judged.text(), "valid"));
        let accepted = self
            .judged
            .iter()
            .filter(|judged| judged.rejected().is_none())
            .map(|judged| (judged.text(), "accepted"));
        for (text, what) in valid.chain(accepted).chain(kept.map(|text| (text, "kept"))) {
            if let Some(&turn) = self.origins.get(text) {
                *self
                    .yields
                    .entry(format!("{}_{what}", self.makers[turn].name))
                    .or_default() += 1;
            }
        }
    }

    /// The first inputs that were kept, and the first that were rejected for each reason.
    fn shown(&self, kept: &[String]) -> Vec<MadeInput> {
        let made = |text: &str, answer: Option<String>, reason: Option<Reason>| MadeInput {
            text: text.into(),
            answer,
            rejected: reason.map(named),
        };
        let labeled = self.labeled.iter().take(KEPT_SHOWN_MAX);
        let mut shown: Vec<MadeInput> = labeled
            .map(|row| made(row.prompt(), Some(row.completion().to_owned()), None))
            .collect();
        let kept: HashSet<&str> = kept.iter().map(String::as_str).collect();
        let mut left: HashMap<Reason, usize> = HashMap::new();
        for judged in &self.judged {
            let reason = judged.rejected().unwrap_or(Reason::Surplus);
            let left = left.entry(reason).or_insert(REJECTED_SHOWN_MAX);
            if *left > 0 && !kept.contains(judged.text()) {
                *left -= 1;
                shown.push(made(
                    judged.text(),
                    judged.answer().map(|answer| answer.text.clone()),
                    Some(reason),
                ));
            }
        }
        shown.extend(
            self.validity
                .shown()
                .map(|(reason, text)| made(text, None, Some(reason))),
        );
        shown
    }

    /// Take stock. Half of what was asked for is enough to go on, with a warning.
    fn finish(mut self, job: &Job<'_>) -> Result<Samples, PipelineError> {
        count_rejections(&mut self.rejected, self.validity.rejected());
        let (got, needed, drawn) = (self.labeled.len(), self.needed, self.drawn.drawn);
        if self.drawn.repeated + self.drawn.seeds_repeated > 0 {
            *self.rejected.entry("rejected_repeated".into()).or_default() +=
                self.drawn.repeated + self.drawn.seeds_repeated;
        }
        if got < needed.div_ceil(2).max(2) {
            let strip = |(name, count): (String, u64)| {
                (name.trim_start_matches("rejected_").to_owned(), count)
            };
            return Err(PipelineError::NotEnough {
                got,
                needed,
                drawn,
                rejected: self.rejected.into_iter().map(strip).collect(),
            });
        }
        if got < needed {
            let text = format!(
                "only {got} of {needed} samples came out of {drawn} drawn inputs: going on with those"
            );
            job.context.events.warn(Stage::Filter, text);
        }
        self.labeled.truncate(needed);
        let kept: Vec<String> = self
            .labeled
            .iter()
            .map(|labeled| labeled.prompt().to_owned())
            .collect();
        self.count_yields(kept.iter().map(String::as_str));
        let seen: Vec<Judged> = self.judged.iter().chain(&self.probed).cloned().collect();
        let seeds: Vec<&str> = self.given.seeds.iter().map(Seed::text).collect();
        let answered: Vec<(&str, &str)> = self
            .labeled
            .iter()
            .map(|row| (row.prompt(), row.completion()))
            .collect();
        let coverage = Coverage::of(&answered, &seeds, &seen, self.given.eval.as_deref());
        let shown = self.shown(&kept);
        let mut counts = self.rejected;
        counts.append(&mut self.yields);
        let numbers = [
            ("seeds", self.given.seeds.len() as u64),
            ("drawn", drawn),
            ("valid", self.judged.len() as u64),
            ("labeled", self.labeled.len() as u64),
            ("eval", self.given.eval.as_ref().map_or(0, Vec::len) as u64),
        ];
        counts.extend(numbers.map(|(name, count)| (name.to_owned(), count)));
        Ok(Samples {
            labeled: self.labeled,
            seeds: self.seeds.unwrap_or_default(),
            counts,
            coverage,
            teacher: self.teacher,
            rounds: self.counts,
            shown,
        })
    }
}
