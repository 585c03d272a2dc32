//! One value of each variant of every enum of errors.

use std::collections::BTreeMap;
use std::io;

use translora::adapters::{AdaptersError, Refused};
use translora::control::ControlError;
use translora::distill::DistillError;
use translora::engine::EngineError;
use translora::evaluate::EvaluateError;
use translora::fetch::FetchError;
use translora::filter::FilterError;
use translora::generate::GenerateError;
use translora::jobs::{JobId, JobsError, Problem, State};
use translora::kit::KitError;
use translora::label::LabelError;
use translora::pipeline::{JournalError, PipelineError};
use translora::publish::PublishError;
use translora::record::{Blame, Cancelled, Fault, InJson, Remedy};
use translora::request::Refusal;
use translora::serve::ServeError;
use translora_gguf::{GgufError, SplitError};
use translora_harvest::HarvestError;
use translora_lora::LoraError;

use super::inputs::{harvest, kit};

/// An enum of errors: its file, its name, and one value of each variant.
pub struct Room(pub &'static str, pub &'static str, pub Vec<Box<dyn Blame>>);

pub(super) fn room<E: Blame + 'static, const N: usize>(
    file: &'static str,
    name: &'static str,
    errors: [E; N],
) -> Room {
    let boxed = |error| Box::new(error) as Box<dyn Blame>;
    Room(file, name, errors.into_iter().map(boxed).collect())
}

pub(super) fn disk() -> io::Error {
    io::Error::other("the disk is full")
}

fn engine_error() -> EngineError {
    EngineError::Context {
        needed: 9,
        context: 8,
    }
}

fn engine() -> Room {
    use EngineError as E;
    let (path, reason) = ("m.gguf".into(), "it is short".into());
    let (model, text) = (|| "m".to_owned(), || "é".to_owned());
    room(
        "src/engine/error.rs",
        "EngineError",
        [
            E::Cancelled(Cancelled),
            E::Grammar("no rule is called root".into()),
            E::Model { path, reason },
            E::Split(SplitError::Renamed {
                path: "m.gguf".into(),
                count: 3,
            }),
            E::Adapter {
                path: "a.gguf".into(),
                source: LoraError::Activated,
            },
            E::AdapterLoad {
                path: "a.gguf".into(),
                reason: "llama.cpp refuses it".into(),
            },
            E::Backend {
                path: "libggml-cuda.so".into(),
                reason: "no driver".into(),
            },
            E::File {
                path: "m.gguf".into(),
                source: disk().into(),
            },
            E::Tokenizer {
                model: model(),
                text: text(),
                back: "?".into(),
            },
            E::SameFirstToken {
                model: model(),
                words: ["yes".into(), "yesterday".into()],
            },
            E::Template("no user".into()),
            E::ChatTemplate {
                path: "m.gguf".into(),
                reason: "it writes nothing".into(),
            },
            E::Example {
                index: 0,
                reason: "row 1 is too long".into(),
            },
            E::Modules {
                model: model(),
                modules: "x".into(),
                reason: "there is no x".into(),
            },
            E::Untrainable {
                model: model(),
                reason: "no rule for an operation".into(),
            },
            E::Unmergeable {
                path: model().into(),
                reason: "a type".into(),
            },
            E::Output(io::Error::other("the disk is full")),
            E::NotFinite {
                what: "loss",
                step: 3,
            },
            E::NoDistribution {
                who: "the model m.gguf".into(),
            },
            E::BaseNotFinite {
                index: 2,
                model: "m.gguf".into(),
                cause: ": its tensor t holds NaN at element 3".into(),
            },
            E::Snapshot("of another rank".into()),
            engine_error(),
            E::Memory("KV cache".into()),
            E::TooLarge("18 MiB do not suffice".into()),
            E::Internal("no plan".into()),
        ],
    )
}

