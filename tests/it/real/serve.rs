//! `translora serve` on the lab's models: whatever runs beside it, and whatever is swapped
//! meanwhile, every answer is the one that a fresh server with that adapter alone gives.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Folder, done, lab, new_base, old_base, rows};
use crate::serve::client::{ask, get, metric, open, post, said, send};
use crate::source::root;

/// A folder of one server's own with the adapters of the lab: a server keeps beside them what is live.
pub(crate) fn own(folder: &Folder, name: &str) -> String {
    std::fs::create_dir(folder.path(name)).expect("writable");
    for adapter in NAMES {
        let file = format!("{adapter}.gguf");
        let copied = std::fs::copy(folder.path(&file), folder.path(&format!("{name}/{file}")));
        copied.expect("writable");
    }
    format!("-m OLD --adapters {name} --alias base")
}

/// Longer than a small transfer takes, on a machine with other work too.
const LONG: Duration = Duration::from_secs(1200);

/// A server process; it is told to end when the test does.
pub(crate) struct Served {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Served {
    pub(crate) fn start(folder: &Folder, line: &str) -> Self {
        Self::start_with(folder, line, &[])
    }

    /// With variables of the environment.
    pub(crate) fn start_with(folder: &Folder, line: &str, variables: &[(&str, &str)]) -> Self {
        let mut command = folder.command(&format!("serve {line} --port 0 --json"));
        let mut child = command
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program runs");
        let mut first = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut first)
            .expect("it says where it listens");
        let said: Value =
            serde_json::from_str(&first).unwrap_or_else(|error| panic!("{error}: {first:?}"));
        let address = said["listening"][0]
            .as_str()
            .and_then(|url| url.strip_prefix("http://")?.parse().ok())
            .expect("an address");
        Self { child, address }
    }

    fn end(&mut self) -> Option<i32> {
        let ended = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status()
            .expect("kill is there");
        assert!(ended.success());
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Adapters for the old base, and what a fresh server with each alone answers.
pub(crate) struct Adapters {
    pub(crate) folder: Folder,
    pub(crate) prompts: Vec<String>,
    /// By the name of the file, and of the base.
    pub(crate) answers: HashMap<String, Vec<String>>,
    /// Those to which any batch gives the same answer, on this processor.
    pub(crate) steady: HashMap<String, Vec<bool>>,
}

/// The likeliest token of every place is at least this much (natural logarithm of the
/// probabilities' ratio) ahead of the second: the last bits of a batch of another shape move it by
/// a hundredth, on any processor.
const GAP_MIN: f64 = 0.1;

/// The answer to a prompt, and how far ahead its closest token was.
fn answer(address: SocketAddr, prompt: &str) -> (String, f64) {
    let turns = json!([{ "role": "user", "content": prompt }]);
    let reply = post(
        address,
        "/v1/chat/completions",
        &json!({ "messages": turns, "temperature": 0, "cache_prompt": false, "max_tokens": 24 }),
    );
    let prompt =
        post(address, "/apply-template", &json!({ "messages": turns })).json()["prompt"].clone();
    // The end of the answer counts too, so it is not ended there.
    let all = json!({ "prompt": prompt, "temperature": 0, "cache_prompt": false, "max_tokens": 25, "ignore_eos": true, "logprobs": 2 });
    let all = post(address, "/v1/completions", &all).json();
    let ahead = |place: &Value| {
        let two: Vec<f64> = place
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(_, logprob)| logprob.as_f64())
            .collect();
        if let [a, b] = two[..] {
            (a - b).abs()
        } else {
            0.0
        }
    };
    let tokens = reply.json()["usage"]["completion_tokens"]
        .as_u64()
        .expect("a count") as usize;
    let places = all["choices"][0]["logprobs"]["top_logprobs"]
        .as_array()
        .expect("they were asked for");
    assert!(places.len() >= tokens, "{all}");
    (
        said(&reply),
        places
            .iter()
            .take(tokens + 1)
            .map(ahead)
            .fold(f64::INFINITY, f64::min),
    )
}

impl Adapters {
    /// A prompt to which this adapter's answer can be compared, and the answer.
    pub(crate) fn sure(&self, name: &str) -> (&str, &str) {
        let at = self.steady[name]
            .iter()
            .position(|steady| *steady)
            .expect("some are");
        (&self.prompts[at], &self.answers[name][at])
    }
}

const NAMES: [&str; 3] = ["ticket", "other", "date_iso"];

pub(crate) fn adapters() -> &'static Adapters {
    static ADAPTERS: OnceLock<Adapters> = OnceLock::new();
    ADAPTERS.get_or_init(|| {
        let folder = Folder::new();
        std::fs::copy(&lab().lora, folder.path("ticket.gguf")).expect("the folder is writable");
        // Answers to the same questions, told apart from the first adapter's by their brackets.
        folder.write(
            "other.jsonl",
            rows("train.jsonl", 200)
                .replace('[', "<")
                .replace(']', ">")
                .as_bytes(),
        );
        let dates =
            std::fs::read_to_string(root().join("tests/fixtures/lab/tasks/date_iso/train.jsonl"))
                .expect("in the repository");
        let dates: Vec<&str> = dates.lines().take(200).collect();
        folder.write("date_iso.jsonl", (dates.join("\n") + "\n").as_bytes());
        for name in ["other", "date_iso"] {
            let base = old_base();
            let line = format!(
                "train -m {} --data {name}.jsonl --out {name}.gguf --epochs 5 --lr 4e-3 --rank 8",
                base.display()
            );
            done(&folder.run(&line));
        }
        let of = |line: &str| {
            serde_json::from_str::<Value>(line).expect("a row")["prompt"]
                .as_str()
                .expect("a prompt")
                .to_owned()
        };
        let mut prompts: Vec<String> = rows("eval.jsonl", 12).lines().map(of).collect();
        prompts.extend(dates[..6].iter().map(|line| of(line)));
        let (mut answers, mut steady) = (HashMap::new(), HashMap::new());
        for name in NAMES.iter().copied().chain(["base"]) {
            let lora = if name == "base" {
                String::new()
            } else {
                format!("--lora {name}.gguf")
            };
            let mut served = Served::start(&folder, &format!("-m OLD {lora} --alias base -np 1"));
            let (texts, gaps): (Vec<String>, Vec<f64>) = prompts
                .iter()
                .map(|prompt| answer(served.address, prompt))
                .unzip();
            steady.insert(
                name.to_owned(),
                gaps.iter().map(|gap| *gap > GAP_MIN).collect(),
            );
            answers.insert(name.to_owned(), texts);
            assert_eq!(served.end(), Some(0));
        }
        let all: Vec<bool> = steady.values().flatten().copied().collect();
        assert!(
            all.iter().filter(|steady| **steady).count() * 3 > all.len(),
            "too few can be compared: {steady:?}"
        );
        Adapters {
            folder,
            prompts,
            answers,
            steady,
        }
    })
}

