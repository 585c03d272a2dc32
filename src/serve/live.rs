//! Which adapters are live: names, generations, scales. Loading happens before; here it is one
//! exchange under a lock.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::error::ApiError;
use super::state::{Loaded, Record};
use crate::adapters::{Held, Missing, Place, Register};
use crate::control::Effect;
use crate::engine::host::{Conversations, Weights};
use crate::record::ContentHash;

/// One load of one adapter file. The number is never used again.
#[derive(Clone)]
pub(super) struct Generation {
    pub number: u64,
    pub path: PathBuf,
    pub weights: Weights,
    /// None where the logits make no distribution.
    pub effect: Option<Effect>,
}

/// An adapter that was loaded and is not live yet.
pub(super) struct Fresh {
    pub path: PathBuf,
    pub weights: Weights,
    pub effect: Option<Effect>,
}

impl Fresh {
    fn numbered(self, number: u64) -> Generation {
        Generation {
            number,
            path: self.path,
            weights: self.weights,
            effect: self.effect,
        }
    }

    /// Refuse what was made for another base, and what changes no answer, unless that is wanted.
    ///
    /// `base`: the hash of the one that is served
    pub(super) fn check(&self, base: ContentHash, force: bool) -> Result<(), ApiError> {
        if !force {
            self.weights.check_base(&self.path, base)?;
        }
        if force || !self.effect.is_some_and(|effect| effect.is_none()) {
            return Ok(());
        }
        let file = self.path.file_name().unwrap_or_default().display();
        Err(ApiError::input(format!(
            "{file} changes no answer: with it every logit of a prompt is the base's. Was it trained, and \
             for this base? It is loaded all the same with force"
        )))
    }
}

/// What a request runs under from its first token to its last.
#[derive(Clone)]
pub(super) struct Choice {
    pub weights: Vec<(Weights, f32)>,
    pub key: Key,
    /// Of the adapters, in the order of the key.
    pub names: Arc<[String]>,
}

impl Choice {
    /// What renders conversations: the first of the adapters that has a template of its own, else the
    /// base.
    pub(super) fn chat<'c>(&'c self, base: &'c Conversations) -> &'c Conversations {
        let own = self.weights.iter();
        own.filter_map(|(weights, _)| weights.chat.as_deref())
            .next()
            .unwrap_or(base)
    }

    /// The adapters for an error, each with its generation and scale; the model where there is none.
    pub(super) fn described(&self) -> String {
        let one = |(name, (number, scale)): (&String, &(u64, u32))| {
            let scale = f32::from_bits(*scale);
            format!("{name:?} (generation {number}, scale {scale:?})")
        };
        let all: Vec<String> = self.names.iter().zip(&self.key).map(one).collect();
        match all.len() {
            0 => "the model itself".into(),
            1 => format!("the adapter {}", all[0]),
            _ => format!("the adapters {}", all.join(", ")),
        }
    }
}

/// Generations and the bits of their scales, by number: the same key, the same KV. Empty: the base
/// alone.
pub(super) type Key = Vec<(u64, u32)>;

/// What a key is called in a response: `0` for the base, else the numbers of its generations.
pub(super) fn generation(key: &Key) -> String {
    let numbers: Vec<String> = key.iter().map(|(number, _)| number.to_string()).collect();
    if numbers.is_empty() {
        "0".into()
    } else {
        numbers.join("+")
    }
}

/// What a server keeps of an adapter besides its generations.
#[derive(Clone)]
struct Extra {
    /// llama-server's number for it.
    id: usize,
    /// How strongly it works on requests that name no adapter.
    scale: f32,
    /// The command line names its file, at every start.
    pinned: bool,
}

/// An adapter's place under its name.
pub(super) struct Named<'r> {
    /// llama-server's number for it.
    pub id: usize,
    pub live: &'r Generation,
    /// What `rollback` brings back.
    pub previous: Option<&'r Generation>,
    /// How strongly it works on requests that name no adapter.
    pub scale: f32,
}

/// The adapters of one server.
#[derive(Clone, Default)]
pub(super) struct Registry {
    register: Register<Generation>,
    extras: BTreeMap<String, Extra>,
    next_id: usize,
    /// Names that were unloaded and are not to come back from the folder by themselves.
    unloaded: BTreeSet<String>,
    /// What is kept of names that answer nothing now: their file is damaged, or of another base.
    waiting: BTreeMap<String, Record>,
    pub swaps: u64,
    pub rollbacks: u64,
    /// Files that were found and left out, with the reason.
    pub left_out: Vec<(PathBuf, String)>,
}

