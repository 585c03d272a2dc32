//! Measures how fast many sequences go on side by side over a prefix that they share: what
//! generating, labelling and filtering do. Needs no tokenizer.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use translora_llama::{Backend, Batch, Context, ContextParams, Kernel, Level, Model, ModelParams};

use super::median;
use crate::engine::EngineError;
use crate::engine::ggml::decode::{self, Job, Reader};
use crate::engine::ggml::softmax::draw;
use crate::engine::ggml::{BATCH, SEQUENCES, internal, of_path};
use crate::record::{Clock, Rng};

/// The most sequences that go on side by side: one more holds the prefix.
pub const WIDTH_MAX: usize = SEQUENCES - 1;
/// Tokens of a first batch that is not counted.
const WARM: usize = 16;

/// What is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateSpec {
    /// The base model.
    pub model: PathBuf,
    /// Sequences side by side, at most `WIDTH_MAX`.
    pub width: usize,
    /// Tokens that they share.
    pub prefix: usize,
    /// Tokens that each draws.
    pub tokens: usize,
    /// What they are drawn at; the likeliest are taken at 0.
    pub temperature: f32,
    /// 0 means all physical cores.
    pub threads: usize,
    /// As a transfer has it that may take the memory.
    pub repack: bool,
    /// ggml's own products only.
    pub native: bool,
    /// The highest level of instructions that our kernels may use; `None` means all there is.
    pub kernels: Option<Level>,
    /// As `OpenOptions` has them.
    pub gpu_layers: i32,
    /// As `OpenOptions` has it.
    pub device: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GenerateReport {
    /// Of all sequences together, choosing the tokens included.
    pub tokens_per_second: f64,
    /// The same by the processor's time.
    pub tokens_per_cpu_second: Option<f64>,
    /// Of the prefix, which is decoded once.
    pub prefix_tokens_per_second: f64,
    /// One token for each sequence, at the median.
    pub step_ms: f64,
    /// Of that, choosing the tokens.
    pub draw_ms: f64,
    /// How it was laid out.
    pub plan: GeneratePlan,
}

/// How the sequences were laid out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GeneratePlan {
    /// The model's name.
    pub model: String,
    /// Threads of the processor.
    pub threads: usize,
    /// Where it ran.
    pub device: String,
    /// Sequences side by side.
    pub width: usize,
    /// Tokens that they share.
    pub prefix: usize,
    /// Tokens that each drew.
    pub tokens: usize,
    /// What they were drawn at.
    pub temperature: f32,
}

/// Draw tokens for some sequences over a prefix of random tokens and say how fast it went. A small
/// batch is decoded first, which is not counted. `processor` tells the time that this process
/// computed, if anything does.
///
/// fails: the model does not load, too little memory, a width or a length that is not there
pub fn generate(
    spec: &GenerateSpec,
    clock: &dyn Clock,
    processor: Option<&dyn Clock>,
) -> Result<GenerateReport, EngineError> {
    if !(1..=WIDTH_MAX).contains(&spec.width) || spec.tokens < 2 || spec.prefix == 0 {
        let reason = format!(
            "{} tokens for {} sequences over a prefix of {}",
            spec.tokens, spec.width, spec.prefix
        );
        return Err(EngineError::Example {
            index: 0,
            reason: format!("{reason}: at least 2 for 1 to {WIDTH_MAX} over 1"),
        });
    }
    spec.kernels.into_iter().for_each(Level::limit);
    let backend = Backend::init().map_err(internal)?;
    let params = ModelParams {
        gpu_layers: spec.gpu_layers,
        device: spec.device.clone(),
        mmap: true,
        mlock: false,
        repack: spec.repack,
    };
    let model =
        Model::load(backend, &spec.model, &params).map_err(|error| of_path(&spec.model, error))?;
    let threads = if spec.threads > 0 {
        spec.threads
    } else {
        num_cpus::get_physical()
    };
    let mut context = context(&model, spec, threads)?;
    let mut rng = Rng::new(1, "bench");
    let mut word = || i32::try_from(rng.below(model.vocab().len().max(1))).unwrap_or(0);
    warm(&mut context, &mut word)?;
    let prefix: Vec<i32> = (0..spec.prefix).map(|_| word()).collect();
    let jobs: Vec<Job> = (0..spec.width)
        .map(|_| Job {
            tokens: vec![word()],
            outputs_from: 0,
        })
        .collect();
    let mut draws = Draws {
        clock,
        processor,
        rng,
        spec,
        steps: Vec::with_capacity(spec.tokens),
    };
    let began = clock.elapsed();
    decode::run(&mut context, &prefix, &jobs, spec.tokens, &mut draws)?;
    let plan = GeneratePlan {
        model: model.name(),
        threads,
        device: model.device_names(),
        width: spec.width,
        prefix: spec.prefix,
        tokens: spec.tokens,
        temperature: spec.temperature,
    };
    report(plan, began, &draws.steps)
        .ok_or_else(|| EngineError::Internal("the sequences were not all drawn".into()))
}

