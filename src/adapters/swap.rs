use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use super::check::{check_for, gguf};
use super::register::{BARE, Held, Missing, Place, Register};
use super::{AdaptersError, Base, Checked, check, check_name};

/// Names that answer at one time, and exchanges that are prepared at one time.
const NAMES_MAX: usize = 256;
const PREPARED_MAX: usize = 64;

/// What the host did not do, in its words or in a code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// What a host does for an exchange. thread: the host's decode thread, between two decodes
pub trait Loader {
    /// Load a LoRA file onto the model that is served; the number is the host's, and not 0.
    fn load(&self, path: &Path) -> Result<u64, Refused>;
    /// From the next decode on, answer requests for `name` with this adapter, or with the bare
    /// base where there is none.
    fn set(&self, name: &str, adapter: Option<u64>, generation: u64) -> Result<(), Refused>;
    /// Free an adapter that no name is set to.
    fn free(&self, adapter: u64) -> Result<(), Refused>;
}

/// A prepared exchange. No number is used twice in a process.
pub type SwapId = u64;

/// What each name answers with, and what it answered with before.
#[derive(Default)]
pub struct Adapters {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    base: Option<Arc<Base>>,
    register: Register<Loaded>,
    prepared: BTreeMap<SwapId, Prepared>,
}

/// What the host holds for a name: its number for an adapter and the file, or the base alone.
type Loaded = Option<(u64, Arc<Checked>)>;

struct Prepared {
    name: String,
    file: Arc<Checked>,
    changed: Option<(u64, Duration)>,
}

/// What a name answers with, as [`Adapters::list`] returns it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The name that requests carry.
    pub name: String,
    /// What requests that begin now run under.
    #[serde(flatten)]
    pub now: Generation,
    /// What a rollback brings back; none where the name has had one generation only.
    pub before: Option<Generation>,
}

/// One generation of a name: an adapter, or the bare base.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Generation {
    /// Its number, never used again; 0 is the bare base.
    pub generation: u64,
    /// The file that was loaded; none for the bare base.
    pub adapter: Option<Checked>,
}

impl Adapters {
    /// Name the base that is served. Reads its header and its hash.
    pub fn set_base(&self, path: &Path) -> Result<(), AdaptersError> {
        let base = Base::read(path)?;
        self.lock().base = Some(Arc::new(base));
        Ok(())
    }

    /// The base that files are checked against; none before [`Adapters::set_base`].
    pub fn base(&self) -> Option<Arc<Base>> {
        self.lock().base.clone()
    }

    /// Check a file against the base.
    pub fn check(&self, path: &Path) -> Result<Checked, AdaptersError> {
        check(&*self.base().ok_or(AdaptersError::NoBase)?, path)
    }

    /// Every name that was loaded for, by name.
    pub fn list(&self) -> Vec<Answer> {
        let of = |held: &Held<Loaded>| Generation {
            generation: held.generation,
            adapter: held.what.as_ref().map(|(_, file)| (**file).clone()),
        };
        let answer = |(name, place): (&String, &Place<Loaded>)| Answer {
            name: name.clone(),
            now: of(&place.live),
            before: place.previous.as_ref().map(of),
        };
        self.lock().register.places().map(answer).collect()
    }

    /// Check an adapter that `name` is to answer with; it lies in the page cache afterwards. One that
    /// was made for another base is refused, unless `force` says otherwise.
    pub fn prepare(&self, name: &str, path: &Path, force: bool) -> Result<SwapId, AdaptersError> {
        check_name(name)?;
        // A host may have another working directory by then.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let base = self.base().ok_or(AdaptersError::NoBase)?;
        let path = gguf(&base, &path)?;
        let changed = changed(&path);
        let file = Arc::new(check_for(&base, &path, force)?);
        let mut state = self.lock();
        if state.prepared.len() >= PREPARED_MAX {
            return Err(AdaptersError::Full {
                what: "prepared exchanges",
                count: PREPARED_MAX,
            });
        }
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        state.prepared.insert(
            id,
            Prepared {
                name: name.to_owned(),
                file,
                changed,
            },
        );
        Ok(id)
    }

