//! Where the modules of a transformers model lie in a GGUF.
//!
//! source: llama.cpp, `gguf-py/gguf/tensor_mapping.py` and the classes of `conversion/`

use crate::LoraError;
use crate::base::{Base, EMBEDDING};
use crate::foreign::ForeignError;

/// Architectures whose matrices keep the rows of transformers.
const PLAIN: &str = "apertus cohere2 command-r ernie4_5 exaone4 gemma gemma-embedding gemma2 \
    gemma3 gpt-oss hunyuan-dense nemotron olmo2 olmoe orion phi2 phi3 phimoe qwen2 qwen2moe qwen2vl qwen3 \
    qwen3moe qwen3vl seed_oss stablelm starcoder2";

/// Architectures whose queries and keys have the rows of each head in pairs: llama.cpp rotates
/// neighbours, transformers the two halves of a head.
const PAIRED: &str =
    "arcee granite granitehybrid granitemoe llama llama-embed minicpm mistral3 olmo smollm3";

/// A module of a layer, and the matrices that it may be, by choice: one, or several whose rows it
/// holds one after the other. The first choice that the base has is taken.
const MODULES: &[(&str, &[&[&str]])] = &[
    ("self_attn.q_proj", &[&["attn_q"]]),
    ("self_attn.k_proj", &[&["attn_k"]]),
    ("self_attn.v_proj", &[&["attn_v"]]),
    ("self_attn.o_proj", &[&["attn_output"]]),
    ("self_attn.out_proj", &[&["attn_output"]]),
    ("self_attn.dense", &[&["attn_output"]]),
    (
        "self_attn.qkv_proj",
        &[&["attn_qkv"], &["attn_q", "attn_k", "attn_v"]],
    ),
    ("mlp.gate_proj", &[&["ffn_gate"]]),
    ("mlp.up_proj", &[&["ffn_up"]]),
    ("mlp.down_proj", &[&["ffn_down"]]),
    ("mlp.gate_up_proj", &[&["ffn_gate", "ffn_up"], &["ffn_up"]]),
    ("mlp.fc1", &[&["ffn_up"]]),
    ("mlp.fc2", &[&["ffn_down"]]),
    ("mlp.c_fc", &[&["ffn_up"]]),
    ("mlp.c_proj", &[&["ffn_down"]]),
    ("mlp.gate", &[&["ffn_gate_inp"]]),
    ("mlp.router", &[&["ffn_gate_inp"]]),
    ("block_sparse_moe.gate", &[&["ffn_gate_inp"]]),
    ("block_sparse_moe.router.layer", &[&["ffn_gate_inp"]]),
    ("mlp.shared_expert_gate", &[&["ffn_gate_inp_shexp"]]),
    ("mlp.shared_expert.gate_proj", &[&["ffn_gate_shexp"]]),
    ("mlp.shared_expert.up_proj", &[&["ffn_up_shexp"]]),
    ("mlp.shared_expert.down_proj", &[&["ffn_down_shexp"]]),
    (
        "shared_mlp.input_linear",
        &[&["ffn_gate_shexp", "ffn_up_shexp"], &["ffn_gate", "ffn_up"]],
    ),
    (
        "shared_mlp.output_linear",
        &[&["ffn_down_shexp"], &["ffn_down"]],
    ),
];

/// The matrices of experts, each of which is a module of its own: before and after its number.
const EXPERTS: &[(&str, &str, &str)] = &[
    ("mlp.experts", "gate_proj", "ffn_gate_exps"),
    ("mlp.experts", "up_proj", "ffn_up_exps"),
    ("mlp.experts", "down_proj", "ffn_down_exps"),
    ("block_sparse_moe.experts", "w1", "ffn_gate_exps"),
    ("block_sparse_moe.experts", "w3", "ffn_up_exps"),
    ("block_sparse_moe.experts", "w2", "ffn_down_exps"),
];

/// MLX keeps the experts of a layer in one module.
const SWITCHES: &[(&str, &str)] = &[
    ("switch_mlp.gate_proj", "ffn_gate_exps"),
    ("switch_mlp.up_proj", "ffn_up_exps"),
    ("switch_mlp.down_proj", "ffn_down_exps"),
];

/// Where a module lies in the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is a matrix.
    Matrix(String),
    /// Its rows are those of several matrices, one after the other.
    Fused(Vec<String>),
    /// It is one expert of a matrix.
    Expert(String, usize),
    /// It is a parameter that holds all experts of a layer. Its shape tells which: gate and up
    /// together, or down.
    Experts { fused: [String; 2], down: String },
}

/// Says whether the queries and keys of an architecture have their rows in pairs.
///
/// fails: the architecture is not in the table
pub(super) fn paired(architecture: &str) -> Result<bool, ForeignError> {
    let is_in = |list: &str| list.split(' ').any(|name| name == architecture);
    if is_in(PAIRED) {
        Ok(true)
    } else if is_in(PLAIN) {
        Ok(false)
    } else {
        let architecture = architecture.to_owned();
        Err(ForeignError::Architecture { architecture })
    }
}