fn context(model: &Model, spec: &GenerateSpec, threads: usize) -> Result<Context, EngineError> {
    let cells = (spec.prefix + spec.width * spec.tokens).next_multiple_of(256);
    let params = ContextParams {
        context: u32::try_from(cells).unwrap_or(u32::MAX),
        batch: BATCH as u32,
        ubatch: BATCH as u32,
        sequences: SEQUENCES as u32,
        threads: u32::try_from(threads).unwrap_or(1),
        exact: false,
        kernel: (!spec.native).then(Kernel::for_graphs),
    };
    Context::new(model, &params).map_err(|error| EngineError::Memory(error.to_string()))
}

fn warm(context: &mut Context, word: &mut impl FnMut() -> i32) -> Result<(), EngineError> {
    let mut batch = Batch::default();
    for position in 0..WARM {
        batch.push(word(), position as i32, 0, false);
    }
    context.decode(&batch).map_err(internal)?;
    context.clear();
    Ok(())
}

/// When the logits of a step were there, when its tokens were chosen, and what the process had
/// computed by then.
struct Step {
    decoded: Duration,
    chosen: Duration,
    computed: Option<Duration>,
}

struct Draws<'a> {
    clock: &'a dyn Clock,
    processor: Option<&'a dyn Clock>,
    rng: Rng,
    spec: &'a GenerateSpec,
    steps: Vec<Step>,
}

impl Reader for Draws<'_> {
    fn read(&mut self, job: usize, at: usize, logits: &[f32]) -> Option<i32> {
        if job == 0 {
            let now = self.clock.elapsed();
            self.steps.push(Step {
                decoded: now,
                chosen: now,
                computed: None,
            });
        }
        let token = draw(logits, self.spec.temperature, 0.0, &mut self.rng);
        if let Some(step) = self.steps.last_mut().filter(|_| job + 1 == self.spec.width) {
            step.chosen = self.clock.elapsed();
            step.computed = self.processor.map(Clock::elapsed);
        }
        (at + 1 < self.spec.tokens).then_some(token)
    }

    fn done(&mut self, _: usize) -> Result<(), EngineError> {
        Ok(())
    }
}

fn report(plan: GeneratePlan, began: Duration, steps: &[Step]) -> Option<GenerateReport> {
    let (first, last) = (steps.first()?, steps.last()?);
    if steps.len() != plan.tokens {
        return None;
    }
    let between: Vec<f64> = steps
        .windows(2)
        .map(|pair| (pair[1].chosen - pair[0].chosen).as_secs_f64())
        .collect();
    let choosing: Vec<f64> = steps
        .iter()
        .map(|step| (step.chosen - step.decoded).as_secs_f64())
        .collect();
    let (step, choice) = (median(&between), median(&choosing));
    let drawn = (plan.width * (plan.tokens - 1)) as f64;
    let computed = last
        .computed
        .zip(first.computed)
        .map(|(last, first)| (last - first).as_secs_f64());
    // The first step cannot be told from the prefix: it counts as the median.
    let prefix = (first.decoded - began).as_secs_f64() - (step - choice);
    Some(GenerateReport {
        tokens_per_second: drawn / (last.chosen - first.chosen).as_secs_f64(),
        tokens_per_cpu_second: computed
            .filter(|seconds| *seconds > 0.0)
            .map(|seconds| drawn / seconds),
        prefix_tokens_per_second: plan.prefix as f64 / prefix.max(1e-9),
        step_ms: 1e3 * step,
        draw_ms: 1e3 * choice,
        plan,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_rates() {
        let plan = GeneratePlan {
            model: "m".into(),
            threads: 1,
            device: "CPU".into(),
            width: 4,
            prefix: 90,
            tokens: 3,
            temperature: 1.0,
        };
        let step = |decoded, chosen| Step {
            decoded: Duration::from_millis(decoded),
            chosen: Duration::from_millis(chosen),
            computed: Some(Duration::from_millis(2 * chosen)),
        };
        let steps = [step(1100, 1110), step(1200, 1210), step(1300, 1310)];
        let report = report(plan.clone(), Duration::from_millis(110), &steps).unwrap();
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9 * b;
        assert!(near(report.tokens_per_second, 40.0), "{report:?}");
        assert!(
            near(report.tokens_per_cpu_second.unwrap(), 20.0),
            "{report:?}"
        );
        assert!(near(report.prefix_tokens_per_second, 100.0), "{report:?}");
        assert!(near(report.step_ms, 100.0), "{report:?}");
        assert!(near(report.draw_ms, 10.0), "{report:?}");
        assert!(super::report(plan, Duration::ZERO, &steps[..2]).is_none());
    }
}
