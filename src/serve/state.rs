//! What lasts: which adapter is live under a name, which was before, what was unloaded, and the
//! transfers. It lies in one file beside the adapters.
//!
//! A change is written aside, synced, renamed, and the folder is synced; only then is it carried
//! out and answered. So what was answered is what the next start finds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::folder;
use super::live::Registry;
use crate::control::Kept;
use crate::record::ContentHash;

/// The file in the folder of adapters.
const FILE: &str = "serve-state.json";
/// What a damaged one is called from then on.
const DAMAGED: &str = "serve-state.json.damaged";
/// Held by the server that keeps its state in the folder.
const LOCK: &str = ".serve-state.lock";
const VERSION: u32 = 1;

/// All that outlasts the process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    version: u32,
    /// The last number of a generation: none is used twice, in no process.
    pub generation: u64,
    /// By name.
    pub adapters: BTreeMap<String, Record>,
    /// Names that are not to come back from the folder by themselves.
    pub unloaded: BTreeSet<String>,
    /// In the order in which they came.
    pub transfers: Vec<Kept>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            version: VERSION,
            generation: 0,
            adapters: BTreeMap::new(),
            unloaded: BTreeSet::new(),
            transfers: Vec::new(),
        }
    }
}

/// What is kept of a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// What answers.
    pub live: Loaded,
    /// What a rollback brings back.
    pub previous: Option<Loaded>,
    /// How strongly it works on requests that name no adapter.
    pub scale: f32,
    /// The highest number of a file of this name that has lain in the folder: one with a higher
    /// number is new.
    pub newest: u64,
}

impl Record {
    /// Whether the live adapter is there because a rollback left the one behind it.
    pub(super) fn is_rolled_back(&self) -> bool {
        let previous = self.previous.as_ref();
        previous.is_some_and(|previous| previous.generation > self.live.generation)
    }
}

/// One load of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Loaded {
    /// Its number.
    pub generation: u64,
    /// From the folder of adapters on.
    pub file: PathBuf,
    /// Of its bytes.
    pub sha256: ContentHash,
}

/// Where the state is kept.
pub(super) struct Store {
    folder: PathBuf,
    state: Mutex<State>,
    /// None where changes last as long as the process.
    lock: Option<File>,
}

impl Store {
    /// Read the state that lies in a folder, and the sentences that the log needs about it. There is
    /// a state in any case: one that is damaged is set aside, and where none can be kept, changes
    /// last as long as the process.
    pub(super) fn open(folder: &Path) -> (Self, Vec<String>) {
        let mut notes = Vec::new();
        let lock = locked(folder).unwrap_or_else(|reason| {
            notes.push(format!(
                "warning: {reason}: loads, rollbacks and unloads last until this server ends"
            ));
            None
        });
        let path = folder.join(FILE);
        let state = read(&path).unwrap_or_else(|reason| {
            let aside = match fs::rename(&path, folder.join(DAMAGED)) {
                Ok(()) => format!("it is called {DAMAGED} from now on"),
                Err(error) => format!("it cannot be set aside: {error}"),
            };
            notes.push(format!(
                "warning: {FILE}: {reason}: {aside}; the adapters in the folder are loaded as if there \
                 had been none"
            ));
            State::default()
        });
        let store = Self {
            folder: folder.to_owned(),
            state: Mutex::new(state),
            lock,
        };
        (store, notes)
    }

    /// The state as it is.
    pub(super) fn state(&self) -> State {
        let state = self.state.lock();
        state.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Change the state, on the disk first. Where that fails, nothing has changed.
    pub(super) fn update(&self, change: impl FnOnce(&mut State)) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = state.clone();
        change(&mut next);
        if next == *state {
            return Ok(());
        }
        if self.lock.is_some() {
            let text = serde_json::to_string_pretty(&next).map_err(io::Error::other)? + "\n";
            let steps = replacement(&self.folder, text.as_bytes());
            steps.iter().try_for_each(Step::carry_out)?;
        }
        *state = next;
        Ok(())
    }

    /// Keep what is live, what was before and what was unloaded.
    pub(super) fn keep(&self, registry: &Registry) -> io::Result<()> {
        let known = self.state().adapters;
        let listing = folder::list(&self.folder)?;
        let newest = |name: &str| {
            let last = listing.of(name).next_back().map_or(0, |(number, _)| number);
            known
                .get(name)
                .map_or(last, |record| record.newest.max(last))
        };
        let (adapters, unloaded) = registry.kept(&self.folders(), newest);
        self.update(|state| {
            state.generation = registry.last();
            (state.adapters, state.unloaded) = (adapters, unloaded);
        })
    }

    /// The folder, as paths of files may begin.
    fn folders(&self) -> Vec<PathBuf> {
        let whole = [
            std::path::absolute(&self.folder),
            self.folder.canonicalize(),
        ];
        whole.into_iter().flatten().collect()
    }

    /// Let another server keep its state here.
    pub(super) fn release(&self) {
        if let Some(lock) = &self.lock {
            _ = lock.unlock();
        }
    }
}

/// Become the one server that keeps its state in a folder; none on a disk that knows no locks.
fn locked(folder: &Path) -> Result<Option<File>, String> {
    let failed = |error: io::Error| format!("no state can be kept in the folder: {error}");
    let path = folder.join(LOCK);
    let mut options = File::options();
    options.write(true).create(true).truncate(false);
    let file = options.open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            Err("another server keeps its state in the folder".to_owned())
        }
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(Some(file)),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// The state in a file; the first one where there is no file.
fn read(path: &Path) -> Result<State, String> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(State::default()),
        text => text.map_err(|error| error.to_string())?,
    };
    let state: State = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    if state.version == VERSION {
        Ok(state)
    } else {
        Err(format!("it is of version {}", state.version))
    }
}

