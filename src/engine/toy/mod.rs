//! A deterministic engine in pure Rust: no C, no tensors, seconds to milliseconds.
//!
//! A toy base is a JSON file ([`Base`]) that knows some sentences; it continues lists with them,
//! and straying and rambling are part of it. Its LoRA is a real low-rank softmax classifier over
//! hashed words, fitted with exact gradients, so that an adapter generalises to new inputs, cannot
//! learn from broken labels, and does not fit a base of another width. Adapters are GGUF files like
//! everybody's.
//!
//! Every build has it, and takes it for a file that is a toy base: so the tests of the job queue run
//! with the worker and the library that are installed, and a host can be tested without a model.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use translora_lora::{Foreign, ForeignError};

use super::host::Hosted;
use super::{
    AdapterId, Answer, CompletionScore, Continuation, Engine, EngineError, Generate,
    GenerateRequest, Label, LoraSpec, Model, ModelInfo, Monitor, OpenOptions, Score, Start, Train,
    Trainer, With,
};
use crate::record::{ContentHash, Pair, Prompt, Rng};

mod base;
mod head;
mod host;
mod teach;
mod train;
pub mod world;

pub use base::Base;
use base::FORMAT;
use head::{ARCHITECTURE, Head};
use host::{ToyDecoder, ToyHost};
use train::ToyTrainer;

/// The largest toy file. A real model given by mistake is refused, not read.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Bytes of context that a served toy has when nobody says.
const SERVED_CONTEXT: usize = 1024;

/// Opens toy bases.
#[derive(Clone, Copy, Debug, Default)]
pub struct Toy;

impl Toy {
    pub(crate) const DEVICE: &'static str = "toy";
}

impl Engine for Toy {
    fn version(&self) -> String {
        "toy".into()
    }

    fn open(&self, base: &Path, _options: &OpenOptions) -> Result<Box<dyn Model>, EngineError> {
        Ok(Box::new(ToyModel::read(base)?))
    }

    fn host(
        &self,
        base: &Path,
        options: &OpenOptions,
        sequences: usize,
    ) -> Result<Hosted, EngineError> {
        hosted(ToyModel::read(base)?, options, sequences)
    }
}

impl Toy {
    /// Open a base that is not in a file.
    pub fn open_base(&self, base: Base) -> Box<dyn Model> {
        Box::new(ToyModel::of(base))
    }

    /// Serve a base that is not in a file.
    ///
    /// fails: the template that was asked for cannot be found
    pub fn host_base(
        &self,
        base: Base,
        options: &OpenOptions,
        sequences: usize,
    ) -> Result<Hosted, EngineError> {
        hosted(ToyModel::of(base), options, sequences)
    }
}

fn hosted(
    mut model: ToyModel,
    options: &OpenOptions,
    sequences: usize,
) -> Result<Hosted, EngineError> {
    // The toy's context counts words; a served token is a byte.
    model.info.context = if options.context > 0 {
        options.context
    } else {
        SERVED_CONTEXT
    };
    let host = ToyHost::new(model.base.clone(), model.info.clone(), &options.chat)?;
    Ok(Hosted {
        host: Arc::new(host),
        decoder: Box::new(ToyDecoder::new(model, sequences)),
    })
}

/// Whether a file is a toy base: JSON whose `format` says so. Of other files only the first byte is
/// read.
pub(super) fn is_base(path: &Path) -> bool {
    #[derive(serde::Deserialize)]
    struct Head {
        format: String,
    }
    if !path.is_file() {
        return false;
    }
    let mut first = [0];
    let begun = fs::File::open(path).and_then(|mut file| file.read_exact(&mut first));
    begun.is_ok()
        && first == *b"{"
        && read(path).is_ok_and(|bytes| {
            serde_json::from_slice::<Head>(&bytes).is_ok_and(|head| head.format == FORMAT)
        })
}

/// Read an adapter file. No other format has a toy's answers.
fn read_adapter(path: &Path) -> Result<Vec<u8>, EngineError> {
    let refuse = |source| EngineError::of_adapter(path.to_owned(), source);
    if Foreign::find(path).map_err(refuse)?.is_some() {
        let architecture = ARCHITECTURE.to_owned();
        return Err(refuse(ForeignError::Architecture { architecture }.into()));
    }
    read(path)
}

