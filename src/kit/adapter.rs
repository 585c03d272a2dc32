//! Adapters as they come: GGUF files, and folders of PEFT and MLX.

use std::path::{Path, PathBuf};

use translora_gguf::read_file;
use translora_lora::limits::FILE_BYTES_MAX;
use translora_lora::{Base, Files, Foreign, Lora, LoraError, gguf_path, merging_path, to_peft};

use super::KitError;

/// What an adapter says of itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdapterFacts {
    /// Matrices that it adapts.
    pub matrices: usize,
    /// The highest rank of a pair.
    pub rank: u64,
    /// LoRA's alpha.
    pub alpha: f32,
}

impl From<&Lora> for AdapterFacts {
    fn from(lora: &Lora) -> Self {
        Self {
            matrices: lora.pairs().len(),
            rank: lora.rank(),
            alpha: lora.alpha(),
        }
    }
}

/// Find an adapter as a GGUF file for a model: the path itself, or what was written out of a folder
/// of PEFT or MLX.
pub fn adapter(path: &Path, model: &Path) -> Result<PathBuf, KitError> {
    gguf_path(path, model).map_err(|error| KitError::of_adapter(path, error))
}

/// Find the adapter of a teacher as a GGUF file that tells it from others. What differs from
/// [`adapter`]: DoRA is taken, which the engine merges into a copy of the weights.
pub fn teacher(path: &Path, model: &Path) -> Result<PathBuf, KitError> {
    merging_path(path, model).map_err(|error| KitError::of_adapter(path, error))
}

/// Read an adapter as the bytes of a GGUF file that fits a model.
pub fn adapter_bytes(path: &Path, model: &Path) -> Result<(Vec<u8>, AdapterFacts), KitError> {
    let unfit = |error| KitError::of_adapter(path, error);
    let base = Base::open(model).map_err(|error| KitError::of_file(model, error))?;
    let bytes = match Foreign::find(path).map_err(unfit)? {
        Some(foreign) => foreign.for_model(model).map_err(unfit)?,
        None => read_file(path, FILE_BYTES_MAX).map_err(|error| KitError::of_file(path, error))?,
    };
    let read = |bytes| -> Result<Lora, LoraError> {
        let lora = Lora::read(bytes)?;
        lora.fits(&base)?;
        Ok(lora)
    };
    let facts = (&read(&bytes).map_err(unfit)?).into();
    Ok((bytes, facts))
}

/// Read an adapter as the files of a folder of PEFT.
pub fn peft_files(path: &Path, model: &Path) -> Result<(Files, AdapterFacts), KitError> {
    let (bytes, facts) = adapter_bytes(path, model)?;
    let base = Base::open(model).map_err(|error| KitError::of_file(model, error))?;
    let files = to_peft(&bytes, &base).map_err(|error| KitError::of_adapter(path, error))?;
    Ok((files, facts))
}
