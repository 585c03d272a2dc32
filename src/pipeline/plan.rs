//! What each command asks for. Plans are plain data: printed first, journalled, hashed for
//! `--resume`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::distill::Schedule;
use crate::engine::OpenOptions;
use crate::filter::NEAR;
use crate::label::TokenWeights;
use crate::record::{Layers, Limits};

/// `translora train`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainPlan {
    pub model: PathBuf,
    pub data: PathBuf,
    pub out: PathBuf,
    pub recipe: RecipePlan,
    pub open: OpenOptions,
    pub limits: Limits,
    pub seed: u64,
    pub resume: bool,
}

/// The knobs of `distill` that a user may turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecipePlan {
    pub rank: usize,
    pub alpha: f32,
    /// Scale by alpha / √rank in place of alpha / rank.
    pub rslora: bool,
    pub modules: String,
    /// Layers that get an adapter; `None` means all.
    pub layers: Option<Layers>,
    pub epochs: f32,
    /// How often they start again at most, while the answers are not learnt.
    pub restarts: u32,
    /// `None`: by the model's width, see [`crate::distill::learning_rate`].
    pub learning_rate: Option<f32>,
    /// B's learning rate as a multiple of A's.
    pub b_rate: f32,
    pub schedule: Schedule,
    /// Share of the steps spent warming up.
    pub warmup: f32,
    pub batch: usize,
    /// Examples that go through the model at one time at most; 0: as many as fit.
    pub micro_batch: usize,
    /// What the process may hold at most while it trains. units: bytes.
    pub memory: Option<u64>,
    pub weight_decay: f32,
    /// Share of A's inputs that a step leaves out.
    pub dropout: f32,
    /// Gradient norm above which a step is scaled down; 0 switches it off.
    pub clip_norm: f32,
    /// Epochs without a lower loss on a held-out tenth that end the training, whose best adapter is
    /// then kept; 0 trains to the end on all.
    pub patience: usize,
}

/// [`RecipePlan::restarts`] of a transfer.
pub const RESTARTS: u32 = 2;

impl Default for RecipePlan {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            rslora: false,
            modules: "all".into(),
            layers: None,
            epochs: 3.0,
            restarts: 0,
            learning_rate: None,
            b_rate: 1.0,
            schedule: Schedule::Cosine,
            warmup: 0.05,
            batch: 8,
            micro_batch: 0,
            memory: None,
            weight_decay: 0.0,
            dropout: 0.0,
            clip_norm: 1.0,
            patience: 0,
        }
    }
}

/// `translora kit`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KitPlan {
    pub model: PathBuf,
    pub lora: PathBuf,
    pub data: PathBuf,
    pub out: PathBuf,
    /// Seed inputs kept in the kit.
    pub seeds: usize,
    /// Train a LoRA that makes inputs, too.
    pub input_model: bool,
    /// The discriminator's recipe.
    pub recipe: RecipePlan,
    /// The input model's.
    pub input_recipe: RecipePlan,
    pub open: OpenOptions,
    pub limits: Limits,
    pub seed: u64,
    pub resume: bool,
}

/// What filters the candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilterChoice {
    /// The contrast, and the kit's discriminator too where it is good.
    Auto,
    /// The kit's discriminator alone.
    Kit,
    Contrast,
    /// The contrast, then the discriminator.
    Both,
    None,
}

impl FilterChoice {
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kit => "kit",
            Self::Contrast => "contrast",
            Self::Both => "both",
            Self::None => "none",
        }
    }
}

/// Who makes inputs up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GeneratorChoice {
    /// The kit's input model where there is one, else the target base, in the later rounds fitted
    /// on the best of the earlier ones.
    Auto,
    Target,
    Source,
    SourceLora,
    /// The target and the source base, in turns.
    Mix,
    /// The target base, which is shown no seeds: what inputs are worth that know nothing of the
    /// task.
    Anything,
}

/// Which inputs are held for repetitions of others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Repeats {
    /// Those that share this part of their word trigrams; 0: none.
    pub near: f32,
    /// Those that differ in numbers only.
    pub numbers: bool,
    /// Those that have this part of a seed's words in a row; 0: none.
    pub seed_run: f32,
}

impl Default for Repeats {
    fn default() -> Self {
        Self {
            near: NEAR as f32,
            numbers: false,
            seed_run: 0.0,
        }
    }
}

/// What the new adapter is fitted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectiveChoice {
    /// By the rule in `teaching.rs`, which the report tells.
    #[default]
    Auto,
    /// The teacher's answers.
    Text,
    /// The teacher's distribution at each token of its answers; one vocabulary only.
    Kl,
    /// The same at the tokens and for the words that both vocabularies have; text elsewhere.
    Aligned,
    /// The target base's own distribution, shifted by what the adapter does to the source's.
    Delta,
}

impl ObjectiveChoice {
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Kl => "kl",
            Self::Aligned => "aligned",
            Self::Delta => "delta",
        }
    }
}

/// How the teacher answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LabelChoice {
    #[default]
    Greedy,
    /// By what most of several drawn answers agree on; inputs on which too few do are dropped.
    Consistent,
}

/// `translora transfer`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransferPlan {
    pub source: PathBuf,
    pub source_lora: PathBuf,
    pub target: PathBuf,
    pub inputs: Inputs,
    pub out: PathBuf,
    pub samples: usize,
    pub filter: FilterChoice,
    pub generator: GeneratorChoice,
    #[serde(default)]
    pub label: LabelChoice,
    #[serde(default)]
    pub objective: ObjectiveChoice,
    #[serde(default)]
    pub token_weights: TokenWeights,
    /// How far `delta` may take a token's distribution from the target base's own. units: nats
    #[serde(default = "kl_budget")]
    pub kl_budget: f32,
    pub temperature: f32,
    #[serde(default)]
    pub repeats: Repeats,
    pub eval: Option<PathBuf>,
    /// An adapter made for the target on real data, to measure against.
    #[serde(default)]
    pub oracle: Option<PathBuf>,
    /// Share of the rows that decide on which the adapter may be wrong where the bare target was
    /// right.
    #[serde(default = "flip_budget")]
    pub flip_budget: f32,
    /// Go on where the source adapter is not seen to be better than its base.
    #[serde(default)]
    pub allow_weak_source: bool,
    pub recipe: RecipePlan,
    pub open: OpenOptions,
    pub limits: Limits,
    pub seed: u64,
    pub resume: bool,
}

/// One row in twenty.
pub fn flip_budget() -> f32 {
    0.05
}

/// Enough to make a word likely that one in fifty thousand were.
pub fn kl_budget() -> f32 {
    10.0
}

/// Where the seed inputs come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Inputs {
    Kit(PathBuf),
    Seeds(PathBuf),
}

/// `translora eval`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalPlan {
    pub model: PathBuf,
    pub lora: Option<PathBuf>,
    pub data: PathBuf,
    /// Where every row goes with its answer.
    pub answers: Option<PathBuf>,
    pub open: OpenOptions,
    pub limits: Limits,
}
