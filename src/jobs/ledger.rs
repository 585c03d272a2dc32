//! What is known of each job.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};

use super::Problem;
use crate::pipeline::{Event, Stage, TransferPlan, Verdict};
use crate::record::{Cancel, Fault};

/// The number of a job. None is used twice in a process, so a stale one is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(u64);

impl JobId {
    pub(super) fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    pub fn number(self) -> u64 {
        self.0
    }
}

impl From<u64> for JobId {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Waiting,
    Running,
    /// It has a report. Whether the adapter was accepted is its verdict.
    Done,
    Failed,
    Cancelled,
}

impl State {
    pub fn is_end(self) -> bool {
        !matches!(self, Self::Waiting | Self::Running)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What is known of a job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    pub id: JobId,
    pub state: State,
    /// Jobs that come before it.
    pub ahead: usize,
    /// Where it is, and how far there.
    pub stage: Option<Stage>,
    pub done: u64,
    pub total: u64,
    pub note: String,
    pub source: PathBuf,
    pub target: PathBuf,
    /// The adapter that was asked for.
    pub out: PathBuf,
    /// Of a job that is done.
    pub verdict: Option<Verdict>,
    /// Where the adapter lies: as `out` says if it was accepted, else set aside.
    pub adapter: Option<PathBuf>,
    /// Of a job that failed or was cancelled.
    pub problem: Option<Problem>,
    /// The worker, while it runs.
    pub process: Option<u32>,
    /// The number of the last event; 0 before the first.
    pub last_event: u64,
    /// units: seconds since 1970
    pub asked_at: u64,
    pub began_at: Option<u64>,
    pub ended_at: Option<u64>,
}

/// An event with its number, from 1 without gaps; progress that newer progress of its stage
/// replaced is left out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Told {
    pub number: u64,
    #[serde(flatten)]
    pub event: Event,
}

/// How a running job is asked to stop.
#[derive(Clone)]
pub(super) struct Stop {
    pub flag: Cancel,
    ring: Sender<()>,
    pub bell: Receiver<()>,
}

impl Stop {
    fn new() -> Self {
        let (ring, bell) = bounded(1);
        Self {
            flag: Cancel::default(),
            ring,
            bell,
        }
    }

    pub fn ask(&self) {
        self.flag.cancel();
        // A full channel was told already.
        _ = self.ring.try_send(());
    }
}

/// What a job came to.
pub(super) enum End {
    Done(serde_json::Value),
    Failed(Problem),
}

/// One job.
pub(super) struct Entry {
    pub plan: TransferPlan,
    pub status: Status,
    pub events: VecDeque<Told>,
    pub report: Option<serde_json::Value>,
    pub stop: Stop,
    /// Nobody asks for it any more.
    pub freed: bool,
}

impl Entry {
    pub fn new(id: JobId, plan: TransferPlan, now: u64) -> Self {
        let status = Status {
            id,
            state: State::Waiting,
            ahead: 0,
            stage: None,
            done: 0,
            total: 0,
            note: String::new(),
            source: plan.source.clone(),
            target: plan.target.clone(),
            out: plan.out.clone(),
            verdict: None,
            adapter: None,
            problem: None,
            process: None,
            last_event: 0,
            asked_at: now,
            began_at: None,
            ended_at: None,
        };
        Self {
            plan,
            status,
            events: VecDeque::new(),
            report: None,
            stop: Stop::new(),
            freed: false,
        }
    }

    /// Remember an event.
    pub fn tell(&mut self, event: Event, events_max: usize) {
        match &event {
            Event::Progress {
                stage,
                done,
                total,
                note,
            } => {
                (self.status.stage, self.status.done, self.status.total) =
                    (Some(*stage), *done, *total);
                self.status.note.clone_from(note);
                let replaces = |last: &Told| matches!(&last.event, Event::Progress { stage: before, .. } if before == stage);
                if self.events.back().is_some_and(replaces) {
                    self.events.pop_back();
                }
            }
            Event::StageStarted { stage }
            | Event::StageDone { stage, .. }
            | Event::StageResumed { stage, .. } => {
                (self.status.stage, self.status.done, self.status.total) = (Some(*stage), 0, 0);
                self.status.note.clear();
            }
            Event::Plan { .. }
            | Event::Note { .. }
            | Event::Detail { .. }
            | Event::Warning { .. } => {}
        }
        self.status.last_event += 1;
        self.events.push_back(Told {
            number: self.status.last_event,
            event,
        });
        while self.events.len() > events_max.max(1) {
            self.events.pop_front();
        }
    }

    pub fn end(&mut self, end: End, now: u64) {
        self.status.process = None;
        self.status.ended_at = Some(now);
        match end {
            End::Done(report) => {
                self.status.state = State::Done;
                self.status.verdict = serde_json::from_value(report["verdict"].clone()).ok();
                self.status.adapter = report["adapter"].as_str().map(PathBuf::from);
                self.report = Some(report);
            }
            End::Failed(problem) => {
                let cancelled = problem.cause == Fault::Cancelled;
                self.status.state = if cancelled {
                    State::Cancelled
                } else {
                    State::Failed
                };
                self.status.problem = Some(problem);
            }
        }
    }
}
