//! Measures training steps on random tokens. Needs no tokenizer and no template, so that a model of
//! random weights will do.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use translora_llama::{Backend, ModelParams};
use translora_train::{
    Checkpoints, Example, ForwardWeights, Kernel, Memory, Plan as TrainPlan, StepTimes, TrainError,
    TrainSpec, Trainer,
};

use super::{internal, of_path};
use crate::engine::EngineError;
use crate::record::{Clock, Rng};

mod generate;

pub use generate::{GeneratePlan, GenerateReport, GenerateSpec, WIDTH_MAX, generate};
pub use translora_llama::Level;

/// What reads the frozen weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Our kernels, the fastest that this machine has.
    Fast,
    /// Our kernels in f32.
    Exact,
    /// ggml's products, gradients by transposed copies.
    Native,
    /// ggml's products, gradients by OUT_PROD: the stock autodiff, a peer to compare with.
    OutProd,
}

/// Names of what `BenchSpec::kernels` may be, each with all that stand before it.
pub const LEVELS: [&str; 5] = ["portable", "avx2", "avx-vnni", "avx512", "avx512-vnni"];

/// What a name in `LEVELS` stands for.
pub fn level(name: Option<&str>) -> Option<Level> {
    Level::ALL
        .into_iter()
        .find(|(known, _)| Some(*known) == name)
        .map(|(_, level)| level)
}

/// What is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchSpec {
    /// The base model.
    pub model: PathBuf,
    /// Length of the one sequence of a step; the loss is taken in its second half.
    pub tokens: usize,
    /// Steps that are measured.
    pub steps: usize,
    /// Of the adapter.
    pub rank: usize,
    /// 0 means all physical cores.
    pub threads: usize,
    /// What reads the weights.
    pub way: Way,
    /// As `OpenOptions` has them.
    pub gpu_layers: i32,
    /// As `OpenOptions` has it.
    pub device: Option<String>,
    /// The highest level of instructions that our kernels may use, of those in `LEVELS`; `None`
    /// means all there is.
    pub kernels: Option<Level>,
    /// What the process may hold at most. units: bytes.
    pub memory: Option<usize>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BenchReport {
    /// Of the median step.
    pub tokens_per_second: f64,
    /// The same by the processor's time: what is left of it where other work runs beside. units:
    /// tokens a second.
    pub tokens_per_cpu_second: Option<f64>,
    /// units: seconds.
    pub steps: Vec<f64>,
    /// Loss of the first step. units: nats
    pub loss_first: f64,
    /// Loss of the last step. units: nats
    pub loss_last: f64,
    /// What the trainer holds: copies of weights, adapter, optimizer state, work memory. units:
    /// bytes.
    pub trainer_bytes: usize,
    /// What the process was predicted to hold at most. units: bytes.
    pub predicted_bytes: usize,
    /// How it was laid out.
    pub plan: BenchPlan,
    /// Shares of the time of all steps.
    pub share: BenchShare,
    /// The most that the device was predicted to hold, and what it holds. units: bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_predicted_bytes: Option<usize>,
    /// What the device holds. units: bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_bytes: Option<usize>,
    /// What of a step runs where, where it is on a device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub placement: Vec<String>,
    /// Operations that took a hundredth of the time or more.
    pub operations: BTreeMap<String, f64>,
}

/// How the steps were laid out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BenchPlan {
    /// The model's name.
    pub model: String,
    /// How weights are read.
    pub mode: &'static str,
    /// The kernels that multiply.
    pub kernel: String,
    /// Threads of the processor.
    pub threads: usize,
    /// Where it ran.
    pub device: String,
    /// Tokens of a step.
    pub tokens: usize,
    /// Of the adapter.
    pub rank: usize,
    /// Matrices that are adapted.
    pub matrices: usize,
    /// What was allowed. units: bytes.
    pub memory: Option<usize>,
    /// What is kept between forward and backward: `most` values, or those between `blocks`.
    pub keep: &'static str,
    /// units: bytes that logits and their gradients may take at one time.
    pub loss_bytes: usize,
    /// The prediction by its parts. units: bytes.
    pub parts: BTreeMap<&'static str, usize>,
}

