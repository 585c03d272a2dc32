//! Checks the trainer on a tiny random model of every architecture that llama.cpp can build, and
//! prints docs/reference/architectures.md.
//!
//! `cargo run -p translora-train --example architectures` prints the table; names after it
//! choose some. `--pack FOLDER OUT.gguf` collects the metadata of the models that llama.cpp's
//! `test-llama-archs -o FOLDER` writes.
#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "an example prints"
)]

use std::fs;
use std::path::{Path, PathBuf};

use translora_gguf::Gguf;
use translora_llama::{Backend, Model, ModelParams, synthesize};
use translora_train::testing::architectures;
use translora_train::{ForwardWeights, GradCheck, GradReport, TrainError, TrainSpec, gradcheck};

type Failure = Box<dyn std::error::Error>;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/architectures.gguf");
const SEED: u64 = 7;
/// Wide enough that every part of a model is heard over F32's rounding.
const DEVIATION: f32 = 0.3;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, folder, out] = &arguments[..]
        && flag == "--pack"
    {
        return pack(Path::new(folder), Path::new(out));
    }
    let bytes = fs::read(FIXTURE)?;
    let known = architectures::names(&Gguf::parse(&bytes)?);
    let chosen: Vec<&String> = known
        .iter()
        .filter(|name| arguments.is_empty() || arguments.contains(name))
        .collect();
    let folder = tempfile::tempdir()?;
    let (mut rows, mut all) = (Vec::new(), 0);
    for name in &chosen {
        let metadata = folder.path().join(format!("{name}.metadata.gguf"));
        let model = folder.path().join(format!("{name}.gguf"));
        fs::write(
            &metadata,
            architectures::metadata(&Gguf::parse(&bytes)?, name)?,
        )?;
        let row = match check(&metadata, &model) {
            Ok(report) => {
                all += usize::from(verdict(&report) == "all");
                row(name, &report)
            }
            Err(error) => format!("| {name} | none | | | | {error} |"),
        };
        eprintln!("{row}");
        rows.push(row);
        let _ = fs::remove_file(&model);
    }
    println!("{}", page(&rows, all));
    Ok(())
}

fn check(metadata: &Path, path: &Path) -> Result<GradReport, TrainError> {
    let backend = Backend::init()?;
    synthesize(backend, metadata, SEED, DEVIATION, path)?;
    let model = Model::load(backend, path, &ModelParams::default())?;
    let spec = TrainSpec {
        rank: 4,
        alpha: 8.0,
        seed: SEED,
        forward: ForwardWeights::Native,
        ..TrainSpec::default()
    };
    gradcheck(
        backend,
        &model,
        &GradCheck {
            spec,
            examples: 3,
            tokens: 24,
            rounding: false,
        },
    )
}

fn verdict(report: &GradReport) -> String {
    match (&report.survey.blocked, report.survey.blocks) {
        (None, Some(_)) => "all".into(),
        (Some(_), Some((first, last))) => format!("blocks {first} to {last}"),
        _ => "none".into(),
    }
}

fn row(name: &str, report: &GradReport) -> String {
    let why = report
        .survey
        .blocked
        .as_ref()
        .map_or(String::new(), |(op, node)| format!("{op} ({node})"));
    let matrices = report.survey.targets.len();
    let numbers = if matrices > 0 {
        format!("{:.0e} | {:.0e}", report.logits_error, report.worst())
    } else {
        "|".into()
    };
    format!(
        "| {name} | {} | {matrices} | {numbers} | {why} |",
        verdict(report)
    )
}

fn page(rows: &[String], all: usize) -> String {
    format!(
        "# Architectures\n\n\
         What the trainer does with a tiny random model of every architecture that the llama.cpp it is built with can make. Printed by\n\
         `cargo run -p translora-train --example architectures`; `tests/architectures.rs` of `translora-train` holds the trainer to it.\n\n\
         - **trains**: `all` linear modules of all blocks (attention, feed-forward, experts, recurrent layers, whatever llama.cpp applies an\n\
         \x20 adapter to; routers stay frozen); some `blocks`, where an operation without a backward rule is in the way of the lower ones;\n\
         \x20 or `none`. A model that cannot be trained is refused before any work, with the operation's name.\n\
         - **logits**: the largest difference of the training graph's logits from `llama_decode`'s, with the adapter, as a share of the\n\
         \x20 largest logit (ggml's own products; 0e0 is equality to the bit).\n\
         - **gradients**: the worst relative difference of a matrix's gradient norm from the central difference quotient along it. Models with\n\
         \x20 GELU show what ggml's table of 16-bit values for it does to difference quotients.\n\n\
         {all} of {} train on all linear modules.\n\n\
         | model | trains | matrices | logits | gradients | in the way |\n|---|---|---|---|---|---|\n{}",
        rows.len(),
        rows.join("\n")
    )
}

fn pack(folder: &Path, out: &Path) -> Result<(), Failure> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "gguf")
    });
    paths.sort_unstable();
    let files: Vec<(String, Vec<u8>)> = paths
        .iter()
        .map(|path| {
            Ok((
                path.file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                fs::read(path)?,
            ))
        })
        .collect::<Result<_, std::io::Error>>()?;
    let models = files
        .iter()
        .map(|(name, bytes)| Ok((name.as_str(), Gguf::parse(bytes)?)))
        .collect::<Result<Vec<_>, TrainError>>()?;
    fs::write(
        out,
        architectures::pack(models.iter().map(|(name, model)| (*name, model)))?,
    )?;
    Ok(())
}
