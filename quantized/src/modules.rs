//! Chooses which matrices of a model get an adapter.

use translora_gguf::{Gguf, TensorKind};

use crate::error::TrainError;

/// A weight matrix that gets an A and a B.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The weight's name in the GGUF.
    pub name: String,
    pub inputs: usize,
    pub outputs: usize,
}

/// The short names of the field, each with llama.cpp's.
const MODULES: [(&str, &[&str]); 7] = [
    ("q", &["attn_q", "attn_qkv"]),
    ("k", &["attn_k", "attn_qkv"]),
    ("v", &["attn_v", "attn_qkv"]),
    ("o", &["attn_output"]),
    ("gate", &["ffn_gate"]),
    ("up", &["ffn_up"]),
    ("down", &["ffn_down"]),
];

/// Find the matrices of every block that `asked` names: `all`, or a comma-separated list of `q k v o gate up down`.
///
/// fails: an unknown module, or one this model has not.
pub fn targets(model: &Gguf<'_>, asked: &str) -> Result<Vec<Target>, TrainError> {
    let refuse = |reason: String| TrainError::Module { asked: asked.to_owned(), reason };
    let known = || MODULES.map(|(name, _)| name).join(", ");
    let mut wanted = Vec::new();
    for word in asked.split(',').map(str::trim) {
        match MODULES.iter().find(|(name, _)| *name == word) {
            Some((_, names)) => wanted.push((word, *names)),
            None if word == "all" => wanted.extend(MODULES.map(|(name, names)| (name, names))),
            None => return Err(refuse(format!("{word:?} is none of: all, {}", known()))),
        }
    }
    let mut found = Vec::new();
    for tensor in model.tensors() {
        let Some(module) = block_module(&tensor.name) else { continue };
        let is_matrix =
            tensor.shape.len() == 2 && !matches!(tensor.kind, TensorKind::I8 | TensorKind::I16 | TensorKind::I32 | TensorKind::I64);
        if is_matrix && wanted.iter().any(|(_, names)| names.contains(&module)) {
            let size = |i: usize| usize::try_from(tensor.shape[i]).map_err(|_| refuse(format!("{} is too large", tensor.name)));
            found.push(Target { name: tensor.name.clone(), inputs: size(0)?, outputs: size(1)? });
        }
    }
    let has = |names: &[&str]| found.iter().any(|target| block_module(&target.name).is_some_and(|module| names.contains(&module)));
    if let Some((word, _)) = wanted.iter().find(|(_, names)| !has(names)).filter(|_| !asked.contains("all")) {
        return Err(refuse(format!("this model has no {word:?} matrices")));
    }
    if found.is_empty() {
        return Err(refuse("this model has none of these matrices".into()));
    }
    Ok(found)
}

/// `blk.3.attn_q.weight` → `attn_q`
fn block_module(name: &str) -> Option<&str> {
    let (number, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    number.parse::<u32>().ok()?;
    rest.strip_suffix(".weight")
}
