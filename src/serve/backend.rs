//! The server's own adapters and transfers, under the router of `control`.
//!
//! A transfer is requested under an adapter's name. When its adapter is accepted, that is loaded and
//! goes live under the name.

use std::path::{Component, Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, mpsc};
use std::time::Duration;

use super::error::ApiError;
use super::folder;
use super::http::App;
use super::live::{self, Fresh, Named, Registry};
use super::transfers::{start, transfers};
use super::worker;
use crate::adapters;
use crate::control::{
    Adapter, AdapterList, Backend, Command, Effect, Generation, Kind, LeftOut, Load, Refusal,
    Reply, Swapped,
};
use crate::engine::host::Weights;

/// How much a thread that loads an adapter gives way: a stream beside it goes on by less than a
/// step later, and half a second is enough for 34 MB beside one stream (`translora bench swap`).
const LOADING_NICE: i32 = 15;

/// What this server has.
pub(super) struct Own(pub Arc<App>);

impl Backend for Own {
    fn carry(&self, command: Command) -> Result<Reply, Refusal> {
        let app = &self.0;
        let begun = app.clock.elapsed();
        let swapped = |name: String| Ok(Reply::Swapped(now(app, name, begun)));
        match command {
            Command::List {} => Ok(Reply::Adapters(list(app))),
            Command::Load(load) => {
                let name = load.name.clone().unwrap_or_else(|| stem(&load.path));
                check_name(&name, &app.name)?;
                check_base(app, load.base_model_name.as_deref())?;
                swap(app, &name, within(app, &load.path)?, Terms::of(&load))?;
                swapped(name)
            }
            Command::Unload { name } => {
                let name = needed(name)?;
                unload(app, &name)?;
                swapped(name)
            }
            Command::Rollback { name } => {
                let name = needed(name)?;
                let number = change(app, |registry| registry.rollback(&name))?;
                (app.say)(&format!(
                    "adapter {name:?} went back to generation {number}"
                ));
                swapped(name)
            }
            Command::Transfer { name, request } => {
                let job = start(app, needed(name)?, request)?;
                Ok(Reply::Job(Box::new(job)))
            }
            command => transfers(app)?.carry(&command),
        }
    }

    fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::SeqCst)
    }
}

