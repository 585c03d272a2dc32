//! The router on a port of its own, for whoever has the token.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Runtime;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc;

use super::connections::Bounds;
use super::door::{Door, Inside, OpenDoor};
use super::openapi::{ErrorBody, routes_of_document};
use super::{Backend, ControlError, Kind, Refusal, observed, refused, router};
use crate::record::{Clock, ContentHash, SystemClock};

const THREADS: usize = 2;
/// Time for answers under way when the server ends.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The signals that a person or a supervisor sends.
const SIGNALS: [(SignalKind, Signal); 4] = [
    (SignalKind::interrupt(), Signal::INT),
    (SignalKind::terminate(), Signal::TERM),
    (SignalKind::hangup(), Signal::HUP),
    (SignalKind::quit(), Signal::QUIT),
];

/// What clients have to know.
#[derive(Clone, Debug)]
pub enum Token {
    /// Somebody chose it.
    Chosen(String),
    /// It was drawn at random for this run.
    Random(String),
}

/// The router on a port.
pub struct Server {
    runtime: Runtime,
    address: SocketAddr,
    door: OpenDoor,
}

impl Server {
    /// Listen, and answer whoever has the token.
    ///
    /// fails: the address is taken, or other machines can reach it and nobody chose the token
    pub fn start(
        backend: Arc<dyn Backend>,
        host: &str,
        port: u16,
        token: &Token,
    ) -> Result<Self, ControlError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("control")
            .enable_all()
            .build()
            .map_err(ControlError::Threads)?;
        let mut door = Door::new().map_err(ControlError::Threads)?;
        let address = door
            .bind(host, port)
            .map_err(|source| ControlError::Listen {
                address: format!("{host}:{port}"),
                source,
            })?;
        let token = match token {
            Token::Random(_) if !address.ip().is_loopback() => {
                return Err(ControlError::Exposed { address });
            }
            Token::Random(token) | Token::Chosen(token) => token,
        };
        let start = SystemClock::default().unix_seconds();
        let inside = Inside {
            router: observed(guarded(router(backend), token), start),
            rest: runtime.handle().clone(),
            light: &[],
        };
        let door = door.open(inside, Bounds::default());
        Ok(Self {
            runtime,
            address,
            door: door.map_err(ControlError::Threads)?,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Wait for a signal that ends the process.
    ///
    /// fails: signals cannot be listened for
    pub fn run(self) -> Result<(), ControlError> {
        let mut signals = self.signals()?;
        _ = self.runtime.block_on(signals.recv());
        self.end();
        Ok(())
    }

    /// Run a program beside the router, pass signals on to it, and end with it.
    ///
    /// It has a process group of its own, so that a signal of the terminal reaches it once.
    ///
    /// fails: the program does not start, or signals cannot be listened for
    pub fn run_beside(self, command: &mut Command) -> Result<ExitStatus, ControlError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let refuse = |source| ControlError::Program { program, source };
        let mut signals = self.signals()?;
        let mut child = match command.process_group(0).spawn() {
            Ok(child) => child,
            Err(error) => return Err(refuse(error)),
        };
        let process = Pid::from_child(&child);
        self.runtime.spawn(async move {
            while let Some(signal) = signals.recv().await {
                // It may be ending already.
                _ = kill_process(process, signal);
            }
        });
        let status = child.wait().map_err(refuse)?;
        self.end();
        Ok(status)
    }

    /// Let answers under way end, for a while.
    fn end(self) {
        self.door.close();
        let ended = self.door.ended();
        self.runtime.block_on(async {
            _ = tokio::time::timeout(LAST_WORDS, ended).await;
        });
        drop(self.door);
        self.runtime.shutdown_background();
    }

    /// The signals that come from now on.
    fn signals(&self) -> Result<mpsc::Receiver<Signal>, ControlError> {
        let (sender, receiver) = mpsc::channel(SIGNALS.len());
        let _inside = self.runtime.enter();
        for (kind, signal) in SIGNALS {
            let mut received = unix::signal(kind).map_err(ControlError::Threads)?;
            let sender = sender.clone();
            self.runtime.spawn(async move {
                while received.recv().await.is_some() && sender.send(signal).await.is_ok() {}
            });
        }
        Ok(receiver)
    }
}

/// Nobody without the token. Hashes are compared, so that the time a comparison takes says nothing
/// about it.
fn guarded(router: Router, token: &str) -> Router {
    let missing = || async {
        refused(&Refusal::new(
            Kind::NotFound,
            "there is nothing at this path",
        ))
    };
    let other = || async {
        let error = ErrorBody::new("invalid_request_error", "this path has other methods");
        (StatusCode::METHOD_NOT_ALLOWED, axum::Json(error))
    };
    router
        .merge(routes_of_document())
        .fallback(missing)
        .method_not_allowed_fallback(other)
        .layer(middleware::from_fn_with_state(
            ContentHash::of(token.as_bytes()),
            admit,
        ))
}

async fn admit(State(token): State<ContentHash>, request: Request, next: Next) -> Response {
    let sent = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .map(|sent| ContentHash::of(sent.trim().as_bytes()));
    if sent == Some(token) {
        return next.run(request).await;
    }
    let message = "a bearer token is needed: send it as `Authorization: Bearer TOKEN`";
    let error = ErrorBody::new("authentication_error", message);
    (StatusCode::UNAUTHORIZED, axum::Json(error)).into_response()
}
