use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use translora::engine::{ChatOptions, MemoryOptions};
use translora::fetch::Wanted;
use translora::jobs;
use translora::record::{Blame, SystemClock};
use translora::serve::{Config, Keeping, Limits, Sampling, Server, sampler};

use crate::args::{between, gpu_layers, keys_of, template_arguments};
use crate::failure::{Failure, InFlags};
use crate::kept::Kept;
use crate::log::Log;
use crate::progress::Verbosity;
use crate::{Outcome, files, job, log, out};

/// Serve a model with its adapters over HTTP, and replace adapters while it runs
///
/// OpenAI's endpoints, those of llama-server that concern text, and vLLM's for adapters. Every
/// adapter is a model of its own; a request is answered to its end by the adapters it began with,
/// and says by which (`x-translora-generation`).
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  translora serve -m base.gguf --adapters adapters/ --port 8080 -np 4"
)]
pub struct Serve {
    /// Base model (GGUF)
    #[arg(short, long, value_name = "M.gguf")]
    model: PathBuf,

    /// Adapter (GGUF) for requests that name no adapter; several with commas between, or by several
    /// flags. It is a model too, under the name of its file
    #[arg(long, value_name = "L.gguf")]
    lora: Vec<PathBuf>,

    /// As --lora, with how strongly the adapter works: L.gguf:0.5; several with commas between
    #[arg(long, value_name = "L.gguf:X")]
    lora_scaled: Vec<String>,

    /// Switch the adapters of --lora off, for requests that name no adapter
    #[arg(long)]
    lora_init_without_apply: bool,

    /// Folder of adapters, each a model under the name of its file; more may be put there and
    /// loaded while the server runs. Transfers (`/v1/transfers`) put theirs there
    #[arg(long, value_name = "DIR")]
    adapters: Option<PathBuf>,

    /// Take up the transfers that ended with the server before
    #[arg(long, requires = "adapters")]
    resume_transfers: bool,

    /// Load adapters that change no answer or were made for another base, too. Without it such a one of --lora ends the start, one in
    /// the folder is left out, and a request to load one is refused unless it says `force`
    #[arg(long)]
    force: bool,

    /// What the base is called; its own name if left out
    #[arg(
        short,
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    alias: String,

    /// Answer requests for a model that is not there, as if they had named none
    #[arg(long)]
    any_model: bool,

