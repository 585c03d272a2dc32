//! The real engine: llama.cpp runs the models, `translora_train` trains on them.
//!
//! The only room that names those crates. Turns their errors into this room's and text into tokens
//! under the model's own template.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use translora_gguf::limits::MODEL_HEADER_BYTES_MAX;
use translora_gguf::{FileError, Parts};
use translora_llama::{Backend, Context, ContextParams, Kernel, LlamaError, ModelParams, map_file};
use translora_lora::{Foreign, LoraError};

use self::chat::Chat;
use self::merge::Kinds;
use self::weights::Loaded;
use super::chat::MODEL_KEY;
use super::host::Hosted;
use super::{
    AdapterId, Answer, ChatInfo, CompletionScore, Engine, EngineError, Merged, Model, ModelInfo,
    Monitor, OpenOptions, Spelling, With,
};
use crate::record::{Cancel, ContentHash, Pair, Prompt};

pub mod bench;
mod chat;
pub mod check;
mod decode;
mod host;
mod infer;
mod merge;
mod softmax;
mod teach;
mod train;
mod weights;

/// Tokens of context when nobody says and the model could do more.
const CONTEXT_DEFAULT: usize = 4096;
/// Width of a model that does not tell.
const WIDTH_DEFAULT: usize = 2048;
/// Sequences decoded side by side.
const SEQUENCES: usize = 32;
/// Tokens of one call of llama.cpp.
const BATCH: usize = 512;

/// llama.cpp and ggml, initialised.
pub struct GgmlEngine {
    backend: Backend,
}

impl GgmlEngine {
    /// Start llama.cpp and find the devices.
    pub fn new() -> Result<Self, EngineError> {
        let backend = Backend::init().map_err(internal)?;
        Ok(Self { backend })
    }
}

/// A device that models can be placed on, as ggml sees it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeviceInfo {
    /// ggml's name, as a device is chosen by.
    pub name: String,
    /// What the driver calls it.
    pub description: String,
    /// `CPU`, `GPU`, `IGPU` or `ACCEL`.
    pub kind: String,
    /// units: bytes
    pub memory_free: u64,
    /// All it has. units: bytes
    pub memory_total: u64,
}

impl GgmlEngine {
    /// The version of the ggml inside.
    pub fn ggml_version(&self) -> String {
        self.backend.version()
    }

    /// What llama.cpp was built to use, in its own words.
    pub fn system_info(&self) -> String {
        self.backend.system_info()
    }

    /// Every device, the processor included.
    pub fn devices(&self) -> Vec<DeviceInfo> {
        let info = |device: translora_llama::Device| DeviceInfo {
            name: device.name,
            description: device.description,
            kind: device.kind.to_owned(),
            memory_free: device.memory_free as u64,
            memory_total: device.memory_total as u64,
        };
        self.backend.devices().into_iter().map(info).collect()
    }
}

impl Engine for GgmlEngine {
    fn same_words(&self, base: &Path, adapter: &Path) -> Result<(), EngineError> {
        let unfit = |error: LoraError| EngineError::of_adapter(adapter.to_owned(), error);
        let foreign = Foreign::find(adapter).map_err(unfit)?;
        if !foreign.is_some_and(|foreign| foreign.has_tokenizer()) {
            return Ok(());
        }
        let model = translora_llama::Model::load(self.backend, base, &params(&weights::mapped()))
            .map_err(|error| of_path(base, error))?;
        model
            .same_words(adapter)
            .map_err(|error| of_path(adapter, error))
    }

    fn merge(
        &self,
        base: &Path,
        adapter: &Path,
        scale: f32,
        out: &mut dyn Write,
        cancel: &Cancel,
    ) -> Result<Merged, EngineError> {
        let threads = num_cpus::get_physical();
        merge::merge(
            base,
            adapter,
            (scale, Kinds::OfBase),
            out,
            (threads, cancel),
        )
    }

