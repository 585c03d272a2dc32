//! Adapters as they come: GGUF files, and folders of PEFT and MLX.

use std::path::{Path, PathBuf};

use serde_json::Value;
use translora_gguf::{FileKind, Gguf, read_file};
use translora_lora::limits::FILE_BYTES_MAX;
use translora_lora::{Base, Files, Foreign, Lora, LoraError, gguf_path, merging_path, to_peft};

use super::KitError;

/// The configuration of an adapter in a folder.
const CONFIG: &str = "adapter_config.json";
/// The longest one. units: bytes
const CONFIG_BYTES_MAX: u64 = 4 << 20;

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

/// What an adapter that is no GGUF says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForeignFacts {
    /// `PEFT` or `MLX`.
    pub format: &'static str,
    /// The base that it names.
    pub base: Option<String>,
    /// The rank of most of its pairs.
    pub rank: Option<u64>,
    /// LoRA's alpha, as it is configured.
    pub alpha: Option<f64>,
}

/// Look whether an adapter of PEFT or MLX lies at a path; nothing is answered for other files.
///
/// fails: it is a folder without weights, or with a pickle
pub fn foreign(path: &Path) -> Result<Option<ForeignFacts>, KitError> {
    let beside = if path.is_dir() {
        path.join(CONFIG)
    } else {
        path.with_file_name(CONFIG)
    };
    // Others are called what they are by who reads them.
    let safetensors = matches!(FileKind::at(path), Ok(FileKind::Safetensors));
    if !(beside.is_file() && (path.is_dir() || safetensors || beside == path)) {
        return Ok(None);
    }
    let unfit = |error| KitError::of_adapter(path, error);
    let Some(foreign) = Foreign::find(path).map_err(unfit)? else {
        return Ok(None);
    };
    let config = foreign.folder().join(CONFIG);
    let text =
        read_file(&config, CONFIG_BYTES_MAX).map_err(|error| KitError::of_file(&config, error))?;
    // What is wrong with it is said when it is read for a base.
    let value: Value = serde_json::from_slice(&text).unwrap_or_default();
    let mlx = &value["lora_parameters"];
    let base = value["base_model_name_or_path"].as_str();
    Ok(Some(ForeignFacts {
        format: if mlx.is_object() { "MLX" } else { "PEFT" },
        base: base.or(value["model"].as_str()).map(str::to_owned),
        rank: value["r"].as_u64().or(mlx["rank"].as_u64()),
        alpha: value["lora_alpha"].as_f64(),
    }))
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

/// The same for DoRA, which fits the weights of a model and nothing beside them.
pub fn dora_bytes(path: &Path, model: &Path) -> Result<Vec<u8>, KitError> {
    let unfit = |error| KitError::of_adapter(path, error);
    let base = Base::open(model).map_err(|error| KitError::of_file(model, error))?;
    let file = teacher(path, model)?;
    let bytes =
        read_file(&file, FILE_BYTES_MAX).map_err(|error| KitError::of_file(&file, error))?;
    let check =
        |bytes| -> Result<(), LoraError> { Lora::for_merging(&Gguf::parse(bytes)?)?.fits(&base) };
    check(&bytes).map_err(unfit)?;
    Ok(bytes)
}

/// Read an adapter as the files of a folder of PEFT.
pub fn peft_files(path: &Path, model: &Path) -> Result<(Files, AdapterFacts), KitError> {
    let (bytes, facts) = adapter_bytes(path, model)?;
    let base = Base::open(model).map_err(|error| KitError::of_file(model, error))?;
    let files = to_peft(&bytes, &base).map_err(|error| KitError::of_adapter(path, error))?;
    Ok((files, facts))
}