    /// Give a prepared exchange up.
    pub fn discard(&self, swap: SwapId) -> Result<(), AdaptersError> {
        self.lock()
            .prepared
            .remove(&swap)
            .map(drop)
            .ok_or(AdaptersError::NoSuchSwap(swap))
    }

    /// Let the host load the adapter and answer with it; the generation before stays loaded, the
    /// one before that is freed. Where the host fails, all stays as it was. The exchange is spent
    /// in any case.
    ///
    /// thread: the host's decode thread
    pub fn commit(&self, swap: SwapId, host: &dyn Loader) -> Result<u64, AdaptersError> {
        let mut state = self.lock();
        let Prepared {
            name,
            file,
            changed: then,
        } = state
            .prepared
            .remove(&swap)
            .ok_or(AdaptersError::NoSuchSwap(swap))?;
        if state.register.len() >= NAMES_MAX && state.register.get(&name).is_none() {
            return Err(AdaptersError::Full {
                what: "names",
                count: NAMES_MAX,
            });
        }
        if changed(&file.path) != then {
            return Err(AdaptersError::Changed {
                path: file.path.clone(),
            });
        }
        let adapter = host
            .load(&file.path)
            .map_err(|refused| AdaptersError::Host {
                what: "load the adapter",
                refused,
            })?;
        let generation = state.register.next();
        if let Err(refused) = host.set(&name, Some(adapter), generation) {
            // The first failure is the one that is reported.
            _ = host.free(adapter);
            return Err(AdaptersError::Host {
                what: "set the adapter",
                refused,
            });
        }
        let dropped = state
            .register
            .commit(&name, Some((adapter, file)), Some(None));
        free(dropped, host);
        Ok(generation)
    }

    /// Let `name` answer with what it answered with before; once more leads back.
    ///
    /// Answers the number of that generation.
    ///
    /// thread: the host's decode thread
    pub fn rollback(&self, name: &str, host: &dyn Loader) -> Result<u64, AdaptersError> {
        let mut state = self.lock();
        let previous = state
            .register
            .previous(name)
            .map_err(|what| missing(what, name))?;
        let adapter = previous.what.as_ref().map(|(adapter, _)| *adapter);
        host.set(name, adapter, previous.generation)
            .map_err(|refused| AdaptersError::Host {
                what: "set the adapter",
                refused,
            })?;
        state
            .register
            .rollback(name)
            .map_err(|what| missing(what, name))
    }

    /// Let `name` answer with the bare base, and free what was loaded for it.
    ///
    /// thread: the host's decode thread
    pub fn unload(&self, name: &str, host: &dyn Loader) -> Result<u64, AdaptersError> {
        let mut state = self.lock();
        if state.register.get(name).is_none() {
            return Err(missing(Missing::Name, name));
        }
        host.set(name, None, BARE)
            .map_err(|refused| AdaptersError::Host {
                what: "set the bare base",
                refused,
            })?;
        if let Ok(Place { live, previous }) = state.register.unload(name) {
            free(Some(live), host);
            free(previous, host);
        }
        Ok(BARE)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Let the host free an adapter. One that it cannot free stays loaded, which costs memory and
/// changes no answer.
fn free(held: Option<Held<Loaded>>, host: &dyn Loader) {
    if let Some((adapter, _)) = held.and_then(|held| held.what) {
        _ = host.free(adapter);
    }
}

fn missing(what: Missing, name: &str) -> AdaptersError {
    let name = name.to_owned();
    match what {
        Missing::Name => AdaptersError::Unknown { name },
        Missing::Previous => AdaptersError::NothingBefore { name },
    }
}

/// How large a file is and when it was last written to, to see that it is the one that was checked.
fn changed(path: &Path) -> Option<(u64, Duration)> {
    let metadata = path.metadata().ok()?;
    Some((
        metadata.len(),
        metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?,
    ))
}
