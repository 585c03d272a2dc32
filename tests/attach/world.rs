//! What the cases share: where things are, and what stock servers answer.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::models::Set;
use crate::server::{Place, Server, Way};

/// A prompt is steady where the first two tokens are further apart than this at every place of the
/// answer (natural logarithm of the ratio of their probabilities). Nearer ones change places with
/// the batch they are decoded in, with this module or without.
pub const GAP_MIN: f64 = 0.1;
/// Rows of each task's file that prompts are taken from.
const ROWS: usize = 24;
/// Of these, how many every case may use.
const FEW: usize = 4;

pub struct World {
    pub place: Place,
    pub set: Set,
    /// A few prompts of each task, in turn.
    pub prompts: Vec<String>,
    /// More of them.
    pub many: Vec<String>,
    stock: HashMap<PathBuf, Server>,
    known: HashMap<(PathBuf, String, usize), Vec<i64>>,
    gaps: HashMap<(PathBuf, String), f64>,
}

impl Drop for World {
    fn drop(&mut self) {
        // Servers write their logs there until they end.
        self.stock.clear();
        _ = std::fs::remove_dir_all(&self.place.folder);
    }
}

impl World {
    /// A stock server that was started with this adapter (none: without one).
    pub fn stock(&mut self, set: &Set, adapter: Option<&Path>) -> &Server {
        let place = &self.place;
        self.stock
            .entry(adapter.unwrap_or(&set.base).to_owned())
            .or_insert_with(|| {
                let lora = adapter.map(|path| path.display().to_string());
                let more: Vec<&str> = lora
                    .iter()
                    .flat_map(|path| ["--lora", path])
                    .chain(["-c", "2048", "-np", "1", "--cache-ram", "0"])
                    .collect();
                Server::start(place, Way::Stock, &set.base, &more)
            })
    }

    /// What a stock server that was started with this adapter (none: without one) answers; `count`
    /// tokens of a stream, or a short answer where it is 0.
    pub fn reference(
        &mut self,
        set: &Set,
        adapter: Option<&Path>,
        prompt: &str,
        count: usize,
    ) -> Vec<i64> {
        let key = (
            adapter.unwrap_or(&set.base).to_owned(),
            prompt.to_owned(),
            count,
        );
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let server = self.stock(set, adapter);
        let answer = if count > 0 {
            server.stream_anew(prompt, count).read(count).to_vec()
        } else {
            server.ask_anew(prompt)
        };
        self.known.insert(key, answer.clone());
        answer
    }

    /// The models and adapters.
    pub fn same_set(&self) -> Set {
        Set {
            base: self.set.base.clone(),
            adapters: self.set.adapters.clone(),
        }
    }

    /// The smallest gap in the answer to a prompt: how near it comes to another answer.
    pub fn gap(&mut self, adapter: Option<&Path>, prompt: &str) -> f64 {
        let key = (
            adapter.unwrap_or(&self.set.base).to_owned(),
            prompt.to_owned(),
        );
        if let Some(known) = self.gaps.get(&key) {
            return *known;
        }
        let set = self.same_set();
        let (_, gaps) = self.stock(&set, adapter).ask_for_gaps(prompt, 0);
        let least = gaps.into_iter().fold(f64::INFINITY, f64::min);
        self.gaps.insert(key, least);
        least
    }

    /// A prompt whose answer with adapter `to` is wrong where the KV of adapter `from` is used for
    /// it. Unmodified servers do just that when the scales of their adapters are changed, so one of
    /// them is asked.
    pub fn telling(&mut self, from: usize, to: usize) -> String {
        let [a, b] = [from, to].map(|i| self.set.adapters[i].display().to_string());
        let two = ["-np", "1", "--lora", &a, "--lora", &b];
        let stale = self.start(Way::Stock, &two);
        let scales = |first: f32| {
            stale.post(
                "/lora-adapters",
                &json!([{"id": 0, "scale": first}, {"id": 1, "scale": 1.0 - first}]),
            )
        };
        for prompt in self.many.clone() {
            scales(1.0);
            stale.ask_anew(&prompt);
            scales(0.0);
            if stale.ask(&prompt, 0) != self.short(Some(to), &prompt)
                && self.gap(Some(&self.adapter(to)), &prompt) > GAP_MIN
            {
                return prompt;
            }
        }
        panic!("no prompt shows whether KV of adapter {from} is used for adapter {to}")
    }

