use clap::Args;
use translora::jobs;

use crate::Outcome;
use crate::failure::Failure;

/// Carry out one job for a host: an order on standard input, what happens as JSON lines on standard
/// output
///
/// Started by the plugin and by `translora serve`, not by people. It ends with its standard input.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  translora worker < order.json")]
pub struct Worker {}

impl Worker {
    pub fn run(self) -> Result<Outcome, Failure> {
        let Self {} = self;
        translora_abi::close_inherited_files();
        jobs::work().map_err(|lost| Failure::Bug(lost.to_string()))?;
        Ok(Outcome::Done)
    }
}
