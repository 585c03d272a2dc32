use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Judged, Kept, Reason, Rejections};
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
    /// Of inputs with one answer and like one seed, the part with the best scores that is good
    /// enough.
    pub good: f64,
    /// Lines among what is kept, where there are enough of them; the others were put together of
    /// pieces.
    pub lines: f64,
}

/// Keep `count` of what was accepted, good and unlike each other, and count the rest by reason.
///
/// What a tuned model wrote is measured among its own: it is like what the adapter is sure of. The
/// score alone would fill the kept set with the answer the adapter is surest of, and with near
/// copies of one input. So answers that several inputs share take turns; all rarer answers take as
/// many turns as classes of their size would. Each turn gives, of the good (or more, where those
/// are too few), an input like the seed whose like was taken least yet: seeds stand for the data,
/// and what a model makes of them has other shares. Of those it is the one whose words and pairs of
/// words were taken least for how often the pool has them. Equal inputs keep their order.
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
    let is_tuned = |input: &usize| accepted[*input].origin == Origin::Tuned;
    let (all, rare_turns) = classes(&accepted);
    let last = all.len() - 1;
    let mut classes: Vec<Vec<usize>> = all
        .into_iter()
        .flat_map(|class| {
            let (tuned, other): (Vec<_>, Vec<_>) = class.into_iter().partition(is_tuned);
            [other, tuned]
        })
        .collect();
    let slots = slots(&accepted, &classes[2 * last..].concat());
    let nearest = nearest(&accepted, seeds);
    cut(&mut classes, [&nearest, &slots], count, shares.good);
    let (rare, classes) = (classes.split_off(2 * last), classes);
    let mut classes = by_origin(classes, &accepted, shares.lines);
    let rare = by_origin(rare, &accepted, shares.lines).into_iter();
    classes.extend(rare.map(|class| Class {
        weight: class.weight * rare_turns,
        ..class
    }));
    stagger(&mut classes);
    let mut spread = Spread::of(
        &accepted,
        classes
            .iter()
            .flat_map(|class| class.inputs.iter().copied()),
    );
    let mut kept = Vec::new();
    // By seed: what was taken of its like.
    let mut served = vec![0_usize; seeds.len().max(1)];
    while kept.len() < count && !classes.is_empty() {
        for class in &mut classes {
            class.credit += class.weight;
            let served_of = |i: usize| served[nearest[class.inputs[i]].unwrap_or(0)];
            let least = (0..class.inputs.len()).map(served_of).min();
            let gain = |i: &usize| spread.gain(class.inputs[*i]);
            let due = (0..class.inputs.len()).filter(|&i| Some(served_of(i)) == least);
            let best = due.max_by(|a, b| gain(a).total_cmp(&gain(b)).then(b.cmp(a)));
            let Some(best) = best.filter(|_| class.credit >= 1.0) else {
                continue;
            };
            class.credit -= 1.0;
            let taken = class.inputs.remove(best);
            spread.take(taken);
            served[nearest[taken].unwrap_or(0)] += 1;
            kept.push(keep(accepted[taken]));
        }
        classes.retain(|class| !class.inputs.is_empty());
    }
    kept.truncate(count);
    (kept, rejections)
}

