//! What the endpoints read, as they read it. The OpenAPI document has its schemas from here.
use axum::body::Bytes;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::object::{OnlyObjects, only_objects};
use super::openapi::{bias, format, function, nothing, text};
use crate::control::Expected;

only_objects! {
    CalledFunction FunctionName Message NamedSchema Part PromptString ResponseFormat Scale
    StreamOptions Tool ToolByName ToolCall ToolFunction
}

/// What every endpoint that generates reads. Names and defaults are llama-server's and OpenAI's.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Common {
    /// The base or an adapter, as `/v1/models` lists them; the base where it is left out.
    pub model: Option<String>,
    /// Adapters by llama-server's numbers, and how strongly each works.
    pub lora: Option<Vec<Scale>>,
    /// The most tokens of an answer; -1: what the context holds.
    #[schema(value_type = Option<i64>, minimum = -1)]
    pub max_tokens: Option<Integer>,
    /// OpenAI's newer name for `max_tokens`.
    #[schema(value_type = Option<i64>, minimum = -1)]
    pub max_completion_tokens: Option<Integer>,
    /// llama-server's name for `max_tokens`.
    #[schema(value_type = Option<i64>, minimum = -1)]
    pub n_predict: Option<Integer>,
    /// From 0, always the likeliest token, to 100.
    #[schema(minimum = 0, maximum = 100)]
    pub temperature: Option<f32>,
    /// Only so many of the likeliest tokens; 0: all.
    #[schema(value_type = Option<i64>)]
    pub top_k: Option<Integer>,
    /// Only the likeliest tokens that have this probability together. From 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// Only tokens that have this share of the likeliest one's probability. From 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f32>,
    /// Tokens that the penalties look back at; -1: all.
    #[schema(value_type = Option<i64>, minimum = -1)]
    pub repeat_last_n: Option<Integer>,
    /// Above 1: lowers tokens that are there already. From 0.01 to 100.
    #[schema(minimum = 0.01, maximum = 100)]
    pub repeat_penalty: Option<f32>,
    /// Taken once from the logit of a token that is there already. From -100 to 100.
    #[schema(minimum = -100, maximum = 100)]
    pub presence_penalty: Option<f32>,
    /// Taken from the logit of a token for each time that it is there. From -100 to 100.
    #[schema(minimum = -100, maximum = 100)]
    pub frequency_penalty: Option<f32>,
    /// Added to logits: `{"15043": -100}` or `[[15043, -100], ["text", false]]`.
    #[schema(schema_with = bias)]
    pub logit_bias: Option<Value>,
    /// The same request with the same seed draws the same tokens; -1: another each time.
    #[schema(value_type = Option<i64>)]
    pub seed: Option<Integer>,
    /// Texts that end the answer and are no part of it.
    pub stop: Option<OneOrMany>,
    /// Go on where the model would end.
    pub ignore_eos: Option<bool>,
    /// Begin with what another request has decoded already; true where it is left out. The last
    /// digits of logits depend on how many tokens are decoded together, so where two tokens are
    /// nearly equal, a prompt that begins so may go on otherwise than one that is decoded whole.
    pub cache_prompt: Option<bool>,
    /// Answer in pieces, as server-sent events.
    pub stream: Option<bool>,
    /// What a stream holds besides.
    pub stream_options: Option<StreamOptions>,
    /// What the answer is held to, in llama.cpp's notation (GBNF).
    pub grammar: Option<String>,
    /// A JSON schema that the answer fits.
    #[schema(value_type = Option<Object>)]
    pub json_schema: Option<Map<String, Value>>,
    /// OpenAI's way to demand JSON.
    pub response_format: Option<ResponseFormat>,
    /// The body as it came: the order of a schema's properties is that of the answer's.
    #[serde(skip)]
    #[schema(ignore)]
    pub raw: Bytes,
}

/// `{"type": "text"}`, `{"type": "json_object"}`, or `{"type": "json_schema", "json_schema":
/// {"schema": …}}`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub(super) struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    #[schema(schema_with = format)]
    pub kind: FormatKind,
    /// Of `json_schema`.
    pub json_schema: Option<NamedSchema>,
    /// llama-server takes a schema here too.
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Map<String, Value>>,
}