impl Registry {
    /// Make loaded weights live under a name, at once; what was live before stays for `rollback`.
    ///
    /// fails: more names than `most`.
    pub(super) fn commit(
        &mut self,
        name: &str,
        fresh: Fresh,
        scale: f32,
        most: usize,
    ) -> Result<u64, ApiError> {
        let known = self.extras.contains_key(name);
        if !known && self.register.len() >= most {
            return Err(ApiError::input(format!(
                "{most} adapters are loaded already: unload one first"
            )));
        }
        self.unloaded.remove(name);
        self.waiting.remove(name);
        let number = self.register.next();
        let generation = fresh.numbered(number);
        // What requests still run under lives as long as they do.
        drop(self.register.commit(name, generation, None));
        if known {
            self.swaps += 1;
        } else {
            let id = self.next_id;
            let pinned = false;
            let extra = Extra { id, scale, pinned };
            self.extras.insert(name.to_owned(), extra);
            self.next_id += 1;
        }
        Ok(number)
    }

    /// Bring a name back as an earlier process kept it.
    pub(super) fn restore(
        &mut self,
        name: &str,
        scale: f32,
        live: (u64, Fresh),
        previous: Option<(u64, Fresh)>,
    ) {
        let held = |(generation, fresh): (u64, Fresh)| Held {
            generation,
            what: fresh.numbered(generation),
        };
        let place = Place {
            live: held(live),
            previous: previous.map(held),
        };
        self.register.restore(name, place);
        let (id, pinned) = (self.next_id, false);
        self.extras
            .insert(name.to_owned(), Extra { id, scale, pinned });
        self.next_id += 1;
    }

    /// Go on where an earlier process ended: numbers of generations, and names that were unloaded.
    pub(super) fn go_on(&mut self, generation: u64, unloaded: BTreeSet<String>) {
        self.register.skip(generation);
        self.unloaded = unloaded;
    }

    /// The command line names the file of an adapter: nothing else is live under the name after a
    /// start.
    pub(super) fn pin(&mut self, name: &str) {
        if let Some(extra) = self.extras.get_mut(name) {
            extra.pinned = true;
        }
    }

    /// Keep what an earlier process knew of a name that answers nothing now.
    pub(super) fn wait(&mut self, name: &str, record: Record) {
        self.waiting.insert(name.to_owned(), record);
    }

    /// What is kept of a name that answers nothing now.
    pub(super) fn waits(&self, name: &str) -> Option<&Record> {
        self.waiting.get(name)
    }

    /// What is to be kept of every name, and the names that were unloaded. Files are named from
    /// `folders` on, which are names of one folder. `newest` says which number the last file of a name has.
    pub(super) fn kept(
        &self,
        folders: &[PathBuf],
        newest: impl Fn(&str) -> u64,
    ) -> (BTreeMap<String, Record>, BTreeSet<String>) {
        let of = |held: &Held<Generation>| {
            let path = held.what.path.as_path();
            let mut inside = folders
                .iter()
                .filter_map(|folder| path.strip_prefix(folder).ok());
            Loaded {
                generation: held.generation,
                file: inside.next().unwrap_or(path).to_owned(),
                sha256: held.what.weights.hash,
            }
        };
        let mut all = self.waiting.clone();
        let places = self.register.places();
        all.extend(places.filter_map(|(name, place)| {
            let extra = self.extras.get(name).filter(|extra| !extra.pinned)?;
            let record = Record {
                live: of(&place.live),
                previous: place.previous.as_ref().map(of),
                scale: extra.scale,
                newest: newest(name),
            };
            Some((name.clone(), record))
        }));
        (all, self.unloaded.clone())
    }

    /// Count the names that answer.
    pub(super) fn len(&self) -> usize {
        self.register.len()
    }

    /// Use up a number.
    pub(super) fn go_past(&mut self) {
        self.register.skip(self.register.next());
    }

    /// The number of the last generation.
    pub(super) fn last(&self) -> u64 {
        self.register.next() - 1
    }

    /// Compare what is live under a name with what a client believes; 0 is nothing but the base.
    ///
    /// fails: they differ
    pub(super) fn expect(&self, name: &str, expected: Option<u64>) -> Result<(), ApiError> {
        let live = self.get(name).map_or(0, |named| named.live.number);
        match expected.filter(|expected| *expected != live) {
            None => Ok(()),
            Some(expected) => Err(ApiError::conflict(format!(
                "{name:?} is answered by generation {live}, and not by {expected}: nothing was changed"
            ))),
        }
    }