/// Inputs that take turns with others, `weight` of a turn at a time.
struct Class {
    inputs: Vec<usize>,
    weight: f64,
    credit: f64,
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
/// kind has what the others lack.
fn by_origin(classes: Vec<Vec<usize>>, accepted: &[&Judged], lines_share: f64) -> Vec<Class> {
    let share = lines_share.clamp(LINES_SHARE[0], LINES_SHARE[1]);
    let weights = [
        (share / (1.0 - share)).min(1.0),
        ((1.0 - share) / share).min(1.0),
    ];
    let mut out = Vec::new();
    for class in classes {
        let is = |input: &usize, origin: Origin| accepted[*input].origin == origin;
        if class.iter().any(|input| is(input, Origin::Tuned)) {
            out.push(Class {
                inputs: class,
                weight: 1.0,
                credit: 0.0,
            });
            continue;
        }
        let (lines, pieces) = class.into_iter().partition(|input| is(input, Origin::Line));
        let halves =
            [lines, pieces]
                .into_iter()
                .zip(weights)
                .map(|(inputs, weight): (Vec<usize>, f64)| Class {
                    inputs,
                    weight,
                    credit: 0.0,
                });
        out.extend(halves.filter(|half| !half.inputs.is_empty()));
    }
    out
}

/// Leave of each class the best of what is like each seed, `count` in all or a little more.
///
/// An adapter is surer of one phrasing than of another, and of one slot's word than of another;
/// inputs are measured among their like, by each of `alike`, so that none drops out whole. Where
/// those are too few to tell the best of them, they are measured among all that share their answer.
fn cut(classes: &mut [Vec<usize>], alike: [&[Option<usize>]; 2], count: usize, good_share: f64) {
    let all: usize = classes.iter().map(Vec::len).sum();
    let share = good_share.max(count as f64 / all.max(1) as f64);
    for class in classes {
        let best: HashSet<usize> = alike
            .iter()
            .flat_map(|alike| best_of(class, alike, share))
            .collect();
        class.retain(|input| best.contains(input));
    }
}

/// The best of each group of a class that are alike; what has no group is not among them.
fn best_of(class: &[usize], alike: &[Option<usize>], share: f64) -> Vec<usize> {
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for &input in class {
        if let Some(group) = alike[input] {
            groups.entry(group).or_default().push(input);
        }
    }
    let (few, mut groups): (Vec<_>, Vec<_>) = groups
        .into_values()
        .partition(|group| (group.len() as f64 * share) < CLASS_MIN as f64);
    let few: HashSet<usize> = few.into_iter().flatten().collect();
    groups.push(
        class
            .iter()
            .copied()
            .filter(|input| few.contains(input))
            .collect(),
    );
    let most = |group: &Vec<usize>| ((group.len() as f64 * share).ceil() as usize).max(CLASS_MIN);
    groups
        .iter()
        .flat_map(|group| group.iter().copied().take(most(group)))
        .collect()
}

/// By input whose answer few share, the rarest word of that answer that others have too; none where
/// most have it.
///
/// In such answers words stand for what an input says: a name, a place. Were those that seeds show
/// too frequent among what is kept, a student would learn them by heart in place of where to find
/// them.
fn slots(accepted: &[&Judged], inputs: &[usize]) -> Vec<Option<usize>> {
    let words_of = |input: usize| {
        let words = accepted[input]
            .answer
            .iter()
            .flat_map(|answer| answer.text.split(|c: char| !c.is_alphanumeric()));
        words
            .filter(|word| {
                word.chars().any(char::is_alphabetic)
                    && !word.contains(|c: char| c.is_ascii_digit())
            })
            .collect::<HashSet<&str>>()
    };
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for word in inputs.iter().flat_map(|&input| words_of(input)) {
        *counts.entry(word).or_default() += 1;
    }
    counts.retain(|_, count| (CLASS_MIN..=inputs.len() / 2).contains(count));
    let numbered: HashMap<&str, (usize, usize)> = counts
        .iter()
        .enumerate()
        .map(|(i, (&word, &count))| (word, (count, i)))
        .collect();
    let mut slots = vec![None; accepted.len()];
    for &input in inputs {
        slots[input] = words_of(input)
            .into_iter()
            .filter_map(|word| numbered.get(word))
            .min()
            .map(|(_, word)| *word);
    }
    slots
}

/// By input, the seed that shares most words and pairs of words with it.
fn nearest(accepted: &[&Judged], seeds: &[&str]) -> Vec<Option<usize>> {
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
        Some(best.map_or(0, |(seed, _)| seed))
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
            for feature in words_and_pairs(accepted[input].text()) {
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

fn keep(judged: &Judged) -> Kept {
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

/// Accepted inputs by answer, best first; the rarer answers together at the end, and how many turns
/// those take.
fn classes(accepted: &[&Judged]) -> (Vec<Vec<usize>>, f64) {
    let mut by_answer: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (input, judged) in accepted.iter().enumerate() {
        let answer = judged
            .answer
            .as_ref()
            .map_or("", |answer| answer.text.trim());
        by_answer.entry(answer).or_default().push(input);
    }
    let least = CLASS_MIN.max(accepted.len() / CLASS_ONE_IN);
    let (mut classes, rare): (Vec<_>, Vec<_>) = by_answer
        .into_values()
        .partition(|class| class.len() >= least);
    let rare: Vec<usize> = rare.into_iter().flatten().collect();
    let each = (accepted.len() - rare.len()) as f64 / classes.len().max(1) as f64;
    let turns = if classes.is_empty() {
        1.0
    } else {
        (rare.len() as f64 / each).max(1.0)
    };
    classes.push(rare);
    classes
        .iter_mut()
        .for_each(|class| class.sort_by(|&a, &b| accepted[b].score.total_cmp(&accepted[a].score)));
    (classes, turns)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARES: Shares = Shares {
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
        let (kept, _) = select(&all, &[], 100, SHARES);
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
        let (kept, _) = select(&all, &["from Rome, 7 years"], 16, SHARES);
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
            let (kept, _) = select(&all, &[], 40, Shares { good: 1.0, lines });
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
