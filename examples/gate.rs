//! Measures the gate: does it refuse broken adapters, and does it accept good ones?
//!
//! `cargo run --example gate -- BASE.gguf WORK-FOLDER TASK-FOLDER…`
//!
//! A task folder holds `train.jsonl` and `eval.jsonl`. For each task two good adapters are trained on its rows, and broken ones are
//! made: with B zero, with the numbers of each matrix shuffled, trained on the answers of other rows, and those of the other tasks.
//! Each is judged on three disjoint thirds of the held-out rows by the rule of `translora transfer`. What was trained lies in the work
//! folder and is not trained again.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use translora::engine::ggml::GgmlEngine;
use translora::engine::{Engine, Model, OpenOptions, Talk, With};
use translora::evaluate::{Arm, Verdict, arm, compare};
use translora::pipeline::{Context, Events, RecipePlan, TrainPlan, flip_budget, train};
use translora::record::{Cancel, Limits, Pair, Rng, SystemClock};
use translora_gguf::{Gguf, Writer};

/// Shuffled adapters for each task.
const SHUFFLED: u64 = 5;
/// Parts of the held-out rows, each a gate set of its own.
const PARTS: usize = 3;

type Failed = Box<dyn Error>;

/// How often each kind of adapter got each verdict.
type Verdicts = BTreeMap<&'static str, BTreeMap<&'static str, usize>>;

