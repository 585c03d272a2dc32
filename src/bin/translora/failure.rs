//! Why a command ended with an error, and how that is told: `error:`, the chain of causes, `hint:`.

use std::error::Error;
use std::io;

use translora::control::{ControlError, Refusal};
use translora::engine::EngineError;
use translora::pipeline::PipelineError;
use translora::serve::ServeError;

use crate::out;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{message}")]
    Usage { message: String, hint: String },
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the engine does not start")]
    Engine(#[from] EngineError),
    #[error("cannot listen for Ctrl-C")]
    Interrupt(#[from] ctrlc::Error),
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    #[error("a bug in translora: {0}")]
    Bug(String),
}

impl Failure {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { hint, .. } => Some(hint.clone()),
            Self::Pipeline(error) => error.hint(),
            Self::Serve(error) => error.hint(),
            Self::Control(error) => error.hint(),
            Self::Refused(refusal) if refusal.hint.is_empty() => {
                Some("nothing was changed; the server goes on as before".into())
            }
            Self::Refused(refusal) => Some(refusal.hint.clone()),
            Self::Output(_) => Some("the work itself is done; see the files named above".into()),
            Self::Bug(_) => {
                Some("please report it with the command line and the lines above".into())
            }
            Self::Engine(error) => error.hint(),
            Self::Interrupt(_) => None,
        }
    }

    /// Tell a person what was wrong and what to do about it.
    pub fn tell(&self) {
        for line in lines(self, self.hint().as_deref()) {
            out::say(&line);
        }
    }
}

fn lines(error: &dyn Error, hint: Option<&str>) -> Vec<String> {
    let mut told = error.to_string();
    let mut lines = vec![format!("{} {told}", out::marked("error:"))];
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Many messages end with their cause already.
        if !told.contains(&text) {
            lines.push(format!("  because: {text}"));
            told = text;
        }
        cause = error.source();
    }
    lines.extend(hint.map(|hint| format!("hint: {hint}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let io = || io::Error::other("disk full");
        let told = lines(&Failure::Output(io()), Some("free some"));
        assert_eq!(
            told,
            [
                "error: cannot write to standard output",
                "  because: disk full",
                "hint: free some"
            ]
        );

        #[derive(Debug, thiserror::Error)]
        #[error("a.jsonl: {source}")]
        struct Told {
            source: io::Error,
        }
        assert_eq!(
            lines(&Told { source: io() }, None),
            ["error: a.jsonl: disk full"]
        );
    }
}
