//! What is known of the server around this module: its contexts, sequences and batches, and the
//! adapters that were put into it.
//!
//! One lock around everything. It is held while a batch is decoded, so whoever holds it may change
//! adapters.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{CStr, CString, c_char};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::adapter::{Prepared, remember_models, sha256_of};
use crate::batch::{Batches, Row, Scratch};
use crate::command::{Adapter, Generation};
use crate::error::AttachError;
use crate::faults;
use crate::log::say;
use crate::provenance::{AS_STARTED, AdapterId, After, ComputedBy, Sequence};
use crate::real::{Handle, Real};
use crate::split::Outputs;
use crate::words::{self, Encoded};

/// Batches after which a sequence that was in none of them no longer holds on to its adapter.
const UNSEEN_MAX: u32 = 4096;

/// A context, model, memory, batch or adapter of the server, by its address.
pub type Key = usize;

/// An adapter that was put in.
struct Loaded {
    file: Prepared,
    /// Model → the adapter in that model.
    handles: HashMap<Key, Key>,
}

/// A context that answers requests.
pub struct Context {
    pub model: Key,
    pub memory: Key,
    pub sequences: HashMap<i32, Sequence>,
    /// The server puts a batch together.
    pub in_turn: bool,
    /// What the server last set: adapters and their scales.
    pub requested: Vec<(Key, f32)>,
    /// A batch of our own.
    pub scratch: Scratch,
    pub embeddings: bool,
    pub images: bool,
    pub outputs: Option<Outputs>,
}

/// Everything that is known.
pub struct Server {
    pub live: AdapterId,
    previous: Option<AdapterId>,
    pub generation: u64,
    /// Identities by number: the hash of an adapter's content.
    identities: Vec<String>,
    loaded: HashMap<AdapterId, Loaded>,
    pub contexts: HashMap<Key, Context>,
    /// Memory → context.
    pub memories: HashMap<Key, Key>,
    pub batches: HashMap<Key, Vec<Row>>,
    /// The server's own adapters: path → hash.
    started: BTreeMap<String, String>,
    /// Contexts that sample on the device, and contexts whose hidden states a draft reads.
    pub samplers: HashSet<Key>,
    pub readers: HashSet<Key>,
    /// Tells states of this process from others.
    pub mark: u64,
}

static SERVER: OnceLock<Mutex<Server>> = OnceLock::new();
static TURNSTILE: Mutex<()> = Mutex::new(());
static REAL: OnceLock<Real> = OnceLock::new();
static BATCHES: OnceLock<Batches> = OnceLock::new();

/// Take the functions of the server's libllama, once.
pub fn begin(functions: Real, decoding: Batches) {
    _ = REAL.set(functions);
    _ = BATCHES.set(decoding);
}

/// The functions of the server's libllama. Hooks are put in only after [`begin`].
pub fn real() -> &'static Real {
    REAL.get()
        .expect("hooks are put in after the functions were found")
}

/// Those that decode.
pub fn batches() -> &'static Batches {
    BATCHES
        .get()
        .expect("hooks are put in after the functions were found")
}

/// Take the lock. Who waits here is served next, even between two batches of a busy server.
pub fn lock() -> MutexGuard<'static, Server> {
    let server = SERVER.get_or_init(|| Mutex::new(Server::new()));
    let turn = TURNSTILE.lock().unwrap_or_else(PoisonError::into_inner);
    let held = server.lock().unwrap_or_else(PoisonError::into_inner);
    drop(turn);
    held
}

impl Server {
    fn new() -> Self {
        let mut mark = [0; 8];
        // SAFETY: eight writable bytes; a short answer leaves zeros, and the process id still tells
        // processes apart.
        unsafe { libc::getrandom(mark.as_mut_ptr().cast(), 8, 0) };
        Self {
            live: AS_STARTED,
            previous: None,
            generation: 0,
            identities: vec!["started".into()],
            loaded: HashMap::new(),
            contexts: HashMap::new(),
            memories: HashMap::new(),
            batches: HashMap::new(),
            started: BTreeMap::new(),
            samplers: HashSet::new(),
            readers: HashSet::new(),
            mark: u64::from_le_bytes(mark) ^ u64::from(std::process::id()),
        }
    }

    /// The server uses this context to answer requests.
    pub fn serves(&mut self, context: Handle) {
        if self.contexts.contains_key(&(context as Key)) {
            return;
        }
        remember_models();
        // SAFETY: the server has just used this context, under the lock that frees it.
        let (model, memory) = unsafe {
            (
                (real().get_model)(context) as Key,
                (real().get_memory)(context) as Key,
            )
        };
        self.memories.insert(memory, context as Key);
        let fresh = Context {
            model,
            memory,
            sequences: HashMap::new(),
            in_turn: false,
            requested: Vec::new(),
            scratch: Scratch::default(),
            embeddings: false,
            images: false,
            outputs: None,
        };
        self.contexts.insert(context as Key, fresh);
    }

