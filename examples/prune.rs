//! Leaves blocks out of a model: an older, weaker base of another shape, made from a newer one.
//!
//! `cargo run --example prune -- MODEL.gguf --drop 3,4,5,17,25 --out OLDER.gguf`
//!
//! Tensors are copied bit for bit and the remaining blocks renumbered. All metadata stays, but for
//! the number of blocks and the arrays that have one element per block. Nothing is overwritten.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "an example prints"
)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use translora_gguf::{Gguf, GgufError, Tensor, Value, Writer};

const USAGE: &str = "usage: prune MODEL.gguf --drop 3,4,5 --out OLDER.gguf";
const BLOCKS_MAX: u32 = 4_096;

/// Says why no model was written.
#[derive(Debug, thiserror::Error)]
enum PruneError {
    #[error("{0}\nhint: {USAGE}")]
    Arguments(String),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Gguf { path: PathBuf, source: GgufError },
    #[error("{} exists\nhint: nothing is overwritten; remove it or choose another name", .0.display())]
    Exists(PathBuf),
    #[error(
        "metadata key {0} is missing or not usable\nhint: give a language model, not an adapter"
    )]
    Metadata(String),
    #[error(
        "no block {block}: the model has blocks 0 to {last}\nhint: choose among these with --drop"
    )]
    NoSuchBlock { block: u64, last: u64 },
    #[error("--drop names all {0} blocks\nhint: leave at least one")]
    NothingLeft(u64),
}

/// Holds what the command line asks for.
struct Plan {
    model: PathBuf,
    drop: BTreeSet<u64>,
    out: PathBuf,
}

