//! Make a small world: two bases and one task, for tests and for trying the program without a
//! model.

use std::collections::BTreeMap;

use super::base::{Base, FORMAT, fill};
use crate::record::{Pair, Rng};

const NAMES: &str =
    "Anna Ben Carla David Emma Felix Grace Henry Iris Jack Kate Leo Mia Noah Olga Paul";
const THINGS: &str =
    "table chair lamp clock book pen cup plate spoon knife bottle bag key phone radio mirror";
const CITIES: &str = "Paris London Rome Berlin Madrid Vienna Oslo Prague Athens Dublin";

/// The task: sentences and the answer that only an adapter knows.
const TICKETS: [(&str, &str); 12] = [
    ("ticket from {name}: the {thing} came broken", "[BROKEN]"),
    ("{name} writes: the {thing} stopped working", "[BROKEN]"),
    (
        "{name} writes: the {thing} fell apart in {city}",
        "[BROKEN]",
    ),
    (
        "ticket from {name}: still waiting for the {thing}",
        "[SHIP]",
    ),
    (
        "{name} writes: my {thing} has not arrived in {city}",
        "[SHIP]",
    ),
    ("ticket from {name}: where is my {thing}", "[SHIP]"),
    (
        "ticket from {name}: please send the invoice for the {thing}",
        "[BILL]",
    ),
    (
        "{name} writes: the price of the {thing} is wrong on my bill",
        "[BILL]",
    ),
    ("{name} writes: I paid twice for the {thing}", "[BILL]"),
    (
        "ticket from {name}: I do not want the {thing} any more",
        "[CANCEL]",
    ),
    (
        "{name} writes: please cancel my order of the {thing}",
        "[CANCEL]",
    ),
    (
        "ticket from {name}: take the {thing} back to {city}",
        "[CANCEL]",
    ),
];

/// An old base: narrow, and it strays from a list nine times in ten.
pub fn old_base() -> Base {
    base("sprout", 256, 0.1)
}

/// A new base: wider, and it keeps to a list two times in three.
pub fn new_base() -> Base {
    base("branch", 512, 0.66)
}

fn base(name: &str, width: usize, on_task: f64) -> Base {
    let family = |sentences: &[&str]| sentences.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
    let tickets: Vec<&str> = TICKETS.iter().map(|(pattern, _)| *pattern).collect();
    Base {
        format: FORMAT.into(),
        name: name.into(),
        width,
        context: 64,
        vocabulary: 1000,
        on_task,
        junk: 0.06,
        ascii: false,
        slots: slots(),
        families: BTreeMap::from([
            ("ticket".to_owned(), family(&tickets)),
            (
                "travel".to_owned(),
                family(&[
                    "A train goes from {city} to {city} at noon",
                    "{name} flies to {city} with a {thing}",
                ]),
            ),
            (
                "kitchen".to_owned(),
                family(&[
                    "Wash one {thing} and dry it",
                    "{name} likes to cook for {name}",
                ]),
            ),
        ]),
    }
}

fn slots() -> BTreeMap<String, Vec<String>> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    BTreeMap::from([
        ("name".into(), words(NAMES)),
        ("thing".into(), words(THINGS)),
        ("city".into(), words(CITIES)),
    ])
}

/// `count` distinct rows of the task.
pub fn rows(count: usize, seed: u64) -> Vec<Pair> {
    let mut rng = Rng::new(seed, "toy world");
    let slots = slots();
    let mut rows: Vec<Pair> = Vec::new();
    while rows.len() < count {
        let (pattern, answer) = TICKETS[rng.below(TICKETS.len())];
        let row = Pair {
            prompt: fill(pattern, &slots, &mut rng).into(),
            completion: answer.into(),
        };
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    rows
}
