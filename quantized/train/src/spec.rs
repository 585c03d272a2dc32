//! What to train, and how.

use translora_llama::Kernel;

use crate::checkpoints::Checkpoints;
use crate::frozen::FROZEN_BYTES;
use crate::loss::LOSS_BYTES;
use crate::objective::Objective;
use crate::optimizer::AdamW;
use crate::weights::{ForwardWeights, Transpose};

/// What to train, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainSpec {
    /// Rows of each A, columns of each B.
    pub rank: usize,
    /// The adapter is scaled by alpha / rank, or by alpha / √rank where `rslora` is set.
    pub alpha: f32,
    /// Rank-stabilized scale. llama.cpp knows alpha / rank only, so the file carries alpha · √rank.
    ///
    /// source: Kalajdzievski 2023
    pub rslora: bool,
    /// The matrices of every block that get an A and a B: `all` that there are (feed-forward,
    /// attention, recurrent layers, experts), `dense` for all but the experts, or a comma-separated
    /// list of `q k v o gate up down`.
    pub modules: String,
    /// Adapt this block and those above it only; `None` means all, and an error where that is not
    /// possible.
    pub first_block: Option<u32>,
    /// Adapt no block from this one on; `None` means to the last.
    pub end_block: Option<u32>,
    /// units: bytes of values that may be kept of what lies below the first adapted block, instead
    /// of computing it anew for each step; 0: none are.
    pub frozen_bytes: usize,
    /// Of A's first numbers, and of dropout.
    pub seed: u64,
    /// What is minimized.
    pub objective: Objective,
    /// How gradients move the numbers.
    pub optimizer: AdamW,
    /// B learns at this multiple of the learning rate of A.
    ///
    /// source: LoRA+ (Hayou, Ghosh, Yu 2024)
    pub lora_plus_ratio: f32,
    /// Share of the inputs of each A that a training step leaves out; what is left counts more by
    /// as much. While it is on, masks take 4 bytes for each input of each A and each token of a
    /// pack.
    pub dropout: f32,
    /// Global gradient norm above which a step is scaled down; 0 switches it off.
    pub max_grad_norm: f32,
    /// Examples that the model reads at one time at most; their gradients add up to the batch's. 0:
    /// as many as fit one pack.
    pub micro_batch: usize,
    /// On a device always `Native`.
    pub forward: ForwardWeights,
    /// How `Native` gradients read Wᵀ; on a device the first of this and those after it that fits.
    pub transpose: Transpose,
    /// What may be held on the device at most, its share of the model among it; left out, what is
    /// free there. units: bytes.
    pub device_memory: Option<usize>,
    /// What is kept between forward and backward. Changes memory and time, not a bit of the
    /// gradients.
    pub checkpoints: Checkpoints,
    /// units: bytes that logits and their gradients may take at one time (`LOSS_BYTES`).
    pub loss_bytes: usize,
    /// What the process may hold at most, the model's pages among it; `checkpoints`, `loss_bytes`
    /// and the tokens of a pack are then chosen so that it does. units: bytes.
    pub memory: Option<usize>,
    /// Examples of one step, where that is known; for predicting memory only.
    pub batch: usize,
    /// Snapshots that the caller holds at one time; for predicting memory only.
    pub snapshots: usize,
    /// Threads of the CPU.
    pub threads: u32,
}

impl Default for TrainSpec {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            rslora: false,
            modules: "all".into(),
            first_block: None,
            end_block: None,
            frozen_bytes: FROZEN_BYTES,
            seed: 0,
            objective: Objective::Text,
            optimizer: AdamW::default(),
            lora_plus_ratio: 1.0,
            dropout: 0.0,
            max_grad_norm: 1.0,
            micro_batch: 0,
            forward: ForwardWeights::Direct(Kernel::fast()),
            transpose: Transpose::F16,
            device_memory: None,
            checkpoints: Checkpoints::Most,
            loss_bytes: LOSS_BYTES,
            memory: None,
            batch: 0,
            snapshots: 0,
            threads: 1,
        }
    }
}

impl TrainSpec {
    /// The alpha that yields the wanted scale when it is divided by the rank.
    pub fn written_alpha(&self) -> f32 {
        if self.rslora {
            self.alpha * (self.rank as f32).sqrt()
        } else {
            self.alpha
        }
    }
}