fn needed(name: Option<String>) -> Result<String, Refusal> {
    name.filter(|name| !name.is_empty())
        .ok_or_else(|| Refusal::new(Kind::Input, "\"name\" is missing"))
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// What live adapters are, and what a rollback would bring back.
fn list(app: &App) -> AdapterList {
    let registry = app.registry();
    let one = |(name, named): (&String, Named<'_>)| Adapter {
        name: name.clone(),
        scale: Some(named.scale),
        live: of(named.live),
        previous: named.previous.map(of),
    };
    let refused = |(path, reason): &(PathBuf, String)| LeftOut {
        path: shown(path),
        reason: reason.clone(),
    };
    AdapterList {
        data: registry.all().into_iter().map(one).collect(),
        refused: registry.left_out.iter().map(refused).collect(),
    }
}

fn of(generation: &live::Generation) -> Generation {
    Generation {
        generation: Some(generation.number.to_string()),
        path: Some(shown(&generation.path)),
        sha256: Some(generation.weights.hash.to_string()),
        bytes: generation.weights.bytes,
        effect: generation.effect,
    }
}

/// A path as JSON can have it; what is not UTF-8 is replaced.
fn shown(path: &Path) -> PathBuf {
    path.to_string_lossy().into_owned().into()
}

/// What a name is answered by now.
fn now(app: &App, name: String, begun: Duration) -> Swapped {
    let live = app.registry().get(&name).map(|named| of(named.live));
    let generation = live.as_ref().and_then(|live| live.generation.clone());
    Swapped {
        name,
        // The base alone.
        generation: generation.unwrap_or_else(|| "0".into()),
        live,
        milliseconds: (app.clock.elapsed() - begun).as_secs_f64() * 1e3,
    }
}

/// Refuse where a load is meant for another base.
pub(super) fn check_base(app: &App, meant: Option<&str>) -> Result<(), ApiError> {
    match meant.filter(|base| *base != app.name) {
        None => Ok(()),
        Some(base) => Err(ApiError::input(format!(
            "\"base_model_name\" is {base:?}, and the base that is served is {:?}",
            app.name
        ))),
    }
}

/// What must be so for a load.
#[derive(Clone, Copy, Default)]
pub(super) struct Terms {
    /// The generation that is live under the name; 0: none. Left out: any.
    pub expected: Option<u64>,
    /// It may be made for another base, or change no answer.
    pub force: bool,
}

impl Terms {
    fn of(load: &Load) -> Self {
        Self {
            expected: load.expected_generation.map(|expected| expected.0),
            force: load.force.unwrap_or(false),
        }
    }
}

/// Load a file beside the running model, compare it with the base, then make it live under a name.
/// Takes as long as the file is large.
///
/// fails: it cannot be loaded, is of another base, changes nothing, or another generation than `terms` say is live by then
pub(super) fn swap(app: &App, name: &str, path: PathBuf, terms: Terms) -> Result<u64, ApiError> {
    app.base.check(app.clock.elapsed(), &app.say)?;
    app.registry().expect(name, terms.expected)?;
    let weights = load_aside(app, &path)?;
    let hash = weights.hash.short();
    let effect = effect(app, &weights)?;
    let fresh = Fresh {
        path,
        weights,
        effect,
    };
    let base = app.host.info().hash;
    fresh.check(base, terms.force || app.config.force)?;
    let number = change(app, |registry| {
        // Others may have been quicker.
        registry.expect(name, terms.expected)?;
        registry.commit(name, fresh, 0.0, app.config.limits.adapters_max)
    })?;
    (app.say)(&format!(
        "adapter {name:?} is live: generation {number}, sha256 {hash}"
    ));
    Ok(number)
}

/// Change what is live: on the disk first, so that what is answered outlasts the process, then for
/// requests. Takes as long as the disk.
///
/// fails: as `plan`, or it cannot be kept; then nothing has changed
pub(super) fn change<T>(
    app: &App,
    plan: impl FnOnce(&mut Registry) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    let _changing = app.changing.lock().unwrap_or_else(PoisonError::into_inner);
    let mut next = app.registry().clone();
    let done = plan(&mut next)?;
    if let Some(store) = &app.store {
        store.keep(&next).map_err(|error| {
            ApiError::internal(format!(
                "nothing was changed: what is live cannot be kept beside the adapters: {error}"
            ))
        })?;
    }
    *app.registry() = next;
    Ok(done)
}

/// Let the decode thread compare an adapter with the base, before it is live.
fn effect(app: &App, weights: &Weights) -> Result<Option<Effect>, ApiError> {
    let (sender, answer) = mpsc::channel();
    if !app.send(worker::Command::Probe(weights.clone(), sender)) {
        return Err(ApiError::ended());
    }
    Ok(answer.recv().map_err(|_| ApiError::ended())??)
}

/// Load what came into the folder after the start, when a request names it. Nothing happens where
/// the name is known or no file has it.
pub(super) fn load_by_name(app: &App, name: &str) -> Result<(), ApiError> {
    let Some(folder) = &app.config.folder else {
        return Ok(());
    };
    // Of several requests one loads, and the others find it loaded.
    let _naming = app.naming.lock().unwrap_or_else(PoisonError::into_inner);
    if name == app.name || app.registry().knows(name) {
        return Ok(());
    }
    let failed = |error: std::io::Error| ApiError::internal(format!("the folder: {error}"));
    // Of a name that waits for its file to be mended, no other one is taken.
    let waits = app
        .registry()
        .waits(name)
        .map(|record| folder.join(&record.live.file));
    let found = match waits {
        Some(path) => Some(path),
        None => folder::find(folder, name).map_err(failed)?,
    };
    if let Some(path) = found {
        check_name(name, &app.name)?;
        let path = std::path::absolute(&path).unwrap_or(path);
        swap(app, name, path, Terms::default())?;
    }
    Ok(())
}

/// Load a file on a thread that gives way to those that decode: reading and checking would else
/// take a core from them.
fn load_aside(app: &App, path: &Path) -> Result<Weights, ApiError> {
    let load = || {
        // On Linux a niceness is a thread's; elsewhere it would be the whole server's.
        if cfg!(target_os = "linux") {
            _ = rustix::process::nice(LOADING_NICE);
        }
        app.host.load(path)
    };
    let loaded = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("load".into())
            .spawn_scoped(scope, load);
        thread.map(std::thread::ScopedJoinHandle::join)
    });
    let panicked = |_| ApiError::internal("loading the adapter panicked");
    Ok(loaded
        .map_err(|error| ApiError::internal(error.to_string()))?
        .map_err(panicked)??)
}

pub(super) fn unload(app: &App, name: &str) -> Result<(), ApiError> {
    change(app, |registry| registry.unload(name))?;
    (app.say)(&format!("adapter {name:?} is unloaded"));
    Ok(())
}

/// A file that clients may name: one in the folder of adapters, from the folder on or as
/// `/v1/models` has it. Links in the folder are followed, as at the start: who may write there chose
/// them.
pub(super) fn within(app: &App, path: &Path) -> Result<PathBuf, ApiError> {
    let sent = path.display();
    let Some(folder) = &app.config.folder else {
        return Err(ApiError::forbidden(
            "this server loads no files: it was started without a folder of adapters",
        ));
    };
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|error| ApiError::input(format!("{sent}: {error}")))
    };
    let (folder, inside) = (absolute(folder)?, absolute(&folder.join(path))?);
    let up = |part: Component<'_>| part == Component::ParentDir;
    if path.components().any(up) || !inside.starts_with(&folder) {
        return Err(ApiError::forbidden(format!(
            "{sent} is not in the folder of adapters"
        )));
    }
    let exists = inside.try_exists();
    if exists.is_ok_and(|exists| exists) {
        return Ok(inside);
    }
    Err(ApiError::not_found(format!(
        "{sent}: no such file in the folder of adapters"
    )))
}

/// Refuse what is no name for an adapter, and the base's name.
pub(super) fn check_name(name: &str, base: &str) -> Result<(), ApiError> {
    adapters::check_name(name)?;
    if name == base {
        return Err(ApiError::input(format!(
            "{name:?} is the name of the base model"
        )));
    }
    Ok(())
}
