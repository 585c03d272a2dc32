//! Lay out a transfer's report as a page.

use std::path::Path;

use super::TransferReport;
use crate::evaluate::Verdict;
use crate::filter::Coverage;
use crate::publish::Page;

/// The page of one transfer.
pub(super) fn page(report: &TransferReport, target: &Path) -> Page {
    let scores = &report.scores;
    let judged_on = if scores.gate == "eval" { "given rows" } else { "held-out made-up inputs" };
    let found = match report.verdict {
        Verdict::Accept => "Accepted",
        Verdict::Reject => "Rejected",
        Verdict::Inconclusive => "Inconclusive",
    };
    let lead = format!(
        "{found}: {} {judged_on}, {} only the new adapter got right, {} only the bare target (p = {:.2e}).",
        scores.rows, scores.wins, scores.losses, scores.p_value
    );
    let arms = [
        ("bare target", "target", scores.target),
        ("source + LoRA", "source_lora", scores.source_lora),
        ("transferred", "transferred", scores.transferred),
    ];
    let bar = |(title, key, share): (&str, &str, f64)| (title.to_owned(), share, scores.intervals.get(key).copied().unwrap_or([share; 2]));
    let text = |name: &String, value: String| (name.replace('_', " "), value);
    let fit = &report.fit;
    let training = [
        ("samples", fit.examples.to_string()),
        ("steps", fit.steps.to_string()),
        ("loss", format!("{:.4} at first, {:.4} at last", fit.loss_first, fit.loss_last)),
        ("adapted matrices", fit.trainer.matrices.to_string()),
        ("parameters", fit.trainer.parameters.to_string()),
    ];
    Page {
        title: format!("Transfer to {}", target.display()),
        lead,
        bars: arms.into_iter().map(bar).collect(),
        tables: vec![
            ("Loss, nats a token".into(), scores.nll.iter().map(|(name, x)| text(name, format!("{x:.4}"))).collect()),
            (
                "Agreement with the teacher on held-out inputs".into(),
                scores.fidelity.iter().map(|(name, x)| text(name, format!("{:.1} %", 100.0 * x))).collect(),
            ),
            ("Training".into(), training.map(|(name, value)| (name.to_owned(), value)).into()),
            ("Inputs".into(), report.counts.iter().map(|(name, n)| text(name, n.to_string())).collect()),
            ("Coverage of the kept inputs".into(), coverage(&report.coverage)),
            ("Seconds".into(), report.seconds.iter().map(|(name, s)| text(name, format!("{s:.1}"))).collect()),
            ("Provenance".into(), report.provenance.iter().map(|(name, value)| text(name, value.clone())).collect()),
        ],
    }
}

fn coverage(coverage: &Coverage) -> Vec<(String, String)> {
    let curve: Vec<String> = coverage.similarity.iter().map(|share| format!("{share:.2}")).collect();
    let rows = [
        ("words", format!("{}, {} of them in no seed", coverage.words, coverage.words_new)),
        ("answers", coverage.answers.to_string()),
        ("likeness to the nearest other input, least to greatest by tenths", curve.join(" ")),
    ];
    rows.map(|(name, value)| (name.to_owned(), value)).into()
}
