//! The paths, and what each stands for.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use utoipa::ToSchema;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::openapi::{ErrorBody, TransferBody, has_body, refuse};
use super::{AdapterList, Backend, Command, Event, Job, Kind, Load, Refusal, Reply, Swapped};

/// Names the generation that answers after an exchange.
pub const GENERATION: &str = "x-translora-generation";

const BODY_BYTES_MAX: usize = 64 << 10;
const BODY_WAIT: Duration = Duration::from_secs(20);
/// Commands that a backend carries out at a time, and streams that wait for news at a time: together
/// fewer than the clients that the module's socket takes.
const COMMANDS_MAX: usize = 3;
const WAITS_MAX: usize = 4;

/// A backend, and the lanes that its commands wait in.
struct Lanes {
    backend: Arc<dyn Backend>,
    commands: Arc<Semaphore>,
    waits: Arc<Semaphore>,
}

type Shared = State<Arc<Lanes>>;
type Answer = Result<Response, Refused>;

/// The router over a backend. Who may use it is for the caller to say, in a layer around it.
pub fn router(backend: Arc<dyn Backend>) -> Router {
    let lanes = Lanes {
        backend,
        commands: Arc::new(Semaphore::new(COMMANDS_MAX)),
        waits: Arc::new(Semaphore::new(WAITS_MAX)),
    };
    routes().with_state(Arc::new(lanes)).into()
}

/// The paths as OpenAPI has them.
pub fn documented() -> OpenApi {
    let mut api = routes().into_openapi();
    refuse(&mut api, &[400], has_body);
    api
}

fn routes() -> OpenApiRouter<Arc<Lanes>> {
    OpenApiRouter::new()
        .routes(routes!(list, load))
        .routes(routes!(rollback))
        .routes(routes!(unload))
        .routes(routes!(jobs, transfer))
        .routes(routes!(job, cancel))
        .routes(routes!(report))
        .routes(routes!(events))
}

/// A part of a path as text. What is no UTF-8 names nothing.
pub struct Segment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let read = Path::<String>::from_request_parts(parts, state).await;
        let refuse = |error: PathRejection| Refusal::new(Kind::NotFound, error.body_text()).into();
        read.map(|Path(text)| Self(text)).map_err(refuse)
    }
}

/// Transfers, those that have ended too.
#[derive(Debug, Serialize, ToSchema)]
struct JobList {
    /// In the order in which they came.
    data: Vec<Job>,
}

/// Events of a transfer.
#[derive(Debug, Serialize)]
struct EventList {
    data: Vec<Event>,
}

impl Lanes {
    async fn carry(&self, command: Command) -> Result<Reply, Refusal> {
        self.carry_in(&self.commands, command).await
    }

    /// Carry a command out on a thread that may block, when one of `lane` is free.
    async fn carry_in(&self, lane: &Arc<Semaphore>, command: Command) -> Result<Reply, Refusal> {
        let broken = |what: &str| Refusal::new(Kind::Internal, what);
        let permit = Arc::clone(lane).acquire_owned().await;
        let permit = permit.map_err(|_| broken("the router is closed"))?;
        let backend = Arc::clone(&self.backend);
        // The permit goes with the thread: a client that leaves does not end the command.
        let carried = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            backend.carry(command)
        });
        carried
            .await
            .map_err(|_| broken("a bug in translora: the command panicked"))?
    }
}

/// Each adapter: what is live, and what a rollback would bring back
#[utoipa::path(get, path = "/v1/adapters", tag = "adapters", responses(
    (status = 200, description = "The adapters.", body = AdapterList),
))]
async fn list(State(lanes): Shared) -> Answer {
    answer(lanes.carry(Command::List {}).await?)
}