pub(crate) fn short(address: SocketAddr, model: &str, prompt: &str) -> crate::serve::client::Reply {
    let body = json!({ "model": model, "temperature": 0, "max_tokens": 24, "messages": [{ "role": "user", "content": prompt }] });
    post(address, "/v1/chat/completions", &body)
}

#[test]
fn mixed_adapters_side_by_side_answer_as_each_does_alone() {
    let lab = adapters();
    assert!(
        NAMES
            .windows(2)
            .all(|pair| lab.answers[pair[0]] != lab.answers[pair[1]])
    );
    let served = Served::start(&lab.folder, &format!("{} -np 4", own(&lab.folder, "mixed")));
    let models = ["base", "ticket", "other", "date_iso"];
    thread::scope(|scope| {
        for client in 0..8 {
            let address = served.address;
            scope.spawn(move || {
                for (i, prompt) in lab.prompts.iter().enumerate() {
                    let model = models[(client + i) % models.len()];
                    let said = said(&short(address, model, prompt));
                    assert!(
                        !lab.steady[model][i] || said == lab.answers[model][i],
                        "{model}: {prompt}: {said:?}"
                    );
                }
            });
        }
    });
    assert_eq!(
        metric(served.address, "translora:requests_failed_total"),
        0.0
    );
    assert!(metric(served.address, "translora:prompt_tokens_cached_total") > 0.0);
}

#[test]
fn swaps_under_load_leave_no_mixed_answer() {
    const SWAPS: usize = 100;
    let lab = adapters();
    let served = Served::start(&lab.folder, &format!("{} -np 4", own(&lab.folder, "swaps")));
    let address = served.address;
    let first = short(address, "ticket", &lab.prompts[0])
        .generation()
        .to_owned();
    let mut files = HashMap::from([(first, "ticket")]);
    let heard: Mutex<Vec<(String, usize, String)>> = Mutex::default();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for client in 0..8 {
            let (heard, over) = (&heard, &over);
            scope.spawn(move || {
                let mut i = client;
                while !over.load(Ordering::SeqCst) {
                    let at = i % lab.prompts.len();
                    let reply = short(address, "ticket", &lab.prompts[at]);
                    heard
                        .lock()
                        .unwrap()
                        .push((reply.generation().to_owned(), at, said(&reply)));
                    i += 1;
                }
            });
        }
        for swap in 0..SWAPS {
            let file = ["other", "ticket"][swap % 2];
            let body = json!({ "lora_name": "ticket", "lora_path": format!("{file}.gguf"), "load_inplace": true });
            let reply = match swap % 5 {
                4 => post(address, "/v1/adapters/ticket/rollback", &json!({})),
                _ => post(address, "/v1/load_lora_adapter", &body),
            };
            assert_eq!(reply.status, 200, "{reply:?}");
            files.entry(reply.generation().to_owned()).or_insert(file);
            // Some answers under each, so that swaps fall into them.
            let (began, before) = (Instant::now(), heard.lock().unwrap().len());
            while heard.lock().unwrap().len() < before + 4 && began.elapsed() < LONG {
                thread::sleep(Duration::from_millis(1));
            }
        }
        over.store(true, Ordering::SeqCst);
    });
    let heard = heard.into_inner().unwrap();
    for (generation, at, said) in &heard {
        let file = files[generation];
        let right = !lab.steady[file][*at] || said == &lab.answers[file][*at];
        assert!(
            right,
            "generation {generation}, {file}: {}: {said:?}",
            lab.prompts[*at]
        );
    }
    assert!(heard.len() >= 4 * SWAPS, "{} answers", heard.len());
    assert_eq!(metric(address, "translora:requests_failed_total"), 0.0);
}

