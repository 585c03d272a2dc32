//! The metadata of a tiny model for each architecture that llama.cpp knows, in one GGUF: every key
//! under the model's name and a slash.
//!
//! source: llama.cpp `tests/test-llama-archs.cpp`, which makes these models;
//! `translora_llama::synthesize` makes them again from this.

use translora_gguf::{Gguf, GgufError, Value, Writer};

/// llama.cpp's test makes no model of it.
const GEMMA4: &str = "gemma4-dense";
/// The model that lends its metadata.
const GEMMA3: &str = "gemma3-dense";

/// The names of the models, sorted.
pub fn names(pack: &Gguf<'_>) -> Vec<String> {
    let mut names: Vec<String> = pack
        .metadata()
        .filter_map(|(key, _)| Some(key.split_once('/')?.0.to_owned()))
        .collect();
    if names.iter().any(|name| name == GEMMA3) {
        names.push(GEMMA4.into());
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// The metadata of one model, as a GGUF without tensors.
pub fn metadata(pack: &Gguf<'_>, name: &str) -> Result<Vec<u8>, GgufError> {
    if name == GEMMA4 {
        return gemma4(pack);
    }
    let mut writer = Writer::new();
    for (key, value) in pack.metadata() {
        if let Some((_, key)) = key.split_once('/').filter(|(model, _)| *model == name) {
            writer.set(key, value.clone());
        }
    }
    writer.to_bytes()
}

/// Put the metadata of models into one GGUF.
pub fn pack<'m>(
    models: impl IntoIterator<Item = (&'m str, &'m Gguf<'m>)>,
) -> Result<Vec<u8>, GgufError> {
    let mut writer = Writer::new();
    for (name, model) in models {
        // llama.cpp writes this activation's parameters for every model, one for each of 512
        // layers; none of these models has it.
        for (key, value) in model
            .metadata()
            .filter(|(key, _)| !key.starts_with("xielu."))
        {
            writer.set(format!("{name}/{key}"), value.clone());
        }
    }
    writer.to_bytes()
}

/// The metadata of gemma3 with what gemma4 needs beside, and upper layers that read the keys and
/// values of lower ones. Four layers, so that there are two of either kind.
fn gemma4(pack: &Gguf<'_>) -> Result<Vec<u8>, GgufError> {
    const LAYERS: u32 = 4;
    let mut writer = Writer::new();
    for (key, value) in pack.metadata() {
        let Some((_, key)) = key.split_once('/').filter(|(model, _)| *model == GEMMA3) else {
            continue;
        };
        match key.strip_prefix("gemma3.") {
            Some(key) => writer.set(format!("gemma4.{key}"), value.clone()),
            None => writer.set(key, value.clone()),
        };
    }
    writer.set("general.architecture", Value::from("gemma4"));
    let numbers = [
        ("block_count", LAYERS),
        // llama.cpp does not save the tensors of such embeddings.
        ("embedding_length_per_layer_input", 0),
        ("attention.shared_kv_layers", LAYERS / 2),
    ];
    for (key, number) in numbers {
        writer.set(format!("gemma4.{key}"), Value::from(number));
    }
    writer.set("gemma4.final_logit_softcapping", Value::from(30.0_f32));
    writer.set(
        "gemma4.attention.sliding_window_pattern",
        Value::from(vec![1_u32, 0, 1, 0]),
    );
    for key in ["swiglu_clamp_exp", "swiglu_clamp_shexp"] {
        writer.set(
            format!("gemma4.{key}"),
            Value::from(vec![0.0_f32; LAYERS as usize]),
        );
    }
    writer.to_bytes()
}
