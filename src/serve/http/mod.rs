//! HTTP: who is answered, what paths there are. The endpoints of each tradition have a file of their
//! own.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::backend::Own;
use super::base::Base;
use super::error::ApiError;
use super::harvest::Counts;
use super::live::Registry;
use super::state::Store;
use super::transfers;
use super::worker::{Board, Command};
use super::{Config, Say};
use crate::control::{self, Inputs, Inside, Transfers};
use crate::engine::host::Host;
use crate::engine::watch::Watched;
use crate::record::{Clock, ContentHash};

mod answer;
mod body;
mod generated;
mod llama;
mod lora;
mod metrics;
mod object;
mod openai;
mod openapi;
mod options;
mod pages;
mod prompt;
mod reference;
mod schema;
mod submit;
mod tools;

pub use openapi::openapi;
pub use reference::reference;

/// What every request sees.
pub(super) struct App {
    pub config: Config,
    /// What the base is called.
    pub name: String,
    pub host: Arc<dyn Host>,
    registry: Mutex<Registry>,
    /// The files of the model as they were opened.
    pub base: Base,
    /// Where what is live is kept, if there is a folder of adapters.
    pub store: Option<Arc<Store>>,
    /// Held while what is live changes: first on the disk, then for requests.
    pub changing: Mutex<()>,
    commands: mpsc::Sender<Command>,
    pub board: Arc<Board>,
    pub clock: Arc<dyn Clock>,
    pub say: Say,
    /// Where there is a folder for new adapters.
    pub transfers: Option<Arc<Transfers>>,
    /// Of the prompts that are kept, where some are.
    pub harvest: Option<Arc<Counts>>,
    /// Held while the file of a new adapter gets its name, or is looked for by it.
    pub naming: Mutex<()>,
    pub stopping: AtomicBool,
    /// Requests that have not ended.
    pub open: AtomicUsize,
    numbers: AtomicU64,
    /// Prompts that are rendered and encoded side by side.
    prompting: Semaphore,
    /// Texts that are encoded for `/tokenize` side by side. They may be long, and no prompt waits
    /// for them.
    tokenizing: Semaphore,
    /// Of the API keys. Hashes are compared, so that the time a comparison takes says nothing about
    /// a key.
    keys: Vec<(ContentHash, Role)>,
    /// Whose files a transfer may name.
    pub inputs: Inputs,
}

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Completions, and what a server says of itself.
    Ask,
    /// Exchanges of adapters and transfers, too.
    Manage,
}

impl App {
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a server, put together once"
    )]
    pub(super) fn new(
        (config, inputs): (Config, Inputs),
        name: String,
        host: Arc<dyn Host>,
        registry: Registry,
        store: Option<Arc<Store>>,
        base: Watched,
        commands: mpsc::Sender<Command>,
        board: Arc<Board>,
        clock: Arc<dyn Clock>,
        say: Say,
        harvest: Option<Arc<Counts>>,
    ) -> Self {
        let alone = config.admin_keys.is_empty();
        let role = if alone { Role::Manage } else { Role::Ask };
        let keys = config.api_keys.iter().map(|key| (key, role));
        let keys = keys.chain(config.admin_keys.iter().map(|key| (key, Role::Manage)));
        let keys = keys.map(|(key, role)| (ContentHash::of(key.as_bytes()), role));
        let keys = keys.collect();
        let transfers = transfers::queue(&config, &clock, &say, store.as_ref(), &registry);
        Self {
            config,
            name,
            host,
            registry: Mutex::new(registry),
            store,
            base: Base::new(base),
            changing: Mutex::default(),
            commands,
            board,
            clock,
            say,
            transfers,
            harvest,
            naming: Mutex::default(),
            stopping: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            numbers: AtomicU64::new(0),
            prompting: Semaphore::new(PROMPTING_MAX),
            tokenizing: Semaphore::new(1),
            keys,
            inputs,
        }
    }

    pub(super) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Send a command to the decode thread; false if it is gone.
    pub(super) fn send(&self, command: Command) -> bool {
        self.commands.send(command).is_ok()
    }

    /// What the one may do that sent a key; none: nothing.
    fn role(&self, sent: Option<&str>) -> Option<Role> {
        if self.keys.is_empty() {
            return Some(Role::Manage);
        }
        let sent = ContentHash::of(sent?.trim().as_bytes());
        let known = self.keys.iter().filter(|(key, _)| *key == sent);
        known.map(|(_, role)| *role).max()
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// An id for a response: unique in this process, and hard to mistake for one of another.
    fn id(&self, kind: &str) -> String {
        format!("{kind}-{:x}-{:x}", self.clock.unix_seconds(), self.number())
    }
}

