//! A llama-server under test, and the few words of HTTP that are needed to talk to it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const START_MAX: Duration = Duration::from_secs(120);
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// What all servers of a run share.
#[derive(Clone)]
pub struct Place {
    pub llama_server: PathBuf,
    pub plugin: PathBuf,
    pub folder: PathBuf,
}

/// A running server; ends with its value.
pub struct Server {
    child: Child,
    port: u16,
    pub socket: PathBuf,
    pub log: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.child.kill();
        _ = self.child.wait();
        _ = std::fs::remove_file(&self.socket);
    }
}

/// How the module comes into the server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Not at all.
    Stock,
    Preload,
    Backend,
}

impl Server {
    pub fn start(place: &Place, way: Way, model: &Path, more: &[&str]) -> Self {
        Self::launch(place, way, model, more, &[])
    }

    /// With the module, and with more in its environment.
    pub fn start_with(place: &Place, model: &Path, more: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::launch(place, Way::Preload, model, more, environment)
    }

    fn launch(place: &Place, way: Way, model: &Path, more: &[&str], environment: &[(&str, &str)]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
        let (socket, log) = (place.folder.join(format!("{port}.sock")), place.folder.join(format!("{port}.log")));
        let mut command = Command::new(&place.llama_server);
        command.arg("-m").arg(model).args(["--host", "127.0.0.1", "-t", "1", "--port", &port.to_string()]).args(more);
        command.env("TRANSLORA_SOCKET", &socket).envs(environment.iter().copied());
        match way {
            Way::Stock => {}
            Way::Preload => drop(command.env("LD_PRELOAD", &place.plugin)),
            // A build with linked-in backends reads the variable only when something makes it look for backends.
            Way::Backend => drop(command.env("GGML_BACKEND_PATH", &place.plugin).env("LLAMA_ARG_OVERRIDE_TENSOR", "__x__=CPU")),
        }
        let out = File::create(&log).expect("the folder is writable");
        let child = command.stdout(out.try_clone().expect("a second handle")).stderr(out).spawn().expect("the server starts");
        let mut server = Self { child, port, socket, log };
        let begun = Instant::now();
        while server.get("/health").is_none_or(|(status, _)| status != 200) {
            let ended = server.child.try_wait().expect("the server can be asked");
            assert!(ended.is_none() && begun.elapsed() < START_MAX, "{}", server.said());
            std::thread::sleep(Duration::from_millis(100));
        }
        server
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Memory of the process, in bytes.
    pub fn resident(&self) -> u64 {
        let pages = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).expect("a living process");
        pages.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number of pages") * 4096
    }

    fn send(&self, head: &str, body: &str) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(SILENCE_MAX)).ok()?;
        let length = body.len();
        write!(
            stream,
            "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .ok()?;
        Some(stream)
    }

    /// One request with a bearer token to another port of this machine.
    pub fn speak(port: u16, line: &str, token: &str, body: &str) -> Option<(u16, Value)> {
        whole(Self::connect(port, line, token, body)?)
    }

    /// The same, and all that is answered.
    pub fn text(port: u16, line: &str, token: &str) -> String {
        let mut text = String::new();
        Self::connect(port, line, token, "").expect("an answer").read_to_string(&mut text).expect("text");
        text
    }

    fn connect(port: u16, line: &str, token: &str, body: &str) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(SILENCE_MAX)).ok()?;
        let length = body.len();
        write!(stream, "{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n{body}").ok()?;
        Some(stream)
    }

    pub fn get(&self, path: &str) -> Option<(u16, Value)> {
        whole(self.send(&format!("GET {path}"), "")?)
    }

    pub fn post(&self, path: &str, body: &Value) -> Value {
        let sent = self.send(&format!("POST {path}"), &body.to_string());
        let (status, answer) = sent.and_then(whole).unwrap_or_else(|| panic!("no answer\n{}", self.said()));
        assert_eq!(status, 200, "{answer}\n{}", self.said());
        answer
    }

    /// The tokens of an answer at temperature 0.
    pub fn ask(&self, prompt: &str, slot: i32) -> Vec<i64> {
        tokens(&self.post("/completion", &request(prompt, slot)))
    }

    /// The same from nothing that was computed before.
    pub fn ask_anew(&self, prompt: &str) -> Vec<i64> {
        let mut body = request(prompt, 0);
        body["cache_prompt"] = false.into();
        tokens(&self.post("/completion", &body))
    }

    /// Begin a stream of `count` tokens.
    pub fn stream(&self, prompt: &str, slot: i32, count: usize) -> Stream {
        self.begin(request(prompt, slot), count)
    }

    /// The same from nothing that was computed before.
    pub fn stream_anew(&self, prompt: &str, count: usize) -> Stream {
        let mut body = request(prompt, 0);
        body["cache_prompt"] = false.into();
        self.begin(body, count)
    }

    fn begin(&self, mut body: Value, count: usize) -> Stream {
        body["stream"] = true.into();
        body["ignore_eos"] = true.into();
        body["n_predict"] = count.into();
        let stream = self.send("POST /completion", &body.to_string()).expect("the server answers");
        Stream { lines: BufReader::new(stream), tokens: Vec::new() }
    }

    /// One command on the socket.
    pub fn command(&self, command: &Value) -> Value {
        let mut stream = UnixStream::connect(&self.socket).unwrap_or_else(|error| panic!("{error}\n{}", self.said()));
        writeln!(stream, "{command}").expect("written");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("an answer");
        serde_json::from_str(&line).expect("a JSON object")
    }

    pub fn load(&self, adapter: &Path) {
        let said = self.command(&json!({"do": "load", "path": adapter}));
        assert_eq!(said["ok"], true, "{said}\n{}", self.said());
    }
}

/// A stream that is being read.
pub struct Stream {
    lines: BufReader<TcpStream>,
    pub tokens: Vec<i64>,
}

impl Stream {
    /// Read until there are `count` tokens, or to the end.
    pub fn read(&mut self, count: usize) -> &[i64] {
        while self.tokens.len() < count {
            let mut line = String::new();
            if self.lines.read_line(&mut line).expect("the stream goes on") == 0 {
                break;
            }
            if let Some(event) = line.strip_prefix("data: ").and_then(|text| serde_json::from_str::<Value>(text).ok()) {
                self.tokens.extend(tokens(&event));
            }
        }
        &self.tokens
    }
}

fn request(prompt: &str, slot: i32) -> Value {
    let prompt = format!("<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n");
    json!({"prompt": prompt, "temperature": 0, "n_predict": 24, "return_tokens": true, "id_slot": slot, "cache_prompt": true})
}

fn tokens(answer: &Value) -> Vec<i64> {
    answer["tokens"].as_array().into_iter().flatten().filter_map(Value::as_i64).collect()
}

fn whole(mut stream: TcpStream) -> Option<(u16, Value)> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).unwrap_or_default()))
}
