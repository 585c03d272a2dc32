use std::path::PathBuf;

use clap::Args;
use translora::pipeline;

use crate::failure::Failure;
use crate::progress::Talk;
use crate::{Outcome, out};

/// Say what a file is: an adapter, a kit or a model, and what it fits
///
/// Reads the file's header and hash; loads no model.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  translora inspect tickets.kit")]
pub struct Inspect {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Inspect {
    pub fn run(self, talk: Talk) -> Result<Outcome, Failure> {
        let found = pipeline::inspect(&self.file)?;
        let object = serde_json::to_value(&found).map_err(|error| Failure::Bug(format!("a report is not JSON: {error}")))?;
        let mut rows = out::rows(&object);
        rows.sort_by_key(|(name, _)| !matches!(name.as_str(), "what" | "path"));
        out::data(&if talk.json { object.to_string() } else { out::columns(&rows).join("\n") })?;
        Ok(Outcome::Done)
    }
}