/// Make a file live
///
/// Answered when it is: requests that come later are answered by it.
#[utoipa::path(post, path = "/v1/adapters", tag = "adapters", request_body = Load, responses(
    (status = 200, description = "It is live.", body = Swapped),
    (status = 403, description = "The server loads no such file.", body = ErrorBody),
    (status = 404, description = "There is no such file.", body = ErrorBody),
    (status = 409, description = "Another generation is live.", body = ErrorBody),
))]
async fn load(State(lanes): Shared, request: Request) -> Answer {
    let fields = Value::Object(body(request).await?);
    let load = serde_json::from_value(fields)
        .map_err(|error| Refusal::new(Kind::Input, error.to_string()))?;
    answer(lanes.carry(Command::Load(load)).await?)
}

/// Go back to the adapter before the live one
#[utoipa::path(post, path = "/v1/adapters/{name}/rollback", tag = "adapters",
    params(("name" = String, Path, description = "The adapter's name.")), responses(
    (status = 200, description = "It answers again.", body = Swapped),
    (status = 404, description = "No adapter has the name.", body = ErrorBody),
    (status = 409, description = "There was none before it.", body = ErrorBody),
))]
async fn rollback(State(lanes): Shared, Segment(name): Segment) -> Answer {
    answer(lanes.carry(Command::Rollback { name: Some(name) }).await?)
}

/// Go back to the base, or to what the server was started with
#[utoipa::path(post, path = "/v1/adapters/{name}/unload", tag = "adapters",
    params(("name" = String, Path, description = "The adapter's name.")), responses(
    (status = 200, description = "It answers no more.", body = Swapped),
    (status = 404, description = "No adapter has the name.", body = ErrorBody),
    (status = 409, description = "Not now.", body = ErrorBody),
))]
async fn unload(State(lanes): Shared, Segment(name): Segment) -> Answer {
    answer(lanes.carry(Command::Unload { name: Some(name) }).await?)
}

/// How far every transfer is
#[utoipa::path(get, path = "/v1/transfers", tag = "transfers", responses(
    (status = 200, description = "The transfers.", body = JobList),
    (status = 403, description = "The server has no transfers.", body = ErrorBody),
))]
async fn jobs(State(lanes): Shared) -> Answer {
    answer(lanes.carry(Command::Jobs {}).await?)
}

/// Queue a transfer
///
/// The body has the fields of a [transfer](transfer.md). In `serve` it has the `name` to go live
/// under, while `target` and `out` are the server's own.
#[utoipa::path(post, path = "/v1/transfers", tag = "transfers", request_body = TransferBody,
    responses(
    (status = 202, description = "It is queued.", body = Job),
    (status = 403, description = "The server has no transfers.", body = ErrorBody),
    (status = 404, description = "There is no such file.", body = ErrorBody),
    (status = 409, description = "The queue is full.", body = ErrorBody),
))]
async fn transfer(State(lanes): Shared, request: Request) -> Answer {
    let mut request = body(request).await?;
    let name = match request.remove("name") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name),
        Some(_) => return Err(Refusal::new(Kind::Input, "\"name\" must be a string").into()),
    };
    let reply = lanes.carry(Command::Transfer { name, request }).await?;
    Ok((StatusCode::ACCEPTED, answer(reply)?).into_response())
}

/// How far a transfer is: state, stage, progress, verdict, problem
#[utoipa::path(get, path = "/v1/transfers/{id}", tag = "transfers",
    params(("id" = u64, Path, description = "The transfer's number.")), responses(
    (status = 200, description = "The transfer.", body = Job),
    (status = 403, description = "The server has no transfers.", body = ErrorBody),
    (status = 404, description = "There is no such transfer.", body = ErrorBody),
))]
async fn job(State(lanes): Shared, Segment(id): Segment) -> Answer {
    answer(lanes.carry(Command::Job { job: number(&id)? }).await?)
}

