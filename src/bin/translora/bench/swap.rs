use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::json;
use translora::record::{Clock, SystemClock};
use translora::serve::{Config, Limits, Server};

use super::client::post;
use super::median;
use super::watch::{Watched, milliseconds};
use crate::args::between;
use crate::failure::Failure;
use crate::progress::Verbosity;
use crate::{Outcome, job, out};

/// Tokens of a stream before anything is measured, and those of a quiet stretch at the least.
const WARM: usize = 4;
const QUIET: usize = 24;
/// What the adapter is called, whichever it is.
const NAME: &str = "adapter";

/// Time the exchange of an adapter in a server while a stream runs
///
/// Starts `translora serve` in this process. Each swap is compared with what the same stream does
/// just before it, for as long, and with a request on the adapter that is live already.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  translora bench swap -m base.gguf --lora a.gguf --lora b.gguf \
        --swaps 20 --json"
)]
pub struct Swap {
    /// Base model (GGUF)
    #[arg(short, long, value_name = "M.gguf")]
    model: PathBuf,

    /// Adapter (GGUF); two that take turns, in one folder
    #[arg(long, value_name = "L.gguf", required = true)]
    lora: Vec<PathBuf>,

    /// Swaps to time, after one that is not
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = between::<1, 10_000>)]
    swaps: usize,

    /// Processor threads of the server; 0 takes all physical cores
    #[arg(short, long, value_name = "N", default_value_t = 0, value_parser = between::<0, 1024>)]
    threads: usize,
}

/// What one swap did. units: milliseconds
#[derive(Default)]
struct Measured {
    /// The gaps of the stream while nothing happens.
    gaps: Vec<f64>,
    /// The longest gap of the stream in a stretch as long as the swap, and during the swap.
    undisturbed: f64,
    pause: f64,
    /// The longest gap beside a request on the adapter that the stream has, and beside the first on
    /// the new one.
    beside_same: f64,
    beside_first: f64,
    /// From the request to swap to its answer, which comes when the adapter is live.
    live: f64,
    /// One token on the adapter that is live already, and the first of the new one, asked for at
    /// once.
    token: f64,
    first: f64,
}

/// What all swaps did. units: milliseconds unless they are named; medians unless they are named
#[derive(Serialize)]
struct Report {
    /// A decode step of the stream.
    step_ms: f64,
    /// The longest gap of the stream while an adapter is read, checked, loaded and made live.
    pause_ms: f64,
    pause_ms_max: f64,
    /// The longest gap in a stretch as long as that, without a swap.
    undisturbed_ms: f64,
    undisturbed_ms_max: f64,
    /// How much longer the longest gap is with a swap than without, in steps.
    pause_steps: f64,
    /// From asking for the swap to its answer.
    live_ms: f64,
    /// From asking for the swap to the first token of the new generation.
    first_token_ms: f64,
    /// Of that, from asking for the token; and one token on the adapter that the stream has.
    ask_new_ms: f64,
    ask_same_ms: f64,
    /// The longest gap of the stream beside those two requests.
    gap_beside_new_ms: f64,
    gap_beside_same_ms: f64,
    swaps: usize,
    /// units: bytes
    adapter_bytes: u64,
    /// 0: all cores
    threads: usize,
}

impl Swap {
    pub fn run(self, verbosity: Verbosity) -> Result<Outcome, Failure> {
        let (folder, files) = self.files()?;
        let adapter_bytes = std::fs::metadata(&self.lora[0]).map_or(0, |file| file.len());
        let engine = job::engine(&self.model)?;
        let server = Server::start(
            engine.as_ref(),
            self.config(folder),
            Arc::new(SystemClock::default()),
            Arc::new(|_: &str| {}),
        )?;
        let address = server.addresses()[0];
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let mut measured = Vec::with_capacity(self.swaps);
        let mut last = Duration::ZERO;
        for number in 0..=self.swaps {
            let one = swap(address, &clock, &files[(number + 1) % 2], last)?;
            last = Duration::from_secs_f64(one.live / 1e3);
            // The first touches everything for the first time.
            if number > 0 {
                measured.push(one);
            }
            if !verbosity.quiet {
                out::say(&format!("swap {number} of {}", self.swaps));
            }
        }
        server.stop();
        let report = report(&measured, adapter_bytes, self.threads);
        crate::report(verbosity, &report, || out::columns(&rows(&report)))?;
        Ok(Outcome::Done)
    }

