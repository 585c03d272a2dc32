//! Where connections come in: a thread of its own, on which nothing computes.
//!
//! It reads heads, writes answers, and answers by itself on the paths that are called light. All
//! other requests are answered on the threads of another runtime.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use futures_util::future::join_all;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::ServiceExt;
use tracing::warn;

use super::connections::{Bounds, Place, Table, Watched};
use super::openapi::ErrorBody;

/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How often deadlines are looked at.
const SWEEP: Duration = Duration::from_millis(500);
/// Time before the next try where the system has no descriptor left.
const NO_DESCRIPTOR: Duration = Duration::from_millis(50);
/// There is one line in this time about connections that had to go.
const LINE: Duration = Duration::from_secs(10);
const NO_PLACE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// Sockets that listen, before anybody is answered.
pub struct Door {
    runtime: Runtime,
    listeners: Vec<TcpListener>,
}

/// What answers the requests.
pub struct Inside {
    /// All paths.
    pub router: Router,
    /// Where requests are answered.
    pub rest: Handle,
    /// Paths that are answered where connections come in: they wait for nothing and nobody.
    pub light: &'static [&'static str],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Closing {
    /// Everybody is let in.
    Open,
    /// Nobody new; requests that have come are answered.
    Closed,
    /// Connections end as they are.
    Cut,
}

/// A door that is open until this is dropped.
pub struct OpenDoor {
    closing: watch::Sender<Closing>,
    ended: watch::Receiver<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// A door that nobody comes in by yet.
    ///
    /// fails: the system has no thread or descriptor left
    pub fn new() -> io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        Ok(Self {
            runtime: builder.enable_all().build()?,
            listeners: Vec::new(),
        })
    }

    /// Listen at an address, brackets around it or not; port 0 takes a free one.
    ///
    /// fails: the address is taken, or is none of this machine
    pub fn bind(&mut self, host: &str, port: u16) -> io::Result<SocketAddr> {
        let plain = host.trim_start_matches('[').trim_end_matches(']');
        let bound = self.runtime.block_on(TcpListener::bind((plain, port)))?;
        let address = bound.local_addr()?;
        self.listeners.push(bound);
        Ok(address)
    }

    /// Let clients in.
    ///
    /// fails: the system has no thread left
    pub fn open(self, inside: Inside, bounds: Bounds) -> io::Result<OpenDoor> {
        let (closing, told) = watch::channel(Closing::Open);
        let (end, ended) = watch::channel(false);
        let hall = Hall {
            table: Arc::new(Table::new(bounds)),
            inside: Arc::new(inside),
            lines: Lines::default(),
            connections: GracefulShutdown::new(),
        };
        let (runtime, listeners) = (self.runtime, self.listeners);
        let thread = std::thread::Builder::new().name("door".into());
        let thread = thread.spawn(move || {
            runtime.block_on(hall.serve(listeners, told));
            _ = end.send(true);
        })?;
        Ok(OpenDoor {
            closing,
            ended,
            thread: Some(thread),
        })
    }
}

impl OpenDoor {
    /// Let nobody new in, end connections that no request has come from, and let the others be
    /// answered.
    pub fn close(&self) {
        _ = self.closing.send(Closing::Closed);
    }

    /// Waits until all connections have ended.
    pub fn ended(&self) -> impl Future<Output = ()> + use<> {
        let mut ended = self.ended.clone();
        async move { _ = ended.wait_for(|ended| *ended).await }
    }
}