    fn version(&self) -> String {
        format!("ggml {}", self.ggml_version())
    }

    fn open(&self, base: &Path, options: &OpenOptions) -> Result<Box<dyn Model>, EngineError> {
        Ok(Box::new(GgmlModel::open(self.backend, base, options)?))
    }

    fn host(
        &self,
        base: &Path,
        options: &OpenOptions,
        sequences: usize,
    ) -> Result<Hosted, EngineError> {
        let (model, info) = load(self.backend, base, options)?;
        let threads = threads(options);
        let decoder =
            host::GgmlDecoder::new(&model, info.context, sequences, threads, options.memory)?;
        Ok(Hosted {
            host: Arc::new(host::GgmlHost::new(model, info, options)?),
            decoder: Box::new(decoder),
        })
    }
}

/// How llama.cpp is to load the weights.
fn params(options: &OpenOptions) -> ModelParams {
    ModelParams {
        gpu_layers: options.gpu_layers,
        device: options.device.clone(),
        mmap: !options.memory.no_mmap,
        mlock: options.memory.mlock,
        repack: options.repack,
    }
}

/// Load a plain decoder model that has a tokenizer, and say what it is.
fn load(
    backend: Backend,
    base: &Path,
    options: &OpenOptions,
) -> Result<(translora_llama::Model, ModelInfo), EngineError> {
    let refuse = |reason: String| EngineError::Model {
        path: base.to_owned(),
        reason,
    };
    let hash = hash_of_parts(base)?;
    let model = translora_llama::Model::load(backend, base, &params(options))
        .map_err(|error| of_path(base, error))?;
    if let Some(reason) = model.unusual() {
        return Err(refuse(format!(
            "{reason}; translora runs plain decoder models"
        )));
    }
    if model.vocab().is_absent() {
        return Err(refuse(
            "it has no tokenizer; use a GGUF that holds one".into(),
        ));
    }
    let number = |key: &str| {
        model
            .metadata(&format!("{}.{key}", model.architecture()))?
            .parse::<usize>()
            .ok()
    };
    let context_trained = number("context_length");
    let info = ModelInfo {
        path: base.to_owned(),
        name: model.name(),
        architecture: model.architecture(),
        hash,
        parameters: model.parameters(),
        bytes: model.bytes(),
        layers: model.layers(),
        width: number("embedding_length").unwrap_or(WIDTH_DEFAULT),
        vocabulary: model.vocab().len(),
        context: if options.context > 0 {
            options.context
        } else {
            context_trained.map_or(CONTEXT_DEFAULT, |trained| trained.min(CONTEXT_DEFAULT))
        },
        context_trained,
    };
    Ok((model, info))
}

/// The hash of a model's file, of all its parts one behind another where it is split.
fn hash_of_parts(base: &Path) -> Result<ContentHash, EngineError> {
    let paths = match Parts::files(base, MODEL_HEADER_BYTES_MAX) {
        Ok(paths) => paths,
        Err(FileError::Split(source)) => return Err(source.into()),
        // What is wrong with the file is reported when it is loaded.
        Err(_) => vec![base.to_owned()],
    };
    let map = |path: &PathBuf| map_file(path).map_err(|error| of_path(path, error));
    let maps = paths.iter().map(map).collect::<Result<Vec<_>, _>>()?;
    let parts: Vec<&[u8]> = maps.iter().map(|map| &**map).collect();
    Ok(ContentHash::of_parts(&parts))
}

fn threads(options: &OpenOptions) -> u32 {
    let threads = if options.threads > 0 {
        options.threads
    } else {
        num_cpus::get_physical()
    };
    u32::try_from(threads).unwrap_or(1)
}