/// Splits the path of a module into the number of its layer and what follows.
///
/// A model for pictures and text keeps its layers under `language_model`; the table has no module
/// of the rest of such a model.
pub(super) fn layer(module: &str) -> Option<(usize, &str)> {
    let rest = within(module).strip_prefix("layers.")?;
    let (number, rest) = rest.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

fn within(mut module: &str) -> &str {
    while let Some(rest) = ["model.", "language_model."]
        .iter()
        .find_map(|prefix| module.strip_prefix(prefix))
    {
        module = rest;
    }
    module
}

/// Finds where a module lies in a base.
///
/// fails: no module of a model is called so, or the base lacks its matrix
pub(super) fn place(base: &Base, module: &str) -> Result<Place, LoraError> {
    let unknown = || ForeignError::Module {
        module: module.to_owned(),
    };
    let Some((layer, rest)) = layer(module) else {
        return match within(module) {
            "embed_tokens" => Ok(Place::Matrix(EMBEDDING.into())),
            // The converter of llama.cpp refuses this too.
            "lm_head" if base.ties_output() => Err(LoraError::TiedEmbedding),
            "lm_head" => Ok(Place::Matrix(Base::OUTPUT.into())),
            _ => Err(unknown().into()),
        };
    };
    let name = |stem: &str| format!("blk.{layer}.{stem}.weight");
    let has = |stem: &&str| base.shape(&name(stem)).is_some();
    if let Some((_, choices)) = MODULES.iter().find(|(path, _)| *path == rest) {
        let choice = choices.iter().find(|stems| stems.iter().all(has));
        return match choice.unwrap_or(&choices[0]) {
            [stem] => known(base, name(stem)).map(Place::Matrix),
            stems => {
                let matrices = stems.iter().map(|stem| known(base, name(stem)));
                Ok(Place::Fused(matrices.collect::<Result<_, _>>()?))
            }
        };
    }
    if let Some((_, stem)) = SWITCHES.iter().find(|(end, _)| rest.ends_with(end)) {
        return known(base, name(stem)).map(Place::Matrix);
    }
    // PEFT wraps the second parameter of a module around the first.
    let parameter = rest.strip_suffix(".base_layer").unwrap_or(rest);
    if EXPERTS.iter().any(|(folder, ..)| *folder == parameter) && base.architecture() != "gpt-oss" {
        let [gate, up, down] =
            ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"].map(|stem| known(base, name(stem)));
        return Ok(Place::Experts {
            fused: [gate?, up?],
            down: down?,
        });
    }
    let expert = |(before, after, stem): &(&str, &str, &'static str)| {
        let number = rest.strip_prefix(before)?.strip_prefix('.')?;
        let number = number.strip_suffix(after)?.strip_suffix('.')?;
        Some((number.parse().ok()?, *stem))
    };
    let (number, stem) = EXPERTS.iter().find_map(expert).ok_or_else(unknown)?;
    Ok(Place::Expert(known(base, name(stem))?, number))
}

fn known(base: &Base, matrix: String) -> Result<String, LoraError> {
    match base.shape(&matrix) {
        Some(_) => Ok(matrix),
        None => Err(LoraError::NoMatrix { matrix }),
    }
}

/// What a matrix is called in transformers where that is not the first name in the table.
fn spelled(architecture: &str, stem: &str) -> Option<&'static str> {
    Some(match (architecture, stem) {
        ("phi2", "attn_output") => "self_attn.dense",
        ("phi2", "ffn_up") => "mlp.fc1",
        ("phi2", "ffn_down") => "mlp.fc2",
        ("phi3", "ffn_up") => "mlp.gate_up_proj",
        ("starcoder2", "ffn_up") => "mlp.c_fc",
        ("starcoder2", "ffn_down") => "mlp.c_proj",
        ("gpt-oss", "ffn_gate_inp") => "mlp.router",
        ("llama" | "phimoe", "ffn_gate_inp") => "block_sparse_moe.gate",
        ("granitemoe" | "granitehybrid", "ffn_gate_inp") => "block_sparse_moe.router.layer",
        ("granitemoe" | "granitehybrid", "ffn_down_shexp") => "shared_mlp.output_linear",
        _ => return None,
    })
}

/// Names the module that a matrix of a base is in transformers, with `{}` for the number of an
/// expert.
///
/// fails: `None` where transformers has no such module, or fuses it with another
pub(super) fn module(architecture: &str, matrix: &str) -> Option<String> {
    match matrix {
        EMBEDDING => return Some("model.embed_tokens".into()),
        Base::OUTPUT => return Some("lm_head".into()),
        _ => {}
    }
    let (layer, stem) = matrix.strip_prefix("blk.")?.split_once('.')?;
    let stem = stem.strip_suffix(".weight")?;
    let folder = match architecture {
        "llama" | "phimoe" => "block_sparse_moe.experts",
        _ => "mlp.experts",
    };
    let expert = EXPERTS
        .iter()
        .find(|(before, _, of)| (*before, *of) == (folder, stem))
        .map(|(before, after, _)| format!("{before}.{{}}.{after}"));
    let fused = matches!(architecture, "granitemoe" | "granitehybrid") && stem.ends_with("_shexp");
    let first = || MODULES.iter().find(|(_, choices)| *choices[0] == [stem]);
    let single = spelled(architecture, stem)
        .or_else(|| Some(first().filter(|_| !fused)?.0))
        .or((stem == "attn_qkv").then_some("self_attn.qkv_proj"));
    let name = expert.or_else(|| single.map(str::to_owned))?;
    Some(format!("model.layers.{layer}.{name}"))
}
