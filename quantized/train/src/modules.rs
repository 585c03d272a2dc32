//! Chooses which matrices of a model get an adapter.

use translora_gguf::{Header, TensorKind};

use crate::error::TrainError;

/// A weight matrix that gets an A and a B.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The weight's name in the GGUF.
    pub name: String,
    /// Numbers of the vector that it multiplies.
    pub inputs: usize,
    /// Numbers of the product.
    pub outputs: usize,
    /// Matrices that the model chooses from for each token; 1 where there is no choice.
    pub experts: usize,
}

impl Target {
    /// The block it belongs to.
    pub fn block(&self) -> Option<u32> {
        block_module(&self.name).map(|(block, _)| block)
    }
}

/// The short names of the field, each with llama.cpp's: a matrix belongs to a name if it begins
/// with one of these. Latent attention has two matrices in a row; experts and shared experts have
/// names of their own.
const MODULES: [(&str, &[&str]); 7] = [
    ("q", &["attn_q", "attn_qkv"]),
    ("k", &["attn_k", "attn_qkv"]),
    ("v", &["attn_v", "attn_qkv", "attn_kv"]),
    ("o", &["attn_output"]),
    ("gate", &["ffn_gate"]),
    ("up", &["ffn_up", "ffn_gate_up"]),
    ("down", &["ffn_down"]),
];

/// Never adapted: what chooses the experts, which stays as it was trained.
const ROUTERS: &str = "ffn_gate_inp";

/// Find the matrices of every block that `modules` names: `all` that there are (feed-forward,
/// attention, recurrent layers, experts), `dense` for all but the experts, or a comma-separated
/// list of `q k v o gate up down`.
///
/// What is found is a candidate: whether llama.cpp applies an adapter to it shows in a trace.
///
/// fails: an unknown module, or one this model has not.
pub fn targets(model: &Header, modules: &str) -> Result<Vec<Target>, TrainError> {
    let refuse = |reason: String| TrainError::Module {
        modules: modules.to_owned(),
        reason,
    };
    let known = || MODULES.map(|(name, _)| name).join(", ");
    let words: Vec<&str> = modules.split(',').map(str::trim).collect();
    let of_word = |word: &str| {
        MODULES
            .iter()
            .find(|(name, _)| *name == word)
            .map(|(_, begins)| *begins)
    };
    if let Some(word) = words
        .iter()
        .find(|word| !matches!(**word, "all" | "dense") && of_word(word).is_none())
    {
        return Err(refuse(format!(
            "{word:?} is none of: all, dense, {}",
            known()
        )));
    }
    let names = |word: &str, module: &str, experts: bool| match word {
        "all" => true,
        "dense" => !experts,
        _ => {
            of_word(word).is_some_and(|begins| begins.iter().any(|begin| module.starts_with(begin)))
        }
    };
    let mut found: Vec<(Target, &str)> = Vec::new();
    for tensor in model.tensors() {
        let Some((_, module)) = block_module(&tensor.name) else {
            continue;
        };
        let floats = !matches!(
            tensor.kind,
            TensorKind::I8 | TensorKind::I16 | TensorKind::I32 | TensorKind::I64
        );
        let is_matrix =
            matches!(tensor.shape.len(), 2 | 3) && tensor.shape[..2].iter().all(|size| *size > 1);
        let experts = tensor.shape.len() == 3 && tensor.shape[2] > 1;
        let norm = module.contains("norm") || module.starts_with(ROUTERS);
        if floats && is_matrix && !norm && words.iter().any(|word| names(word, module, experts)) {
            let size = |i: usize| usize::try_from(tensor.shape.get(i).copied().unwrap_or(1));
            let large = |_| refuse(format!("{} is too large", tensor.name));
            let (inputs, outputs, experts) = (
                size(0).map_err(large)?,
                size(1).map_err(large)?,
                size(2).map_err(large)?,
            );
            found.push((
                Target {
                    name: tensor.name.clone(),
                    inputs,
                    outputs,
                    experts,
                },
                module,
            ));
        }
    }
    let has = |word: &str| {
        found
            .iter()
            .any(|(target, module)| names(word, module, target.experts > 1))
    };
    if let Some(word) = words.iter().find(|word| !has(word)) {
        return Err(refuse(format!("this model has no {word:?} matrices")));
    }
    Ok(found.into_iter().map(|(target, _)| target).collect())
}

/// `blk.3.attn_q.weight` → 3, `attn_q`
fn block_module(name: &str) -> Option<(u32, &str)> {
    let (number, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((number.parse().ok()?, rest.strip_suffix(".weight")?))
}
