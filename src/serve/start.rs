//! The adapters of a start: those of the command line, those that an earlier process had live, and
//! what is new in the folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::backend::check_name;
use super::effect::Probe;
use super::error::ServeError;
use super::folder::{self, Listing};
use super::live::{Fresh, Registry};
use super::state::{Loaded, Record, Store};
use super::{Config, Say};
use crate::engine::EngineError;
use crate::engine::host::{Decoder, Host};

/// Loads the adapters of the start.
pub(super) struct Loader<'s> {
    pub host: &'s dyn Host,
    pub decoder: &'s mut dyn Decoder,
    pub probe: Probe,
    pub config: &'s Config,
    /// What the base is called.
    pub base: &'s str,
    pub say: &'s Say,
    /// Names whose adapter is sound and for another base.
    pub elsewhere: BTreeSet<String>,
}

/// Why a file is left out, in words.
type Reason = String;

impl Loader<'_> {
    /// Load what the configuration names, and what lies in the folder: what was live is live again.
    ///
    /// fails: a named adapter does not load or changes no answer, two have one name, one has the
    /// base's, or the folder cannot be read
    pub(super) fn load(&mut self, store: Option<&Store>) -> Result<Registry, ServeError> {
        let config = self.config;
        let mut registry = Registry::default();
        let state = store.map(Store::state).unwrap_or_default();
        registry.go_on(state.generation, state.unloaded);
        self.load_named(&mut registry)?;
        let (Some(folder), Some(store)) = (&config.folder, store) else {
            return Ok(registry);
        };
        let listing = folder::list(folder).map_err(|source| ServeError::Folder {
            path: folder.clone(),
            source,
        })?;
        for (path, reason) in &listing.left_out {
            self.leave_out(&mut registry, path.clone(), reason.clone());
        }
        let known = state.adapters.keys().map(String::as_str);
        let names: BTreeSet<&str> = known.chain(listing.names()).collect();
        for name in names {
            self.bring(&mut registry, name, state.adapters.get(name), &listing);
        }
        let elsewhere = std::mem::take(&mut self.elsewhere).into_iter();
        let waiting = elsewhere.filter(|name| registry.get(name).is_none());
        let waiting: Vec<String> = waiting.map(|name| format!("{name:?}")).collect();
        if !waiting.is_empty() {
            (self.say)(&format!(
                "adapters that wait for a transfer to this base: {}",
                waiting.join(", ")
            ));
        }
        if let Err(error) = store.keep(&registry) {
            (self.say)(&format!(
                "warning: what is live cannot be kept beside the adapters: {error}"
            ));
        }
        Ok(registry)
    }

    /// Load what the command line names.
    fn load_named(&mut self, registry: &mut Registry) -> Result<(), ServeError> {
        let config = self.config;
        for (name, path, scale) in &config.adapters {
            let refuse = |reason: String| ServeError::Adapter {
                name: name.clone(),
                reason,
            };
            let named = check_name(name, self.base).map_err(|error| refuse(error.to_string()));
            named?;
            if registry.get(name).is_some() {
                return Err(refuse("two adapters are called so".into()));
            }
            let fresh = self.read(path)?;
            let checked = fresh.check(self.host.info().hash, config.force);
            checked.map_err(|error| refuse(error.to_string()))?;
            self.warn(name, &fresh);
            registry
                .commit(name, fresh, *scale, config.limits.adapters_max)
                .map_err(|error| refuse(error.to_string()))?;
            registry.pin(name);
        }
        Ok(())
    }

    /// Bring one name of the folder back, and make live what is new of it. The others answer all
    /// the same where that fails: a copy that was cut must not keep a box down.
    fn bring(
        &mut self,
        registry: &mut Registry,
        name: &str,
        record: Option<&Record>,
        listing: &Listing,
    ) {
        let config = self.config;
        let unloaded = record.is_none() && registry.knows(name) && registry.get(name).is_none();
        if unloaded {
            return;
        }
        if config.adapters.iter().any(|(named, ..)| named == name) {
            let named = |path: &Path| {
                let mut files = config.adapters.iter();
                files.any(|(known, file, _)| known == name && is_same_file(file, path))
            };
            for (_, path) in listing.of(name).filter(|(_, path)| !named(path)) {
                let reason = format!("another file is served as {name:?}");
                self.leave_out(registry, path.to_owned(), reason);
            }
            return;
        }
        if let Some(record) = record {
            self.restore(registry, name, record);
        }
        let newest = record.map(|record| record.newest);
        let new = listing.of(name);
        let new = new.filter(|(number, _)| newest.is_none_or(|newest| *number > newest));
        let new: Vec<_> = new.map(|(_, path)| path.to_owned()).collect();
        // The last is live, and the one before it is what a rollback brings back.
        for path in &new[new.len().saturating_sub(2)..] {
            if let Err(reason) = self.load_found(registry, name, path) {
                self.leave_out(registry, path.clone(), reason);
            }
        }
    }

    /// Let a name answer as an earlier process had it. Where its file cannot be loaded, the one
    /// before it answers, unless it was rolled back from.
    fn restore(&mut self, registry: &mut Registry, name: &str, record: &Record) {
        let mut both = [Some(&record.live), record.previous.as_ref()]
            .map(|loaded| loaded.and_then(|loaded| self.load_again(registry, name, loaded)));
        let elsewhere = self.elsewhere.contains(name);
        if both[0].is_none() && !record.is_rolled_back() && !elsewhere {
            both.swap(0, 1);
            if let Some((_, fresh)) = &both[0] {
                let file = fresh.path.display();
                (self.say)(&format!(
                    "warning: adapter {name:?} is answered by {file}, which was live before"
                ));
            }
        }
        match both {
            [Some(live), previous] if registry.len() < self.config.limits.adapters_max => {
                registry.restore(name, record.scale, live, previous);
            }
            _ => registry.wait(name, record.clone()),
        }
    }

    /// Load what an earlier process had loaded, under its number. A file that was replaced since is
    /// another load.
    fn load_again(
        &mut self,
        registry: &mut Registry,
        name: &str,
        loaded: &Loaded,
    ) -> Option<(u64, Fresh)> {
        let folder = self.config.folder.as_deref().unwrap_or(Path::new("."));
        let path = folder.join(&loaded.file);
        match self.fitting(name, &path) {
            Ok(fresh) if fresh.weights.hash == loaded.sha256 => Some((loaded.generation, fresh)),
            Ok(fresh) => {
                let file = path.display();
                (self.say)(&format!(
                    "warning: adapter {name:?}: {file} was replaced since it was loaded"
                ));
                registry.go_past();
                Some((registry.last(), fresh))
            }
            Err(reason) => {
                self.leave_out(registry, path, reason);
                None
            }
        }
    }

    /// Load a file that lies in the folder; the reason where that is not possible.
    fn load_found(
        &mut self,
        registry: &mut Registry,
        name: &str,
        path: &Path,
    ) -> Result<(), Reason> {
        check_name(name, self.base).map_err(|error| error.to_string())?;
        let fresh = self.fitting(name, path)?;
        let most = self.config.limits.adapters_max;
        let committed = registry.commit(name, fresh, 0.0, most);
        committed.map(drop).map_err(|error| error.to_string())
    }

    /// Load a file, and refuse what a request to load it would be refused for.
    fn fitting(&mut self, name: &str, path: &Path) -> Result<Fresh, Reason> {
        let read = self.read(path);
        let base = self.host.info().hash;
        let read = read.and_then(|fresh| {
            if !self.config.force {
                fresh.weights.check_base(path, base)?;
            }
            Ok(fresh)
        });
        let fresh = read.map_err(|error| {
            if error.is_about_the_base() {
                self.elsewhere.insert(name.to_owned());
            }
            error.to_string()
        })?;
        let checked = fresh.check(base, self.config.force);
        checked.map_err(|error| error.to_string())?;
        self.warn(name, &fresh);
        Ok(fresh)
    }

    /// Load a file, and compare it with the base.
    fn read(&mut self, path: &Path) -> Result<Fresh, EngineError> {
        let weights = self.host.load(path)?;
        let effect = self.probe.effect(self.decoder, &weights)?;
        Ok(Fresh {
            path: whole(path),
            weights,
            effect,
        })
    }

    /// Say which file is left out and why, and list it.
    fn leave_out(&self, registry: &mut Registry, path: PathBuf, reason: Reason) {
        let file = path.display().to_string();
        (self.say)(&if reason.contains(&file) {
            format!("warning: left out: {reason}")
        } else {
            format!("warning: left out: {file}: {reason}")
        });
        registry.leave_out(path, reason);
    }

    /// Say what was loaded although it does nothing.
    fn warn(&self, name: &str, fresh: &Fresh) {
        if fresh.effect.is_some_and(|effect| effect.is_none()) {
            (self.say)(&format!(
                "warning: adapter {name:?} changes no answer, and is loaded because the start forces it"
            ));
        }
    }
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    let same = a.canonicalize().ok().zip(b.canonicalize().ok());
    same.is_some_and(|(a, b)| a == b)
}

/// The path from the root, so that a client may send it back.
fn whole(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
