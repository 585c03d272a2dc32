//! Run stages: time them, report them, keep their results. Open models no longer than they are
//! needed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::journal::{Header, InJournal, Journal, JournalError, Product};
use super::{Context, Event, PipelineError, Stage, TransferPlan};
use crate::distill::{Checkpoint, EarlyStop, Recipe, Run, StepLine, learning_rate};
use crate::engine::{
    AdapterId, ChatOptions, Engine, EngineError, LoraSpec, Model, Monitor, OpenOptions,
};
use crate::kit::{self, Reading, Rows};
use crate::record::{Blame, ContentHash, Fault, Pair, Restored, chat_marker};
use crate::request::{Machine, Training};

/// Optimizer steps between checkpoints.
const CHECKPOINT_EVERY: u64 = 25;
/// One example in this many is held out where early stopping is asked for.
const HELD_OUT_ONE_IN: usize = 10;

/// One run of one command.
pub struct Job<'c> {
    /// Cancellation, events and the clock.
    pub context: &'c Context<'c>,
    /// What is done is kept there.
    pub journal: Journal,
    /// How long each stage took, by its name.
    pub seconds: BTreeMap<String, f64>,
    /// The most memory that the process had held by the end of each stage, where the clock tells.
    /// units: bytes
    pub peak_bytes: BTreeMap<String, u64>,
    /// When the run began, also for one that goes on. units: seconds since 1970
    pub now: u64,
}

/// What a stage has done, before it is timed and kept.
pub struct Done<H, R> {
    /// Its one value.
    pub head: H,
    /// Its many values, a line each.
    pub rows: Vec<R>,
    /// Its bytes, kept in a file of their own.
    pub blob: Option<Vec<u8>>,
    /// What it came to, in a sentence.
    pub summary: String,
}

impl<R> Done<(), R> {
    /// A result of rows alone.
    pub fn rows(rows: Vec<R>, summary: String) -> Self {
        Self {
            head: (),
            rows,
            blob: None,
            summary,
        }
    }
}

impl<H> Done<H, ()> {
    /// A result of one value alone.
    pub fn head(head: H, summary: String) -> Self {
        Self {
            head,
            rows: Vec::new(),
            blob: None,
            summary,
        }
    }
}

/// Say what is going to be done, before anything is.
pub fn announce(context: &Context<'_>, command: &str, plan: &impl Serialize) -> serde_json::Value {
    let plan = serde_json::to_value(plan).unwrap_or_default();
    context.events.send(Event::Plan {
        command: command.to_owned(),
        plan: plan.clone(),
    });
    plan
}

