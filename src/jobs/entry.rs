//! The state of one job: number, progress, events, result.

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

static NEXT: AtomicU64 = AtomicU64::new(1);

/// The number of a job. None is used twice in a process, so a stale one is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(u64);

impl JobId {
    pub(super) fn fresh() -> Self {
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Give no number up to `last` to a job: an earlier process did.
    pub fn skip(last: u64) {
        NEXT.fetch_max(last.saturating_add(1), Ordering::Relaxed);
    }

    /// The plain number, as JSON and the C ABI have it.
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
    /// In the queue, behind others or about to start.
    Waiting,
    /// A worker or a thread runs it.
    Running,
    /// It has a report. Whether the adapter was accepted is its verdict.
    Done,
    /// It ended without a report; the problem says why.
    Failed,
    /// Somebody stopped it before its end.
    Cancelled,
}

impl State {
    /// True for a job that will not change any more.
    pub fn is_end(self) -> bool {
        !matches!(self, Self::Waiting | Self::Running)
    }

    /// The state as JSON writes it, such as `waiting`.
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
    /// The number that every other call takes.
    pub id: JobId,
    /// Waiting, running, or how it ended.
    pub state: State,
    /// Jobs that come before it.
    pub ahead: usize,
    /// The stage of the pipeline that runs; none before the first.
    pub stage: Option<Stage>,
    /// Items of the stage that are finished, of `total`. units: what the stage counts
    pub done: u64,
    /// Items of the stage; 0 where their number is not known.
    pub total: u64,
    /// More about the present stage, for people; may be empty.
    pub note: String,
    /// The old base model, which the adapter was trained for.
    pub source: PathBuf,
    /// The new base model.
    pub target: PathBuf,
    /// The adapter file of the request.
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
    /// When it came into the queue. units: seconds since 1970
    pub queued_at: u64,
    /// When it left the queue; none while it waits. units: seconds since 1970
    pub began_at: Option<u64>,
    /// When it ended; none before. units: seconds since 1970
    pub ended_at: Option<u64>,
}

/// An event with its number, from 1 without gaps; progress that newer progress of its stage
/// replaced is left out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NumberedEvent {
    /// What `after` of [`super::Jobs::events`] is compared with.
    pub number: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// How a running job is stopped from another thread.
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

    pub fn request(&self) {
        self.flag.cancel();
        // A full channel was rung already.
        _ = self.ring.try_send(());
    }
}

/// How a job ended.
pub(super) enum End {
    Done(serde_json::Value),
    Failed(Problem),
}

/// One job.
pub(super) struct Entry {
    pub plan: TransferPlan,
    pub status: Status,
    pub events: VecDeque<NumberedEvent>,
    pub report: Option<serde_json::Value>,
    pub stop: Stop,
    /// It was freed: no call finds it any more.
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
            queued_at: now,
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
    pub fn push(&mut self, event: Event, events_max: usize) {
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
                let replaces = |last: &NumberedEvent| matches!(&last.event, Event::Progress { stage: before, .. } if before == stage);
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
        self.events.push_back(NumberedEvent {
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