fn read(path: &Path) -> Result<Vec<u8>, EngineError> {
    translora_gguf::read_file(path, FILE_BYTES_MAX).map_err(|source| EngineError::File {
        path: path.to_owned(),
        source,
    })
}

struct ToyModel {
    base: Base,
    info: ModelInfo,
    heads: Vec<Head>,
}

impl ToyModel {
    /// Open a base that is in a file.
    fn read(base: &Path) -> Result<Self, EngineError> {
        let bytes = read(base)?;
        let refuse = |reason: String| EngineError::Model {
            path: base.to_owned(),
            reason,
        };
        let parsed: Base = serde_json::from_slice(&bytes)
            .map_err(|error| refuse(format!("not a toy base: {error}")))?;
        if parsed.format != FORMAT || parsed.width == 0 {
            return Err(refuse(format!(
                "its format is {:?}, this engine reads {FORMAT:?}",
                parsed.format
            )));
        }
        Ok(Self::new(parsed, base, &bytes))
    }

    fn of(base: Base) -> Self {
        let bytes = serde_json::to_vec(&base).unwrap_or_default();
        let path = format!("{}.json", base.name);
        Self::new(base, Path::new(&path), &bytes)
    }

    fn new(base: Base, path: &Path, bytes: &[u8]) -> Self {
        let info = ModelInfo {
            path: path.to_owned(),
            name: base.name.clone(),
            architecture: "toy".into(),
            hash: ContentHash::of(bytes),
            parameters: base.width as u64,
            bytes: bytes.len() as u64,
            layers: 1,
            width: base.width,
            vocabulary: base.vocabulary,
            context: base.context,
            context_trained: Some(base.context),
        };
        Self {
            base,
            info,
            heads: Vec::new(),
        }
    }

    fn head(&self, with: With) -> Result<Option<&Head>, EngineError> {
        match with {
            With::Base => Ok(None),
            With::Adapter(AdapterId(id)) => {
                let missing = || EngineError::Internal(format!("adapter {id} was never attached"));
                self.heads.get(id).map(Some).ok_or_else(missing)
            }
        }
    }

    /// What the base says by itself: the last word of the prompt.
    fn echo<'t>(&self, prompt: &'t str) -> &'t str {
        prompt.split_whitespace().last().unwrap_or("")
    }

    /// ln p under the base alone. Every word is as unlikely as the vocabulary is large, an echo
    /// less so.
    fn base_log_probability(&self, prompt: &str, completion: &str) -> f64 {
        let tokens = (words(completion) + 1) as f64;
        let nats = if completion == self.echo(prompt) {
            1.0
        } else {
            (self.base.vocabulary as f64).ln()
        };
        -tokens * nats
    }

    fn log_probability(&self, head: Option<&Head>, prompt: &str, completion: &str) -> f64 {
        let Some(head) = head else {
            return self.base_log_probability(prompt, completion);
        };
        let opinion = head.opinion(&self.base.features(prompt), 1.0);
        match head.index(completion) {
            Some(index) => opinion.answers[index],
            None => opinion.base + self.base_log_probability(prompt, completion),
        }
    }

    fn greedy(&self, head: Option<&Head>, prompt: &str, tokens_max: usize) -> Answer {
        let learned = head.and_then(|head| {
            let opinion = head.opinion(&self.base.features(prompt), 1.0);
            let best = (0..opinion.answers.len())
                .max_by(|&i, &j| opinion.answers[i].total_cmp(&opinion.answers[j]))?;
            (opinion.answers[best] > opinion.base).then(|| head.answers[best].clone())
        });
        let text = learned.unwrap_or_else(|| self.echo(prompt).to_owned());
        let tokens = words(&text) + 1;
        Answer {
            tokens: tokens.min(tokens_max),
            finished: tokens <= tokens_max,
            log_probability: self.log_probability(head, prompt, &text),
            text,
        }
    }

    fn fits(&self, needed: usize) -> Result<(), EngineError> {
        let context = self.base.context;
        if needed > context {
            Err(EngineError::Context { needed, context })
        } else {
            Ok(())
        }
    }
}

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