/// A text of 200 tokens has near ties, which the last bits of a batch of another shape decide. So
/// what is compared is what the model thought of each token up to there: between runs of one
/// adapter that differs by a hundredth of a nat.
#[test]
fn a_stream_goes_on_under_its_adapter_while_it_is_replaced() {
    const NOISE: f64 = 0.05;
    let lab = adapters();
    let served = Served::start(
        &lab.folder,
        &format!("{} -np 2", own(&lab.folder, "stream")),
    );
    let turns = json!({ "messages": [{ "role": "user", "content": lab.prompts[0] }] });
    let prompt = post(served.address, "/apply-template", &turns).json()["prompt"].clone();
    let ask = |stream: bool| {
        let mut body = json!({ "model": "ticket", "prompt": prompt, "temperature": 0, "max_tokens": 200, "ignore_eos": true });
        (body["stream"], body["logprobs"], body["cache_prompt"]) =
            (stream.into(), 2.into(), false.into());
        send(served.address, "/v1/completions", &body)
    };
    let whole = logprobs(&ask(false).whole().json());
    let mut stream = ask(true);
    let mut events = stream.events().expect("it has begun");
    let body = json!({ "lora_name": "ticket", "lora_path": "date_iso.gguf", "load_inplace": true });
    assert_eq!(
        post(served.address, "/v1/load_lora_adapter", &body).status,
        200
    );
    let (question, right) = lab.sure("date_iso");
    assert_eq!(said(&short(served.address, "ticket", question)), right);
    events.extend(stream.rest());
    let pieces = events
        .iter()
        .filter(|event| *event != "[DONE]")
        .map(|event| serde_json::from_str::<Value>(event).expect("JSON"));
    let streamed: Vec<(String, f64)> = pieces.flat_map(|piece| logprobs(&piece)).collect();
    let alike = whole
        .iter()
        .zip(&streamed)
        .take_while(|(a, b)| a.0 == b.0)
        .count();
    // The first token that differs counts too: at a tie both were as likely.
    let off = whole
        .iter()
        .zip(&streamed)
        .take(alike + 1)
        .map(|(a, b)| (a.1 - b.1).abs())
        .fold(0.0, f64::max);
    assert!(
        streamed.len() == 200,
        "{alike} tokens alike, {off} nats apart"
    );
    assert!(alike >= 10, "{alike} tokens alike, {off} nats apart");
    assert!(off < NOISE, "{alike} tokens alike, {off} nats apart");
    let after = logprobs(&ask(false).whole().json());
    assert_ne!(after[0].0, whole[0].0, "the adapters cannot be told apart");
}

