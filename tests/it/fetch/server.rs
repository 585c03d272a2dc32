//! A hub and a web server of this test's own: what it serves, whom it lets in, and where it cuts a
//! connection.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use serde_json::json;
use translora::record::ContentHash;

/// The commit that the hub has of every repository.
pub const COMMIT: &str = "5f0c1a9e3b7d2c4f6a8e0b1d3c5f7a9e2b4d6f80";

/// A file at a path.
#[derive(Clone, Default)]
pub struct Page {
    pub bytes: Vec<u8>,
    pub etag: String,
    pub kind: &'static str,
    /// Where the file is instead.
    pub elsewhere: Option<String>,
    /// Only who sends this token gets it.
    pub token: Option<&'static str>,
    /// Answers that end in the middle.
    pub cuts: usize,
}

/// One request: its path, and the headers that matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
    pub status: u16,
}

#[derive(Default)]
struct State {
    pages: BTreeMap<String, Page>,
    requests: Vec<Request>,
}

pub struct Server {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || _ = answer(&stream, &state));
            }
        });
        Self { port, state }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panicked with it")
    }

    pub fn put(&self, path: &str, page: Page) {
        self.lock().pages.insert(path.to_owned(), page);
    }

    /// The requests that came since the last time.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.lock().requests)
    }

    /// A repository of a hub: files that are large (with a SHA-256) and small.
    pub fn repository(&self, repo: &str, files: &[(&str, Vec<u8>)], token: Option<&'static str>) {
        let siblings = files.iter().map(|(name, bytes)| {
            let blob = &ContentHash::of(bytes).to_string()[..40];
            let mut file = json!({ "rfilename": name, "size": bytes.len(), "blobId": blob });
            if !name.ends_with(".json") {
                file["lfs"] = json!({ "sha256": ContentHash::of(bytes), "size": bytes.len(), "pointerSize": 130 });
            }
            file
        });
        let siblings: Vec<_> = siblings.collect();
        let info = json!({ "sha": COMMIT, "siblings": siblings }).to_string();
        let page = |bytes: Vec<u8>| Page {
            etag: format!("\"{}\"", ContentHash::of(&bytes).short()),
            bytes,
            token,
            ..Page::default()
        };
        self.put(
            &format!("/api/models/{repo}/revision/main"),
            page(info.into_bytes()),
        );
        for (name, bytes) in files {
            self.put(
                &format!("/{repo}/resolve/{COMMIT}/{name}"),
                page(bytes.clone()),
            );
        }
    }

    pub fn change(&self, path: &str, change: impl FnOnce(&mut Page)) {
        change(self.lock().pages.get_mut(path).expect("it is there"));
    }
}

fn answer(mut stream: &TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let header = |name: &str| headers.get(name).cloned();
    let mut state = state.lock().expect("nobody panicked with it");
    let range = header("range");
    let token = header("authorization").and_then(|v| v.strip_prefix("Bearer ").map(str::to_owned));
    let mut status = 200;
    let (mut from, mut cut) = (0, false);
    let page = state.pages.get_mut(&path);
    let page = match page {
        None => {
            status = 404;
            Page::default()
        }
        Some(page) => {
            let begins = range
                .as_deref()
                .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-'));
            let same = header("if-range").is_none_or(|etag| etag == page.etag);
            if page.token.is_some() && page.token != token.as_deref() {
                status = 401;
            } else if page.elsewhere.is_some() {
                status = 302;
            } else if header("if-none-match").as_deref() == Some(&page.etag) {
                status = 304;
            } else if let Some(begins) = begins.filter(|_| same) {
                from = begins.parse().expect("a number");
                status = if from < page.bytes.len() { 206 } else { 416 };
            }
            if matches!(status, 200 | 206) && page.cuts > 0 {
                page.cuts -= 1;
                cut = true;
            }
            page.clone()
        }
    };
    state.requests.push(Request {
        path,
        range,
        token,
        status,
    });
    drop(state);
    let body = if matches!(status, 200 | 206) {
        &page.bytes[from..]
    } else {
        &[]
    };
    let sent = if cut { body.len() / 2 } else { body.len() };
    let mut head = format!(
        "HTTP/1.1 {status} Is\r\nconnection: close\r\ncontent-length: {}\r\ncontent-type: {}\r\n",
        body.len(),
        if page.kind.is_empty() {
            "application/octet-stream"
        } else {
            page.kind
        },
    );
    if !page.etag.is_empty() {
        head += &format!("etag: {}\r\n", page.etag);
    }
    if status == 206 {
        let all = page.bytes.len();
        head += &format!("content-range: bytes {from}-{}/{all}\r\n", all - 1);
    }
    if let (302, Some(to)) = (status, &page.elsewhere) {
        head += &format!("location: {to}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    stream.write_all(&body[..sent])?;
    stream.flush()
}
