//! What answers came to, by the adapters that gave them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::harvest::Asking;
use super::live::{Key, generation};

/// Adapters with a generation that are counted; the oldest goes first, so that a server that
/// exchanges adapters for months does not grow by it.
const KEPT_MAX: usize = 128;
/// Bounds of the histograms: the first, and how many, each twice the one before.
/// units: seconds
const FIRST_BOUND: f64 = 0.005;
const BOUNDS: u16 = 15;

/// An answer that came to its end.
#[derive(Clone, Debug)]
pub(super) struct Finished {
    pub names: Arc<[String]>,
    pub key: Key,
    pub prompt_tokens: usize,
    pub tokens: usize,
    /// From the request to its first token. units: seconds
    pub first_seconds: f64,
    /// From the request to its last token. units: seconds
    pub whole_seconds: f64,
    /// What may be kept of it.
    pub asking: Option<Asking>,
}

/// Who answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    adapter: String,
    generation: String,
}

type Histograms = Family<Of, Histogram, fn() -> Histogram>;

/// The counters and histograms of answers.
pub(super) struct Meters {
    requests: Family<Of, Counter>,
    prompt_tokens: Family<Of, Counter>,
    tokens: Family<Of, Counter>,
    first: Histograms,
    whole: Histograms,
    /// In the order in which they came.
    known: Mutex<VecDeque<Of>>,
}

impl Default for Meters {
    fn default() -> Self {
        let histograms = || {
            let one: fn() -> Histogram =
                || Histogram::new(exponential_buckets(FIRST_BOUND, 2.0, BOUNDS));
            Family::new_with_constructor(one)
        };
        Self {
            requests: Family::default(),
            prompt_tokens: Family::default(),
            tokens: Family::default(),
            first: histograms(),
            whole: histograms(),
            known: Mutex::default(),
        }
    }
}

impl Meters {
    /// Count an answer.
    ///
    /// `base`: what the base is called, which answers where there is no adapter
    pub(super) fn count(&self, finished: &Finished, base: &str) {
        let of = Of {
            adapter: if finished.names.is_empty() {
                base.to_owned()
            } else {
                finished.names.join("+")
            },
            generation: generation(&finished.key),
        };
        self.requests.get_or_create(&of).inc();
        let counts = [
            (&self.prompt_tokens, finished.prompt_tokens),
            (&self.tokens, finished.tokens),
        ];
        for (family, count) in counts {
            family.get_or_create(&of).inc_by(count as u64);
        }
        self.first
            .get_or_create(&of)
            .observe(finished.first_seconds);
        self.whole
            .get_or_create(&of)
            .observe(finished.whole_seconds);
        self.keep(of);
    }

    /// Forget the oldest where there are too many.
    fn keep(&self, of: Of) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(&of) {
            return;
        }
        known.push_back(of);
        if known.len() <= KEPT_MAX {
            return;
        }
        if let Some(oldest) = known.pop_front() {
            self.requests.remove(&oldest);
            self.prompt_tokens.remove(&oldest);
            self.tokens.remove(&oldest);
            self.first.remove(&oldest);
            self.whole.remove(&oldest);
        }
    }

    /// Put them among those that are sent.
    pub(super) fn register(&self, registry: &mut Registry) {
        let counters = [
            (
                "translora:adapter_requests",
                "Answers that were finished",
                &self.requests,
            ),
            (
                "translora:adapter_prompt_tokens",
                "Tokens of their prompts",
                &self.prompt_tokens,
            ),
            (
                "translora:adapter_tokens",
                "Tokens of these answers",
                &self.tokens,
            ),
        ];
        for (name, help, family) in counters {
            registry.register(name, help, family.clone());
        }
        let histograms = [
            (
                "translora:time_to_first_token_seconds",
                "From a request to the first token of its answer",
                &self.first,
            ),
            (
                "translora:request_seconds",
                "From a request to the end of its answer",
                &self.whole,
            ),
        ];
        for (name, help, family) in histograms {
            registry.register(name, help, family.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;

    #[test]
    fn answers_are_counted_by_adapter_and_generation_and_the_oldest_is_forgotten() {
        let meters = Meters::default();
        let one = |number: u64| Finished {
            names: Arc::from(["a".to_owned()]),
            key: vec![(number, 1.0_f32.to_bits())],
            prompt_tokens: 3,
            tokens: 2,
            first_seconds: 0.01,
            whole_seconds: 1.0,
            asking: None,
        };
        for number in 1..=KEPT_MAX as u64 + 1 {
            meters.count(&one(number), "base");
            meters.count(&one(number), "base");
        }
        let bare = Finished {
            names: Arc::from([]),
            key: Vec::new(),
            ..one(0)
        };
        meters.count(&bare, "base");
        let mut registry = Registry::default();
        meters.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).expect("it is text");
        for line in [
            "translora:adapter_requests_total{adapter=\"a\",generation=\"3\"} 2\n",
            "translora:adapter_prompt_tokens_total{adapter=\"a\",generation=\"3\"} 6\n",
            "translora:adapter_tokens_total{adapter=\"base\",generation=\"0\"} 2\n",
            "translora:request_seconds_count{adapter=\"a\",generation=\"3\"} 2\n",
            "translora:time_to_first_token_seconds_bucket{le=\"0.01\",adapter=\"a\",generation=\"3\"} 2\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        for gone in ["generation=\"1\"", "generation=\"2\""] {
            assert!(!text.contains(gone), "{gone}");
        }
    }
}