fn fetch() -> Room {
    use FetchError as E;
    let (name, url) = (|| "hf:a/b".to_owned(), || "https://x.org/a/b".to_owned());
    let why = || "it is odd".to_owned();
    let known = || vec!["a.gguf".to_owned()];
    let errors = [
        E::Name {
            name: name(),
            why: why(),
        },
        E::NotInStore {
            name: name(),
            store: "Ollama",
            known: known(),
        },
        E::Store {
            path: "m".into(),
            why: why(),
        },
        E::Which {
            name: name(),
            why: why(),
            files: known(),
        },
        E::Offline { name: name() },
        E::Denied {
            name: name(),
            status: 401,
            token: false,
        },
        E::NotThere {
            name: name(),
            url: url(),
        },
        E::Status {
            name: name(),
            url: url(),
            status: 500,
        },
        E::Unreachable {
            name: name(),
            host: "x.org".into(),
            why: why(),
        },
        E::Answer {
            name: name(),
            why: why(),
        },
        E::Cut {
            name: name(),
            bytes: 1,
            of: Some(2),
            why: why(),
        },
        E::Checksum {
            name: name(),
            what: "size",
            expected: "2".into(),
            found: "1".into(),
        },
        E::Io {
            path: "m".into(),
            source: disk(),
        },
        E::NotBuilt,
    ];
    room("src/fetch/error.rs", "FetchError", errors)
}

fn stages() -> [Room; 6] {
    [
        room(
            "src/generate/error.rs",
            "GenerateError",
            [
                GenerateError::Engine(engine_error()),
                GenerateError::NoSeeds,
            ],
        ),
        room(
            "src/filter/mod.rs",
            "FilterError",
            [
                FilterError::Engine(engine_error()),
                FilterError::NotFinite { prompt: "x".into() },
            ],
        ),
        room(
            "src/label/mod.rs",
            "LabelError",
            [LabelError::Engine(engine_error())],
        ),
        room(
            "src/distill/mod.rs",
            "DistillError",
            [
                DistillError::Engine(EngineError::Memory("optimizer".into())),
                DistillError::NoExamples,
                DistillError::Recipe {
                    field: "warmup",
                    value: "2".into(),
                    takes: "a number from 0 to 1".into(),
                },
                DistillError::Diverged {
                    what: "loss",
                    step: 3,
                    halvings: 3,
                    learning_rate: 1e-4,
                },
                DistillError::Checkpoint(disk()),
            ],
        ),
        room(
            "src/evaluate/mod.rs",
            "EvaluateError",
            [
                EvaluateError::Engine(engine_error()),
                EvaluateError::NoRows,
                EvaluateError::Unpaired { left: 1, right: 2 },
            ],
        ),
        room(
            "src/publish/mod.rs",
            "PublishError",
            [
                PublishError::Exists {
                    path: "n.gguf".into(),
                },
                PublishError::Io {
                    path: "n.gguf".into(),
                    source: disk(),
                },
                PublishError::NoName { path: "..".into() },
                PublishError::Folder { path: "new".into() },
                PublishError::Stamp(GgufError::BigEndian),
            ],
        ),
    ]
}

fn pipeline() -> [Room; 2] {
    use PipelineError as E;
    let folder = || "n.gguf.journal".into();
    let journal = [
        JournalError::Unfinished { folder: folder() },
        JournalError::InUse {
            folder: folder(),
            process: Some(4711),
        },
        JournalError::Changed {
            folder: folder(),
            what: "the plan".into(),
        },
        JournalError::Damaged {
            path: "n.gguf.journal/index.jsonl".into(),
            reason: "half a line".into(),
        },
        JournalError::Io {
            path: folder(),
            source: disk(),
        },
    ];
    let errors = [
        E::Cancelled,
        E::OtherVocabulary,
        E::LongAnswers {
            bytes: 2,
            bytes_max: 1,
        },
        E::BlankSource,
        E::WeakSource {
            what: "the source adapter changes no answer".into(),
        },
        E::Kit(KitError::NoRows {
            path: "s.jsonl".into(),
        }),
        E::Engine(engine_error()),
        E::Row {
            path: "s.jsonl".into(),
            line: 1,
            source: engine_error(),
        },
        E::Generate(GenerateError::NoSeeds),
        E::Filter(FilterError::NotFinite { prompt: "x".into() }),
        E::Label(LabelError::Engine(engine_error())),
        E::Distill(DistillError::NoExamples),
        E::Evaluate(EvaluateError::NoRows),
        E::Publish(PublishError::NoName { path: "..".into() }),
        E::Journal(JournalError::Unfinished { folder: folder() }),
        E::Audit {
            what: "it answers otherwise".into(),
        },
        not_enough("repeated"),
    ];
    [
        room("src/pipeline/journal.rs", "JournalError", journal),
        room("src/pipeline/error.rs", "PipelineError", errors),
    ]
}

