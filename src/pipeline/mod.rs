//! Plan, run, resume: the only room that sees every stage.
//!
//! Each command is a function of an engine, a plan and a [`Context`]. A job says its plan first,
//! then what it does, as [`Event`]s. What it has done it keeps in a journal beside the output, so
//! that a run that was stopped goes on with `resume` and ends in the same bytes. Two models are
//! never open at once.
//!
//! Refuses to know: terminals, sockets, C. Called by the doors: the command line and the plugin.
//!
//! ```
//! use translora::engine::toy::{Toy, world};
//! use translora::pipeline::{self, Context, Events};
//! use translora::record::{Cancel, SystemClock};
//! use translora::request::{Request, Train};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = std::env::temp_dir().join(format!("translora-example-{}", std::process::id()));
//! std::fs::create_dir_all(&folder)?;
//! let [base, data, out] = ["base.json", "rows.jsonl", "new.gguf"].map(|name| folder.join(name));
//! std::fs::write(&base, serde_json::to_vec(&world::old_base())?)?;
//! let rows = world::rows(40, 1);
//! let rows: Vec<String> = rows.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
//! std::fs::write(&data, rows.join("\n"))?;
//!
//! // A request becomes a plan when its fields are within their bounds.
//! let plan = Train { model: base, data, out, ..Train::default() }.plan()?;
//! let (events, receiver) = Events::channel(100);
//! let context = Context { cancel: Cancel::default(), events, clock: &SystemClock::default() };
//! let report = pipeline::train(&Toy, &plan, &context)?;
//! assert_eq!(report.examples, 40);
//! assert!(report.loss_last < report.loss_first);
//! // The plan is said first.
//! assert!(matches!(receiver.recv()?, pipeline::Event::Plan { .. }));
//! # std::fs::remove_dir_all(folder)?;
//! # Ok(())
//! # }
//! ```

mod advice;
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
mod traffic;
mod train;
mod transfer;

pub use crate::evaluate::{Equivalence, Forecast, Outlook, Retention, Verdict};
pub use advice::Advice;
pub use audit::{InputAudit, OutputAudit};
pub use context::{Context, Events};
pub use error::PipelineError;
pub use event::{Event, Stage};
pub use exchange::{ExchangeReport, MergeCost, MergeReport, export, import, merge};
pub use inspect::{
    AdapterCard, Against, ForeignCard, Inspection, KitCard, ModelCard, inspect, inspect_against,
};
pub use journal::{JournalError, discard, is_unfinished, sweep};
pub use kit::kit;
pub use plan::{EvalPlan, KitPlan, TrainPlan, TransferPlan};
pub use report::{
    ArmScore, Confusion, EvalReport, Flip, GeneratedInput, HeldOutScores, KitReport, ReportHalf,
    RoundCounts, Scores, TrafficReport, TrainReport, TransferReport,
};
pub use teaching::{Divergences, ObjectiveReport};
pub use train::{eval, train};
pub use transfer::transfer;
