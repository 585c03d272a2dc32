//! Plan, run, resume: the only room that sees every stage.
//!
//! Each command is a function of an engine, a plan and a [`Context`]. A job says its plan first,
//! then what it does, as [`Event`]s. What it has done it keeps in a journal beside the output, so
//! that a run that was stopped goes on with `resume` and ends in the same bytes. Two models are
//! never open at once.
//!
//! Refuses to know: terminals, sockets, C. Called by the doors: the command line and the plugin.

mod audit;
mod card;
mod context;
mod error;
mod event;
mod exchange;
mod inputs;
mod inspect;
mod job;
mod journal;
mod judging;
mod kit;
mod plan;
mod report;
mod rounds;
mod teaching;
mod train;
mod transfer;

pub use crate::evaluate::{Equivalence, Retention, Verdict};
pub use audit::{InputAudit, OutputAudit};
pub use context::{Context, Events};
pub use error::PipelineError;
pub use event::{Event, Stage};
pub use exchange::{ExchangeReport, MergeReport, export, import, merge};
pub use inspect::{AdapterCard, Inspection, KitCard, ModelCard, inspect};
pub use journal::JournalError;
pub use kit::kit;
pub use plan::{EvalPlan, KitPlan, TrainPlan, TransferPlan};
pub use report::{
    ArmScore, Confusion, EvalReport, Flip, GeneratedInput, KitReport, ReportHalf, RoundCounts,
    Scores, TrainReport, TransferReport,
};
pub use teaching::{Divergences, ObjectiveReport};
pub use train::{eval, train};
pub use transfer::transfer;
