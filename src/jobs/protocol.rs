//! What host and worker say to each other: one order in, lines out, each one JSON object on a line
//! of its own. The end of the worker's standard input stops it.

use serde::{Deserialize, Serialize};

use super::Problem;
use crate::pipeline::{Event, TransferPlan};

/// Goes up with every change here; host and worker must speak the same.
pub const PROTOCOL: u32 = 1;
/// The longest line. A plan holds a handful of paths, a report some hundred numbers.
pub const LINE_BYTES_MAX: u64 = 8 << 20;
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
pub const ENGINE: &str = if cfg!(feature = "ggml") {
    "ggml"
} else {
    "toy"
};

/// The first and only line to the worker.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    pub protocol: u32,
    pub plan: TransferPlan,
    pub nice: u8,
    /// A hard limit on what the worker may allocate. units: bytes
    pub memory: Option<u64>,
}

/// A line of the worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "line")]
pub enum Line {
    /// Comes first.
    Hello {
        protocol: u32,
        version: String,
        engine: String,
    },
    /// Comes whenever a second passes without another line.
    Alive,
    Event {
        event: Event,
    },
    /// The last line of a job that came to its end: what `translora transfer --json` prints.
    Done {
        report: serde_json::Value,
    },
    /// The last line of one that did not.
    Failed {
        problem: Problem,
    },
}
