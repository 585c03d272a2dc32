//! Where the trainer's tests run: on the CPU, or on the device that `TRANSLORA_DEVICE` names
//! (`translora inspect --list-devices`; `CPU` for the CPU as if it were a device, with the rules
//! and the scheduler that devices have).
#![allow(dead_code, reason = "not every test reads everything")]

use std::path::{Path, PathBuf};

use translora_gguf::Gguf;
use translora_llama::{Backend, Model, ModelParams, quantize, synthesize};
use translora_train::testing::architectures;
use translora_train::testing::reference::{ReferenceLora, ReferenceModel, causal};
use translora_train::testing::tiny::{TinyArchitecture, TinyShape, tiny_model};
use translora_train::{Example, ForwardWeights, Kernel, LoraPair, TrainSpec, Trainer};

pub fn exact() -> ForwardWeights {
    ForwardWeights::Direct(Kernel::exact())
}

pub fn fast() -> ForwardWeights {
    ForwardWeights::Direct(Kernel::fast())
}

pub fn spec(forward: ForwardWeights) -> TrainSpec {
    TrainSpec {
        rank: 4,
        alpha: 8.0,
        seed: 7,
        forward,
        threads: 2,
        ..TrainSpec::default()
    }
}

/// Numbers that look random.
pub struct Random(pub u32);

impl Random {
    fn draw(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 8
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.draw() as usize % n
    }

    /// From 0 to 1.
    pub fn unit(&mut self) -> f64 {
        f64::from(self.draw()) / f64::from(1 << 24)
    }
}

/// Give B numbers, so that every gradient is alive.
pub fn wake(trainer: &mut Trainer) {
    let mut random = Random(1);
    change_b(trainer, |_| (random.unit() - 0.5) as f32 * 0.1);
}

/// Set each number of B.
pub fn change_b(trainer: &mut Trainer, mut change: impl FnMut(f32) -> f32) {
    let mut adapter = trainer.adapter().clone();
    let b = adapter.pairs.iter_mut().flat_map(|pair| &mut pair.b);
    b.for_each(|b| *b = change(*b));
    trainer.set_adapter(adapter).unwrap();
}

/// A file of the laboratory.
pub fn lab(name: &str) -> PathBuf {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/lab");
    lab.join(name)
}

/// A lab model in another type, in a folder that goes with the guard.
pub fn variant(folder: &Path, name: &str, kind: &str) -> PathBuf {
    let out = folder.join(format!("{name}.{kind}.gguf"));
    let plain = lab(&format!("{name}.f16.gguf"));
    quantize(Backend::init().unwrap(), &plain, &out, kind).unwrap();
    out
}

/// A tiny random model, its matrices of this type.
pub fn tiny(
    folder: &Path,
    architecture: TinyArchitecture,
    shape: &TinyShape,
    kind: &str,
) -> PathBuf {
    let name = architecture.name();
    let plain = folder.join(format!("{name}.plain.gguf"));
    let path = folder.join(format!("{name}.{kind}.gguf"));
    std::fs::write(&plain, tiny_model(architecture, 3, shape)).unwrap();
    quantize(Backend::init().unwrap(), &plain, &path, kind).unwrap();
    path
}

/// The metadata of all models that llama.cpp can build.
pub fn pack() -> Vec<u8> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read(manifest.join("tests/architectures.gguf")).unwrap()
}

/// A random model with the metadata of one of them.
pub fn synthetic(folder: &Path, name: &str, deviation: f32) -> PathBuf {
    let (header, path) = (
        folder.join(format!("{name}.metadata")),
        folder.join(format!("{name}.gguf")),
    );
    let bytes = pack();
    let metadata = architectures::metadata(&Gguf::parse(&bytes).unwrap(), name).unwrap();
    std::fs::write(&header, metadata).unwrap();
    synthesize(Backend::init().unwrap(), &header, 7, deviation, &path).unwrap();
    path
}

/// The weight of a token of an example's completion.
pub fn weight(example: &Example, token: usize) -> f64 {
    let weights = example.weights.as_ref();
    weights.map_or(1.0, |weights| f64::from(weights[token]))
}

/// The mean loss by weight, and its gradients for A and B of each pair in turn, by the naive
/// reference, one example after another. `judge` has the loss and the slopes of a token's logits,
/// by the numbers of the example and of the token in its completion.
pub fn by_reference(
    model: &Path,
    trainer: &Trainer,
    examples: &[Example],
    judge: impl Fn(usize, usize, &[f64]) -> (f64, Vec<f64>),
) -> (f64, Vec<Vec<f64>>) {
    let (bytes, adapter) = (std::fs::read(model).unwrap(), trainer.to_gguf(&[]).unwrap());
    let reference = ReferenceModel::from_gguf(&Gguf::parse(&bytes).unwrap()).unwrap();
    let lora = ReferenceLora::from_gguf(&Gguf::parse(&adapter).unwrap()).unwrap();
    let all = |example: &Example| {
        (0..example.outputs())
            .map(|token| weight(example, token))
            .sum::<f64>()
    };
    let total: f64 = examples.iter().map(all).sum();
    let pairs = &trainer.adapter().pairs;
    let zeros = |pair: &LoraPair| [vec![0.0; pair.a.len()], vec![0.0; pair.b.len()]];
    let (mut loss, mut sums) = (0.0, pairs.iter().flat_map(zeros).collect::<Vec<_>>());
    for (e, example) in examples.iter().enumerate() {
        let inputs = &example.tokens[..example.inputs()];
        let tokens: Vec<u32> = inputs.iter().map(|token| *token as u32).collect();
        let positions: Vec<i32> = (0..tokens.len() as i32).collect();
        let judge = |at: usize, logits: &[f64]| {
            let token = (at + 1).checked_sub(example.completion)?;
            let share = weight(example, token) / total;
            let (loss, slopes) = judge(e, token, logits);
            Some((
                share * loss,
                slopes.iter().map(|slope| share * slope).collect(),
            ))
        };
        let (part, gradients) = reference
            .loss_and_gradients_by(&lora, &tokens, &positions, &causal, &judge)
            .unwrap();
        loss += part;
        for (p, pair) in pairs.iter().enumerate() {
            let (a, b) = &gradients[&pair.target.name];
            for (slot, more) in [(2 * p, a), (2 * p + 1, b)] {
                sums[slot]
                    .iter_mut()
                    .zip(more)
                    .for_each(|(sum, more)| *sum += more);
            }
        }
    }
    (loss, sums)
}

