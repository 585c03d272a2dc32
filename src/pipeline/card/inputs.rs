//! What became of the inputs, and what the kept ones cover.

use super::{Facts, fact, spaced};
use crate::filter::Coverage;
use crate::pipeline::{ArmScore, GeneratedInput, TrafficReport, TransferReport};
use crate::publish::{Block, Chart};

pub(super) fn inputs(report: &TransferReport) -> Vec<Block> {
    let (mut drawn, mut valid, mut accepted) = (0, 0, 0);
    let mut curves = [
        ("valid".to_owned(), vec![(0.0, 0.0)]),
        ("accepted by the filter".to_owned(), vec![(0.0, 0.0)]),
    ];
    for round in &report.rounds {
        (drawn, valid, accepted) = (
            drawn + round.drawn,
            valid + round.valid,
            accepted + round.accepted,
        );
        curves[0].1.push((drawn as f64, valid as f64));
        curves[1].1.push((drawn as f64, accepted as f64));
    }
    let acceptance = Chart {
        title: "Inputs that were valid and accepted, by inputs drawn".into(),
        x_axis: "draws".into(),
        y_axis: "inputs, all rounds together".into(),
        curves: curves.into(),
    };
    let columns = |head: &[&str]| head.iter().map(|&name| name.to_owned()).collect();
    let rounds = report.rounds.iter().enumerate().map(|(i, round)| {
        let counts = [round.drawn, round.valid, round.accepted].map(|count| count.to_string());
        std::iter::once(format!("{} by {}", i + 1, spaced(&round.by)))
            .chain(counts)
            .collect()
    });
    let rejected = report
        .counts
        .iter()
        .filter_map(|(name, count)| Some((name.strip_prefix("rejected_")?, count)));
    let reasons = rejected.map(|(name, count)| vec![in_words(name), count.to_string()]);
    let counted = report
        .counts
        .iter()
        .filter(|(name, _)| !name.starts_with("rejected_"));
    let asked = report.traffic.as_ref().map(asked).into_iter().flatten();
    let mut blocks = vec![
        Block::Chart(acceptance),
        Block::Numbers {
            head: columns(&["round", "drawn", "valid", "accepted"]),
            rows: rounds.collect(),
        },
        Block::Facts(
            counted
                .map(|(name, count)| (spaced(name), count.to_string()))
                .collect(),
        ),
        Block::Heading("Likeness of the kept inputs".into()),
        Block::Chart(likeness(&report.coverage)),
        Block::Facts(coverage(&report.coverage)),
        Block::Heading("Why inputs were rejected".into()),
        Block::Numbers {
            head: columns(&["reason", "inputs"]),
            rows: reasons.collect(),
        },
        Block::Folded(
            "Some that were kept".into(),
            Box::new(examples(&report.inputs, false)),
        ),
        Block::Folded(
            "Some that were rejected".into(),
            Box::new(examples(&report.inputs, true)),
        ),
    ];
    blocks.extend(asked);
    blocks
}

/// What users asked, and how the new adapter answers it.
fn asked(of: &TrafficReport) -> [Block; 2] {
    let share = |arm: &ArmScore| {
        let [low, high] = arm.interval.map(|x| 100.0 * x);
        let exact = 100.0 * arm.exact;
        match arm.rows {
            0 => "none was held out".into(),
            rows => format!("{exact:.1} % of {rows} ({low:.1} to {high:.1} %)"),
        }
    };
    let mut facts = vec![
        ("served as".to_owned(), of.adapter.clone()),
        ("prompts of users".to_owned(), of.prompts.to_string()),
        ("stood for seeds".to_owned(), of.seeds.to_string()),
        ("accepted by the filter".to_owned(), of.accepted.to_string()),
        ("held out".to_owned(), of.held_out.to_string()),
        (
            "the new adapter answers as the old one".to_owned(),
            share(&of.transferred),
        ),
        ("the bare target does".to_owned(), share(&of.target)),
    ];
    let users = of.users.as_ref().map(share);
    let agrees = "the new adapter agrees with what users got".to_owned();
    facts.extend(users.map(|users| (agrees, users)));
    [
        Block::Heading("What users asked".into()),
        Block::Facts(facts),
    ]
}

