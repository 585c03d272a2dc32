//! `translora bench`: what this machine does with a model of yours.

use std::time::Duration;

use clap::{Args, Subcommand};
use translora::record::Clock;

use crate::Outcome;
use crate::failure::Failure;
use crate::progress::Verbosity;

mod client;
mod generate;
mod swap;
mod train;
mod watch;

/// Measure this machine on a model of yours
#[derive(Args, Debug)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    Train(train::Train),
    Generate(generate::Generate),
    Swap(swap::Swap),
}

impl Bench {
    pub fn run(self, verbosity: Verbosity) -> Result<Outcome, Failure> {
        match self.what {
            What::Train(train) => train.run(verbosity),
            What::Generate(generate) => generate.run(verbosity),
            What::Swap(swap) => swap.run(verbosity),
        }
    }
}

/// The time that all threads of this process computed, where the system tells.
struct Processor;

impl Processor {
    /// It, where it can be read.
    fn known() -> Option<&'static dyn Clock> {
        Self::read().map(|_| &Self as &dyn Clock)
    }

    /// source: proc(5): user time and system time stand twelve and thirteen fields behind the name,
    /// in hundredths of a second
    fn read() -> Option<Duration> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let mut next = || fields.next()?.parse::<u64>().ok();
        Some(Duration::from_millis(10 * (next()? + next()?)))
    }
}

impl Clock for Processor {
    fn elapsed(&self) -> Duration {
        Self::read().unwrap_or_default()
    }

    fn unix_seconds(&self) -> u64 {
        0
    }
}

/// The middle one, or what lies between the two. units: those of `values`
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count => f64::midpoint(sorted[(count - 1) / 2], sorted[count / 2]),
    }
}