    /// Remember a file that could not be loaded.
    pub(super) fn leave_out(&mut self, path: PathBuf, reason: String) {
        self.left_out.push((path, reason));
    }

    /// Exchange the live generation of a name with the one before it.
    ///
    /// fails: an unknown name, or nothing before it.
    pub(super) fn rollback(&mut self, name: &str) -> Result<u64, ApiError> {
        let number = self
            .register
            .rollback(name)
            .map_err(|what| missing(what, name))?;
        self.rollbacks += 1;
        Ok(number)
    }

    /// fails: an unknown name.
    pub(super) fn unload(&mut self, name: &str) -> Result<(), ApiError> {
        if self.waiting.remove(name).is_none() {
            self.register
                .unload(name)
                .map_err(|what| missing(what, name))?;
        }
        self.extras.remove(name);
        self.unloaded.insert(name.to_owned());
        Ok(())
    }

    /// Whether something was loaded under this name, even if it was unloaded since.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.extras.contains_key(name) || self.unloaded.contains(name)
    }

    pub(super) fn get(&self, name: &str) -> Option<Named<'_>> {
        let (place, extra) = (self.register.get(name)?, self.extras.get(name)?);
        Some(Named {
            id: extra.id,
            live: &place.live.what,
            previous: place.previous.as_ref().map(|held| &held.what),
            scale: extra.scale,
        })
    }

    /// In the order of their numbers.
    pub(super) fn all(&self) -> Vec<(&String, Named<'_>)> {
        let names = self.extras.keys();
        let mut all: Vec<_> = names
            .filter_map(|name| Some((name, self.get(name)?)))
            .collect();
        all.sort_by_key(|(_, named)| named.id);
        all
    }

    /// One adapter alone.
    pub(super) fn only(&self, name: &str) -> Option<Choice> {
        self.get(name)
            .map(|named| choice(std::iter::once((name, named.live, 1.0))))
    }

    /// What requests run under that name no adapter.
    pub(super) fn usual(&self) -> Choice {
        choice(
            self.all()
                .into_iter()
                .map(|(name, named)| (name.as_str(), named.live, named.scale)),
        )
    }

    /// Scales by number; adapters that are not named are off.
    ///
    /// fails: an unknown or repeated number, a scale that is not finite.
    pub(super) fn scaled(&self, scales: &[(usize, f32)]) -> Result<Choice, ApiError> {
        self.check(scales)?;
        let scale = |id: usize| {
            scales
                .iter()
                .find(|(named, _)| *named == id)
                .map_or(0.0, |(_, scale)| *scale)
        };
        Ok(choice(self.all().into_iter().map(|(name, named)| {
            (name.as_str(), named.live, scale(named.id))
        })))
    }

    /// As `scaled`, for all requests to come that name no adapter.
    pub(super) fn set_scales(&mut self, scales: &[(usize, f32)]) -> Result<(), ApiError> {
        self.check(scales)?;
        for named in self.extras.values_mut() {
            named.scale = scales
                .iter()
                .find(|(id, _)| *id == named.id)
                .map_or(0.0, |(_, scale)| *scale);
        }
        Ok(())
    }

    fn check(&self, scales: &[(usize, f32)]) -> Result<(), ApiError> {
        for (place, (id, scale)) in scales.iter().enumerate() {
            if !self.extras.values().any(|named| named.id == *id) {
                return Err(ApiError::input(format!("no adapter has the id {id}")));
            }
            if !scale.is_finite() {
                let message = format!("the scale of adapter {id} is {scale}");
                return Err(ApiError::input(message));
            }
            if scales[..place].iter().any(|(earlier, _)| earlier == id) {
                return Err(ApiError::input(format!("the id {id} stands twice")));
            }
        }
        Ok(())
    }
}

fn missing(what: Missing, name: &str) -> ApiError {
    match what {
        Missing::Name => ApiError::not_found(format!("no adapter is called {name:?}")),
        Missing::Previous => ApiError::conflict(format!(
            "{name:?} has had one generation only: nothing to go back to"
        )),
    }
}

fn choice<'g>(live: impl Iterator<Item = (&'g str, &'g Generation, f32)>) -> Choice {
    let on: Vec<_> = live.filter(|(_, _, scale)| *scale != 0.0).collect();
    Choice {
        weights: on
            .iter()
            .map(|(_, generation, scale)| (generation.weights.clone(), *scale))
            .collect(),
        key: on
            .iter()
            .map(|(_, generation, scale)| (generation.number, scale.to_bits()))
            .collect(),
        names: on.iter().map(|(name, ..)| (*name).to_owned()).collect(),
    }
}
