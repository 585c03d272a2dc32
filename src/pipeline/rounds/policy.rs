//! What the rounds decide, from counts alone: whose turn it is, how many inputs a round is to
//! give, which share of them is good, when to stop. No engine, no files.

use crate::filter::{Judge, Shares};
use crate::pipeline::inputs::Generator;
use crate::record::Origin;

/// Valid inputs judged for each sample that is needed.
const CANDIDATES_PER_SAMPLE: usize = 6;
/// The same of an input model, whose inputs are of the task.
const INPUT_MODEL_CANDIDATES: f64 = 1.3;
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
    /// Samples to label.
    pub needed: usize,
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
    pub fn new(
        needed: usize,
        draws_per_sample_max: usize,
        consistent: bool,
        judge: &Judge,
        generators: &[Generator],
    ) -> Self {
        let input_models = generators
            .iter()
            .all(|generator| generator.question.is_some());
        Self {
            needed,
            draws_max: (needed * draws_per_sample_max) as u64,
            candidates: match judge {
                Judge::None => needed,
                _ if input_models => (needed as f64 * INPUT_MODEL_CANDIDATES) as usize,
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
        labeled >= self.needed.div_ceil(2).max(2)
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

    /// Inputs to label: more than are needed where the teacher may not agree with itself, and a few
    /// more where it has yet to answer, and may fail to.
    pub fn labeled(&self) -> usize {
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
        self.needed + unanswered + spare
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

/// What the best of the other generators gives for each draw.
fn best_other(turn: usize, yields: &[Stock], rate: fn(&Stock) -> Option<f64>) -> Option<f64> {
    let others = yields.iter().enumerate().filter(|(i, _)| *i != turn);
    others
        .filter_map(|(_, stock)| rate(stock))
        .max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{AdapterId, With};
    use crate::filter::Discriminator;
    use crate::record::Question;

    /// A hundred samples, ten draws for each, three judged for each.
    fn policy() -> Policy {
        Policy {
            needed: 100,
            draws_max: 1000,
            candidates: 300,
            good_share: 0.25,
            answered: true,
            consistent: false,
            generators: 1,
            tuned: None,
        }
    }

    fn stock(drawn: u64, judged: usize, accepted: usize) -> Stock {
        Stock {
            drawn,
            judged,
            accepted,
        }
    }

    fn generator(question: Option<&str>, tuned: bool) -> Generator {
        Generator {
            name: "target",
            target: true,
            with: With::Base,
            question: question.map(str::to_owned),
            seeded: true,
            tuned,
        }
    }

    #[test]
    fn a_policy_follows_the_judge_and_the_generators() {
        let (teacher, tokens_max) = (AdapterId(0), 8);
        let contrast = Judge::Contrast {
            teacher,
            tokens_max,
        };
        let kit = Judge::Discriminator(Discriminator {
            adapter: AdapterId(1),
            question: Question::about("tickets"),
            threshold: 0.0,
        });
        let (list, input_model) = (generator(None, false), generator(Some("?"), false));
        let tuned = generator(Some("?"), true);
        // (judge, generators) -> (candidates, good share, answered, tuned)
        let cases = [
            (&Judge::None, vec![&list], (100, 1.0, false, None)),
            (&Judge::None, vec![&input_model], (100, 1.0, false, None)),
            (&contrast, vec![&list], (600, 0.25, true, None)),
            (&contrast, vec![&input_model], (130, 0.25, true, None)),
            (&contrast, vec![&list, &tuned], (600, 0.25, true, Some(1))),
            (&kit, vec![&list, &list], (600, 1.0, false, None)),
            (&kit, vec![&input_model], (130, 1.0, false, None)),
        ];
        for (judge, generators, expected) in cases {
            let generators: Vec<Generator> = generators.into_iter().cloned().collect();
            let policy = Policy::new(100, 10, false, judge, &generators);
            let found = (
                policy.candidates,
                policy.good_share,
                policy.answered,
                policy.tuned,
            );
            assert_eq!(found, expected, "{judge:?} {generators:?}");
            assert_eq!(
                (policy.draws_max, policy.generators),
                (1000, generators.len())
            );
        }
    }

    #[test]
    fn another_round_is_wanted() {
        let cases = [
            ("at first", 0, stock(0, 0, 0), true),
            (
                "enough, but there may be better",
                3,
                stock(500, 299, 100),
                true,
            ),
            (
                "enough, and four rounds were had",
                4,
                stock(500, 299, 100),
                false,
            ),
            (
                "enough, and all were judged",
                2,
                stock(500, 300, 100),
                false,
            ),
            ("too few, whatever the round", 9, stock(999, 900, 99), true),
            ("too few, and no draws left", 9, stock(1000, 900, 99), false),
            (
                "better ones, and no draws left",
                1,
                stock(1000, 200, 100),
                false,
            ),
        ];
        for (what, round, stock, wanted) in cases {
            assert_eq!(policy().wants_more(round, stock), wanted, "{what}");
        }
    }

    #[test]
    fn a_run_is_hopeless_that_would_end_with_less_than_half() {
        let cases = [
            (stock(100, 80, 0), true),
            (stock(100, 80, 4), true),
            (stock(100, 80, 5), false),
            (stock(1000, 80, 49), true),
            (stock(1000, 80, 50), false),
            (stock(0, 0, 1), false),
        ];
        for (stock, hopeless) in cases {
            assert_eq!(policy().is_hopeless(stock), hopeless, "{stock:?}");
        }
    }

    #[test]
    fn half_is_enough() {
        for (needed, labeled, enough) in [
            (100, 49, false),
            (100, 50, true),
            (7, 3, false),
            (7, 4, true),
            (1, 1, false),
            (1, 2, true),
        ] {
            let policy = Policy { needed, ..policy() };
            assert_eq!(policy.is_enough(labeled), enough, "{labeled} of {needed}");
        }
    }

    #[test]
    fn generators_take_turns_and_the_tuned_one_comes_last() {
        let yields = [stock(100, 90, 80); 3];
        let cases: [(usize, Option<usize>, [usize; 6]); 4] = [
            (1, None, [0, 0, 0, 0, 0, 0]),
            (2, None, [0, 1, 0, 1, 0, 1]),
            (2, Some(1), [0, 0, 1, 1, 1, 1]),
            (3, Some(2), [0, 1, 2, 2, 2, 2]),
        ];
        for (generators, tuned, turns) in cases {
            let policy = Policy {
                generators,
                tuned,
                ..policy()
            };
            let found: Vec<usize> = (0..6).map(|round| policy.turn(round, &yields)).collect();
            assert_eq!(found, turns, "{generators} generators, tuned {tuned:?}");
        }
    }

    #[test]
    fn who_gives_next_to_nothing_has_no_more_turns() {
        let (good, bad, new) = (stock(100, 90, 80), stock(64, 6, 6), stock(0, 0, 0));
        let fair = stock(64, 20, 20);
        // (generators, tuned, what each gave) -> turns of the rounds from 2 on, and the least yield
        // of the last one.
        type Case<'c> = (&'c [Stock], Option<usize>, [usize; 3], f64);
        let cases: [Case<'_>; 7] = [
            (&[good, bad], Some(1), [0, 0, 0], 0.1),
            (&[good, fair], Some(1), [1, 1, 1], 0.1),
            (&[good, new], Some(1), [1, 1, 1], 0.1),
            (&[good, bad, new], Some(2), [2, 2, 2], 0.1),
            (&[bad, good], None, [1, 1, 1], 6.0 / 64.0),
            (&[bad, bad], Some(1), [1, 1, 1], 6.0 / 64.0),
            (&[new], None, [0, 0, 0], 0.0),
        ];
        for (yields, tuned, turns, least) in cases {
            let policy = Policy {
                generators: yields.len(),
                tuned,
                ..policy()
            };
            let found: Vec<usize> = (2..5).map(|round| policy.turn(round, yields)).collect();
            assert_eq!(found, turns, "{yields:?}");
            let last = policy.least_yield(yields.len() - 1, yields);
            assert!((last - least).abs() < 1e-12, "{yields:?}: {last}");
        }
    }

    #[test]
    fn a_round_gives_its_share_or_what_is_missing() {
        let cases = [
            ("an even share", stock(0, 0, 0), 75),
            ("what is left of the candidates", stock(600, 280, 10), 20),
            ("as many as were accepted say", stock(700, 300, 50), 390),
            ("at the least acceptance", stock(700, 300, 0), 2600),
            ("nothing is missing", stock(700, 300, 100), 0),
        ];
        for (what, stock, wanted) in cases {
            assert_eq!(policy().wanted(stock), wanted, "{what}");
        }
        let cases = [
            ("two draws for each", 75, stock(0, 0, 0), 150),
            ("no more than are left", 75, stock(900, 0, 0), 100),
            ("none are left", 75, stock(1001, 0, 0), 0),
        ];
        for (what, wanted, stock, draws) in cases {
            assert_eq!(policy().draws(wanted, stock), draws, "{what}");
        }
    }

    #[test]
    fn how_many_are_chosen_for_what() {
        // (needed, answered, consistent) -> (labelled, adopted, tuned on)
        let cases = [
            ((100, true, false), (100, 25, 50)),
            ((100, false, false), (107, 25, 50)),
            ((100, true, true), (122, 25, 50)),
            ((100, false, true), (129, 25, 50)),
            ((7, false, true), (12, 1, 4)),
        ];
        for ((needed, answered, consistent), expected) in cases {
            let policy = Policy {
                needed,
                answered,
                consistent,
                ..policy()
            };
            assert_eq!(
                (policy.labeled(), policy.adopted(), policy.tuned_on()),
                expected,
                "{needed} {answered} {consistent}"
            );
        }
    }

    #[test]
    fn how_sure_the_teacher_is_counts_where_it_answered() {
        for (answered, expected) in [(true, Some(-0.1)), (false, None)] {
            let policy = Policy {
                answered,
                ..policy()
            };
            assert_eq!(policy.shares(Some(-0.1), 0.5).sure, expected);
        }
        let best = policy().best_shares(0.5);
        assert_eq!((best.sure, best.good, best.lines), (None, 0.1, 0.5));
    }

    #[test]
    fn lines_are_drawn_as_often_as_they_are_good() {
        let of = |origin: Origin, count: usize, score: f64| {
            let scored = Scored {
                score,
                accepted: score > 0.0,
                origin,
            };
            vec![scored; count]
        };
        let (line, splice, tuned) = (Origin::Line, Origin::Splice, Origin::Tuned);
        // The part of each that is good; a quarter of what was accepted is.
        let cases = [
            ("none were judged", vec![], None),
            (
                "none were accepted",
                vec![of(line, 9, -1.0), of(splice, 9, -1.0)],
                None,
            ),
            ("there are no variants", vec![of(line, 9, 1.0)], None),
            (
                "both are alike",
                vec![of(line, 8, 1.0), of(splice, 8, 1.0)],
                Some(0.5),
            ),
            (
                "only lines are good",
                vec![of(line, 8, 2.0), of(splice, 8, 1.0)],
                Some(1.0),
            ),
            (
                "every line is good, every fourth variant",
                vec![of(line, 4, 2.0), of(splice, 4, 2.0), of(splice, 12, -1.0)],
                Some(0.8),
            ),
            (
                "what a tuned model wrote only sets the bar",
                vec![of(tuned, 9, 3.0), of(line, 2, 2.0), of(splice, 2, 2.0)],
                None,
            ),
        ];
        for (what, inputs, expected) in cases {
            assert_eq!(policy().lines_share(&inputs.concat()), expected, "{what}");
        }
    }
}
