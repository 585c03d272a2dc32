//! Measures the gate: does it refuse broken adapters, and does it accept good ones?
//!
//! `cargo run --example gate -- [-t THREADS] [--transfers] [--unlabelled] SOURCE.gguf BASE.gguf
//! WORK-FOLDER TASK-FOLDER…`
//!
//! A task folder holds `train.jsonl` and `eval.jsonl`. For each task two good adapters for BASE are
//! trained on its rows, and broken ones are made: with B zero, with the numbers of each matrix
//! shuffled, trained on the answers of other rows or on those of the bare SOURCE, those of the
//! other tasks, and good ones copied as they are onto a base of equal shapes, whose hidden units
//! stand in another order. With `--transfers` an adapter of SOURCE is moved to BASE, too, with a
//! kit that holds an input model. With `--unlabelled` the answers of an adapter of SOURCE stand in
//! place of the known ones, as where a transfer gets no labelled rows. Each is judged on three disjoint thirds of the held-out rows by
//! the rule of `translora transfer`. What was trained lies in the work folder and is not trained
//! again.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "an example prints"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use translora::engine::ggml::GgmlEngine;
use translora::engine::{Engine, Model, Monitor, OpenOptions, With};
use translora::evaluate::{Arm, Verdict, arm, compare};
use translora::pipeline::{Context, Events, PipelineError, kit, train, transfer};
use translora::record::{Cancel, Pair, Prompt, Rng, SystemClock};
use translora::request::{
    AnswerLength, Kit, Machine, ObjectiveChoice, Request, Run, Train, Training, Transfer,
};
use translora_gguf::{Gguf, Tensor, Value, Writer};

/// Shuffled adapters for each task.
const SHUFFLED: u64 = 5;
/// Parts of the held-out rows, each a gate set of its own.
const PARTS: usize = 3;
/// Rows that the bare source labels.
const LABELLED: usize = 250;
/// Samples of a transfer, as many as the adapters that it is compared with have rows.
const SAMPLES: usize = 1000;
/// A transfer counts as a good adapter if it has this part of what the first adapter that was
/// trained on real rows gains; others are told, and not counted.
const GOOD_SHARE: f64 = 0.75;

/// The kinds that should be accepted.
const GOOD: [&str; 2] = ["good", "transferred"];

type Failed = Box<dyn Error>;

/// How often each kind of adapter got each verdict.
type Verdicts = BTreeMap<&'static str, BTreeMap<&'static str, usize>>;

fn main() -> ExitCode {
    let (mut paths, mut transfers, mut unlabelled) = (Vec::new(), false, false);
    let mut threads = Some(0);
    let mut args = std::env::args_os().skip(1);
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--transfers") => transfers = true,
            Some("--unlabelled") => unlabelled = true,
            Some("-t") => threads = args.next().and_then(|number| number.to_str()?.parse().ok()),
            _ => paths.push(PathBuf::from(arg)),
        }
    }
    let ([source, base, work, tasks @ ..], Some(threads)) = (paths.as_slice(), threads) else {
        eprintln!(
            "usage: gate [-t THREADS] [--transfers] [--unlabelled] SOURCE.gguf BASE.gguf WORK-FOLDER \
            TASK-FOLDER…"
        );
        return ExitCode::from(2);
    };
    let machine = Machine {
        threads,
        ..Machine::default()
    };
    match (Gate {
        source,
        base,
        work,
        transfers,
        unlabelled,
        machine,
    })
    .measure(tasks)
    {
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

/// One task: its rows and the adapters that were made for it.
struct Task {
    eval: Vec<Pair>,
    good: Vec<PathBuf>,
    transferred: Option<PathBuf>,
    mislabelled: PathBuf,
    bare_labels: PathBuf,
}

/// What to measure with.
struct Gate<'a> {
    source: &'a Path,
    base: &'a Path,
    work: &'a Path,
    transfers: bool,
    unlabelled: bool,
    machine: Machine,
}

