//! What a running job looks like on standard error: bars on a terminal, a line every few seconds
//! elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use translora::pipeline::{Event, Stage};
use translora::record::Clock;
use translora::request::{self, Kind};

use crate::out;

/// Time between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Width of a stage's name, the longest of which is `generate`.
const NAME: usize = 9;

/// How much is shown.
#[derive(Clone, Copy, Debug)]
pub struct Verbosity {
    pub quiet: bool,
    pub json: bool,
    pub verbose: bool,
}

/// Shows the events of one job.
pub struct Screen<'a> {
    verbosity: Verbosity,
    clock: &'a dyn Clock,
    bar: Option<ProgressBar>,
    lines: Lines,
}

/// Where plain progress stands.
#[derive(Default)]
struct Lines {
    stage: Option<Stage>,
    /// When the first progress of the stage came, and how far it was: a resumed stage does not
    /// begin at nothing.
    began: Option<(Duration, u64)>,
    printed: Duration,
}

impl<'a> Screen<'a> {
    pub fn new(verbosity: Verbosity, clock: &'a dyn Clock) -> Self {
        Self {
            verbosity,
            clock,
            bar: None,
            lines: Lines::default(),
        }
    }

    pub fn show(&mut self, event: Event) {
        match event {
            Event::Warning { text, .. } => self.line(&format!("warning: {text}")),
            _ if self.verbosity.quiet => {}
            Event::Plan { command, plan } => {
                self.line(&format!("translora {command}"));
                let rows = match request::rows_of(&command) {
                    Some(rows) if !self.verbosity.verbose => brief(&rows, &plan),
                    _ => out::rows(&plan),
                };
                out::columns(&rows).iter().for_each(|line| self.line(line));
            }
            Event::StageStarted { stage } => self.start(stage),
            Event::Progress {
                stage,
                done,
                total,
                note,
            } => self.progress(stage, done, total, &note),
            Event::StageDone {
                stage,
                seconds,
                summary,
            } => {
                self.stop();
                self.line(&format!(
                    "{:NAME$} {:>8}  {summary}",
                    stage.name(),
                    out::seconds(seconds)
                ));
            }
            Event::StageResumed { stage, summary } => {
                self.stop();
                self.line(&format!(
                    "{:NAME$} {:>8}  {summary}",
                    stage.name(),
                    "resumed"
                ));
            }
            Event::Detail { .. } if !self.verbosity.verbose => {}
            Event::Note { stage, text } | Event::Detail { stage, text } => {
                self.line(&format!("{:NAME$} {text}", stage.name()));
            }
        }
    }

    /// Say a line without tearing a bar.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| out::say(text)),
            None => out::say(text),
        }
    }

    /// Take the bar away; also at the end of a job that failed in the middle.
    pub fn stop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn start(&mut self, stage: Stage) {
        self.stop();
        if std::io::stderr().is_terminal() && !self.verbosity.json {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_prefix(stage.name());
            bar.set_style(spinner_style());
            bar.enable_steady_tick(Duration::from_millis(120));
            self.bar = Some(bar);
        } else {
            self.lines = Lines {
                stage: Some(stage),
                began: None,
                printed: self.clock.elapsed(),
            };
        }
    }

    fn progress(&mut self, stage: Stage, done: u64, total: u64, note: &str) {
        if let Some(bar) = &self.bar {
            if bar.length() != Some(total) && total > 0 {
                bar.set_style(bar_style());
                bar.set_length(total);
            }
            bar.set_position(done);
            bar.set_message(note.to_owned());
        } else if let Some(line) =
            self.lines
                .progress(self.clock.elapsed(), stage, done, total, note)
        {
            self.line(&line);
        }
    }
}

/// A plan in a few lines: its files, what differs from the defaults, the seed, the output.
fn brief(rows: &request::Rows, plan: &Value) -> Vec<(String, String)> {
    let (mut files, mut settings, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for (field, default) in rows {
        let value = &plan[field.name];
        let row = (field.name.replace('_', " "), request::text(value));
        match (field.name, field.kind) {
            ("seed" | "out", _) => last.push(row),
            _ if value == default => {}
            (_, Kind::Path) => files.push(row),
            (_, Kind::Switch) => settings.push(row.0),
            _ => settings.push(format!("{} {}", row.0, row.1)),
        }
    }
    settings.push("the rest by default (--verbose lists it)".into());
    files.push(("settings".into(), settings.join(", ")));
    files.extend(last);
    files
}

impl Lines {
    /// The line to print now, if one is due.
    fn progress(
        &mut self,
        now: Duration,
        stage: Stage,
        done: u64,
        total: u64,
        note: &str,
    ) -> Option<String> {
        if self.stage != Some(stage) {
            *self = Self {
                stage: Some(stage),
                began: None,
                printed: now,
            };
        }
        let (began, first) = *self.began.get_or_insert((now, done));
        if now.saturating_sub(self.printed) < LINE_EVERY {
            return None;
        }
        self.printed = now;
        let share = (100 * done).checked_div(total).unwrap_or(0);
        let left = match done.checked_sub(first) {
            Some(n) if n > 0 && total >= done => {
                now.saturating_sub(began).as_secs_f64() / n as f64 * (total - done) as f64
            }
            _ => f64::INFINITY,
        };
        let eta = if left.is_finite() {
            out::seconds(left)
        } else {
            "?".into()
        };
        Some(
            format!(
                "{:NAME$} {done}/{total}  {share}%  eta {eta}  {note}",
                stage.name()
            )
            .trim_end()
            .to_owned(),
        )
    }
}

fn bar_style() -> ProgressStyle {
    let style =
        ProgressStyle::with_template("{prefix:9} [{bar:30}] {pos}/{len}  eta {eta}  {wide_msg}");
    style
        .expect("a template of known fields")
        .progress_chars("=> ")
}

fn spinner_style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:9} {spinner} {elapsed}")
        .expect("a template of known fields")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_every_few_seconds_and_estimate_from_where_they_began() {
        let at = Duration::from_secs;
        let mut lines = Lines::default();
        assert_eq!(lines.progress(at(100), Stage::Label, 40, 100, ""), None);
        assert_eq!(lines.progress(at(104), Stage::Label, 45, 100, ""), None);
        let line = lines.progress(at(110), Stage::Label, 60, 100, "7 tokens/s");
        assert_eq!(
            line.as_deref(),
            Some("label     60/100  60%  eta 20 s  7 tokens/s")
        );
        assert_eq!(lines.progress(at(111), Stage::Label, 61, 100, ""), None);
        let line = lines.progress(at(116), Stage::Label, 0, 0, "");
        assert_eq!(line.as_deref(), Some("label     0/0  0%  eta ?"));
    }

    #[test]
    fn a_plan_is_shown_by_what_differs() {
        let rows = request::rows_of("train").expect("it has a request");
        let defaults = rows
            .iter()
            .map(|(field, default)| (field.name.to_owned(), default.clone()));
        let mut plan = Value::from(defaults.collect::<serde_json::Map<_, _>>());
        for (name, value) in [("model", "m.gguf"), ("data", "d.jsonl"), ("out", "l.gguf")] {
            plan[name] = value.into();
        }
        plan["rank"] = 8.into();
        plan["rslora"] = true.into();
        let expected = [
            ("model", "m.gguf"),
            ("data", "d.jsonl"),
            (
                "settings",
                "rank 8, rslora, the rest by default (--verbose lists it)",
            ),
            ("out", "l.gguf"),
            ("seed", "1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(brief(&rows, &plan), expected);
    }

    #[test]
    fn templates_are_valid() {
        bar_style();
        spinner_style();
    }
}
