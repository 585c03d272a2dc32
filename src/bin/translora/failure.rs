//! Why a command ended with an error, and how that is shown: `error:`, the chain of causes,
//! `hint:`.

use std::error::Error;
use std::io;

use serde_json::Value;
use translora::control::{ControlError, Refusal};
use translora::engine::EngineError;
use translora::fetch::FetchError;
use translora::pipeline::PipelineError;
use translora::record::{Blame, Field, Remedy, Wording};
use translora::serve::ServeError;
use translora_harvest::HarvestError;

use crate::out;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{message}")]
    Usage { message: String, hint: String },
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Harvest(#[from] HarvestError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the engine does not start")]
    Engine(#[from] EngineError),
    #[error("cannot listen for signals")]
    Signals(#[source] io::Error),
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    #[error("a bug in translora: {0}")]
    Bug(String),
}

/// The words for a person at a command line.
#[derive(Clone, Copy, Debug)]
pub struct InFlags;

impl Wording for InFlags {
    /// llama.cpp's short name where it has one.
    fn field(&self, field: &Field) -> String {
        match field.name() {
            "ctx_size" => "-c".into(),
            "threads" => "-t".into(),
            "gpu_layers" => "-ngl".into(),
            "parallel" => "-np".into(),
            name => format!("--{}", name.replace('_', "-")),
        }
    }

    fn set(&self, field: &Field, value: &Value) -> String {
        let flag = self.field(field);
        match value {
            Value::Bool(true) => flag,
            Value::String(text) => format!("{flag} {text}"),
            value => format!("{flag} {value}"),
        }
    }

    fn with(&self, command: &str) -> String {
        format!(" with `translora {command}`")
    }
}

impl Failure {
    fn hint(&self) -> Option<String> {
        let words = |remedy: Option<Remedy>| remedy.map(|remedy| remedy.words(&InFlags));
        match self {
            Self::Usage { hint, .. } => Some(hint.clone()),
            Self::Pipeline(error) => words(error.remedy()),
            Self::Fetch(error) => words(error.remedy()),
            Self::Serve(error) => words(error.remedy()),
            Self::Engine(error) => words(error.remedy()),
            Self::Harvest(error) => words(error.remedy()),
            Self::Control(error) => words(error.remedy()),
            Self::Refused(refusal) if refusal.hint.is_empty() => {
                Some("nothing was changed; the server goes on as before".into())
            }
            Self::Refused(refusal) => Some(refusal.hint.clone()),
            Self::Output(_) => Some("the work itself is done; see the files named above".into()),
            Self::Bug(_) => {
                Some("please report it with the command line and the lines above".into())
            }
            Self::Signals(_) => None,
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
    let mut said = error.to_string();
    let mut lines = vec![format!("{} {said}", out::marked("error:"))];
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Many messages end with their cause already.
        if !said.contains(&text) {
            lines.push(format!("  because: {text}"));
            said = text;
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
    fn a_remedy_is_worded_in_flags() {
        let cases = [
            (Remedy::raise("ctx_size"), "raise -c"),
            (Remedy::add("source_lora"), "add --source-lora"),
            (Remedy::set("near", 0), "use --near 0"),
            (Remedy::set("filter", "contrast"), "use --filter contrast"),
            (
                Remedy::Resume,
                "start it again, with --resume where a journal lies beside the output",
            ),
            (
                Remedy::Inspect,
                "look with `translora inspect` what it is and what it fits",
            ),
        ];
        for (remedy, words) in cases {
            assert_eq!(remedy.words(&InFlags), words);
        }
    }

    #[test]
    fn a_cause_is_named_once() {
        let io = || io::Error::other("disk full");
        let said = lines(&Failure::Output(io()), Some("free some"));
        assert_eq!(
            said,
            [
                "error: cannot write to standard output",
                "  because: disk full",
                "hint: free some"
            ]
        );

        #[derive(Debug, thiserror::Error)]
        #[error("a.jsonl: {source}")]
        struct Unreadable {
            source: io::Error,
        }
        assert_eq!(
            lines(&Unreadable { source: io() }, None),
            ["error: a.jsonl: disk full"]
        );
    }
}