/// What an answer is held to: nothing, some object, what fits a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FormatKind {
    Text,
    JsonObject,
    JsonSchema,
}

/// A schema as OpenAI has it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub(super) struct NamedSchema {
    /// The JSON schema.
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Map<String, Value>>,
    /// What the client calls it.
    #[serde(default, rename = "name")]
    _name: Option<String>,
    /// What it is for.
    #[serde(default, rename = "description")]
    _description: Option<String>,
    /// Answers always fit the schema here.
    #[serde(default, rename = "strict")]
    _strict: Option<bool>,
}

/// `POST /v1/chat/completions`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Chat {
    /// The conversation so far.
    #[serde(default)]
    #[schema(required = true, min_items = 1)]
    pub messages: Vec<Message>,
    /// False: do not open the assistant's turn.
    pub add_generation_prompt: Option<bool>,
    /// Whether a last message of the assistant is gone on with; true where it is left out.
    pub continue_final_message: Option<bool>,
    /// Functions that the answer may call.
    #[serde(default)]
    pub tools: Option<Vec<Tool>>,
    /// `none`, `auto`, `required`, or one function.
    pub tool_choice: Option<ToolChoice>,
    /// Whether an answer may have several calls; true where it is left out.
    pub parallel_tool_calls: Option<bool>,
    /// Variables of the chat template, such as `enable_thinking`.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Report the probability of each token.
    pub logprobs: Option<bool>,
    /// Report the probabilities of so many other tokens.
    #[schema(value_type = Option<i64>)]
    pub top_logprobs: Option<Integer>,
}

impl Chat {
    /// The conversation alone.
    pub(super) fn template(self) -> Template {
        Template {
            messages: self.messages,
            add_generation_prompt: self.add_generation_prompt,
            continue_final_message: self.continue_final_message,
            chat_template_kwargs: self.chat_template_kwargs,
            ..Template::default()
        }
    }
}

/// `POST /v1/completions`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Completion {
    /// What is gone on with.
    #[schema(required = true, value_type = Prompts)]
    pub prompt: Option<Prompts>,
    /// Report the probabilities of each token and of so many others; false: none.
    pub logprobs: Option<Count>,
}

/// llama-server's `POST /completion`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LlamaCompletion {
    /// What is gone on with.
    #[schema(required = true, value_type = Prompts)]
    pub prompt: Option<Prompts>,
    /// Report the probabilities of each token and of so many others; 0: none.
    #[schema(value_type = Option<i64>)]
    pub n_probs: Option<Integer>,
    /// Answer with the numbers of the tokens too.
    pub return_tokens: Option<bool>,
    /// Only these fields of the answer; `generation_settings/seed` takes one out of an object.
    pub response_fields: Option<Vec<String>>,
}

/// llama-server's `POST /apply-template`, and the conversation of other requests.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Template {
    /// The base or an adapter, whose template is used; as in a request for an answer.
    pub model: Option<String>,
    /// The conversation so far.
    #[serde(default)]
    #[schema(required = true, min_items = 1)]
    pub messages: Vec<Message>,
    /// Functions that the answer may call.
    #[serde(default)]
    pub tools: Option<Vec<Tool>>,
    /// `none`, `auto`, `required`, or one function.
    pub tool_choice: Option<ToolChoice>,
    /// Variables of the chat template, such as `enable_thinking`.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// False: do not open the assistant's turn.
    pub add_generation_prompt: Option<bool>,
    /// Whether a last message of the assistant is gone on with; true where it is left out.
    pub continue_final_message: Option<bool>,
}

/// `POST /tokenize`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tokenize {
    /// The text.
    #[serde(default)]
    pub content: String,
    /// Begin as every prompt begins.
    #[serde(default)]
    pub add_special: bool,
    /// What looks like a special token is one; true where it is left out.
    pub parse_special: Option<bool>,
    /// Answer with the text of each token too.
    #[serde(default)]
    pub with_pieces: bool,
}

/// `POST /detokenize`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Detokenize {
    /// Numbers of the model's vocabulary.
    pub tokens: Vec<Integer>,
}

