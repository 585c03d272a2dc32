//! Checks a model's training graph: its logits against llama.cpp's own, its gradients against
//! central differences.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use translora_llama::{
    Adapter as LoadedAdapter, Backend, Batch, Context, ContextParams, Kernel, Model,
};

use crate::adapter::Adapter;
use crate::error::TrainError;
use crate::pack::Example;
use crate::spec::TrainSpec;
use crate::survey::{Survey, survey};
use crate::trainer::Trainer;
use crate::weights::ForwardWeights;

/// Errors below this are good enough to look no further.
const GOOD: f64 = 1e-3;
/// Errors are taken relative to at least this share of the largest gradient norm.
const FLOOR: f64 = 1e-4;

/// Sizes of the check.
#[derive(Clone, Debug, PartialEq)]
pub struct GradCheck {
    /// The adapter, and how its gradients are computed.
    pub spec: TrainSpec,
    /// Random sequences, of different lengths.
    pub examples: usize,
    /// Tokens of the longest.
    pub tokens: usize,
    /// Compare with the gradients of exact kernels, not with difference quotients: what rounding
    /// costs, in two passes.
    pub rounding: bool,
}

/// What the check found.
#[derive(Clone, Debug, PartialEq)]
pub struct GradReport {
    /// What of the model can be trained.
    pub survey: Survey,
    /// Largest difference from llama.cpp's logits, as a share of the largest logit.
    pub logits_error: f64,
    /// The same with the adapter left out of llama.cpp: how much there was to see.
    pub adapter_effect: f64,
    /// By A and B of each adapted matrix.
    pub matrices: Vec<MatrixError>,
}

/// One matrix of the adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixError {
    /// Of its tensor in the adapter's file.
    pub name: String,
    /// units: loss per unit of the matrix, along the gradient.
    pub gradient_norm: f64,
    /// |difference quotient − gradient norm| / gradient norm, for the best of eight step sizes; or
    /// the norm of the difference from exact gradients, as a share of theirs.
    pub error: f64,
}

impl GradReport {
    /// The worst relative error of all matrices; 0 where there is none.
    pub fn worst(&self) -> f64 {
        self.matrices.iter().fold(0.0, |worst, matrix| {
            if matrix.error > worst || matrix.error.is_nan() {
                matrix.error
            } else {
                worst
            }
        })
    }
}

/// Run the check on random tokens with an adapter whose B is not zero. Works on models without a
/// vocabulary.
///
/// fails: as `Trainer::new`, except that where only upper blocks can be trained, those are checked.
pub fn gradcheck(
    backend: Backend,
    model: &Model,
    check: &GradCheck,
) -> Result<GradReport, TrainError> {
    let found = survey(backend, model, &check.spec.modules, check.spec.threads)?;
    let mut report = GradReport {
        survey: found,
        logits_error: 0.0,
        adapter_effect: 0.0,
        matrices: Vec::new(),
    };
    if report.survey.targets.is_empty() {
        return Ok(report);
    }
    let lowest = report
        .survey
        .blocked
        .as_ref()
        .and(report.survey.blocks)
        .map(|(first, _)| first);
    let spec = TrainSpec {
        first_block: check.spec.first_block.or(lowest),
        ..check.spec.clone()
    };
    let mut random = ChaCha8Rng::seed_from_u64(spec.seed);
    let mut trainer = Trainer::new(backend, model, &spec)?;
    trainer.set_adapter(with_random_b(trainer.adapter(), &mut random))?;
    let examples = examples(check, trainer.vocabulary(), &mut random);
    trainer.load(examples.clone())?;
    (report.logits_error, report.adapter_effect) =
        logits(model, &mut trainer, &examples, spec.threads)?;
    if !check.rounding {
        report.matrices = differences(&mut trainer, examples.len())?;
        return Ok(report);
    }
    let batch: Vec<usize> = (0..examples.len()).collect();
    let (adapter, (_, ours)) = (trainer.adapter().clone(), trainer.gradients(&batch)?);
    drop(trainer);
    let mut trainer = Trainer::new(
        backend,
        model,
        &TrainSpec {
            forward: ForwardWeights::Direct(Kernel::exact()),
            ..spec
        },
    )?;
    trainer.set_adapter(adapter)?;
    trainer.load(examples)?;
    let (_, exact) = trainer.gradients(&batch)?;
    report.matrices = roundings(trainer.adapter(), &ours, &exact);
    Ok(report)
}

/// How far gradients are from exact ones.
fn roundings(adapter: &Adapter, ours: &[Vec<f32>], exact: &[Vec<f32>]) -> Vec<MatrixError> {
    let floor = floor(exact);
    let error = |slot: usize| {
        let norm = length(&exact[slot]);
        let difference: Vec<f32> = ours[slot]
            .iter()
            .zip(&exact[slot])
            .map(|(ours, exact)| ours - exact)
            .collect();
        MatrixError {
            name: name(adapter, slot),
            gradient_norm: norm,
            error: length(&difference) / norm.max(floor).max(f64::MIN_POSITIVE),
        }
    };
    (0..exact.len()).map(error).collect()
}

/// F32 losses cannot show gradients that are this much smaller than others.
fn floor(gradients: &[Vec<f32>]) -> f64 {
    FLOOR
        * gradients
            .iter()
            .map(|gradient| length(gradient))
            .fold(0.0, f64::max)
}

fn name(adapter: &Adapter, slot: usize) -> String {
    format!(
        "{}.{}",
        adapter.pairs[slot / 2].target.name,
        if slot.is_multiple_of(2) {
            "lora_a"
        } else {
            "lora_b"
        }
    )
}

