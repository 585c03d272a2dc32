use serde::{Deserialize, Serialize};

/// Every bound of a run, in one place. What exceeds one is refused by name, never cut in silence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// One line of a JSONL file.
    pub line_bytes_max: usize,
    /// Lines of a JSONL file.
    pub rows_max: usize,
    /// A kit file.
    pub kit_bytes_max: u64,
    /// Metadata and tensor names at the start of a model, adapter or kit.
    pub header_bytes_max: u64,
    /// Words that a teacher names at each token of an answer.
    pub teacher_words_max: usize,
    /// Bytes of all answers that a teacher is asked about token by token. What it says takes some
    /// two hundred times as many.
    pub teacher_bytes_max: usize,
    /// Candidates drawn for each sample asked for, before a run gives up.
    pub candidates_per_sample_max: usize,
    /// Sequences decoded side by side.
    pub sequences_max: usize,
    /// Events waiting for a reader; progress beyond it is dropped, results never.
    pub events_queued_max: usize,
    /// The body of one HTTP request.
    pub request_bytes_max: usize,
    /// Seconds in which a body has to arrive.
    pub request_seconds_max: u64,
    /// Requests that wait for a slot; more are told to come again.
    pub requests_queued_max: usize,
    /// Prompts of one request.
    pub prompts_per_request_max: usize,
    /// Stop strings of one request.
    pub stops_max: usize,
    /// One stop string.
    pub stop_bytes_max: usize,
    /// Alternatives told for each token.
    pub logprobs_max: usize,
    /// Adapters served side by side.
    pub adapters_max: usize,
    /// Seconds that running requests have to end when the server is told to.
    pub shutdown_seconds_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line_bytes_max: 64 << 10,
            rows_max: 1_000_000,
            kit_bytes_max: 4 << 30,
            header_bytes_max: 256 << 20,
            teacher_words_max: 16,
            teacher_bytes_max: 1 << 20,
            candidates_per_sample_max: 24,
            sequences_max: 32,
            events_queued_max: 1024,
            request_bytes_max: 4 << 20,
            request_seconds_max: 30,
            requests_queued_max: 256,
            prompts_per_request_max: 64,
            stops_max: 16,
            stop_bytes_max: 256,
            logprobs_max: 100,
            adapters_max: 64,
            shutdown_seconds_max: 20,
        }
    }
}