/// Where the time went, each from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BenchShare {
    /// The forward pass.
    pub forward: f64,
    /// The loss and its gradient.
    pub loss: f64,
    /// The backward pass.
    pub backward: f64,
    /// The optimizer, and what goes between it and the graph.
    pub optimizer: f64,
}

/// Train a few steps and say how fast it went. One step more is taken first, which is not counted.
/// `processor` tells the time that this process computed, if anything does.
///
/// fails: the model does not load or cannot be trained, or fewer than four tokens.
pub fn train(
    spec: &BenchSpec,
    clock: &dyn Clock,
    processor: Option<&dyn Clock>,
) -> Result<BenchReport, EngineError> {
    if spec.tokens < 4 || spec.steps == 0 {
        let reason = format!(
            "{} tokens in {} steps: at least 4 and 1",
            spec.tokens, spec.steps
        );
        return Err(EngineError::Example { index: 0, reason });
    }
    spec.kernels.into_iter().for_each(Level::limit);
    let backend = Backend::init().map_err(internal)?;
    let params = ModelParams {
        gpu_layers: spec.gpu_layers,
        device: spec.device.clone(),
        mmap: true,
        mlock: false,
        repack: false,
    };
    let model = translora_llama::Model::load(backend, &spec.model, &params)
        .map_err(|error| of_path(&spec.model, error))?;
    let untrainable = |error: TrainError| match error {
        error @ TrainError::Memory { .. } => EngineError::TooLarge(error.to_string()),
        error => EngineError::Untrainable {
            model: spec.model.display().to_string(),
            reason: error.to_string(),
        },
    };
    let threads = if spec.threads > 0 {
        spec.threads
    } else {
        num_cpus::get_physical()
    };
    let (mode, forward, kernel) = reading(spec.way, model.is_on_device());
    let plan = TrainSpec {
        rank: spec.rank,
        alpha: 2.0 * spec.rank as f32,
        seed: 1,
        forward,
        memory: spec.memory,
        threads: u32::try_from(threads).unwrap_or(1),
        ..TrainSpec::default()
    };
    let mut trainer = Trainer::new(backend, &model, &plan).map_err(untrainable)?;
    let chosen = trainer
        .load(vec![
            random_example(spec.tokens, model.vocab().len()).map_err(untrainable)?,
        ])
        .map_err(untrainable)?;
    let steps = Steps::take(&mut trainer, spec.steps, clock, processor).map_err(untrainable)?;
    let plan = BenchPlan {
        model: model.name(),
        mode,
        kernel: kernel.to_owned(),
        threads,
        device: trainer.device(),
        tokens: spec.tokens,
        rank: spec.rank,
        matrices: trainer.adapter().pairs.len(),
        memory: spec.memory,
        keep: keep_name(chosen.checkpoints),
        loss_bytes: chosen.loss_bytes,
        parts: parts(&chosen.memory),
    };
    Ok(steps.report(&trainer, plan, &chosen))
}

/// What the steps of a benchmark took and came to.
struct Steps {
    seconds: Vec<f64>,
    /// Of this process; empty where nothing tells it.
    computed: Vec<f64>,
    loss_first: f64,
    loss_last: f64,
}

impl Steps {
    /// Take one step that is not counted, then `count`.
    fn take(
        trainer: &mut Trainer,
        count: usize,
        clock: &dyn Clock,
        processor: Option<&dyn Clock>,
    ) -> Result<Self, TrainError> {
        let first = trainer.step(&[0], 1e-4)?;
        trainer.record_times();
        let mut steps = Self {
            seconds: Vec::new(),
            computed: Vec::new(),
            loss_first: first.loss,
            loss_last: first.loss,
        };
        for _ in 0..count {
            let (start, before) = (clock.elapsed(), processor.map(Clock::elapsed));
            steps.loss_last = trainer.step(&[0], 1e-4)?.loss;
            steps.seconds.push((clock.elapsed() - start).as_secs_f64());
            steps.computed.extend(
                processor
                    .zip(before)
                    .map(|(processor, before)| (processor.elapsed() - before).as_secs_f64()),
            );
        }
        Ok(steps)
    }