/// A base, and what it answers without an adapter.
struct Asked {
    model: Box<dyn Model>,
    bare: Arm,
}

impl Asked {
    fn open(
        engine: &GgmlEngine,
        path: &Path,
        open: &OpenOptions,
        task: &Task,
    ) -> Result<Self, Failed> {
        let mut model = engine.open(path, open)?;
        let bare = ask(&mut *model, With::Base, &task.eval)?;
        Ok(Self { model, bare })
    }

    /// Judge an adapter and note the verdicts.
    fn judge(
        &mut self,
        kind: &'static str,
        adapter: &Path,
        task: &Task,
        verdicts: &mut Verdicts,
    ) -> Result<Arm, Failed> {
        let with = With::Adapter(self.model.attach(adapter)?);
        let adapted = ask(&mut *self.model, with, &task.eval)?;
        eprintln!(
            "{kind}: {:.1} % against {:.1} %, {}",
            100.0 * adapted.exact(),
            100.0 * self.bare.exact(),
            adapter.display()
        );
        count(verdicts, kind, task, &self.bare, &adapted)?;
        Ok(adapted)
    }
}

fn ask(model: &mut dyn Model, with: With, rows: &[Pair]) -> Result<Arm, Failed> {
    let mut monitor = Monitor {
        cancel: &Cancel::default(),
        progress: &mut |_, _| {},
    };
    Ok(arm(
        model,
        with,
        rows,
        AnswerLength::default().answer_tokens,
        &mut monitor,
    )?)
}

