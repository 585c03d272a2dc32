//! Adapters over HTTP: llama-server's scales, vLLM's loading and unloading, and going back.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::ask::scales;
use super::fields::Fields;
use super::{App, Shared, body};
use crate::engine::host::Weights;
use crate::serve::error::ApiError;

/// How much a thread that loads an adapter gives way: a stream beside it goes on by less than a
/// step later, and half a second is enough for 34 MB beside one stream (`translora bench swap`).
const LOADING_NICE: i32 = 15;

/// llama-server's list.
pub(super) async fn list(State(app): Shared) -> Response {
    let registry = app.registry();
    let one = |(name, named): (&String, &crate::serve::live::Named)| {
        let generation = named.live.number.to_string();
        json!({ "id": named.id, "name": name, "path": named.live.path, "scale": named.scale, "generation": generation })
    };
    axum::Json(registry.all().into_iter().map(one).collect::<Vec<_>>()).into_response()
}

/// What live adapters are, and what `rollback` would bring back.
pub(super) async fn adapters(State(app): Shared) -> Response {
    let registry = app.registry();
    let of = |generation: &crate::serve::live::Generation| {
        json!({
            "generation": generation.number.to_string(), "path": generation.path, "sha256": generation.weights.hash,
            "bytes": generation.weights.bytes,
        })
    };
    let one = |(name, named): (&String, &crate::serve::live::Named)| json!({ "name": name, "scale": named.scale, "live": of(&named.live), "previous": named.previous.as_deref().map(of) });
    let refused = |(path, reason): &(PathBuf, String)| json!({ "path": path, "reason": reason });
    axum::Json(json!({
        "data": registry.all().into_iter().map(one).collect::<Vec<_>>(),
        "refused": registry.left_out.iter().map(refused).collect::<Vec<_>>(),
    }))
    .into_response()
}

pub(super) async fn set_scales(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let value = body(&app, request).await?;
    let scales = scales(&value)?;
    app.registry().set_scales(&scales)?;
    Ok(axum::Json(json!({ "success": true })).into_response())
}

pub(super) async fn load(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let value = body(&app, request).await?;
    let fields = Fields::of(&value)?.only(&["lora_name", "lora_path", "load_inplace"])?;
    let (name, path) = (
        fields.needed("lora_name")?.to_owned(),
        fields.needed("lora_path")?,
    );
    if name == app.name {
        return Err(ApiError::input(format!(
            "{name:?} is the base model's name"
        )));
    }
    let replaces = fields.truth("load_inplace")?.unwrap_or(false);
    if app.registry().get(&name).is_some() && !replaces {
        let message = format!(
            "an adapter is called {name:?} already: say \"load_inplace\": true to put this one in its place"
        );
        return Err(ApiError::input(message));
    }
    let path = within(&app, path)?;
    let (loader, called) = (Arc::clone(&app), name.clone());
    let loaded = tokio::task::spawn_blocking(move || swap(&loader, &called, path)).await;
    let number = loaded.map_err(|_| ApiError::internal("loading the adapter panicked"))??;
    let what = format!("Success: LoRA adapter '{name}' added successfully: generation {number}.");
    Ok(super::answer::named(&number.to_string(), what))
}

/// Load a file beside the running model, then make it live under a name. Takes as long as the file
/// is large.
pub(super) fn swap(app: &App, name: &str, path: PathBuf) -> Result<u64, ApiError> {
    let weights = load_aside(app, &path)?;
    let hash = weights.hash.short();
    let number = app
        .registry()
        .commit(name, path, weights, 0.0, app.config.limits.adapters_max)?;
    (app.say)(&format!(
        "adapter {name:?} is live: generation {number}, sha256 {hash}"
    ));
    Ok(number)
}

/// Load a file on a thread that gives way to those that decode: reading and checking would else
/// take a core from them.
fn load_aside(app: &App, path: &FilePath) -> Result<Weights, ApiError> {
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

/// A file that clients may name: one in the folder of adapters.
fn within(app: &App, path: &str) -> Result<PathBuf, ApiError> {
    let Some(folder) = &app.config.folder else {
        return Err(ApiError::forbidden(
            "this server loads no files: it was started without a folder of adapters",
        ));
    };
    let missing =
        |_| ApiError::not_found(format!("{path}: no such file in the folder of adapters"));
    let whole = folder.join(path).canonicalize().map_err(missing)?;
    let folder = folder
        .canonicalize()
        .map_err(|error| ApiError::internal(error.to_string()))?;
    if whole.starts_with(&folder) {
        Ok(whole)
    } else {
        Err(ApiError::forbidden(format!(
            "{path} is not in the folder of adapters"
        )))
    }
}

pub(super) async fn unload(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let value: Value = body(&app, request).await?;
    let name = Fields::of(&value)?.needed("lora_name")?;
    app.registry().unload(name)?;
    (app.say)(&format!("adapter {name:?} is unloaded"));
    Ok(format!("Success: LoRA adapter '{name}' removed successfully.").into_response())
}

pub(super) async fn rollback(
    State(app): Shared,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let number = app.registry().rollback(&name)?;
    (app.say)(&format!(
        "adapter {name:?} went back to generation {number}"
    ));
    let answer = json!({ "name": name, "generation": number.to_string() });
    Ok(super::answer::named(
        &number.to_string(),
        axum::Json(answer),
    ))
}
