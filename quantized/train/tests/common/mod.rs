//! Where the trainer's tests run: on the CPU, or on the device that `TRANSLORA_DEVICE` names
//! (`translora inspect --list-devices`; `CPU` for the CPU as if it were a device, with the rules
//! and the scheduler that devices have).
#![allow(dead_code, reason = "not every test reads everything")]

use std::path::Path;

use translora_llama::{Backend, Model, ModelParams};
use translora_train::ForwardWeights;

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
pub const DENSE: &[&str] = &[
    "llama-dense",
    "mistral3-dense",
    "qwen2-dense",
    "qwen3-dense",
    "gemma-dense",
    "gemma2-dense",
    "gemma3-dense",
    "phi3-dense",
    "gpt2-dense",
    "gptneox-dense",
    "falcon-dense",
    "granite-dense",
    "olmo2-dense",
    "smollm3-dense",
    "starcoder2-dense",
    "exaone4-dense",
    "glm4-dense",
];