/// An open base model. The inference context is made on first use and given up while training.
pub(crate) struct GgmlModel {
    backend: Backend,
    model: translora_llama::Model,
    chat: Chat,
    info: ModelInfo,
    adapters: Vec<Loaded>,
    /// The weights are those of this file, a copy with DoRA in it, and not of the base's own.
    copy: Option<PathBuf>,
    context: Option<Context>,
    active: With,
    threads: u32,
    /// As it was opened.
    options: OpenOptions,
    /// Words by their spelling, once somebody asks.
    spelled: OnceLock<HashMap<Spelling, i32>>,
}

impl GgmlModel {
    fn open(backend: Backend, base: &Path, options: &OpenOptions) -> Result<Self, EngineError> {
        let (model, info) = load(backend, base, options)?;
        let chat = ChatInfo::choose(&options.chat, model.metadata(MODEL_KEY))?;
        let blamed = chat.blamed(base);
        let chat = Chat::of(&model, chat, &options.chat).map_err(|error| match error {
            LlamaError::Template(reason) => EngineError::ChatTemplate {
                path: blamed,
                reason,
            },
            other => internal(other),
        })?;
        let threads = threads(options);
        let (options, spelled) = (options.clone(), OnceLock::new());
        Ok(Self {
            backend,
            model,
            chat,
            info,
            adapters: Vec::new(),
            copy: None,
            context: None,
            active: With::Base,
            threads,
            options,
            spelled,
        })
    }

    /// What errors call this model.
    fn path(&self) -> String {
        self.info.path.display().to_string()
    }

    /// The model with its weights as they lie in the file, for what reads them.
    fn readable(&self) -> Result<translora_llama::Model, EngineError> {
        if !self.options.repack {
            return Ok(self.model.clone());
        }
        Ok(load(
            self.backend,
            &self.info.path,
            &OpenOptions {
                repack: false,
                ..self.options.clone()
            },
        )?
        .0)
    }

    /// The inference context with `with` active and nothing remembered.
    fn ready(&mut self, with: With) -> Result<&mut Context, EngineError> {
        self.ready_by(Some(Kernel::for_graphs()), with)
    }

    /// The same with wide products by this kernel (`ContextParams` has it).
    fn ready_by(
        &mut self,
        kernel: Option<Kernel>,
        with: With,
    ) -> Result<&mut Context, EngineError> {
        self.weights(with)?;
        self.context
            .take_if(|context| context.params().kernel != kernel);
        if self.context.is_none() {
            // Cells are shared by all sequences: room for one full-length sequence, or for many
            // short ones.
            let cells = u32::try_from(self.info.context.max(CONTEXT_DEFAULT)).unwrap_or(u32::MAX);
            let params = ContextParams {
                context: cells,
                batch: BATCH as u32,
                ubatch: BATCH as u32,
                sequences: SEQUENCES as u32,
                threads: self.threads,
                exact: false,
                kernel,
            };
            self.context = Some(
                Context::new(&self.model, &params)
                    .map_err(|error| EngineError::Memory(error.to_string()))?,
            );
            self.active = With::Base;
        }
        let changed = self.active != with;
        let chosen = match with {
            With::Adapter(AdapterId(index)) if changed => self.beside(index)?,
            With::Base | With::Adapter(_) => None,
        };
        let Some(context) = self.context.as_mut() else {
            return Err(EngineError::Internal("no context".into()));
        };
        if changed {
            let chosen: Vec<_> = chosen.map(|adapter| (adapter, 1.0)).into_iter().collect();
            context.set_adapters(&chosen).map_err(internal)?;
            self.active = with;
        }
        context.clear();
        Ok(context)
    }
}

