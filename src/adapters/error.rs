use std::path::PathBuf;

use translora_lora::LoraError;

use super::Refused;
use crate::kit::KitError;
use crate::record::{Blame, Fault, Remedy, Step};

/// Why an adapter is not exchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdaptersError {
    #[error("no base is known to check an adapter against")]
    NoBase,
    #[error(transparent)]
    File(#[from] KitError),
    /// It is no sound adapter, or none for the base that is served.
    #[error("{path}: {source}")]
    Adapter { path: PathBuf, source: LoraError },
    #[error("{path}: it changed after it was checked")]
    Changed { path: PathBuf },
    #[error("{name:?} is no name for an adapter: {reason}")]
    Name { name: String, reason: &'static str },
    #[error("{count} {what} are there already, and no more are taken")]
    Full { what: &'static str, count: usize },
    #[error("swap {0}: it was never prepared here, or it is spent")]
    NoSuchSwap(u64),
    #[error("{name:?} answers with nothing that was loaded here")]
    Unknown { name: String },
    #[error("{name:?} has nothing to go back to")]
    NothingBefore { name: String },
    #[error("the host failed to {what}: {refused}")]
    Host {
        what: &'static str,
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
            Self::Name { .. } => Remedy::takes("name", "1 to 128 printable characters"),
            Self::Full { .. } => Step::MakePlace.into(),
            Self::Unknown { .. } => Step::ListAdapters.into(),
            Self::NothingBefore { .. } => Step::LoadFirst.into(),
            Self::Host { .. } => Step::ReadHostLog.into(),
        })
    }
}