/// vLLM's `POST /v1/load_lora_adapter`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Load {
    /// The name that requests carry.
    #[schema(min_length = 1, max_length = 128)]
    pub lora_name: String,
    /// The file, in the folder of adapters.
    #[schema(min_length = 1)]
    pub lora_path: String,
    /// Take the place of an adapter of this name.
    #[serde(default)]
    pub load_inplace: bool,
    /// Refuse to load where the base that is served is called otherwise.
    pub base_model_name: Option<String>,
    /// Refuse to load where another generation is live under the name; 0: where one is.
    pub expected_generation: Option<Expected>,
    /// Load it although it changes no answer.
    #[serde(default)]
    pub force: bool,
}

/// vLLM's `POST /v1/unload_lora_adapter`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Unload {
    /// The name that requests carry.
    pub lora_name: String,
}

/// An adapter by llama-server's number.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub(super) struct Scale {
    /// As `/lora-adapters` lists them.
    #[serde(deserialize_with = "number")]
    pub id: usize,
    /// How strongly it works; 0: not at all, 1: as it was trained.
    pub scale: f32,
}

/// What a stream holds besides.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub(super) struct StreamOptions {
    /// End with the counts of tokens.
    #[serde(default)]
    pub include_usage: Option<bool>,
    /// Some clients send it; there is nothing to hide.
    #[serde(default, rename = "include_obfuscation")]
    _include_obfuscation: Option<bool>,
}

/// One message of a conversation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub(super) struct Message {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// Text; an assistant's may be left out.
    pub content: Option<Content>,
    /// Who speaks, or the function that this answers.
    pub name: Option<String>,
    /// What the assistant thought before it answered, for templates that write it.
    pub reasoning_content: Option<String>,
    /// What an answer called, as it came.
    #[serde(default)]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// Of a message whose role is `tool`: the call that it answers.
    #[serde(default)]
    pub tool_call_id: Option<String>,
    /// OpenAI's answers carry it, so it comes back.
    #[serde(default, rename = "refusal")]
    #[schema(schema_with = nothing)]
    _refusal: Option<()>,
    /// As `refusal`.
    #[serde(default, rename = "annotations")]
    _annotations: Option<Vec<Value>>,
}

/// A tool of a request.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub(super) struct Tool {
    /// `function`
    #[serde(rename = "type")]
    #[schema(schema_with = function)]
    pub kind: String,
    /// What can be called.
    pub function: ToolFunction,
}

/// A function that can be called.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub(super) struct ToolFunction {
    /// Its name.
    pub name: String,
    /// What it is for; the model reads it.
    pub description: Option<String>,
    /// A JSON schema of its arguments; any object where it is left out.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Map<String, Value>>,
    /// Calls always fit the schema here.
    #[serde(default, rename = "strict")]
    _strict: Option<bool>,
}

/// Whether and what an answer calls.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be none, auto, required or a function")]
pub(super) enum ToolChoice {
    /// `none`, `auto` or `required`.
    Mode(ToolMode),
    /// One function.
    Named(ToolByName),
}

/// Whether an answer calls a function.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ToolMode {
    /// It does not.
    None,
    /// As the model likes.
    Auto,
    /// It does.
    Required,
}

/// `{"type": "function", "function": {"name": …}}`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub(super) struct ToolByName {
    /// `function`
    #[serde(default, rename = "type")]
    _kind: Option<String>,
    /// Which one.
    pub function: FunctionName,
}

/// A function by its name.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub(super) struct FunctionName {
    /// The name.
    pub name: String,
}

/// A call, as an answer had it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub(super) struct ToolCall {
    /// What was called, and how.
    pub function: CalledFunction,
    /// The call's own name.
    pub id: Option<String>,
    /// `function`
    #[serde(default, rename = "type")]
    _kind: Option<String>,
    /// Its place among the calls of an answer.
    #[serde(default, rename = "index")]
    _index: Option<usize>,
}

/// What was called.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub(super) struct CalledFunction {
    /// The function.
    pub name: String,
    /// The arguments, as JSON in a text.
    pub arguments: String,
}

