//! Lay out a transfer's report as a page.

use std::path::Path;

use super::{
    ArmScore, Confusion, Flip, InputAudit, MadeInput, ObjectiveReport, OutputAudit, Scores,
    TransferReport,
};
use crate::evaluate::{Retention, Verdict};
use crate::filter::Coverage;
use crate::publish::{Bar, Block, Chart, Page, Section, Tone};

type Facts = Vec<(String, String)>;

/// The page of one transfer.
pub(super) fn page(report: &TransferReport, target: &Path) -> Page {
    let scores = &report.scores;
    let (word, tone) = match report.verdict {
        Verdict::Accept => ("Accepted", Tone::Good),
        Verdict::Reject => ("Rejected", Tone::Bad),
        Verdict::Inconclusive => ("Inconclusive", Tone::Unsure),
    };
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let judged_on = if scores.gate == "eval" {
        "rows with known answers"
    } else {
        "held-out made-up inputs"
    };
    let verdict = format!(
        "of {} {judged_on} the new adapter answers {} right, the bare target {}",
        scores.rows,
        percent(scores.transferred),
        percent(scores.target)
    );
    let mut lead = vec![format!(
        "The verdict rests on {} of them: {}. Only the new adapter is right on {}, only the bare target on {} (McNemar's exact test, {}).",
        scores.gate_rows,
        scores.reason,
        scores.wins,
        scores.losses,
        p_value(scores.p_value)
    )];
    if scores.gate != "eval" {
        lead.push("“Right” means here: what the source with its adapter answers. No rows with known answers were given, so this is fidelity to the old adapter.".into());
    }
    let section = |heading: &str, blocks| Section {
        heading: heading.into(),
        blocks,
    };
    Page {
        tone,
        verdict: (word.into(), verdict),
        title: format!(
            "Transfer of {} to {}",
            name(&report.plan["source_lora"]),
            target.display()
        ),
        lead,
        sections: vec![
            section("Answers", answers(scores)),
            section("What changed", changes(&report.confusion, &report.flips)),
            section("Training", training(report)),
            section("Inputs", inputs(report)),
            section(
                "Checks",
                checks(&report.input_audit, report.output_audit.as_ref()),
            ),
            section("Time and memory", vec![costs(report)]),
            section("Provenance", provenance(report)),
        ],
    }
}

