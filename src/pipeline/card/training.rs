//! How the training went.

use super::{Facts, fact, mebibytes};
use crate::pipeline::{ObjectiveReport, TransferReport};
use crate::publish::{Block, Chart};

pub(super) fn training(report: &TransferReport) -> Vec<Block> {
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
        let numbers = format!(
            "{:.4} bare target, {:.4} transferred, on {} tokens",
            of.target, of.transferred, of.tokens
        );
        fact(
            "divergence from it on held-out inputs, nats a token",
            numbers,
        )
    }));
    rows
}
