//! Read every input, strictly; open, check and pack kits.
//!
//! A kit is one file that stands beside a source adapter: seed inputs, a discriminator and a
//! manifest that names the base and the adapter by hash. Inputs are untrusted: what breaks a rule
//! is refused by path and line, with a hint.
//!
//! Refuses to know: models, stages, where outputs go. Called by the pipeline; `generate` imports
//! [`Seed`].

use std::fs::File;
use std::io::Read;
use std::path::Path;

use translora_gguf::Header;

use crate::record::{ContentHash, Limits};

mod discriminator;
mod error;
mod file;
mod rows;
mod seeds;
mod statistics;

pub use discriminator::{Calibration, DiscriminatorData, auc, calibrate, discriminator_data};
pub use error::{KitError, LineFault};
pub use file::{DiscriminatorCard, InputModelCard, Kit, Manifest, is_kit, pack};
pub use rows::{Completion, read_rows};
pub use seeds::choose_seeds;
pub use statistics::InputStatistics;

/// An input of the lost data set: what generation starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed(String);

impl Seed {
    fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    /// A seed for the tests of other rooms.
    #[cfg(test)]
    pub(crate) fn example(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Read seed inputs that all differ.
pub fn read_seeds(path: &Path, limits: &Limits) -> Result<Vec<Seed>, KitError> {
    let rows = read_rows(path, Completion::Optional, limits)?;
    rows::check_distinct(path, &rows)?;
    Ok(rows.iter().map(|row| Seed::new(&row.prompt)).collect())
}

/// Hash a file without holding it.
pub fn hash_file(path: &Path) -> Result<ContentHash, KitError> {
    let io = |source| KitError::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(io)?;
    let chunks = std::iter::from_fn(|| {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        match file
            .by_ref()
            .take(CHUNK_BYTES as u64)
            .read_to_end(&mut chunk)
        {
            Ok(0) => None,
            Ok(_) => Some(Ok(chunk)),
            Err(error) => Some(Err(error)),
        }
    });
    ContentHash::of_chunks(chunks).map_err(io)
}

const CHUNK_BYTES: usize = 1 << 20;

/// Read the header of a GGUF file and the file's size, without the tensor data.
///
/// bounds: `header_bytes_max`
pub fn read_header(path: &Path, limits: &Limits) -> Result<(Header, u64), KitError> {
    let io = |source| KitError::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    let mut start = Vec::new();
    loop {
        let more = (start.len() as u64)
            .max(CHUNK_BYTES as u64)
            .min(limits.header_bytes_max - start.len() as u64);
        let read = file
            .by_ref()
            .take(more)
            .read_to_end(&mut start)
            .map_err(io)? as u64;
        // A file that ends before its size says was cut while it was read.
        let bytes = if read < more {
            start.len() as u64
        } else {
            bytes.max(start.len() as u64)
        };
        match Header::parse(&start, bytes).map_err(|source| KitError::Gguf {
            path: path.to_owned(),
            source,
        })? {
            Some(header) => return Ok((header, bytes)),
            None if start.len() as u64 == limits.header_bytes_max => {
                return Err(KitError::LargeHeader {
                    path: path.to_owned(),
                    bytes_max: limits.header_bytes_max,
                });
            }
            None => {}
        }
    }
}

/// Read a whole file of at most `bytes_max` bytes.
pub fn read_bytes(path: &Path, bytes_max: u64) -> Result<Vec<u8>, KitError> {
    let io = |source| KitError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    let too_large = |bytes| KitError::TooLarge {
        path: path.to_owned(),
        bytes,
        bytes_max,
    };
    if bytes > bytes_max {
        return Err(too_large(bytes));
    }
    let mut content = Vec::with_capacity(bytes as usize);
    file.take(bytes_max + 1)
        .read_to_end(&mut content)
        .map_err(io)?;
    if content.len() as u64 > bytes_max {
        Err(too_large(content.len() as u64))
    } else {
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use translora_gguf::Writer;

    #[test]
    fn a_header_is_read_without_the_data_and_has_a_limit() {
        let path =
            std::env::temp_dir().join(format!("translora-header-{}.gguf", std::process::id()));
        let limits = |header_bytes_max| Limits {
            header_bytes_max,
            ..Limits::default()
        };
        let mut writer = Writer::new();
        writer.set(
            "tokens",
            (0..200_000)
                .map(|n| format!("token {n}"))
                .collect::<Vec<_>>(),
        );
        writer.tensor_f32("t", &[100_000], &vec![1.0; 100_000]);
        let file = writer.to_bytes().unwrap();
        std::fs::write(&path, &file).unwrap();
        let (header, bytes) = read_header(&path, &limits(8 << 20)).unwrap();
        assert_eq!((bytes, header.tensors().len()), (file.len() as u64, 1));
        let error = read_header(&path, &limits(3 << 20)).unwrap_err();
        assert!(
            matches!(error, KitError::LargeHeader { .. }) && error.hint().is_some(),
            "{error}"
        );
        std::fs::write(&path, &file[..file.len() - 1000]).unwrap();
        let error = read_header(&path, &limits(8 << 20)).unwrap_err();
        assert!(error.to_string().contains("truncated"), "{error}");
        std::fs::remove_file(path).unwrap();
    }
}
