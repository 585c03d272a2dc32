use crate::control::Bounds;

/// What a server grants its clients. What exceeds one of them is refused by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections: how many, and how long each may wait.
    pub connections: Bounds,
    /// The body of one HTTP request.
    pub request_bytes_max: usize,
    /// Seconds in which a body has to arrive.
    pub request_seconds_max: u64,
    /// Requests that wait for a slot; more are refused for now.
    pub requests_queued_max: usize,
    /// Prompts of one request.
    pub prompts_per_request_max: usize,
    /// Stop strings of one request.
    pub stops_max: usize,
    /// One stop string.
    pub stop_bytes_max: usize,
    /// The grammar of one request, or what its JSON schema comes to.
    pub grammar_bytes_max: usize,
    /// Alternatives in the answer for each token.
    pub logprobs_max: usize,
    /// Adapters served side by side.
    pub adapters_max: usize,
    /// Seconds that running requests have to end in, when the server stops.
    pub shutdown_seconds_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: Bounds::default(),
            request_bytes_max: 4 << 20,
            request_seconds_max: 30,
            requests_queued_max: 256,
            prompts_per_request_max: 64,
            stops_max: 16,
            stop_bytes_max: 256,
            grammar_bytes_max: 128 << 10,
            logprobs_max: 100,
            adapters_max: 64,
            shutdown_seconds_max: 20,
        }
    }
}
