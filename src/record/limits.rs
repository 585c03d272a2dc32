use serde::{Deserialize, Serialize};

/// The bounds of a run: what a plan, a journal and a kit say of how much is read and made, because
/// the result depends on it. What exceeds one is refused by name, never cut in silence.
///
/// Every other bound lies beside what it bounds, and is the business of one room: what a server
/// grants its clients in `serve::Limits`, what a queue of jobs may hold in `jobs::Config`, and
/// anything that nobody sets in a constant `…_MAX` of the file that checks it. A bound that two
/// rooms need belongs here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// One row of data: four bytes for each token of the longest context that can be asked for.
    pub line_bytes_max: usize,
    /// Rows of a file.
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
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line_bytes_max: 4 << 20,
            rows_max: 1_000_000,
            kit_bytes_max: 4 << 30,
            header_bytes_max: 256 << 20,
            teacher_words_max: 16,
            teacher_bytes_max: 1 << 20,
            candidates_per_sample_max: 24,
            sequences_max: 32,
            events_queued_max: 1024,
        }
    }
}