    /// Address to listen on; several with commas between
    #[arg(
        long,
        value_name = "H",
        default_value = "127.0.0.1",
        help_heading = "Network"
    )]
    host: String,

    /// Port to listen on; 0 takes a free one
    #[arg(
        long,
        value_name = "P",
        default_value_t = 8080,
        help_heading = "Network"
    )]
    port: u16,

    /// Only who sends this key is answered (or set TRANSLORA_API_KEY, which other users of the
    /// machine cannot see); several with commas between, or by several flags. Without --admin-key
    /// it is for everything
    #[arg(
        long,
        value_name = "K",
        value_delimiter = ',',
        help_heading = "Network"
    )]
    api_key: Vec<String>,

    /// File that holds keys, one a line; a line that begins with `#` is none. `manage KEY` is one as
    /// of --admin-key
    #[arg(long, value_name = "FILE", help_heading = "Network")]
    api_key_file: Option<PathBuf>,

    /// Key for exchanges of adapters and for transfers (or set TRANSLORA_ADMIN_KEY); those of
    /// --api-key are then for requests to models alone
    #[arg(
        long,
        value_name = "K",
        value_delimiter = ',',
        help_heading = "Network"
    )]
    admin_key: Vec<String>,

    /// Folder whose files a transfer over HTTP may name; several by several flags. Left out, those
    /// of --adapters, of the model, and of --harvest
    #[arg(long, value_name = "DIR", help_heading = "Network")]
    inputs: Vec<PathBuf>,

    /// Origin whose web pages may send requests, `localhost` for those of this machine, or `*`;
    /// several with commas between, or by several flags. None if left out
    #[arg(
        long,
        visible_alias = "cors-origins",
        value_name = "ORIGIN",
        value_delimiter = ',',
        help_heading = "Network"
    )]
    cors_origin: Vec<String>,

    #[command(flatten)]
    conversations: Conversations,

    #[command(flatten)]
    harvest: Harvest,

    #[command(flatten)]
    log: Log,

    /// Requests that run side by side (also written -np)
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = between::<1, 64>, help_heading = "Machine")]
    parallel: usize,

    /// Tokens of context of all of them together; 0 gives each what the model was made for, 4096 at
    /// most
    #[arg(short = 'c', long = "ctx-size", value_name = "N", default_value_t = 0, value_parser = between::<0, 16_777_216>, help_heading = "Machine")]
    context: usize,

    /// Processor threads; 0 takes all physical cores
    #[arg(short = 't', long, value_name = "N", default_value_t = 0, value_parser = between::<0, 1024>, help_heading = "Machine")]
    threads: usize,

    /// Leave the weights as they lie in the file, mapped, instead of laying some types out anew for
    /// faster products in memory of their own
    #[arg(long, help_heading = "Machine")]
    no_repack: bool,

    /// Layers kept on the GPU (also written -ngl): a number, or `all`
    #[arg(long, visible_alias = "n-gpu-layers", value_name = "N", default_value = "all", value_parser = gpu_layers, allow_negative_numbers = true, help_heading = "Machine")]
    gpu_layers: i32,

    /// Devices to keep the model on, by name, separated by commas; none: the CPU
    #[arg(long, value_name = "NAMES", help_heading = "Machine")]
    device: Option<String>,

    /// Read the weights into memory instead of mapping the file
    #[arg(long, help_heading = "Machine")]
    no_mmap: bool,

    /// Keep the weights in memory, as far as the system allows
    #[arg(long, help_heading = "Machine")]
    mlock: bool,

    /// Tokens of one step of the model at most
    #[arg(short = 'b', long = "batch-size", value_name = "N", default_value_t = 512, value_parser = between::<32, 65_536>, help_heading = "Machine")]
    batch: usize,

    /// Tokens that are computed together at most; more take more memory (also written -ub)
    #[arg(long = "ubatch-size", value_name = "N", default_value_t = 512, value_parser = between::<32, 65_536>, help_heading = "Machine")]
    ubatch: usize,

    #[command(flatten)]
    answers: Answers,

    /// The most tokens of one answer; what the context holds if left out
    #[arg(short = 'n', long, visible_alias = "n-predict", value_name = "N", value_parser = between::<1, 16_777_216>, help_heading = "Answers")]
    predict: Option<usize>,
}

/// Whether prompts are kept.
#[derive(Args, Debug)]
struct Harvest {
    #[command(flatten)]
    kept: Kept,

    /// Keep the answers, too
    #[arg(long, requires = "harvest", help_heading = "Kept prompts")]
    harvest_answers: bool,
}

impl From<Harvest> for Option<Keeping> {
    fn from(asked: Harvest) -> Self {
        let (folder, bounds) = asked.kept.bounds()?;
        Some(Keeping {
            folder,
            bounds,
            answers: asked.harvest_answers,
        })
    }
}

/// How the tokens of requests are drawn that say nothing else.
#[derive(Args, Debug)]
struct Answers {
    /// Temperature of requests that give none
    #[arg(long, value_name = "X", default_value_t = 0.8, value_parser = temperature, help_heading = "Answers")]
    temp: f32,

