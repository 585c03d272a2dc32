//! Run transfers for a host that goes on serving: a queue, one job at a time, each in a process of
//! its own.
//!
//! ggml ends the process on what it dislikes, so a job runs in a child, `translora worker`, which
//! speaks JSON lines over its pipes: niced, limited, killable, its memory returned whole. A host
//! that may not spawn says [`Isolation::Thread`]. A job that is killed at any moment ends as
//! failed, with a sentence; its journal lies beside the output, and the same request with `resume`
//! goes on from it.
//!
//! Refuses to know: stages, HTTP, sockets, C. Called by the plugin, the
//! command line (for the worker), `control` and hosts.

mod config;
mod entry;
mod error;
mod process;
mod protocol;
mod queue;
mod thread;
mod worker;

pub use config::{Config, Isolation};
pub use entry::{JobId, NumberedEvent, State, Status};
pub use error::{JobsError, Problem};
pub use queue::Jobs;
pub use worker::{Lost, Meter, work};
