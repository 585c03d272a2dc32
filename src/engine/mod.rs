//! What a stage may ask of a model: generate, score, label, train.
//!
//! Stages see these traits and never a token, a tensor or a device. Two engines implement them:
//! `toy` (deterministic, no C) and `ggml` (llama.cpp's models, ggml's arithmetic).

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::record::{Cancel, ContentHash, Pair, Prompt};
use crate::request::{Machine, Shape};

pub mod chat;
mod error;
mod file;
#[cfg(feature = "ggml")]
pub mod ggml;
pub mod host;
pub mod renderer;
mod teach;
pub mod toy;
mod unrender;
pub mod watch;

pub use chat::{ChatInfo, ChatOptions, ChatOrigin};
pub use error::EngineError;
pub use teach::{Lesson, LogsOf, Objective, SoftLabels, Spelling, Spoken, Teach, Token, WordsOf};

/// Opens base models. One engine per process; models are independent of each other.
pub trait Engine: Send + Sync {
    /// Its name and version, for provenance.
    fn version(&self) -> String;

    /// Open a base model for inference and training.
    ///
    /// fails: the file is missing, truncated, not a GGUF, of an unknown architecture, or has no
    /// usable tokenizer or chat template.
    fn open(&self, base: &Path, options: &OpenOptions) -> Result<Box<dyn Model>, EngineError>;

    /// Open a base model for serving; see [`host`].
    ///
    /// fails: as `open`, but a missing chat template is no reason; too little memory for
    /// `sequences` of `options.context` tokens each.
    fn host(
        &self,
        base: &Path,
        options: &OpenOptions,
        sequences: usize,
    ) -> Result<host::Hosted, EngineError>;

    /// Check that the tokenizer beside an adapter of PEFT or MLX, where there is one, cuts texts as
    /// a base does.
    ///
    /// fails: it does not, or one of them cannot be read
    fn same_words(&self, _base: &Path, _adapter: &Path) -> Result<(), EngineError> {
        Ok(())
    }

    /// Write a base model with an adapter in its weights, multiplied by a scale, each matrix in the
    /// type that it has.
    ///
    /// fails: no sound adapter, or none for this base; a type that cannot be written; `out`
    fn merge(
        &self,
        base: &Path,
        _adapter: &Path,
        _scale: f32,
        _out: &mut dyn Write,
        _cancel: &Cancel,
    ) -> Result<Merged, EngineError> {
        Err(EngineError::Unmergeable {
            path: base.to_owned(),
            reason: "this engine writes no models".into(),
        })
    }
}

/// What merging did to the weights of the matrices that an adapter adapts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Merged {
    /// It is DoRA, which has no form beside the base.
    pub dora: bool,
    /// Matrices that the adapter adapts.
    pub matrices: usize,
    /// All tensors of the model.
    pub tensors: usize,
    /// Root mean square of what the adapter adds, as a share of the weights'.
    pub change: f64,
    /// The same of what rounding to the type of the base adds.
    pub error: f64,
    /// The largest number that rounding added.
    pub error_max: f64,
}

/// The engine that reads this base: the toy where the file is a toy base, or where this build has
/// no other; llama.cpp's for everything else.
///
/// fails: llama.cpp does not start
pub fn of_base(base: &Path) -> Result<Box<dyn Engine>, EngineError> {
    if toy::is_base(base) {
        return Ok(Box::new(toy::Toy));
    }
    #[cfg(feature = "ggml")]
    return Ok(Box::new(ggml::GgmlEngine::new()?));
    #[cfg(not(feature = "ggml"))]
    return Ok(Box::new(toy::Toy));
}

/// How to place a model on this machine. Names are llama.cpp's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenOptions {
    /// `-t`; 0 means all physical cores.
    pub threads: usize,
    /// `-ngl`; layers kept on the GPU, negative means all.
    pub gpu_layers: i32,
    /// `-dev`; devices with commas between, `none` for the CPU alone. Left out, all GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// `-c`; tokens of context for each sequence, 0 means what the model was trained with, at most
    /// 4096.
    pub context: usize,
    /// The model is opened for its answers: its weights may be laid out anew for faster products,
    /// which takes memory of its own. It can be trained on all the same, from the file. No setting
    /// of a run, but what a stage knows of itself.
    #[serde(skip)]
    pub repack: bool,
    /// How the weights of a server lie in memory, and the sizes of its steps.
    #[serde(skip)]
    pub memory: MemoryOptions,
    /// How conversations become text.
    #[serde(skip)]
    pub chat: ChatOptions,
}

