use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Answers, Judged, Kept, Reason, Rejections, answers};
use crate::record::{Origin, words_and_pairs};

/// An answer that fewer inputs share, or fewer than one in so many, is no class of its own: such
/// are not labels.
const CLASS_MIN: usize = 3;
const CLASS_ONE_IN: usize = 250;

/// Bounds of the share of lines among what is kept.
const LINES_SHARE: [f64; 2] = [0.1, 0.9];

/// Which parts of what was accepted are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares {
    /// The score from which on an input is good enough, whatever the others have.
    pub sure: Option<f64>,
    /// Of inputs with one answer and like one seed, the part with the best scores that is good
    /// enough without that.
    pub good: f64,
    /// Lines among what is kept, where there are enough of them; the others were put together of
    /// pieces.
    pub lines: f64,
}

/// Keep `count` of what was accepted, good and unlike each other, and count the rest by reason.
///
/// The score alone would fill the kept set with the answer the adapter is surest of, and with near
/// copies of one input. So labels take turns, and of each, what was drawn as a line, what was put
/// together of pieces and what a tuned model wrote. A turn gives, of the good (or more, where those
/// are too few), an input like the seed whose like was taken least yet: seeds stand for the data,
/// and what a model makes of them has other shares. Of those it is one whose answer and first word
/// were taken least, and of these the one whose words and pairs of words were taken least for how
/// often the pool has them. Equal inputs keep their order.
///
/// What users asked comes before all that, whatever its score: it has the shares of the data itself.
pub fn select(
    judged: &[Judged],
    seeds: &[&str],
    count: usize,
    shares: Shares,
) -> (Vec<Kept>, Rejections) {
    let accepted: Vec<&Judged> = judged
        .iter()
        .filter(|judged| judged.rejected.is_none())
        .collect();
    let rejections = rejections(judged, accepted.len().saturating_sub(count));
    let nearest = nearest(&accepted, seeds);
    let is_asked = |input: &usize| accepted[*input].origin == Origin::Asked;
    let asked = (0..accepted.len()).filter(is_asked).count();
    let made = accepted.len() - asked;
    let good = shares
        .good
        .max(count.saturating_sub(asked) as f64 / made.max(1) as f64);
    let (mut first, mut classes) = (Vec::new(), Vec::new());
    for class in classes_of(&accepted, has_labels(judged)) {
        let (asked, made): (Vec<usize>, Vec<usize>) = class.into_iter().partition(is_asked);
        first.extend(Class::of(asked));
        classes.extend(by_origin(made, &accepted, shares.lines));
    }
    for class in &mut classes {
        class.cut(&accepted, &nearest, Shares { good, ..shares });
    }
    stagger(&mut first);
    stagger(&mut classes);
    let pool = first.iter().chain(&classes);
    let pool = pool.flat_map(|class| class.inputs.iter().copied());
    let mut taken = Taken {
        spread: Spread::of(&accepted, pool),
        seeds: vec![0; seeds.len().max(1)],
        nearest,
        answers: HashMap::new(),
        firsts: HashMap::new(),
        accepted: &accepted,
    };
    let mut kept = Vec::new();
    taken.in_turns(first, count, &mut kept);
    taken.in_turns(classes, count, &mut kept);
    (kept, rejections)
}

/// Whether the answers are labels, as far as what was judged shows.
fn has_labels(judged: &[Judged]) -> bool {
    matches!(answers(judged), Answers::Labels(_))
}

/// What was taken so far, and of what.
struct Taken<'a> {
    accepted: &'a [&'a Judged],
    /// By input, the seed that it is like.
    nearest: Vec<usize>,
    spread: Spread,
    /// By seed, how many of its like were taken.
    seeds: Vec<usize>,
    /// By answer, how many with it were taken.
    answers: HashMap<&'a str, usize>,
    /// By first word, how many with it were taken.
    firsts: HashMap<&'a str, usize>,
}

