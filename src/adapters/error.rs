use std::path::PathBuf;

use translora_lora::LoraError;

use super::Refused;
use crate::kit::KitError;
use crate::record::{Blame, Fault, Remedy, Step};

/// Why an adapter is not exchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdaptersError {
    /// A file was to be checked before a base was named.
    #[error("no base is known to check an adapter against")]
    NoBase,
    /// The base or the adapter cannot be read.
    #[error(transparent)]
    File(#[from] KitError),
    /// It is no sound adapter, or none for the base that is served.
    #[error("{path}: {source}")]
    Adapter {
        /// The adapter's file.
        path: PathBuf,
        /// Which tensor or key is in the way.
        source: LoraError,
    },
    /// Size or time of the file are not those of the check.
    #[error("{path}: it changed after it was checked")]
    Changed {
        /// The adapter's file.
        path: PathBuf,
    },
    /// An adapter cannot be called so.
    #[error("{name:?} is no name for an adapter: {reason}")]
    Name {
        /// The name, cut where it is too long.
        name: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// A bound of this room is reached.
    #[error("{count} {what} are there already, and no more are taken")]
    Full {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        count: usize,
    },
    /// The number is of no prepared exchange.
    #[error("swap {0}: it was never prepared here, or it is spent")]
    NoSuchSwap(u64),
    /// Nothing was loaded under this name.
    #[error("{name:?} answers with nothing that was loaded here")]
    Unknown {
        /// The name of the call.
        name: String,
    },
    /// A rollback of a name that has had one generation only.
    #[error("{name:?} has nothing to go back to")]
    NothingBefore {
        /// The name of the call.
        name: String,
    },
    /// The host did not do its part; all stays as it was.
    #[error("the host failed to {what}: {refused}")]
    Host {
        /// Its part, as a verb and an object.
        what: &'static str,
        /// Its own words.
        refused: Refused,
    },
}

impl Blame for AdaptersError {
    fn fault(&self) -> Fault {
        match self {
            Self::File(error) => error.fault(),
            Self::Host { .. } => Fault::Machine,
            Self::NoBase
            | Self::Adapter { .. }
            | Self::Changed { .. }
            | Self::Name { .. }
            | Self::Full { .. }
            | Self::NoSuchSwap(_)
            | Self::Unknown { .. }
            | Self::NothingBefore { .. } => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::NoBase => Step::NameBase.into(),
            Self::File(error) => return error.remedy(),
            Self::Adapter { source, .. } => return source.remedy(),
            Self::Changed { .. } | Self::NoSuchSwap(_) => Step::PrepareAgain.into(),
            Self::Name { .. } => Remedy::takes(
                "name",
                "1 to 128 bytes of printable text without a slash, a dot first or white space at an end",
            ),
            Self::Full { .. } => Step::MakePlace.into(),
            Self::Unknown { .. } => Step::ListAdapters.into(),
            Self::NothingBefore { .. } => Step::LoadFirst.into(),
            Self::Host { .. } => Step::ReadHostLog.into(),
        })
    }
}
