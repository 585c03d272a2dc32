//! `translora inspect`: say what a file is and what it fits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use translora_gguf::{Gguf, Header, Tensor, Value};
use translora_lora::Lora;

use super::PipelineError;
use crate::engine::chat::{MODEL_KEY, verdict, verdict_of};
use crate::engine::{ChatOptions, Engine, EngineError};
use crate::kit::{self, ForeignFacts, Kit, KitError, Manifest};
use crate::record::{ContentHash, Limits};

/// What the verdict on an unsound adapter begins with.
const REFUSED: &str = "refused: ";
/// What is said of a model whose weights were read and are numbers.
const FINITE: &str = "all are finite";
/// The verdict on DoRA that fits a base.
const DORA: &str = "sound, as DoRA: for merge, transfer, eval and kit";

/// What a file is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "what")]
pub enum Inspection {
    /// A base model.
    Model(ModelCard),
    /// A LoRA adapter.
    Adapter(AdapterCard),
    /// An adapter of PEFT or MLX that no base was named for.
    Foreign(ForeignCard),
    /// A kit.
    Kit(Box<KitCard>),
}

/// An adapter of PEFT or MLX, by what it says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForeignCard {
    /// The file or folder.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub path: PathBuf,
    /// `PEFT` or `MLX`.
    pub format: String,
    /// The base that it names.
    pub made_for: Option<String>,
    /// The rank of most of its pairs.
    pub rank: Option<u64>,
    /// LoRA's alpha, as it is configured.
    pub alpha: Option<f64>,
    /// What is needed to say more, or why no model takes it.
    pub verdict: String,
}

/// What a file is compared with.
#[derive(Clone, Default)]
pub struct Against<'e> {
    /// Who reads texts as the base does, for an adapter with a tokenizer.
    pub engine: Option<&'e dyn Engine>,
    /// The base that an adapter is to fit.
    pub base: Option<PathBuf>,
    /// The chat template that a model is to take.
    pub chat: ChatOptions,
    /// Every weight of a model is read.
    pub numbers: bool,
}

/// A base model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// The file.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub path: PathBuf,
    /// Of all parts, as all numbers here.
    pub bytes: u64,
    /// Of all parts, one behind another.
    pub sha256: ContentHash,
    /// Files that the model is split into, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<usize>,
    /// `general.name`.
    pub name: Option<String>,
    /// `general.architecture`.
    pub architecture: String,
    /// Numbers in all tensors.
    pub parameters: u64,
    /// `block_count`.
    pub layers: Option<u64>,
    /// `context_length`. units: tokens
    pub context: Option<u64>,
    /// `embedding_length`.
    pub embedding: Option<u64>,
    /// How many tensors there are.
    pub tensors: usize,
    /// Tensors by type.
    pub types: BTreeMap<String, usize>,
    /// `its own`, `none`, or why it cannot be used.
    pub chat_template: String,
    /// `all are finite`, or the first weight that is no number, where they were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numbers: Option<String>,
    /// `translora.*` of its header.
    pub translora: BTreeMap<String, String>,
}

/// A LoRA and what it fits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterCard {
    /// The file.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub path: PathBuf,
    /// `GGUF`, `PEFT` or `MLX`.
    pub format: String,
    /// The base that it was compared with, where one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// Its size; of another format as GGUF.
    pub bytes: u64,
    /// The hash of the file; of another format as GGUF.
    pub sha256: ContentHash,
    /// Fits a base of this architecture whose matrices have the shapes below.
    pub architecture: String,
    /// The highest rank of its pairs.
    pub rank: Option<u64>,
    /// `adapter.lora.alpha`.
    pub alpha: Option<f64>,
    /// `sound`, or why no model takes it.
    pub verdict: String,
    /// Pairs of A and B.
    pub matrices: usize,
    /// Adapted matrix, without its block → its shape (in, out).
    pub modules: BTreeMap<String, [u64; 2]>,
    /// Layers that it adapts.
    pub layers: usize,
    /// Numbers in all tensors.
    pub parameters: u64,
    /// Tensors by type.
    pub types: BTreeMap<String, usize>,
    /// `translora.*` of its header.
    pub translora: BTreeMap<String, String>,
}

impl Inspection {
    /// Whether a model could take it: of an unsound adapter the card says why not.
    pub fn is_sound(&self) -> bool {
        match self {
            Self::Adapter(card) => !card.verdict.starts_with(REFUSED),
            Self::Foreign(card) => !card.verdict.starts_with(REFUSED),
            Self::Model(card) => card.numbers.as_deref().is_none_or(|found| found == FINITE),
            Self::Kit(_) => true,
        }
    }
}

