//! The C-shaped door: verbs of the ABI in, pipeline commands out, room errors as ABI codes.
//!
//! Knows no stage. Only the export line in `lib.rs` may name it; a host reaches it through `translora.h`.

use std::path::Path;

use translora_abi::{Failure, Plugin, Status};

use crate::engine::Fault;
use crate::pipeline::{self, PipelineError};

/// One instance of the plugin.
pub struct Door;

impl Plugin for Door {
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const ENGINE: &'static str = if cfg!(feature = "ggml") { "ggml" } else { "toy" };

    fn create() -> Result<Self, Failure> {
        Ok(Self)
    }

    fn inspect(&self, path: &str) -> Result<String, Failure> {
        let found = pipeline::inspect(Path::new(path)).map_err(|error| failure(&error))?;
        serde_json::to_string(&found).map_err(|error| Failure::new(Status::Internal, error.to_string()))
    }
}

/// The one table from room errors to ABI codes.
fn failure(error: &PipelineError) -> Failure {
    let status = match (error, error.fault()) {
        (PipelineError::Cancelled, _) => Status::Cancelled,
        (_, Fault::Input) => Status::Input,
        (_, Fault::Machine) => Status::Machine,
        (_, Fault::Bug) => Status::Internal,
    };
    Failure { hint: error.hint().unwrap_or_default(), ..Failure::new(status, error.to_string()) }
}
