use std::io;
use std::net::SocketAddr;

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

impl ControlError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Listen { .. } => "choose another port, or stop what listens there",
            Self::Exposed { .. } => {
                "set TRANSLORA_CONTROL_TOKEN, or listen on 127.0.0.1, which this machine alone reaches"
            }
            Self::Threads(_) => "close other programs",
            Self::Program { .. } => return None,
        };
        Some(text.into())
    }
}