impl Model for ToyModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn conversation(&self, text: &str) -> Option<Prompt> {
        host::conversation(text)
    }

    fn attach(&mut self, adapter: &Path) -> Result<AdapterId, EngineError> {
        let bytes = read_adapter(adapter)?;
        let head = Head::from_gguf(adapter, &bytes, self.base.width)?;
        self.heads.push(head);
        Ok(AdapterId(self.heads.len() - 1))
    }

    fn check_text(&self, text: &str) -> Result<(), EngineError> {
        if !self.base.ascii || text.is_ascii() {
            return Ok(());
        }
        let back = text
            .chars()
            .map(|c| if c.is_ascii() { c } else { '?' })
            .collect();
        Err(EngineError::Tokenizer {
            model: self.base.name.clone(),
            text: text.to_owned(),
            back,
        })
    }
}

impl Generate for ToyModel {
    fn generate(
        &mut self,
        with: With,
        request: &GenerateRequest,
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<Continuation>, EngineError> {
        let mut rng = Rng::new(request.seed, "toy generate");
        let (head, prefix) = match &request.start {
            Start::Text(text) => (None, text.into()),
            Start::Chat(prompt) => (self.head(with)?, prompt.whole()),
        };
        let one = |(i, opening): (usize, &String)| {
            monitor.tick(i, request.openings.len())?;
            let drawn = match head {
                Some(head) => head.draw(&self.base.features(&prefix), &mut rng),
                None => self
                    .base
                    .continue_list(&prefix, request.tokens_max, &mut rng),
            };
            // The opening stands in place of as many words.
            let rest = drawn.text.split_whitespace().skip(words(opening));
            let text = opening
                .split_whitespace()
                .chain(rest)
                .collect::<Vec<_>>()
                .join(" ");
            Ok(Continuation { text, ..drawn })
        };
        request.openings.iter().enumerate().map(one).collect()
    }
}

impl Label for ToyModel {
    fn answer(
        &mut self,
        with: With,
        prompts: &[Prompt],
        tokens_max: usize,
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<Answer>, EngineError> {
        let head = self.head(with)?;
        let one = |(i, prompt): (usize, &Prompt)| {
            monitor.tick(i, prompts.len())?;
            let prompt = prompt.whole();
            self.fits(words(&prompt))?;
            Ok(self.greedy(head, &prompt, tokens_max))
        };
        prompts.iter().enumerate().map(one).collect()
    }
}

impl Score for ToyModel {
    fn score(
        &mut self,
        with: With,
        pairs: &[Pair],
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<CompletionScore>, EngineError> {
        let head = self.head(with)?;
        let one = |(i, pair): (usize, &Pair)| {
            monitor.tick(i, pairs.len())?;
            let tokens = words(&pair.completion) + 1;
            let prompt = pair.prompt.whole();
            self.fits(words(&prompt) + tokens)?;
            Ok(CompletionScore {
                log_probability: self.log_probability(head, &prompt, pair.completion.trim()),
                tokens,
            })
        };
        pairs.iter().enumerate().map(one).collect()
    }

    fn preference(
        &mut self,
        with: With,
        prompts: &[Prompt],
        a: &str,
        b: &str,
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<f64>, EngineError> {
        let head = self.head(with)?;
        if a.split_whitespace().next() == b.split_whitespace().next() {
            let words = [a.to_owned(), b.to_owned()];
            return Err(EngineError::SameFirstToken {
                model: self.base.name.clone(),
                words,
            });
        }
        let one = |(i, prompt): (usize, &Prompt)| {
            monitor.tick(i, prompts.len())?;
            let prompt = prompt.whole();
            Ok(self.log_probability(head, &prompt, a) - self.log_probability(head, &prompt, b))
        };
        prompts.iter().enumerate().map(one).collect()
    }

    fn logits(&mut self, with: With, pair: &Pair) -> Result<Vec<Vec<f32>>, EngineError> {
        let (features, answer) = (
            self.base.features(&pair.prompt.whole()),
            pair.completion.trim(),
        );
        Ok(vec![self.head(with)?.map_or_else(
            || vec![0.0],
            |head| head.logits(&features, answer),
        )])
    }
}

impl Train for ToyModel {
    fn trainer(&mut self, spec: &LoraSpec) -> Result<Box<dyn Trainer + '_>, EngineError> {
        Ok(Box::new(ToyTrainer::new(&self.base, spec)?))
    }
}

#[cfg(test)]
mod tests;
