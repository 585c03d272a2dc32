//! Hold inputs out of the training, to judge on.

use std::collections::{BTreeMap, HashSet};

use super::answers::{Answers, answers};
use super::near::{NEAR, Shingles};
use super::select::keep;
use super::{Judged, Kept};
use crate::record::Rng;

/// Likeness from which on two inputs are not parted, because one that is trained on tells the answer
/// to the other. Where all inputs are more alike, the next one holds; see [`NEAR`].
const ALIKE: [f64; 4] = [0.5, 0.65, NEAR, 2.0];

/// Inputs that are not trained on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeldOut {
    /// Of those that were chosen to train on: they say whether it was learnt.
    pub chosen: Vec<Kept>,
    /// Of those that were accepted and not chosen, which are more various, and of which the teacher
    /// is less sure: they say how far what was learnt goes.
    pub others: Vec<Kept>,
}

/// Hold inputs out: so many of `kept`, half of it at most, and so many of what was accepted beside.
///
/// Both are drawn at random. Each label or set of keys gives its share of `kept`, so that what is
/// rare there is still trained on; what was not chosen costs nothing, so there all take turns. None
/// of them is like one that is left in `kept`, as far as there are others.
pub fn hold_out(
    judged: &[Judged],
    kept: &mut Vec<Kept>,
    [of_kept, of_others]: [usize; 2],
    rng: &mut Rng,
) -> HeldOut {
    let answers = answers(judged);
    let known: HashSet<&str> = kept.iter().map(Kept::text).collect();
    let others = judged
        .iter()
        .filter(|judged| judged.rejected.is_none() && !known.contains(judged.text()));
    let others: Vec<Kept> = others.map(keep).collect();
    let of_kept = of_kept.min(kept.len() / 2);
    let chosen = in_order(kept.clone(), &answers, rng, |turn, of| {
        (turn as f64 + 0.5) / of as f64
    });
    let chosen = draw(chosen, kept, of_kept);
    let others = in_order(others, &answers, rng, |turn, _| turn as f64);
    let others = draw(others, kept, of_others);
    HeldOut { chosen, others }
}

/// Take `count` of `pool`, first those that are least like any that is left in `kept`.
fn draw(pool: Vec<Kept>, kept: &mut Vec<Kept>, count: usize) -> Vec<Kept> {
    let with_shingles = |kept: Kept| (Shingles::of(kept.text()), kept);
    let mut left: Vec<_> = kept.drain(..).map(with_shingles).collect();
    let mut pool: Vec<_> = pool.into_iter().map(with_shingles).collect();
    let mut taken = Vec::new();
    for alike in ALIKE {
        pool.retain(|(own, input)| {
            let is_same = |other: &Kept| other.text() == input.text();
            let mut others = left.iter().filter(|(_, other)| !is_same(other));
            let is_taken =
                taken.len() < count && others.all(|(other, _)| own.likeness(other) < alike);
            if is_taken {
                left.retain(|(_, other)| !is_same(other));
                taken.push(input.clone());
            }
            !is_taken
        });
    }
    kept.extend(left.into_iter().map(|(_, kept)| kept));
    taken
}

