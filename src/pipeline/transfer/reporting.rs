//! Put a transfer's report together, look at the adapter once more, and give all files their names.

use std::collections::BTreeMap;

use super::{Transfer, lasting};
use crate::distill::Recipe;
use crate::evaluate::{Comparison, Halves, Outcome, Verdict};
use crate::pipeline::advice::{Facts, expectation};
use crate::pipeline::job::{Job, Session, once};
use crate::pipeline::judging::Arms;
use crate::pipeline::rounds::Samples;
use crate::pipeline::teaching::ObjectiveReport;
use crate::pipeline::{
    HeldOutScores, InputAudit, PipelineError, Stage, TransferReport, audit, card,
};
use crate::publish;
use crate::record::Pair;

/// What the stages found.
pub(super) struct Findings<'r> {
    pub samples: Samples,
    pub arms: Arms,
    /// The rows that agreement is of.
    pub held_out_rows: &'r [Pair],
    /// Agreement with the teacher.
    pub held_out: HeldOutScores,
    /// The rows of the gate set.
    pub rows: &'r [Pair],
    pub comparison: Comparison,
    pub halves: Halves,
    pub objective: ObjectiveReport,
    pub provenance: BTreeMap<String, String>,
    pub input_audit: InputAudit,
}

impl Transfer<'_> {
    fn report(
        &self,
        job: &Job<'_>,
        outcome: &Outcome,
        findings: &Findings<'_>,
    ) -> Result<TransferReport, PipelineError> {
        let Findings {
            samples,
            arms,
            rows,
            comparison,
            halves,
            ..
        } = findings;
        let teacher = samples.teacher.as_ref().map(|teacher| &teacher.arm);
        let outputs = &self.outputs;
        let [adapter, report, page] = if comparison.verdict == Verdict::Accept {
            [&outputs.adapter, &outputs.report, &outputs.page]
        } else {
            [
                &outputs.rejected,
                &outputs.rejected_report,
                &outputs.rejected_page,
            ]
        };
        let held_out = findings.held_out.clone();
        let forecast = held_out.forecast(&findings.samples.coverage, &findings.samples.answers);
        let judged = (comparison, halves);
        let scores = arms.scores(judged, rows, teacher, held_out, self.plan.run.seed)?;
        let mut report = TransferReport {
            verdict: comparison.verdict,
            forecast,
            expectation: expectation(&scores.gate, &forecast),
            advice: Vec::new(),
            adapter: adapter.clone(),
            report: report.clone(),
            page: page.clone(),
            scores,
            flips: arms.flips(rows),
            confusion: arms.confusion(),
            counts: samples.counts.clone(),
            rounds: samples.rounds.clone(),
            inputs: samples.shown.clone(),
            traffic: self
                .data
                .traffic
                .as_ref()
                .map(|traffic| traffic.report(arms, findings.held_out_rows, samples.asked)),
            coverage: samples.coverage.clone(),
            input_audit: findings.input_audit.clone(),
            output_audit: None,
            seconds: job.seconds.clone(),
            peak_bytes: job.peak_bytes.clone(),
            fit: outcome.trained().report().clone(),
            objective: findings.objective.clone(),
            provenance: findings.provenance.clone(),
            plan: lasting(&self.announced),
        };
        report.advice = Facts::of(&report, self.plan).advice();
        Ok(report)
    }

    /// Write the adapter, look at it once more, and give all files their names.
    pub(super) fn publish(
        &self,
        job: &mut Job<'_>,
        outcome: &Outcome,
        findings: &Findings<'_>,
    ) -> Result<TransferReport, PipelineError> {
        let mut report = self.report(job, outcome, findings)?;
        if let Some(text) = &report.expectation {
            job.context.events.warn(Stage::Evaluate, text.clone());
        }
        let scores = serde_json::to_string(&report.scores).unwrap_or_default();
        let verdict = report.verdict.name().to_owned();
        let metadata = [
            ("translora.verdict".to_owned(), verdict),
            ("translora.scores".to_owned(), scores),
        ];
        let (context, now) = (job.context, job.now);
        let (_, seconds) = once(context, Stage::Publish, |monitor| {
            monitor.tick(0, 1)?;
            let staged = match outcome {
                Outcome::Passed(passed) => {
                    Some(publish::adapter(passed, &metadata, &report.adapter)?)
                }
                Outcome::Refused(_) => None,
            };
            if let Some(staged) = &staged {
                let mut fresh = Session::new(
                    self.engine,
                    &self.plan.target,
                    &self.plan.machine,
                    vec![staged.temporary().to_owned()],
                )
                .at(now);
                let (model, adapters) = audit::reopened(&report.adapter, fresh.get())?;
                let (probes, judged) =
                    (outcome.trained().probes(), (&findings.arms, findings.rows));
                report.output_audit =
                    Some(audit::output(model, adapters[0], probes, judged, monitor)?);
            }
            self.write_reports(job, &report)?;
            // The adapter last: where it lies, everything lies.
            match (staged, outcome) {
                (Some(staged), _) => staged.publish()?,
                (None, Outcome::Refused(trained)) => {
                    publish::unjudged(trained.adapter(), &metadata, &report.adapter)?;
                }
                (None, Outcome::Passed(_)) => {}
            }
            Ok(((), report.adapter.display().to_string()))
        })?;
        report.seconds.insert(Stage::Publish.name().into(), seconds);
        Ok(report)
    }

    fn write_reports(
        &self,
        job: &mut Job<'_>,
        report: &TransferReport,
    ) -> Result<(), PipelineError> {
        let json = serde_json::to_string_pretty(report).unwrap_or_default() + "\n";
        let json = job.settle("report", json)?;
        let page = publish::page(&card::page(report, &self.plan.target));
        let page = job.settle("page", page)?;
        publish::write_new(&report.report, json.as_bytes())?;
        publish::write_new(&report.page, page.as_bytes())?;
        Ok(())
    }

    /// What decides the bytes of the adapter, for its header and its report.
    pub(super) fn provenance(
        &self,
        recipe: &Recipe,
        filter: &str,
        objective: &ObjectiveReport,
    ) -> BTreeMap<String, String> {
        let mut all = BTreeMap::from([
            ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("engine".to_owned(), self.engine.version()),
            ("seed".to_owned(), self.plan.run.seed.to_string()),
            ("filter".to_owned(), filter.to_owned()),
            (
                "objective".to_owned(),
                objective.objective.name().to_owned(),
            ),
            (
                "recipe".to_owned(),
                serde_json::to_string(recipe).unwrap_or_default(),
            ),
        ]);
        all.extend(
            self.data
                .hashes
                .iter()
                .map(|(name, hash)| (format!("{name}.sha256"), hash.to_string())),
        );
        all
    }
}
