use clap::Args;
use translora::jobs;
use translora::record::Cancel;

use crate::failure::Failure;
use crate::{Outcome, job};

/// Carry out one job for a host: an order on standard input, what happens as JSON lines on standard
/// output
///
/// Started by the plugin and by `translora serve`, not by people. It ends with its standard input,
/// and stops at a safe point on SIGINT and SIGTERM.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  translora worker < order.json")]
pub struct Worker {}

impl Worker {
    pub fn run(self) -> Result<Outcome, Failure> {
        let Self {} = self;
        translora_abi::close_inherited_files();
        let cancel = Cancel::default();
        // Held to the end: it is what hears signals.
        let mut heard = None;
        let worked = jobs::work(&cancel, || heard = Some(job::listen(cancel.clone())));
        worked.map_err(|lost| Failure::Bug(lost.to_string()))?;
        heard.transpose()?;
        Ok(Outcome::Done)
    }
}