impl Model for GgmlModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn chat(&self) -> Option<&ChatInfo> {
        Some(self.chat.info())
    }

    fn conversation(&self, text: &str) -> Option<Prompt> {
        self.chat.conversation(&self.model, text)
    }

    fn attach(&mut self, adapter: &Path) -> Result<AdapterId, EngineError> {
        self.load_adapter(adapter)
    }

    fn copies(&self) -> Vec<&Path> {
        self.copies().collect()
    }

    fn examine(
        &mut self,
        with: With,
        pairs: &[Pair],
        tokens_max: usize,
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<(Answer, CompletionScore)>, EngineError> {
        self.examined(with, pairs, tokens_max, monitor)
    }

    fn markup(&self, text: &str) -> Option<String> {
        markup_in(&self.model, text)
    }

    fn check_text(&self, text: &str) -> Result<(), EngineError> {
        let refuse = |back: String| EngineError::Tokenizer {
            model: self.path(),
            text: clipped(text),
            back: clipped(&back),
        };
        let tokens = self
            .model
            .vocab()
            .encode(text, false)
            .map_err(|error| refuse(error.to_string()))?;
        if tokens.len() > self.info.context {
            return Err(EngineError::Context {
                needed: tokens.len(),
                context: self.info.context,
            });
        }
        let back = String::from_utf8_lossy(&self.model.vocab().decode(&tokens)).into_owned();
        // Sentence-piece vocabularies write a space in front.
        if back.trim_start() == text.trim_start() {
            Ok(())
        } else {
            Err(refuse(back))
        }
    }
}

/// The piece of a text that the tokenizer reads as markup, if any.
fn markup_in(model: &translora_llama::Model, text: &str) -> Option<String> {
    let vocab = model.vocab();
    let tokens = vocab.encode(text, true).ok()?;
    let found = tokens.into_iter().find(|&token| vocab.is_control(token))?;
    Some(String::from_utf8_lossy(&vocab.piece(found, true)).into_owned())
}

/// The start of a text, for a message.
fn clipped(text: &str) -> String {
    const CHARACTERS_MAX: usize = 120;
    let mut start: String = text.chars().take(CHARACTERS_MAX).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}

/// How much runs where, and then operation, how often, and where, one line each.
pub(crate) fn placement_lines(placement: &translora_train::Placement) -> Vec<String> {
    let line = |((operation, device), count): ((&String, &String), &usize)| {
        format!("{operation:28} {count:6}  {device}")
    };
    let mut devices: Vec<&String> = placement
        .operations
        .keys()
        .map(|(_, device)| device)
        .collect();
    devices.sort_unstable();
    devices.dedup();
    let sums: Vec<String> = devices
        .iter()
        .map(|device| format!("{} on {device}", placement.on(device)))
        .collect();
    let first = format!(
        "operations of a step: {}, in {} parts between which values move",
        sums.join(", "),
        placement.splits
    );
    std::iter::once(first)
        .chain(
            placement
                .operations
                .iter()
                .map(|((what, at), count)| line(((what, at), count))),
        )
        .collect()
}

fn of_path(path: &Path, error: LlamaError) -> EngineError {
    match error {
        LlamaError::File { path, source } => EngineError::File { path, source },
        LlamaError::Split(source) => EngineError::Split(source),
        LlamaError::Adapter { path, source } => EngineError::of_adapter(path, source),
        LlamaError::AdapterLoad { path, reason } => EngineError::AdapterLoad { path, reason },
        LlamaError::ModelLoad { reason, .. } => EngineError::Model {
            path: path.to_owned(),
            reason,
        },
        other => EngineError::Model {
            path: PathBuf::from(path),
            reason: other.to_string(),
        },
    }
}

/// What C++ says where there is no memory.
const NO_MEMORY: [&str; 2] = ["bad_alloc", "failed to allocate"];

fn internal(error: LlamaError) -> EngineError {
    let said = error.to_string();
    match error {
        _ if NO_MEMORY.iter().any(|words| said.contains(words)) => EngineError::Memory(said),
        LlamaError::Memory { what } => EngineError::Memory(what),
        LlamaError::Module { path, reason } => EngineError::Backend { path, reason },
        LlamaError::Template(reason) => EngineError::Template(reason),
        other => EngineError::Internal(other.to_string()),
    }
}

#[cfg(test)]
mod tests;
