//! What a running job says. The pipeline sends; a door (command line, ABI, HTTP) reads.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Open,
    Kit,
    Generate,
    Filter,
    Label,
    Distill,
    Evaluate,
    Publish,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Kit => "kit",
            Self::Generate => "generate",
            Self::Filter => "filter",
            Self::Label => "label",
            Self::Distill => "distill",
            Self::Evaluate => "evaluate",
            Self::Publish => "publish",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// The resolved plan and seed, before any work.
    Plan {
        command: String,
        plan: serde_json::Value,
    },
    StageStarted {
        stage: Stage,
    },
    /// Progress inside a stage; may be dropped when nobody reads.
    Progress {
        stage: Stage,
        done: u64,
        total: u64,
        note: String,
    },
    StageDone {
        stage: Stage,
        seconds: f64,
        summary: String,
    },
    /// A stage whose result was found in the journal.
    StageResumed {
        stage: Stage,
        summary: String,
    },
    Note {
        stage: Stage,
        text: String,
    },
    /// What few want to know: for `--verbose`.
    Detail {
        stage: Stage,
        text: String,
    },
    Warning {
        stage: Stage,
        text: String,
    },
}