    /// A context ends.
    pub fn forget_context(&mut self, context: Key) {
        if let Some(gone) = self.contexts.remove(&context) {
            self.memories.remove(&gone.memory);
            gone.scratch.free();
        }
        self.samplers.remove(&context);
        self.readers.remove(&context);
    }

    /// A model ends, and with it the adapters in it: llama.cpp frees those itself.
    pub fn forget_model(&mut self, model: Key) {
        for loaded in self.loaded.values_mut() {
            loaded.handles.remove(&model);
        }
    }

    /// The server loads an adapter of its own.
    pub fn started_with(&mut self, path: &str) {
        let sha256 = sha256_of(path.as_ref()).unwrap_or_else(|| "unreadable".into());
        self.started.insert(path.into(), sha256);
        let all: Vec<&str> = self.started.values().map(String::as_str).collect();
        self.identities[AS_STARTED as usize] = format!("started:{}", all.join(","));
    }

    /// The number of an adapter with this identity.
    pub fn number(&mut self, identity: &str) -> AdapterId {
        let known = self.identities.iter().position(|known| known == identity);
        known.unwrap_or_else(|| {
            self.identities.push(identity.into());
            self.identities.len() - 1
        }) as AdapterId
    }

    /// What identifies the computed_by of a state outside of this process.
    pub fn identity(&self, computed_by: ComputedBy) -> Option<&str> {
        match computed_by {
            ComputedBy::One(id) => self.identities.get(id as usize).map(String::as_str),
            ComputedBy::Nobody | ComputedBy::Unknown => None,
        }
    }

    /// Make sure that the adapter is in the model.
    fn ensure(&mut self, model: Key, id: AdapterId) -> Result<Key, AttachError> {
        if id == AS_STARTED {
            return Ok(0);
        }
        let loaded = self
            .loaded
            .get_mut(&id)
            .ok_or(AttachError::NotHeld)?;
        if let Some(handle) = loaded.handles.get(&model) {
            return Ok(*handle);
        }
        let handle = put_in(model, &loaded.file)?;
        loaded.handles.insert(model, handle);
        Ok(handle)
    }

    /// Let a context decode with this adapter from now on; with the live one where that fails, and
    /// as started where that fails too.
    pub fn apply(&mut self, context: Handle, id: AdapterId) -> AdapterId {
        let Some(model) = self
            .contexts
            .get(&(context as Key))
            .map(|context| context.model)
        else {
            return id;
        };
        let mut found = (AS_STARTED, 0);
        for id in [id, self.live] {
            match self.ensure(model, id) {
                Ok(handle) => {
                    found = (id, handle);
                    break;
                }
                Err(reason) => say(&format!("adapter {}: {reason}", self.name(id))),
            }
        }
        let mut wanted = self.contexts[&(context as Key)].requested.clone();
        if found.0 != AS_STARTED && !faults::on("put in") {
            match wanted.first_mut() {
                Some(first) => first.0 = found.1,
                None => wanted.push((found.1, 1.0)),
            }
        }
        let mut handles: Vec<Handle> = wanted.iter().map(|(handle, _)| *handle as Handle).collect();
        let mut scales: Vec<f32> = wanted.iter().map(|(_, scale)| *scale).collect();
        // SAFETY: the context lives (it is in the table), and so do its model's adapters: the
        // server's by its own care, ours until `collect`, which takes them out of every context
        // first.
        unsafe {
            (real().set_adapters)(
                context,
                handles.as_mut_ptr(),
                handles.len(),
                scales.as_mut_ptr(),
            )
        };
        found.0
    }

    /// Compute the first positions of a sequence again, with the live adapter.
    pub fn replay(&mut self, context: Handle, sequence: i32, tokens: &[i32]) {
        let by = self.apply(context, self.live);
        let Some(known) = self.contexts.get_mut(&(context as Key)) else {
            return;
        };
        if faults::on("replay") {
            return known
                .sequences
                .entry(sequence)
                .or_default()
                .replayed(tokens, by);
        }
        let (memory, embeddings) = (known.memory as Handle, known.embeddings);
        let real = real();
        // SAFETY: the context and its memory live; this is the thread that decodes, between two
        // batches of the server, which has taken what it wanted of the last one. The batch is ours.
        let decoded = unsafe {
            (real.seq_rm)(memory, sequence, -1, -1);
            (real.set_embeddings)(context, false);
            let mut piece = (real.n_batch)(context).max(1) as usize;
            let mut done = 0;
            while done < tokens.len() {
                let row = |(position, token): (i32, &i32)| Row {
                    sequences: vec![sequence],
                    token: Some(*token),
                    position,
                    output: false,
                    embedded: false,
                };
                let rows: Vec<Row> = (0..).zip(tokens).skip(done).take(piece).map(row).collect();
                let sent = known.scratch.fill(context, rows.iter());
                match batches().decode(context, sent) {
                    0 => done = (done + piece).min(tokens.len()),
                    1 if piece > 1 => piece /= 2,
                    status => {
                        say(&format!(
                            "replaying {} tokens of sequence {sequence} failed with status {status}",
                            tokens.len()
                        ));
                        break;
                    }
                }
            }
            (real.set_embeddings)(context, embeddings);
            done
        };
        if let Some(sequence) = known.sequences.get_mut(&sequence) {
            sequence.replayed(&tokens[..decoded], by);
        }
    }