/// Of each kept input, its likeness to the one most like it and to the nearest seed, from the least
/// to the greatest.
fn likeness(coverage: &Coverage) -> Chart {
    let curve = |name: &str, shares: &[f64]| {
        let last = shares.len().saturating_sub(1).max(1) as f64;
        (
            name.to_owned(),
            shares
                .iter()
                .enumerate()
                .map(|(i, share)| (100.0 * i as f64 / last, *share))
                .collect(),
        )
    };
    Chart {
        title: "Likeness of each kept input to the one most like it, and to the nearest seed"
            .into(),
        x_axis: "kept inputs, %".into(),
        y_axis: "words in both, of the words in either (Jaccard)".into(),
        curves: vec![
            curve("to the nearest other input", &coverage.similarity),
            curve("to the nearest seed", &coverage.similarity_to_seeds),
        ],
    }
}

fn coverage(coverage: &Coverage) -> Facts {
    let share = |share: f64| format!("{:.1} %", 100.0 * share);
    let mut rows = vec![
        fact(
            "words",
            format!(
                "{}, {} of them in no seed",
                coverage.words, coverage.words_new
            ),
        ),
        fact(
            "words of one more input that would be new (estimate)",
            share(coverage.words_unseen),
        ),
        fact(
            "texts that differ in more than numbers",
            coverage.forms.to_string(),
        ),
        fact("different answers", coverage.answers.to_string()),
    ];
    if !coverage.taught.is_empty() {
        let taught = coverage.taught.iter();
        let taught: Vec<String> = taught
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        rows.push(fact("samples by label, or by key", taught.join(", ")));
    }
    rows.extend(coverage.eval_words.map(|found| {
        fact(
            "words of the given rows that some kept input has",
            share(found),
        )
    }));
    rows.extend(coverage.eval_answers.map(|found| {
        fact(
            "given rows whose right answer some kept input gets",
            share(found),
        )
    }));
    rows
}

fn examples(inputs: &[GeneratedInput], rejected: bool) -> Block {
    let those = inputs
        .iter()
        .filter(|input| input.rejected.is_some() == rejected);
    let row = |input: &GeneratedInput| {
        let mut row = vec![
            input.text.clone(),
            input
                .answer
                .as_deref()
                .unwrap_or_default()
                .trim()
                .to_owned(),
        ];
        row.extend(input.rejected.as_deref().map(in_words));
        row
    };
    let head = ["input", "the teacher's answer", "rejected because"]
        .into_iter()
        .take(2 + usize::from(rejected));
    Block::Texts {
        head: head.map(str::to_owned).collect(),
        rows: those.map(row).collect(),
    }
}

/// A reason for a rejection as a person says it.
fn in_words(reason: &str) -> String {
    let words = match reason {
        "empty" => "nothing but white space, or an empty answer",
        "too_long" => "far longer than any seed, or longer than the kit's inputs",
        "too_short" => "shorter than the kit's inputs",
        "unfinished" => "it, or its answer, came to no end",
        "header" => "the header of a list",
        "marker" => "a piece of a chat template",
        "control" => "control characters",
        "script" => "a script or symbols that no seed has",
        "repeated" => "repeats a seed or an earlier input",
        "near_repeat" => "nearly the words of a seed or an earlier input",
        "other_numbers" => "an earlier input with other numbers",
        "seed_run" => "a long run of a seed's words",
        "probe" => "text of any kind, drawn to see what the teacher answers",
        "discriminator" => "the discriminator takes it for made up",
        "other_answer" => "the teacher gives another answer than it was asked for by",
        "no_answer" => "the teacher's answer is empty or does not end",
        "contrast" => "the adapter makes its answer no likelier",
        "surplus" => "good, but more than was asked for",
        other => return spaced(other),
    };
    words.to_owned()
}
