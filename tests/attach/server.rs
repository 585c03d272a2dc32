//! A llama-server under test, and the little HTTP that its tests need.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const START_MAX: Duration = Duration::from_secs(120);
const END_MAX: Duration = Duration::from_secs(10);
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// What all servers of a run share.
#[derive(Clone)]
pub struct Place {
    pub llama_server: PathBuf,
    pub plugin: PathBuf,
    pub folder: PathBuf,
    /// What the module does wrong on purpose, in a build that can; mostly nothing.
    pub fault: &'static str,
}

/// A running server; ends with its value.
pub struct Server {
    child: Child,
    router: bool,
    port: u16,
    pub socket: PathBuf,
    pub log: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself. A router is stopped first, so that it ends its own servers.
        if self.router {
            _ = Command::new("kill")
                .arg(self.child.id().to_string())
                .status();
            let begun = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < END_MAX {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
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
    /// The answer to a prompt is this one.
    #[track_caller]
    pub fn answers(&self, prompt: &str, wanted: &[i64], what: &str) {
        let answer = self.ask(prompt, 0);
        assert_eq!(answer, wanted, "{prompt:?} with {what}\n{}", self.said());
    }

    pub fn start(place: &Place, way: Way, model: &Path, more: &[&str]) -> Self {
        Self::start_with(place, way, model, more, &[])
    }

    /// The same with more in its environment.
    pub fn start_with(
        place: &Place,
        way: Way,
        model: &Path,
        more: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        Self::launch(
            place,
            way,
            &[&["-m", &model.display().to_string()], more].concat(),
            environment,
        )
    }

    /// With no model but what the arguments name.
    pub fn launch(
        place: &Place,
        way: Way,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let (socket, log) = (
            place.folder.join(format!("{port}.sock")),
            place.folder.join(format!("{port}.log")),
        );
        let mut command = Command::new(&place.llama_server);
        command
            .args([
                "--host",
                "127.0.0.1",
                "-t",
                "1",
                "--port",
                &port.to_string(),
            ])
            .args(arguments);
        command
            .env("TRANSLORA_SOCKET", &socket)
            .envs(environment.iter().copied());
        if way != Way::Stock {
            command.env("TRANSLORA_FAULT", place.fault);
        }
        match way {
            Way::Stock => {}
            Way::Preload => drop(command.env("LD_PRELOAD", &place.plugin)),
            // A build with linked-in backends reads the variable only when something makes it look
            // for backends.
            Way::Backend => drop(
                command
                    .env("GGML_BACKEND_PATH", &place.plugin)
                    .env("LLAMA_ARG_OVERRIDE_TENSOR", "__x__=CPU"),
            ),
        }
        let out = File::create(&log).expect("the folder is writable");
        let child = command
            .stdout(out.try_clone().expect("a second handle"))
            .stderr(out)
            .spawn()
            .expect("the server starts");
        let mut server = Self {
            child,
            router: !arguments.contains(&"-m"),
            port,
            socket,
            log,
        };
        let begun = Instant::now();
        while server
            .get("/health")
            .is_none_or(|(status, _)| status != 200)
        {
            let ended = server.child.try_wait().expect("the server can be asked");
            assert!(ended.is_none(), "{}", server.said());
            assert!(begun.elapsed() < START_MAX, "{}", server.said());
            std::thread::sleep(Duration::from_millis(100));
        }
        server
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Memory of the process, in bytes.
    pub fn resident(&self) -> u64 {
        let pages = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id()))
            .expect("a living process");
        pages
            .split_whitespace()
            .nth(1)
            .and_then(|pages| pages.parse::<u64>().ok())
            .expect("a number of pages")
            * 4096
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
        Self::connect(port, line, token, "")
            .expect("an answer")
            .read_to_string(&mut text)
            .expect("text");
        text
    }

    fn connect(port: u16, line: &str, token: &str, body: &str) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(SILENCE_MAX)).ok()?;
        let length = body.len();
        write!(
            stream,
            "{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .ok()?;
        Some(stream)
    }

    pub fn get(&self, path: &str) -> Option<(u16, Value)> {
        whole(self.send(&format!("GET {path}"), "")?)
    }

