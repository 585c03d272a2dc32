use std::io;
use std::path::PathBuf;

use translora_gguf::FileError;
use translora_lora::LoraError;

use crate::command::{Kind, Refusal};

/// Why the module does nothing in a server, or did not carry out a command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// A path that no C function takes.
    #[error("{path:?} has a zero byte")]
    ZeroByte {
        /// The path.
        path: String,
    },
    /// A library of the server is not loaded under its own name.
    #[error("{path} cannot be opened")]
    Library {
        /// The library's file.
        path: String,
    },
    /// The server's libllama lacks functions that the module needs.
    #[error("{path} has no {}", symbols.join(", "))]
    Symbols {
        /// The library's file.
        path: String,
        /// The functions.
        symbols: Vec<&'static str>,
    },
    /// The server's llama.cpp has no version number that could be compared.
    #[error(
        "{reason}: not among the versions of llama.cpp it was checked with ({})",
        known.join(", ")
    )]
    Old {
        /// What it lacks.
        #[source]
        reason: Box<AttachError>,
        /// Starts of the versions that were checked.
        known: &'static [&'static str],
    },
    /// The server's llama.cpp is a version that nobody checked.
    #[error(
        "llama.cpp {found} is not among the versions it was checked with ({})",
        known.join(", ")
    )]
    Version {
        /// The server's version.
        found: String,
        /// Starts of the versions that were checked.
        known: &'static [&'static str],
    },
    /// A function that has to be exchanged is called by nobody.
    #[error("nothing in this server takes {symbol}")]
    NothingTakes {
        /// The function.
        symbol: &'static str,
    },
    /// The program has a libllama and is no llama-server.
    #[error("this program is no llama-server: nothing in it loads slot files")]
    NoServer,
    /// The program has a libllama and sets no adapters.
    #[error("nothing in this program sets adapters")]
    NoAdapters,
    /// Server and helpers are one library, so that their calls cannot be distinguished.
    #[error(
        "this server has llama.cpp's helper library linked in; a build with libllama-common.so is needed"
    )]
    HelpersLinkedIn,
    /// The address of a function could not be exchanged.
    #[error("{symbol}: {source}")]
    Exchange {
        /// The function.
        symbol: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The backend of `TRANSLORA_CHAIN_BACKEND` does not load.
    #[error("it cannot be loaded")]
    Backend,
    /// The library of `TRANSLORA_CHAIN_BACKEND` is no backend.
    #[error("it has no ggml_backend_init of its own")]
    NoBackend,
    /// The backend of `TRANSLORA_CHAIN_BACKEND` refuses this machine.
    #[error("it does not want to run here")]
    BackendRefuses,

    /// The socket could not be opened.
    #[error("{}: {source}", path.display())]
    Socket {
        /// The socket, or its folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The socket's place is taken by something else.
    #[error("{} is there, and is no socket", path.display())]
    NoSocket {
        /// The place.
        path: PathBuf,
    },
    /// Others could put a socket into the folder.
    #[error("{} is not a folder of this user alone", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },

    /// A line on the socket is no command.
    #[error("this is no command: {0}")]
    Command(#[source] serde_json::Error),
    /// A line on the socket is too long.
    #[error("a line has more than {bytes_max} bytes")]
    Line {
        /// The bound.
        bytes_max: u64,
    },
    /// Too many clients at a time.
    #[error("{count} clients are connected already")]
    Clients {
        /// The bound.
        count: usize,
    },
    /// The thread that carries out commands has ended.
    #[error("nobody carries out commands any more")]
    Gone,
    /// The command panicked.
    #[error("a bug in translora: the command panicked; the server's log has more")]
    Panicked,
    /// A load names the adapter, where there is one live adapter only.
    #[error("leave \"name\" out: this server has one live adapter, which is called as its file")]
    Named,
    /// Nobody registered to carry out transfers.
    #[error("this build of the library carries out no transfers")]
    NoTransfers,
    /// A command about transfers was refused.
    #[error(transparent)]
    Transfers(#[from] Refusal),

    /// An adapter file could not be read.
    #[error("{adapter}: {source}")]
    File {
        /// The adapter's file.
        adapter: String,
        /// Why.
        source: FileError,
    },
    /// A file is no sound adapter, or does not fit the server's model.
    #[error("{adapter}: {source}")]
    Unsound {
        /// The adapter's file.
        adapter: String,
        /// Why.
        source: LoraError,
    },
    /// There is no memory for the private copy of an adapter.
    #[error("{adapter}: no memory file for it: {source}")]
    Memory {
        /// The adapter's file.
        adapter: String,
        /// The system's reason.
        source: io::Error,
    },
    /// No file of a model is known for this process.
    #[error(
        "the file of this server's model is not found, so no adapter can be compared with it"
    )]
    NoModel,
    /// The file of the model is not the one that the server opened.
    #[error(
        "{} was replaced or changed since the server began, and an adapter that was made for one base \
         goes into no other",
        model.display()
    )]
    Replaced {
        /// The model's file.
        model: PathBuf,
    },
    /// The server's libllama refuses an adapter that was found sound.
    #[error("{adapter}: the server's libllama does not load it: {complaints}")]
    NotLoaded {
        /// The adapter's file.
        adapter: String,
        /// What libllama logged.
        complaints: String,
    },
    /// An adapter was freed before it was used.
    #[error("the adapter is no longer held")]
    NotHeld,
    /// A rollback or unload names another adapter than the live one.
    #[error("{name} is not live, {live} is")]
    NotLive {
        /// The name in the command.
        name: String,
        /// The live adapter's name.
        live: String,
    },
    /// A load is meant for another base.
    #[error("\"base_model_name\" is {name:?}, and the base that is served is {}", served.join(", "))]
    OtherBase {
        /// The name in the command.
        name: String,
        /// What the served base is called.
        served: Vec<String>,
    },
    /// A load expects another generation.
    #[error("generation {live} is live, and not {expected}: nothing was changed")]
    OtherGeneration {
        /// The number in the command.
        expected: u64,
        /// The live one's.
        live: u64,
    },
    /// A rollback where no adapter was live before.
    #[error("there is no earlier adapter to go back to")]
    NothingBefore,
    /// The server has several adapters of its own.
    #[error(
        "this server was started with several adapters, and none says which of them is to be replaced"
    )]
    SeveralAdapters,
    /// KV behind images could not be computed again.
    #[error(
        "this server has seen images, and its model keeps context checkpoints (sliding window or recurrent state): their KV \
         cannot be computed again"
    )]
    Checkpoints,
    /// Samples are drawn where no hook sees them.
    #[error("this server samples on the device (--backend-sampling)")]
    DeviceSampling,
    /// A draft keeps states that belong to an adapter.
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
            Self::NotLive { .. } | Self::NothingBefore | Self::OtherGeneration { .. } => "`list` shows what there is",
            Self::NoModel => "start the server with --model FILE",
            Self::Replaced { .. } => "restart the server, or load the adapter with force",
            Self::Unsound {
                source: LoraError::OtherBase { .. },
                ..
            } => "move it to this base by a transfer, or load it with force",
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
            | Self::OtherGeneration { .. }
            | Self::NoModel
            | Self::Replaced { .. }
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
            | Self::OtherBase { .. }
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