impl<'a> Taken<'a> {
    fn answer(&self, input: usize) -> &'a str {
        self.accepted[input].answer_text()
    }

    fn first(&self, input: usize) -> &'a str {
        let text = self.accepted[input].text();
        text.split_whitespace().next().unwrap_or_default()
    }

    /// Take inputs of these classes, in turns, until there are `count`.
    fn in_turns(&mut self, mut classes: Vec<Class>, count: usize, kept: &mut Vec<Kept>) {
        while kept.len() < count && !classes.is_empty() {
            for class in &mut classes {
                class.credit += class.weight;
                if class.credit < 1.0 {
                    continue;
                }
                class.credit -= 1.0;
                if let Some(best) = self.best_of(&class.inputs) {
                    let input = class.inputs.remove(best);
                    self.take(input);
                    kept.push(keep(self.accepted[input]));
                }
            }
            classes.retain(|class| !class.inputs.is_empty());
        }
        kept.truncate(count);
    }

    /// Which of these inputs is next.
    fn best_of(&self, inputs: &[usize]) -> Option<usize> {
        let rank = |input: usize| {
            let answer = self.answers.get(self.answer(input)).copied().unwrap_or(0);
            let first = self.firsts.get(self.first(input)).copied().unwrap_or(0);
            (self.seeds[self.nearest[input]], answer + first)
        };
        let least = inputs.iter().map(|&input| rank(input)).min();
        let gain = |at: &usize| self.spread.gain(inputs[*at]);
        (0..inputs.len())
            .filter(|&at| Some(rank(inputs[at])) == least)
            .max_by(|a, b| gain(a).total_cmp(&gain(b)).then(b.cmp(a)))
    }

    fn take(&mut self, input: usize) {
        self.spread.take(input);
        self.seeds[self.nearest[input]] += 1;
        *self.answers.entry(self.answer(input)).or_default() += 1;
        *self.firsts.entry(self.first(input)).or_default() += 1;
    }
}

/// Inputs that take turns with others, `weight` of a turn at a time.
struct Class {
    /// Best first.
    inputs: Vec<usize>,
    weight: f64,
    credit: f64,
}

impl Class {
    /// A class whose inputs are all good enough; none without any.
    fn of(inputs: Vec<usize>) -> Option<Self> {
        (!inputs.is_empty()).then_some(Self {
            inputs,
            weight: 1.0,
            credit: 0.0,
        })
    }

    /// Leave what is sure enough, and the best of what is like each seed.
    ///
    /// An adapter is surer of one phrasing than of another; inputs are measured among their like,
    /// so that none drops out whole. Where those are too few to tell the best of them, they are
    /// measured with all others of that kind.
    fn cut(&mut self, accepted: &[&Judged], nearest: &[usize], shares: Shares) {
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for &input in &self.inputs {
            groups.entry(nearest[input]).or_default().push(input);
        }
        let is_few = |group: &Vec<usize>| (group.len() as f64 * shares.good) < CLASS_MIN as f64;
        let (few, mut groups): (Vec<_>, Vec<_>) = groups.into_values().partition(is_few);
        let few: HashSet<usize> = few.into_iter().flatten().collect();
        let of_few = self
            .inputs
            .iter()
            .copied()
            .filter(|input| few.contains(input));
        groups.push(of_few.collect());
        let most =
            |group: &[usize]| ((group.len() as f64 * shares.good).ceil() as usize).max(CLASS_MIN);
        let best: HashSet<usize> = groups
            .iter()
            .flat_map(|group| group.iter().copied().take(most(group)))
            .collect();
        let is_sure = |input: usize| {
            shares
                .sure
                .is_some_and(|sure| accepted[input].score >= sure)
        };
        self.inputs
            .retain(|&input| is_sure(input) || best.contains(&input));
    }
}

/// One turn at most in each pass, and not all of the lesser ones in the same pass, so that the
/// shares hold wherever it ends.
fn stagger(classes: &mut [Class]) {
    let (most, all) = (
        classes
            .iter()
            .map(|class| class.weight)
            .fold(f64::MIN_POSITIVE, f64::max),
        classes.len() as f64,
    );
    for (i, class) in classes.iter_mut().enumerate() {
        class.weight /= most;
        class.credit = i as f64 / all;
    }
}