/// Run a stage that leaves nothing behind.
pub fn once<T>(
    context: &Context<'_>,
    stage: Stage,
    work: impl FnOnce(&mut Monitor<'_>) -> Result<(T, String), PipelineError>,
) -> Result<(T, f64), PipelineError> {
    context.cancel.check()?;
    context.events.send(Event::StageStarted { stage });
    let start = context.clock.elapsed();
    let mut progress = |done: usize, total: usize| {
        context
            .events
            .progress(stage, done as u64, total as u64, "");
    };
    let (done, summary) = work(&mut Monitor {
        cancel: &context.cancel,
        progress: &mut progress,
    })?;
    let seconds = (context.clock.elapsed() - start).as_secs_f64();
    context.events.send(Event::StageDone {
        stage,
        seconds,
        summary,
    });
    Ok((done, seconds))
}

impl<'c> Job<'c> {
    /// Open the journal of a command. What `--resume` may change is not part of the plan's hash.
    pub fn open(
        context: &'c Context<'c>,
        command: &str,
        mut plan: serde_json::Value,
        inputs: BTreeMap<String, ContentHash>,
        out: &Path,
    ) -> Result<Self, PipelineError> {
        let resume =
            plan.as_object_mut().and_then(|plan| plan.remove("resume")) == Some(true.into());
        let journal = Journal::open(out, Header::new(command, &plan, inputs), resume)?;
        for note in journal.notes() {
            context.events.warn(Stage::Open, note.clone());
        }
        let mut job = Self {
            context,
            journal,
            seconds: BTreeMap::new(),
            peak_bytes: BTreeMap::new(),
            now: 0,
        };
        let now = job.settle("began", context.clock.unix_seconds().to_string())?;
        job.now = now.parse().unwrap_or_default();
        Ok(job)
    }

    /// Run a stage, or take its result from the journal.
    pub fn stage<H, R>(
        &mut self,
        key: &str,
        stage: Stage,
        work: impl FnOnce(&mut Monitor<'_>, &Journal) -> Result<Done<H, R>, PipelineError>,
    ) -> Result<Product<H, R>, PipelineError>
    where
        H: Serialize + Restored,
        R: Serialize + Restored,
    {
        if let Some(found) = self.journal.finished::<H, R>(key)? {
            self.context.events.send(Event::StageResumed {
                stage,
                summary: found.summary.clone(),
            });
            *self.seconds.entry(stage.name().to_owned()).or_default() += found.seconds;
            return Ok(found);
        }
        let journal = &self.journal;
        let (done, seconds) = once(self.context, stage, |monitor| {
            let done = work(monitor, journal)?;
            let summary = done.summary.clone();
            Ok((done, summary))
        })?;
        if let Some(bytes) = self.context.clock.peak_bytes() {
            self.peak_bytes.insert(stage.name().to_owned(), bytes);
        }
        let Done {
            head,
            rows,
            blob,
            summary,
        } = done;
        let product = Product {
            head,
            rows,
            blob,
            summary,
            seconds,
            resumed: false,
        };
        self.journal.finish(key, &product)?;
        *self.seconds.entry(stage.name().to_owned()).or_default() += seconds;
        Ok(product)
    }

    /// Keep a text that is about to be published, or take the one that was kept before: what a run
    /// that was stopped while it published has written must be what is written now, and reports
    /// tell times.
    pub fn settle(&mut self, key: &str, text: String) -> Result<String, PipelineError> {
        if let Some(found) = self.journal.finished::<String, ()>(key)? {
            return Ok(found.head);
        }
        let product = Product {
            head: text,
            rows: Vec::<()>::new(),
            blob: None,
            summary: String::new(),
            seconds: 0.0,
            resumed: false,
        };
        self.journal.finish(key, &product)?;
        Ok(product.head)
    }

    /// End the run: take the journal away after success, and where going on would fail in the same
    /// way.
    pub fn end<T>(self, result: Result<T, PipelineError>) -> Result<T, PipelineError> {
        match &result {
            // What was published lies there, whatever becomes of the journal.
            Ok(_) => {
                if let Err(error) = self.journal.remove() {
                    let text = format!("the journal of this run is left over: {error}");
                    self.context.events.warn(Stage::Publish, text);
                }
            }
            Err(PipelineError::Cancelled | PipelineError::Journal(_)) => {}
            // All work is done, and a file in the way can be moved.
            Err(PipelineError::Publish(_)) => {}
            // The error that is reported is the first one.
            Err(PipelineError::Distill(error)) if error.can_go_on() => {}
            Err(error) if error.fault() == Fault::Input => _ = self.journal.remove(),
            Err(_) => {}
        }
        result
    }
}

/// Fit something under the job's journal: with checkpoints, from the last one, watched.
pub fn fitting<T, E>(
    context: &Context<'_>,
    journal: &Journal,
    stage: &str,
    metadata: &[(String, String)],
    probed: &[Pair],
    fit: impl FnOnce(Run<'_>) -> Result<T, E>,
) -> Result<T, PipelineError>
where
    PipelineError: From<E>,
{
    let resume: Option<Checkpoint> = match journal.checkpoint(stage) {
        Err(error @ JournalError::Damaged { .. }) => {
            let text = format!("{error}: the training begins anew");
            context.events.warn(Stage::Distill, text);
            None
        }
        checkpoint => checkpoint?,
    };
    if let Some(checkpoint) = &resume {
        context.events.note(
            Stage::Distill,
            format!("going on after step {}", checkpoint.progress.steps),
        );
    }
    let start = context.clock.elapsed();
    let mut watch = |line: &StepLine| {
        let pace = line.tokens as f64 / (context.clock.elapsed() - start).as_secs_f64().max(1e-3);
        let note = format!(
            "loss {:.4}, lr {:.2e}, {pace:.0} tokens/s",
            line.loss, line.learning_rate
        );
        context
            .events
            .progress(Stage::Distill, line.step, line.steps, note);
    };
    let mut warn = |text: String| context.events.warn(Stage::Distill, text);
    let mut note = |text: String| context.events.note(Stage::Distill, text);
    let mut detail = |text: String| context.events.detail(Stage::Distill, text);
    let mut checkpoints = InJournal(journal, stage);
    let (watch, warn, note, detail, checkpoints) = (
        &mut watch,
        &mut warn,
        &mut note,
        &mut detail,
        &mut checkpoints,
    );
    let run = Run {
        cancel: &context.cancel,
        watch,
        warn,
        note,
        detail,
        checkpoints,
        resume,
        metadata,
        probed,
    };
    Ok(fit(run)?)
}

/// The recipe that a plan asks for, of a model so wide. It does not start again.
pub fn recipe(training: &Training, epochs: f32, seed: u64, width: usize) -> Recipe {
    let spec = LoraSpec {
        shape: training.shape.clone(),
        seed,
        keeps_best: training.early_stop > 0,
        ..LoraSpec::default()
    };
    Recipe {
        spec,
        epochs,
        restarts: 0,
        learning_rate: training.lr.unwrap_or_else(|| learning_rate(width)),
        schedule: training.schedule,
        warmup: training.warmup,
        checkpoint_every: CHECKPOINT_EVERY,
        early_stop: training
            .early_stop
            .checked_sub(1)
            .map(|patience| EarlyStop {
                one_in: HELD_OUT_ONE_IN,
                patience,
            }),
        seed,
    }
}

/// A model with its adapters that is opened when it is first needed.
pub struct Session<'a> {
    engine: &'a dyn Engine,
    base: &'a Path,
    machine: &'a Machine,
    adapters: Vec<PathBuf>,
    repack: bool,
    chat: ChatOptions,
    open: Option<(Box<dyn Model>, Vec<AdapterId>)>,
}

impl<'a> Session<'a> {
    /// Nothing is opened yet.
    pub fn new(
        engine: &'a dyn Engine,
        base: &'a Path,
        machine: &'a Machine,
        adapters: Vec<PathBuf>,
    ) -> Self {
        let chat = ChatOptions {
            carriers: adapters.clone(),
            ..OpenOptions::from(machine).chat
        };
        Self {
            engine,
            base,
            machine,
            adapters,
            repack: false,
            chat,
            open: None,
        }
    }

    /// The source of a transfer.
    pub fn of_source(
        engine: &'a dyn Engine,
        plan: &'a TransferPlan,
        adapters: Vec<PathBuf>,
    ) -> Self {
        let mut session = Self::new(engine, &plan.source, &plan.machine, adapters);
        session.chat.template.clone_from(&plan.source_chat_template);
        session.chat.carriers = vec![plan.source_lora.clone()];
        session.chat.carriers.extend(plan.kit.clone());
        session
    }

    /// Conversations take the form that this adapter was made with, though it is in the weights.
    pub fn made_with(mut self, adapter: &Path) -> Self {
        self.chat.carriers = vec![adapter.to_owned()];
        self
    }

    /// Let templates that write the date write this one. units: seconds since 1970
    pub fn at(mut self, now: u64) -> Self {
        self.chat.now = now;
        self
    }

    /// Open it for its answers, with its weights laid out for speed in memory of their own; not
    /// where `memory` is limited.
    pub fn for_answers(self, memory: Option<u64>) -> Self {
        Self {
            repack: memory.is_none(),
            ..self
        }
    }

    /// The model and its adapters, in the order they were named.
    pub fn get(&mut self) -> Result<(&mut dyn Model, &[AdapterId]), EngineError> {
        if self.open.is_none() {
            let options = OpenOptions {
                repack: self.repack,
                chat: self.chat.clone(),
                ..self.machine.into()
            };
            let mut model = self.engine.open(self.base, &options)?;
            let ids = self
                .adapters
                .iter()
                .map(|adapter| model.attach(adapter))
                .collect::<Result<Vec<_>, _>>()?;
            self.open = Some((model, ids));
        }
        match &mut self.open {
            Some((model, ids)) => Ok((&mut **model, ids)),
            None => Err(EngineError::Internal(
                "a model was opened and is not open".into(),
            )),
        }
    }

    /// Give the model's memory back.
    pub fn close(&mut self) {
        self.open = None;
    }
}

/// Hash the files of a run, by what they are to it.
pub fn hash_inputs(
    files: &[(&str, &Path)],
    monitor: &mut Monitor<'_>,
) -> Result<BTreeMap<String, ContentHash>, PipelineError> {
    let mut hashes = BTreeMap::new();
    for (i, (name, path)) in files.iter().enumerate() {
        monitor.tick(i, files.len())?;
        hashes.insert((*name).to_owned(), kit::hash_file(path)?);
    }
    Ok(hashes)
}

/// Say what is to be known of a model that was opened: a context beyond its training, a copy that
/// DoRA was merged into, a template that is not its own. Returns that template for whoever uses what is made with it.
pub fn introduce(context: &Context<'_>, model: &dyn Model) -> Option<String> {
    if let Some(warning) = model.info().beyond_training() {
        context.events.warn(Stage::Open, warning);
    }
    for copy in model.copies() {
        context.events.note(
            Stage::Open,
            format!(
                "the adapter is DoRA: {} is {} with it in the weights, kept for the next run",
                copy.display(),
                model.info().path.display()
            ),
        );
    }
    let chat = model.chat()?;
    if let Some(note) = chat.note() {
        context.events.note(Stage::Open, note);
    }
    chat.carried().map(str::to_owned)
}

/// Read a file of data, and say what was found.
pub fn read_rows(
    context: &Context<'_>,
    path: &Path,
    reading: &Reading<'_>,
) -> Result<Rows, PipelineError> {
    let rows = kit::read_rows(path, reading)?;
    announce_rows(context, path, &rows);
    Ok(rows)
}

/// Say what a file of data holds, and what of it is not read.
pub fn announce_rows(context: &Context<'_>, path: &Path, rows: &Rows) {
    let file = path.display();
    let found = format!("{file}: {}", rows.in_words());
    context.events.note(Stage::Kit, found);
    for warning in rows.warnings() {
        context
            .events
            .warn(Stage::Kit, format!("{file}: {warning}"));
    }
}

/// Check that a model can read every row of a file, and warn of markup in them.
pub fn check_rows(
    model: &dyn Model,
    path: &Path,
    (rows, lines): (&[Pair], &[usize]),
    context: &Context<'_>,
) -> Result<(), PipelineError> {
    let mut markup: BTreeMap<bool, (usize, usize, String)> = BTreeMap::new();
    for (row, &line) in rows.iter().zip(lines) {
        context.cancel.check()?;
        let texts = || row.prompt.texts().chain([row.completion.as_str()]);
        let own = texts().find_map(|text| model.markup(text));
        let is_own = own.is_some();
        if let Some(word) = own.or_else(|| texts().find_map(chat_marker).map(str::to_owned)) {
            markup.entry(is_own).or_insert((0, line, word)).0 += 1;
        }
        let checked = texts().try_for_each(|text| model.check_text(text));
        checked.map_err(|source| PipelineError::Row {
            path: path.to_owned(),
            line,
            source,
        })?;
    }
    for (is_own, (count, line, word)) in markup {
        let (whose, counts) = if is_own {
            (
                "the model's own template",
                "In a prompt it counts as markup, in an answer as text",
            )
        } else {
            ("another template", "It counts as text")
        };
        context.events.warn(
            Stage::Open,
            format!(
                "{}: {count} of {} rows hold markup of {whose}, such as {word:?} in line {line}. {counts}. \
                 The template writes it around each turn by itself",
                path.display(),
                rows.len()
            ),
        );
    }
    Ok(())
}

/// Add `name`'s counts under `rejected_REASON`.
pub fn count_rejections<K: Serialize>(
    counts: &mut BTreeMap<String, u64>,
    rejections: &BTreeMap<K, u64>,
) {
    for (reason, count) in rejections {
        *counts
            .entry(format!("rejected_{}", named(reason)))
            .or_default() += count;
    }
}

/// A reason by the name that files have for it.
pub fn named(reason: impl Serialize) -> String {
    serde_json::to_value(reason)
        .ok()
        .and_then(|name| name.as_str().map(str::to_owned))
        .unwrap_or_default()
}
