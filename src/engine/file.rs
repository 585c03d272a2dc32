//! Whose fault it is that a file cannot be read, and what to do about it.

use std::io::{self, ErrorKind};

use translora_gguf::{FileError, FileKind, GgufError};

use crate::record::{Blame, Fault, Remedy, Step};

impl Blame for FileError {
    fn fault(&self) -> Fault {
        match self {
            Self::Io(error) if error.kind() != ErrorKind::NotFound => Fault::Machine,
            _ => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<Remedy> {
        let step = match self {
            Self::Io(error) => of_io(error),
            Self::NotAFile { what: "a folder" } => Step::NameFile,
            Self::Gguf(error) => return error.remedy(),
            _ => Step::OtherFile,
        };
        Some(step.into())
    }
}

fn of_io(error: &io::Error) -> Step {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename => {
            Step::CheckPath
        }
        ErrorKind::PermissionDenied => Step::CheckRights,
        _ => Step::CheckDisk,
    }
}

impl Blame for GgufError {
    fn fault(&self) -> Fault {
        Fault::Input
    }

    fn remedy(&self) -> Option<Remedy> {
        let step = match self {
            Self::Magic { found } => of_kind(*found),
            Self::BigEndian => Step::ConvertEndian,
            Self::Version { .. } => Step::ConvertAnew,
            _ => Step::FetchAgain,
        };
        Some(step.into())
    }
}

/// What helps where a file is of this kind, and a GGUF is wanted.
fn of_kind(kind: FileKind) -> Step {
    match kind {
        FileKind::Empty | FileKind::Zeros => Step::FetchAgain,
        FileKind::WebPage => Step::FetchPage,
        FileKind::LfsPointer => Step::FetchPointer,
        FileKind::Packed(_) => Step::Unpack,
        FileKind::Safetensors | FileKind::Pickle => Step::Convert,
        FileKind::OldGgml => Step::ConvertAnew,
        _ => Step::OtherFile,
    }
}