/// In random order within each label or set of keys; these are merged by `place`, which gets how many
/// of the same came before, and how many there are.
fn in_order(
    mut inputs: Vec<Kept>,
    answers: &Answers,
    rng: &mut Rng,
    place: fn(usize, usize) -> f64,
) -> Vec<Kept> {
    rng.shuffle(&mut inputs);
    let class = |input: &Kept| -> Vec<String> {
        let answer = input.answer().map_or("", |answer| &answer.text);
        answers.of(answer).map(str::to_owned).collect()
    };
    let mut classes: BTreeMap<Vec<String>, Vec<Kept>> = BTreeMap::new();
    for input in inputs {
        classes.entry(class(&input)).or_default().push(input);
    }
    let mut placed: Vec<(f64, Kept)> = Vec::new();
    for same in classes.into_values() {
        let of = same.len();
        let same = same.into_iter().enumerate();
        placed.extend(same.map(|(turn, input)| (place(turn, of), input)));
    }
    placed.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    placed.into_iter().map(|(_, input)| input).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{Reason, Shares, select};

    /// `count` inputs of so many words each, every one the last with its first word changed where
    /// they are `alike`, else with no word in common.
    fn inputs(count: usize, alike: bool, answer: fn(usize) -> String) -> Vec<Judged> {
        let text = |i: usize| {
            let word = |at: usize| {
                if alike && at > 0 {
                    format!("w{at}")
                } else {
                    format!("w{at}-{i}")
                }
            };
            (0..9).map(word).collect::<Vec<_>>().join(" ")
        };
        (0..count)
            .map(|i| Judged::example(&text(i), &answer(i), None))
            .collect()
    }

    fn chosen(judged: &[Judged], count: usize) -> Vec<Kept> {
        let shares = Shares {
            sure: None,
            good: 1.0,
            lines: 0.5,
        };
        select(judged, &["seed"], count, shares).0
    }

    fn hold(judged: &[Judged], kept: &mut Vec<Kept>, count: [usize; 2]) -> HeldOut {
        hold_out(judged, kept, count, &mut Rng::new(1, "test"))
    }

    fn text(i: usize) -> String {
        format!("answer {i}")
    }

    #[test]
    fn what_is_alike_is_never_on_both_sides() {
        // Every input has a twin that shares eight words of nine with it, but for thirty.
        let mut judged = inputs(90, false, text);
        for i in 0..60 {
            let twin = format!("other {}", judged[i].text().split_once(' ').unwrap().1);
            judged.push(Judged::example(&twin, &text(i), None));
        }
        let mut kept = chosen(&judged, 60);
        let held = hold(&judged, &mut kept, [15, 15]);
        assert_eq!(
            (held.chosen.len(), held.others.len(), kept.len()),
            (15, 15, 45)
        );
        for held in held.chosen.iter().chain(&held.others) {
            let own = Shingles::of(held.text());
            let like = |other: &Kept| own.likeness(&Shingles::of(other.text()));
            assert!(
                kept.iter().all(|kept| like(kept) < ALIKE[0]),
                "{}",
                held.text()
            );
        }
    }

    #[test]
    fn nothing_is_lost_where_enough_are_like_no_other() {
        let judged = inputs(100, false, text);
        let mut kept = chosen(&judged, 60);
        let held = hold(&judged, &mut kept, [20, 30]);
        assert_eq!(
            (kept.len(), held.chosen.len(), held.others.len()),
            (40, 20, 30)
        );
        let all: HashSet<&str> = kept
            .iter()
            .chain(&held.chosen)
            .chain(&held.others)
            .map(Kept::text)
            .collect();
        assert_eq!(all.len(), 90);
    }

    #[test]
    fn labels_give_their_share_of_the_chosen_and_take_turns_among_the_others() {
        // Nine in ten have the one label.
        let label = |i: usize| {
            if i.is_multiple_of(10) {
                "rare"
            } else {
                "often"
            }
            .to_owned()
        };
        let mut judged = inputs(300, false, label);
        judged.push(Judged::example("rejected", "rare", Some(Reason::Contrast)));
        let mut kept: Vec<Kept> = judged[..100].iter().map(keep).collect();
        let held = hold(&judged, &mut kept, [20, 30]);
        let rare = |kept: &[Kept]| {
            let is_rare = |kept: &&Kept| kept.answer().is_some_and(|answer| answer.text == "rare");
            kept.iter().filter(is_rare).count()
        };
        // Ten of a hundred are rare; two of twenty, then.
        assert_eq!((rare(&held.chosen), rare(&held.others)), (2, 15));
        // What a class has few of is not held out.
        let mut judged = inputs(100, false, label);
        judged[50] = Judged::example("single", "single", None);
        judged[60] = Judged::example("second", "single", None);
        let mut kept: Vec<Kept> = judged.iter().map(keep).collect();
        let held = hold(&judged, &mut kept, [20, 0]);
        let is_single = |kept: &Kept| kept.answer().is_some_and(|answer| answer.text == "single");
        assert!(!held.chosen.iter().any(is_single));
    }

    #[test]
    fn half_stays_and_what_is_all_alike_is_held_out_too() {
        let judged = inputs(40, true, text);
        let mut kept = chosen(&judged, 30);
        let held = hold(&judged, &mut kept, [20, 20]);
        assert_eq!(
            (kept.len(), held.chosen.len(), held.others.len()),
            (15, 15, 10)
        );
        assert_eq!(hold(&[], &mut Vec::new(), [1, 1]), HeldOut::default());
    }
}
