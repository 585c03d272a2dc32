//! The errors of what is read: rows, seeds, kits, kept prompts.

use translora::kit::{Foreign, KitError, LineFault};
use translora::record::{ContentHash, Step};
use translora_gguf::{GgufError, SplitError};
use translora_harvest::{Damage, HarvestError};
use translora_lora::LoraError;

use super::errors::{Room, disk, room};

pub(super) fn kit() -> [Room; 2] {
    use KitError as E;
    let path = || "k.kit".into();
    let hash = ContentHash::of(b"x");
    let errors = [
        E::File {
            path: path(),
            source: disk().into(),
        },
        E::Line {
            path: path(),
            line: 1,
            what: LineFault::NoAnswer,
        },
        E::NoRows { path: path() },
        E::TooManyRows {
            path: path(),
            rows_max: 1,
        },
        E::SameSeeds {
            path: path(),
            rows: 2,
        },
        E::TooFewRows {
            path: path(),
            distinct: 1,
            needed: 2,
        },
        E::Split(SplitError::NotFirst {
            path: path(),
            number: 2,
            count: 3,
        }),
        E::Adapter {
            path: path(),
            source: LoraError::Activated,
        },
        E::NotAKit {
            path: path(),
            reason: "no manifest".into(),
        },
        E::Foreign {
            path: path(),
            what: "base",
            expected: hash,
            given: "m.gguf".into(),
            got: hash,
        },
        E::NoRowsIn {
            path: path(),
            found: Foreign {
                name: "gzip",
                step: Step::Unpack,
            },
        },
        E::Stdin,
        E::NoDiscriminator { path: path() },
        E::Harvest {
            source: HarvestError::Open {
                path: path(),
                mode: 0o755,
            },
        },
        E::NothingKept {
            path: path(),
            adapters: vec!["mail".into()],
        },
        E::Pack(GgufError::BigEndian),
    ];
    let (key, what) = (|| String::from("prompt"), || String::from("x"));
    let found = "a number";
    let lines = [
        LineFault::TooLong { bytes_max: 1 },
        LineFault::NotUtf8 { byte: 0 },
        LineFault::NotJson { what: what() },
        LineFault::NotAnObject { found },
        LineFault::RepeatedKey { what: what() },
        LineFault::TwoOnALine,
        LineFault::CommaBetween,
        LineFault::Csv { what: what() },
        LineFault::NoFormat { keys: vec![key()] },
        LineFault::TextOnly,
        LineFault::Preference,
        LineFault::Tools,
        LineFault::NoKey { key: key() },
        LineFault::NoAnswer,
        LineFault::NotAString { key: key(), found },
        LineFault::NotTurns { key: key(), found },
        LineFault::Blank { key: key() },
        LineFault::Turn {
            turn: 1,
            what: what(),
        },
        LineFault::Repeated { first: 1 },
    ];
    let file = "src/kit/error.rs";
    [
        room(file, "KitError", errors),
        room(file, "LineFault", lines),
    ]
}

pub(super) fn harvest() -> Room {
    use HarvestError as E;
    let path = || "kept".into();
    room(
        "quantized/harvest/src/error.rs",
        "HarvestError",
        [
            E::Io {
                path: path(),
                source: disk(),
            },
            E::Open {
                path: path(),
                mode: 0o755,
            },
            E::Line {
                path: path(),
                line: 2,
                what: Damage::Foreign,
            },
            E::Large {
                path: path(),
                bytes: 2,
                bytes_max: 1,
            },
            E::Full {
                path: path(),
                adapters_max: 64,
            },
        ],
    )
}
