//! The flags of servers that keep prompts.

use std::path::PathBuf;

use clap::Args;
use translora_harvest::Bounds;

use crate::args::between;

/// The longest time that a prompt may be kept.
const TTL_SECONDS_MAX: u64 = 3650 * 24 * 3600;

/// Whether prompts are kept, how many and how long.
#[derive(Args, Debug)]
pub struct Kept {
    /// Keep prompts in this folder, a sample for each adapter, for a later `transfer --harvest`. Only
    /// of requests that one adapter answers at full scale; nothing is kept without this flag
    #[arg(long, value_name = "DIR", help_heading = "Kept prompts")]
    harvest: Option<PathBuf>,

    /// Prompts of one adapter that are kept at most
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = between::<1, 100_000>, requires = "harvest", help_heading = "Kept prompts")]
    harvest_rows: usize,

    /// How long a prompt is kept: a number with s, m, h or d
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = duration, requires = "harvest", help_heading = "Kept prompts")]
    harvest_ttl: u64,
}

impl Kept {
    /// The folder and the bounds, where prompts are kept.
    pub fn bounds(self) -> Option<(PathBuf, Bounds)> {
        let bounds = Bounds {
            rows_max: self.harvest_rows,
            ttl_seconds: self.harvest_ttl,
            ..Bounds::default()
        };
        self.harvest.map(|folder| (folder, bounds))
    }
}

/// A time as a person writes it. units: seconds
fn duration(text: &str) -> Result<u64, String> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 24 * 3600)];
    let read = || {
        let (count, unit) = units
            .into_iter()
            .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
        count.parse::<u64>().ok()?.checked_mul(unit)
    };
    read()
        .filter(|seconds| (1..=TTL_SECONDS_MAX).contains(seconds))
        .ok_or_else(|| "must be a time such as 90m, 12h or 30d, from 1s to 3650d".into())
}
