//! From what a client wrote to the tokens that the model goes on from.

use serde_json::{Map, Value};
use translora_harvest::{Asked, Role, Turn};

use super::App;
use super::options::{Options, known};
use super::schema::{Chat, Content, Message, Piece, Prompt, Prompts, Template};
use super::tools::{self, Tools};
use crate::engine::host::{Rendering, THOUGHT, Token, ToolUse};
use crate::serve::error::ApiError;
use crate::serve::harvest::Asking;
use crate::serve::live::Choice;

/// Bytes that a token of a prompt has at most, on average. Encoding takes longer than in proportion
/// to the text, so what cannot fit is refused before.
const TOKEN_BYTES: usize = 16;
/// Bytes that a prompt may have for a context however small, so that its tokens can be counted.
const PROMPT_BYTES: usize = 1 << 14;

/// Text as tokens; markup counts as markup where `special`.
///
/// fails: it is far too long for a slot.
pub(super) fn tokens_of(app: &App, text: &str, special: bool) -> Result<Vec<Token>, ApiError> {
    let context = app.host.info().context;
    if text.len() > PROMPT_BYTES.max(context.saturating_mul(TOKEN_BYTES)) {
        return Err(ApiError::bytes(text.len(), context));
    }
    Ok(app.host.encode(text, special)?)
}

/// Tokens of text that a model goes on from, with what it wants at the beginning.
pub(super) fn encode(app: &App, text: &str) -> Result<Vec<Token>, ApiError> {
    let mut tokens = tokens_of(app, text, true)?;
    if let Some(bos) = app.host.bos().filter(|bos| tokens.first() != Some(bos)) {
        tokens.insert(0, bos);
    }
    Ok(tokens)
}

/// The prompts of a completion, and whether they came as a list of several.
///
/// fails: none, too many, a token that is not in the vocabulary.
pub(super) fn prompts(
    app: &App,
    prompts: Option<Prompts>,
) -> Result<(Vec<Vec<Token>>, bool), ApiError> {
    let most = app.config.limits.prompts_per_request_max;
    match prompts {
        None => Err(ApiError::input("\"prompt\" is missing")),
        Some(Prompts::One(one)) => Ok((vec![prompt(app, one)?], false)),
        Some(Prompts::Many(many)) if many.is_empty() => {
            Err(ApiError::input("\"prompt\" is an empty list"))
        }
        Some(Prompts::Many(many)) if many.len() > most => Err(ApiError::input(format!(
            "a request may have {most} prompts, not {}",
            many.len()
        ))),
        Some(Prompts::Many(many)) => {
            let several = many.len() > 1;
            let all = many.into_iter().map(|one| prompt(app, one));
            Ok((all.collect::<Result<_, _>>()?, several))
        }
    }
}

fn prompt(app: &App, prompt: Prompt) -> Result<Vec<Token>, ApiError> {
    let pieces = match prompt {
        Prompt::Text(text) => return encode(app, &text),
        Prompt::Object(object) => return encode(app, &object.prompt_string),
        Prompt::Mixed(pieces) => pieces,
    };
    let mut tokens = Vec::new();
    for (at, piece) in pieces.into_iter().enumerate() {
        match piece {
            Piece::Text(text) if at == 0 => tokens = encode(app, &text)?,
            Piece::Text(text) => tokens.extend(tokens_of(app, &text, true)?),
            Piece::Token(token) => tokens.push(known(app, token.0).ok_or_else(|| {
                ApiError::input(format!(
                    "\"prompt\" has the token {}: this model's are 0 to {}",
                    token.0,
                    app.host.info().vocabulary.saturating_sub(1)
                ))
            })?),
        }
    }
    Ok(tokens)
}

/// A conversation as the text that the model goes on from, under the template of what answers.
///
/// fails: it is empty or ends with two answers, or the template refuses it.
pub(super) fn conversation(
    app: &App,
    with: &Choice,
    fields: Template,
    tools: Option<&Tools>,
) -> Result<String, ApiError> {
    if fields.messages.is_empty() {
        return Err(ApiError::input("\"messages\" must be a list of messages"));
    }
    let (messages, context) = (fields.messages.len(), app.host.info().context);
    if messages > context {
        return Err(ApiError::input(format!(
            "the conversation has {messages} messages, and the context of a slot is {context} tokens"
        )));
    }
    let (continues, opens) = (fields.continue_final_message, fields.add_generation_prompt);
    if continues == Some(true) && opens == Some(true) {
        return Err(ApiError::input(
            "\"add_generation_prompt\" and \"continue_final_message\" exclude each other",
        ));
    }
    let last = fields.messages.last().filter(|_| continues != Some(false));
    if let Some(field) = last.and_then(more_than_text) {
        return Err(ApiError::input(format!(
            "the last message has {field:?}, so its text cannot be gone on with: say \"continue_final_message\": false"
        )));
    }
    let chat = with.chat(app.host.chat());
    let native = chat.tool_use();
    let turns = fields
        .messages
        .into_iter()
        .map(|message| turn(message, native));
    let mut turns = turns.collect::<Result<Vec<_>, _>>()?;
    // An answer that was begun is gone on with.
    let answers = |turn: &Value| turn["role"] == "assistant";
    let begun = turns.pop_if(|turn| answers(turn) && continues != Some(false));
    if begun.is_some() && turns.last().is_some_and(answers) {
        return Err(ApiError::input(
            "two messages of the assistant at the end: which one is to be gone on with?",
        ));
    }
    if turns.is_empty() {
        return Err(ApiError::input(
            "the conversation needs a message that is not the assistant's",
        ));
    }
    let listed = match tools {
        Some(tools) if native.is_some() => tools.listed(),
        Some(tools) => {
            tools.announce(&mut turns);
            Vec::new()
        }
        None => Vec::new(),
    };
    let rendering = Rendering {
        answer: begun.is_some() || opens != Some(false),
        tools: listed,
        kwargs: variables(fields.chat_template_kwargs)?,
        ..Rendering::default()
    };
    let mut text = chat.render(&turns.into(), &rendering)?;
    if let Some(begun) = begun.as_ref().and_then(|turn| turn["content"].as_str()) {
        // What was begun is an answer, and no thought.
        let [opened, closed] = THOUGHT;
        if text.trim_end().ends_with(opened) {
            text.push_str(closed);
        }
        text.push_str(begun);
    }
    Ok(text)
}

