//! What the endpoints that generate answer. The OpenAPI document has its schemas from here.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::App;
use super::answer::{finite, piece};
use crate::engine::host::Token;
use crate::serve::sampler::{Drawn, Sampling};
use crate::serve::slots::{Done, End};

/// An answer in OpenAI's form.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Answer<C> {
    /// Of this answer alone.
    pub id: String,
    /// `chat.completion` or `text_completion`
    pub object: &'static str,
    /// units: seconds since 1970
    pub created: u64,
    /// As the request called it.
    pub model: String,
    /// The program that answered.
    pub system_fingerprint: &'static str,
    /// The adapters that it was computed under.
    pub generation: String,
    /// One for each prompt.
    pub choices: Vec<C>,
    pub usage: Usage,
    pub timings: Timings,
}

/// An event of a stream in OpenAI's form. The last event is the text `[DONE]`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Chunk<C> {
    /// Of the whole answer.
    pub id: String,
    /// `chat.completion.chunk` or `text_completion`
    pub object: &'static str,
    /// units: seconds since 1970
    pub created: u64,
    /// As the request called it.
    pub model: String,
    /// The program that answered.
    pub system_fingerprint: &'static str,
    /// The adapters that it is computed under.
    pub generation: String,
    /// One; none with the counts.
    pub choices: Vec<C>,
    /// At the end, where `stream_options` demands it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// At the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
}

/// The answer to a conversation.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatChoice {
    pub index: usize,
    pub message: Reply,
    pub finish_reason: FinishReason,
    /// Where `logprobs` is true.
    pub logprobs: Option<ChatProbabilities>,
}

/// A message of the model.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Reply {
    /// `assistant`
    pub role: &'static str,
    /// Null where there are calls and nothing else.
    pub content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<Call>>,
}

/// A part of the answer to a conversation.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatPart {
    pub index: usize,
    pub delta: Delta,
    /// In the last part.
    pub finish_reason: Option<FinishReason>,
    /// Where `logprobs` is true.
    pub logprobs: Option<ChatProbabilities>,
}

impl ChatPart {
    pub(super) fn new(delta: Delta) -> Self {
        Self {
            index: 0,
            delta,
            finish_reason: None,
            logprobs: None,
        }
    }
}

/// What a part adds to the message.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Delta {
    /// `assistant`, in the first part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// Null in the first part, as in llama-server's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub content: Option<Option<String>>,
    /// Whole, in one part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<Call>>,
}

/// A call of a function.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Call {
    /// Its place among the calls, in a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// The call's own name.
    pub id: String,
    /// `function`
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub function: FunctionCall,
}

/// What is called.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FunctionCall {
    pub name: String,
    /// JSON in a text.
    pub arguments: String,
}

/// How a prompt goes on, or a part of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TextChoice {
    /// Which prompt.
    pub index: usize,
    pub text: String,
    /// At the end.
    pub finish_reason: Option<FinishReason>,
    /// Where `logprobs` demands it.
    pub logprobs: Option<TextProbabilities>,
}

/// Why an answer ends.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum FinishReason {
    /// The model ended, or a text of `stop` came.
    Stop,
    /// It has as many tokens as it may.
    Length,
    /// It calls functions.
    ToolCalls,
}

impl From<&End> for FinishReason {
    fn from(end: &End) -> Self {
        match end {
            End::Limit => Self::Length,
            End::Model | End::Word(_) => Self::Stop,
        }
    }
}

/// Counts of tokens, as OpenAI has them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub total_tokens: usize,
    pub prompt_tokens_details: CachedTokens,
}

/// Tokens of the prompt that were decoded before.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CachedTokens {
    pub cached_tokens: usize,
}

impl From<&Done> for Usage {
    fn from(done: &Done) -> Self {
        Self {
            prompt_tokens: done.prompt_tokens,
            completion_tokens: done.tokens,
            total_tokens: done.prompt_tokens + done.tokens,
            prompt_tokens_details: CachedTokens {
                cached_tokens: done.cached,
            },
        }
    }
}

/// Times, as llama-server has them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Timings {
    /// Tokens of the prompt that were decoded before.
    pub cache_n: usize,
    /// Tokens of the prompt that were decoded for this answer.
    pub prompt_n: usize,
    pub prompt_ms: f64,
    pub prompt_per_token_ms: f64,
    pub prompt_per_second: f64,
    /// Tokens of the answer.
    pub predicted_n: usize,
    pub predicted_ms: f64,
    pub predicted_per_token_ms: f64,
    pub predicted_per_second: f64,
}

impl From<&Done> for Timings {
    fn from(done: &Done) -> Self {
        let per = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        let read = done.prompt_tokens - done.cached;
        Self {
            cache_n: done.cached,
            prompt_n: read,
            prompt_ms: done.prompt_ms,
            prompt_per_token_ms: per(done.prompt_ms, read as f64),
            prompt_per_second: per(1e3 * read as f64, done.prompt_ms),
            predicted_n: done.tokens,
            predicted_ms: done.answer_ms,
            predicted_per_token_ms: per(done.answer_ms, done.tokens as f64),
            predicted_per_second: per(1e3 * done.tokens as f64, done.answer_ms),
        }
    }
}

/// Probabilities, as OpenAI's chat has them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatProbabilities {
    content: Vec<DrawnToken>,
}

impl ChatProbabilities {
    pub(super) fn new(app: &App, drawn: &[Drawn]) -> Self {
        let content = drawn.iter().map(|drawn| DrawnToken::new(app, drawn, false));
        Self {
            content: content.collect(),
        }
    }
}