/// Lines apart from what was put together of pieces, and both from what a tuned model wrote: each
/// kind has what the others lack, and how sure the adapter is of one tells nothing of another.
fn by_origin(inputs: Vec<usize>, accepted: &[&Judged], lines_share: f64) -> Vec<Class> {
    let share = lines_share.clamp(LINES_SHARE[0], LINES_SHARE[1]);
    let weights = [
        (share / (1.0 - share)).min(1.0),
        ((1.0 - share) / share).min(1.0),
        1.0,
    ];
    let mut kinds = [Vec::new(), Vec::new(), Vec::new()];
    for input in inputs {
        kinds[match accepted[input].origin {
            Origin::Line => 0,
            Origin::Tuned => 2,
            _ => 1,
        }]
        .push(input);
    }
    let class = |(inputs, weight)| Class {
        inputs,
        weight,
        credit: 0.0,
    };
    let classes = kinds.into_iter().zip(weights).map(class);
    classes.filter(|class| !class.inputs.is_empty()).collect()
}

/// By input, the seed that shares most words and pairs of words with it.
fn nearest(accepted: &[&Judged], seeds: &[&str]) -> Vec<usize> {
    let features = |text: &str| {
        words_and_pairs(text)
            .into_iter()
            .collect::<HashSet<String>>()
    };
    let seeds: Vec<HashSet<String>> = seeds.iter().map(|seed| features(seed)).collect();
    let alike = |words: &HashSet<String>, seed: &HashSet<String>| {
        let both = words.intersection(seed).count();
        both as f64 / (words.len() + seed.len() - both).max(1) as f64
    };
    let one = |judged: &&Judged| {
        let words = features(judged.text());
        let best = (0..seeds.len())
            .map(|i| (i, alike(&words, &seeds[i])))
            .max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
        best.map_or(0, |(seed, _)| seed)
    };
    accepted.iter().map(one).collect()
}

/// How evenly what was taken covers the words of a pool.
struct Spread {
    /// By input: its words and pairs of neighbouring words, as numbers.
    features: Vec<Vec<usize>>,
    /// By feature: the root of how many inputs of the pool have it, so that what is frequent is
    /// taken more often, but not as often.
    wanted: Vec<f64>,
    taken: Vec<f64>,
}

impl Spread {
    fn of(accepted: &[&Judged], pool: impl Iterator<Item = usize>) -> Self {
        let mut numbers: HashMap<String, usize> = HashMap::new();
        let mut counts: Vec<f64> = Vec::new();
        let mut features = vec![Vec::new(); accepted.len()];
        for input in pool {
            let text = accepted[input].text();
            let first = text
                .split_whitespace()
                .next()
                .map(|word| format!("^ {word}"));
            for feature in words_and_pairs(text).into_iter().chain(first) {
                let next = counts.len();
                let number = *numbers.entry(feature).or_insert(next);
                counts.resize(counts.len().max(number + 1), 0.0);
                counts[number] += 1.0;
                features[input].push(number);
            }
        }
        Self {
            features,
            taken: vec![0.0; counts.len()],
            wanted: counts.into_iter().map(f64::sqrt).collect(),
        }
    }

    fn gain(&self, input: usize) -> f64 {
        let features = &self.features[input];
        features
            .iter()
            .map(|&f| self.wanted[f] / (1.0 + self.taken[f]))
            .sum::<f64>()
            / features.len().max(1) as f64
    }

    fn take(&mut self, input: usize) {
        for &feature in &self.features[input] {
            self.taken[feature] += 1.0;
        }
    }
}

pub(super) fn keep(judged: &Judged) -> Kept {
    Kept {
        prompt: judged.prompt.clone(),
        answer: judged.answer.clone(),
        score: judged.score,
    }
}

fn rejections(judged: &[Judged], surplus: usize) -> Rejections {
    let mut rejections = Rejections::new();
    for reason in judged.iter().filter_map(|judged| judged.rejected) {
        *rejections.entry(reason).or_default() += 1;
    }
    if surplus > 0 {
        rejections.insert(Reason::Surplus, surplus as u64);
    }
    rejections
}