/// What an assistant's message has besides its text.
fn more_than_text(message: &Message) -> Option<&'static str> {
    let calls = message.tool_calls.as_ref();
    if message.role != "assistant" {
        None
    } else if calls.is_some_and(|calls| !calls.is_empty()) {
        Some("tool_calls")
    } else {
        let thought = message.reasoning_content.as_ref();
        thought.map(|_| "reasoning_content")
    }
}

/// Variables that a request sets. What the template does not read changes nothing.
fn variables(kwargs: Option<Map<String, Value>>) -> Result<Map<String, Value>, ApiError> {
    let kwargs = kwargs.unwrap_or_default();
    match kwargs.get("enable_thinking") {
        Some(value) if !value.is_boolean() => Err(ApiError::input(format!(
            "\"chat_template_kwargs.enable_thinking\" is true or false, not {value}"
        ))),
        _ => Ok(kwargs),
    }
}

/// What may be kept of a conversation: nothing where it has tools, other roles than three, or ends
/// with an answer that is to be gone on with.
pub(super) fn asking_of_chat(app: &App, options: &Options, fields: &Chat) -> Option<Asking> {
    let asked = || {
        let has_tools = fields.tools.as_ref().is_some_and(|tools| !tools.is_empty());
        let turns = fields
            .messages
            .iter()
            .map(plain_turn)
            .collect::<Option<_>>();
        turns.filter(|_| !has_tools).and_then(Asked::of_turns)
    };
    let harvest = app.harvest.as_ref()?;
    harvest.asking(&options.with, options.grammar.is_none(), asked)
}

/// A message of text alone.
fn plain_turn(message: &Message) -> Option<Turn> {
    let role = match message.role.as_str() {
        "system" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        _ => return None,
    };
    if message
        .tool_calls
        .as_ref()
        .is_some_and(|calls| !calls.is_empty())
    {
        return None;
    }
    let content = match message.content.as_ref()? {
        Content::Text(text) => text.clone(),
        Content::Parts(parts) => {
            let texts = parts.iter().map(|part| part.text.as_deref());
            texts.collect::<Option<Vec<_>>>()?.join("\n")
        }
    };
    Some(Turn { role, content })
}

/// What may be kept of a prompt that is no conversation: its text, with what a template wrote into
/// it.
pub(super) fn asking_of_text(app: &App, options: &Options, prompt: &[Token]) -> Option<Asking> {
    let asked = || {
        let bos = app.host.bos();
        let own = prompt.iter().enumerate();
        let own = own.filter(|&(at, token)| at > 0 || Some(*token) != bos);
        let bytes: Vec<u8> = own
            .flat_map(|(_, token)| app.host.piece(*token, true))
            .collect();
        Asked::of_text(String::from_utf8(bytes).ok()?)
    };
    let harvest = app.harvest.as_ref()?;
    harvest.asking(&options.with, options.grammar.is_none(), asked)
}

fn turn(mut message: Message, native: Option<&ToolUse>) -> Result<Value, ApiError> {
    let content = match message.content.take() {
        None if message.role == "assistant" => String::new(),
        None => return Err(ApiError::input("a message without \"content\"")),
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => {
            let texts = parts.into_iter().map(|part| match part.text {
                Some(text) if part.kind == "text" => Ok(text),
                _ => Err(ApiError::input(format!(
                    "a part of a message is {:?}: parts must be {{\"type\": \"text\", \"text\"}}, as this server reads text only",
                    part.kind
                ))),
            });
            texts.collect::<Result<Vec<_>, _>>()?.join("\n")
        }
    };
    match native {
        Some(native) => tools::native_turn(message, &content, native),
        None => Ok(tools::text_turn(&message, &content)),
    }
}
