//! What was checked, what it cost, and what it came from.

use super::{Facts, fact, mebibytes, spaced};
use crate::pipeline::{InputAudit, OutputAudit, TransferReport};
use crate::publish::Block;

pub(super) fn checks(before: &InputAudit, after: Option<&OutputAudit>) -> Vec<Block> {
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
        let found =
            format!("{source_lora_right} of {rows} rows right with it, {source_right} without");
        facts.push(fact("it helps the source", found));
    }
    match after {
        Some(OutputAudit {
            rows,
            tokens,
            logits_error,
            logits_tolerance,
            answers,
            answers_same,
        }) => facts.extend([
            fact(
                "the new adapter, loaded from the disk",
                "by llama.cpp into a fresh context",
            ),
            fact(
                "its logits are the trainer's",
                format!(
                    "within {logits_error:.4} of the largest on {tokens} tokens of {rows} \
                    held-out rows ({logits_tolerance} may be)"
                ),
            ),
            fact(
                "it repeats answers that it mended",
                format!("{answers_same} of {answers}"),
            ),
        ]),
        None => facts.push(fact(
            "the new adapter",
            "set aside, so it was not loaded again",
        )),
    }
    vec![Block::Facts(facts)]
}

pub(super) fn costs(report: &TransferReport) -> Block {
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

pub(super) fn provenance(report: &TransferReport) -> Vec<Block> {
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
