//! The commands over HTTP, on a loopback port with a token, when `TRANSLORA_HTTP` asks for it:
//! `TRANSLORA_HTTP=PORT`, the token in `TRANSLORA_HTTP_TOKEN` or made up and printed in the
//! server's log.
//!
//! `POST /v1/transfers`, `GET /v1/transfers`, `GET` and `DELETE /v1/transfers/N`, `GET
//! /v1/transfers/N/events` (server-sent events), `GET /v1/adapters`, `POST /v1/adapters` with a
//! path, `POST /v1/adapters/NAME/rollback`. One request a connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::adapter::hex;
use crate::control::carry;
use crate::log::say;

const HEAD_BYTES_MAX: u64 = 16 << 10;
const BODY_BYTES_MAX: u64 = 64 << 10;
const CLIENTS_MAX: usize = 16;
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Open the port if one is asked for.
pub fn open() -> std::io::Result<()> {
    let Some(port) = std::env::var("TRANSLORA_HTTP")
        .ok()
        .filter(|port| !port.is_empty())
    else {
        return Ok(());
    };
    let port: u16 = port.parse().map_err(|_| {
        std::io::Error::other(format!(
            "TRANSLORA_HTTP is {port:?}, and wants a port number (0: any)"
        ))
    })?;
    let given = std::env::var("TRANSLORA_HTTP_TOKEN")
        .ok()
        .filter(|token| !token.is_empty());
    let token = given.clone().map_or_else(made_up, Ok)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let shown = if given.is_some() {
        "of TRANSLORA_HTTP_TOKEN"
    } else {
        token.as_str()
    };
    say(&format!(
        "http://{} with the token {shown}",
        listener.local_addr()?
    ));
    std::thread::Builder::new()
        .name("translora".into())
        .spawn(move || listen(&listener, &token))?;
    Ok(())
}

fn made_up() -> std::io::Result<String> {
    let mut bytes = [0; 24];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(hex(&bytes))
}

fn listen(listener: &TcpListener, token: &str) {
    static CLIENTS: AtomicUsize = AtomicUsize::new(0);
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        if CLIENTS.fetch_add(1, Ordering::Relaxed) >= CLIENTS_MAX {
            CLIENTS.fetch_sub(1, Ordering::Relaxed);
            // Whoever does not read it sees a closed connection.
            _ = respond(&stream, 503, &json!({"error": "too many connections"}));
            continue;
        }
        let token = token.to_owned();
        let served = std::thread::Builder::new()
            .name("translora".into())
            .spawn(move || {
                // A connection that breaks ends its request, nothing else.
                _ = serve(&stream, &token);
                CLIENTS.fetch_sub(1, Ordering::Relaxed);
            });
        if served.is_err() {
            CLIENTS.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A request: method, path, whether it has the token, body.
#[derive(Debug, PartialEq)]
struct Request {
    method: String,
    path: String,
    trusted: bool,
    body: Vec<u8>,
}

/// Read a request.
///
/// fails: with the status to answer
fn read(stream: impl Read, token: &str) -> Result<Request, u16> {
    let mut lines = BufReader::new(stream.take(HEAD_BYTES_MAX + BODY_BYTES_MAX));
    let mut first = String::new();
    lines.read_line(&mut first).map_err(|_| 400_u16)?;
    let mut words = first.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(400);
    };
    let (mut length, mut trusted, mut seen) = (0_u64, false, first.len() as u64);
    loop {
        let mut line = String::new();
        let read = lines.read_line(&mut line).map_err(|_| 400_u16)?;
        seen += read as u64;
        if read == 0 || seen > HEAD_BYTES_MAX {
            return Err(if read == 0 { 400 } else { 431 });
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or(400_u16)?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().map_err(|_| 400_u16)?,
            "authorization" => {
                trusted = value
                    .trim()
                    .strip_prefix("Bearer ")
                    .is_some_and(|given| same(given.as_bytes(), token.as_bytes()));
            }
            "transfer-encoding" => return Err(411),
            _ => {}
        }
    }
    if length > BODY_BYTES_MAX {
        return Err(413);
    }
    let mut body = vec![0; length as usize];
    lines.read_exact(&mut body).map_err(|_| 400_u16)?;
    Ok(Request {
        method,
        path,
        trusted,
        body,
    })
}

/// Compare in a time that does not tell how much is the same.
fn same(given: &[u8], token: &[u8]) -> bool {
    given.len() == token.len()
        && given
            .iter()
            .zip(token)
            .fold(0, |different, (a, b)| different | (a ^ b))
            == 0
}

/// The command that a request stands for; the status to answer where there is none.
fn command(request: &Request) -> Result<Value, u16> {
    let body = || serde_json::from_slice::<Value>(&request.body).map_err(|_| 400_u16);
    let number = |text: &str| text.parse::<u64>().map_err(|_| 404_u16);
    let path: Vec<&str> = request.path.trim_matches('/').split('/').collect();
    match (request.method.as_str(), path.as_slice()) {
        ("POST", ["v1", "transfers"]) => Ok(json!({"do": "transfer", "request": body()?})),
        ("GET", ["v1", "transfers"]) => Ok(json!({"do": "jobs"})),
        ("GET", ["v1", "transfers", job]) => Ok(json!({"do": "job", "job": number(job)?})),
        ("DELETE", ["v1", "transfers", job]) => Ok(json!({"do": "cancel", "job": number(job)?})),
        ("GET", ["v1", "transfers", job, "report"]) => {
            Ok(json!({"do": "report", "job": number(job)?}))
        }
        ("GET", ["v1", "transfers", job, "events"]) => {
            Ok(json!({"do": "events", "job": number(job)?}))
        }
        ("GET", ["v1", "adapters"]) => Ok(json!({"do": "list"})),
        ("POST", ["v1", "adapters"]) => Ok(json!({"do": "load", "path": body()?["path"]})),
        ("POST", ["v1", "adapters", name, "rollback"]) => {
            Ok(json!({"do": "rollback", "name": plain(name).ok_or(400_u16)?}))
        }
        (_, ["v1", "transfers" | "adapters", ..]) => Err(405),
        _ => Err(404),
    }
}

/// A part of a path without its percent signs.
fn plain(part: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), part.as_bytes());
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        let byte = if *first == b'%' {
            let two = std::str::from_utf8(more.get(..2)?).ok()?;
            rest = &more[2..];
            u8::from_str_radix(two, 16).ok()?
        } else {
            *first
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok()
}

