//! The server with the toy engine, over HTTP. A toy sequence remembers which adapters made each of
//! its cells, and says so if they are mixed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use translora::engine::toy::Toy;
use translora::engine::{Engine, OpenOptions, With};
use translora::record::{Cancel, Pair, Prompt, SystemClock};
use translora::serve::{Config, Limits, Sampling, Server};

use self::client::{ask, said, send};
use crate::pipeline::train;
use crate::toy::{World, write_rows};

mod begun;
pub mod client;
mod connections;
mod edges;
mod effects;
mod fields;
mod folder;
mod harvest;
mod lasting;
mod log;
mod openapi;
mod refusals;
mod requests;
mod running;
mod swaps;
mod templates;
mod transfers;

/// A world with two adapters that answer the same questions in different words.
struct Lab {
    world: World,
    prompts: Vec<String>,
    adapters: [PathBuf; 2],
}

impl Lab {
    fn new() -> Self {
        let world = World::new();
        let text = std::fs::read_to_string(&world.train).expect("it was written");
        let rows: Vec<Pair> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("a row"))
            .collect();
        let other: Vec<Pair> = rows
            .iter()
            .map(|row| Pair {
                completion: row.completion.replace('[', "{"),
                ..row.clone()
            })
            .collect();
        write_rows(&world.path("other.jsonl"), &other);
        let first = train(&world, &world.source, &world.train, "ticket.gguf");
        let second = train(
            &world,
            &world.source,
            &world.path("other.jsonl"),
            "second.gguf",
        );
        let prompts = rows[..24]
            .iter()
            .map(|row| row.prompt.text.clone())
            .collect();
        Self {
            prompts,
            adapters: [first, second],
            world,
        }
    }

    /// What the engine itself answers to every prompt: under the base, and under an adapter.
    fn answers(&self, adapter: Option<&Path>) -> Vec<String> {
        let mut model = Toy
            .open(&self.world.source, &OpenOptions::default())
            .expect("a toy");
        let with = adapter.map_or(With::Base, |path| {
            With::Adapter(model.attach(path).expect("it fits"))
        });
        let (cancel, mut progress) = (Cancel::default(), |_: usize, _: usize| {});
        let mut monitor = translora::engine::Monitor {
            cancel: &cancel,
            progress: &mut progress,
        };
        let prompts: Vec<Prompt> = self
            .prompts
            .iter()
            .map(|text| text.as_str().into())
            .collect();
        let answers = model
            .answer(with, &prompts, 100, &mut monitor)
            .expect("it answers");
        answers.into_iter().map(|answer| answer.text).collect()
    }

    /// The first question is answered with this adapter, or by the base.
    #[track_caller]
    fn check(&self, address: SocketAddr, model: &str, adapter: Option<usize>) {
        let right = self.answers(adapter.map(|index| self.adapters[index].as_path()));
        assert_eq!(said(&ask(address, model, &self.prompts[0])), right[0]);
    }

    fn config(&self) -> Config {
        Config {
            model: self.world.source.clone(),
            alias: "base".into(),
            adapters: vec![
                ("ticket".into(), self.adapters[0].clone(), 0.0),
                ("second".into(), self.adapters[1].clone(), 0.0),
            ],
            folder: Some(self.world.folder.clone()),
            resume_transfers: false,
            jobs: translora::jobs::Config::default(),
            hosts: vec!["127.0.0.1".into()],
            port: 0,
            api_keys: Vec::new(),
            admin_keys: Vec::new(),
            inputs: Vec::new(),
            origins: Vec::new(),
            slots: 4,
            context: 0,
            threads: 1,
            repack: true,
            gpu_layers: 0,
            device: None,
            memory: translora::engine::MemoryOptions::default(),
            seed: Some(1),
            sampling: Sampling {
                temperature: 0.0,
                ..Sampling::default()
            },
            tokens_max: None,
            any_model: false,
            chat: translora::engine::ChatOptions::default(),
            force: false,
            harvest: None,
            limits: Limits::default(),
        }
    }
}

/// The lab with a server, which answers as long as it lives.
fn served() -> (Lab, Server, SocketAddr) {
    let lab = Lab::new();
    let (server, address) = serve(lab.config());
    (lab, server, address)
}

/// A server with a changed configuration.
fn serve(config: Config) -> (Server, SocketAddr) {
    let server = Server::start(
        &Toy,
        config,
        Arc::new(SystemClock::default()),
        Arc::new(|_: &str| {}),
    )
    .expect("it starts");
    let address = server.addresses()[0];
    (server, address)
}

/// A stream that ends only when it is left: text outside of a conversation repeats for ever.
fn endless(address: SocketAddr, model: &str) -> client::Stream {
    let body =
        json!({ "model": model, "prompt": "on and", "stream": true, "max_tokens": 1_000_000 });
    send(address, "/v1/completions", &body)
}

/// The pieces of a stream as JSON; the last line must be `[DONE]`.
fn pieces(events: &[String]) -> Vec<Value> {
    let (last, pieces) = events.split_last().expect("a stream has events");
    assert_eq!(last, "[DONE]");
    pieces
        .iter()
        .map(|event| serde_json::from_str(event).expect("events are JSON"))
        .collect()
}