/// What a judge says where the example's own tokens are to be learnt.
pub fn cross_entropy(example: &Example, token: usize, logits: &[f64]) -> (f64, Vec<f64>) {
    let label = example.tokens[example.completion + token] as usize;
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - top).exp()).sum();
    let mut slopes: Vec<f64> = logits
        .iter()
        .map(|logit| (logit - top).exp() / sum)
        .collect();
    slopes[label] -= 1.0;
    (top + sum.ln() - logits[label], slopes)
}

/// The length of a vector.
pub fn length(values: impl IntoIterator<Item = f64>) -> f64 {
    values
        .into_iter()
        .map(|value| value * value)
        .sum::<f64>()
        .sqrt()
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// The length of the difference, as a share of the length.
pub fn error(ours: &[f32], theirs: &[f64]) -> f64 {
    let theirs_length = length(theirs.iter().copied());
    assert!(theirs_length > 0.0);
    length(ours.iter().zip(theirs).map(|(a, b)| f64::from(*a) - b)) / theirs_length
}

/// The worst error of all matrices.
pub fn worst(ours: &[Vec<f32>], theirs: &[Vec<f64>]) -> f64 {
    let errors = ours
        .iter()
        .zip(theirs)
        .map(|(ours, theirs)| error(ours, theirs));
    errors.fold(0.0, f64::max)
}

/// The device, if the tests run on one.
pub fn device() -> Option<String> {
    std::env::var("TRANSLORA_DEVICE")
        .ok()
        .filter(|name| !name.is_empty())
}

pub fn open(path: &Path) -> (Backend, Model) {
    open_on(path, device())
}

pub fn open_on(path: &Path, device: Option<String>) -> (Backend, Model) {
    open_layers(path, device, -1)
}

/// `gpu_layers` as in `ModelParams`.
pub fn open_layers(path: &Path, device: Option<String>, gpu_layers: i32) -> (Backend, Model) {
    let backend = Backend::init().unwrap();
    let device = device.or_else(|| Some("none".into()));
    let model = Model::load(
        backend,
        path,
        &ModelParams {
            device,
            gpu_layers,
            ..ModelParams::default()
        },
    )
    .unwrap();
    (backend, model)
}

/// Those ways to multiply with weights that differ where the tests run: a device has ggml's
/// products only.
pub fn ways<const N: usize>(all: [ForwardWeights; N]) -> Vec<ForwardWeights> {
    if device().is_some() {
        vec![ForwardWeights::Native]
    } else {
        all.into()
    }
}

/// What a tolerance of our own kernels becomes where ggml's products take their place.
///
/// Devices multiply quantized weights with activations that ggml rounds (8-bit blocks on the CPU,
/// 16-bit floats on most GPUs), and their Wᵀ is a copy in 16-bit floats: 3.5 % at most against the
/// naive reference on the CPU (`ForwardWeights::Native`, with Q8_0). Of F32 weights both are F32,
/// and only the order of sums differs.
pub fn tolerance(exact: f64, kind: &str) -> f64 {
    match (device(), kind) {
        (None, _) => exact,
        (Some(_), "f32") => exact.max(1e-3),
        (Some(_), _) => exact.max(5e-2),
    }
}

/// What a tolerance of the loss before each step of the optimizer becomes on a device that is not a
/// CPU: sines, powers and exponentials are approximations there, and AdamW's first steps move each
/// number by the whole learning rate, whichever sign its gradient has; where that is near zero an
/// error of 1e-5 decides.
pub fn trajectory(exact: f64, step: usize) -> f64 {
    let approximate = if step == 0 { 1e-4 } else { 1e-3 };
    if device().is_some_and(|name| name != "CPU") {
        exact.max(approximate)
    } else {
        exact
    }
}

/// Dense transformers of `architectures.gguf` whose training needs nothing but what devices have.
pub const DENSE: &str = "llama-dense mistral3-dense qwen2-dense qwen3-dense gemma-dense \
    gemma2-dense gemma3-dense phi3-dense gpt2-dense gptneox-dense falcon-dense granite-dense olmo2-dense smollm3-dense \
    starcoder2-dense exaone4-dense glm4-dense";