    /// Only so many of the likeliest tokens; 0: all
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = between::<0, 2_147_483_647>, help_heading = "Answers")]
    top_k: usize,

    /// The likeliest tokens with this probability together
    #[arg(long, value_name = "X", default_value_t = 0.95, value_parser = share, help_heading = "Answers")]
    top_p: f32,

    /// Least probability, as a share of the likeliest token's
    #[arg(long, value_name = "X", default_value_t = 0.05, value_parser = share, help_heading = "Answers")]
    min_p: f32,

    /// Lowers the logits of tokens that are there already; 1: not at all
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = repeat_penalty, help_heading = "Answers")]
    repeat_penalty: f32,

    /// Tokens that the penalties look back at; -1: all
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(i64).range(-1..=16_777_216), allow_negative_numbers = true, help_heading = "Answers")]
    repeat_last_n: i64,

    /// Taken from the logit of a token that is there, once
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = penalty, allow_negative_numbers = true, help_heading = "Answers")]
    presence_penalty: f32,

    /// Taken from the logit of a token that is there, for each time
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = penalty, allow_negative_numbers = true, help_heading = "Answers")]
    frequency_penalty: f32,

    /// Seed of requests that give none; each has another if left out
    #[arg(long, value_name = "N", help_heading = "Answers")]
    seed: Option<u32>,
}

impl Answers {
    fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: usize::try_from(self.repeat_last_n).unwrap_or(usize::MAX),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            ..Sampling::default()
        }
    }
}

/// How conversations become text.
#[derive(Args, Debug)]
struct Conversations {
    /// Chat template: a file with a Jinja text, or a name of llama.cpp's, such as `chatml`. Left
    /// out, the one that the first adapter was made with, else the model's own
    #[arg(
        long,
        visible_alias = "chat-template-file",
        value_name = "TEMPLATE",
        help_heading = "Conversations"
    )]
    chat_template: Option<String>,

    /// Variables of the chat template as a JSON object, for requests that do not set them
    #[arg(long, value_name = "JSON", value_parser = template_arguments, help_heading = "Conversations")]
    chat_template_kwargs: Option<serde_json::Map<String, serde_json::Value>>,
}

impl From<Conversations> for ChatOptions {
    fn from(asked: Conversations) -> Self {
        Self {
            template: asked.chat_template,
            kwargs: asked.chat_template_kwargs.unwrap_or_default(),
            ..Self::default()
        }
    }
}

impl Serve {
    pub fn run(mut self, verbosity: Verbosity) -> Result<Outcome, Failure> {
        self.model = files::local(&self.model, Wanted::Model)?;
        for lora in &mut self.lora {
            *lora = files::local(lora, Wanted::Adapter)?;
        }
        self.log.start(verbosity.quiet);
        let config = self.config()?;
        let engine = job::engine(&config.model)?;
        let server = Server::start(
            engine.as_ref(),
            config,
            Arc::new(SystemClock::default()),
            Arc::new(log::say),
        )?;
        let addresses: Vec<String> = server
            .addresses()
            .iter()
            .map(|address| format!("http://{address}"))
            .collect();
        let ready = if verbosity.json {
            serde_json::json!({ "listening": addresses }).to_string()
        } else {
            format!("listening on {}", addresses.join(", "))
        };
        out::data(&ready)?;
        server.run()?;
        Ok(Outcome::Done)
    }

    /// The adapters of --lora and --lora-scaled with their names and scales.
    fn named(&self) -> Result<Vec<(String, PathBuf, f32)>, Failure> {
        let plain = self.lora.iter().flat_map(|path| parted(path));
        let mut all: Vec<(PathBuf, f32)> = plain.map(|path| (path, 1.0)).collect();
        for part in self.lora_scaled.iter().flat_map(|list| list.split(',')) {
            let scaled = part
                .rsplit_once(':')
                .and_then(|(file, scale)| Some((file, scale.parse::<f32>().ok()?)))
                .filter(|(_, scale)| scale.is_finite());
            let (file, scale) = scaled.ok_or_else(|| Failure::Usage {
                message: format!("--lora-scaled {part}: there is no scale"),
                hint: "write a file, a colon and a number: L.gguf:0.5".into(),
            })?;
            all.push((file.into(), scale));
        }
        let off = self.lora_init_without_apply;
        let one =
            |(path, scale): (PathBuf, f32)| Ok((stem(&path)?, path, if off { 0.0 } else { scale }));
        all.into_iter().map(one).collect()
    }