    /// The folder of the two adapters, and their names in it.
    fn files(&self) -> Result<(PathBuf, [String; 2]), Failure> {
        let wrong = |message: String| Failure::Usage {
            message,
            hint: "give --lora twice, with two files of one folder".into(),
        };
        let [first, second] = &self.lora[..] else {
            return Err(wrong(format!("{} adapters are named", self.lora.len())));
        };
        let whole = |path: &PathBuf| {
            path.canonicalize()
                .map_err(|error| wrong(format!("{}: {error}", path.display())))
        };
        let (first, second) = (whole(first)?, whole(second)?);
        let folder = first.parent().unwrap_or(Path::new("/")).to_owned();
        if second.parent() != Some(&folder) {
            return Err(wrong(format!(
                "{} and {} lie in two folders",
                first.display(),
                second.display()
            )));
        }
        let name = |path: &Path| {
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        Ok((folder, [name(&first), name(&second)]))
    }

    fn config(&self, folder: PathBuf) -> Config {
        Config {
            model: self.model.clone(),
            alias: "base".into(),
            adapters: vec![(NAME.into(), self.lora[0].clone(), 0.0)],
            folder: Some(folder),
            resume_transfers: false,
            jobs: translora::jobs::Config::default(),
            hosts: vec!["127.0.0.1".into()],
            port: 0,
            api_keys: Vec::new(),
            admin_keys: Vec::new(),
            inputs: Vec::new(),
            origins: Vec::new(),
            slots: 2,
            context: 0,
            threads: self.threads,
            repack: true,
            gpu_layers: -1,
            device: None,
            memory: translora::engine::MemoryOptions::default(),
            seed: Some(1),
            sampling: translora::serve::Sampling {
                temperature: 0.0,
                ..translora::serve::Sampling::default()
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

/// One token of the adapter that is live.
fn token(address: SocketAddr) -> Result<(), Failure> {
    let body = json!({ "model": NAME, "prompt": "Once", "max_tokens": 1, "temperature": 0, "cache_prompt": false });
    post(address, "/v1/completions", &body)?.done()
}

/// Put a file in the place of the adapter beside a stream that began under it. `stretch`: how long
/// the last one took.
fn swap(
    address: SocketAddr,
    clock: &Arc<dyn Clock>,
    file: &str,
    stretch: Duration,
) -> Result<Measured, Failure> {
    let body = json!({
        "model": NAME, "prompt": "Once upon a \
        time", "stream": true, "ignore_eos": true, "temperature": 0, "max_tokens": 1_000_000,
    });
    let stream = Watched::start(address, body, clock)?;
    stream.wait(WARM)?;
    let began = clock.elapsed();
    stream.wait(QUIET)?;
    while clock.elapsed() - began < stretch {
        stream.wait(1)?;
    }
    let ended = clock.elapsed();
    stream.wait(1)?;
    let sent_same = clock.elapsed();
    token(address)?;
    let heard_same = clock.elapsed();
    stream.wait(1)?;
    let sent = clock.elapsed();
    post(
        address,
        "/v1/load_lora_adapter",
        &json!({ "lora_name": NAME, "lora_path": file, "load_inplace": true }),
    )?
    .done()?;
    let live = clock.elapsed();
    stream.wait(1)?;
    let sent_first = clock.elapsed();
    token(address)?;
    let heard_first = clock.elapsed();
    stream.wait(1)?;
    let measured = Measured {
        gaps: stream.gaps(began, ended),
        undisturbed: longest(&stream.gaps(ended.saturating_sub(stretch).max(began), ended)),
        pause: longest(&stream.gaps(sent, live)),
        beside_same: longest(&stream.gaps(sent_same, heard_same)),
        beside_first: longest(&stream.gaps(sent_first, heard_first)),
        live: milliseconds(live - sent),
        token: milliseconds(heard_same - sent_same),
        first: milliseconds(heard_first - sent_first),
    };
    stream.end()?;
    Ok(measured)
}

fn longest(gaps: &[f64]) -> f64 {
    gaps.iter().copied().fold(0.0, f64::max)
}

fn report(all: &[Measured], adapter_bytes: u64, threads: usize) -> Report {
    let of = |what: fn(&Measured) -> f64| all.iter().map(what).collect::<Vec<f64>>();
    let step = median(
        &all.iter()
            .flat_map(|one| one.gaps.iter().copied())
            .collect::<Vec<f64>>(),
    );
    Report {
        step_ms: step,
        pause_ms: median(&of(|one| one.pause)),
        pause_ms_max: longest(&of(|one| one.pause)),
        undisturbed_ms: median(&of(|one| one.undisturbed)),
        undisturbed_ms_max: longest(&of(|one| one.undisturbed)),
        pause_steps: median(&of(|one| one.pause - one.undisturbed)) / step,
        live_ms: median(&of(|one| one.live)),
        first_token_ms: median(&of(|one| one.live + one.first)),
        ask_new_ms: median(&of(|one| one.first)),
        ask_same_ms: median(&of(|one| one.token)),
        gap_beside_new_ms: median(&of(|one| one.beside_first)),
        gap_beside_same_ms: median(&of(|one| one.beside_same)),
        swaps: all.len(),
        adapter_bytes,
        threads,
    }
}

fn rows(report: &Report) -> Vec<(String, String)> {
    let ms = |time: f64| format!("{time:.1} ms");
    let most = |median: f64, most: f64| format!("{median:.1} ms, {most:.1} at the most");
    vec![
        (
            "swaps".into(),
            format!(
                "{} of an adapter of {:.1} MB",
                report.swaps,
                report.adapter_bytes as f64 / 1e6
            ),
        ),
        ("step of the stream".into(), ms(report.step_ms)),
        (
            "longest gap, nothing beside".into(),
            most(report.undisturbed_ms, report.undisturbed_ms_max),
        ),
        (
            "longest gap in a swap".into(),
            most(report.pause_ms, report.pause_ms_max),
        ),
        ("more by".into(), format!("{:.2} steps", report.pause_steps)),
        ("from the request to live".into(), ms(report.live_ms)),
        (
            "from the request to first token".into(),
            ms(report.first_token_ms),
        ),
        (
            "a token of the new adapter".into(),
            format!(
                "{}, the stream's gap {}",
                ms(report.ask_new_ms),
                ms(report.gap_beside_new_ms)
            ),
        ),
        (
            "a token of the old adapter".into(),
            format!(
                "{}, the stream's gap {}",
                ms(report.ask_same_ms),
                ms(report.gap_beside_same_ms)
            ),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_compared_with_what_was_before_them() {
        let one = |undisturbed, pause| Measured {
            gaps: vec![10.0, 12.0, 10.0],
            undisturbed,
            pause,
            live: 30.0,
            first: 5.0,
            ..Measured::default()
        };
        let report = report(&[one(11.0, 21.0), one(13.0, 14.0), one(12.0, 17.0)], 1, 1);
        assert_eq!(report.step_ms, 10.0);
        assert_eq!(report.pause_ms, 17.0);
        assert_eq!(report.undisturbed_ms, 12.0);
        assert_eq!(report.pause_steps, 0.5);
        assert_eq!(report.pause_ms_max, 21.0);
        assert_eq!(report.first_token_ms, 35.0);
        assert_eq!(report.swaps, 3);
    }
}
