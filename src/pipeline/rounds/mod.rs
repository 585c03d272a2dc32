//! Generate and filter in turns until there are enough samples: target open, generate, close;
//! source open, filter and label, close. Rounds are large, so that there are few.
//!
//! Here is the loop. What it decides is in `policy`, which knows no engine; what it has gathered in
//! `pool`; models are called in `stages`, and `tallies` counts for the report.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use super::inputs::{Generator, Roles};
use super::job::Job;
use super::judging::Teacher;
use super::transfer::TransferData;
use super::{GeneratedInput, PipelineError, RoundCounts, TransferPlan};
use crate::filter::{self, Answers, Coverage, Judged, Kept, Shares};
use crate::generate::{self, Instruction, Lead};
use crate::label::Labeled;
use crate::record::{Pair, Rng};

mod policy;
mod pool;
mod stages;
mod tallies;

use policy::{Policy, Stock};
use pool::Pool;
pub(super) use stages::Sessions;
use stages::{Order, Stages};
use tallies::Tallies;

/// Share of the first round's draws that are whole lines, where inputs have few new words.
const LINES_SHARE: f64 = 0.5;
/// Objects that are put together for the next rounds to draw inputs for.
const COMPOSED: usize = 512;
/// Seeds that the bare target is shown at most.
const SHOTS_MAX: usize = 8;

/// What the rounds came to.
pub(super) struct Samples {
    pub labeled: Vec<Labeled>,
    /// What is not trained on: of what was chosen, and of the others.
    pub held_out: [Vec<Labeled>; 2],
    /// What the teacher answers.
    pub answers: Answers,
    /// The seeds with the teacher's answers.
    pub seeds: Vec<Labeled>,
    pub counts: BTreeMap<String, u64>,
    /// Prompts of users that the judge accepted.
    pub asked: usize,
    pub coverage: Coverage,
    pub teacher: Option<Teacher>,
    pub rounds: Vec<RoundCounts>,
    /// Some of what was generated, kept and rejected.
    pub shown: Vec<GeneratedInput>,
}

/// The rounds of one transfer.
pub(super) struct Rounds<'a> {
    data: &'a TransferData,
    policy: Policy,
    generators: Vec<Generator>,
    stages: Stages<'a>,
    pool: Pool<'a>,
    tallies: Tallies,
    teacher: Option<Teacher>,
    /// What each generator gave.
    yields: Vec<Stock>,
}

impl<'a> Rounds<'a> {
    /// Nothing is opened yet.
    pub fn new(
        plan: &'a TransferPlan,
        data: &'a TransferData,
        roles: Roles,
        sessions: Sessions<'a>,
    ) -> Result<Self, PipelineError> {
        let Roles {
            judge,
            generators,
            rules,
            ..
        } = roles;
        Ok(Self {
            data,
            policy: Policy::new(plan, &judge, &generators),
            tallies: Tallies::new(&generators),
            yields: vec![Stock::default(); generators.len()],
            generators,
            stages: Stages::new(plan, &data.seeds, judge, rules, sessions)?,
            pool: Pool::new(&data.seeds),
            teacher: None,
        })
    }

    /// Run rounds until there are enough samples, or no hope of them.
    pub fn run(mut self, job: &mut Job<'_>) -> Result<Samples, PipelineError> {
        let mut round = 0;
        self.stages.sampler.draw_lines(LINES_SHARE);
        if let Some(traffic) = &self.data.traffic {
            let asked = traffic.rows.iter().map(|row| row.prompt.clone());
            let judged = self.stages.hear(job, &generate::asked(asked))?;
            self.pool.judged(judged);
            self.ask_teacher(job)?;
            self.stages.close_source();
        }
        while self.pool.asked() < self.policy.needed
            && self.policy.wants_more(round, self.pool.stock())
        {
            self.generate_and_filter(job, round)?;
            if round == 0 && self.data.traffic.is_none() {
                self.ask_teacher(job)?;
            }
            self.stages.close_source();
            self.steer(job, round)?;
            round += 1;
            if self.policy.is_hopeless(self.pool.stock()) {
                break;
            }
        }
        let all = self.label(job)?;
        self.stages.close_source();
        self.finish(job, all)
    }

    /// The teacher's answers to the seeds and to the rows of `--eval`, while the source is open.
    fn ask_teacher(&mut self, job: &mut Job<'_>) -> Result<(), PipelineError> {
        self.pool.answered_seeds = self.stages.label_seeds(job)?;
        self.teacher = self.evaluate_source(job)?;
        Ok(())
    }