impl Drop for OpenDoor {
    fn drop(&mut self) {
        _ = self.closing.send(Closing::Cut);
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

/// What all connections share.
struct Hall {
    table: Arc<Table>,
    inside: Arc<Inside>,
    lines: Lines,
    connections: GracefulShutdown,
}

impl Hall {
    async fn serve(self, listeners: Vec<TcpListener>, mut closing: watch::Receiver<Closing>) {
        let accept = listeners.iter().map(|listener| self.accept(listener));
        tokio::select! {
            _ = join_all(accept) => {}
            () = self.sweep() => {}
            _ = closing.wait_for(|closing| *closing > Closing::Open) => {}
        }
        drop(listeners);
        self.table.end_without_request();
        let table = Arc::clone(&self.table);
        let sweep = async {
            loop {
                tokio::time::sleep(SWEEP).await;
                table.end_without_request();
                table.sweep();
            }
        };
        tokio::select! {
            () = self.connections.shutdown() => {}
            () = sweep => {}
            _ = closing.wait_for(|closing| *closing == Closing::Cut) => {}
        }
    }

    async fn accept(&self, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) if self.has_room() => {
                    self.answer(stream);
                    // A connection that was ended for it is to be closed before the next.
                    tokio::task::yield_now().await;
                }
                Ok((stream, _)) => _ = stream.try_write(NO_PLACE),
                Err(error) if is_of_client(&error) => {}
                Err(error) => {
                    self.table.end_one();
                    self.lines.say(&error.to_string());
                    tokio::time::sleep(NO_DESCRIPTOR).await;
                }
            }
        }
    }

    /// Whether one more may come in, for which another one may have to go.
    fn has_room(&self) -> bool {
        if !self.table.is_full() {
            return true;
        }
        let most = self.table.connections_max();
        self.lines.say(&format!(
            "all {most} places for connections were taken, as the limit of open files allows no more"
        ));
        self.table.end_one()
    }

    async fn sweep(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.table.sweep();
        }
    }

    fn answer(&self, stream: TcpStream) {
        _ = stream.set_nodelay(true);
        let held = self.table.take();
        let (place, inside) = (Arc::clone(&held.place), Arc::clone(&self.inside));
        let stream = TokioIo::new(Watched::new(stream, Arc::clone(&place)));
        let service = service_fn(move |request| answer(request, place.clone(), inside.clone()));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // The table counts it from the first byte, not from the last answer.
            .header_read_timeout(None)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(stream, service);
        let connection = self.connections.watch(connection);
        tokio::spawn(async move {
            tokio::select! {
                // A client that broke off has broken off.
                _ = connection => {}
                () = held.place.over() => {}
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    place: Arc<Place>,
    inside: Arc<Inside>,
) -> Result<Response<Body>, Infallible> {
    let (arriving, answering) = place.request(!request.body().is_end_stream());
    let request = request.map(|body| {
        Body::new(body.map_err(move |error| {
            let _held = &arriving;
            error
        }))
    });
    let is_light = inside.light.contains(&request.uri().path());
    let answer = inside.router.clone().oneshot(request);
    let response = if is_light {
        answer.await.into_response()
    } else {
        // A client that leaves drops the set, which ends the task.
        let mut task = JoinSet::new();
        task.spawn_on(answer, &inside.rest);
        match task.join_next().await {
            Some(Ok(response)) => response.into_response(),
            _ => broken(),
        }
    };
    Ok(response.map(|body| {
        Body::new(body.map_err(move |error| {
            let _held = &answering;
            error
        }))
    }))
}

fn broken() -> Response<Body> {
    let error = ErrorBody::new("server_error", "a bug in translora: the answer panicked");
    (StatusCode::INTERNAL_SERVER_ERROR, axum::Json(error)).into_response()
}

/// Whether an error is that of one client which broke off.
fn is_of_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

/// Lines about connections that had to go: one in a while, with their number.
#[derive(Default)]
struct Lines(Mutex<(Option<Instant>, u64)>);

impl Lines {
    fn say(&self, why: &str) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, count) = &mut *state;
        *count += 1;
        if last.is_none_or(|last| last.elapsed() > LINE) {
            warn!("connections: {count} had to end or were refused: {why}");
            (*last, *count) = (Some(Instant::now()), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream as Client;
    use std::sync::mpsc;

    use axum::http::Uri;

    use super::*;

    fn sent(address: SocketAddr, path: &str) -> Client {
        let mut client = Client::connect(address).expect("it listens");
        let head = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n");
        client.write_all(head.as_bytes()).expect("it reads");
        client
    }

    fn answered(mut client: Client) -> String {
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("it answers");
        answer
    }

    /// All threads of the other runtime are at work, and work on until the light paths have
    /// answered.
    #[test]
    fn light_paths_are_answered_while_all_threads_compute() {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let rest = builder.worker_threads(1).build().expect("threads");
        let (begun, begins) = mpsc::channel();
        let (go, going) = mpsc::channel::<()>();
        let going = Arc::new(Mutex::new(going));
        let router = Router::new().fallback(move |uri: Uri| {
            let (begun, going) = (begun.clone(), Arc::clone(&going));
            async move {
                match uri.path() {
                    "/heavy" => {
                        _ = begun.send(());
                        _ = going.lock().expect("nobody panics").recv();
                    }
                    "/light" => {}
                    other => panic!("{other}"),
                }
                "done"
            }
        });
        let inside = Inside {
            router,
            rest: rest.handle().clone(),
            light: &["/light"],
        };
        let mut door = Door::new().expect("a door");
        let address = door.bind("127.0.0.1", 0).expect("a free port");
        let door = door.open(inside, Bounds::default()).expect("it opens");
        let heavy = sent(address, "/heavy");
        begins.recv().expect("it computes");
        for _ in 0..20 {
            assert!(answered(sent(address, "/light")).ends_with("done"));
        }
        go.send(()).expect("it waits");
        assert!(answered(heavy).ends_with("done"));
        assert!(answered(sent(address, "/broken")).contains("a bug in translora"));
        drop(door);
        assert!(Client::connect(address).is_err(), "nobody listens any more");
    }
}