/// The tokens of a completion and what the model thought of them.
pub(crate) fn logprobs(object: &Value) -> Vec<(String, f64)> {
    let logprobs = &object["choices"][0]["logprobs"];
    let tokens = logprobs["tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|token| token.as_str().expect("text").to_owned());
    tokens
        .zip(
            logprobs["token_logprobs"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_f64),
        )
        .collect()
}

#[test]
fn a_bad_adapter_is_refused_while_others_answer() {
    let lab = adapters();
    let whole = std::fs::read(lab.folder.path("ticket.gguf")).expect("it was made");
    let folder = Folder::new();
    std::fs::copy(lab.folder.path("ticket.gguf"), folder.path("ticket.gguf")).expect("writable");
    let served = Served::start(&folder, "-m OLD --adapters . --alias base -np 2");
    let (question, right) = lab.sure("ticket");
    folder.write("cut.gguf", &whole[..whole.len() / 2]);
    folder.write("text.gguf", b"GGUF?");
    std::fs::copy(new_base(), folder.path("base.gguf")).expect("writable");
    for file in ["cut.gguf", "text.gguf", "base.gguf"] {
        let body = json!({ "lora_name": "ticket", "lora_path": file, "load_inplace": true });
        let reply = post(served.address, "/v1/load_lora_adapter", &body);
        assert_eq!(reply.status, 400, "{file}: {reply:?}");
        assert!(reply.error().contains(file), "{}", reply.error());
        assert_eq!(said(&short(served.address, "ticket", question)), right);
    }
    let long = ask(
        served.address,
        "ticket",
        &"the spoon did not arrive ".repeat(400),
    );
    assert_eq!(long.status, 400);
    assert_eq!(long.json()["error"]["code"], "context_length_exceeded");
    let huge = format!("{{\"prompt\": \"{}\"}}", "x".repeat(10 << 20));
    assert_eq!(
        open(served.address, "POST", "/completion", &[], huge.as_bytes())
            .whole()
            .status,
        413
    );
    assert_eq!(get(served.address, "/health").status, 200);
}

/// Encoding markup takes longer than in proportion to its length. Others are answered meanwhile.
#[test]
fn a_long_text_is_encoded_beside_other_requests() {
    let served = Served::start(&Folder::new(), "-m OLD --alias base");
    let body = json!({ "content": "<|im_start|>".repeat(70_000) }).to_string();
    let head = format!(
        "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let streams = [(); 3].map(|()| {
        let mut stream = TcpStream::connect(served.address).expect("it listens");
        stream.write_all(head.as_bytes()).expect("it reads");
        stream.write_all(body.as_bytes()).expect("it reads");
        stream
    });
    assert_eq!(get(served.address, "/health").status, 200);
    assert_eq!(short(served.address, "base", "a").status, 200);
    for stream in streams {
        stream.set_nonblocking(true).expect("a socket");
        let answer = stream.peek(&mut [0]).map_err(|error| error.kind());
        assert_eq!(answer, Err(ErrorKind::WouldBlock), "it took no time");
    }
    // As a prompt it is refused before it is encoded.
    let turns = json!([{ "role": "user", "content": "<|im_start|>".repeat(70_000) }]);
    let reply = post(
        served.address,
        "/v1/chat/completions",
        &json!({ "messages": turns }),
    );
    assert_eq!(reply.status, 400, "{reply:?}");
    assert!(reply.error().contains("bytes, too many for"), "{reply:?}");
}

/// A whole transfer, asked for over HTTP, while eight clients are served: it goes live, and
/// nobody's answer fails.
#[test]
fn a_transfer_over_http_goes_live_under_load() {
    let folder = Folder::with(&[("seeds.jsonl", 5)]);
    std::fs::create_dir(folder.path("adapters")).expect("writable");
    let line = "-m NEW --adapters adapters --inputs / --alias base -np 4";
    let mut served = Served::start(&folder, line);
    let address = served.address;
    let path = |path: PathBuf| path.to_str().expect("UTF-8").to_owned();
    let request = json!({
        "name": "ticket", "source": path(old_base()), "source_lora": path(lab().lora.clone()), "kit": path(lab().kit.clone()),
        "samples": 200, "rank": 8, "lr": 4e-3, "epochs": 4, "threads": 1,
    });
    let over = AtomicBool::new(false);
    let status = thread::scope(|scope| {
        for _ in 0..8 {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    assert_eq!(
                        short(address, "base", "ticket from Ann: the key broke").status,
                        200
                    );
                    thread::sleep(Duration::from_millis(50));
                }
            });
        }
        let reply = post(address, "/v1/transfers", &request);
        let status = if reply.status == 202 {
            wait(address, &reply.json()["id"])
        } else {
            reply.json()
        };
        over.store(true, Ordering::SeqCst);
        status
    });
    assert_eq!(status["state"], "done", "{status}");
    assert_eq!(status["verdict"], "accept", "{status}");
    assert_eq!(status["generation"], "1", "{status}");
    let reply = short(address, "ticket", "ticket from Ann: the key broke");
    assert_eq!((reply.status, reply.generation()), (200, "1"));
    assert!(folder.path("adapters/ticket@1.gguf").exists());
    assert_eq!(metric(address, "translora:requests_failed_total"), 0.0);
    assert_eq!(served.end(), Some(0));
    // It is still there after a restart.
    let served = Served::start(&folder, line);
    assert_eq!(
        said(&short(
            served.address,
            "ticket",
            "ticket from Ann: the key broke"
        )),
        said(&reply)
    );
}

fn wait(address: SocketAddr, id: &Value) -> Value {
    let began = Instant::now();
    loop {
        let status = get(address, &format!("/v1/transfers/{id}")).json();
        if !status["generation"].is_null()
            || !status["not_live"].is_null()
            || began.elapsed() > LONG
        {
            return status;
        }
        thread::sleep(Duration::from_millis(100));
    }
}