/// The adapter with a small random B, so that every gradient is alive.
fn with_random_b(adapter: &Adapter, random: &mut ChaCha8Rng) -> Adapter {
    let mut adapter = adapter.clone();
    for b in adapter.pairs.iter_mut().flat_map(|pair| &mut pair.b) {
        *b = (f64::from(random.next_u32()) / f64::from(u32::MAX) - 0.5) as f32 * 0.1;
    }
    adapter
}

fn examples(check: &GradCheck, words: usize, random: &mut ChaCha8Rng) -> Vec<Example> {
    let mut below = |n: usize| random.next_u32() as usize % n.max(1);
    let longest = check.tokens.max(6);
    let mut example = |number: usize| {
        let length = longest - below(longest / 3) * usize::from(number > 0);
        let tokens = (0..length).map(|_| below(words) as i32).collect();
        Example::new(tokens, length / 2, number)
    };
    (0..check.examples.max(1))
        .filter_map(|number| example(number).ok())
        .collect()
}

/// Ours against llama.cpp's with the adapter, and llama.cpp's without it against those.
fn logits(
    model: &Model,
    trainer: &mut Trainer,
    examples: &[Example],
    threads: u32,
) -> Result<(f64, f64), TrainError> {
    let file = tempfile::Builder::new()
        .prefix("translora-")
        .suffix(".gguf")
        .tempfile()?;
    std::fs::write(file.path(), trainer.to_gguf(&[])?)?;
    let adapter = LoadedAdapter::load(model, file.path())?;
    let (mut error, mut effect) = (0.0_f64, 0.0_f64);
    for (number, example) in examples.iter().enumerate() {
        let ours = trainer.logits(number)?;
        let theirs = decoded(model, Some(&adapter), example, threads)?;
        let bare = decoded(model, None, example, threads)?;
        error = error.max(distance(&theirs, &ours));
        effect = effect.max(distance(&theirs, &bare));
    }
    Ok((error, effect))
}

fn decoded(
    model: &Model,
    adapter: Option<&LoadedAdapter>,
    example: &Example,
    threads: u32,
) -> Result<Vec<Vec<f32>>, TrainError> {
    let tokens = u32::try_from(example.inputs())
        .unwrap_or(u32::MAX)
        .next_multiple_of(256);
    let params = ContextParams {
        context: tokens,
        batch: tokens,
        ubatch: tokens,
        sequences: 1,
        threads,
        exact: true,
        kernel: None,
    };
    let mut context = Context::new(model, &params)?;
    if let Some(adapter) = adapter {
        context.set_adapters(&[(adapter.clone(), 1.0)])?;
    }
    let mut batch = Batch::default();
    for (position, token) in example.tokens[..example.inputs()].iter().enumerate() {
        // All of them: for models that pick no outputs llama.cpp counts the rows wrongly otherwise.
        batch.push(*token, position as i32, 0, true);
    }
    context.decode(&batch)?;
    (example.completion - 1..example.inputs())
        .map(|row| Ok(context.logits(row)?.to_vec()))
        .collect()
}

/// The largest difference, as a share of the largest number of `a`; infinite where one is not a
/// number.
fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let pairs = || {
        a.iter()
            .flatten()
            .zip(b.iter().flatten())
            .map(|(a, b)| (f64::from(*a), f64::from(*b)))
    };
    if pairs().any(|(a, b)| !a.is_finite() || !b.is_finite()) {
        return f64::INFINITY;
    }
    let scale = pairs().fold(0.0_f64, |most, (a, _)| most.max(a.abs()));
    pairs().fold(0.0_f64, |most, (a, b)| most.max((a - b).abs())) / scale.max(f64::MIN_POSITIVE)
}

/// Along a matrix's gradient the slope of the loss is the gradient's norm: one number that tests
/// every entry.
fn differences(trainer: &mut Trainer, examples: usize) -> Result<Vec<MatrixError>, TrainError> {
    let batch: Vec<usize> = (0..examples).collect();
    let (_, gradients) = trainer.gradients(&batch)?;
    let base = trainer.adapter().clone();
    let floor = floor(&gradients);
    let mut found = Vec::with_capacity(gradients.len());
    for (slot, gradient) in gradients.iter().enumerate() {
        let pair = &base.pairs[slot / 2];
        let values = if slot % 2 == 0 { &pair.a } else { &pair.b };
        let norm = length(gradient);
        let mut error = f64::INFINITY;
        // A step changes the matrix by a share of itself: small against the curvature, large
        // against the rounding of the loss; and small enough, where experts are chosen, that the
        // choice stays.
        for share in [0.03, 0.1, 0.3, 1.0, 3.0, 0.01, 3e-3, 1e-3] {
            if norm == 0.0 || error < GOOD {
                break;
            }
            let size = share * length(values).max(1e-6);
            let mut at = |steps: f64| {
                let mut adapter = base.clone();
                let pair = &mut adapter.pairs[slot / 2];
                let values = if slot % 2 == 0 {
                    &mut pair.a
                } else {
                    &mut pair.b
                };
                for (value, g) in values.iter_mut().zip(gradient) {
                    *value += (steps * size * f64::from(*g) / norm) as f32;
                }
                trainer.set_adapter(adapter)?;
                Ok::<f64, TrainError>(trainer.loss(&batch)?.loss)
            };
            // Five points: the third derivative falls out.
            let quotient = (8.0 * (at(1.0)? - at(-1.0)?) - (at(2.0)? - at(-2.0)?)) / (12.0 * size);
            error = error.min((quotient - norm).abs() / norm.max(floor));
        }
        found.push(MatrixError {
            name: name(&base, slot),
            gradient_norm: norm,
            error,
        });
    }
    trainer.set_adapter(base)?;
    Ok(found)
}

fn length(values: &[f32]) -> f64 {
    values
        .iter()
        .map(|value| f64::from(*value).powi(2))
        .sum::<f64>()
        .sqrt()
}
