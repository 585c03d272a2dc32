//! Where a file is: names of a hub, of the web and of other programs' stores become paths before
//! anything else is done.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value};
use translora::fetch::{Finder, Wanted};

use crate::failure::Failure;
use crate::out;

/// Settings of requests that name a file which may be somewhere else.
const SETTINGS: [(&str, Wanted); 7] = [
    ("model", Wanted::Model),
    ("source", Wanted::Model),
    ("target", Wanted::Model),
    ("lora", Wanted::Adapter),
    ("source_lora", Wanted::Adapter),
    ("oracle", Wanted::Adapter),
    ("kit", Wanted::Kit),
];

/// What holds for every file of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fetching {
    pub offline: bool,
    pub quiet: bool,
}

static FETCHING: OnceLock<Fetching> = OnceLock::new();

/// Say once, before any file is looked for, how that is done.
pub fn set(fetching: Fetching) {
    _ = FETCHING.set(fetching);
}

/// Replace the names in a request by the paths of their files.
pub fn resolve(values: &mut Map<String, Value>) -> Result<(), Failure> {
    for (name, wanted) in SETTINGS {
        if let Some(Value::String(text)) = values.get_mut(name) {
            let path = local(Path::new(text), wanted)?;
            let Ok(path) = path.into_os_string().into_string() else {
                return Err(Failure::Usage {
                    message: format!("{text}: its file lies at a path that is not UTF-8"),
                    hint: "keep fetched files below a folder with another name".into(),
                });
            };
            *text = path;
        }
    }
    Ok(())
}

/// The path of a file that may be named by a hub, the web or a store; it is fetched if it must be.
pub fn local(name: &Path, wanted: Wanted) -> Result<PathBuf, Failure> {
    let Fetching { offline, quiet } = FETCHING.get().copied().unwrap_or_default();
    let mut shown: Option<(String, ProgressBar)> = None;
    let mut progress = |file: &str, here: u64, of: Option<u64>| {
        let known = shown.as_ref().is_some_and(|(name, _)| name == file);
        if !known {
            if let Some((_, bar)) = shown.take() {
                bar.finish_and_clear();
            }
            if !quiet {
                let size = of.map_or(String::new(), |bytes| format!(", {} MB", bytes / 1_000_000));
                out::say(&format!("fetching {file}{size}"));
            }
            shown = Some((file.to_owned(), bar(quiet, of)));
        }
        if let Some((_, bar)) = &shown {
            bar.set_position(here);
        }
    };
    let found = Finder::from_env(offline).find(name, wanted, &mut progress);
    if let Some((_, bar)) = shown {
        bar.finish_and_clear();
    }
    Ok(found?)
}

fn bar(quiet: bool, of: Option<u64>) -> ProgressBar {
    let target = if quiet || !io::stderr().is_terminal() {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let style = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {eta} left");
    let bar = ProgressBar::with_draw_target(of, target);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
