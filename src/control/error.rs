use std::io;
use std::net::SocketAddr;

use crate::record::{Blame, Fault, Remedy, Step};

/// Why the router is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The address is taken, or not of this machine.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Host and port.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// A token that was chosen at random does not protect an address of the network.
    #[error("{address} can be reached from other machines, and there is no token of your own")]
    Exposed {
        /// Where it would listen.
        address: SocketAddr,
    },
    /// The system refuses threads or signals.
    #[error("the threads for HTTP do not start: {0}")]
    Threads(#[source] io::Error),
    /// The program to run beside the router does not start.
    #[error("{program}: {source}")]
    Program {
        /// Its name, as the command line has it.
        program: String,
        /// What the system says.
        source: io::Error,
    },
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
