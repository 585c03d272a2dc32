//! Prompts that a server kept of an adapter, as inputs of the task.

use std::path::{Path, PathBuf};

use translora_harvest::{Asked, Contents, HarvestError, Role as Speaker, list, read};

use super::KitError;
use crate::record::{Blame, ContentHash, Fault, Prompt, Remedy, Role, Step, Turn};

/// What a server was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A conversation.
    Prompt(Prompt),
    /// The text that the model went on from, with what a chat template wrote into it.
    Text(String),
}

/// A prompt that was kept, and what the adapter answered where that was kept, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Harvested {
    /// What was asked.
    pub heard: Heard,
    /// What the adapter that is wanted answered; answers of others under its name are none.
    pub answer: Option<String>,
}

/// What was kept of an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Harvest {
    /// The file that was read.
    pub path: PathBuf,
    /// The name that the adapter was served under.
    pub adapter: String,
    /// In an order that says nothing of when they came.
    pub rows: Vec<Harvested>,
}

/// Read what was kept of the adapter with this hash: `path` is its file, or the folder, in which the
/// file counts that has most prompts of it. What came under the same name for other versions of it
/// is of the task, too. `now`: rows whose time is over are none. units: seconds since 1970
///
/// fails: the file or the folder cannot be read or is damaged, or the folder has nothing of it
pub fn harvest(path: &Path, lora: ContentHash, now: u64) -> Result<Harvest, KitError> {
    let refuse = |source| KitError::Harvest { source };
    if !path.is_dir() {
        let contents = read(path, now).map_err(refuse)?;
        if contents.rows.is_empty() {
            return Err(KitError::NothingKept {
                path: path.to_owned(),
                adapters: Vec::new(),
            });
        }
        return Ok(of(path.to_owned(), contents, lora));
    }
    let (mut best, mut adapters, mut damaged) =
        (None::<(usize, PathBuf, Contents)>, Vec::new(), None);
    for (file, listed) in list(path, now).map_err(refuse)? {
        let contents = listed.and_then(|_| read(&file, now));
        let contents = match contents {
            Ok(contents) => contents,
            Err(error) => {
                damaged = damaged.or(Some(error));
                continue;
            }
        };
        adapters.push(contents.adapter.clone());
        let wanted = lora.to_string();
        let own = contents
            .rows
            .iter()
            .filter(|row| row.sha256 == wanted)
            .count();
        if own > best.as_ref().map_or(0, |(own, ..)| *own) {
            best = Some((own, file, contents));
        }
    }
    match (best, damaged) {
        (Some((_, file, contents)), _) => Ok(of(file, contents, lora)),
        (None, Some(damaged)) => Err(refuse(damaged)),
        (None, None) => Err(KitError::NothingKept {
            path: path.to_owned(),
            adapters,
        }),
    }
}

fn of(path: PathBuf, contents: Contents, lora: ContentHash) -> Harvest {
    let wanted = lora.to_string();
    let row = |row: translora_harvest::Row| Harvested {
        heard: match row.asked {
            Asked::Turns(turns) => Heard::Prompt(prompt(turns)),
            Asked::Text(text) => Heard::Text(text),
        },
        answer: row.answer.filter(|_| row.sha256 == wanted),
    };
    Harvest {
        path,
        adapter: contents.adapter,
        rows: contents.rows.into_iter().map(row).collect(),
    }
}

/// The last turn is a user's: no other is kept.
fn prompt(turns: Vec<translora_harvest::Turn>) -> Prompt {
    let role = |speaker| match speaker {
        Speaker::System => Role::System,
        Speaker::User => Role::User,
        Speaker::Assistant => Role::Assistant,
    };
    let mut turns: Vec<Turn> = turns
        .into_iter()
        .map(|turn| Turn::new(role(turn.role), turn.content))
        .collect();
    let text = turns.pop().map(|turn| turn.content).unwrap_or_default();
    Prompt {
        before: turns,
        text,
    }
}

impl Blame for HarvestError {
    fn fault(&self) -> Fault {
        if self.is_of_input() {
            Fault::Input
        } else {
            Fault::Machine
        }
    }

    fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::Io { .. } if self.is_of_input() => Step::CheckPath.into(),
            Self::Open { .. } => Step::PrivateFolder.into(),
            Self::Line { .. } | Self::Large { .. } => Step::EraseKept.into(),
            Self::Full { .. } => Step::EraseOthers.into(),
            _ => Step::WritableFolder.into(),
        })
    }
}
