//! Lay out a transfer's report as a page.

use std::path::Path;

use super::{ArmScore, Flip, ObjectiveReport, Scores, TransferReport};
use crate::evaluate::{Retention, Verdict};
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
        "{found}: {}. Of {} {judged_on}, {} only the new adapter got right, {} only the bare target (p = {:.2e}).{}",
        scores.reason,
        scores.gate_rows,
        scores.wins,
        scores.losses,
        scores.p_value,
        if scores.gate == "eval" { "" } else { " That is fidelity to the source adapter: no rows with known answers were given." }
    );
    let mut arms = vec![
        ("bare target", "target", scores.target),
        ("source + LoRA", "source_lora", scores.source_lora),
        ("transferred", "transferred", scores.transferred),
    ];
    arms.extend(scores.oracle.map(|share| ("oracle", "oracle", share)));
    let bar = |(title, key, share): (&str, &str, f64)| (title.to_owned(), share, scores.intervals.get(key).copied().unwrap_or([share; 2]));
    let compared = scores.compared.iter().map(|(name, arm)| (name.replace('_', " "), arm.exact, arm.interval));
    let text = |name: &String, value: String| (name.replace('_', " "), value);
    let fit = &report.fit;
    let mut training = objective(&report.objective);
    training.extend([
        ("samples", fit.examples.to_string()),
        ("steps", fit.steps.to_string()),
        ("loss", format!("{:.4} at first, {:.4} at last", fit.loss_first, fit.loss_last)),
        ("adapted matrices", fit.trainer.matrices.to_string()),
        ("parameters", fit.trainer.parameters.to_string()),
    ]);
    Page {
        title: format!("Transfer to {}", target.display()),
        lead,
        bars: arms.into_iter().map(bar).chain(compared).collect(),
        tables: vec![
            ("Judging".into(), judging(scores)),
            ("Loss, nats a token".into(), scores.nll.iter().map(|(name, x)| text(name, format!("{x:.4}"))).collect()),
            (
                "Agreement with the teacher on held-out inputs".into(),
                scores.fidelity.iter().map(|(name, x)| text(name, format!("{:.1} %", 100.0 * x))).collect(),
            ),
            ("Training".into(), training.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            ("Inputs".into(), report.counts.iter().map(|(name, n)| text(name, n.to_string())).collect()),
            ("Coverage of the kept inputs".into(), coverage(&report.coverage)),
            ("Answers that the new adapter mended".into(), flips(&report.flips, true)),
            ("Answers that the new adapter broke".into(), flips(&report.flips, false)),
            ("Seconds".into(), report.seconds.iter().map(|(name, s)| text(name, format!("{s:.1}"))).collect()),
            ("Provenance".into(), report.provenance.iter().map(|(name, value)| text(name, value.clone())).collect()),
        ],
    }
}

fn objective(report: &ObjectiveReport) -> Vec<(&'static str, String)> {
    let mut rows = vec![("fitted to", format!("{}: {}", report.objective.name(), report.reason))];
    if report.tokens > 0 {
        let share = 100.0 * report.tokens_taught as f64 / report.tokens as f64;
        rows.push(("tokens with the teacher's distribution", format!("{} of {} ({share:.1} %)", report.tokens_taught, report.tokens)));
    }
    rows.extend(report.divergence.map(|of| {
        let told = format!("{:.4} bare target, {:.4} transferred, on {} tokens", of.target, of.transferred, of.tokens);
        ("divergence from it on held-out inputs, nats a token", told)
    }));
    rows
}

fn judging(scores: &Scores) -> Vec<(String, String)> {
    let arm = |arm: &ArmScore| {
        let [low, high] = arm.interval.map(|x| 100.0 * x);
        format!("{:.1} % ({low:.1} to {high:.1}) of {} rows", 100.0 * arm.exact, arm.rows)
    };
    let mut rows = vec![
        ("bare target, rows that only report".to_owned(), arm(&scores.report.target)),
        ("transferred, rows that only report".to_owned(), arm(&scores.report.transferred)),
    ];
    let kept =
        [("retention of the gain of source + LoRA", scores.retention), ("retention of the oracle's gain", scores.retention_of_oracle)];
    rows.extend(kept.into_iter().filter_map(|(name, retention)| {
        let Retention { value, interval: [low, high] } = retention?;
        Some((name.to_owned(), format!("{value:.2} ({low:.2} to {high:.2})")))
    }));
    rows.extend(scores.equivalence.map(|test| {
        let found = if test.equivalent { "yes" } else { "not shown" };
        let points = 100.0 * test.margin;
        (format!("as often right as source + LoRA, within {points:.0} points"), format!("{found} (TOST, p = {:.2e})", test.p_value))
    }));
    rows
}

fn flips(flips: &[Flip], won: bool) -> Vec<(String, String)> {
    let those = flips.iter().filter(|flip| flip.won == won);
    let told = |flip: &Flip| format!("right: {}; bare target: {}; transferred: {}", flip.right.trim(), flip.target, flip.transferred);
    those.map(|flip| (flip.prompt.clone(), told(flip))).collect()
}

fn coverage(coverage: &Coverage) -> Vec<(String, String)> {
    let curve = |shares: &[f64]| shares.iter().map(|share| format!("{share:.2}")).collect::<Vec<_>>().join(" ");
    let share = |share: f64| format!("{:.1} %", 100.0 * share);
    let mut rows = vec![
        ("words", format!("{}, {} of them in no seed", coverage.words, coverage.words_new)),
        ("words of one more input that would be new (estimate)", share(coverage.words_unseen)),
        ("texts that differ in more than numbers", coverage.forms.to_string()),
        ("answers", coverage.answers.to_string()),
        ("likeness to the nearest other input, least to greatest by tenths", curve(&coverage.similarity)),
        ("likeness to the nearest seed, least to greatest by tenths", curve(&coverage.similarity_to_seeds)),
    ];
    if !coverage.answers_missing.is_empty() {
        rows.push(("answers of the source adapter that no kept input gets", coverage.answers_missing.join(", ")));
    }
    rows.extend(coverage.eval_words.map(|found| ("words of the given rows that some kept input has", share(found))));
    rows.extend(coverage.eval_answers.map(|found| ("given rows whose right answer some kept input gets", share(found))));
    rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
