//! Which weights a model answers from: those of its file, or for DoRA a copy with the adapter in
//! them. One of them is open at a time.

use std::path::{Path, PathBuf};

use translora_llama::{Adapter, LlamaError, map_file};
use translora_lora::{ForeignError, LoraError, kept, merging_path};

use super::merge::{self, Kinds};
use super::{GgmlModel, of_path, params};
use crate::engine::{AdapterId, EngineError, OpenOptions, With};
use crate::record::{Cancel, ContentHash};

/// An adapter that a model was opened with.
pub(super) enum Loaded {
    /// Beside the weights. It is loaded anew where other weights were open in between.
    Beside(PathBuf, Option<Adapter>),
    /// In the weights of this file.
    Merged(PathBuf),
}

/// How a model is opened that only reads texts.
pub(super) fn mapped() -> OpenOptions {
    OpenOptions {
        gpu_layers: 0,
        ..OpenOptions::default()
    }
}

impl GgmlModel {
    /// Load an adapter beside the weights, or merge one that only the weights can hold.
    pub(super) fn load_adapter(&mut self, path: &Path) -> Result<AdapterId, EngineError> {
        self.weights(With::Base)?;
        let loaded = match Adapter::load(&self.model, path) {
            Err(LlamaError::Adapter {
                source: LoraError::Foreign(error),
                ..
            }) if error.is_dora() => Loaded::Merged(self.merged(path)?),
            loaded => {
                let adapter = loaded.map_err(|error| of_path(path, error))?;
                Loaded::Beside(path.to_owned(), Some(adapter))
            }
        };
        self.adapters.push(loaded);
        Ok(AdapterId(self.adapters.len() - 1))
    }

    /// The file of this base with an adapter in its weights, of at least 8 bits where it adapts. It
    /// is written once and kept in the user's cache.
    fn merged(&self, adapter: &Path) -> Result<PathBuf, EngineError> {
        let base = &self.info.path;
        let failed = |error| of_path(adapter, error);
        self.model.same_words(adapter).map_err(failed)?;
        let unfit = |error: LoraError| EngineError::of_adapter(adapter.to_owned(), error);
        let file = merging_path(adapter, base).map_err(unfit)?;
        let bytes = map_file(&file).map_err(failed)?;
        let key = format!("{} {} q8_0", self.info.hash, ContentHash::of(&bytes));
        let threads = (self.threads as usize, &Cancel::default());
        let written = kept(&key, |out| {
            merge::merge(base, adapter, (1.0, Kinds::Fine), out, threads).map(drop)
        });
        match written.map_err(|error| unfit(error.into()))? {
            Err(EngineError::Output(source)) => {
                let path = file.with_file_name("");
                Err(unfit(ForeignError::Cache { path, source }.into()))
            }
            merged => merged,
        }
    }

    /// The files of copies that adapters are merged into.
    pub(super) fn copies(&self) -> impl Iterator<Item = &Path> {
        self.adapters.iter().filter_map(|adapter| match adapter {
            Loaded::Merged(path) => Some(path.as_path()),
            Loaded::Beside(..) => None,
        })
    }

    /// The model with the weights that `with` answers from, opened in place of others.
    pub(super) fn weights(&mut self, with: With) -> Result<&translora_llama::Model, EngineError> {
        let file = match with {
            With::Base => None,
            With::Adapter(AdapterId(index)) => match self.adapters.get(index) {
                Some(Loaded::Merged(file)) => Some(file.clone()),
                _ => None,
            },
        };
        if self.copy != file {
            self.reopen(file)?;
        }
        Ok(&self.model)
    }

    fn reopen(&mut self, file: Option<PathBuf>) -> Result<(), EngineError> {
        self.context = None;
        for adapter in &mut self.adapters {
            if let Loaded::Beside(_, loaded) = adapter {
                *loaded = None;
            }
        }
        let base = self.info.path.clone();
        let load = |path: &Path, options: &OpenOptions| {
            translora_llama::Model::load(self.backend, path, &params(options))
                .map_err(|error| of_path(path, error))
        };
        // What was open gives its memory back before the next one takes any: mapped, a file holds
        // none of its own.
        self.model = load(&base, &mapped())?;
        self.model = load(file.as_deref().unwrap_or(&base), &self.options)?;
        self.copy = file;
        Ok(())
    }

    /// An adapter that stands beside the weights that are open.
    pub(super) fn beside(&mut self, index: usize) -> Result<Option<Adapter>, EngineError> {
        let lost = || EngineError::Internal(format!("adapter {index}"));
        match self.adapters.get_mut(index).ok_or_else(lost)? {
            Loaded::Merged(_) => Ok(None),
            Loaded::Beside(path, loaded) => {
                if loaded.is_none() {
                    let again = Adapter::load(&self.model, path);
                    *loaded = Some(again.map_err(|error| of_path(path, error))?);
                }
                Ok(loaded.clone())
            }
        }
    }
}
