use std::path::{Path, PathBuf};

use serde::Serialize;
use translora_lora::{Lora, limits};

use super::AdaptersError;
use crate::kit::{self, KitError};
use crate::record::ContentHash;

/// What adapters are checked against.
#[derive(Clone, Debug)]
pub struct Base {
    /// The file, the first one of a split model.
    pub path: PathBuf,
    /// Of the file.
    pub sha256: ContentHash,
    shapes: translora_lora::Base,
}

/// An adapter that fits a base.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checked {
    /// The adapter's file.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Of the file.
    pub sha256: ContentHash,
    /// The largest rank of its pairs.
    pub rank: u64,
    /// As the file has it: a pair counts with alpha / rank.
    pub alpha: f32,
    /// Matrices of the base that it adapts.
    pub matrices: usize,
    /// Whether it was made for this very file; none where it does not say.
    pub made_for_this_base: Option<bool>,
}

impl Base {
    /// Read a base model's header, of all its parts where it is split, and its hash.
    pub fn read(path: &Path) -> Result<Self, AdaptersError> {
        let shapes = translora_lora::Base::open(path);
        Ok(Self {
            path: path.to_owned(),
            sha256: kit::hash_file(path)?,
            shapes: shapes.map_err(|error| KitError::of_file(path, error))?,
        })
    }

    /// Such as `llama`.
    pub fn architecture(&self) -> &str {
        self.shapes.architecture()
    }
}

/// Find an adapter as a GGUF file for a base, wherever it came from.
///
/// fails: it cannot be read, or not be written as GGUF
pub fn gguf(base: &Base, path: &Path) -> Result<PathBuf, AdaptersError> {
    let found = kit::adapter(path, &base.path);
    found.map_err(|error| match error {
        KitError::Adapter { path, source } => AdaptersError::Adapter { path, source },
        error => error.into(),
    })
}

/// Read an adapter whole, and check that it is sound and fits. What lies in `path` of the answer is
/// a GGUF file.
///
/// fails: it cannot be read, or the error says what is in the way
pub fn check(base: &Base, path: &Path) -> Result<Checked, AdaptersError> {
    read(base, path).map(|(checked, _)| checked)
}

/// The same, and refuse one that was made for another base, unless that is wanted.
pub(super) fn check_for(base: &Base, path: &Path, force: bool) -> Result<Checked, AdaptersError> {
    let (checked, lora) = read(base, path)?;
    if !force {
        lora.is_for(&base.sha256.to_string())
            .map_err(|source| AdaptersError::Adapter {
                path: path.to_owned(),
                source,
            })?;
    }
    Ok(checked)
}

fn read(base: &Base, path: &Path) -> Result<(Checked, Lora), AdaptersError> {
    let file = gguf(base, path)?;
    let bytes = kit::read_bytes(&file, limits::FILE_BYTES_MAX)?;
    let unfit = |source| AdaptersError::Adapter {
        path: path.to_owned(),
        source,
    };
    let lora = Lora::read(&bytes).map_err(unfit)?;
    lora.fits(&base.shapes).map_err(unfit)?;
    let made_for = lora
        .made_for()
        .and_then(|hash| hash.parse::<ContentHash>().ok());
    let checked = Checked {
        path: file,
        bytes: bytes.len() as u64,
        sha256: ContentHash::of(&bytes),
        rank: lora.rank(),
        alpha: lora.alpha(),
        matrices: lora.pairs().len(),
        made_for_this_base: made_for.map(|hash| hash == base.sha256),
    };
    Ok((checked, lora))
}
