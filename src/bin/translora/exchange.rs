//! `translora import`, `export` and `merge`.

use std::path::PathBuf;

use clap::Args;
use translora::pipeline::{self, ExchangeReport, MergeReport};
use translora::record::Cancel;

use crate::failure::Failure;
use crate::progress::Verbosity;
use crate::{Outcome, job, out};

/// Write an adapter of PEFT or MLX as GGUF
///
/// Takes the folder that PEFT or MLX saved, or the safetensors file in it. Names, shapes and the
/// order of rows come from the base. The result is what llama.cpp's convert_lora_to_gguf.py writes;
/// what a GGUF cannot hold is refused by name. Every other command takes such a folder as it is:
/// this one is for programs that do not.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  translora import tickets-peft -m base.gguf --out tickets.gguf")]
pub struct Import {
    /// The folder, or the safetensors file in it
    #[arg(value_name = "DIR")]
    lora: PathBuf,

    /// The base that the adapter was trained on
    #[arg(short, long, value_name = "BASE.gguf")]
    model: PathBuf,

    /// The adapter to write
    #[arg(long, value_name = "L.gguf")]
    out: PathBuf,
}

impl Import {
    pub fn run(self, verbosity: Verbosity) -> Result<Outcome, Failure> {
        let engine = job::engine(&self.model)?;
        let done = pipeline::import(&*engine, (&self.lora, &self.model), &self.out)?;
        tell(verbosity, "imported", &done)
    }
}

/// Write an adapter as PEFT saves one
///
/// The folder has adapter_config.json and adapter_model.safetensors, with the names and the order
/// of rows of transformers. PEFT computes the same with it on the same base model.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  translora export tickets.gguf -m base.gguf --peft tickets-peft"
)]
pub struct Export {
    /// The adapter
    #[arg(value_name = "L.gguf")]
    lora: PathBuf,

    /// The base that it is for
    #[arg(short, long, value_name = "BASE.gguf")]
    model: PathBuf,

    /// The folder to make
    #[arg(long, value_name = "DIR")]
    peft: PathBuf,
}

impl Export {
    pub fn run(self, verbosity: Verbosity) -> Result<Outcome, Failure> {
        let done = pipeline::export(&self.lora, &self.model, &self.peft)?;
        tell(verbosity, "exported", &done)
    }
}

fn tell(verbosity: Verbosity, what: &str, done: &ExchangeReport) -> Result<Outcome, Failure> {
    crate::report(verbosity, done, || {
        let adapter = format!(
            "{} matrices, rank {}, alpha {}",
            done.matrices, done.rank, done.alpha
        );
        let rows = [(what, done.out.display().to_string()), ("adapter", adapter)];
        out::columns(&rows.map(|(name, value)| (name.to_owned(), value)))
    })?;
    Ok(Outcome::Done)
}

/// Write a base model with an adapter in its weights
///
/// For programs that take no adapters, such as Ollama. Each matrix that is adapted is turned into
/// floats, changed, and turned back into the type it has in the base; all others are copied. What
/// that costs is printed: how far rounding moves the weights, and how far the answers and their loss
/// are from those of the base with the adapter. Rounding to few bits can undo a small change; a base
/// of more bits (q8_0, f16) keeps more.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  translora merge -m base.gguf --lora tickets.gguf --out base-tickets.gguf"
)]
pub struct Merge {
    /// The base
    #[arg(short, long, value_name = "BASE.gguf")]
    model: PathBuf,

    /// The adapter: a GGUF, or a folder of PEFT or MLX
    #[arg(long, value_name = "L.gguf")]
    lora: PathBuf,

    /// The model to write
    #[arg(long, value_name = "M.gguf")]
    out: PathBuf,

    /// Rows with known answers to compare both models on, 100 at most. Left out, they are asked a few
    /// questions, and the answers of the base with the adapter are taken for the right ones
    #[arg(long, value_name = "E.jsonl")]
    eval: Option<PathBuf>,

    /// What the adapter is multiplied by
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = scale)]
    scale: f32,
}

impl Merge {
    pub fn run(self, verbosity: Verbosity) -> Result<Outcome, Failure> {
        let engine = job::engine(&self.model)?;
        let cancel = Cancel::default();
        job::listen(cancel.clone())?;
        let from = (self.model.as_path(), self.lora.as_path(), self.scale);
        let done = pipeline::merge(&*engine, from, &self.out, self.eval.as_deref(), &cancel)?;
        crate::report(verbosity, &done, || lines(&done))?;
        Ok(Outcome::Done)
    }
}

fn lines(done: &MergeReport) -> Vec<String> {
    let merged = &done.merged;
    let percent = |share: f64| format!("{:.3} % of the weights", 100.0 * share);
    let mut rows = vec![
        ("merged", done.out.display().to_string()),
        (
            "matrices",
            format!("{} of {} tensors", merged.matrices, merged.tensors),
        ),
        ("the adapter changes", percent(merged.change)),
        (
            "rounding changes",
            format!(
                "{}, {:.3e} at most",
                percent(merged.error),
                merged.error_max
            ),
        ),
    ];
    match &done.cost {
        Some(cost) => rows.extend([
            (
                "loss",
                format!(
                    "{:.4} nats a token, {:.4} with the adapter beside the base",
                    cost.nll_after, cost.nll_before
                ),
            ),
            (
                "answers",
                format!(
                    "{} of {} are the same{}",
                    cost.same,
                    cost.rows,
                    if cost.by_itself {
                        ", to questions of this program (--eval takes your rows)"
                    } else {
                        ""
                    }
                ),
            ),
        ]),
        None => {
            let why = done.not_compared.as_deref().unwrap_or_default();
            rows.push(("answers", format!("not compared: {why}")));
        }
    }
    let rows = rows.into_iter();
    let rows: Vec<_> = rows.map(|(name, value)| (name.to_owned(), value)).collect();
    let mut lines = out::columns(&rows);
    if merged.error > merged.change {
        lines.push(
            "  rounding changes more than the adapter does: a base of more bits (q8_0, f16) keeps more"
                .into(),
        );
    }
    lines
}

fn scale(text: &str) -> Result<f32, String> {
    text.parse()
        .ok()
        .filter(|scale: &f32| scale.is_finite() && *scale != 0.0 && scale.abs() <= 100.0)
        .ok_or_else(|| "must be a number from -100 to 100, and not 0".into())
}