/// Stop a transfer, over within two seconds; forget one that has ended, and take its journal away
#[utoipa::path(delete, path = "/v1/transfers/{id}", tag = "transfers",
    params(("id" = u64, Path, description = "The transfer's number.")), responses(
    (status = 200, description = "The transfer as it is now.", body = Job),
    (status = 403, description = "The server has no transfers.", body = ErrorBody),
    (status = 404, description = "There is no such transfer.", body = ErrorBody),
))]
async fn cancel(State(lanes): Shared, Segment(id): Segment) -> Answer {
    answer(lanes.carry(Command::Cancel { job: number(&id)? }).await?)
}

/// The [report](formats.md#reportjson) of a transfer that is done
#[utoipa::path(get, path = "/v1/transfers/{id}/report", tag = "transfers",
    params(("id" = u64, Path, description = "The transfer's number.")), responses(
    (status = 200, description = "The report.", body = Value),
    (status = 403, description = "The server has no transfers.", body = ErrorBody),
    (status = 404, description = "There is no such transfer.", body = ErrorBody),
    (status = 409, description = "It has no report.", body = ErrorBody),
))]
async fn report(State(lanes): Shared, Segment(id): Segment) -> Answer {
    answer(lanes.carry(Command::Report { job: number(&id)? }).await?)
}

fn number(id: &str) -> Result<u64, Refusal> {
    id.parse()
        .map_err(|_| Refusal::new(Kind::NotFound, format!("{id:?} is no number of a transfer")))
}

/// The events of a transfer as server-sent events
///
/// From the first, or after `Last-Event-ID`. The last one, `end`, is the status.
#[utoipa::path(get, path = "/v1/transfers/{id}/events", tag = "transfers", params(
    ("id" = u64, Path, description = "The transfer's number."),
    ("last-event-id" = Option<u64>, Header, description = "The last event that is known."),
), responses(
    (status = 200, description = "The events.", body = Value, content_type = "text/event-stream"),
    (status = 400, description = "`Last-Event-ID` is no number.", body = ErrorBody),
    (status = 403, description = "The server has no transfers.", body = ErrorBody),
    (status = 404, description = "There is no such transfer.", body = ErrorBody),
))]
async fn events(State(lanes): Shared, Segment(id): Segment, headers: HeaderMap) -> Answer {
    let job = number(&id)?;
    let after = last_event(&headers)?;
    lanes.carry(Command::Job { job }).await?;
    Ok(Sse::new(event_stream(lanes, job, after)).into_response())
}

/// The event that a client has seen; 0 where it has seen none.
fn last_event(headers: &HeaderMap) -> Result<u64, Refusal> {
    let Some(value) = headers.get("last-event-id") else {
        return Ok(0);
    };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| {
        let message = format!("Last-Event-ID must be the number of an event, and is {value:?}");
        Refusal::new(Kind::Input, message)
    })
}

fn event_stream(
    lanes: Arc<Lanes>,
    job: u64,
    after: u64,
) -> impl Stream<Item = Result<sse::Event, axum::Error>> + Send {
    let looks = stream::unfold(Some(after), move |after| {
        let lanes = Arc::clone(&lanes);
        async move {
            let after = after?;
            Some(match lanes.look(job, after).await {
                Ok((events, last)) => (events, last),
                Err(refusal) => (vec![named("error", &error(&refusal))], None),
            })
        }
    });
    looks.flat_map(stream::iter)
}

impl Lanes {
    /// What is new of a transfer behind an event, and the number of the last of it; none at the end.
    /// A comment where there is no news, so that a client that went away is noticed.
    async fn look(
        &self,
        job: u64,
        after: u64,
    ) -> Result<(Vec<Result<sse::Event, axum::Error>>, Option<u64>), Refusal> {
        // Read before the events: a job that ends meanwhile is seen the next time.
        let status = self.status(job).await?;
        let command = Command::Events { job, after };
        let Reply::Events(events) = self.carry_in(&self.waits, command).await? else {
            return Err(another());
        };
        let last = events.iter().map(|event| event.number).max();
        let mut sent: Vec<_> = events.iter().map(numbered).collect();
        if self.backend.is_stopping() || (status.state.is_end() && events.is_empty()) {
            sent.push(named("end", &status));
            return Ok((sent, None));
        }
        if sent.is_empty() {
            sent.push(Ok(sse::Event::default().comment("no news")));
        }
        Ok((sent, Some(last.unwrap_or(after))))
    }