impl Gate<'_> {
    fn measure(&self, folders: &[PathBuf]) -> Result<Verdicts, Failed> {
        let engine = GgmlEngine::new()?;
        fs::create_dir_all(self.work)?;
        let tasks: Vec<Task> = folders
            .iter()
            .map(|folder| self.prepare(&engine, folder))
            .collect::<Result<_, _>>()?;
        let other_order = self.work.join("other-order.gguf");
        fs::write(&other_order, reordered(&fs::read(self.base)?)?)?;
        let mut verdicts = Verdicts::new();
        for (this, task) in tasks.iter().enumerate() {
            let mut base = Asked::open(&engine, self.base, &(&self.machine).into(), task)?;
            let mut best = 0.0_f64;
            for good in &task.good {
                best = best.max(base.judge("good", good, task, &mut verdicts)?.exact());
            }
            if let Some(transferred) = &task.transferred {
                self.judge_transfer(&mut base, transferred, task, best, &mut verdicts)?;
            }
            base.judge(
                "answers of other rows",
                &task.mislabelled,
                task,
                &mut verdicts,
            )?;
            base.judge(
                "answers of the bare source",
                &task.bare_labels,
                task,
                &mut verdicts,
            )?;
            for other in tasks.iter().enumerate().filter(|(other, _)| *other != this) {
                base.judge(
                    "adapter of another task",
                    &other.1.good[0],
                    task,
                    &mut verdicts,
                )?;
            }
            self.judge_damaged(&mut base, task, &mut verdicts)?;
            let mut other = Asked::open(&engine, &other_order, &(&self.machine).into(), task)?;
            for good in &task.good {
                other.judge("naive copy", good, task, &mut verdicts)?;
            }
        }
        Ok(verdicts)
    }

    /// A transfer is a good adapter only if it is: that is looked at on all rows, against adapters
    /// that saw real ones.
    fn judge_transfer(
        &self,
        base: &mut Asked,
        adapter: &Path,
        task: &Task,
        best: f64,
        verdicts: &mut Verdicts,
    ) -> Result<(), Failed> {
        let mut apart = Verdicts::new();
        let share = base
            .judge("transferred", adapter, task, &mut apart)?
            .exact();
        let bare = base.bare.exact();
        if share - bare >= GOOD_SHARE * (best - bare) && best > bare {
            for (kind, counts) in apart {
                counts.into_iter().for_each(|(verdict, count)| {
                    *verdicts
                        .entry(kind)
                        .or_default()
                        .entry(verdict)
                        .or_default() += count;
                });
            }
        } else {
            eprintln!(
                "not counted: {:.1} % is not good, beside {:.1} %",
                100.0 * share,
                100.0 * best
            );
        }
        Ok(())
    }

    fn judge_damaged(
        &self,
        base: &mut Asked,
        task: &Task,
        verdicts: &mut Verdicts,
    ) -> Result<(), Failed> {
        let adapter = fs::read(&task.good[0])?;
        let damaged = self.work.join("damaged.gguf");
        let zero = changed(&adapter, |tensor, values| {
            if tensor.name.ends_with("lora_b") {
                values.fill(0);
            }
        })?;
        fs::write(&damaged, zero)?;
        base.judge("B is zero", &damaged, task, verdicts)?;
        for seed in 0..SHUFFLED {
            let shuffled = changed(&adapter, |tensor, values| {
                shuffle(values, &mut Rng::new(seed, &tensor.name));
            })?;
            fs::write(&damaged, shuffled)?;
            base.judge("numbers shuffled", &damaged, task, verdicts)?;
        }
        Ok(())
    }

    /// Read a task, and train what is not there yet.
    fn prepare(&self, engine: &GgmlEngine, folder: &Path) -> Result<Task, Failed> {
        let name = folder
            .file_name()
            .ok_or("a task folder has a name")?
            .to_string_lossy()
            .into_owned();
        let file = |what: &str| self.work.join(format!("{name}-{what}"));
        let data = folder.join("train.jsonl");
        let rows = read(&data)?;
        let mut completions: Vec<String> = rows.iter().map(|row| row.completion.clone()).collect();
        Rng::new(1, "other rows").shuffle(&mut completions);
        let wrong = rows.iter().zip(completions).map(|(row, completion)| Pair {
            completion,
            ..row.clone()
        });
        write(&file("mislabelled.jsonl"), wrong)?;
        let labels = file("bare-labels.jsonl");
        if !labels.is_file() {
            write(
                &labels,
                self.labelled(engine, &rows[..rows.len().min(LABELLED)], None)?
                    .into_iter(),
            )?;
        }
        let fit = |data: &Path, what: &str, seed: u64| {
            self.fit(engine, (self.base, 4.0), data, file(what), seed)
        };
        let mut eval = read(&folder.join("eval.jsonl"))?;
        if self.unlabelled {
            let lora = self.source_lora(engine, &data, &file)?;
            eval = self.labelled(engine, &eval, Some(&lora))?;
        }
        Ok(Task {
            eval,
            good: vec![fit(&data, "1.gguf", 1)?, fit(&data, "2.gguf", 2)?],
            mislabelled: fit(&file("mislabelled.jsonl"), "mislabelled.gguf", 1)?,
            bare_labels: fit(&labels, "bare-labels.gguf", 1)?,
            transferred: if self.transfers {
                self.transferred(engine, &data, &file)?
            } else {
                None
            },
        })
    }

    /// The adapter of the source, which a transfer begins with.
    fn source_lora(
        &self,
        engine: &GgmlEngine,
        data: &Path,
        file: &dyn Fn(&str) -> PathBuf,
    ) -> Result<PathBuf, Failed> {
        self.fit(engine, (self.source, 6.0), data, file("source.gguf"), 1)
    }

    /// Rows with what the source says to them, bare or with an adapter.
    fn labelled(
        &self,
        engine: &GgmlEngine,
        rows: &[Pair],
        adapter: Option<&Path>,
    ) -> Result<Vec<Pair>, Failed> {
        let mut model = engine.open(self.source, &(&self.machine).into())?;
        let with = match adapter {
            Some(adapter) => With::Adapter(model.attach(adapter)?),
            None => With::Base,
        };
        let prompts: Vec<Prompt> = rows.iter().map(|row| row.prompt.clone()).collect();
        let longest = rows
            .iter()
            .map(|row| row.completion.len())
            .max()
            .unwrap_or(0);
        let mut monitor = Monitor {
            cancel: &Cancel::default(),
            progress: &mut |_, _| {},
        };
        let answers = model.answer(with, &prompts, longest + 8, &mut monitor)?;
        let said = prompts
            .into_iter()
            .zip(answers)
            .map(|(prompt, answer)| Pair {
                prompt,
                completion: answer.text.trim().to_owned(),
            });
        Ok(said.filter(|pair| !pair.completion.is_empty()).collect())
    }

    fn fit(
        &self,
        engine: &GgmlEngine,
        (base, epochs): (&Path, f32),
        data: &Path,
        out: PathBuf,
        seed: u64,
    ) -> Result<PathBuf, Failed> {
        if !out.is_file() {
            eprintln!("training {}", out.display());
            let plan = Train {
                model: base.into(),
                data: data.into(),
                out: out.clone(),
                epochs,
                training: training(),
                machine: self.machine.clone(),
                run: Run {
                    seed,
                    ..Run::default()
                },
                ..Train::default()
            }
            .plan()?;
            with_context(|context| train(engine, &plan, context))?;
        }
        Ok(out)
    }

    /// The adapter of a transfer, whatever its own gate said.
    fn transferred(
        &self,
        engine: &GgmlEngine,
        data: &Path,
        file: &dyn Fn(&str) -> PathBuf,
    ) -> Result<Option<PathBuf>, Failed> {
        let lora = self.source_lora(engine, data, file)?;
        let (packed, out) = (file("task.kit"), file("moved.gguf"));
        if !packed.is_file() {
            let plan = Kit {
                model: self.source.into(),
                lora: lora.clone(),
                data: data.into(),
                out: packed.clone(),
                input_model: true,
                epochs: 1.0,
                training: training(),
                machine: self.machine.clone(),
                ..Kit::default()
            }
            .plan()?;
            with_context(|context| kit(engine, &plan, context))?;
        }
        let aside = out.with_extension("rejected.gguf");
        if !out.is_file() && !aside.is_file() {
            eprintln!("transferring {}", out.display());
            let plan = Transfer {
                source: self.source.into(),
                source_lora: lora,
                target: self.base.into(),
                kit: Some(packed),
                out: out.clone(),
                samples: SAMPLES,
                objective: ObjectiveChoice::Text,
                restarts: 0,
                training: training(),
                machine: self.machine.clone(),
                ..Transfer::default()
            }
            .plan()?;
            with_context(|context| transfer(engine, &plan, context))?;
        }
        Ok([out, aside].into_iter().find(|path| path.is_file()))
    }
}

