//! Adapters over HTTP: llama-server's scales, vLLM's loading and unloading.

use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::ask::scales;
use super::fields::Fields;
use super::{Shared, body};
use crate::serve::backend;
use crate::serve::error::ApiError;
use crate::serve::live::Named;

/// llama-server's list.
pub(super) async fn list(State(app): Shared) -> Response {
    let registry = app.registry();
    let one = |(name, named): (&String, Named<'_>)| {
        let generation = named.live.number.to_string();
        json!({ "id": named.id, "name": name, "path": named.live.path.to_string_lossy(), "scale": named.scale, "generation": generation })
    };
    axum::Json(registry.all().into_iter().map(one).collect::<Vec<_>>()).into_response()
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
    let path = backend::within(&app, Path::new(path))?;
    let (loader, called) = (Arc::clone(&app), name.clone());
    let loaded = tokio::task::spawn_blocking(move || backend::swap(&loader, &called, path)).await;
    let number = loaded.map_err(|_| ApiError::internal("loading the adapter panicked"))??;
    let what = format!("Success: LoRA adapter '{name}' added successfully: generation {number}.");
    Ok(super::answer::named(&number.to_string(), what))
}

pub(super) async fn unload(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let value: Value = body(&app, request).await?;
    let name = Fields::of(&value)?.needed("lora_name")?;
    backend::unload(&app, name)?;
    Ok(format!("Success: LoRA adapter '{name}' removed successfully.").into_response())
}