fn serve(stream: &TcpStream, token: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let asked = read(stream, token).and_then(|request| {
        if request.trusted {
            command(&request)
        } else {
            Err(401)
        }
    });
    match asked {
        Err(status) => respond(stream, status, &json!({"error": reason(status)})),
        Ok(command) if command["do"] == "events" => events(stream, command),
        Ok(command) => match carry(command) {
            Ok(answer) => respond(stream, 200, &answer),
            Err(error) => respond(stream, 400, &json!({"error": error})),
        },
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        401 => "a bearer token is needed; the server's log names it",
        404 => "there is nothing at this path",
        405 => "this path has no such method",
        411 => "a length is needed",
        413 => "the body is too large",
        431 => "the head is too large",
        503 => "busy",
        _ => "this request cannot be understood",
    }
}

fn respond(mut stream: &TcpStream, status: u16, body: &Value) -> std::io::Result<()> {
    let (body, word) = (body.to_string(), if status == 200 { "OK" } else { "Error" });
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} {word}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// The events of a job as they come, to its end; the last is its status.
fn events(mut stream: &TcpStream, mut command: Value) -> std::io::Result<()> {
    let status = json!({"do": "job", "job": command["job"]});
    if let Err(error) = carry(status.clone()) {
        return respond(stream, 404, &json!({"error": error}));
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nConnection: close\r\n\r\n"
    )?;
    loop {
        let told = carry(status.clone()).map_err(std::io::Error::other)?;
        let ended = !matches!(told["job"]["state"].as_str(), Some("waiting" | "running"));
        let more = carry(command.clone()).map_err(std::io::Error::other)?;
        for event in more["events"].as_array().into_iter().flatten() {
            write!(stream, "id: {}\ndata: {event}\n\n", event["number"])?;
            command["after"] = event["number"].clone();
        }
        if ended {
            return write!(stream, "event: end\ndata: {}\n\n", told["job"]);
        }
        // Tells a reader that is gone from one that waits.
        write!(stream, ": waiting\n\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Result<Value, u16> {
        let request = read(text.as_bytes(), "secret")?;
        if request.trusted {
            command(&request)
        } else {
            Err(401)
        }
    }

    #[test]
    fn requests_become_commands_and_strangers_get_nothing() {
        let with = |line: &str, body: &str| {
            let length = body.len();
            asked(&format!(
                "{line} HTTP/1.1\r\nAuthorization: Bearer secret\r\nContent-Length: {length}\r\n\r\n{body}"
            ))
        };
        assert_eq!(
            with("POST /v1/transfers", "{\"seed\":1}"),
            Ok(json!({"do": "transfer", "request": {"seed": 1}}))
        );
        assert_eq!(
            with("GET /v1/transfers/7", ""),
            Ok(json!({"do": "job", "job": 7}))
        );
        assert_eq!(
            with("DELETE /v1/transfers/7", ""),
            Ok(json!({"do": "cancel", "job": 7}))
        );
        assert_eq!(
            with("POST /v1/adapters/tickets/rollback", ""),
            Ok(json!({"do": "rollback", "name": "tickets"}))
        );
        assert_eq!(
            with("POST /v1/adapters/my%20tickets/rollback", ""),
            Ok(json!({"do": "rollback", "name": "my tickets"}))
        );
        assert_eq!(with("POST /v1/adapters/%2/rollback", ""), Err(400));
        assert_eq!(with("POST /v1/transfers", "{"), Err(400));
        assert_eq!(with("GET /v1/transfers/x", ""), Err(404));
        assert_eq!(with("PUT /v1/transfers", ""), Err(405));
        assert_eq!(with("GET /", ""), Err(404));
        assert_eq!(asked("GET /v1/transfers HTTP/1.1\r\n\r\n"), Err(401));
        assert_eq!(
            asked("GET /v1/transfers HTTP/1.1\r\nAuthorization: Bearer secre\r\n\r\n"),
            Err(401)
        );
        assert_eq!(
            asked("GET /v1/transfers HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n"),
            Err(413)
        );
        assert_eq!(
            asked("GET /v1/transfers HTTP/1.1\r\nContent-Length: 9\r\n\r\n"),
            Err(400)
        );
        assert_eq!(asked("nonsense"), Err(400));
        assert_eq!(
            asked(&format!(
                "GET / HTTP/1.1\r\nX: {}\r\n\r\n",
                "x".repeat(20_000)
            )),
            Err(431)
        );
    }
}
