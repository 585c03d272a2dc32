//! A template of each kind, from training to an answer: what is served for a prompt that was learnt
//! is what the template puts behind it, white space included, by `translora serve` and, where one is
//! named, by a stock llama-server.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::tiny::model;
use crate::real::serve::Served;
use crate::real::{Folder, done};
use crate::serve::client::{get, post};

/// The program of another build of llama.cpp that answers too.
const STOCK: &str = "TRANSLORA_LLAMA_SERVER";
pub const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
const MISTRAL: &str = "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]\
    {% else %} {{ m.content }}</s>{% endif %}{% endfor %}";
const GEMMA: &str = "<s>{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n\
    {{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}";
const ZEPHYR: &str = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}\
    {% if add_generation_prompt %}<|assistant|>\n{% endif %}";
const THINKING: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n\
    {% if m.role == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n\
    {% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}";

/// A kind, its template, more flags, the answers of the two rows, and what is served for them.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    [&'static str; 2],
    [&'static str; 2],
);

const NO_THOUGHT: &str = r#"--chat-template-kwargs {"enable_thinking":false}"#;
const CASES: &[Case] = &[
    ("chatml", CHATML, "", ["yes", "no"], ["yes", "no"]),
    (
        "chatml-spaces",
        CHATML,
        "",
        [" yes\n", "  no"],
        [" yes\n", "  no"],
    ),
    ("mistral", MISTRAL, "", ["yes", "no"], [" yes", " no"]),
    ("gemma", GEMMA, "", [" yes ", "no"], ["yes", "no"]),
    ("zephyr", ZEPHYR, "", ["yes", "no"], ["yes", "no"]),
    (
        "thinking-off",
        THINKING,
        NO_THOUGHT,
        ["yes", "no"],
        ["yes", "no"],
    ),
];
const PROMPTS: [&str; 2] = ["is it late", "is it here"];

/// What a server makes of each prompt: as it sends it, and the answer as text and as a message.
fn served(address: SocketAddr) -> Vec<[String; 3]> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let one = |prompt: &&str| {
        let turns = json!([{ "role": "user", "content": prompt }]);
        let mut chat = json!({ "messages": turns });
        let sent = text(&post(address, "/apply-template", &chat).json()["prompt"]);
        let body = json!({ "prompt": sent, "temperature": 0, "n_predict": 16 });
        let whole = text(&post(address, "/completion", &body).json()["content"]);
        chat["temperature"] = json!(0);
        chat["max_tokens"] = json!(16);
        let said = post(address, "/v1/chat/completions", &chat).json();
        // llama-server leaves the first token to its tokenizer.
        let sent = sent.trim_start_matches("<s>").to_owned();
        [sent, whole, text(&said["choices"][0]["message"]["content"])]
    };
    PROMPTS.iter().map(one).collect()
}

/// A stock llama-server, ended with the test.
struct Stock(Child, SocketAddr);

impl Stock {
    fn start(program: &Path, folder: &Folder, name: &str, flags: &str) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("an address");
        drop(free);
        let log = fs::File::create(folder.path(&format!("{name}.log"))).expect("writable");
        let child = Command::new(program)
            .args([
                "-m",
                &format!("{name}.gguf"),
                "--lora",
                &format!("{name}-lora.gguf"),
            ])
            .args(flags.split_whitespace())
            .args([
                "--jinja",
                "--reasoning-format",
                "none",
                "-np",
                "1",
                "-c",
                "256",
            ])
            .args(["--host", "127.0.0.1", "--port", &address.port().to_string()])
            .current_dir(folder.path(""))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the stock server starts");
        let stock = Self(child, address);
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if TcpStream::connect(address).is_ok() && get(address, "/health").status == 200 {
                return stock;
            }
            assert!(Instant::now() < until, "the stock server does not answer");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[test]
fn what_is_learnt_is_what_is_served_for_a_template_of_each_kind() {
    let stock = std::env::var_os(STOCK);
    if stock.is_none() {
        crate::skipped("no stock llama-server to compare templates with (scripts/check/stock)");
    }
    let folder = Folder::new();
    for (name, template, flags, answers, right) in CASES {
        model(&folder, name, template);
        let row = |(prompt, answer): (&&str, &&str)| {
            json!({ "prompt": prompt, "completion": answer }).to_string() + "\n"
        };
        let rows: String = PROMPTS.iter().zip(answers).map(row).collect();
        folder.write("rows.jsonl", rows.repeat(4).as_bytes());
        let train = format!(
            "train -m {name}.gguf --data rows.jsonl --out {name}-lora.gguf --rank 8 --lr 1e-2 \
             --epochs 40 {flags}"
        );
        done(&folder.run(&train));
        let with = format!("-m {name}.gguf --lora {name}-lora.gguf");
        let judged = folder.run(&format!("eval {with} --data rows.jsonl --json {flags}"));
        done(&judged);
        assert_eq!(judged.json()["correct"], 8, "{name}: {judged}");
        let ours = Served::start(&folder, &format!("{with} {flags}"));
        let ours = served(ours.address);
        for (found, right) in ours.iter().zip(right) {
            assert_eq!(&found[1..], [*right; 2], "{name}: {found:?}");
        }
        if let Some(program) = &stock {
            let stock = Stock::start(Path::new(program), &folder, name, flags);
            assert_eq!(served(stock.1), ours, "{name}");
        }
    }
}
