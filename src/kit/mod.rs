//! Read every input, strictly; open, check and pack kits.
//!
//! A kit is one file that stands beside a source adapter: seed inputs, a discriminator and a
//! manifest that names the base and the adapter by hash. Inputs are untrusted: what breaks a rule
//! is refused by path and line, with a hint.
//!
//! Refuses to know: models, stages, where outputs go. Called by the pipeline; `generate` imports
//! [`Seed`].

use std::io::Read;
use std::path::Path;

use translora_gguf::limits::MODEL_HEADER_BYTES_MAX;
use translora_gguf::{FileError, Header, Parts, open_file, read_file};

use crate::record::{ContentHash, Limits, Prompt};

mod adapter;
mod discriminator;
mod error;
mod file;
mod harvest;
mod numbers;
mod rows;
mod seeds;
mod statistics;

pub use adapter::{
    AdapterFacts, ForeignFacts, adapter, adapter_bytes, dora_bytes, foreign, peft_files, teacher,
};
pub use discriminator::{Calibration, DiscriminatorData, auc, calibrate, discriminator_data};
pub use error::{KitError, LineFault};
pub use file::{DiscriminatorCard, InputModelCard, Kit, Manifest, is_kit, pack};
pub use harvest::{Harvest, Harvested, Heard, harvest};
pub use numbers::no_number;
pub use rows::{Completion, Foreign, Reading, Rows, read_rows};
pub use seeds::choose_seeds;
pub use statistics::InputStatistics;

/// An input of the lost data set: what generation starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed(Prompt);

impl Seed {
    fn new(prompt: &Prompt) -> Self {
        Self(Prompt::behind(&prompt.before, prompt.text.trim()))
    }

    /// The user's last turn, without white space around it.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The whole conversation.
    pub fn prompt(&self) -> &Prompt {
        &self.0
    }

    /// A seed for the tests of other rooms.
    #[cfg(test)]
    pub(crate) fn example(prompt: impl Into<Prompt>) -> Self {
        Self(prompt.into())
    }
}

/// Read seed inputs that all differ. Returns the rows that they stand in, too.
///
/// fails: as [`read_rows`], and where two are the same
pub fn read_seeds(path: &Path, reading: &Reading<'_>) -> Result<(Vec<Seed>, Rows), KitError> {
    let rows = read_rows(path, reading)?;
    rows::check_distinct(path, &rows)?;
    let seeds = rows.pairs.iter().map(|row| Seed::new(&row.prompt));
    Ok((seeds.collect(), rows))
}

/// Hash a file without holding it; of a split model all parts, one behind another.
pub fn hash_file(path: &Path) -> Result<ContentHash, KitError> {
    let files = Parts::files(path, MODEL_HEADER_BYTES_MAX);
    let files = files.map_err(|error| KitError::of_file(path, error))?;
    ContentHash::of_chunks(files.iter().flat_map(|path| {
        let refuse = |error| KitError::of_file(path, error);
        chunks(path).map(move |chunk| chunk.map_err(refuse))
    }))
}

/// The bytes of a file, piece by piece; an error is the last of them.
fn chunks(path: &Path) -> impl Iterator<Item = Result<Vec<u8>, FileError>> {
    let mut file = Some(open_file(path).map(|(file, _)| file));
    std::iter::from_fn(move || {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let read = match file.take()? {
            Ok(open) => {
                let read = (&open).take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
                file = Some(Ok(open));
                read.map_err(FileError::from)
            }
            Err(error) => Err(error),
        };
        match read {
            Ok(0) => None,
            Ok(_) => Some(Ok(chunk)),
            Err(error) => {
                file = None;
                Some(Err(error))
            }
        }
    })
}

const CHUNK_BYTES: usize = 1 << 20;

/// Read the header of a GGUF file and the file's size, without the tensor data.
///
/// bounds: `header_bytes_max`
pub fn read_header(path: &Path, limits: &Limits) -> Result<(Header, u64), KitError> {
    Header::open(path, limits.header_bytes_max).map_err(|error| KitError::of_file(path, error))
}

/// Read the header of a GGUF file, of a split model those of all parts.
///
/// bounds: `header_bytes_max` for each file
pub fn read_parts(path: &Path, limits: &Limits) -> Result<Parts, KitError> {
    Parts::open(path, limits.header_bytes_max).map_err(|error| KitError::of_file(path, error))
}

/// Read a whole file of at most `bytes_max` bytes.
pub fn read_bytes(path: &Path, bytes_max: u64) -> Result<Vec<u8>, KitError> {
    read_file(path, bytes_max).map_err(|error| KitError::of_file(path, error))
}
