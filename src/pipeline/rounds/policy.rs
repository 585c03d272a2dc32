//! What the rounds decide, from counts alone: whose turn it is, how many inputs a round is to
//! give, which share of them is good, when to stop. No engine, no files.

use crate::filter::{Judge, Shares};
use crate::pipeline::TransferPlan;
use crate::pipeline::inputs::Generator;
use crate::record::Origin;
use crate::request::LabelChoice;

/// Valid inputs judged for each sample that is needed.
const CANDIDATES_PER_SAMPLE: usize = 6;
/// The same of an input model, whose inputs are of the task.
const INPUT_MODEL_CANDIDATES: f64 = 1.3;
/// Inputs that are held out to judge on, and at most which part of the samples is held out of what
/// was chosen; the others were not.
const HELD_OUT: usize = 100;
const HELD_OUT_MAX: usize = HELD_OUT / 2;
const HELD_OUT_ONE_IN: usize = 5;
/// Rounds that generate them; each draws variants of the best of those before.
const ROUNDS: usize = 4;
/// Inputs that a round draws variants of, for each sample that is needed.
const ADOPTED_SHARE: f64 = 0.25;
/// They are chosen from this part of what is good enough to be kept.
const ADOPTED_GOOD: f64 = 0.4;
/// The first round whose generator may be a model that was fitted on the inputs of the rounds
/// before, and how much of what is needed it is fitted on.
const TUNED_FROM: usize = 2;
const TUNED_SHARE: f64 = 0.5;
/// Draws after which it shows what a generator is good for.
pub(super) const TRIAL_DRAWS: u64 = 32;
/// A generator that gives fewer inputs for each draw is given up where another one gives more.
const USELESS: f64 = 0.1;
/// Draws that a round takes at most for each valid input that it is to give.
const DRAWS_PER_CANDIDATE: usize = 2;
/// Rounds after those draw this many times what the measured acceptance asks for.
const MARGIN: f64 = 1.3;
/// Acceptance a later round reckons with at least, so that no round becomes endless.
const ACCEPTANCE_MIN: f64 = 0.05;
/// Share of inputs that are expected to be dropped because the teacher does not agree with itself.
const UNSURE_SHARE: f64 = 0.2;

/// How many inputs there are so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stock {
    pub drawn: u64,
    /// Valid, and judged.
    pub judged: usize,
    pub accepted: usize,
}

impl std::ops::AddAssign for Stock {
    fn add_assign(&mut self, more: Self) {
        self.drawn += more.drawn;
        self.judged += more.judged;
        self.accepted += more.accepted;
    }
}

impl std::ops::Sub for Stock {
    type Output = Self;

    /// What came after `before`. What was accepted may be rejected later.
    fn sub(self, before: Self) -> Self {
        Self {
            drawn: self.drawn.saturating_sub(before.drawn),
            judged: self.judged.saturating_sub(before.judged),
            accepted: self.accepted.saturating_sub(before.accepted),
        }
    }
}

impl Stock {
    /// Inputs that were accepted for each draw; none before it shows.
    fn accepted_per_draw(&self) -> Option<f64> {
        self.per_draw(self.accepted)
    }

    /// Inputs that were valid for each draw; none before it shows.
    fn judged_per_draw(&self) -> Option<f64> {
        self.per_draw(self.judged)
    }

    fn per_draw(&self, count: usize) -> Option<f64> {
        (self.drawn >= TRIAL_DRAWS).then(|| count as f64 / self.drawn as f64)
    }
}

/// A judged input, as far as the policy looks at it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scored {
    pub score: f64,
    pub accepted: bool,
    pub origin: Origin,
}

/// The rules of one transfer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Policy {
    /// Samples to train on.
    pub samples: usize,
    /// Samples to choose: with those of them that are held out.
    pub needed: usize,
    /// Samples that are trained on in place of those, where as many are accepted: each pass has
    /// others.
    pub taught_max: usize,
    /// Draws that a run may take.
    pub draws_max: u64,
    /// Valid inputs to judge before any are chosen.
    pub candidates: usize,
    /// The part of what is accepted that is good enough to choose from.
    pub good_share: f64,
    /// What the judge accepts has the teacher's answer.
    pub answered: bool,
    /// The teacher answers several times, and what it is unsure of is dropped.
    pub consistent: bool,
    pub generators: usize,
    /// The generator that is fitted on what the others gave.
    pub tuned: Option<usize>,
}