fn training() -> Training {
    Training {
        lr: Some(2e-3),
        ..Training::default()
    }
}

fn with_context<T>(
    work: impl FnOnce(&Context<'_>) -> Result<T, PipelineError>,
) -> Result<T, PipelineError> {
    work(&Context {
        cancel: Cancel::default(),
        events: Events::none(),
        clock: &SystemClock::default(),
    })
}

fn write(path: &Path, rows: impl Iterator<Item = Pair>) -> Result<(), Failed> {
    let lines: String = rows
        .map(|row| serde_json::to_string(&row).map(|line| line + "\n"))
        .collect::<Result<_, _>>()?;
    Ok(fs::write(path, lines)?)
}

fn read(path: &Path) -> Result<Vec<Pair>, Failed> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?)
}

/// The same file with the bytes of each matrix changed.
fn changed(file: &[u8], change: impl Fn(&Tensor, &mut Vec<u8>)) -> Result<Vec<u8>, Failed> {
    let gguf = Gguf::parse(file)?;
    let mut writer = Writer::new();
    gguf.metadata()
        .for_each(|(key, value)| _ = writer.set(key, value.clone()));
    for tensor in gguf.tensors() {
        let mut data = gguf.data(tensor).to_vec();
        change(tensor, &mut data);
        writer.tensor(tensor.name.as_str(), tensor.kind, &tensor.shape, data);
    }
    Ok(writer.to_bytes()?)
}