    pub fn short(&mut self, adapter: Option<usize>, prompt: &str) -> Vec<i64> {
        let set = self.same_set();
        self.reference(&set, adapter.map(|i| set.adapters[i].as_path()), prompt, 0)
    }

    /// The same for an adapter by its file.
    pub fn short_of(&mut self, adapter: &Path, prompt: &str) -> Vec<i64> {
        let set = self.same_set();
        self.reference(&set, Some(adapter), prompt, 0)
    }

    /// The adapter of the old base, which a transfer begins with.
    pub fn source_adapter(&self) -> PathBuf {
        self.set.adapters[0].with_file_name("source.gguf")
    }

    pub fn adapter(&self, i: usize) -> PathBuf {
        self.set.adapters[i].clone()
    }

    pub fn start(&self, way: Way, more: &[&str]) -> Server {
        let more = [&["-c", "2048"], more].concat();
        Server::start(&self.place, way, &self.set.base, &more)
    }

    /// A server of another base, with one slot.
    pub fn start_of(&self, way: Way, set: &Set, more: &[&str]) -> Server {
        let more = [&["-c", "2048", "-np", "1"], more].concat();
        Server::start(&self.place, way, &set.base, &more)
    }

    /// The answer now is that of a server started with this adapter.
    pub fn check(&mut self, server: &Server, adapter: Option<usize>, prompt: usize) {
        let prompt = self.prompts[prompt].clone();
        self.check_prompt(server, adapter, &prompt);
    }

    /// The same for a prompt that is none of the few.
    pub fn check_prompt(&mut self, server: &Server, adapter: Option<usize>, prompt: &str) {
        let wanted = self.short(adapter, prompt);
        server.answers(prompt, &wanted, &format!("adapter {adapter:?}"));
    }
}

/// Find everything; for the server that is tested.
pub fn world(llama_server: &Path) -> World {
    let program = Path::new(env!("CARGO_BIN_EXE_translora"));
    let beside = program.parent().expect("a program lies in a folder");
    let built = [
        beside.join("deps/libtranslora.so"),
        beside.join("libtranslora.so"),
    ]
    .into_iter()
    .filter(|path| path.exists());
    let built = built.max_by_key(|path| path.metadata().and_then(|m| m.modified()).ok());
    let plugin = std::env::var_os("TRANSLORA_FAULTS")
        .map(PathBuf::from)
        .or(built)
        .expect("cargo builds the cdylib with the tests");
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("attach-{}", std::process::id()));
    _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the test folder is writable");
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lab");
    let adapters = beside
        .parent()
        .expect("debug lies in a folder")
        .join("attach");
    let tasks = ["ticket", "date_iso", "boolean_expressions"];
    let adapters: Vec<PathBuf> = tasks
        .iter()
        .map(|task| adapters.join(format!("{task}.gguf")))
        .collect();
    for adapter in &adapters {
        assert!(
            adapter.exists(),
            "{} is missing; scripts/check/attach makes it",
            adapter.display()
        );
    }
    let rows = |count: usize| -> Vec<String> {
        tasks
            .iter()
            .flat_map(|task| prompts(&lab.join("tasks").join(task).join("eval.jsonl"), count))
            .collect()
    };
    let place = Place {
        llama_server: llama_server.into(),
        plugin,
        folder,
        fault: "",
    };
    World {
        place,
        set: Set {
            base: lab.join("branch.f16.gguf"),
            adapters,
        },
        prompts: rows(FEW),
        many: rows(ROWS),
        stock: HashMap::new(),
        known: HashMap::new(),
        gaps: HashMap::new(),
    }
}

/// The first prompts of a task.
fn prompts(rows: &Path, count: usize) -> Vec<String> {
    let text = std::fs::read_to_string(rows).expect("a task of the lab");
    let row = |line: &str| {
        serde_json::from_str::<serde_json::Value>(line).ok()?["prompt"]
            .as_str()
            .map(str::to_owned)
    };
    text.lines().take(count).filter_map(row).collect()
}