    fn generate_and_filter(
        &mut self,
        job: &mut Job<'_>,
        round: usize,
    ) -> Result<(), PipelineError> {
        let before = self.pool.stock();
        let turn = self.policy.turn(round, &self.yields);
        let tuned = if self.generators[turn].tuned {
            Some(self.tune(job, round, turn)?)
        } else {
            None
        };
        let wanted = self.policy.wanted(before);
        let order = Order {
            round,
            generator: &self.generators[turn],
            tuned,
            wanted,
            draws_max: self.policy.draws(wanted, before),
            least_yield: self.policy.least_yield(turn, &self.yields),
        };
        let mut generated = self.stages.generate(job, &order)?;
        self.stages.close_target();
        self.pool.generated(&mut generated);
        self.tallies.generated(turn, &generated);
        let judged = self.stages.filter(job, round, &generated.valid)?;
        if let Some(kappa) = self.pool.judged(judged) {
            tallies::note_agreement(&job.context.events, kappa);
        }
        let given = self.pool.stock() - before;
        self.yields[turn] += given;
        self.tallies.round(turn, given);
        Ok(())
    }

    /// Fit a generator on the best so far; answers where its adapter lies.
    fn tune(
        &mut self,
        job: &mut Job<'_>,
        round: usize,
        turn: usize,
    ) -> Result<PathBuf, PipelineError> {
        let shares = self.best_shares();
        let (best, _) = self.pool.best(self.policy.tuned_on(), shares);
        let question = self.generators[turn].question.as_deref();
        let leads = filter::answers(&self.pool.judged) != Answers::Text;
        let row = |(answer, input): (&str, &str)| {
            let lesson = generate::lesson(Some(answer).filter(|_| leads), input);
            Pair::new(question.unwrap_or_default(), lesson)
        };
        let rows: Vec<Pair> = self.pool.answers(&best).map(row).collect();
        self.stages.tune(job, round, &rows)
    }

    fn evaluate_source(&mut self, job: &mut Job<'_>) -> Result<Option<Teacher>, PipelineError> {
        let Some(rows) = &self.data.eval else {
            return Ok(None);
        };
        let seeds = self.pool.answered_seeds.iter().take(SHOTS_MAX);
        let shots = seeds.map(Labeled::pair).collect();
        self.stages.evaluate_source(job, rows, shots).map(Some)
    }

    /// Say what the next rounds start from: the best so far, and how often they draw lines.
    fn steer(&mut self, job: &mut Job<'_>, round: usize) -> Result<(), PipelineError> {
        let shares = self.best_shares();
        let (adopted, _) = self.pool.best(self.policy.adopted(), shares);
        self.stages.sampler.adopt(adopted.iter().map(Kept::text));
        self.cover(job, round, &adopted)?;
        if let Some(share) = self.policy.lines_share(&self.pool.scored()) {
            self.stages.sampler.draw_lines(share);
        }
        Ok(())
    }

    /// Where the answers of the teacher are labels or JSON objects, generate inputs for each label,
    /// or for objects with other keys and values.
    ///
    /// Its answers to text that has nothing to do with the task are some of its labels, too.
    fn cover(
        &mut self,
        job: &mut Job<'_>,
        round: usize,
        adopted: &[Kept],
    ) -> Result<(), PipelineError> {
        let mut prompts = self.generators.iter().map(Generator::prompt);
        if !self.policy.answered || !prompts.any(|prompt| prompt == Instruction::List) {
            return Ok(());
        }
        let has_labels = matches!(filter::answers(&self.pool.judged), Answers::Labels(_));
        if self.pool.probed.is_empty() && has_labels {
            self.pool.probed = self.stages.probe(job)?;
        }
        let seen = self.pool.seen();
        let (mut leads, mut labels) = (Vec::new(), Vec::new());
        match filter::answers(&seen) {
            Answers::Labels(known) => {
                leads.extend(known.iter().cloned().map(Lead::Label));
                labels = known;
            }
            Answers::Objects(_) => leads = self.compose(job, round)?,
            Answers::Text => {}
        }
        let mut shots: Vec<(&str, &str)> = self.pool.answers(adopted).collect();
        shots.extend(self.pool.stand_ins(&labels, &shots));
        self.stages.sampler.cover(leads, shots);
        Ok(())
    }

