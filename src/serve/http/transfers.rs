//! Transfers over HTTP: start, list, watch, stop.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};

use super::fields::Fields;
use super::{App, Shared, body, lora};
use crate::serve::error::ApiError;
use crate::serve::transfers::{JobState, Transfers};

/// How long a thread waits for news before it looks whether somebody still wants them.
const GLANCE: Duration = Duration::from_millis(500);
/// The longest name of an adapter. units: bytes
const NAME_BYTES_MAX: usize = 100;

fn transfers(app: &App) -> Result<Arc<Transfers>, ApiError> {
    let hint = "this server was started without a plugin for transfers";
    app.transfers
        .clone()
        .ok_or_else(|| ApiError::unsupported(hint))
}

/// `{"name": …, "source": …, "source_lora": …, "seeds" or "kit": …}` and what else `translora
/// transfer` has flags for.
pub(super) async fn start(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let transfers = transfers(&app)?;
    let mut value = body(&app, request).await?;
    let name = name(&app, Fields::of(&value)?)?;
    if let Some(object) = value.as_object_mut() {
        object.remove("name");
    }
    for (field, why) in [
        ("target", "the target is the model that is served"),
        ("out", "the adapter is put into the folder of adapters"),
    ] {
        if value.get(field).is_some() {
            return Err(ApiError::input(format!("leave {field:?} out: {why}")));
        }
    }
    let Some(folder) = &app.config.folder else {
        return Err(ApiError::forbidden(
            "this server was started without a folder for new adapters",
        ));
    };
    let whole = |path: &PathBuf| {
        path.canonicalize()
            .map_err(|error| ApiError::internal(format!("{}: {error}", path.display())))
    };
    let (target, folder) = (whole(&app.config.model)?, whole(folder)?);
    let id = transfers.start(value, &name, &target, &folder)?;
    (app.say)(&format!("transfer {id} for adapter {name:?} is queued"));
    let watched = Arc::clone(&app);
    tokio::task::spawn_blocking(move || watch(&watched, id));
    Ok((StatusCode::ACCEPTED, axum::Json(transfers.status(id)?)).into_response())
}

/// A name that makes a file name: letters, digits, `-`, `_` and `.`.
fn name(app: &App, fields: Fields<'_>) -> Result<String, ApiError> {
    let name = fields.needed("name")?;
    let fit = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.len() > NAME_BYTES_MAX
        || !name.chars().all(fit)
        || name.starts_with('.')
        || name == app.name
    {
        let message = format!(
            "{name:?} is no name for an adapter: letters, digits, -, _ and . make one, and the base's name is taken"
        );
        return Err(ApiError::input(message));
    }
    Ok(name.to_owned())
}

/// Wait for the end of a transfer, and make live what was accepted.
fn watch(app: &Arc<App>, id: u64) {
    let Some(transfers) = app.transfers.clone() else {
        return;
    };
    let ended = loop {
        if app.stopping.load(Ordering::SeqCst) {
            return;
        }
        match transfers.wait(id, GLANCE) {
            Ok(progress) if matches!(progress.state, JobState::Waiting | JobState::Running) => {}
            Ok(progress) => break progress.state,
            // It was forgotten.
            Err(_) => return,
        }
    };
    let outcome = if ended == JobState::Done {
        take(app, &transfers, id)
    } else {
        Err(format!("the transfer ended as {ended:?}").to_lowercase())
    };
    if let Err(reason) = &outcome {
        (app.say)(&format!("transfer {id} changes nothing: {reason}"));
    }
    transfers.settle(id, outcome);
}

fn take(app: &App, transfers: &Transfers, id: u64) -> Result<u64, String> {
    let status = transfers.status(id).map_err(|error| error.to_string())?;
    let goal = transfers.goal(id).ok_or("it was forgotten")?;
    match status["verdict"].as_str() {
        Some("accept") => lora::swap(app, &goal.name, goal.out).map_err(|error| error.to_string()),
        verdict => Err(format!("the verdict is {}", verdict.unwrap_or("unknown"))),
    }
}

pub(super) async fn list(State(app): Shared) -> Result<Response, ApiError> {
    Ok(axum::Json(json!({ "data": transfers(&app)?.list()? })).into_response())
}

pub(super) async fn status(
    State(app): Shared,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    Ok(axum::Json(transfers(&app)?.status(number(&id)?)?).into_response())
}

pub(super) async fn remove(
    State(app): Shared,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let (transfers, id) = (transfers(&app)?, number(&id)?);
    let status = tokio::task::spawn_blocking(move || transfers.remove(id)).await;
    Ok(
        axum::Json(status.map_err(|_| ApiError::internal("stopping the transfer panicked"))??)
            .into_response(),
    )
}

fn number(id: &str) -> Result<u64, ApiError> {
    id.parse()
        .map_err(|_| ApiError::not_found(format!("{id:?} is no number of a transfer")))
}

/// Server-sent events of a transfer, from the first or after `Last-Event-ID`; the last one, `end`,
/// is its status.
pub(super) async fn events(
    State(app): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (transfers, id) = (transfers(&app)?, number(&id)?);
    transfers.status(id)?;
    let after = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok())
        .unwrap_or(0_u64);
    let chunks = stream::unfold(Some(after), move |after| {
        let (app, transfers) = (Arc::clone(&app), Arc::clone(&transfers));
        async move {
            let after = after?;
            let looked =
                tokio::task::spawn_blocking(move || look(&app, &transfers, id, after)).await;
            let (text, after) = looked.unwrap_or_else(|_| (String::new(), None));
            Some((Ok::<_, Infallible>(text), after))
        }
    });
    Ok((
        [
            (header::CONTENT_TYPE, "text/event-stream"),
            (header::CACHE_CONTROL, "no-cache"),
        ],
        Body::from_stream(chunks),
    )
        .into_response())
}

/// The next events as text, and the number of the last of them; none at the end. A line of comment
/// where there is no news, so that a client that went away is noticed.
fn look(app: &App, transfers: &Transfers, id: u64, after: u64) -> (String, Option<u64>) {
    // Asked before the events: what ends meanwhile is seen the next time.
    let ended = transfers.wait(id, Duration::ZERO).map_or(true, |progress| {
        !matches!(progress.state, JobState::Waiting | JobState::Running)
    });
    let timeout = if ended { Duration::ZERO } else { GLANCE };
    let events = transfers.events(id, after, timeout).unwrap_or_default();
    let told = |event: &Value| {
        format!(
            "id: {}\nevent: {}\ndata: {event}\n\n",
            event["number"],
            event["event"].as_str().unwrap_or("event")
        )
    };
    let mut text: String = events.iter().map(told).collect();
    let last = events
        .iter()
        .filter_map(|event| event["number"].as_u64())
        .max()
        .unwrap_or(after);
    // The end is told when what was accepted is live, or is not.
    let settled = || {
        transfers
            .goal(id)
            .is_none_or(|goal| goal.generation.is_some() || goal.reason.is_some())
    };
    if app.stopping.load(Ordering::SeqCst) || (ended && events.is_empty() && settled()) {
        let status = transfers.status(id).unwrap_or(Value::Null);
        text.push_str(&format!("event: end\ndata: {status}\n\n"));
        return (text, None);
    }
    if text.is_empty() {
        if ended {
            std::thread::sleep(GLANCE / 10);
        }
        text.push_str(": no news\n\n");
    }
    (text, Some(last))
}