    /// What follows a removal in a sequence of a context.
    pub fn after(&mut self, context: Handle, sequence: i32, after: After) {
        match after {
            After::Nothing => {}
            After::Replay(tokens) => self.replay(context, sequence, &tokens),
            After::Lost => {
                say(&format!(
                    "sequence {sequence} goes on with KV of another adapter: its tokens are not known"
                ));
            }
        }
    }

    /// Sequences that were in no batch for long let go of their adapters.
    pub fn grow_old(&mut self, context: Key) {
        let Some(context) = self.contexts.get_mut(&context) else {
            return;
        };
        for sequence in context.sequences.values_mut() {
            sequence.unseen = sequence.unseen.saturating_add(1);
            if sequence.unseen > UNSEEN_MAX {
                sequence.unpin();
            }
        }
    }

    /// Refuse where no adapter can be swapped in this server.
    fn check(&self) -> Result<(), AttachError> {
        if faults::on("refuse") {
            return Ok(());
        }
        if self.started.len() > 1
            || self
                .contexts
                .values()
                .any(|context| context.requested.len() > 1)
        {
            return Err(AttachError::SeveralAdapters);
        }
        for (key, context) in &self.contexts {
            // SAFETY: the model of a context in the table lives.
            let checkpoints = unsafe {
                let model = context.model as Handle;
                (real().n_swa)(model) > 0
                    || (real().is_recurrent)(model)
                    || (real().is_hybrid)(model)
            };
            if context.images && checkpoints {
                return Err(AttachError::Checkpoints);
            }
            if self.samplers.contains(key) {
                return Err(AttachError::DeviceSampling);
            }
            if self.readers.contains(key) {
                return Err(AttachError::DraftReads);
            }
        }
        Ok(())
    }

    /// Compare the live generation with what a client believes.
    ///
    /// fails: they differ
    pub fn expect(&self, expected: Option<u64>) -> Result<(), AttachError> {
        match expected {
            Some(expected) if expected != self.generation => Err(AttachError::OtherGeneration {
                expected,
                live: self.generation,
            }),
            _ => Ok(()),
        }
    }

    /// Make a prepared adapter the live one. Every request that begins after this returns is
    /// answered by it.
    ///
    /// fails: this server cannot change adapters, or the adapter does not fit; then nothing has
    /// changed
    pub fn swap(&mut self, prepared: Prepared) -> Result<(), AttachError> {
        self.check()?;
        let id = self.number(&prepared.sha256);
        let fresh = !self.loaded.contains_key(&id);
        self.loaded.entry(id).or_insert_with(|| Loaded {
            file: prepared,
            handles: HashMap::new(),
        });
        let models: HashSet<Key> = self
            .contexts
            .values()
            .map(|context| context.model)
            .collect();
        for model in models {
            if let Err(reason) = self.ensure(model, id) {
                if fresh {
                    self.loaded.remove(&id);
                }
                return Err(reason);
            }
        }
        self.make_live(id);
        Ok(())
    }

    /// What each model makes of the samples of texts.
    pub fn encoded(&self) -> Vec<Encoded> {
        let models: HashSet<Key> = self.contexts.values().map(|of| of.model).collect();
        let encoded = models
            .into_iter()
            .map(|model| words::encode(real(), model as Handle));
        encoded.collect()
    }

    /// Go back to the adapter before the live one.
    ///
    /// fails: where there is none, or another than `name` is live
    pub fn rollback(&mut self, name: Option<&str>) -> Result<(), AttachError> {
        self.check_name(name)?;
        self.make_live(self.previous.ok_or(AttachError::NothingBefore)?);
        Ok(())
    }

    /// Go back to the adapters the server was started with.
    ///
    /// fails: another than `name` is live
    pub fn unload(&mut self, name: Option<&str>) -> Result<(), AttachError> {
        self.check_name(name)?;
        self.make_live(AS_STARTED);
        Ok(())
    }

