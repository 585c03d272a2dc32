//! The reference host: one model, several adapters, HTTP.
//!
//! One thread decodes (`slots`), a few answer clients (`http`), and adapters are loaded beside both
//! (`live`). A request runs under the adapter generations it began with, whatever is swapped
//! meanwhile, and what was decoded under one generation is never gone on with under another.
//! Refuses to know: stages, training, files other than the model and its adapters. Called by the
//! program.

use std::path::PathBuf;

use crate::engine::{ChatOptions, MemoryOptions};
use crate::jobs;

mod backend;
mod base;
mod effect;
mod error;
mod folder;
mod grammar;
mod harvest;
mod http;
mod limits;
mod live;
mod meters;
pub mod sampler;
mod server;
mod slots;
mod start;
mod state;
mod text;
mod transfers;
mod worker;

pub use error::ServeError;
pub use harvest::Keeping;
pub use http::{openapi, reference};
pub use limits::Limits;
pub use sampler::Sampling;
pub use server::Server;

/// What to serve, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// The base model, a GGUF file.
    pub model: PathBuf,
    /// What the model is called; its own name if empty.
    pub alias: String,
    /// Adapters that are there from the start: name, file, scale for requests that name no adapter.
    /// One that cannot be loaded ends the start.
    pub adapters: Vec<(String, PathBuf, f32)>,
    /// The folder of adapters: what lies there is loaded at the start, for requests that name it, and
    /// more may be loaded while the server runs. What cannot be loaded is reported and left out.
    /// Transfers put their adapters there. None: neither.
    pub folder: Option<PathBuf>,
    /// Transfers that ended with the server are taken up at its start.
    pub resume_transfers: bool,
    /// How transfers run. There are some where there is a folder for their adapters.
    pub jobs: jobs::Config,
    /// Addresses to listen on.
    pub hosts: Vec<String>,
    /// 0: one that is free.
    pub port: u16,
    /// What clients must send, one of them; none, and no `admin_keys`: anybody is answered.
    pub api_keys: Vec<String>,
    /// What clients must send that exchange adapters or run transfers; none: `api_keys` do for that,
    /// too.
    pub admin_keys: Vec<String>,
    /// Folders whose files a transfer may name; none: those of the adapters, of the model, and of
    /// kept prompts.
    pub inputs: Vec<PathBuf>,
    /// Origins of web pages that may send requests, or `*`; none by default.
    pub origins: Vec<String>,
    /// Requests that run side by side.
    pub slots: usize,
    /// Tokens of context of all slots together; 0: each slot has what the model was trained with.
    pub context: usize,
    /// Threads that decode; 0: all physical cores.
    pub threads: usize,
    /// Weights may be laid out anew for faster products, in memory of their own.
    pub repack: bool,
    /// Layers on the GPU; -1: all.
    pub gpu_layers: i32,
    /// llama.cpp's `--device`; none: all GPUs there are
    pub device: Option<String>,
    /// How the weights lie in memory, and the sizes of a step.
    pub memory: MemoryOptions,
    /// Of requests that give no seed; none: another for each.
    pub seed: Option<u32>,
    /// Of requests that say nothing else; its seed does not count.
    pub sampling: Sampling,
    /// The most tokens of one answer; none: what the context holds.
    pub tokens_max: Option<usize>,
    /// A request that names a model that is not there is answered as if it had named none, as
    /// llama-server does.
    pub any_model: bool,
    /// How conversations become text.
    pub chat: ChatOptions,
    /// Adapters that change no answer are loaded too.
    pub force: bool,
    /// Prompts are kept; none: nothing is.
    pub harvest: Option<Keeping>,
    /// What is refused as too large, too long or too many.
    pub limits: Limits,
}

impl Config {
    /// Whether clients need a key.
    fn has_keys(&self) -> bool {
        !(self.api_keys.is_empty() && self.admin_keys.is_empty())
    }
}

pub use crate::control::Say;