impl Policy {
    /// Before the first round.
    pub fn new(plan: &TransferPlan, judge: &Judge, generators: &[Generator]) -> Self {
        let samples = plan.samples;
        let draws_per_sample_max = plan.limits.candidates_per_sample_max;
        let consistent = plan.label == LabelChoice::Consistent;
        let input_models = generators
            .iter()
            .all(|generator| generator.question.is_some());
        let needed = samples + held_out_of(samples);
        Self {
            samples,
            needed,
            taught_max: if judge.has_answers() && !consistent {
                samples * (plan.epochs as usize).max(1)
            } else {
                samples
            },
            draws_max: (needed * draws_per_sample_max) as u64,
            candidates: match judge {
                Judge::None => samples + HELD_OUT,
                _ if input_models => {
                    (needed as f64 * INPUT_MODEL_CANDIDATES) as usize + HELD_OUT_MAX
                }
                _ => needed * CANDIDATES_PER_SAMPLE,
            },
            good_share: judge.good_share(),
            answered: judge.has_answers(),
            consistent,
            generators: generators.len(),
            tuned: generators.iter().position(|generator| generator.tuned),
        }
    }

    /// Another round: too few were accepted, or there may be better ones, and there are draws left.
    pub fn wants_more(&self, round: usize, stock: Stock) -> bool {
        let few =
            stock.accepted < self.needed || (round < ROUNDS && stock.judged < self.candidates);
        few && stock.drawn < self.draws_max
    }

    /// At this rate, all the draws a run may take would give less than half of what is needed,
    /// which is less than it goes on with.
    pub fn is_hopeless(&self, stock: Stock) -> bool {
        let (drawn, draws_max) = (stock.drawn as f64, self.draws_max as f64);
        stock.accepted as f64 / drawn.max(1.0) * draws_max < self.needed as f64 / 2.0
    }

    /// Half of what is needed is enough to go on with, and two samples at least.
    pub fn is_enough(&self, labeled: usize) -> bool {
        labeled >= self.samples.div_ceil(2).max(2)
    }

    /// Who generates the inputs of a round: all in turns, but the tuned one, which has every round
    /// from `TUNED_FROM` on. Who gives next to nothing has no more turns.
    ///
    /// `yields`: what each generator gave so far.
    pub fn turn(&self, round: usize, yields: &[Stock]) -> usize {
        let is_given_up = |turn: usize| {
            let own = yields[turn].accepted_per_draw();
            let best = best_other(turn, yields, Stock::accepted_per_draw);
            own.zip(best)
                .is_some_and(|(own, best)| own < USELESS.min(best))
        };
        if let Some(tuned) = self.tuned
            && round >= TUNED_FROM
            && !is_given_up(tuned)
        {
            return tuned;
        }
        let others = (0..self.generators).filter(|turn| Some(*turn) != self.tuned);
        let others: Vec<usize> = others.filter(|turn| !is_given_up(*turn)).collect();
        // The best of all is never given up, so there is one.
        others
            .get(round % others.len().max(1))
            .copied()
            .unwrap_or(0)
    }

    /// Valid inputs for each draw that a generator must have given after [`TRIAL_DRAWS`] draws of
    /// a round; with fewer the round ends.
    pub fn least_yield(&self, turn: usize, yields: &[Stock]) -> f64 {
        best_other(turn, yields, Stock::judged_per_draw).map_or(0.0, |best| best.min(USELESS))
    }

    /// Valid inputs that this round should give: an even share of the candidates, or more where too
    /// few of them were accepted.
    pub fn wanted(&self, stock: Stock) -> usize {
        let left = self.candidates.saturating_sub(stock.judged);
        if left > 0 {
            return left.min(self.candidates.div_ceil(ROUNDS));
        }
        let missing = self.needed.saturating_sub(stock.accepted) as f64;
        let acceptance = if stock.judged == 0 {
            1.0
        } else {
            (stock.accepted as f64 / stock.judged as f64).max(ACCEPTANCE_MIN)
        };
        (missing * MARGIN / acceptance).ceil() as usize
    }

