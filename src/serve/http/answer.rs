//! Answers, whole or as a stream of server-sent events.

use std::convert::Infallible;

use axum::http::HeaderValue;
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use serde::Serialize;

use super::App;
use super::submit::Pending;
use crate::control::{AnsweredBy, GENERATION};
use crate::engine::host::Token;
use crate::serve::error::ApiError;
use crate::serve::sampler::Drawn;
use crate::serve::slots::{Done, Event};

/// A finished answer.
pub(super) struct Whole {
    pub text: String,
    pub drawn: Vec<Drawn>,
    pub done: Done,
}

/// Wait for the end of an answer.
pub(super) async fn whole(pending: &mut Pending) -> Result<Whole, ApiError> {
    let (mut text, mut drawn) = (String::new(), Vec::new());
    loop {
        match pending.events.recv().await {
            Some(Event::Piece {
                text: more,
                drawn: tokens,
            }) => {
                text.push_str(&more);
                drawn.extend(tokens);
            }
            Some(Event::Done(done)) => return Ok(Whole { text, drawn, done }),
            Some(Event::Failed(why)) => return Err(ApiError::internal(why)),
            None => return Err(ApiError::ended()),
        }
    }
}

/// A response that names the generation that computed it; the log names the model too.
pub(super) fn named(model: &str, generation: &str, response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    response.extensions_mut().insert(AnsweredBy {
        model: model.to_owned(),
        generation: generation.to_owned(),
    });
    if let Ok(value) = HeaderValue::from_str(generation) {
        response.headers_mut().insert(GENERATION, value);
    }
    response
}

/// The last event of every stream of OpenAI's.
pub(super) fn end_of_stream() -> sse::Event {
    sse::Event::default().data("[DONE]")
}

/// One server-sent event.
pub(super) fn event(value: &impl Serialize) -> sse::Event {
    let text = serde_json::to_string(value).unwrap_or_default();
    sse::Event::default().data(text)
}

/// Stream an answer. `opening` goes first; `write` turns a piece or the end into events.
pub(super) fn streamed(
    pending: Pending,
    opening: Option<sse::Event>,
    write: impl FnMut(&Event) -> Vec<sse::Event> + Send + 'static,
) -> Response {
    let (model, generation) = (pending.model.clone(), pending.generation.clone());
    let answer = stream::unfold(Some((pending, write)), |state| async move {
        let (mut pending, mut write) = state?;
        let received = pending.events.recv().await.unwrap_or_else(|| {
            Event::Failed("the decode thread has ended: restart the server".into())
        });
        let events = match &received {
            Event::Failed(why) => vec![event(&ApiError::internal(why.as_str()).body())],
            received => write(received),
        };
        let goes_on = matches!(received, Event::Piece { .. });
        Some((stream::iter(events), goes_on.then_some((pending, write))))
    });
    let events = stream::iter(opening).chain(answer.flatten());
    named(
        &model,
        &generation,
        Sse::new(events.map(Ok::<_, Infallible>)),
    )
}

/// A token as text; bytes that are no text on their own are replaced.
pub(super) fn piece(app: &App, token: Token) -> String {
    String::from_utf8_lossy(&app.host.piece(token, true)).into_owned()
}

/// JSON has no infinity.
pub(super) fn finite(logprob: f64) -> f64 {
    logprob.max(-9999.0)
}
