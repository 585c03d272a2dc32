use std::io;

use clap::Args;
use translora::jobs;

use crate::Outcome;
use crate::failure::Failure;

/// Carry out one job for a host: an order on standard input, what happens as JSON lines on standard output
///
/// Started by the plugin and by `translora serve`, not by people. It ends with its standard input.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  translora worker < order.json")]
pub struct Worker {}

impl Worker {
    pub fn run(self) -> Result<Outcome, Failure> {
        let Self {} = self;
        jobs::work(io::BufReader::new(io::stdin()), io::stdout().lock()).map_err(|lost| Failure::Bug(lost.to_string()))?;
        Ok(Outcome::Done)
    }
}
