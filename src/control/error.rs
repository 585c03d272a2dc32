use std::io;
use std::net::SocketAddr;

use crate::record::{Blame, Fault, Remedy, Step};

/// Why the router is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: String, source: io::Error },
    #[error("{address} can be reached from other machines, and there is no token of your own")]
    Exposed { address: SocketAddr },
    #[error("the threads for HTTP do not start: {0}")]
    Threads(#[source] io::Error),
    #[error("{program}: {source}")]
    Program { program: String, source: io::Error },
}

impl Blame for ControlError {
    fn fault(&self) -> Fault {
        match self {
            Self::Listen { .. } | Self::Exposed { .. } | Self::Program { .. } => Fault::Input,
            Self::Threads(_) => Fault::Machine,
        }
    }

    fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::Listen { .. } => {
                Remedy::or([Remedy::choose_other("port"), Step::StopListener.into()])
            }
            Self::Exposed { .. } => Step::OwnToken.into(),
            Self::Threads(_) => Step::CloseOthers.into(),
            Self::Program { .. } => Step::OtherProgram.into(),
        })
    }
}
