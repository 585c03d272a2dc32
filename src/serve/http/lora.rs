//! Adapters over HTTP: llama-server's scales, vLLM's loading and unloading.

use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::options::pairs;
use super::schema::{Load, Scale, Unload};
use super::{App, Shared, body, shown};
use crate::serve::backend::{self, Terms};
use crate::serve::error::ApiError;
use crate::serve::live::Named;

/// llama-server's list.
pub(super) async fn list(State(app): Shared) -> Response {
    let registry = app.registry();
    let one = |(name, named): (&String, Named<'_>)| {
        let generation = named.live.number.to_string();
        json!({ "id": named.id, "name": name, "path": shown(&named.live.path), "scale": named.scale, "generation": generation })
    };
    axum::Json(registry.all().into_iter().map(one).collect::<Vec<_>>()).into_response()
}

pub(super) async fn set_scales(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let scales: Vec<Scale> = body::parse(body::json(&app, request).await?)?;
    app.registry().set_scales(&pairs(&scales))?;
    Ok(axum::Json(json!({ "success": true })).into_response())
}

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
    let loaded =
        tokio::task::spawn_blocking(move || backend::swap(&loader, &called, path, terms)).await;
    let number = loaded.map_err(|_| ApiError::internal("loading the adapter panicked"))??;
    let what = format!("Success: LoRA adapter '{name}' added successfully: generation {number}.");
    Ok(super::answer::named(&number.to_string(), what))
}

/// Load an adapter that is new in the folder, before a request that names it is answered.
pub(super) async fn find(app: &Arc<App>, name: &str) -> Result<(), ApiError> {
    if name == app.name || app.registry().knows(name) {
        return Ok(());
    }
    let (loader, wanted) = (Arc::clone(app), name.to_owned());
    let loaded = tokio::task::spawn_blocking(move || backend::load_by_name(&loader, &wanted)).await;
    loaded.map_err(|_| ApiError::internal("loading the adapter panicked"))?
}

pub(super) async fn unload(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let Unload { lora_name: name } = body::fields(&app, request).await?;
    backend::unload(&app, &name)?;
    Ok(format!("Success: LoRA adapter '{name}' removed successfully.").into_response())
}