    async fn status(&self, job: u64) -> Result<Box<Job>, Refusal> {
        match self.carry_in(&self.waits, Command::Job { job }).await? {
            Reply::Job(job) => Ok(job),
            _ => Err(another()),
        }
    }
}

fn another() -> Refusal {
    let message = "the reply of the backend is that of another command";
    Refusal::new(Kind::Internal, message)
}

fn numbered(event: &Event) -> Result<sse::Event, axum::Error> {
    Ok(named(&event.event, event)?.id(event.number.to_string()))
}

fn named(name: &str, data: &impl Serialize) -> Result<sse::Event, axum::Error> {
    sse::Event::default().event(name).json_data(data)
}

/// A reply as JSON; lists are in `data`.
fn answer(reply: Reply) -> Answer {
    Ok(match reply {
        Reply::Adapters(adapters) => Json(adapters).into_response(),
        Reply::Swapped(swapped) => exchanged(swapped),
        Reply::Job(job) => Json(job).into_response(),
        Reply::Jobs(jobs) => Json(JobList { data: jobs }).into_response(),
        Reply::Events(events) => Json(EventList { data: events }).into_response(),
        Reply::Report(report) => Json(report).into_response(),
    })
}

fn exchanged(swapped: Swapped) -> Response {
    let generation = HeaderValue::from_str(&swapped.generation);
    let mut response = Json(swapped).into_response();
    if let Ok(generation) = generation {
        response.headers_mut().insert(GENERATION, generation);
    }
    response
}

/// The body of a request as a JSON object.
///
/// fails: too long, too slow, not an object
async fn body(request: Request) -> Result<Map<String, Value>, Refused> {
    let read = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX);
    let bytes = tokio::time::timeout(BODY_WAIT, read)
        .await
        .map_err(|_| Refusal::new(Kind::Input, "the body did not arrive in time"))?
        .map_err(|_| {
            let message = format!("the body is longer than {BODY_BYTES_MAX} bytes");
            Refusal::new(Kind::Input, message)
        })?;
    match super::parse(&bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Refusal::new(Kind::Input, "the body is no JSON object").into()),
        Err(why) => Err(Refusal::new(Kind::Input, why).into()),
    }
}

/// A refusal over HTTP, in OpenAI's shape.
pub fn refused(refusal: &Refusal) -> Response {
    let (status, _) = status_and_type(refusal.kind);
    (status, Json(error(refusal))).into_response()
}

/// A refusal as an answer.
pub struct Refused(Refusal);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        refused(&self.0)
    }
}

fn error(refusal: &Refusal) -> ErrorBody {
    let (_, kind) = status_and_type(refusal.kind);
    let message = if refusal.hint.is_empty() {
        refusal.message.clone()
    } else {
        format!("{} (hint: {})", refusal.message, refusal.hint)
    };
    ErrorBody::new(kind, message)
}

fn status_and_type(kind: Kind) -> (StatusCode, &'static str) {
    match kind {
        Kind::Input => (StatusCode::BAD_REQUEST, "invalid_request_error"),
        Kind::NotFound => (StatusCode::NOT_FOUND, "not_found_error"),
        Kind::Conflict => (StatusCode::CONFLICT, "conflict_error"),
        Kind::Forbidden => (StatusCode::FORBIDDEN, "permission_error"),
        Kind::Unsupported => (StatusCode::NOT_IMPLEMENTED, "not_supported_error"),
        Kind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable_error"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
    }
}
