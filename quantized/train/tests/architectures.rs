//! The trainer on a tiny random model of every architecture that llama.cpp can build: logits
//! against its own, gradients against central differences. docs/reference/architectures.md is the
//! same as a table.
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test says what it measures"
)]

mod common;

use std::path::Path;

use translora_gguf::Gguf;
use translora_llama::{Backend, Model, ModelParams};
use translora_train::testing::architectures;
use translora_train::{ForwardWeights, GradCheck, GradReport, TrainError, TrainSpec, gradcheck};

/// Those that people run, which must train whole.
const NEEDED: &str = "cohere2-dense deepseek2-moe exaone4-dense falcon-dense falcon-h1-dense \
    gemma-dense gemma2-dense gemma3-dense gemma4-dense glm4-dense gpt-oss-moe gpt2-dense granite-dense \
    granitehybrid-dense lfm2-dense llama-dense llama-moe llama4-moe mamba-dense mamba2-dense \
    mistral3-dense nemotron_h-dense olmo2-dense olmoe-moe phi3-dense qwen2-dense \
    qwen2moe-moe qwen3-dense qwen35-dense qwen35moe-moe qwen3moe-moe qwen3next-moe \
    seed_oss-dense smollm3-dense starcoder2-dense";
const ALL_LEAST: usize = 120;
const SHARDS: usize = 4;

/// Difference quotients see the steps of ggml's 16-bit table for GELU.
const GELU: &str =
    "bloom codeshell falcon gemma gpt2 gptneox grok mpt phi2 pockettts spark2_5 starcoder";

fn check(backend: Backend, path: &Path, forward: ForwardWeights) -> Result<GradReport, TrainError> {
    let model = Model::load(backend, path, &ModelParams::default())?;
    let spec = TrainSpec {
        threads: TrainSpec::default().threads,
        ..common::spec(forward)
    };
    gradcheck(
        backend,
        &model,
        &GradCheck {
            spec,
            examples: 2,
            tokens: 16,
            rounding: false,
        },
    )
}

/// Gradients are what difference quotients are.
fn check_numbers(report: &GradReport, name: &str) {
    let tolerance = if GELU.split(' ').any(|gelu| name.starts_with(gelu)) {
        0.2
    } else {
        0.02
    };
    eprintln!(
        "{name}: logits {:.1e}, gradients {:.1e} over {}",
        report.logits_error,
        report.worst(),
        report.matrices.len()
    );
    let worst = report
        .matrices
        .iter()
        .max_by(|a, b| a.error.total_cmp(&b.error));
    assert!(report.worst() <= tolerance, "{name}: {worst:?}");
}

fn needed(name: &str) -> bool {
    NEEDED.split(' ').any(|needed| needed == name)
}

/// Every fourth model, beginning with one of the first four. Returns how many train whole.
fn shard(first: usize) -> usize {
    let bytes = common::pack();
    let pack = Gguf::parse(&bytes).unwrap();
    let (backend, folder) = (Backend::init().unwrap(), tempfile::tempdir().unwrap());
    let names = architectures::names(&pack);
    assert_eq!(names.len(), 129);
    assert!(
        NEEDED
            .split(' ')
            .all(|needed| names.iter().any(|name| name == needed)),
        "{names:?}"
    );
    let mut whole = 0;
    for name in names.iter().skip(first).step_by(SHARDS) {
        let path = common::synthetic(folder.path(), name, 0.3);
        let found = check(backend, &path, ForwardWeights::Native);
        let all = found.as_ref().is_ok_and(|report| {
            report.survey.blocked.is_none() && !report.survey.targets.is_empty()
        });
        whole += usize::from(all);
        assert!(all || !needed(name), "{name}: {found:?}");
        let report = match found {
            Ok(report) => report,
            Err(TrainError::Internal { what }) => panic!("{name}: {what}"),
            Err(_) => continue,
        };
        check_numbers(&report, name);
        assert!(
            report.logits_error <= 1e-5,
            "{name}: logits {}",
            report.logits_error
        );
        assert_eq!(
            report.matrices.len(),
            2 * report.survey.targets.len(),
            "{name}"
        );
        if needed(name) && name.ends_with("-moe") {
            let report = check(backend, &path, common::exact()).unwrap();
            check_numbers(&report, &format!("{name}, kernels of our own"));
        }
    }
    whole
}

#[test]
fn every_architecture_has_its_verdict() {
    let whole: usize = std::thread::scope(|scope| {
        let shards: Vec<_> = (0..SHARDS)
            .map(|first| scope.spawn(move || shard(first)))
            .collect();
        shards
            .into_iter()
            .map(|shard| shard.join().expect("no shard fails"))
            .sum()
    });
    assert!(whole >= ALL_LEAST, "{whole} train on all linear modules");
}