fn main() -> ExitCode {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [base, work, tasks @ ..] = args.as_slice() else {
        eprintln!("usage: gate BASE.gguf WORK-FOLDER TASK-FOLDER…");
        return ExitCode::from(2);
    };
    match measure(base, work, tasks) {
        Ok(verdicts) => {
            print(&verdicts);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// One task: its rows and the adapters that were trained for it.
struct Task {
    eval: Vec<Pair>,
    good: Vec<PathBuf>,
    mislabelled: PathBuf,
}

fn measure(base: &Path, work: &Path, folders: &[PathBuf]) -> Result<Verdicts, Failed> {
    let engine = GgmlEngine::new()?;
    fs::create_dir_all(work)?;
    let tasks: Vec<Task> = folders.iter().map(|folder| prepare(&engine, base, work, folder)).collect::<Result<_, _>>()?;
    let mut model = engine.open(base, &OpenOptions::default())?;
    let mut verdicts = Verdicts::new();
    for (this, task) in tasks.iter().enumerate() {
        let mut talk = Talk { cancel: &Cancel::default(), progress: &mut |_, _| {} };
        let tokens_max = Limits::default().completion_tokens_max;
        let bare = arm(&mut *model, With::Base, &task.eval, tokens_max, &mut talk)?;
        let mut judge = |kind: &'static str, model: &mut dyn Model, adapter: &Path| -> Result<(), Failed> {
            let with = With::Adapter(model.attach(adapter)?);
            let adapted = arm(model, with, &task.eval, tokens_max, &mut talk)?;
            eprintln!("{kind}: {:.1} % against {:.1} %, {}", 100.0 * adapted.exact(), 100.0 * bare.exact(), adapter.display());
            count(&mut verdicts, kind, task, &bare, &adapted)
        };
        for good in &task.good {
            judge("good", &mut *model, good)?;
        }
        judge("answers of other rows", &mut *model, &task.mislabelled)?;
        for other in tasks.iter().enumerate().filter(|(other, _)| *other != this) {
            judge("adapter of another task", &mut *model, &other.1.good[0])?;
        }
        let adapter = fs::read(&task.good[0])?;
        let damaged = work.join("damaged.gguf");
        fs::write(
            &damaged,
            changed(&adapter, |name, values| {
                if name.ends_with("lora_b") {
                    values.fill(0);
                }
            })?,
        )?;
        judge("B is zero", &mut *model, &damaged)?;
        for seed in 0..SHUFFLED {
            fs::write(&damaged, changed(&adapter, |name, values| shuffle(values, &mut Rng::new(seed, name)))?)?;
            judge("numbers shuffled", &mut *model, &damaged)?;
        }
    }
    Ok(verdicts)
}

/// Read a task, and train what is not there yet.
fn prepare(engine: &GgmlEngine, base: &Path, work: &Path, folder: &Path) -> Result<Task, Failed> {
    let name = folder.file_name().ok_or("a task folder has a name")?.to_string_lossy().into_owned();
    let data = folder.join("train.jsonl");
    let rows = read(&data)?;
    let mut wrong = rows.clone();
    let mut completions: Vec<String> = rows.into_iter().map(|row| row.completion).collect();
    Rng::new(1, "other rows").shuffle(&mut completions);
    wrong.iter_mut().zip(completions).for_each(|(row, completion)| row.completion = completion);
    let mislabelled = work.join(format!("{name}-mislabelled.jsonl"));
    let lines: String = wrong.iter().map(|row| serde_json::to_string(row).map(|line| line + "\n")).collect::<Result<_, _>>()?;
    fs::write(&mislabelled, lines)?;
    let fit = |data: &Path, out: String, seed: u64| -> Result<PathBuf, Failed> {
        let out = work.join(out);
        if !out.is_file() {
            eprintln!("training {}", out.display());
            let recipe = RecipePlan { epochs: 4.0, learning_rate: 2e-3, ..RecipePlan::default() };
            let (open, limits) = (OpenOptions::default(), Limits::default());
            let plan = TrainPlan { model: base.into(), data: data.into(), out: out.clone(), recipe, open, limits, seed, resume: false };
            train(engine, &plan, &Context { cancel: Cancel::default(), events: Events::none(), clock: &SystemClock::default() })?;
        }
        Ok(out)
    };
    Ok(Task {
        eval: read(&folder.join("eval.jsonl"))?,
        good: vec![fit(&data, format!("{name}-1.gguf"), 1)?, fit(&data, format!("{name}-2.gguf"), 2)?],
        mislabelled: fit(&mislabelled, format!("{name}-mislabelled.gguf"), 1)?,
    })
}

fn read(path: &Path) -> Result<Vec<Pair>, Failed> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// The adapter with the bytes of each matrix changed.
fn changed(adapter: &[u8], change: impl Fn(&str, &mut Vec<u8>)) -> Result<Vec<u8>, Failed> {
    let gguf = Gguf::parse(adapter)?;
    let mut writer = Writer::new();
    gguf.metadata().for_each(|(key, value)| _ = writer.set(key, value.clone()));
    for tensor in gguf.tensors() {
        let mut data = gguf.data(tensor).to_vec();
        change(&tensor.name, &mut data);
        writer.tensor(tensor.name.as_str(), tensor.kind, &tensor.shape, data);
    }
    Ok(writer.to_bytes()?)
}

/// Shuffle numbers of four bytes.
fn shuffle(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let mut numbers: Vec<[u8; 4]> = bytes.chunks_exact(4).map(|number| [number[0], number[1], number[2], number[3]]).collect();
    rng.shuffle(&mut numbers);
    *bytes = numbers.concat();
}

/// Judge on each part of the rows.
fn count(verdicts: &mut Verdicts, kind: &'static str, task: &Task, bare: &Arm, adapted: &Arm) -> Result<(), Failed> {
    for part in 0..PARTS {
        let rows: Vec<usize> = (part..task.eval.len()).step_by(PARTS).collect();
        let verdict = compare(bare, adapted, &task.eval, &rows, f64::from(flip_budget()))?.verdict;
        *verdicts.entry(kind).or_default().entry(verdict.name()).or_default() += 1;
    }
    Ok(())
}

fn print(verdicts: &Verdicts) {
    println!("| adapter | judged | accepted | rejected | inconclusive |\n|---|---|---|---|---|");
    let [mut broken, mut accepted] = [0, 0];
    for (kind, counts) in verdicts {
        let of = |verdict: Verdict| counts.get(verdict.name()).copied().unwrap_or(0);
        let all: usize = counts.values().sum();
        println!("| {kind} | {all} | {} | {} | {} |", of(Verdict::Accept), of(Verdict::Reject), of(Verdict::Inconclusive));
        if *kind != "good" {
            (broken, accepted) = (broken + all, accepted + of(Verdict::Accept));
        }
    }
    println!("\nfalse accepts: {accepted} of {broken} broken transfers");
    let good = verdicts.get("good");
    let (all, right) = (good.map_or(0, |counts| counts.values().sum()), good.and_then(|counts| counts.get(Verdict::Accept.name())));
    println!("false rejects: {} of {all} good ones", all - right.copied().unwrap_or(0));
}