    /// Whatever is answered.
    pub fn answer(&self, path: &str, body: &Value) -> (u16, Value) {
        let sent = self.send(&format!("POST {path}"), &body.to_string());
        sent.and_then(whole)
            .unwrap_or_else(|| panic!("no answer\n{}", self.said()))
    }

    pub fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.answer(path, body);
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

    /// The tokens of an answer, and at each place how much likelier the first token is than the
    /// second.
    pub fn ask_for_gaps(&self, prompt: &str, slot: i32) -> (Vec<i64>, Vec<f64>) {
        let mut body = request(prompt, slot);
        body["cache_prompt"] = false.into();
        body["n_probs"] = 2.into();
        let answer = self.post("/completion", &body);
        let gap = |place: &Value| {
            Some(
                place["top_logprobs"][0]["logprob"].as_f64()?
                    - place["top_logprobs"][1]["logprob"].as_f64()?,
            )
        };
        let places = answer["completion_probabilities"]
            .as_array()
            .unwrap_or_else(|| panic!("no probabilities: {answer}"));
        (
            tokens(&answer),
            places
                .iter()
                .map(|place| gap(place).unwrap_or_else(|| panic!("no two tokens: {place}")))
                .collect(),
        )
    }

    /// How many tokens of a prompt were computed for its answer.
    pub fn evaluated(&self, prompt: &str) -> i64 {
        self.post("/completion", &request(prompt, 0))["timings"]["prompt_n"]
            .as_i64()
            .expect("a count")
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
        let stream = self
            .send("POST /completion", &body.to_string())
            .expect("the server answers");
        Stream {
            lines: BufReader::new(stream),
            tokens: Vec::new(),
        }
    }

    /// One command on the socket.
    pub fn command(&self, command: &Value) -> Value {
        Self::command_at(&self.socket, command)
            .unwrap_or_else(|error| panic!("{error}\n{}", self.said()))
    }

    /// True where a command changes nothing.
    pub fn refuses(&self, command: &Value) -> bool {
        !self.command(command)["error"].is_null()
    }

    /// The generation that is live.
    pub fn generation(&self) -> String {
        let said = self.command(&json!({"do": "list"}));
        let generation = &said["ok"]["adapters"]["data"][0]["live"]["generation"];
        generation.as_str().expect("a generation").into()
    }

    fn command_at(socket: &Path, command: &Value) -> std::io::Result<Value> {
        let mut stream = UnixStream::connect(socket)?;
        writeln!(stream, "{command}")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        serde_json::from_str(&line).map_err(std::io::Error::other)
    }

    /// Load an adapter by the socket of another process.
    pub fn load_at(socket: &Path, adapter: &Path) {
        let said =
            Self::command_at(socket, &json!({"do": "load", "path": adapter})).expect("an answer");
        assert!(said["error"].is_null(), "{said}");
    }

    pub fn load(&self, adapter: &Path) {
        let said = self.command(&json!({"do": "load", "path": adapter}));
        assert!(said["error"].is_null(), "{said}\n{}", self.said());
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
            if let Some(event) = line
                .strip_prefix("data: ")
                .and_then(|text| serde_json::from_str::<Value>(text).ok())
            {
                self.tokens.extend(tokens(&event));
            }
        }
        &self.tokens
    }
}

/// A request for a short answer at temperature 0, in a slot (-1: any).
pub fn request(prompt: &str, slot: i32) -> Value {
    let prompt = format!("<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n");
    json!({"prompt": prompt, "temperature": 0, "n_predict": 24, "return_tokens": true, "id_slot": slot, "cache_prompt": true})
}

/// The tokens of an answer.
pub fn tokens(answer: &Value) -> Vec<i64> {
    answer["tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_i64)
        .collect()
}

fn whole(mut stream: TcpStream) -> Option<(u16, Value)> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    let body = if head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        &unchunked(body)?
    } else {
        body
    };
    Some((status, serde_json::from_str(body).unwrap_or_default()))
}

/// A router passes answers on in pieces, each with its length before it.
fn unchunked(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n")?;
        let length = usize::from_str_radix(length, 16).ok()?;
        if length == 0 {
            return Some(whole);
        }
        whole += rest.get(..length)?;
        body = rest.get(length + 2..)?;
    }
}
