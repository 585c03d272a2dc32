//! `translora import`, `translora export` and `translora merge`: an adapter in the formats of others.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::PipelineError;
use crate::engine::{Engine, EngineError, Merged};
use crate::kit;
use crate::publish::{self, PublishError};
use crate::record::Cancel;

/// An adapter that was written in another format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExchangeReport {
    /// The base whose names and rows were used.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub model: PathBuf,
    /// What was read.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub lora: PathBuf,
    /// The file or folder that was written.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub out: PathBuf,
    /// Matrices that it adapts.
    pub matrices: usize,
    /// The highest rank of a pair.
    pub rank: u64,
    /// LoRA's alpha: a pair is scaled by alpha / rank.
    pub alpha: f32,
}

/// A base that was written with an adapter in its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergeReport {
    /// The base.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub model: PathBuf,
    /// The adapter.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub lora: PathBuf,
    /// The file that was written.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub out: PathBuf,
    /// What the adapter was multiplied by.
    pub scale: f32,
    /// What that did to the weights.
    #[serde(flatten)]
    pub merged: Merged,
}

/// Write an adapter of PEFT or MLX as GGUF for a base.
///
/// fails: it cannot be read or held, does not fit the base, or `out` is there already
pub fn import(lora: &Path, model: &Path, out: &Path) -> Result<ExchangeReport, PipelineError> {
    publish::check_writable(&[out])?;
    let (bytes, read) = kit::adapter_bytes(lora, model)?;
    publish::write_new(out, &bytes)?;
    Ok(report(lora, model, out, &read))
}

/// Write an adapter as a folder of PEFT.
///
/// fails: it does not fit the base, transformers has no module for a matrix of it, or `folder` is
/// there already
pub fn export(lora: &Path, model: &Path, folder: &Path) -> Result<ExchangeReport, PipelineError> {
    let (files, read) = kit::peft_files(lora, model)?;
    publish::folder(folder, &files)?;
    Ok(report(lora, model, folder, &read))
}

fn report(lora: &Path, model: &Path, out: &Path, read: &kit::AdapterFacts) -> ExchangeReport {
    ExchangeReport {
        model: model.to_owned(),
        lora: lora.to_owned(),
        out: out.to_owned(),
        matrices: read.matrices,
        rank: read.rank,
        alpha: read.alpha,
    }
}

/// Write a base with an adapter in its weights, each matrix in the type that it has there.
///
/// fails: the adapter is not sound or does not fit, a type cannot be written, or `out` is there
/// already
pub fn merge(
    engine: &dyn Engine,
    (model, lora, scale): (&Path, &Path, f32),
    out: &Path,
    cancel: &Cancel,
) -> Result<MergeReport, PipelineError> {
    publish::check_writable(&[out])?;
    let written =
        publish::write_new_with(out, |file| engine.merge(model, lora, scale, file, cancel));
    let merged = match written? {
        Ok(merged) => merged,
        Err(EngineError::Output(source)) => {
            let path = out.to_owned();
            return Err(PublishError::Io { path, source }.into());
        }
        Err(error) => return Err(error.into()),
    };
    Ok(MergeReport {
        model: model.to_owned(),
        lora: lora.to_owned(),
        out: out.to_owned(),
        scale,
        merged,
    })
}