    fn config(self) -> Result<Config, Failure> {
        let adapters = self.named()?;
        let (mut api_keys, mut admin_keys) = (self.api_key, self.admin_key);
        if let Some(file) = &self.api_key_file {
            let (ask, manage) = keys_of(file)?;
            api_keys.extend(ask);
            admin_keys.extend(manage);
        }
        for (keys, variable) in [
            (&mut api_keys, "TRANSLORA_API_KEY"),
            (&mut admin_keys, "TRANSLORA_ADMIN_KEY"),
        ] {
            if keys.is_empty() {
                keys.extend(std::env::var(variable));
            }
            keys.retain(|key| !key.is_empty());
        }
        let list = |text: &str| {
            text.split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect()
        };
        Ok(Config {
            model: self.model,
            alias: self.alias,
            adapters,
            folder: self.adapters,
            resume_transfers: self.resume_transfers,
            jobs: jobs::Config::from_env().map_err(|error| Failure::Usage {
                message: error.to_string(),
                hint: error
                    .remedy()
                    .map(|remedy| remedy.words(&InFlags))
                    .unwrap_or_default(),
            })?,
            hosts: list(&self.host),
            port: self.port,
            api_keys,
            admin_keys,
            inputs: self.inputs,
            origins: self.cors_origin,
            slots: self.parallel,
            context: self.context,
            threads: self.threads,
            repack: !self.no_repack,
            gpu_layers: self.gpu_layers,
            device: self.device,
            memory: MemoryOptions {
                no_mmap: self.no_mmap,
                mlock: self.mlock,
                batch: self.batch,
                ubatch: self.ubatch,
            },
            seed: self.answers.seed,
            sampling: self.answers.sampling(),
            tokens_max: self.predict,
            any_model: self.any_model,
            chat: self.conversations.into(),
            force: self.force,
            harvest: self.harvest.into(),
            limits: Limits::default(),
        })
    }
}

/// Several files with commas between, unless there is one of this very name.
fn parted(path: &Path) -> Vec<PathBuf> {
    match path.to_str() {
        Some(list) if list.contains(',') && !path.exists() => {
            list.split(',').map(PathBuf::from).collect()
        }
        _ => vec![path.to_owned()],
    }
}

/// What an adapter is called: as its file.
fn stem(path: &Path) -> Result<String, Failure> {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    stem.map(str::to_owned).ok_or_else(|| Failure::Usage {
        message: format!(
            "{}: the name of this file makes no name for an adapter",
            path.display()
        ),
        hint: "rename it: an adapter is called as its file, in UTF-8".into(),
    })
}

fn temperature(text: &str) -> Result<f32, String> {
    within(text, sampler::TEMPERATURE)
}

fn share(text: &str) -> Result<f32, String> {
    within(text, sampler::SHARE)
}

fn repeat_penalty(text: &str) -> Result<f32, String> {
    within(text, sampler::REPEAT_PENALTY)
}

fn penalty(text: &str) -> Result<f32, String> {
    within(text, sampler::PENALTY)
}