/// What a server may say of memory and of steps. Names are llama.cpp's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOptions {
    /// `--no-mmap`: read the file instead of mapping it.
    pub no_mmap: bool,
    /// `--mlock`: keep the weights in memory.
    pub mlock: bool,
    /// `-b`: tokens of one step at most.
    pub batch: usize,
    /// `-ub`: tokens that are computed together at most.
    pub ubatch: usize,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            no_mmap: false,
            mlock: false,
            batch: 512,
            ubatch: 512,
        }
    }
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            threads: 0,
            gpu_layers: -1,
            device: None,
            context: 0,
            repack: false,
            memory: MemoryOptions::default(),
            chat: ChatOptions::default(),
        }
    }
}

impl From<&Machine> for OpenOptions {
    fn from(machine: &Machine) -> Self {
        Self {
            threads: machine.threads,
            gpu_layers: machine.gpu_layers,
            device: machine.device.clone(),
            context: machine.ctx_size,
            repack: false,
            memory: MemoryOptions::default(),
            chat: ChatOptions {
                template: machine.chat.chat_template.clone(),
                kwargs: machine
                    .chat
                    .chat_template_kwargs
                    .clone()
                    .unwrap_or_default(),
                ..ChatOptions::default()
            },
        }
    }
}

/// What a base model is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// The file; of a split model the first.
    #[serde(serialize_with = "crate::record::path_as_text")]
    pub path: PathBuf,
    /// `general.name`, or the file's.
    pub name: String,
    /// `general.architecture`.
    pub architecture: String,
    /// The hash of the file, of all parts where it is split.
    pub hash: ContentHash,
    /// Numbers in all weights.
    pub parameters: u64,
    /// Memory of the weights.
    pub bytes: u64,
    /// Blocks of the model.
    pub layers: usize,
    /// Numbers that a layer hands on for each token (`embedding_length`).
    pub width: usize,
    /// Words of the vocabulary.
    pub vocabulary: usize,
    /// Tokens of a sequence at most, as it is opened.
    pub context: usize,
    /// Tokens of a sequence that the model was trained on; none where its file does not say.
    pub context_trained: Option<usize>,
}

impl ModelInfo {
    /// A warning where it was opened for longer texts than it was trained on.
    pub fn beyond_training(&self) -> Option<String> {
        let trained = self.context_trained?;
        (self.context > trained).then(|| {
            format!(
                "{}: a context of {} tokens, and the model was trained on {trained}: \
                what lies beyond may be read and answered badly",
                self.path.display(),
                self.context
            )
        })
    }
}

/// An adapter that was loaded onto one model; the number is meaningless elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdapterId(pub usize);

/// Which weights answer: the base alone, or the base with an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// The base alone.
    Base,
    /// The base with this adapter.
    Adapter(AdapterId),
}

/// A base model with everything a stage may ask of it.
pub trait Model: Generate + Score + Label + Teach + Train {
    /// What the model is.
    fn info(&self) -> &ModelInfo;

    /// The chat template in use; none where the engine has no templates.
    fn chat(&self) -> Option<&ChatInfo> {
        None
    }

    /// The conversation that the chat template writes as this text; none where it writes none so.
    fn conversation(&self, _text: &str) -> Option<Prompt> {
        None
    }

    /// Load a LoRA GGUF onto this base.
    ///
    /// fails: not an adapter, made for another base (architecture, tensor names or shapes differ),
    /// or not finite.
    fn attach(&mut self, adapter: &Path) -> Result<AdapterId, EngineError>;

    /// The files with adapters in copies of its weights: adapters that cannot stand beside them.
    fn copies(&self) -> Vec<&Path> {
        Vec::new()
    }