    /// Draws that a round may take for so many valid inputs. Where little that is new comes, it
    /// ends with less.
    pub fn draws(&self, wanted: usize, stock: Stock) -> u64 {
        ((wanted * DRAWS_PER_CANDIDATE) as u64).min(self.draws_max.saturating_sub(stock.drawn))
    }

    /// Good enough is what the teacher is as sure of as of the seeds (`sure`: the least sure of
    /// them). As much of what is kept comes of whole lines as an input has words that no other seed
    /// shows (`unseen`).
    pub fn shares(&self, sure: Option<f64>, unseen: f64) -> Shares {
        Shares {
            sure: sure.filter(|_| self.answered),
            good: self.good_share,
            lines: unseen,
        }
    }

    /// The shares among the best, from which others are generated: only what the teacher is surest
    /// of is sure to be of the task.
    pub fn best_shares(&self, unseen: f64) -> Shares {
        Shares {
            sure: None,
            good: self.good_share * ADOPTED_GOOD,
            lines: unseen,
        }
    }

    /// Inputs that the next round draws variants of.
    pub fn adopted(&self) -> usize {
        (self.needed as f64 * ADOPTED_SHARE) as usize
    }

    /// Inputs that a generator is fitted on.
    pub fn tuned_on(&self) -> usize {
        (self.needed as f64 * TUNED_SHARE).ceil() as usize
    }

    /// Inputs to hold out: of those that were chosen, and of the others.
    pub fn held_out(&self) -> [usize; 2] {
        let of_chosen = self.needed - self.samples;
        [of_chosen, HELD_OUT - of_chosen]
    }

    /// Inputs to label: more than are needed where the teacher may not agree with itself, and a few
    /// more where it has yet to answer, and may fail to. Where it has answered, all that can be
    /// taught, but for what is held out beside.
    pub fn labeled(&self, accepted: usize) -> usize {
        let spare = if self.consistent {
            (self.needed as f64 * UNSURE_SHARE) as usize + 2
        } else {
            0
        };
        let unanswered = if self.answered {
            0
        } else {
            self.needed / 20 + 2
        };
        let [of_chosen, others] = self.held_out();
        let others = accepted
            .saturating_sub(others)
            .min(self.taught_max + of_chosen);
        (self.needed + unanswered + spare).max(others)
    }

    /// How many of the rounds to come should draw lines: as lines are good as often as variants
    /// are. Good is what is among the best that were accepted. What a tuned model wrote counts for
    /// neither.
    pub fn lines_share(&self, inputs: &[Scored]) -> Option<f64> {
        let mut scores: Vec<f64> = inputs
            .iter()
            .filter(|input| input.accepted)
            .map(|input| input.score)
            .collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        let least = *scores
            .get((scores.len() as f64 * self.good_share).ceil() as usize)
            .or(scores.last())?;
        let share = |lines: bool| {
            let those = || {
                inputs.iter().filter(|input| {
                    !matches!(input.origin, Origin::Tuned | Origin::Asked)
                        && (input.origin == Origin::Line) == lines
                })
            };
            let (all, good) = (
                those().count(),
                those().filter(|input| input.accepted && input.score >= least),
            );
            (all > 0).then(|| good.count() as f64 / all as f64)
        };
        let (lines, variants) = (share(true)?, share(false)?);
        (lines + variants > 0.0).then(|| lines / (lines + variants))
    }
}

/// Samples that are held out of what was chosen.
fn held_out_of(samples: usize) -> usize {
    samples.div_ceil(HELD_OUT_ONE_IN).min(HELD_OUT_MAX)
}

/// What the best of the other generators gives for each draw.
fn best_other(turn: usize, yields: &[Stock], rate: fn(&Stock) -> Option<f64>) -> Option<f64> {
    let others = yields.iter().enumerate().filter(|(i, _)| *i != turn);
    others
        .filter_map(|(_, stock)| rate(stock))
        .max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests;