/// The file that a plan names.
fn name(path: &serde_json::Value) -> String {
    let path = Path::new(path.as_str().unwrap_or("an adapter"));
    path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn p_value(p: f64) -> String {
    if p < 1e-3 {
        format!("p = {p:.1e}")
    } else {
        format!("p = {p:.3}")
    }
}

fn fact(name: &str, value: impl Into<String>) -> (String, String) {
    (name.to_owned(), value.into())
}

fn spaced(name: &str) -> String {
    name.replace('_', " ")
}

fn answers(scores: &Scores) -> Vec<Block> {
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
    let by_arm =
        |numbers: &std::collections::BTreeMap<String, f64>, told: fn(f64) -> String| -> Facts {
            numbers
                .iter()
                .map(|(name, x)| (spaced(name), told(*x)))
                .collect()
        };
    vec![
        Block::Bars(arms.into_iter().map(bar).chain(compared).collect()),
        Block::Note("Share of exact answers, with Wilson's 95 % interval.".into()),
        Block::Facts(judging(scores)),
        Block::Heading("Loss, nats a token".into()),
        Block::Facts(by_arm(&scores.nll, |x| format!("{x:.4}"))),
        Block::Heading(format!(
            "The same answer as source + LoRA, on {} held-out inputs",
            scores.fidelity_rows
        )),
        Block::Facts(by_arm(&scores.fidelity, |x| format!("{:.1} %", 100.0 * x))),
    ]
}

fn objective(report: &ObjectiveReport) -> Facts {
    let mut rows = vec![fact(
        "fitted to",
        format!("{}: {}", report.objective.name(), report.reason),
    )];
    if report.tokens > 0 {
        let share = 100.0 * report.tokens_taught as f64 / report.tokens as f64;
        rows.push(fact(
            "tokens with the teacher's distribution",
            format!(
                "{} of {} ({share:.1} %)",
                report.tokens_taught, report.tokens
            ),
        ));
    }
    rows.extend(report.divergence.map(|of| {
        let told = format!(
            "{:.4} bare target, {:.4} transferred, on {} tokens",
            of.target, of.transferred, of.tokens
        );
        fact("divergence from it on held-out inputs, nats a token", told)
    }));
    rows
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

fn changes(confusion: &Confusion, flips: &[Flip]) -> Vec<Block> {
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
        let told = |flip: &Flip| {
            vec![
                flip.prompt.clone(),
                flip.right.trim().to_owned(),
                flip.target.clone(),
                flip.transferred.clone(),
            ]
        };
        let rows: Vec<Vec<String>> = flips
            .iter()
            .filter(|flip| flip.won == won)
            .map(told)
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

fn training(report: &TransferReport) -> Vec<Block> {
    let fit = &report.fit;
    let mut curves = vec![(
        "loss".to_owned(),
        fit.losses
            .iter()
            .map(|(step, loss)| (*step as f64, *loss))
            .collect(),
    )];
    if !fit.held_out.is_empty() {
        let held_out = fit
            .held_out_steps
            .iter()
            .zip(&fit.held_out)
            .map(|(step, loss)| (*step as f64, *loss))
            .collect();
        curves.push(("on held-out samples".to_owned(), held_out));
    }
    let mut facts = objective(&report.objective);
    facts.extend([
        fact("samples", fit.examples.to_string()),
        fact("steps", fit.steps.to_string()),
        fact(
            "loss",
            format!(
                "{:.4} at first, {:.4} at last (a tenth of the steps each)",
                fit.loss_first, fit.loss_last
            ),
        ),
        fact(
            "adapted matrices",
            format!(
                "{} ({})",
                fit.trainer.matrices,
                fit.trainer.modules.join(", ")
            ),
        ),
        fact("parameters", fit.trainer.parameters.to_string()),
        fact("trained on", fit.trainer.device.clone()),
    ]);
    if !fit.restarts.is_empty() {
        let steps: Vec<String> = fit.restarts.iter().map(u64::to_string).collect();
        facts.push(fact(
            "went on",
            format!(
                "because the answers were not learnt, after step {}",
                steps.join(" and ")
            ),
        ));
    }
    if fit.stopped_early || fit.kept_step != fit.steps {
        facts.push(fact(
            "kept",
            format!("the adapter of step {}", fit.kept_step),
        ));
    }
    if let Some(plan) = &fit.trainer.plan {
        facts.push(fact("predicted peak", mebibytes(plan.predicted_bytes)));
    }
    let chart = Chart {
        title: "Loss by step".into(),
        x_axis: "step".into(),
        y_axis: "nats a completion token".into(),
        curves,
    };
    vec![Block::Chart(chart), Block::Facts(facts)]
}

fn inputs(report: &TransferReport) -> Vec<Block> {
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
    vec![
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
            Box::new(made(&report.inputs, false)),
        ),
        Block::Folded(
            "Some that were rejected".into(),
            Box::new(made(&report.inputs, true)),
        ),
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
    if !coverage.answers_missing.is_empty() {
        rows.push(fact(
            "answers of the source adapter that no kept input gets",
            coverage.answers_missing.join(", "),
        ));
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

fn made(inputs: &[MadeInput], rejected: bool) -> Block {
    let those = inputs
        .iter()
        .filter(|input| input.rejected.is_some() == rejected);
    let row = |input: &MadeInput| {
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

fn checks(before: &InputAudit, after: Option<&OutputAudit>) -> Vec<Block> {
    let InputAudit {
        made_for_source,
        seeds,
        answers_changed,
        rows,
        source_lora_right,
        source_right,
    } = before;
    let made_for = match made_for_source {
        Some(true) => "this very file, by its hash",
        Some(false) => "another file, by its hash; its shapes fit",
        None => "it does not say; its shapes fit",
    };
    let mut facts = vec![
        fact("the source adapter was trained on", made_for),
        fact(
            "it changes the answers to",
            format!("{answers_changed} of {seeds} seeds"),
        ),
    ];
    if *rows > 0 {
        let told =
            format!("{source_lora_right} of {rows} rows right with it, {source_right} without");
        facts.push(fact("it helps the source", told));
    }
    match after {
        Some(OutputAudit { rows, tokens, logits_error, logits_tolerance, answers, answers_same }) => facts.extend([
            fact("the new adapter, loaded from the disk", "by llama.cpp into a fresh context"),
            fact(
                "its logits are the trainer's",
                format!("within {logits_error:.4} of the largest on {tokens} tokens of {rows} held-out rows ({logits_tolerance} may be)"),
            ),
            fact("it repeats answers that it mended", format!("{answers_same} of {answers}")),
        ]),
        None => facts.push(fact("the new adapter", "set aside, so it was not loaded again")),
    }
    vec![Block::Facts(facts)]
}

fn costs(report: &TransferReport) -> Block {
    let row = |(stage, seconds): (&String, &f64)| {
        let peak = report
            .peak_bytes
            .get(stage)
            .map_or_else(String::new, |bytes| mebibytes(*bytes));
        vec![stage.clone(), format!("{seconds:.1}"), peak]
    };
    let sum = vec![
        "all".to_owned(),
        format!("{:.1}", report.seconds.values().sum::<f64>()),
        String::new(),
    ];
    let head = ["stage", "seconds", "most memory held by its end"]
        .map(str::to_owned)
        .into();
    Block::Numbers {
        head,
        rows: report.seconds.iter().map(row).chain([sum]).collect(),
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}

fn provenance(report: &TransferReport) -> Vec<Block> {
    let mut plan = Facts::new();
    flatten("", &report.plan, &mut plan);
    vec![
        Block::Facts(
            report
                .provenance
                .iter()
                .map(|(name, value)| (spaced(name), value.clone()))
                .collect(),
        ),
        Block::Folded("The whole plan".into(), Box::new(Block::Facts(plan))),
    ]
}

/// Values by their path.
fn flatten(path: &str, value: &serde_json::Value, facts: &mut Facts) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let name = spaced(name);
                flatten(
                    &if path.is_empty() {
                        name
                    } else {
                        format!("{path}, {name}")
                    },
                    value,
                    facts,
                );
            }
        }
        serde_json::Value::Null => {}
        serde_json::Value::String(text) => facts.push(fact(path, text.clone())),
        // A plan's f32 would print the digits of its f64.
        serde_json::Value::Number(number) if number.is_f64() => {
            facts.push(fact(
                path,
                format!("{}", number.as_f64().unwrap_or(0.0) as f32),
            ));
        }
        other => facts.push(fact(path, other.to_string())),
    }
}
