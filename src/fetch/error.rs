use std::io;
#[cfg(feature = "fetch")]
use std::path::Path;
use std::path::PathBuf;

use crate::record::{Blame, Fault, Remedy, Step};

/// Why the file of a name is not here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// It is written like a name of a hub, a store or the web, and is none.
    #[error("{name}: {why}")]
    Name {
        /// The name as it was written.
        name: String,
        /// What is in the way.
        why: String,
    },
    /// The store of another program has no such model.
    #[error("{name}: {store} has no such model here; there are {}", listed(known))]
    NotInStore {
        /// The name as it was written.
        name: String,
        /// The program whose store it is.
        store: &'static str,
        /// The names that are there.
        known: Vec<String>,
    },
    /// The store of another program is not what it should be.
    #[error("{path}: {why}")]
    Store {
        /// The file.
        path: PathBuf,
        /// What is in the way.
        why: String,
    },
    /// It stands for none of several files, or for more than one.
    #[error("{name}: {why}; it holds {}", listed(files))]
    Which {
        /// The name as it was written.
        name: String,
        /// What is in the way.
        why: String,
        /// The files among which to choose.
        files: Vec<String>,
    },
    /// It would have to be fetched.
    #[error("{name}: it is not on this disk, and nothing may be fetched")]
    Offline {
        /// The name as it was written.
        name: String,
    },
    /// The hub does not let this machine in.
    #[error("{name}: the hub answers {status}: {}", if *token { "the token that was sent may not read it" } else { "it is private, gated, or not there, and no token was sent" })]
    Denied {
        /// The name as it was written.
        name: String,
        /// The status of HTTP.
        status: u16,
        /// One was sent.
        token: bool,
    },
    /// The hub or the web has no such file.
    #[error("{name}: there is no such thing at {url} (404)")]
    NotThere {
        /// The name as it was written.
        name: String,
        /// The address.
        url: String,
    },
    /// The server refuses or fails.
    #[error("{name}: {url} answers {status}")]
    Status {
        /// The name as it was written.
        name: String,
        /// The address.
        url: String,
        /// The status of HTTP.
        status: u16,
    },
    /// No connection is made.
    #[error("{name}: {host} cannot be reached: {why}")]
    Unreachable {
        /// The name as it was written.
        name: String,
        /// The host.
        host: String,
        /// What is in the way.
        why: String,
    },
    /// What is answered is something else.
    #[error("{name}: the answer is not that of a hub: {why}")]
    Answer {
        /// The name as it was written.
        name: String,
        /// What is in the way.
        why: String,
    },
    /// The connection ended again and again.
    #[error("{name}: {bytes} bytes of {} arrived, then the connection was cut ({why})", of.map_or("an unknown number".to_owned(), |of| of.to_string()))]
    Cut {
        /// The name as it was written.
        name: String,
        /// Bytes that arrived.
        bytes: u64,
        /// Bytes of the file, where known.
        of: Option<u64>,
        /// What is in the way.
        why: String,
    },
    /// Size or hash are not those of the file.
    #[error("{name}: what arrived is not the file: its {what} is {found}, expected {expected}")]
    Checksum {
        /// The name as it was written.
        name: String,
        /// What was compared.
        what: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The system refuses.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// This build has no client of HTTP.
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

    #[cfg(feature = "fetch")]
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
