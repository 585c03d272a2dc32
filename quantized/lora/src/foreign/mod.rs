//! Adapters in the formats of PEFT and MLX, written as GGUF.
//!
//! A PEFT folder has `adapter_config.json` and `adapter_model.safetensors`, a folder of MLX has
//! `adapters.safetensors`. The names of the matrices come from the base and from a table of its
//! architecture. What comes out is what llama.cpp's `convert_lora_to_gguf.py` writes, tensor for
//! tensor; beyond it, patterns of ranks and alphas and rank-stabilized scales are held too. What a
//! GGUF cannot hold is refused by name.

mod build;
mod config;
mod error;
mod export;
mod names;
mod tensors;
mod words;

pub use error::{ForeignError, Part};
pub use export::{Files, to_peft};
pub use words::{Difference, SAMPLES};

use std::path::{Path, PathBuf};

use translora_gguf::limits::MODEL_HEADER_BYTES_MAX;
use translora_gguf::{FileError, FileKind, GgufError, Parts, read_file};

use crate::base::Base;
use crate::limits::FILE_BYTES_MAX;
use crate::{LoraError, cache};

const CONFIG: &str = "adapter_config.json";
const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapters.safetensors"];
const PICKLES: [&str; 2] = ["adapter_model.bin", "adapter_model.pt"];

/// An adapter that is no GGUF: where its weights and its configuration lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    weights: PathBuf,
    config: PathBuf,
}

impl Foreign {
    /// Looks what lies at a path: nothing is answered for a file that is to be read as GGUF.
    ///
    /// fails: it is of a format that is not taken, or a part of it is missing
    pub fn find(path: &Path) -> Result<Option<Self>, LoraError> {
        if path.is_dir() {
            return Self::in_folder(path).map(Some);
        }
        match FileKind::at(path).map_err(ForeignError::File)? {
            FileKind::Gguf => Ok(None),
            FileKind::Safetensors => {
                let config = path.with_file_name(CONFIG);
                if !config.is_file() {
                    let (what, place) = ("a safetensors file", "beside it");
                    return Err(ForeignError::NoConfig { what, place }.into());
                }
                let weights = path.to_owned();
                Ok(Some(Self { weights, config }))
            }
            FileKind::Pickle => {
                let name = name_of(path);
                Err(ForeignError::Pickle { name }.into())
            }
            FileKind::Json if name_of(path) == CONFIG => {
                let folder = path.parent().filter(|folder| *folder != Path::new(""));
                Self::in_folder(folder.unwrap_or(Path::new("."))).map(Some)
            }
            found => Err(GgufError::Magic { found }.into()),
        }
    }

    fn in_folder(folder: &Path) -> Result<Self, LoraError> {
        let config = folder.join(CONFIG);
        if !config.is_file() {
            let (what, place) = ("a folder", "in it");
            return Err(ForeignError::NoConfig { what, place }.into());
        }
        let there = |name: &&str| folder.join(name).exists();
        if let Some(name) = WEIGHTS.iter().find(|name| there(name)) {
            let weights = folder.join(name);
            return Ok(Self { weights, config });
        }
        match PICKLES.iter().find(|name| there(name)) {
            Some(name) => Err(ForeignError::Pickle {
                name: (*name).to_owned(),
            }
            .into()),
            None => Err(ForeignError::NoWeights.into()),
        }
    }

    /// Names the folder that it lies in.
    pub fn folder(&self) -> &Path {
        self.config.parent().unwrap_or(Path::new("."))
    }

    /// Writes it as GGUF for a model file. Where a tokenizer lies beside it, its vocabulary must be
    /// that of the model.
    ///
    /// fails: as [`Foreign::to_gguf`]; the vocabulary is another
    pub fn for_model(&self, model: &Path) -> Result<Vec<u8>, LoraError> {
        self.checked(model, false)
    }

    fn checked(&self, model: &Path, dora: bool) -> Result<Vec<u8>, LoraError> {
        let parts = Parts::open(model, MODEL_HEADER_BYTES_MAX).map_err(ForeignError::File)?;
        if let Some(bytes) = self.tokenizer()? {
            words::check(&bytes, &parts)?;
        }
        self.written(&Base::of(&parts), dora)
    }

    /// Checks that the tokenizer beside it, where there is one, cuts texts as the base does: in
    /// several languages, white space, digits, emoji, code and markup. `encode` is the base's own,
    /// which reads markup as markup; it answers nothing for what the base cannot read.
    ///
    /// fails: the file is no tokenizer, or the first text that is cut otherwise
    pub fn same_words(&self, encode: impl Fn(&str) -> Option<Vec<u32>>) -> Result<(), LoraError> {
        match self.tokenizer()? {
            Some(bytes) => Ok(words::compare(&bytes, encode)?),
            None => Ok(()),
        }
    }