    fn report(self, trainer: &Trainer, plan: BenchPlan, chosen: &TrainPlan) -> BenchReport {
        let total: f64 = self.seconds.iter().sum();
        let times = trainer.times().cloned().unwrap_or_default();
        let per_second = |seconds: &[f64]| plan.tokens as f64 / median(seconds);
        BenchReport {
            tokens_per_second: per_second(&self.seconds),
            tokens_per_cpu_second: (!self.computed.is_empty()).then(|| per_second(&self.computed)),
            loss_first: self.loss_first,
            loss_last: self.loss_last,
            trainer_bytes: trainer.bytes(),
            predicted_bytes: chosen.memory.peak(),
            device_predicted_bytes: chosen.device.map(|memory| memory.peak()),
            device_bytes: trainer.device_bytes(),
            placement: trainer
                .placement()
                .map(super::placement_lines)
                .unwrap_or_default(),
            share: share(&times, total),
            operations: times
                .operations
                .into_iter()
                .map(|(name, time)| (name, time / total))
                .filter(|(_, part)| *part >= 0.01)
                .collect(),
            steps: self.seconds,
            plan,
        }
    }
}

/// What reads the frozen weights, by a name, and the kernel's.
fn reading(way: Way, on_device: bool) -> (&'static str, ForwardWeights, &'static str) {
    match way {
        _ if on_device => (
            "native",
            ForwardWeights::Native,
            "ggml MUL_MAT on the device, gradients by Wᵀ",
        ),
        Way::Fast => (
            "direct",
            ForwardWeights::Direct(Kernel::fast()),
            Kernel::fast().name(),
        ),
        Way::Exact => (
            "direct",
            ForwardWeights::Direct(Kernel::exact()),
            Kernel::exact().name(),
        ),
        Way::Native => (
            "native",
            ForwardWeights::Native,
            "ggml MUL_MAT, transposed copies",
        ),
        Way::OutProd => (
            "outprod",
            ForwardWeights::OutProd,
            "ggml MUL_MAT and OUT_PROD",
        ),
    }
}

fn keep_name(checkpoints: Checkpoints) -> &'static str {
    match checkpoints {
        Checkpoints::Most => "most",
        Checkpoints::Blocks => "blocks",
    }
}

fn parts(memory: &Memory) -> BTreeMap<&'static str, usize> {
    let Memory {
        process,
        model,
        copies,
        adapter,
        graphs,
        tracing,
        frozen,
        work,
    } = *memory;
    [
        ("process", process),
        ("model", model),
        ("copies", copies),
        ("adapter", adapter),
        ("graphs", graphs),
        ("tracing", tracing),
        ("frozen", frozen),
        ("work", work),
    ]
    .into()
}

fn share(times: &StepTimes, total: f64) -> BenchShare {
    let computed = times.forward + times.loss + times.backward;
    BenchShare {
        forward: times.forward / total,
        loss: times.loss / total,
        backward: times.backward / total,
        optimizer: (total - computed) / total,
    }
}

/// `tokens` tokens go in; those of the second half are predicted, but for one, so that with its
/// padding the number is even.
fn random_example(tokens: usize, vocabulary: usize) -> Result<Example, TrainError> {
    let mut rng = Rng::new(1, "bench");
    let words = (0..=tokens)
        .map(|_| i32::try_from(rng.below(vocabulary.max(1))).unwrap_or(0))
        .collect();
    Example::new(words, tokens / 2 + 2, 0)
}

fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_between() {
        assert_eq!(median(&[3.0, 1.0, 9.0]), 3.0);
        assert_eq!(median(&[4.0, 1.0, 9.0, 2.0]), 3.0);
    }

    #[test]
    fn levels_have_their_names() {
        assert_eq!(LEVELS, Level::ALL.map(|(name, _)| name));
    }

    #[test]
    fn half_of_the_places_are_predicted() {
        let example = random_example(64, 100).unwrap();
        assert_eq!((example.inputs(), example.outputs()), (64, 31));
    }
}
