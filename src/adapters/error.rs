use std::path::PathBuf;

use translora_lora::LoraError;

use super::Refused;
use crate::engine::Fault;
use crate::kit::KitError;

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

impl AdaptersError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::File(error) => error.fault(),
            Self::Host { .. } => Fault::Machine,
            _ => Fault::Input,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        let text = match self {
            Self::NoBase => "name the model that is served first",
            Self::File(error) => return error.hint().unwrap_or_default(),
            Self::Adapter { .. } => {
                "give an adapter that was made for the model that is served; `translora inspect` says what one fits"
            }
            Self::Changed { .. } => "prepare it again",
            Self::Name { .. } => "give one to 128 printable characters",
            Self::Full { .. } => "unload or discard one first",
            Self::NoSuchSwap(_) => {
                "prepare it again; a swap is spent by its commit, whatever came of it"
            }
            Self::Unknown { .. } => "ask for the list",
            Self::NothingBefore { .. } => "load an adapter first",
            Self::Host { .. } => "the host's log may say why; what answered before still does",
        };
        text.into()
    }
}