fn main() -> ExitCode {
    match parse_arguments(std::env::args().skip(1)).and_then(|plan| run(&plan)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Reads the command line.
fn parse_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Plan, PruneError> {
    let (mut model, mut drop, mut out) = (None, None, None);
    while let Some(argument) = arguments.next() {
        let missing = || PruneError::Arguments(format!("{argument} needs a value"));
        match argument.as_str() {
            "--drop" => drop = Some(parse_blocks(&arguments.next().ok_or_else(missing)?)?),
            "--out" => out = Some(PathBuf::from(arguments.next().ok_or_else(missing)?)),
            _ if argument.starts_with('-') || model.is_some() => {
                return Err(PruneError::Arguments(format!(
                    "unexpected argument {argument:?}"
                )));
            }
            _ => model = Some(PathBuf::from(argument)),
        }
    }
    let absent = |what: &str| PruneError::Arguments(format!("{what} is missing"));
    Ok(Plan {
        model: model.ok_or_else(|| absent("MODEL.gguf"))?,
        drop: drop.ok_or_else(|| absent("--drop"))?,
        out: out.ok_or_else(|| absent("--out"))?,
    })
}

/// Reads `3,4,5`.
fn parse_blocks(list: &str) -> Result<BTreeSet<u64>, PruneError> {
    let number = |text: &str| text.trim().parse().ok();
    let blocks: Option<_> = list.split(',').map(number).collect();
    blocks.ok_or_else(|| {
        PruneError::Arguments(format!(
            "--drop {list:?}: expected block numbers, such as 3,4,5"
        ))
    })
}

/// Reads the model, leaves the blocks out and writes the result.
fn run(plan: &Plan) -> Result<(), PruneError> {
    if plan.out.exists() {
        return Err(PruneError::Exists(plan.out.clone()));
    }
    let io = |source| PruneError::Io {
        path: plan.model.clone(),
        source,
    };
    let gguf = |source| PruneError::Gguf {
        path: plan.model.clone(),
        source,
    };
    let bytes = fs::read(&plan.model).map_err(io)?;
    let model = Gguf::parse(&bytes).map_err(gguf)?;
    let (writer, blocks) = prune(&model, &plan.drop)?;
    save(&writer, &plan.out)?;
    eprintln!(
        "{}: {blocks} blocks, without {:?} of {}",
        plan.out.display(),
        plan.drop,
        plan.model.display()
    );
    Ok(())
}

/// Collects what stays of the model, and counts its blocks.
fn prune<'a>(model: &Gguf<'a>, drop: &BTreeSet<u64>) -> Result<(Writer<'a>, u64), PruneError> {
    let missing = |key: &str| PruneError::Metadata(key.to_owned());
    let architecture = model.get("general.architecture").and_then(Value::as_str);
    let prefix = format!(
        "{}.",
        architecture.ok_or_else(|| missing("general.architecture"))?
    );
    let count_key = format!("{prefix}block_count");
    let count = match model.get(&count_key) {
        Some(&Value::U32(count)) if count <= BLOCKS_MAX => count,
        _ => return Err(missing(&count_key)),
    };
    let new_numbers = renumber(count.into(), drop)?;
    let left = new_numbers.iter().flatten().count() as u64;

    let mut writer = Writer::new();
    for (key, value) in model.metadata() {
        match value {
            // As many as there were, so it fits in u32 again.
            _ if key == count_key => writer.set(key, left as u32),
            Value::Array(array) if key.starts_with(&prefix) && array.len() == count as usize => {
                let mut array = array.clone();
                array.retain_positions(|block| new_numbers[block].is_some());
                writer.set(key, Value::Array(array))
            }
            _ => writer.set(key, value.clone()),
        };
    }
    for tensor in model.tensors() {
        if let Some(name) = new_name(tensor, &new_numbers)? {
            writer.tensor(name, tensor.kind, &tensor.shape, model.data(tensor));
        }
    }
    Ok((writer, left))
}

/// Gives each old block its new number, or none.
fn renumber(count: u64, drop: &BTreeSet<u64>) -> Result<Vec<Option<u64>>, PruneError> {
    if let Some(&block) = drop.iter().find(|&&block| block >= count) {
        return Err(PruneError::NoSuchBlock {
            block,
            last: count.saturating_sub(1),
        });
    }
    if drop.len() as u64 == count {
        return Err(PruneError::NothingLeft(count));
    }
    let mut next = 0..;
    Ok((0..count)
        .map(|block| {
            if drop.contains(&block) {
                None
            } else {
                next.next()
            }
        })
        .collect())
}

/// Renames a tensor of a block that stays; `None` for one of a block that goes.
fn new_name(tensor: &Tensor, new_numbers: &[Option<u64>]) -> Result<Option<String>, PruneError> {
    let in_block = tensor
        .name
        .strip_prefix("blk.")
        .and_then(|rest| rest.split_once('.'));
    let Some((block, rest)) =
        in_block.and_then(|(block, rest)| Some((block.parse::<u64>().ok()?, rest)))
    else {
        return Ok(Some(tensor.name.clone()));
    };
    match usize::try_from(block)
        .ok()
        .and_then(|block| new_numbers.get(block))
    {
        Some(number) => Ok(number.map(|number| format!("blk.{number}.{rest}"))),
        None => Err(PruneError::NoSuchBlock {
            block,
            last: new_numbers.len().saturating_sub(1) as u64,
        }),
    }
}

/// Writes beside the destination, then renames, so that no half-written model ever has its name.
fn save(writer: &Writer<'_>, out: &Path) -> Result<(), PruneError> {
    let mut temporary = out.as_os_str().to_owned();
    temporary.push(format!(".{}.partial", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let written = write_synced(writer, &temporary).and_then(|()| {
        fs::rename(&temporary, out).map_err(|source| PruneError::Io {
            path: out.to_owned(),
            source,
        })
    });
    if written.is_err() {
        // The first error is the one to report; the temporary file may not even exist.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Writes a new file and waits until the disk has it.
fn write_synced(writer: &Writer<'_>, path: &Path) -> Result<(), PruneError> {
    let io = |source| PruneError::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = BufWriter::new(File::create_new(path).map_err(io)?);
    writer.write(&mut file).map_err(|source| PruneError::Gguf {
        path: path.to_owned(),
        source,
    })?;
    file.flush()
        .and_then(|()| file.get_ref().sync_all())
        .map_err(io)
}