/// Accepted inputs, best first: by label where answers are labels, the rarer ones together at the
/// end; else all of them.
fn classes_of(accepted: &[&Judged], labels: bool) -> Vec<Vec<usize>> {
    let mut by_answer: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (input, judged) in accepted.iter().enumerate() {
        let answer = if labels { judged.answer_text() } else { "" };
        by_answer.entry(answer).or_default().push(input);
    }
    let least = CLASS_MIN.max(accepted.len() / CLASS_ONE_IN);
    let (mut classes, rare): (Vec<_>, Vec<_>) = by_answer
        .into_values()
        .partition(|class| class.len() >= least);
    classes.push(rare.into_iter().flatten().collect());
    classes
        .iter_mut()
        .for_each(|class| class.sort_by(|&a, &b| accepted[b].score.total_cmp(&accepted[a].score)));
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARES: Shares = Shares {
        sure: None,
        good: 0.25,
        lines: 0.5,
    };

    fn judged(text: &str, answer: &str, score: f64) -> Judged {
        let rejected = (score <= 0.0).then_some(Reason::Contrast);
        Judged {
            score,
            origin: Origin::Chain,
            ..Judged::example(text, answer, rejected)
        }
    }

    fn prompts(kept: &[Kept]) -> Vec<&str> {
        kept.iter().map(Kept::text).collect()
    }

    #[test]
    fn one_sure_answer_does_not_fill_the_set() {
        let mut all: Vec<Judged> = (0..20)
            .map(|i| judged(&format!("a{i}"), "A", 9.0 + f64::from(i) / 100.0))
            .collect();
        all.extend((0..4).map(|i| judged(&format!("b{i}"), "B", 2.0 + f64::from(i))));
        all.extend([judged("odd", "C", 0.1), judged("off", "B", -1.0)]);
        let (kept, rejections) = select(&all, &[], 7, SHARES);
        let of = |answer: &str| {
            prompts(&kept)
                .iter()
                .filter(|prompt| prompt.starts_with(answer))
                .count()
        };
        assert_eq!((of("a"), of("b"), of("odd")), (3, 3, 1));
        assert!(prompts(&kept).contains(&"a19") && prompts(&kept).contains(&"b3"));
        assert_eq!(
            rejections,
            Rejections::from([(Reason::Contrast, 1), (Reason::Surplus, 18)])
        );
    }

    #[test]
    fn distinct_answers_are_kept_by_score() {
        let all: Vec<Judged> = (0..40)
            .map(|i| {
                judged(
                    &format!("p{i} {i}"),
                    &format!("answer {i}"),
                    f64::from(1 + (i * 3) % 40),
                )
            })
            .collect();
        let (kept, _) = select(&all, &[], 5, SHARES);
        assert!(
            kept.iter().all(|kept| kept.score() > 30.0),
            "{:?}",
            prompts(&kept)
        );
        assert_eq!(select(&all, &[], 50, SHARES).0.len(), 40);
    }

    #[test]
    fn no_phrasing_drops_out_because_the_adapter_is_less_sure_of_it() {
        let mut all: Vec<Judged> = (0..40)
            .map(|i| judged(&format!("cancel my order {i}"), "A", 9.0))
            .collect();
        all.extend((0..40).map(|i| judged(&format!("take it back {i}"), "A", 2.0)));
        let taken = |seeds: &[&str]| {
            select(&all, seeds, 12, SHARES)
                .0
                .iter()
                .filter(|kept| kept.text().starts_with("take"))
                .count()
        };
        assert_eq!(taken(&["cancel my order"]), 0);
        assert!(taken(&["cancel my order", "take it back"]) >= 4);
    }

    #[test]
    fn each_seed_has_as_much_of_its_like() {
        let mut all: Vec<Judged> = (0..200)
            .map(|i| judged(&format!("March {i}, 19{i}"), &format!("a{i}"), 3.0))
            .collect();
        all.extend((0..30).map(|i| judged(&format!("{i} March 19{i}"), &format!("b{i}"), 3.0)));
        let (kept, _) = select(
            &all,
            &["March 22, 1934", "7 March 2001", "1 May 1999"],
            30,
            Shares {
                sure: None,
                good: 1.0,
                lines: 0.5,
            },
        );
        let first = prompts(&kept)
            .iter()
            .filter(|prompt| prompt.starts_with("March"))
            .count();
        assert_eq!(first, 15, "{:?}", prompts(&kept));
    }

    #[test]
    fn inputs_whose_answers_nobody_shares_are_not_crowded_out() {
        let mut all: Vec<Judged> = (0..300)
            .map(|i| judged(&format!("shared {i}"), &format!("{}", i / 4), 2.0))
            .collect();
        all.extend((0..300).map(|i| judged(&format!("alone {i}"), &format!("alone {i}"), 2.0)));
        let shares = Shares {
            sure: Some(1.0),
            ..SHARES
        };
        let (kept, _) = select(&all, &[], 100, shares);
        let alone = prompts(&kept)
            .iter()
            .filter(|prompt| prompt.starts_with("alone"))
            .count();
        assert!((40..=60).contains(&alone), "{alone}");
    }

    #[test]
    fn no_word_of_the_answers_drops_out_because_the_adapter_is_less_sure_of_it() {
        let one = |i: usize, place: &str, score| {
            judged(
                &format!("from {place}, {i} years"),
                &format!("{{age: {i}, city: {place}}}"),
                score,
            )
        };
        let mut all: Vec<Judged> = (0..60).map(|i| one(i, "Rome", 9.0)).collect();
        all.extend((0..20).map(|i| one(i, "Oslo", 2.0)));
        let shares = Shares {
            sure: Some(1.0),
            ..SHARES
        };
        let (kept, _) = select(&all, &["from Rome, 7 years"], 16, shares);
        let oslo = prompts(&kept)
            .iter()
            .filter(|prompt| prompt.contains("Oslo"))
            .count();
        assert!((4..=8).contains(&oslo), "{:?}", prompts(&kept));
        assert!(kept.iter().all(|kept| {
            kept.answer()
                .is_some_and(|answer| answer.text.contains("age"))
        }));
    }

    #[test]
    fn lines_have_their_share() {
        let origin = |i: usize| {
            if i.is_multiple_of(2) {
                Origin::Line
            } else {
                Origin::Chain
            }
        };
        let one = |i: usize| Judged {
            answer: None,
            origin: origin(i),
            ..judged(&format!("in {i}"), "", 1.0)
        };
        let all: Vec<Judged> = (0..200).map(one).collect();
        for (lines, expected) in [(0.25, 10), (0.5, 20), (0.8, 32)] {
            let (kept, _) = select(
                &all,
                &[],
                40,
                Shares {
                    good: 1.0,
                    lines,
                    ..SHARES
                },
            );
            let is_line = |kept: &&Kept| {
                all.iter()
                    .any(|judged| judged.text() == kept.text() && judged.origin == Origin::Line)
            };
            let got = kept.iter().filter(is_line).count();
            assert!(got.abs_diff(expected) <= 1, "{lines}: {got}");
        }
    }

    #[test]
    fn what_the_kept_have_already_waits() {
        let mut all: Vec<Judged> = (0..8)
            .map(|i| judged(&format!("in May {i}"), &format!("{i}"), 2.0))
            .collect();
        all.extend(["in June 1", "in July 1"].map(|text| judged(text, text, 1.5)));
        all.extend((0..30).map(|i| judged(&format!("noise {i}"), &format!("n{i}"), 0.5)));
        let (kept, _) = select(&all, &[], 4, SHARES);
        assert!(
            ["in June 1", "in July 1"]
                .iter()
                .all(|text| prompts(&kept).contains(text)),
            "{:?}",
            prompts(&kept)
        );
        assert!(prompts(&kept).iter().all(|text| text.starts_with("in ")));
    }
}
