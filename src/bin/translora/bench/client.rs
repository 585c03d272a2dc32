//! A client of a server on this machine: one connection for each request, JSON both ways, and a
//! stream that tells when its events came.

use std::io::{BufRead, BufReader, Error, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::failure::Failure;

/// Longer than a step of a large model takes on a small machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A response whose head was read.
pub struct Reply {
    reader: BufReader<TcpStream>,
    status: u16,
    path: String,
}

/// Send a request and read the head of the response.
///
/// fails: the connection does
pub fn post(address: SocketAddr, path: &str, body: &Value) -> Result<Reply, Failure> {
    let failed = |error: Error| broken(path, &error);
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: \
        {}\r\n\r\n",
        body.len()
    );
    stream
        .write_all((head + &body).as_bytes())
        .map_err(failed)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).map_err(failed)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| Failure::Bug(format!("{path}: the server said {line:?}")))?;
    while line.trim_end() != "" {
        line.clear();
        reader.read_line(&mut line).map_err(failed)?;
    }
    Ok(Reply {
        reader,
        status,
        path: path.into(),
    })
}

impl Reply {
    /// Wait for the end.
    ///
    /// fails: the server refused, or went away
    pub fn done(mut self) -> Result<(), Failure> {
        let mut text = String::new();
        self.reader
            .read_to_string(&mut text)
            .map_err(|error| broken(&self.path, &error))?;
        if self.status == 200 {
            Ok(())
        } else {
            Err(refused(&self.path, &text))
        }
    }

    /// Wait for the next server-sent event. False: there are no more.
    ///
    /// fails: the server refused, or went away
    pub fn event(&mut self) -> Result<bool, Failure> {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self
                .reader
                .read_line(&mut line)
                .map_err(|error| broken(&self.path, &error))?;
            match line.trim_end() {
                _ if self.status != 200 && read > 0 && line.starts_with('{') => {
                    return Err(refused(&self.path, &line));
                }
                _ if read == 0 => return Ok(false),
                "data: [DONE]" => return Ok(false),
                text if text.starts_with("data: {\"error\"") => {
                    return Err(refused(&self.path, text));
                }
                text if text.starts_with("data: ") => return Ok(true),
                _ => {}
            }
        }
    }
}

fn broken(path: &str, error: &Error) -> Failure {
    Failure::Usage {
        message: format!("{path}: the server went away: {error}"),
        hint: "look whether memory ran out".into(),
    }
}

fn refused(path: &str, said: &str) -> Failure {
    let error = said.trim_start_matches("data: ").trim();
    let message = serde_json::from_str::<Value>(error)
        .ok()
        .and_then(|value| Some(value["error"]["message"].as_str()?.to_owned()));
    Failure::Usage {
        message: format!("{path}: {}", message.unwrap_or_else(|| error.into())),
        hint: "the server says what it needs".into(),
    }
}