/// A number between two bounds, both allowed.
fn within(text: &str, (least, most): (f32, f32)) -> Result<f32, String> {
    text.parse()
        .ok()
        .filter(|x| (least..=most).contains(x))
        .ok_or_else(|| format!("must be a number from {least} to {most}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: Serve,
    }

    #[test]
    fn what_requests_do_not_say_is_said_at_the_start() {
        let usual = Line::try_parse_from(["x", "-m", "base.gguf"]).expect("flags");
        assert_eq!(usual.serve.answers.sampling(), Sampling::default());
        let memory = [usual.serve.batch, usual.serve.ubatch];
        let defaults = MemoryOptions::default();
        assert_eq!(memory, [defaults.batch, defaults.ubatch]);
        for (flag, fits, unfit) in [
            ("--temp", ["0", "100"], ["-0.1", "100.1"]),
            ("--top-k", ["0", "2147483647"], ["-1", "2147483648"]),
            ("--top-p", ["0", "1"], ["-0.1", "1.1"]),
            ("--min-p", ["0", "1"], ["nan", "1.1"]),
            ("--repeat-penalty", ["0.01", "100"], ["0", "101"]),
            ("--repeat-last-n", ["-1", "16777216"], ["-2", "16777217"]),
            ("--presence-penalty", ["-100", "100"], ["-101", "101"]),
            ("--frequency-penalty", ["-100", "100"], ["-101", "101"]),
            ("--seed", ["0", "4294967295"], ["-2", "4294967296"]),
            ("--harvest=d --harvest-rows", ["1", "100000"], ["0", "x"]),
            ("--harvest=d --harvest-ttl", ["1s", "3650d"], ["0d", "30"]),
            ("--batch-size", ["32", "65536"], ["31", "65537"]),
            ("--ubatch-size", ["32", "65536"], ["31", "65537"]),
        ] {
            let of = |value: &str| {
                let words = format!("x -m base.gguf {flag}={value}");
                Line::try_parse_from(words.split(' ')).is_ok()
            };
            assert!(fits.into_iter().all(of), "{flag}");
            assert!(!unfit.into_iter().any(of), "{flag}");
        }
    }

    #[test]
    fn keys_come_from_flags_and_from_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys");
        std::fs::write(&path, "# of the house\none\n\n  two\n").expect("writable");
        let of = |words: &[&str]| {
            let words = [&["x", "-m", "base.gguf"], words].concat();
            let line = Line::try_parse_from(words).expect("flags");
            let config = line.serve.config();
            let keys = config.map(|config| [config.api_keys, config.admin_keys].concat());
            keys.map_err(|_| "refused")
        };
        let file = path.to_str().expect("UTF-8");
        for (words, keys) in [
            (vec!["--api-key", "a"], vec!["a"]),
            (
                vec!["--api-key", "a", "--api-key", "b,c"],
                vec!["a", "b", "c"],
            ),
            (
                vec!["--api-key-file", file, "--api-key", "a"],
                vec!["a", "one", "two"],
            ),
        ] {
            assert_eq!(of(&words).expect("keys"), keys, "{words:?}");
        }
        std::fs::write(&path, "ask one\nmanage two\nthree\n").expect("writable");
        let all = of(&["--api-key-file", file, "--admin-key", "a"]);
        assert_eq!(all.expect("keys"), ["one", "three", "a", "two"]);
        std::fs::write(&path, "own one\n").expect("writable");
        assert_eq!(of(&["--api-key-file", file]), Err("refused"));
        std::fs::write(&path, "# nothing\n\n").expect("writable");
        assert_eq!(of(&["--api-key-file", file]), Err("refused"));
        assert_eq!(of(&["--api-key-file", "missing"]), Err("refused"));
    }

    #[test]
    fn adapters_of_the_command_line_have_names_and_scales() {
        let of = |words: &str| {
            let words = format!("x -m base.gguf {words}");
            let line = Line::try_parse_from(words.split(' ')).expect("flags");
            let named = line.serve.named();
            let named = named.map_err(|_| "refused")?;
            let row = |(name, _, scale): &(String, PathBuf, f32)| format!("{name} {scale}");
            Ok(named.iter().map(row).collect::<Vec<_>>().join(", "))
        };
        for (words, right) in [
            ("--lora a.gguf --lora b.gguf", Ok("a 1, b 1")),
            ("--lora a.gguf,b.gguf", Ok("a 1, b 1")),
            ("--lora-scaled a.gguf:0.5,b.gguf:-2", Ok("a 0.5, b -2")),
            ("--lora a.gguf --lora-init-without-apply", Ok("a 0")),
            ("--lora-scaled a.gguf", Err("refused")),
            ("--lora-scaled a.gguf:inf", Err("refused")),
        ] {
            assert_eq!(of(words), right.map(str::to_owned), "{words}");
        }
    }
}
