//! Lay out a transfer's report as a page.

use std::path::Path;

use super::TransferReport;
use crate::evaluate::{Outlook, Verdict};
use crate::filter::Coverage;
use crate::publish::{Page, Section, Tone};

mod inputs;
mod run;
mod scores;
mod training;

type Facts = Vec<(String, String)>;

/// The page of one transfer.
pub(super) fn page(report: &TransferReport, target: &Path) -> Page {
    let scores = &report.scores;
    let (word, tone) = match report.verdict {
        Verdict::Accept => ("Accepted", Tone::Good),
        Verdict::Reject => ("Rejected", Tone::Bad),
        Verdict::Inconclusive => ("Inconclusive", Tone::Unsure),
    };
    let (word, tone, by_rule) = match (&report.expectation, report.forecast.outlook) {
        (None, _) => (word, tone, String::new()),
        (_, Outlook::Poor) => ("Expected to fail", Tone::Bad, by_rule(word)),
        _ => ("Expected to fall short", Tone::Unsure, by_rule(word)),
    };
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let judged_on = if scores.gate == "eval" {
        "rows with known answers"
    } else {
        "held-out made-up inputs"
    };
    let verdict = format!(
        "{by_rule}of {} {judged_on} the new adapter answers {} right, the bare target {}",
        scores.rows,
        percent(scores.transferred),
        percent(scores.target)
    );
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
        lead: lead(report),
        sections: vec![
            section("Answers", scores::answers(scores)),
            section(
                "What changed",
                scores::changes(&report.confusion, &report.flips),
            ),
            section("Training", training::training(report)),
            section("Inputs", inputs::inputs(report)),
            section(
                "Checks",
                run::checks(&report.input_audit, report.output_audit.as_ref()),
            ),
            section("Time and memory", vec![run::costs(report)]),
            section("Provenance", run::provenance(report)),
        ],
    }
}

fn by_rule(word: &str) -> String {
    format!("by the rule it is {}: ", word.to_lowercase())
}

/// What to expect, what is covered, what the verdict rests on, and what to do next.
fn lead(report: &TransferReport) -> Vec<String> {
    let scores = &report.scores;
    let mut lead: Vec<String> = report
        .expectation
        .iter()
        .map(|text| format!("{}.", capital(text)))
        .collect();
    lead.push(coverage(&report.coverage));
    lead.push(format!(
        "The verdict rests on {} of them: {}. Only the new adapter is right on {}, only the bare \
        target on {} (McNemar's exact test, {}).",
        scores.gate_rows,
        scores.reason,
        scores.wins,
        scores.losses,
        p_value(scores.p_value)
    ));
    if scores.gate != "eval" {
        lead.push(
            "“Right” means here: what the source with its adapter answers. No rows with \
            known answers were given, so this is fidelity to the old adapter."
                .into(),
        );
    }
    lead.extend(report.advice.iter().map(|advice| match advice.field() {
        Some((field, value)) => format!("Next: {advice} ({}: {value}).", spaced(field)),
        None => format!("Next: {advice}."),
    }));
    lead
}

/// How much of the task is taught, and what hardly is.
fn coverage(coverage: &Coverage) -> String {
    let share = 100.0 * coverage.share;
    if coverage.taught.is_empty() {
        return format!(
            "Coverage {share:.0} %: of the words of one more input, so many would be known."
        );
    }
    let count = |name: &String| format!("{name} ({})", coverage.taught[name]);
    let hardly: Vec<String> = coverage.hardly_taught.iter().map(count).collect();
    let hardly = if hardly.is_empty() {
        "each has more".into()
    } else {
        format!("hardly taught: {}", hardly.join(", "))
    };
    format!(
        "Coverage {share:.0} %: of the labels or keys that the old adapter gave, so many are taught by five samples or more; {hardly}."
    )
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
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

fn mebibytes(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}
