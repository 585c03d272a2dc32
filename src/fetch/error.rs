use std::io;
use std::path::{Path, PathBuf};

use crate::record::{Blame, Fault, Remedy, Step};

/// Why the file of a name is not here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    #[error("{name}: {why}")]
    Name { name: String, why: String },
    /// The store of another program has no such model.
    #[error("{name}: {store} has no such model here; there are {}", listed(known))]
    NotInStore {
        name: String,
        store: &'static str,
        known: Vec<String>,
    },
    /// The store of another program is not what it should be.
    #[error("{path}: {why}")]
    Store { path: PathBuf, why: String },
    /// It stands for none of several files, or for more than one.
    #[error("{name}: {why}; it holds {}", listed(files))]
    Which {
        name: String,
        why: String,
        files: Vec<String>,
    },
    #[error("{name}: it is not on this disk, and nothing may be fetched")]
    Offline { name: String },
    /// The hub does not let this machine in.
    #[error("{name}: the hub answers {status}: {}", if *token { "the token that was sent may not read it" } else { "it is private, gated, or not there, and no token was sent" })]
    Denied {
        name: String,
        status: u16,
        token: bool,
    },
    #[error("{name}: there is no such thing at {url} (404)")]
    NotThere { name: String, url: String },
    #[error("{name}: {url} answers {status}")]
    Status {
        name: String,
        url: String,
        status: u16,
    },
    #[error("{name}: {host} cannot be reached: {why}")]
    Unreachable {
        name: String,
        host: String,
        why: String,
    },
    #[error("{name}: the answer is not that of a hub: {why}")]
    Answer { name: String, why: String },
    /// The connection ended again and again.
    #[error("{name}: {bytes} bytes of {} arrived, then the connection was cut ({why})", of.map_or("an unknown number".to_owned(), |of| of.to_string()))]
    Cut {
        name: String,
        bytes: u64,
        of: Option<u64>,
        why: String,
    },
    #[error("{name}: what arrived is not the file: its {what} is {found}, expected {expected}")]
    Checksum {
        name: String,
        what: &'static str,
        expected: String,
        found: String,
    },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("this build fetches nothing: its feature `fetch` is off")]
    NotBuilt,
}

impl FetchError {
    pub(super) fn name(name: &str, why: &str) -> Self {
        Self::Name {
            name: name.to_owned(),
            why: why.to_owned(),
        }
    }

    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// Some names in a sentence.
fn listed(names: &[String]) -> String {
    const NAMES_MAX: usize = 20;
    match names {
        [] => "none".to_owned(),
        _ if names.len() > NAMES_MAX => {
            let more = names.len() - NAMES_MAX;
            format!("{}, and {more} more", names[..NAMES_MAX].join(", "))
        }
        _ => names.join(", "),
    }
}

impl Blame for FetchError {
    fn fault(&self) -> Fault {
        match self {
            Self::Io { .. } | Self::Unreachable { .. } | Self::Cut { .. } => Fault::Machine,
            _ => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<Remedy> {
        let step = match self {
            Self::Name { .. } => Step::NameOfAFile,
            Self::NotInStore { .. } => Step::NameInStore,
            Self::Store { .. } => Step::PullAgain,
            Self::Which { .. } => Step::NameOneFile,
            Self::Offline { .. } => Step::FetchOnce,
            Self::Denied { .. } => Step::HubToken,
            Self::NotThere { .. } => Step::CheckAddress,
            Self::Status { .. } | Self::Answer { .. } | Self::Unreachable { .. } => {
                Step::CheckNetwork
            }
            Self::Cut { .. } => Step::FetchRest,
            Self::Checksum { .. } => Step::FetchFresh,
            Self::Io { .. } => {
                return Some(Remedy::or([
                    Step::WritableFolder.into(),
                    Step::FreeSpace.into(),
                ]));
            }
            Self::NotBuilt => Step::FetchByHand,
        };
        Some(step.into())
    }
}
