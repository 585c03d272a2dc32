use std::path::PathBuf;

use clap::{Args, ValueEnum};
use translora::engine::EngineError;
use translora::engine::ggml::bench::{self, BenchReport, BenchSpec, Way};
use translora::fetch::Wanted;
use translora::record::SystemClock;

use super::Processor;
use crate::args::{between, gpu_layers, memory};
use crate::failure::Failure;
use crate::files;
use crate::progress::Verbosity;
use crate::{Outcome, out};

/// Time training steps on random tokens
///
/// An adapter on all linear modules, one sequence a step, the loss taken in its second half. The
/// model needs no tokenizer.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  translora bench train -m base.gguf --tokens 512 --steps 5 --json"
)]
pub struct Train {
    /// Base model (GGUF)
    #[arg(short, long, value_name = "M.gguf")]
    model: PathBuf,

    /// Tokens in one step
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = between::<4, 32_768>)]
    tokens: usize,

    /// Steps that are timed, after one that is not
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = between::<1, 10_000>)]
    steps: usize,

    /// Rank of the adapter
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = between::<1, 1024>)]
    rank: usize,

    /// Processor threads; 0 takes all physical cores
    #[arg(short, long, value_name = "N", default_value_t = 0, value_parser = between::<0, 1024>)]
    threads: usize,

    /// Layers kept on the device (also written -ngl): a number, or `all`
    #[arg(long, visible_alias = "n-gpu-layers", value_name = "N", default_value = "all", value_parser = gpu_layers, allow_negative_numbers = true)]
    gpu_layers: i32,

    /// Devices to run on (also written -dev), as `translora inspect --list-devices` lists them, or
    /// `none` for the CPU alone
    #[arg(long, value_name = "NAMES")]
    device: Option<String>,

    /// The most that the process may hold, the model among it, such as 512MiB or 2GiB; steps are
    /// laid out to stay below it
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory: Option<usize>,

    /// What reads the frozen weights
    #[arg(long, value_enum, default_value_t = Mode::Fast)]
    mode: Mode,

    /// Use these instructions in our kernels and none beyond, to measure what another processor
    /// would do (ggml keeps its own)
    #[arg(long, value_name = "LEVEL", value_parser = bench::LEVELS)]
    kernels: Option<String>,

    /// The same step as another program would take it, to compare with
    #[arg(long, value_enum, conflicts_with = "mode")]
    peer: Option<Peer>,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Mode {
    /// Our kernels, in 16-bit integers where the processor multiplies them faster than floats
    Fast,
    /// Our kernels in f32
    Exact,
    /// ggml's products; gradients through transposed copies, as on a GPU
    Native,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Peer {
    /// ggml's own autodiff: gradients by OUT_PROD
    Outprod,
}

impl Train {
    pub fn run(self, verbosity: Verbosity) -> Result<Outcome, Failure> {
        let way = match (self.peer, self.mode) {
            (Some(Peer::Outprod), _) => Way::OutProd,
            (None, Mode::Fast) => Way::Fast,
            (None, Mode::Exact) => Way::Exact,
            (None, Mode::Native) => Way::Native,
        };
        let (tokens, steps, rank, threads) = (self.tokens, self.steps, self.rank, self.threads);
        let spec = BenchSpec {
            model: files::local(&self.model, Wanted::Model)?,
            tokens,
            steps,
            rank,
            threads,
            way,
            gpu_layers: self.gpu_layers,
            device: self.device,
            kernels: bench::level(self.kernels.as_deref()),
            memory: self.memory,
        };
        let done =
            bench::train(&spec, &SystemClock::default(), Processor::known()).map_err(|error| {
                match error {
                    EngineError::TooLarge(message) => Failure::Usage {
                        message,
                        hint: "raise --memory, lower --rank, or train fewer --tokens".into(),
                    },
                    error => error.into(),
                }
            })?;
        let measured = Measurement {
            peak_bytes: out::memory_bytes_max(),
            report: done,
        };
        let shown = usize::from(!measured.report.placement.is_empty())
            * if verbosity.verbose { usize::MAX } else { 1 };
        measured
            .report
            .placement
            .iter()
            .take(shown)
            .filter(|_| !verbosity.quiet)
            .for_each(|line| out::say(line));
        crate::report(verbosity, &measured, || out::columns(&rows(&measured)))?;
        Ok(Outcome::Done)
    }
}

#[derive(serde::Serialize)]
struct Measurement {
    /// The most that this process ever held, the model's pages among it.
    peak_bytes: Option<u64>,
    #[serde(flatten)]
    report: BenchReport,
}

fn rows(measured: &Measurement) -> Vec<(String, String)> {
    let BenchReport {
        plan,
        share,
        operations,
        ..
    } = &measured.report;
    let percent = |part: f64| format!("{:.1} %", 100.0 * part);
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let mut rows = vec![
        ("model".into(), plan.model.clone()),
        (
            "kernel".into(),
            format!(
                "{} ({}), {}, {} threads",
                plan.kernel, plan.mode, plan.device, plan.threads
            ),
        ),
        (
            "tokens/s".into(),
            format!("{:.1}", measured.report.tokens_per_second),
        ),
        (
            "tokens/CPU s".into(),
            measured
                .report
                .tokens_per_cpu_second
                .map_or("not known".into(), |speed| format!("{speed:.1}")),
        ),
        (
            "peak memory".into(),
            measured.peak_bytes.map_or("not known".into(), mib),
        ),
        (
            "predicted".into(),
            mib(measured.report.predicted_bytes as u64),
        ),
        (
            "kept".into(),
            format!(
                "{} of the forward pass, {} MiB for the loss",
                plan.keep,
                plan.loss_bytes >> 20
            ),
        ),
        ("trainer".into(), mib(measured.report.trainer_bytes as u64)),
    ];
    let parts = [
        ("forward", share.forward),
        ("loss", share.loss),
        ("backward", share.backward),
        ("optimizer", share.optimizer),
    ];
    rows.extend(parts.map(|(name, part)| (name.to_owned(), percent(part))));
    let mut slowest: Vec<_> = operations.iter().collect();
    slowest.sort_by(|a, b| b.1.total_cmp(a.1));
    rows.extend(
        slowest
            .into_iter()
            .map(|(name, part)| (format!("  {name}"), percent(*part))),
    );
    rows
}
