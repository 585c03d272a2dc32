//! A small HTTP client: one connection for each request, and streams that can be left.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Longer than any answer of a test takes, on a machine with other work too.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a server answered.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map_or("", |(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The generation that answered.
    pub fn generation(&self) -> &str {
        self.header("x-translora-generation")
    }

    /// The words of an error, its kind first.
    pub fn error(&self) -> String {
        let error = self.json();
        let text = |field: &str| {
            error["error"][field]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        format!("{}: {}", text("type"), text("message"))
    }
}

/// An answer that is still coming in.
pub struct Stream {
    reader: BufReader<TcpStream>,
    pub reply: Reply,
    chunked: bool,
}

/// Send a request and read the head of the answer.
pub fn open(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Stream {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout can be set");
    let json = ("Content-Type", "application/json");
    let kind = headers
        .iter()
        .all(|(name, _)| *name != json.0)
        .then_some(json);
    let more: String = headers
        .iter()
        .copied()
        .chain(kind)
        .filter(|(name, _)| *name != "Host")
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let host = headers.iter().find(|(name, _)| *name == "Host");
    let host = host.map_or("localhost", |(_, host)| host);
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n{more}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("the server reads");
    // A server may refuse a body before all of it is sent.
    _ = stream.write_all(body);
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).expect("the server answers");
        line.trim_end().to_owned()
    };
    let first = line();
    let status = first
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_else(|| panic!("no status: {first:?}"));
    let mut headers = Vec::new();
    while let Some((name, value)) = line().split_once(':') {
        headers.push((name.to_owned(), value.trim_start().to_owned()));
    }
    let reply = Reply {
        status,
        headers,
        body: String::new(),
    };
    let chunked = reply.header("transfer-encoding") == "chunked";
    Stream {
        reader,
        reply,
        chunked,
    }
}

impl Stream {
    /// The next piece of the body; none at its end.
    fn chunk(&mut self) -> Option<Vec<u8>> {
        if !self.chunked {
            let mut all = Vec::new();
            self.reader.read_to_end(&mut all).expect("the body comes");
            return (!all.is_empty()).then_some(all);
        }
        let mut size = String::new();
        self.reader.read_line(&mut size).expect("the body comes");
        let size = usize::from_str_radix(size.trim(), 16)
            .ok()
            .filter(|size| *size > 0)?;
        let mut bytes = vec![0; size + 2];
        self.reader.read_exact(&mut bytes).expect("the body comes");
        bytes.truncate(size);
        Some(bytes)
    }

    /// The next server-sent events, as their data.
    pub fn events(&mut self) -> Option<Vec<String>> {
        let text = String::from_utf8(self.chunk()?).expect("events are UTF-8");
        Some(
            text.lines()
                .filter_map(|line| line.strip_prefix("data: "))
                .map(str::to_owned)
                .collect(),
        )
    }

    /// All events to the end.
    pub fn rest(mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(events) = self.events() {
            all.extend(events);
        }
        all
    }

    pub fn whole(mut self) -> Reply {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk() {
            bytes.extend(chunk);
        }
        Reply {
            body: String::from_utf8(bytes).expect("bodies are UTF-8"),
            ..self.reply
        }
    }
}

pub fn get(address: SocketAddr, path: &str) -> Reply {
    open(address, "GET", path, &[], b"").whole()
}

/// Post a JSON body and read the head of the answer.
pub fn send(address: SocketAddr, path: &str, body: &Value) -> Stream {
    open(address, "POST", path, &[], body.to_string().as_bytes())
}

pub fn post(address: SocketAddr, path: &str, body: &Value) -> Reply {
    send(address, path, body).whole()
}

/// An object with the fields of another.
pub fn with(mut body: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

/// A value of `/metrics`.
pub fn metric(address: SocketAddr, name: &str) -> f64 {
    let text = get(address, "/metrics").body;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("{name} is not in {text}"))
}

/// Ask one question as a conversation.
pub fn ask(address: SocketAddr, model: &str, prompt: &str) -> Reply {
    let body = serde_json::json!({ "model": model, "temperature": 0, "messages": [{ "role": "user", "content": prompt }] });
    post(address, "/v1/chat/completions", &body)
}

/// What was answered to `ask`.
pub fn said(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["choices"][0]["message"]["content"]
        .as_str()
        .expect("an answer")
        .to_owned()
}