/// A kit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KitCard {
    /// The file.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The hash of the file.
    pub sha256: ContentHash,
    /// Its seed inputs, in full.
    pub seeds: Vec<String>,
    /// The size of its discriminator, where it has one.
    pub discriminator_bytes: Option<u64>,
    /// The size of its input model, where it has one.
    pub input_model_bytes: Option<u64>,
    /// What the kit says about itself.
    pub manifest: Manifest,
    /// What it gives away of the data, a sentence each.
    pub privacy: Vec<String>,
}

/// Say what a GGUF file is: a model, an adapter or a kit.
///
/// bounds: holds the header, and the whole of a kit; the rest of a file is hashed in pieces
/// fails: it cannot be read or is not a whole GGUF
pub fn inspect(path: &Path) -> Result<Inspection, PipelineError> {
    inspect_against(path, &Against::default())
}

/// The same, compared with a base or a chat template.
///
/// fails: as [`inspect`]; a base or a template that cannot be read
pub fn inspect_against(path: &Path, against: &Against<'_>) -> Result<Inspection, PipelineError> {
    let limits = Limits::default();
    if let Some(facts) = kit::foreign(path)? {
        return foreign(path, &facts, against);
    }
    let header = kit::read_parts(path, &limits)?;
    let file = File {
        path: path.to_owned(),
        bytes: header.bytes(),
        sha256: kit::hash_file(path)?,
        parts: header.paths().len(),
    };
    if kit::is_kit(&header) {
        let kit = Kit::open(path, &limits)?;
        return Ok(Inspection::Kit(Box::new(kit_card(file, &kit))));
    }
    match header.get("general.type").and_then(Value::as_str) {
        Some("adapter") => {
            let whole = kit::read_bytes(path, translora_lora::limits::FILE_BYTES_MAX)?;
            let refused = match &against.base {
                None => Lora::read(&whole).err().map(|error| error.to_string()),
                Some(base) => match kit::adapter_bytes(path, base) {
                    Ok(_) => None,
                    Err(KitError::Adapter { source, .. }) => Some(source.to_string()),
                    Err(error) => return Err(error.into()),
                },
            };
            let card = adapter_card(file, &header, refused);
            Ok(Inspection::Adapter(AdapterCard {
                base: against.base.clone(),
                ..card
            }))
        }
        _ => {
            let own = header.get(MODEL_KEY).and_then(Value::as_str);
            let chat_template = verdict_of(&against.chat, own)?;
            let broken = against.numbers.then(|| kit::no_number(path, &limits));
            let numbers = broken.transpose()?;
            Ok(Inspection::Model(ModelCard {
                chat_template,
                numbers: numbers.map(|found| found.unwrap_or_else(|| FINITE.into())),
                ..model_card(file, &header)
            }))
        }
    }
}

/// An adapter of another format: as GGUF where a base is named, else what it says of itself.
fn foreign(
    path: &Path,
    facts: &ForeignFacts,
    against: &Against<'_>,
) -> Result<Inspection, PipelineError> {
    let unknown = |verdict: String| {
        Inspection::Foreign(ForeignCard {
            path: path.to_owned(),
            format: facts.format.into(),
            made_for: facts.base.clone(),
            rank: facts.rank,
            alpha: facts.alpha,
            verdict,
        })
    };
    let Some(base) = &against.base else {
        return Ok(unknown(
            "not known without a base to compare it with".into(),
        ));
    };
    let (mut verdict, mut read) = ("sound", kit::adapter_bytes(path, base).map(|read| read.0));
    if let Err(KitError::Adapter { source, .. }) = &read
        && source.is_dora()
    {
        (verdict, read) = (DORA, kit::dora_bytes(path, base));
    }
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(KitError::Adapter { source, .. }) => return Ok(unknown(format!("{REFUSED}{source}"))),
        Err(error) => return Err(error.into()),
    };
    let engine = against.engine;
    match engine.map_or(Ok(()), |engine| engine.same_words(base, path)) {
        Ok(()) => {}
        Err(EngineError::Adapter { source, .. }) => {
            return Ok(unknown(format!("{REFUSED}{source}")));
        }
        Err(error) => return Err(error.into()),
    }
    let gguf = Gguf::parse(&bytes).map_err(|error| KitError::Adapter {
        path: path.to_owned(),
        source: error.into(),
    })?;
    let file = File {
        path: path.to_owned(),
        bytes: bytes.len() as u64,
        sha256: ContentHash::of(&bytes),
        parts: 1,
    };
    Ok(Inspection::Adapter(AdapterCard {
        format: facts.format.into(),
        base: Some(base.clone()),
        verdict: verdict.into(),
        ..adapter_card(file, &gguf, None)
    }))
}

