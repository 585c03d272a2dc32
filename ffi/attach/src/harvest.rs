//! Keeps prompts of requests that one adapter answers at full scale, where `TRANSLORA_HARVEST` names
//! a folder.
//!
//! The server's thread turns tokens into text and never waits: files are a thread's own, and what
//! finds its queue full is counted and said.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use translora_harvest::{Asked, Bounds, Harvest, HarvestError, Row, random_seed};

use crate::log::say;
use crate::provenance::{AS_STARTED, AdapterId};
use crate::real::Handle;
use crate::server::{Key, Server, real};

/// Prompts that wait to be written.
const QUEUED_MAX: usize = 256;
/// How often rows whose time is over are looked for.
const EXPIRY: Duration = Duration::from_secs(3600);
/// A prompt of more bytes is no row.
const TEXT_BYTES_MAX: usize = translora_harvest::ROW_BYTES_MAX;

static KEEPER: OnceLock<Option<SyncSender<Prompt>>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// A prompt, and which adapter answers it.
struct Prompt {
    adapter: String,
    sha256: String,
    text: String,
}

/// Start to keep prompts, once, where the environment asks for that.
pub fn begin() {
    KEEPER.get_or_init(|| match settings() {
        Ok(None) => None,
        Ok(Some((folder, bounds))) => match start(&folder, bounds) {
            Ok(queue) => {
                say(&format!(
                    "prompts are kept in {}: those that one adapter answers, {} of each at most",
                    folder.display(),
                    bounds.rows_max
                ));
                Some(queue)
            }
            Err(error) => refuse(&error.to_string()),
        },
        Err(reason) => refuse(&reason),
    });
}

fn refuse<T>(reason: &str) -> Option<T> {
    say(&format!("no prompts are kept: {reason}"));
    None
}

/// The folder and its bounds. fails: with the variable that is no number
fn settings() -> Result<Option<(PathBuf, Bounds)>, String> {
    let Some(folder) = std::env::var_os("TRANSLORA_HARVEST").filter(|folder| !folder.is_empty())
    else {
        return Ok(None);
    };
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => match text.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!("{name}={text} is no number above 0")),
        },
        Err(_) => Ok(default),
    };
    let usual = Bounds::default();
    let rows = number("TRANSLORA_HARVEST_ROWS", usual.rows_max as u64)?;
    let bounds = Bounds {
        rows_max: usize::try_from(rows).unwrap_or(usize::MAX),
        ttl_seconds: number("TRANSLORA_HARVEST_TTL", usual.ttl_seconds)?,
        ..usual
    };
    Ok(Some((folder.into(), bounds)))
}

fn start(folder: &Path, bounds: Bounds) -> Result<SyncSender<Prompt>, HarvestError> {
    let harvest = Harvest::open(folder, bounds)?;
    let seed = random_seed()?;
    let (queue, waiting) = sync_channel(QUEUED_MAX);
    let thread = std::thread::Builder::new().name("translora-keep".into());
    match thread.spawn(move || run(harvest, seed, &waiting)) {
        Ok(_) => Ok(queue),
        Err(source) => Err(HarvestError::Io {
            path: folder.to_owned(),
            source,
        }),
    }
}

fn run(mut harvest: Harvest, seed: u64, waiting: &Receiver<Prompt>) {
    let mut failure = None;
    let mut report = |done: Result<(), HarvestError>| {
        let found = done.err().map(|error| error.to_string());
        if let Some(reason) = &found
            && failure != found
        {
            say(&format!("prompts are not kept: {reason}"));
        }
        failure = found;
    };
    let mut swept: Option<u64> = None;
    loop {
        let now = unix_seconds();
        if swept.is_none_or(|swept| now.abs_diff(swept) >= EXPIRY.as_secs()) {
            swept = Some(now);
            report(harvest.expire(now).map(drop));
        }
        let prompt = match waiting.recv_timeout(EXPIRY) {
            Ok(prompt) => prompt,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            say(&format!(
                "{dropped} prompts are not kept: they came too fast"
            ));
        }
        let Some(asked) = Asked::of_text(prompt.text) else {
            continue;
        };
        let row = Row {
            at: now,
            until: harvest.until(now),
            sha256: prompt.sha256,
            asked,
            answer: None,
        };
        report(harvest.keep(&prompt.adapter, &row, seed).map(drop));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "nobody gives a clock to a module inside a foreign server"
)]
fn unix_seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

impl Server {
    /// The prompts of these sequences are whole: keep them, where that is wanted and one adapter at
    /// full scale answers them.
    pub fn keep_prompts(&self, context: Key, sequences: &[(i32, i32)], by: AdapterId) {
        let Some(Some(queue)) = KEEPER.get() else {
            return;
        };
        let (Some(known), Some((adapter, sha256))) = (self.contexts.get(&context), self.of(by))
        else {
            return;
        };
        let is_whole = match &*known.requested {
            [] => by != AS_STARTED,
            [(_, scale)] => scale.to_bits() == 1.0_f32.to_bits(),
            _ => false,
        };
        if !is_whole || known.embeddings {
            return;
        }
        for (sequence, end) in sequences {
            let tokens = known
                .sequences
                .get(sequence)
                .and_then(|of| of.log().prefix(*end));
            let Some(text) = tokens.and_then(|tokens| text(known.model, &tokens)) else {
                continue;
            };
            let (adapter, sha256) = (adapter.clone(), sha256.clone());
            let prompt = Prompt {
                adapter,
                sha256,
                text,
            };
            if let Err(TrySendError::Full(_)) = queue.try_send(prompt) {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// The text of tokens, marks included; none where it is too long, or no text.
fn text(model: Key, tokens: &[i32]) -> Option<String> {
    let count = i32::try_from(tokens.len()).ok()?;
    let mut bytes = vec![0_u8; (tokens.len() * 8).clamp(256, TEXT_BYTES_MAX)];
    for _ in 0..2 {
        // SAFETY: the caller holds the lock, so the model lives; both arrays are as long as said.
        let length = unsafe {
            let vocab = (real().vocab)(model as Handle);
            let (into, room) = (bytes.as_mut_ptr().cast(), bytes.len() as i32);
            (real().detokenize)(vocab, tokens.as_ptr(), count, into, room, false, true)
        };
        if let Ok(length) = usize::try_from(length) {
            bytes.truncate(length);
            return String::from_utf8(bytes).ok();
        }
        // Too little room: minus what it takes. source: llama.h
        let wanted = length.unsigned_abs() as usize;
        if wanted > TEXT_BYTES_MAX {
            return None;
        }
        bytes.resize(wanted, 0);
    }
    None
}