    /// The greedy answer to each prompt, and log p(completion, end of turn | prompt) of the
    /// completion that is wanted: [`Label::answer`] and [`Score::score`] together, for an engine
    /// that can do with reading each prompt once.
    fn examine(
        &mut self,
        with: With,
        pairs: &[Pair],
        tokens_max: usize,
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<(Answer, CompletionScore)>, EngineError> {
        let prompts: Vec<Prompt> = pairs.iter().map(|pair| pair.prompt.clone()).collect();
        let answers = self.answer(with, &prompts, tokens_max, monitor)?;
        Ok(answers
            .into_iter()
            .zip(self.score(with, pairs, monitor)?)
            .collect())
    }

    /// Read every weight of `text` as the tokenizer does and say whether it survives: encoded,
    /// decoded, compared.
    ///
    /// fails: the tokenizer cannot encode the text without loss, or it is longer than the context.
    fn check_text(&self, text: &str) -> Result<(), EngineError>;

    /// The first piece of a text that the tokenizer reads as markup of the model's own, if any.
    fn markup(&self, _text: &str) -> Option<String> {
        None
    }
}

/// Draw continuations.
pub trait Generate {
    /// Sample one continuation of `request.start` for each of `request.openings`, side by side.
    /// Each ends before the first of `request.stop` (nothing stops where that is empty), at the end
    /// of text or turn, or at `request.tokens_max` (then `finished` is false). Deterministic in
    /// `request.seed`.
    fn generate(
        &mut self,
        with: With,
        request: &GenerateRequest,
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<Continuation>, EngineError>;
}

/// What a model goes on from.
#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    /// Raw text, without a template.
    Text(String),
    /// A conversation under the chat template; the answer is drawn.
    Chat(Prompt),
}

/// What is to be drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    /// What each continuation follows.
    pub start: Start,
    /// Words each continuation begins with; empty for none. They are part of its text.
    pub openings: Vec<String>,
    /// Tokens that are drawn for each opening at most.
    pub tokens_max: usize,
    /// Of the sampling; 0 is greedy.
    pub temperature: f32,
    /// A token that is less likely than this times the likeliest one is never drawn; 0 for none.
    pub min_p: f32,
    /// Text before which a continuation ends; empty for none.
    pub stop: String,
    /// Decides every draw.
    pub seed: u64,
}

/// What was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Continuation {
    /// The text, with its opening.
    pub text: String,
    /// Tokens that were drawn.
    pub tokens: usize,
    /// It ended by itself, and not for its length.
    pub finished: bool,
}

/// Answer chat prompts greedily.
pub trait Label {
    /// The greedy answer to each prompt under the model's chat template, in the order given.
    fn answer(
        &mut self,
        with: With,
        prompts: &[Prompt],
        tokens_max: usize,
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<Answer>, EngineError>;
}

/// What a model answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The answer, without the markup that ends it.
    pub text: String,
    /// Tokens of the answer.
    pub tokens: usize,
    /// The model ended its turn by itself.
    pub finished: bool,
    /// Sum over the answer's tokens (the end of turn included) of the natural log of their
    /// probability.
    pub log_probability: f64,
}

/// Weigh given completions.
pub trait Score {
    /// log p(completion, end of turn | prompt) of each pair under the chat template, in the order
    /// given.
    fn score(
        &mut self,
        with: With,
        pairs: &[Pair],
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<CompletionScore>, EngineError>;

    /// ln p(a) − ln p(b) for the first tokens of two words as the answer to each prompt.
    ///
    /// fails: the two words begin with the same token.
    fn preference(
        &mut self,
        with: With,
        prompts: &[Prompt],
        a: &str,
        b: &str,
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<f64>, EngineError>;

    /// Logits where each token of the completion is predicted, the end of turn included, as a stock
    /// server computes them.
    ///
    /// shapes: completion tokens, vocabulary
    fn logits(&mut self, with: With, pair: &Pair) -> Result<Vec<Vec<f32>>, EngineError>;
}

/// How likely a model holds a completion.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompletionScore {
    /// units: nats, summed over `tokens`.
    pub log_probability: f64,
    /// Tokens of the completion, the end of turn included.
    pub tokens: usize,
}

/// Fit a LoRA on this base.
pub trait Train {
    /// Start a fresh adapter. The trainer borrows the model until it is dropped.
    fn trainer(&mut self, spec: &LoraSpec) -> Result<Box<dyn Trainer + '_>, EngineError>;
}

/// Whether logits make a distribution. A token may be forbidden (minus infinity), but not all of
/// them, and none may be NaN or infinitely likely.
pub fn is_distribution(logits: &[f32]) -> bool {
    let (mut some, mut odd) = (false, false);
    for logit in logits {
        some |= logit.is_finite();
        odd |= logit.is_nan() || *logit == f32::INFINITY;
    }
    some && !odd
}

/// The shape and optimizer constants of an adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraSpec {
    /// What a user may choose. `batch` is for predicting memory only.
    pub shape: Shape,
    /// [`Trainer::load_taught`] takes what `Match` needs.
    pub objective: Objective,
    /// Of the fresh weights and of dropout.
    pub seed: u64,
    /// Decay of AdamW's first moment.
    pub beta1: f32,
    /// Decay of AdamW's second moment.
    pub beta2: f32,
    /// Added to AdamW's divisor.
    pub epsilon: f32,
    /// The run keeps its best state beside the present one; for predicting memory only.
    pub keeps_best: bool,
}

