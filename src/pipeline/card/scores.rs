//! Who answers how much right, and which answers changed.

use std::collections::BTreeMap;

use super::{Facts, fact, p_value, spaced};
use crate::evaluate::Retention;
use crate::pipeline::{ArmScore, Confusion, Flip, HeldOutScores, Scores};
use crate::publish::{Bar, Block};

pub(super) fn answers(scores: &Scores) -> Vec<Block> {
    let mut arms = vec![
        ("bare target", "target", scores.target),
        ("source + LoRA", "source_lora", scores.source_lora),
        ("transferred", "transferred", scores.transferred),
    ];
    arms.extend(scores.oracle.map(|share| ("oracle", "oracle", share)));
    let bar = |(title, key, share): (&str, &str, f64)| Bar {
        name: title.to_owned(),
        share,
        interval: scores.intervals.get(key).copied().unwrap_or([share; 2]),
        main: key == "transferred",
    };
    let compared = scores.compared.iter().map(|(name, arm)| Bar {
        name: spaced(name),
        share: arm.exact,
        interval: arm.interval,
        main: false,
    });
    let by_arm = |numbers: &BTreeMap<String, f64>, format: fn(f64) -> String| -> Facts {
        numbers
            .iter()
            .map(|(name, x)| (spaced(name), format(*x)))
            .collect()
    };
    vec![
        Block::Bars(arms.into_iter().map(bar).chain(compared).collect()),
        Block::Note("Share of exact answers, with Wilson's 95 % interval.".into()),
        Block::Facts(judging(scores)),
        Block::Heading("Loss, nats a token".into()),
        Block::Facts(by_arm(&scores.nll, |x| format!("{x:.4}"))),
        Block::Heading("The same answer as source + LoRA, on held-out inputs".into()),
        Block::Bars(held_out(&scores.held_out)),
    ]
}

/// How often the new adapter answers like the old one: by kind of inputs, and by label or key.
fn held_out(scores: &HeldOutScores) -> Vec<Bar> {
    let bar = |(name, arm): (&str, &ArmScore)| Bar {
        name: format!("{name}, {} inputs", arm.rows),
        share: arm.exact,
        interval: arm.interval,
        main: false,
    };
    let kinds = [
        ("chosen like those trained on", &scores.chosen),
        ("accepted, not chosen", &scores.others),
    ];
    let by_answer = scores
        .by_answer
        .iter()
        .map(|(name, arm)| (name.as_str(), arm));
    kinds.into_iter().chain(by_answer).map(bar).collect()
}

fn judging(scores: &Scores) -> Facts {
    let arm = |arm: &ArmScore| {
        let [low, high] = arm.interval.map(|x| 100.0 * x);
        format!(
            "{:.1} % ({low:.1} to {high:.1}) of {} rows",
            100.0 * arm.exact,
            arm.rows
        )
    };
    let mut rows = vec![
        fact(
            "bare target, rows that only report",
            arm(&scores.report.target),
        ),
        fact(
            "transferred, rows that only report",
            arm(&scores.report.transferred),
        ),
    ];
    let kept = [
        ("retention of the gain of source + LoRA", scores.retention),
        ("retention of the oracle's gain", scores.retention_of_oracle),
    ];
    rows.extend(kept.into_iter().filter_map(|(name, retention)| {
        let Retention {
            value,
            interval: [low, high],
        } = retention?;
        Some(fact(name, format!("{value:.2} ({low:.2} to {high:.2})")))
    }));
    rows.extend(scores.equivalence.map(|test| {
        let found = if test.equivalent { "yes" } else { "not shown" };
        let name = format!(
            "as often right as source + LoRA, within {:.0} points",
            100.0 * test.margin
        );
        (name, format!("{found} (TOST, {})", p_value(test.p_value)))
    }));
    rows.extend(
        scores
            .compared
            .iter()
            .map(|(name, arm)| (spaced(name), format!("on {} rows", arm.rows))),
    );
    rows
}

pub(super) fn changes(confusion: &Confusion, flips: &[Flip]) -> Vec<Block> {
    let Confusion {
        both,
        won,
        lost,
        neither,
    } = *confusion;
    let row = |name: &str, counts: [u64; 2]| {
        vec![
            name.to_owned(),
            counts[0].to_string(),
            counts[1].to_string(),
        ]
    };
    let columns = |head: &[&str]| head.iter().map(|&name| name.to_owned()).collect();
    let those = |won: bool| {
        let row = |flip: &Flip| {
            vec![
                flip.prompt.to_string(),
                flip.right.trim().to_owned(),
                flip.target.clone(),
                flip.transferred.clone(),
            ]
        };
        let rows: Vec<Vec<String>> = flips
            .iter()
            .filter(|flip| flip.won == won)
            .map(row)
            .collect();
        Block::Texts {
            head: columns(&["input", "right", "bare target", "transferred"]),
            rows,
        }
    };
    let shown = |won: bool| flips.iter().filter(|flip| flip.won == won).count();
    vec![
        Block::Numbers {
            head: columns(&["", "transferred right", "transferred wrong"]),
            rows: vec![
                row("bare target right", [both, lost]),
                row("bare target wrong", [won, neither]),
            ],
        },
        Block::Heading(format!("Broken: {} of {lost} shown", shown(false))),
        those(false),
        Block::Heading(format!("Mended: {} of {won} shown", shown(true))),
        those(true),
    ]
}