    /// Put objects together of all that are good enough, with more values for their keys.
    fn compose(&mut self, job: &mut Job<'_>, round: usize) -> Result<Vec<Lead>, PipelineError> {
        let shots = self.pool.sure();
        let drawn = self.stages.values(job, round, &generate::values(&shots))?;
        let mut rng = Rng::new(self.stages.sampler.settings().seed, "compose");
        let objects = generate::compose(&shots, &drawn, COMPOSED, &mut rng);
        Ok(objects.into_iter().map(Lead::Object).collect())
    }

    /// What others are generated from. Objects that are put together for inputs need a variety of
    /// them more than the surest ones.
    fn best_shares(&self) -> Shares {
        match filter::answers(&self.pool.judged) {
            Answers::Objects(_) => self.shares(),
            _ => self.policy.best_shares(self.stages.sampler.unseen()),
        }
    }

    /// What is good enough, and how it is shared out.
    fn shares(&self) -> Shares {
        let sure = self.pool.least_sure_seed();
        self.policy.shares(sure, self.stages.sampler.unseen())
    }

    /// Choose the best of what was accepted, hold some out, and put the teacher's answers to all.
    fn label(&mut self, job: &mut Job<'_>) -> Result<[Vec<Labeled>; 3], PipelineError> {
        let shares = self.shares();
        let (mut kept, rejections) = self
            .pool
            .best(self.policy.labeled(self.pool.stock().accepted), shares);
        let mut rng = Rng::new(self.stages.sampler.settings().seed, "held out");
        let held_out = self.policy.held_out();
        let held_out = filter::hold_out(&self.pool.judged, &mut kept, held_out, &mut rng);
        let mut parts: HashMap<String, usize> = HashMap::new();
        for (part, inputs) in [&held_out.chosen, &held_out.others].into_iter().enumerate() {
            parts.extend(inputs.iter().map(|kept| (kept.text().to_owned(), part + 1)));
        }
        kept.extend(held_out.chosen.into_iter().chain(held_out.others));
        let (mut labeled, unlabeled) = self.stages.label(job, &kept)?;
        self.tallies.rejected(&rejections);
        self.tallies.rejected(&unlabeled);
        if self.policy.consistent {
            let (agreed, unsure) = self.stages.agree(job, labeled)?;
            self.tallies.rejected(&unsure);
            labeled = agreed;
        }
        let mut all = [const { Vec::new() }; 3];
        for row in labeled {
            all[parts.get(row.text()).copied().unwrap_or(0)].push(row);
        }
        Ok(all)
    }

    /// Take stock. Half of what is needed is enough to go on with, with a warning.
    fn finish(
        mut self,
        job: &Job<'_>,
        [mut labeled, chosen, others]: [Vec<Labeled>; 3],
    ) -> Result<Samples, PipelineError> {
        self.tallies.rejected(self.stages.validity.rejected());
        self.tallies.repeated(&self.pool.drawn);
        let (got, needed, drawn) = (labeled.len(), self.policy.samples, self.pool.drawn.drawn);
        if !self.policy.is_enough(got) {
            return Err(self.tallies.not_enough(got, needed, drawn));
        }
        if got < needed {
            tallies::warn_few(&job.context.events, got, needed, drawn);
        }
        labeled.truncate(self.policy.taught_max);
        let eval = self.data.eval.as_deref();
        let answered: Vec<(&str, &str)> = labeled
            .iter()
            .map(|row| (row.text(), row.completion()))
            .collect();
        let answers = filter::answers(&self.pool.seen());
        let accepted: Vec<&str> = self.pool.accepted().map(Judged::answer_text).collect();
        let seeds = self.pool.seed_texts();
        let coverage = Coverage::of(
            &answered,
            &seeds,
            [&accepted, &self.pool.probed()],
            &answers,
            eval,
        );
        let shown = tallies::shown(&self.pool.judged, &self.stages.validity, &labeled);
        let rounds = std::mem::take(&mut self.tallies.rounds);
        let counts = self
            .tallies
            .counts(&self.pool, &labeled, eval.map_or(0, <[Pair]>::len));
        Ok(Samples {
            labeled,
            asked: self.pool.asked(),
            held_out: [chosen, others],
            answers,
            seeds: self.pool.answered_seeds,
            counts,
            coverage,
            teacher: self.teacher,
            rounds,
            shown,
        })
    }
}