    /// Tells whether a tokenizer lies beside it.
    pub fn has_tokenizer(&self) -> bool {
        self.folder().join(TOKENIZER).is_file()
    }

    fn tokenizer(&self) -> Result<Option<Vec<u8>>, ForeignError> {
        if !self.has_tokenizer() {
            return Ok(None);
        }
        let path = self.folder().join(TOKENIZER);
        let name = TOKENIZER;
        let bytes = read_file(&path, words::TOKENIZER_BYTES_MAX);
        bytes
            .map(Some)
            .map_err(|source| ForeignError::Part { name, source })
    }

    /// Writes it as GGUF for a base.
    ///
    /// fails: a file of it is not sound, or something in it cannot be held or has no place
    pub fn to_gguf(&self, base: &Base) -> Result<Vec<u8>, LoraError> {
        self.written(base, false)
    }

    fn written(&self, base: &Base, dora: bool) -> Result<Vec<u8>, LoraError> {
        let part = |name| move |source| ForeignError::Part { name, source };
        let config = read_file(&self.config, config::CONFIG_BYTES_MAX).map_err(part(CONFIG))?;
        let scales = config::Scales::read(&config, dora)?;
        let bytes = read_file(&self.weights, FILE_BYTES_MAX).map_err(part(WEIGHTS[0]))?;
        // A file that was cut is told by the reader of the format.
        if let found @ (FileKind::LfsPointer | FileKind::WebPage | FileKind::Pickle) =
            FileKind::of(&bytes)
        {
            let source = FileError::Gguf(GgufError::Magic { found });
            return Err(part(WEIGHTS[0])(source).into());
        }
        let modules = tensors::modules(&bytes, dora)?;
        drop(bytes);
        build::gguf(base, &scales, modules)
    }
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Finds an adapter as a GGUF file, wherever it came from: the path itself, or a file in the cache
/// that was written out of it for this model.
///
/// fails: it is of a format that is not taken, cannot be held, or does not fit the model
pub fn gguf_path(path: &Path, model: &Path) -> Result<PathBuf, LoraError> {
    let Some(foreign) = Foreign::find(path)? else {
        return Ok(path.to_owned());
    };
    Ok(cache::keep(&foreign.for_model(model)?)?)
}

/// Finds an adapter as a GGUF file that is to be merged into the weights of a model. What differs from
/// [`gguf_path`]: DoRA is taken, with the lengths of the rows as tensors `MATRIX.magnitude`, which
/// [`Lora::for_merging`](crate::Lora::for_merging) reads and no engine does.
///
/// fails: as [`gguf_path`], but for DoRA
pub fn merging_path(path: &Path, model: &Path) -> Result<PathBuf, LoraError> {
    let Some(foreign) = Foreign::find(path)? else {
        return Ok(path.to_owned());
    };
    Ok(cache::keep(&foreign.checked(model, true)?)?)
}

/// Tells which rows of transformers' matrix the rows of a matrix of the base are, where they are in
/// another order: queries and keys, whose heads have the rows of their two halves in turn.
///
/// source: llama.cpp, `LlamaModel.permute`
fn paired_rows(base: &Base, matrix: &str, rows: usize) -> Result<Option<Vec<usize>>, ForeignError> {
    let layer = |stem: &str| -> Option<usize> {
        let rest = matrix.strip_prefix("blk.")?;
        rest.strip_suffix(stem)?.parse().ok()
    };
    let (layer, which) = match (layer(".attn_q.weight"), layer(".attn_k.weight")) {
        (Some(layer), _) => (layer, 0),
        (_, Some(layer)) => (layer, 1),
        _ => return Ok(None),
    };
    let heads = base.heads(layer).map_or(0, |heads| heads[which]);
    let pairs = usize::try_from(heads).ok().filter(|heads| *heads > 0);
    let half = pairs
        .filter(|heads| rows.is_multiple_of(2 * heads))
        .map(|heads| rows / heads / 2);
    let half = half.ok_or_else(|| ForeignError::Heads {
        matrix: matrix.to_owned(),
        rows,
        heads,
    })?;
    let from = |row: usize| {
        let (head, row) = (row / (2 * half), row % (2 * half));
        head * 2 * half + row % 2 * half + row / 2
    };
    Ok(Some((0..rows).map(from).collect()))
}