/// A token of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DrawnToken {
    /// Its number, from llama-server's endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Token>,
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
    /// The likeliest ones in its place.
    top_logprobs: Vec<LikelyToken>,
}

impl DrawnToken {
    /// `ids`: llama-server's numbers too.
    pub(super) fn new(app: &App, drawn: &Drawn, ids: bool) -> Self {
        let one = |&(token, logprob): &(Token, f64)| {
            let bytes = app.host.piece(token, true);
            LikelyToken {
                id: ids.then_some(token),
                token: String::from_utf8_lossy(&bytes).into_owned(),
                logprob: finite(logprob),
                bytes,
            }
        };
        let LikelyToken {
            id,
            token,
            logprob,
            bytes,
        } = one(&(drawn.token, drawn.log_probability));
        Self {
            id,
            token,
            logprob,
            bytes,
            top_logprobs: drawn.top.iter().map(one).collect(),
        }
    }
}

/// A token that could have been drawn.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LikelyToken {
    /// Its number, from llama-server's endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Token>,
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
}

/// Probabilities, as OpenAI's completions have them: an item of each list for each token.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TextProbabilities {
    tokens: Vec<String>,
    token_logprobs: Vec<f64>,
    /// The likeliest tokens, by their text.
    #[schema(value_type = Vec<std::collections::BTreeMap<String, f64>>)]
    top_logprobs: Vec<Map<String, Value>>,
    /// Where the token begins in the answer. units: bytes
    text_offset: Vec<usize>,
}

impl TextProbabilities {
    /// `offset`: of the first token in the answer. units: bytes
    pub(super) fn new(app: &App, drawn: &[Drawn], offset: usize) -> Self {
        let tokens: Vec<String> = drawn.iter().map(|one| piece(app, one.token)).collect();
        let offsets = tokens.iter().scan(offset, |at, text| {
            let before = *at;
            *at += text.len();
            Some(before)
        });
        let top = |drawn: &Drawn| {
            let all = drawn.top.iter();
            all.map(|&(token, logprob)| (piece(app, token), finite(logprob).into()))
                .collect()
        };
        Self {
            token_logprobs: drawn
                .iter()
                .map(|one| finite(one.log_probability))
                .collect(),
            top_logprobs: drawn.iter().map(top).collect(),
            text_offset: offsets.collect(),
            tokens,
        }
    }
}

/// An answer in llama-server's form.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Completions {
    /// To one prompt.
    One(Completed),
    /// To several, in their order.
    Many(Vec<Completed>),
}

/// An answer, or what `response_fields` names of it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Completed {
    /// All of it.
    Whole(Box<Completion>),
    /// What `response_fields` names, by these names.
    #[schema(value_type = Object)]
    Chosen(Map<String, Value>),
}

/// An answer to a prompt, and the last event of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Completion {
    /// Which prompt.
    pub index: usize,
    /// Empty at the end of a stream.
    pub content: String,
    /// Where `return_tokens` is true; none at the end of a stream.
    pub tokens: Vec<Token>,
    pub id_slot: usize,
    /// True.
    pub stop: bool,
    /// As the request called it.
    pub model: String,
    /// The adapters that it was computed under.
    pub generation: String,
    /// Tokens of the answer.
    pub tokens_predicted: usize,
    /// Tokens of the prompt.
    pub tokens_evaluated: usize,
    /// Tokens that the slot holds.
    pub tokens_cached: usize,
    pub generation_settings: Settings,
    /// As the model saw it, markup included.
    pub prompt: String,
    pub has_new_line: bool,
    /// The context was full.
    pub truncated: bool,
    pub stop_type: StopType,
    /// The text of `stop` that ended it.
    pub stopping_word: String,
    pub timings: Timings,
    /// Where `n_probs` demands it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_probabilities: Option<Vec<DrawnToken>>,
}

/// A piece of an answer in llama-server's form.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CompletionPart {
    pub index: usize,
    pub content: String,
    pub tokens: Vec<Token>,
    /// False.
    pub stop: bool,
    /// Where `n_probs` demands it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_probabilities: Option<Vec<DrawnToken>>,
}

/// An event of a stream in llama-server's form: pieces, and the end.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum CompletionEvent {
    /// A piece.
    Part(CompletionPart),
    /// The end.
    End(Completed),
}

/// Why a completion ends, in llama-server's words.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum StopType {
    /// The model ended.
    Eos,
    /// A text of `stop` came.
    Word,
    /// It has as many tokens as it may.
    Limit,
}

impl From<&End> for StopType {
    fn from(end: &End) -> Self {
        match end {
            End::Model => Self::Eos,
            End::Word(_) => Self::Word,
            End::Limit => Self::Limit,
        }
    }
}

/// How tokens are drawn, in llama-server's words.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Settings {
    seed: u32,
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    repeat_last_n: usize,
    repeat_penalty: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
    stop: Vec<String>,
    /// -1: what the context holds.
    n_predict: i64,
    /// As `n_predict`.
    max_tokens: i64,
}

impl Settings {
    pub(super) fn new(sampling: &Sampling, stops: &[String], tokens_max: Option<usize>) -> Self {
        let most = tokens_max.map_or(-1, |most| i64::try_from(most).unwrap_or(i64::MAX));
        Self {
            seed: sampling.seed,
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repeat_last_n: sampling.repeat_last_n,
            repeat_penalty: sampling.repeat_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            stop: stops.to_vec(),
            n_predict: most,
            max_tokens: most,
        }
    }
}
