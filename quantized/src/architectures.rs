//! The metadata of a tiny model for each architecture that llama.cpp knows, in one GGUF: every key under the model's name and a slash.
//!
//! source: llama.cpp `tests/test-llama-archs.cpp`, which makes these models; `translora_llama::synthesize` makes them again from this.

use translora_gguf::{Gguf, Writer};

use crate::error::TrainError;

/// The names of the models, sorted.
pub fn names(pack: &Gguf<'_>) -> Vec<String> {
    let mut names: Vec<String> = pack.metadata().filter_map(|(key, _)| Some(key.split_once('/')?.0.to_owned())).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The metadata of one model, as a GGUF without tensors.
pub fn metadata(pack: &Gguf<'_>, name: &str) -> Result<Vec<u8>, TrainError> {
    let mut writer = Writer::new();
    for (key, value) in pack.metadata() {
        if let Some((_, key)) = key.split_once('/').filter(|(model, _)| *model == name) {
            writer.set(key, value.clone());
        }
    }
    Ok(writer.to_bytes()?)
}

/// Put the metadata of models into one GGUF.
pub fn pack<'m>(models: impl IntoIterator<Item = (&'m str, &'m Gguf<'m>)>) -> Result<Vec<u8>, TrainError> {
    let mut writer = Writer::new();
    for (name, model) in models {
        // llama.cpp writes this activation's parameters for every model, one for each of 512 layers; none of these models has it.
        for (key, value) in model.metadata().filter(|(key, _)| !key.starts_with("xielu.")) {
            writer.set(format!("{name}/{key}"), value.clone());
        }
    }
    Ok(writer.to_bytes()?)
}