pub fn not_enough(reason: &str) -> PipelineError {
    PipelineError::NotEnough {
        got: 1,
        needed: 2,
        drawn: 9,
        rejected: BTreeMap::from([(reason.to_owned(), 8)]),
    }
}

fn adapters() -> Room {
    use AdaptersError as E;
    room(
        "src/adapters/error.rs",
        "AdaptersError",
        [
            E::NoBase,
            E::File(KitError::NoRows {
                path: "a.gguf".into(),
            }),
            E::Adapter {
                path: "a.gguf".into(),
                source: LoraError::Activated,
            },
            E::Changed {
                path: "a.gguf".into(),
            },
            E::Name {
                name: String::new(),
                reason: "it is empty",
            },
            E::Full {
                what: "names",
                count: 9,
            },
            E::NoSuchSwap(1),
            E::Unknown { name: "a".into() },
            E::NothingBefore { name: "a".into() },
            E::Host {
                what: "load",
                refused: Refused("no memory".into()),
            },
        ],
    )
}

fn jobs() -> Room {
    let remedy = Remedy::raise("memory");
    room(
        "src/jobs/error.rs",
        "JobsError",
        [
            JobsError::NoSuchJob(JobId::from(1)),
            JobsError::Refused(Refusal::OneOf {
                fields: ["kit", "seeds"],
            }),
            JobsError::Request {
                what: "jobs may hold 1 byte".into(),
                remedy: remedy.clone(),
            },
            JobsError::Full { waiting: 2 },
            JobsError::NoWorker {
                looked: vec!["translora".into()],
            },
            JobsError::NoReport {
                id: JobId::from(1),
                state: State::Running,
            },
            JobsError::Failed(Problem {
                cause: Fault::Machine,
                message: "the worker was ended by signal 9".into(),
                hint: remedy.words(&InJson),
                remedy: Some(remedy),
            }),
            JobsError::Machine("no thread".into()),
        ],
    )
}

fn serve() -> Room {
    room(
        "src/serve/error.rs",
        "ServeError",
        [
            ServeError::Engine(EngineError::Memory("KV cache".into())),
            ServeError::Listen {
                address: "127.0.0.1:80".into(),
                source: disk(),
            },
            ServeError::Adapter {
                name: "a".into(),
                reason: "two files are called so".into(),
            },
            ServeError::Folder {
                path: "/adapters".into(),
                source: disk(),
            },
            ServeError::Context {
                context: 256,
                slots: 4,
            },
            ServeError::Harvest(HarvestError::Full {
                path: "kept".into(),
                adapters_max: 64,
            }),
            ServeError::Threads(disk()),
            ServeError::Stopped(disk()),
        ],
    )
}

fn control() -> Room {
    room(
        "src/control/error.rs",
        "ControlError",
        [
            ControlError::Listen {
                address: "127.0.0.1:80".into(),
                source: disk(),
            },
            ControlError::Exposed {
                address: ([0, 0, 0, 0], 80).into(),
            },
            ControlError::Threads(disk()),
            ControlError::Program {
                program: "llama-server".into(),
                source: disk(),
            },
        ],
    )
}

pub fn rooms() -> Vec<Room> {
    let mut rooms = vec![
        engine(),
        fetch(),
        adapters(),
        jobs(),
        serve(),
        control(),
        harvest(),
    ];
    rooms.extend(kit());
    rooms.extend(stages());
    rooms.extend(pipeline());
    rooms
}
