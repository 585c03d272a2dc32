use std::io;
use std::path::PathBuf;

use translora_gguf::FileError;
use translora_lora::LoraError;

use crate::command::{Kind, Refusal};

/// Why the module does nothing in a server, or did not carry out a command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    #[error("{path:?} has a zero byte")]
    ZeroByte { path: String },
    #[error("{path} cannot be opened")]
    Library { path: String },
    #[error("{path} has no {}", symbols.join(", "))]
    Symbols {
        path: String,
        symbols: Vec<&'static str>,
    },
    #[error(
        "{reason}: not among the versions of llama.cpp it was checked with ({})",
        known.join(", ")
    )]
    Old {
        #[source]
        reason: Box<AttachError>,
        known: &'static [&'static str],
    },
    #[error(
        "llama.cpp {found} is not among the versions it was checked with ({})",
        known.join(", ")
    )]
    Version {
        found: String,
        known: &'static [&'static str],
    },
    #[error("nothing in this server takes {symbol}")]
    NothingTakes { symbol: &'static str },
    #[error("this program is no llama-server: nothing in it loads slot files")]
    NoServer,
    #[error("nothing in this program sets adapters")]
    NoAdapters,
    #[error(
        "this server has llama.cpp's helper library linked in; a build with libllama-common.so is needed"
    )]
    HelpersLinkedIn,
    #[error("{symbol}: {source}")]
    Exchange { symbol: String, source: io::Error },
    #[error("it cannot be loaded")]
    Backend,
    #[error("it has no ggml_backend_init of its own")]
    NoBackend,
    #[error("it does not want to run here")]
    BackendRefuses,

    #[error("{}: {source}", path.display())]
    Socket { path: PathBuf, source: io::Error },
    #[error("{} is there, and is no socket", path.display())]
    NoSocket { path: PathBuf },
    #[error("{} is not a folder of this user alone", path.display())]
    Folder { path: PathBuf },

    #[error("this is no command: {0}")]
    Command(#[source] serde_json::Error),
    #[error("a line has more than {bytes_max} bytes")]
    Line { bytes_max: u64 },
    #[error("{count} clients are connected already")]
    Clients { count: usize },
    #[error("nobody carries out commands any more")]
    Gone,
    #[error("a bug in translora: the command panicked; the server's log has more")]
    Panicked,
    #[error("leave \"name\" out: this server has one live adapter, which is called as its file")]
    Named,
    #[error("this build of the library carries out no transfers")]
    NoTransfers,
    #[error(transparent)]
    Transfers(#[from] Refusal),

    #[error("{adapter}: {source}")]
    File { adapter: String, source: FileError },
    #[error("{adapter}: {source}")]
    Unsound { adapter: String, source: LoraError },
    #[error("{adapter}: no memory file for it: {source}")]
    Memory { adapter: String, source: io::Error },
    #[error(
        "the file of this server's model is not found, so no adapter can be compared with it"
    )]
    NoModel,
    #[error("{adapter}: the server's libllama does not load it: {complaints}")]
    NotLoaded { adapter: String, complaints: String },
    #[error("the adapter is no longer held")]
    NotHeld,
    #[error("{name} is not live, {live} is")]
    NotLive { name: String, live: String },
    #[error("there is no earlier adapter to go back to")]
    NothingBefore,
    #[error(
        "this server was started with several adapters, and none says which of them is to be replaced"
    )]
    SeveralAdapters,
    #[error(
        "this server has seen images, and its model keeps context checkpoints (sliding window or recurrent state): their KV \
         cannot be computed again"
    )]
    Checkpoints,
    #[error("this server samples on the device (--backend-sampling)")]
    DeviceSampling,
    #[error("a draft of this server reads the hidden states of the model (MTP, EAGLE)")]
    DraftReads,
}

impl AttachError {
    /// What to do about it, where something can be done.
    pub fn hint(&self) -> Option<&str> {
        Some(match self {
            Self::Folder { .. } => "set TRANSLORA_SOCKET",
            Self::Transfers(refusal) => {
                return Some(refusal.hint.as_str()).filter(|h| !h.is_empty());
            }
            Self::NotLive { .. } | Self::NothingBefore => "`list` shows what there is",
            Self::NoModel => "start the server with --model FILE",
            Self::SeveralAdapters => "restart it with one --lora, or with none",
            Self::Checkpoints => "restart it with --ctx-checkpoints 0",
            Self::DeviceSampling => "restart it without",
            Self::DraftReads => "restart it without that draft",
            Self::Command(_) => {
                "there are list, load, rollback, unload, transfer, jobs, job, events, cancel and report"
            }
            _ => return None,
        })
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Transfers(refusal) => refusal.kind,
            Self::Clients { .. } | Self::Gone => Kind::Unavailable,
            Self::NotLive { .. } => Kind::NotFound,
            Self::NothingBefore
            | Self::NoModel
            | Self::SeveralAdapters
            | Self::Checkpoints
            | Self::DeviceSampling
            | Self::DraftReads => Kind::Conflict,
            Self::NoTransfers => Kind::Unsupported,
            Self::File {
                source: FileError::Io(error),
                ..
            } if error.kind() == io::ErrorKind::NotFound => Kind::NotFound,
            Self::File { .. }
            | Self::Unsound { .. }
            | Self::NotLoaded { .. }
            | Self::Command(_)
            | Self::Line { .. }
            | Self::Named => Kind::Input,
            _ => Kind::Internal,
        }
    }
}

impl From<&AttachError> for Refusal {
    fn from(error: &AttachError) -> Self {
        Self::new(error.kind(), error.to_string()).hint(error.hint().unwrap_or_default())
    }
}
