//! Adapters over HTTP: llama-server's scales, vLLM's loading and unloading.

use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::openapi::{LoadBody, UnloadBody};
use super::options::pairs;
use super::schema::{Load, Scale, Unload};
use super::{App, Role, Shared, body, shown};
use crate::control::openapi::ErrorBody;
use crate::serve::backend::{self, Terms};
use crate::serve::error::ApiError;
use crate::serve::live::Named;

/// An adapter in llama-server's list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Listed {
    /// llama-server's number for it.
    id: usize,
    name: String,
    path: String,
    /// How strongly it works on requests that name no adapter.
    scale: f32,
    /// The load that answers now.
    generation: String,
}

/// What a change of scales is answered with.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Success {
    /// True.
    success: bool,
}

/// The adapters with their numbers and scales
#[utoipa::path(get, path = "/lora-adapters", tag = "llama-server", responses(
    (status = 200, description = "The adapters.", body = Vec<Listed>),
))]
pub(super) async fn list(State(app): Shared) -> Response {
    let registry = app.registry();
    let one = |(name, named): (&String, Named<'_>)| Listed {
        id: named.id,
        name: name.clone(),
        path: shown(&named.live.path),
        scale: named.scale,
        generation: named.live.number.to_string(),
    };
    axum::Json(registry.all().into_iter().map(one).collect::<Vec<_>>()).into_response()
}

/// Set the scales of requests that name no adapter
///
/// Adapters that are not in the list are off.
#[utoipa::path(post, path = "/lora-adapters", tag = "llama-server", request_body = Vec<Scale>,
    responses((status = 200, description = "They hold from now on.", body = Success)))]
pub(super) async fn set_scales(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let scales: Vec<Scale> = body::parse(body::json(&app, request).await?)?;
    let change = move || backend::change(&app, |registry| registry.set_scales(&pairs(&scales)));
    aside(change).await?;
    Ok(axum::Json(Success { success: true }).into_response())
}

/// Load an adapter, as vLLM does
///
/// `base_model_name` and `expected_generation` refuse it where another base is served or another
/// generation is live.
#[utoipa::path(post, path = "/v1/load_lora_adapter", tag = "adapters", request_body = LoadBody,
    responses(
    (status = 200, description = "It is live.", body = String, content_type = "text/plain"),
    (status = 403, description = "It is not in the folder.", body = ErrorBody),
    (status = 404, description = "There is no such file.", body = ErrorBody),
    (status = 409, description = "Another generation is live.", body = ErrorBody),
))]
pub(super) async fn load(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let fields: Load = body::fields(&app, request).await?;
    let name = fields.lora_name;
    backend::check_name(&name, &app.name)?;
    backend::check_base(&app, fields.base_model_name.as_deref())?;
    let terms = Terms {
        expected: fields.expected_generation.map(|expected| expected.0),
        force: fields.force,
    };
    let replaces = fields.load_inplace || terms.expected.is_some();
    if app.registry().get(&name).is_some() && !replaces {
        let message = format!(
            "an adapter is called {name:?} already: say \"load_inplace\": true to put this one in its place"
        );
        return Err(ApiError::input(message));
    }
    let path = backend::within(&app, Path::new(&fields.lora_path))?;
    let (loader, called) = (Arc::clone(&app), name.clone());
    let number = aside(move || backend::swap(&loader, &called, path, terms)).await?;
    let what = format!("Success: LoRA adapter '{name}' added successfully: generation {number}.");
    Ok(super::answer::named(&name, &number.to_string(), what))
}

/// Load an adapter that is new in the folder, before a request that names it is answered. Only for
/// those who may manage: another one is answered as if it were not there.
pub(super) async fn find(app: &Arc<App>, name: &str, role: Option<Role>) -> Result<(), ApiError> {
    if role != Some(Role::Manage) || name == app.name || app.registry().knows(name) {
        return Ok(());
    }
    let (loader, wanted) = (Arc::clone(app), name.to_owned());
    aside(move || backend::load_by_name(&loader, &wanted)).await
}

/// Change adapters on a thread that may wait for the disk.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ApiError::internal("changing the adapters panicked"))?
}

/// Unload an adapter, as vLLM does
#[utoipa::path(post, path = "/v1/unload_lora_adapter", tag = "adapters", request_body = UnloadBody,
    responses(
    (status = 200, description = "It answers no more.", body = String, content_type = "text/plain"),
    (status = 404, description = "No adapter has the name.", body = ErrorBody),
))]
pub(super) async fn unload(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let Unload { lora_name: name } = body::fields(&app, request).await?;
    let called = name.clone();
    aside(move || backend::unload(&app, &called)).await?;
    Ok(format!("Success: LoRA adapter '{name}' removed successfully.").into_response())
}
