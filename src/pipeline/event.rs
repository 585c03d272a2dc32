//! What a running job says. The pipeline sends; a door (command line, ABI, HTTP) reads.

use serde::{Deserialize, Serialize};

/// A part of a job, in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Models are opened and inputs checked.
    Open,
    /// A kit is read, or its discriminator made.
    Kit,
    /// Inputs are generated.
    Generate,
    /// Inputs are checked and judged.
    Filter,
    /// The teacher answers them.
    Label,
    /// An adapter is fitted.
    Distill,
    /// Models answer rows, and the gate decides.
    Evaluate,
    /// Files are written.
    Publish,
}

impl Stage {
    /// As events and reports have it.
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

/// What a running job says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// The resolved plan and seed, before any work.
    Plan {
        /// The command, such as `transfer`.
        command: String,
        /// The plan, as JSON.
        plan: serde_json::Value,
    },
    /// A stage began.
    StageStarted {
        /// Which.
        stage: Stage,
    },
    /// Progress inside a stage; may be dropped when nobody reads.
    Progress {
        /// Which stage.
        stage: Stage,
        /// How much is done.
        done: u64,
        /// How much there is; 0 where that is not known.
        total: u64,
        /// What the numbers count, or more on it; may be empty.
        note: String,
    },
    /// A stage ended.
    StageDone {
        /// Which.
        stage: Stage,
        /// How long it took.
        seconds: f64,
        /// What it came to, in a sentence.
        summary: String,
    },
    /// A stage whose result was found in the journal.
    StageResumed {
        /// Which stage.
        stage: Stage,
        /// What it came to then.
        summary: String,
    },
    /// Something to know.
    Note {
        /// Where.
        stage: Stage,
        /// A sentence.
        text: String,
    },
    /// What few want to know: for `--verbose`.
    Detail {
        /// Where.
        stage: Stage,
        /// A sentence.
        text: String,
    },
    /// Something that may be wrong.
    Warning {
        /// Where.
        stage: Stage,
        /// A sentence.
        text: String,
    },
}