impl LoraSpec {
    /// The alpha that yields the wanted scale when it is divided by the rank, which is all
    /// llama.cpp does.
    pub fn written_alpha(&self) -> f32 {
        if self.shape.rslora {
            self.shape.alpha * (self.shape.rank as f32).sqrt()
        } else {
            self.shape.alpha
        }
    }
}

impl Default for LoraSpec {
    fn default() -> Self {
        Self {
            shape: Shape::default(),
            objective: Objective::Text,
            seed: 0,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            keeps_best: false,
        }
    }
}

/// A LoRA being fitted. Steps are the caller's: the trainer owns weights and optimizer state, not
/// the schedule.
pub trait Trainer {
    /// What was placed where, for the plan a run prints: adapted matrices, trainable parameters,
    /// bytes.
    fn describe(&self) -> TrainerInfo;

    /// Prepare examples once (template, tokens); later calls name them by index.
    ///
    /// fails: an example is empty after tokenizing or longer than the context, with its index.
    fn load(&mut self, examples: &[Pair]) -> Result<(), EngineError>;

    /// The same with soft labels or weights for the tokens of each example.
    ///
    /// fails: labels that do not fit the tokens of their example, with its index.
    fn load_taught(&mut self, examples: &[Pair], labels: &[SoftLabels]) -> Result<(), EngineError>;

    /// One optimizer step on the mean completion-token loss of `batch` (indices into the loaded
    /// examples).
    fn step(&mut self, batch: &[usize], learning_rate: f32) -> Result<StepReport, EngineError>;

    /// Mean completion-token loss of `batch`, without a step.
    fn loss(&mut self, batch: &[usize]) -> Result<StepReport, EngineError>;

    /// The first example of `batch` to which the base alone gives a loss that is not finite, as an
    /// error that says what is known of the cause. No learning rate mends that.
    fn blame_base(&mut self, _batch: &[usize]) -> Result<(), EngineError> {
        Ok(())
    }

    /// [`Score::logits`] of a loaded example, by the graph that is trained.
    fn logits(&mut self, example: usize) -> Result<Vec<Vec<f32>>, EngineError>;

    /// Weights and optimizer state as bytes; `restore` continues exactly there.
    fn snapshot(&self) -> Result<Vec<u8>, EngineError>;

    /// fails: the bytes are of another spec or base, or damaged.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), EngineError>;

    /// The adapter as the bytes of a LoRA GGUF that llama.cpp loads, with `metadata` (keys
    /// `translora.*`) in its header.
    fn adapter(&self, metadata: &[(String, String)]) -> Result<Vec<u8>, EngineError>;
}

/// What a trainer has placed where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerInfo {
    /// Matrices that are adapted.
    pub matrices: usize,
    /// Numbers that are trained.
    pub parameters: u64,
    /// Modules that are adapted.
    pub modules: Vec<String>,
    /// Where a step runs.
    pub device: String,
    /// What of a step runs where, once one was taken on a device: lines of a table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub placement: Vec<String>,
    /// How the loaded examples are trained on, where the engine plans that.
    #[serde(default)]
    pub plan: Option<MemoryPlan>,
}

/// How training is laid out in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// Tokens that examples are packed up to, and those of the largest pack.
    pub pack: usize,
    /// Tokens of the largest pack.
    pub tokens: usize,
    /// Only what passes between blocks is kept for the backward pass; the rest is computed again.
    pub blocks_again: bool,
    /// units: bytes that logits and their gradients may take at one time.
    pub loss_bytes: u64,
    /// units: bytes of values that are kept of what lies below the first adapted layer; 0: none.
    pub frozen_bytes: u64,
    /// What the process will hold at most. units: bytes.
    pub predicted_bytes: u64,
    /// What the device will hold at most, where training is on one. units: bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_bytes: Option<u64>,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Mean over completion tokens. units: nats.
    pub loss: f64,
    /// Before clipping; 0 where no gradient was taken.
    pub gradient_norm: f64,
    /// Tokens that passed through the model.
    pub tokens: usize,
    /// Tokens the loss was taken at.
    pub completion_tokens: usize,
}

/// How long work reports back: a progress callback (done, total) and the flag that stops it.
pub struct Monitor<'a> {
    /// Stops the work.
    pub cancel: &'a Cancel,
    /// Called with what is done and what there is.
    pub progress: &'a mut dyn FnMut(usize, usize),
}

impl Monitor<'_> {
    /// Report `done` of `total` and fail if the run was asked to stop.
    pub fn tick(&mut self, done: usize, total: usize) -> Result<(), EngineError> {
        (self.progress)(done, total);
        self.cancel.check()?;
        Ok(())
    }
}
