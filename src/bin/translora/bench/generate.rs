use std::path::PathBuf;

use clap::Args;
use translora::engine::ggml::bench::{self, GenerateReport, GenerateSpec, WIDTH_MAX};
use translora::fetch::Wanted;
use translora::record::SystemClock;

use super::Processor;
use crate::args::{between, gpu_layers, not_negative};
use crate::failure::Failure;
use crate::files;
use crate::progress::Verbosity;
use crate::{Outcome, out};

/// Time drawing tokens for many sequences side by side that share a prefix
///
/// What generating, filtering and labelling do. Prefix and beginnings are random tokens; the model
/// needs no tokenizer.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  translora bench generate -m base.gguf --width 31 --prefix 256 --json"
)]
pub struct Generate {
    /// Base model (GGUF)
    #[arg(short, long, value_name = "M.gguf")]
    model: PathBuf,

    /// Sequences side by side
    #[arg(long, value_name = "N", default_value_t = WIDTH_MAX, value_parser = between::<1, WIDTH_MAX>)]
    width: usize,

    /// Tokens that they share
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = between::<1, 32_768>)]
    prefix: usize,

    /// Tokens that each draws
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = between::<2, 8192>)]
    tokens: usize,

    /// What they are drawn at; 0 takes the likeliest
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = not_negative)]
    temperature: f32,

    /// Processor threads; 0 takes all physical cores
    #[arg(short, long, value_name = "N", default_value_t = 0, value_parser = between::<0, 1024>)]
    threads: usize,

    /// Leave the weights as they lie in the file, as a transfer with --memory does; ggml has faster
    /// products for some types laid out anew
    #[arg(long)]
    no_repack: bool,

    /// All products by ggml, none by kernels of our own
    #[arg(long)]
    native: bool,

    /// Use these instructions in our kernels and none beyond, to measure what another processor
    /// would do (ggml keeps its own)
    #[arg(long, value_name = "LEVEL", value_parser = bench::LEVELS)]
    kernels: Option<String>,

    /// Layers kept on the device (also written -ngl): a number, or `all`
    #[arg(long, visible_alias = "n-gpu-layers", value_name = "N", default_value = "all", value_parser = gpu_layers, allow_negative_numbers = true)]
    gpu_layers: i32,

    /// Devices to run on (also written -dev), as `translora inspect --list-devices` lists them, or
    /// `none` for the CPU alone
    #[arg(long, value_name = "NAMES")]
    device: Option<String>,
}

#[derive(serde::Serialize)]
struct Measurement {
    /// The most that this process ever held, the model's pages among it.
    peak_bytes: Option<u64>,
    #[serde(flatten)]
    report: GenerateReport,
}

impl Generate {
    pub fn run(self, verbosity: Verbosity) -> Result<Outcome, Failure> {
        let spec = GenerateSpec {
            model: files::local(&self.model, Wanted::Model)?,
            width: self.width,
            prefix: self.prefix,
            tokens: self.tokens,
            temperature: self.temperature,
            threads: self.threads,
            repack: !self.no_repack,
            native: self.native,
            kernels: bench::level(self.kernels.as_deref()),
            gpu_layers: self.gpu_layers,
            device: self.device,
        };
        let report = bench::generate(&spec, &SystemClock::default(), Processor::known())?;
        let measured = Measurement {
            peak_bytes: out::memory_bytes_max(),
            report,
        };
        crate::report(verbosity, &measured, || out::columns(&rows(&measured)))?;
        Ok(Outcome::Done)
    }
}

fn rows(measured: &Measurement) -> Vec<(String, String)> {
    let GenerateReport { plan, .. } = &measured.report;
    let rate = |speed: f64| format!("{speed:.1}");
    let work = format!(
        "{} tokens each of {} sequences over {}, temperature {}",
        plan.tokens, plan.width, plan.prefix, plan.temperature
    );
    vec![
        ("model".into(), plan.model.clone()),
        (
            "machine".into(),
            format!("{}, {} threads", plan.device, plan.threads),
        ),
        ("work".into(), work),
        ("tokens/s".into(), rate(measured.report.tokens_per_second)),
        (
            "tokens/CPU s".into(),
            measured
                .report
                .tokens_per_cpu_second
                .map_or("not known".into(), rate),
        ),
        (
            "prefix tokens/s".into(),
            rate(measured.report.prefix_tokens_per_second),
        ),
        (
            "step".into(),
            format!(
                "{:.2} ms, {:.2} of them choosing tokens",
                measured.report.step_ms, measured.report.draw_ms
            ),
        ),
        (
            "peak memory".into(),
            measured
                .peak_bytes
                .map_or("not known".into(), |bytes| format!("{} MiB", bytes >> 20)),
        ),
    ]
}