/// One operation on the disk.
enum Step {
    Write(PathBuf, Vec<u8>),
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
}

/// What puts a new state in the place of the old one, in the order that survives a power cut.
fn replacement(folder: &Path, bytes: &[u8]) -> [Step; 4] {
    let aside = folder.join(format!(".{FILE}.part"));
    [
        Step::Write(aside.clone(), bytes.to_owned()),
        Step::Sync(aside.clone()),
        Step::Rename(aside, folder.join(FILE)),
        Step::Sync(folder.to_owned()),
    ]
}

impl Step {
    fn carry_out(&self) -> io::Result<()> {
        match self {
            Self::Write(path, bytes) => File::create(path)?.write_all(bytes),
            Self::Sync(path) => File::open(path)?.sync_all(),
            Self::Rename(from, to) => fs::rename(from, to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(generation: u64) -> State {
        State {
            generation,
            ..State::default()
        }
    }

    /// What a power cut may leave of the first steps: a step that was not synced is there, or not,
    /// or half.
    fn left(steps: &[Step]) -> Vec<Vec<Step>> {
        let mut all: Vec<Vec<Step>> = vec![Vec::new()];
        for (at, step) in steps.iter().enumerate() {
            let synced = steps[at..].iter().any(|later| match (step, later) {
                (Step::Write(path, _), Step::Sync(synced)) => path == synced,
                (Step::Rename(_, to), Step::Sync(synced)) => to.parent() == Some(synced),
                _ => false,
            });
            let ways: Vec<Option<Step>> = match step {
                Step::Sync(_) => continue,
                step if synced => vec![Some(copy(step, 1))],
                Step::Write(..) => vec![None, Some(copy(step, 2)), Some(copy(step, 1))],
                Step::Rename(..) => vec![None, Some(copy(step, 1))],
            };
            let longer = |done: &Vec<Step>| {
                let one = |way: &Option<Step>| {
                    let done = done.iter().map(|step| copy(step, 1));
                    done.chain(way.as_ref().map(|step| copy(step, 1))).collect()
                };
                ways.iter().map(one).collect::<Vec<Vec<Step>>>()
            };
            all = all.iter().flat_map(longer).collect();
        }
        all
    }

    /// A step; of what it writes, one part of `parts`.
    fn copy(step: &Step, parts: usize) -> Step {
        match step {
            Step::Write(path, bytes) => {
                Step::Write(path.clone(), bytes[..bytes.len() / parts].to_owned())
            }
            Step::Sync(path) => Step::Sync(path.clone()),
            Step::Rename(from, to) => Step::Rename(from.clone(), to.clone()),
        }
    }

    #[test]
    fn after_a_power_cut_anywhere_the_state_is_the_old_one_or_the_new_one() {
        let text = |state| serde_json::to_string(&state).expect("a state is JSON");
        let mut tried = 0;
        for count in 0..=4 {
            let place = tempfile::tempdir().expect("a folder");
            let steps = replacement(place.path(), text(numbered(2)).as_bytes());
            for way in left(&steps[..count]) {
                fs::write(place.path().join(FILE), text(numbered(1))).expect("writable");
                _ = fs::remove_file(place.path().join(format!(".{FILE}.part")));
                for step in &way {
                    // Where the file was not written, there is nothing to rename.
                    _ = step.carry_out();
                }
                let (store, notes) = Store::open(place.path());
                assert!(notes.is_empty(), "{notes:?}");
                let found = store.state().generation;
                assert!(found == 2 || (found == 1 && count < 4), "after {count}");
                tried += 1;
            }
        }
        assert_eq!(tried, 1 + 3 + 1 + 2 + 1);
    }

    #[test]
    fn a_damaged_state_is_set_aside_and_said() {
        let whole = serde_json::to_string(&numbered(7)).expect("a state is JSON");
        let other = whole.replace("\"version\":1", "\"version\":99");
        let cut = whole[..whole.len() / 2].to_owned();
        for text in ["", "\0\0\0\0", "[]", "{}", cut.as_str(), other.as_str()] {
            let place = tempfile::tempdir().expect("a folder");
            fs::write(place.path().join(FILE), text).expect("writable");
            let (store, notes) = Store::open(place.path());
            assert_eq!(store.state(), State::default(), "{text}");
            assert!(notes.len() == 1 && notes[0].contains(DAMAGED), "{notes:?}");
            let aside = fs::read_to_string(place.path().join(DAMAGED));
            assert_eq!(aside.expect("it was set aside"), text);
            store.update(|state| state.generation = 3).expect("kept");
            store.release();
            assert_eq!(Store::open(place.path()).0.state().generation, 3);
        }
    }

    #[test]
    fn one_server_keeps_its_state_in_a_folder() {
        let place = tempfile::tempdir().expect("a folder");
        let (first, notes) = Store::open(place.path());
        assert!(notes.is_empty(), "{notes:?}");
        let (second, notes) = Store::open(place.path());
        assert!(notes[0].contains("another server"), "{notes:?}");
        second
            .update(|state| state.generation = 9)
            .expect("its own");
        first.update(|state| state.generation = 5).expect("kept");
        first.release();
        assert_eq!(Store::open(place.path()).0.state().generation, 5);
    }
}