type Shared = State<Arc<App>>;

/// Prompts that are rendered and encoded side by side.
const PROMPTING_MAX: usize = 2;

/// Do what takes a while in turn, and away from the threads that answer: those go on beside it.
async fn in_turn<T>(
    turns: &Semaphore,
    work: impl FnOnce() -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    let turn = turns.acquire().await;
    let _turn = turn.map_err(|_| ApiError::internal("the turns are closed"))?;
    tokio::task::block_in_place(work)
}

/// A path as JSON can have it; what is not UTF-8 is replaced.
fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Paths that are answered where connections come in, whatever else the server does.
const LIGHT: &[&str] = &["/health", "/v1/health", "/metrics"];

/// What answers clients, on the threads of `rest`.
pub(super) fn inside(app: &Arc<App>, rest: Handle) -> Inside {
    Inside {
        router: router(app),
        rest,
        light: LIGHT,
    }
}

/// Other names of paths: the name, the path, what answers both.
type Alias = (&'static str, &'static str, fn() -> MethodRouter<Arc<App>>);

const ALIASES: [Alias; 5] = [
    ("/v1/health", "/health", || get(llama::health)),
    ("/completions", "/completion", || post(llama::completion)),
    ("/models", "/v1/models", || get(openai::models)),
    ("/chat/completions", "/v1/chat/completions", || {
        post(openai::chat)
    }),
    (
        "/chat/completions/input_tokens",
        "/v1/chat/completions/input_tokens",
        || post(openai::input_tokens),
    ),
];

/// The paths with their documentation, but for other names and those of `control`.
fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(openai::models))
        .routes(routes!(openai::model))
        .routes(routes!(openai::chat))
        .routes(routes!(openai::input_tokens))
        .routes(routes!(openai::completions))
        .routes(routes!(llama::completion))
        .routes(routes!(llama::tokenize))
        .routes(routes!(llama::detokenize))
        .routes(routes!(llama::apply_template))
        .routes(routes!(lora::list, lora::set_scales))
        .routes(routes!(lora::load))
        .routes(routes!(lora::unload))
        .routes(routes!(llama::health))
        .routes(routes!(llama::props))
        .routes(routes!(llama::slots))
        .routes(routes!(metrics::metrics))
        .routes(routes!(openapi::document))
}

/// Every path there is.
fn paths(app: &Arc<App>) -> Router {
    let mut router = Router::from(routes());
    for (alias, _, method) in ALIASES {
        router = router.route(alias, method());
    }
    router
        .with_state(Arc::clone(app))
        .merge(control::router(Arc::new(Own(Arc::clone(app)))))
}

fn router(app: &Arc<App>) -> Router {
    let start = app.clock.unix_seconds();
    let router = paths(app)
        .fallback(|uri: Uri| async move { no_path(uri.path()) })
        .method_not_allowed_fallback(|| async { ApiError::method() })
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(Arc::clone(app), admit));
    control::observed(pages::guarded(router, &app.config), start)
}

/// A path that is not there, and the one that is meant where slashes are the only difference.
fn no_path(path: &str) -> ApiError {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let plain = format!("/{}", parts.join("/"));
    ApiError::not_found(if plain != path && openapi::has(&plain) {
        format!("there is no such path: is {plain} meant?")
    } else {
        "there is no such path: GET /openapi.json lists those there are".into()
    })
}

/// Nobody without the key, but for the question whether the server lives; nobody new while it shuts
/// down.
async fn admit(State(app): Shared, mut request: Request, next: Next) -> Response {
    if app.stopping.load(Ordering::SeqCst) {
        return ApiError::stopping().into_response();
    }
    let path = request.uri().path();
    if !openapi::OPEN.contains(&path) {
        let text = |name: &str| {
            request
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let sent = text("authorization")
            .and_then(|value| value.strip_prefix("Bearer "))
            .or_else(|| text("x-api-key"));
        let Some(role) = app.role(sent) else {
            return ApiError::key().into_response();
        };
        if role < needed(&request) {
            return ApiError::role().into_response();
        }
        request.extensions_mut().insert(role);
    }
    next.run(request).await
}

/// What a request takes. Transfers hold rows and prompts, so that to read of them is to manage.
fn needed(request: &Request) -> Role {
    let path = request.uri().path();
    let reads = request.method() == Method::GET && !path.starts_with("/v1/transfers");
    if pages::changes(path) && !reads {
        Role::Manage
    } else {
        Role::Ask
    }
}
