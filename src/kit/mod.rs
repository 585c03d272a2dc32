//! Read every input, strictly; open, check and pack kits.
//!
//! A kit is one file that stands beside a source adapter: seed inputs, a discriminator and a manifest that names the base and
//! the adapter by hash. Inputs are untrusted: what breaks a rule is refused by path and line, with a hint.
//!
//! Refuses to know: models, stages, where outputs go. Called by the pipeline; `generate` imports [`Seed`].

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::record::{ContentHash, Limits, Pair, Rng};

mod discriminator;
mod error;
mod file;
mod rows;

pub use discriminator::{DiscriminatorData, discriminator_data};
pub use error::{KitError, LineFault};
pub use file::{DiscriminatorCard, Kit, Manifest, is_kit, pack};
pub use rows::{Completion, read_rows};

/// An input of the lost data set, as somebody gave it: what generation starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed(String);

impl Seed {
    fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    #[cfg(test)]
    pub(crate) fn replay(text: String) -> Self {
        Self(text)
    }
}

/// Read seed inputs that all differ.
pub fn read_seeds(path: &Path, limits: &Limits) -> Result<Vec<Seed>, KitError> {
    let rows = read_rows(path, Completion::Optional, limits)?;
    rows::check_distinct(path, &rows)?;
    Ok(rows.iter().map(|row| Seed::new(&row.prompt)).collect())
}

/// Choose `count` distinct inputs of a data set at random; `path` is for the error.
pub fn choose_seeds(path: &Path, rows: &[Pair], count: usize, rng: &mut Rng) -> Result<Vec<Seed>, KitError> {
    let mut seeds: Vec<Seed> = rows.iter().map(|row| Seed::new(&row.prompt)).collect();
    seeds.sort_by(|a, b| a.0.cmp(&b.0));
    seeds.dedup();
    if seeds.len() < count.max(1) {
        return Err(KitError::TooFewRows { path: path.to_owned(), distinct: seeds.len(), needed: count.max(1) });
    }
    rng.shuffle(&mut seeds);
    seeds.truncate(count.max(1));
    Ok(seeds)
}

/// Hash a file without holding it.
pub fn hash_file(path: &Path) -> Result<ContentHash, KitError> {
    let io = |source| KitError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let chunks = std::iter::from_fn(|| {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        match file.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk) {
            Ok(0) => None,
            Ok(_) => Some(Ok(chunk)),
            Err(error) => Some(Err(error)),
        }
    });
    ContentHash::of_chunks(chunks).map_err(io)
}

const CHUNK_BYTES: usize = 1 << 20;

/// Read a whole file of at most `bytes_max` bytes.
pub fn read_bytes(path: &Path, bytes_max: u64) -> Result<Vec<u8>, KitError> {
    let io = |source| KitError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    let too_large = |bytes| KitError::TooLarge { path: path.to_owned(), bytes, bytes_max };
    if bytes > bytes_max {
        return Err(too_large(bytes));
    }
    let mut content = Vec::with_capacity(bytes as usize);
    file.take(bytes_max + 1).read_to_end(&mut content).map_err(io)?;
    if content.len() as u64 > bytes_max { Err(too_large(content.len() as u64)) } else { Ok(content) }
}