struct File {
    path: PathBuf,
    bytes: u64,
    sha256: ContentHash,
    parts: usize,
}

fn kit_card(file: File, kit: &Kit) -> KitCard {
    KitCard {
        path: file.path,
        bytes: file.bytes,
        sha256: file.sha256,
        seeds: kit
            .seeds()
            .iter()
            .map(|seed| seed.text().to_owned())
            .collect(),
        discriminator_bytes: kit.discriminator().map(|bytes| bytes.len() as u64),
        input_model_bytes: kit.input_model().map(|(bytes, _)| bytes.len() as u64),
        manifest: kit.manifest().clone(),
        privacy: kit.manifest().privacy(kit.seeds().len()),
    }
}

fn model_card(file: File, header: &Header) -> ModelCard {
    let architecture = text(header, "general.architecture").unwrap_or_else(|| "unknown".into());
    let number = |key: &str| {
        header
            .get(&format!("{architecture}.{key}"))
            .and_then(Value::as_u64)
    };
    ModelCard {
        name: text(header, "general.name"),
        parameters: header.tensors().iter().map(Tensor::elements).sum(),
        layers: number("block_count"),
        context: number("context_length"),
        embedding: number("embedding_length"),
        tensors: header.tensors().len(),
        types: types(header),
        chat_template: verdict(header.get(MODEL_KEY).and_then(Value::as_str)),
        numbers: None,
        translora: translora(header),
        path: file.path,
        bytes: file.bytes,
        sha256: file.sha256,
        parts: (file.parts > 1).then_some(file.parts),
        architecture,
    }
}

fn adapter_card(file: File, header: &Header, refused: Option<String>) -> AdapterCard {
    let (mut modules, mut layers, mut matrices, mut rank) =
        (BTreeMap::new(), BTreeSet::new(), 0, None);
    for a in header.tensors() {
        let Some(base) = a.name.strip_suffix(".lora_a") else {
            continue;
        };
        let Some(b) = header.tensor(&format!("{base}.lora_b")) else {
            continue;
        };
        let side = |tensor: &Tensor, i: usize| tensor.shape.get(i).copied().unwrap_or(1);
        matrices += 1;
        rank = Some(rank.unwrap_or(0).max(side(a, 1)));
        let (block, module) = block_and_module(base);
        layers.extend(block);
        modules.insert(module.to_owned(), [side(a, 0), side(b, 1)]);
    }
    AdapterCard {
        architecture: text(header, "general.architecture").unwrap_or_else(|| "unknown".into()),
        rank,
        alpha: header.get("adapter.lora.alpha").and_then(Value::as_f64),
        verdict: refused.map_or_else(|| "sound".into(), |reason| format!("{REFUSED}{reason}")),
        format: "GGUF".into(),
        base: None,
        matrices,
        modules,
        layers: layers.len(),
        parameters: header.tensors().iter().map(Tensor::elements).sum(),
        types: types(header),
        translora: translora(header),
        path: file.path,
        bytes: file.bytes,
        sha256: file.sha256,
    }
}

/// `blk.7.attn_q.weight` → block 7, `attn_q`.
fn block_and_module(name: &str) -> (Option<u64>, &str) {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let inside = name
        .strip_prefix("blk.")
        .and_then(|rest| rest.split_once('.'));
    match inside.and_then(|(block, module)| block.parse().ok().map(|block| (block, module))) {
        Some((block, module)) => (Some(block), module),
        None => (None, name),
    }
}

fn text(header: &Header, key: &str) -> Option<String> {
    header.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn types(header: &Header) -> BTreeMap<String, usize> {
    let mut types = BTreeMap::new();
    for tensor in header.tensors() {
        *types.entry(tensor.kind.to_string()).or_default() += 1;
    }
    types
}

fn translora(header: &Header) -> BTreeMap<String, String> {
    let ours = header
        .metadata()
        .filter(|(key, _)| key.starts_with("translora."));
    ours.filter_map(|(key, value)| Some((key.to_owned(), value.as_str()?.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        assert_eq!(block_and_module("blk.7.attn_q.weight"), (Some(7), "attn_q"));
        assert_eq!(block_and_module("output.weight"), (None, "output"));
        assert_eq!(block_and_module("blk.x.y"), (None, "blk.x.y"));
    }
}