/// The text of a message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a text, or a list of parts with a text")]
pub(super) enum Content {
    /// As it is.
    Text(String),
    /// Joined by line feeds.
    Parts(Vec<Part>),
}

/// A part of a message: text, as nothing else is read here.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(remote = "Self")]
pub(super) struct Part {
    /// `text`
    #[serde(rename = "type")]
    #[schema(schema_with = text)]
    pub kind: String,
    /// The text.
    #[schema(required = true, value_type = String)]
    pub text: Option<String>,
}

/// One text, or several.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a text or a list of texts")]
pub(super) enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// The prompts of a completion.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "a prompt must be text, tokens of this model, or a list of such"
)]
pub(super) enum Prompts {
    /// Several; each gets an answer.
    Many(Vec<Prompt>),
    /// One.
    One(Prompt),
}

/// What is gone on with.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "a prompt must be text, tokens of this model, or a list of such"
)]
pub(super) enum Prompt {
    /// Text.
    Text(String),
    /// Text and tokens in turns.
    Mixed(Vec<Piece>),
    /// llama-server's form of text.
    Object(PromptString),
}

/// Text or a token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a text or a token")]
pub(super) enum Piece {
    /// A number of the vocabulary.
    Token(Integer),
    /// Text.
    Text(String),
}

/// llama-server's form of text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub(super) struct PromptString {
    /// Text.
    pub prompt_string: String,
}

/// A whole number, which some clients write as 8.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(value_type = i64)]
pub(super) struct Integer(pub i128);

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let Integer(whole) = Integer::deserialize(deserializer)?;
    usize::try_from(whole).map_err(|_| D::Error::custom(format!("{whole} is no number of one")))
}

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let whole = value
            .as_i64()
            .map(i128::from)
            .or_else(|| value.as_u64().map(i128::from))
            .or_else(|| {
                let whole = |x: &f64| x.fract() == 0.0 && x.abs() < 1e19;
                value.as_f64().filter(whole).map(|x| x as i128)
            });
        whole
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("{value} is not a whole number")))
    }
}

/// A number of alternatives; some clients write false for none.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a whole number, or false for none")]
pub(super) enum Count {
    /// So many.
    Number(Integer),
    /// True is as many as the endpoint has by default, false is none.
    Switch(bool),
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn prompts_are_told_apart_by_what_they_hold() {
        let kind = |value: Value| match serde_json::from_value::<Prompts>(value) {
            Ok(Prompts::Many(many)) => format!("{} prompts", many.len()),
            Ok(Prompts::One(Prompt::Mixed(pieces))) => format!("{} pieces", pieces.len()),
            Ok(Prompts::One(Prompt::Text(_))) => "text".into(),
            Ok(Prompts::One(Prompt::Object(_))) => "object".into(),
            Err(error) => error.to_string(),
        };
        let wrong = "a prompt must be text, tokens of this model, or a list of such";
        for (value, expected) in [
            (json!("a"), "text"),
            (json!(["a", "b"]), "2 prompts"),
            (json!([1, 2, 3]), "3 pieces"),
            (json!(["a", 5]), "2 pieces"),
            (json!([[1, 2], "b", ["a", 3]]), "3 prompts"),
            (json!({ "prompt_string": "a" }), "object"),
            (json!([{ "prompt_string": "a" }]), "1 prompts"),
            (json!({ "prompt": "a" }), wrong),
            (json!([1.5]), wrong),
            (json!(3), wrong),
        ] {
            assert_eq!(kind(value.clone()), expected, "{value}");
        }
    }

    #[test]
    fn whole_numbers_may_have_a_point_and_nothing_behind_it() {
        for (value, whole) in [
            (json!(8), Some(8)),
            (json!(8.0), Some(8)),
            (json!(-1), Some(-1)),
            (json!(u64::MAX), Some(i128::from(u64::MAX))),
            (json!(8.5), None),
            (json!("8"), None),
            (json!(1e30), None),
        ] {
            let read = serde_json::from_value::<Integer>(value.clone()).ok();
            assert_eq!(read.map(|whole| whole.0), whole, "{value}");
        }
    }
}