    /// Refuse a name that is not the live adapter's.
    fn check_name(&self, name: Option<&str>) -> Result<(), AttachError> {
        let live = self.name(self.live);
        match name {
            Some(name) if name != live => Err(AttachError::NotLive {
                name: name.into(),
                live,
            }),
            _ => Ok(()),
        }
    }

    fn make_live(&mut self, id: AdapterId) {
        if id != self.live {
            self.previous = Some(std::mem::replace(&mut self.live, id));
            self.generation += 1;
            self.collect();
        }
    }

    /// Free the adapters that are neither live, nor the one before, nor of a request that is under
    /// way.
    fn collect(&mut self) {
        let mut kept: HashSet<AdapterId> = [Some(self.live), self.previous]
            .into_iter()
            .flatten()
            .collect();
        kept.extend(
            self.contexts
                .values()
                .flat_map(|context| context.sequences.values())
                .filter_map(Sequence::pinned),
        );
        let old: Vec<AdapterId> = self
            .loaded
            .keys()
            .copied()
            .filter(|id| !kept.contains(id))
            .collect();
        if old.is_empty() {
            return;
        }
        // A context compares adapters by address: none may remember one that is freed, for the next
        // could lie in its place.
        for context in self.contexts.keys().copied().collect::<Vec<_>>() {
            self.apply(context as Handle, self.live);
        }
        for id in old {
            for handle in self
                .loaded
                .remove(&id)
                .into_iter()
                .flat_map(|loaded| loaded.handles.into_values())
            {
                if faults::on("free") {
                    continue;
                }
                // SAFETY: ours, in no context any more, and no batch is being decoded under the
                // lock.
                unsafe { (real().adapter_free)(handle as Handle) };
            }
        }
    }

    /// What an adapter is called: its file without folder and ending.
    fn name(&self, id: AdapterId) -> String {
        let file = self.loaded.get(&id).map(|loaded| &loaded.file.name);
        file.and_then(|file| Path::new(file).file_stem())
            .map_or("as started".into(), |stem| {
                stem.to_string_lossy().into_owned()
            })
    }

    /// The name and the hash of one adapter; none where there is none, or several.
    pub fn of(&self, id: AdapterId) -> Option<(String, String)> {
        if id == AS_STARTED {
            let mut started = self.started.iter();
            let (path, sha256) = started.next().filter(|_| self.started.len() == 1)?;
            let stem = Path::new(path).file_stem()?.to_string_lossy().into_owned();
            return Some((stem, sha256.clone()));
        }
        let file = &self.loaded.get(&id)?.file;
        Some((self.name(id), file.sha256.clone()))
    }

    /// The live adapter, and the one before it.
    pub fn adapter(&self) -> Adapter {
        let of = |id: AdapterId, generation| {
            let file = self.loaded.get(&id).map(|loaded| &loaded.file);
            Generation {
                generation,
                path: file.map(|file| file.name.clone().into()),
                sha256: file.map(|file| file.sha256.clone()),
                bytes: file.map_or(0, |file| file.bytes),
                effect: None,
            }
        };
        Adapter {
            name: self.name(self.live),
            scale: None,
            live: of(self.live, Some(self.generation.to_string())),
            previous: self.previous.map(|id| of(id, None)),
        }
    }
}

static COMPLAINTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Put an adapter into a model. What libllama complains about is the reason of the failure, not a
/// line in the server's log.
fn put_in(model: Key, file: &Prepared) -> Result<Key, AttachError> {
    unsafe extern "C" fn listen(_: i32, text: *const c_char, _: Handle) {
        // SAFETY: libllama passes a terminated text.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
        let mut heard = COMPLAINTS.lock().unwrap_or_else(PoisonError::into_inner);
        if text.contains("failed") && heard.len() < 8 {
            heard.push(text.trim().to_owned());
        }
    }
    let real = real();
    let path = CString::new(file.path()).map_err(|_| AttachError::ZeroByte { path: file.path() })?;
    let (mut callback, mut data) = (None, std::ptr::null_mut());
    COMPLAINTS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clear();
    // SAFETY: the model lives and no batch is being decoded: the caller holds the lock. The
    // server's own callback comes back with its data unchanged, so a thread that logs meanwhile
    // finds a pair that fits.
    let handle = unsafe {
        (real.log_get)(&raw mut callback, &raw mut data);
        (real.log_set)(Some(listen), data);
        let handle = (real.adapter_init)(model as Handle, path.as_ptr());
        (real.log_set)(callback, data);
        handle
    };
    if handle.is_null() {
        return Err(AttachError::NotLoaded {
            adapter: file.name.clone(),
            complaints: COMPLAINTS
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .join("; "),
        });
    }
    Ok(handle as Key)
}