/// Another base of equal shapes that says the same: the same model with the units of its residual
/// stream in another order. An adapter that is copied onto it meets other units than those it was
/// trained on.
fn reordered(model: &[u8]) -> Result<Vec<u8>, Failed> {
    let gguf = Gguf::parse(model)?;
    let architecture = gguf
        .get("general.architecture")
        .and_then(Value::as_str)
        .ok_or("the base has no architecture")?;
    let width = gguf
        .get(&format!("{architecture}.embedding_length"))
        .and_then(Value::as_u64)
        .ok_or("the base has no width")? as usize;
    let mut order: Vec<usize> = (0..width).collect();
    Rng::new(1, "other order").shuffle(&mut order);
    changed(model, |tensor, bytes| {
        let columns = tensor.shape.first().copied().unwrap_or(0) as usize;
        let rows: usize = tensor.shape.iter().skip(1).product::<u64>() as usize;
        let size = bytes.len() / (columns * rows).max(1);
        let within = |bytes: &[u8]| -> Vec<u8> {
            order
                .iter()
                .flat_map(|&unit| bytes[unit * size..(unit + 1) * size].to_vec())
                .collect()
        };
        if ["attn_output.weight", "ffn_down.weight"]
            .iter()
            .any(|name| tensor.name.ends_with(name))
        {
            let row = columns * size;
            *bytes = order
                .iter()
                .flat_map(|&unit| bytes[unit * row..(unit + 1) * row].to_vec())
                .collect();
        } else if columns == width {
            *bytes = bytes.chunks_exact(width * size).flat_map(within).collect();
        }
    })
}

/// Shuffle numbers of four bytes.
fn shuffle(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let mut numbers: Vec<[u8; 4]> = bytes
        .chunks_exact(4)
        .map(|number| [number[0], number[1], number[2], number[3]])
        .collect();
    rng.shuffle(&mut numbers);
    *bytes = numbers.concat();
}

/// Judge on each part of the rows.
fn count(
    verdicts: &mut Verdicts,
    kind: &'static str,
    task: &Task,
    bare: &Arm,
    adapted: &Arm,
) -> Result<(), Failed> {
    for part in 0..PARTS {
        let rows: Vec<usize> = (part..task.eval.len()).step_by(PARTS).collect();
        let verdict = compare(
            bare,
            adapted,
            &task.eval,
            &rows,
            f64::from(Transfer::default().flip_budget),
        )?
        .verdict;
        *verdicts
            .entry(kind)
            .or_default()
            .entry(verdict.name())
            .or_default() += 1;
    }
    Ok(())
}

fn print(verdicts: &Verdicts) {
    println!("| adapter | judged | accepted | rejected | inconclusive |\n|---|---|---|---|---|");
    let [mut broken, mut accepted, mut good, mut refused] = [0; 4];
    for (kind, counts) in verdicts {
        let of = |verdict: Verdict| counts.get(verdict.name()).copied().unwrap_or(0);
        let all: usize = counts.values().sum();
        println!(
            "| {kind} | {all} | {} | {} | {} |",
            of(Verdict::Accept),
            of(Verdict::Reject),
            of(Verdict::Inconclusive)
        );
        if GOOD.contains(kind) {
            (good, refused) = (good + all, refused + all - of(Verdict::Accept));
        } else {
            (broken, accepted) = (broken + all, accepted + of(Verdict::Accept));
        }
    }
    println!("\nfalse accepts: {accepted} of {broken} broken transfers");
    println!("false rejects: {refused} of {good} good ones");
}
