use std::path::PathBuf;

use clap::Args;
use translora::engine::ggml::check::{CheckReport, CheckSpec, check};

use crate::args::{between, modules};
use crate::failure::Failure;
use crate::progress::Verbosity;
use crate::{Outcome, out};

/// Errors above this end with exit status 1.
const ERROR_MAX: f64 = 0.05;

/// Check the training of a model: its logits and its gradients
///
/// Random tokens go through the training graph with a random adapter. The logits are compared with
/// llama.cpp's own, the gradient of every adapter matrix with a central difference of the loss. The
/// model needs no tokenizer. Large models take long: every matrix takes eight passes or more.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  translora gradcheck -m base.gguf --json")]
pub struct GradCheck {
    /// Base model (GGUF)
    #[arg(short, long, value_name = "M.gguf")]
    model: PathBuf,

    /// Linear modules that get an adapter, as for `train`
    #[arg(long, value_name = "LIST", default_value = "all", value_parser = modules)]
    modules: String,

    /// Rank of the adapter
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = between::<1, 1024>)]
    rank: usize,

    /// Tokens of the longest of three sequences
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = between::<6, 4096>)]
    tokens: usize,

    /// Seed of tokens and adapter
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Processor threads; 0 takes all physical cores
    #[arg(short, long, value_name = "N", default_value_t = 0, value_parser = between::<0, 1024>)]
    threads: usize,

    /// Multiply with ggml's own products, whose logits are llama.cpp's to the bit
    #[arg(long)]
    native: bool,

    /// Compare the gradients of the kernels that `train` uses with exact ones: what rounding costs.
    /// Takes two passes only
    #[arg(long, conflicts_with = "native")]
    rounding: bool,
}

impl GradCheck {
    pub fn run(self, verbosity: Verbosity) -> Result<Outcome, Failure> {
        let Self {
            model,
            modules,
            rank,
            tokens,
            seed,
            threads,
            native,
            rounding,
        } = self;
        let found = check(&CheckSpec {
            model,
            modules,
            rank,
            seed,
            tokens,
            threads,
            native,
            rounding,
        })?;
        let against = if rounding {
            "exact ones"
        } else {
            "the central differences"
        };
        crate::report(verbosity, &found, || out::columns(&rows(&found, against)))?;
        Ok(if found.worst.is_some_and(|worst| worst <= ERROR_MAX) {
            Outcome::Done
        } else {
            Outcome::Refused
        })
    }
}

fn rows(found: &CheckReport, against: &str) -> Vec<(String, String)> {
    let mut rows = vec![(
        "trainable".into(),
        format!(
            "{}, {} matrices",
            found.trainable.trainable, found.trainable.matrices
        ),
    )];
    rows.extend(
        found
            .trainable
            .in_the_way
            .iter()
            .map(|op| ("in the way".into(), op.clone())),
    );
    if let Some(worst) = found.worst {
        rows.push((
            "logits".into(),
            format!(
                "{:.1e} off llama.cpp's, as a share of the largest",
                found.logits_error
            ),
        ));
        rows.push((
            "gradients".into(),
            format!(
                "{worst:.1e} off {against} at worst, relative, by {}",
                found.kernel
            ),
        ));
    }
    rows
}
