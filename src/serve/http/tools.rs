//! Calls of functions. Where the template writes tools, it says what can be called, and calls are
//! written as it writes them. Where it does not, the system message says so in JSON. A grammar lets an
//! answer be a call that fits or a response.

use serde_json::{Map, Value, json};

use super::App;
use super::generated::{Call, FunctionCall};
use super::schema::{Message, Tool, ToolChoice, ToolMode};
use crate::engine::host::{CallForm, Conversations, ToolUse};
use crate::serve::error::ApiError;
use crate::serve::grammar::{self, Function, Json};

/// What an answer may call.
pub(super) struct Tools {
    functions: Vec<Function>,
    /// As templates have them.
    listed: Vec<Value>,
    must_call: bool,
    several: bool,
}

/// An answer of a model that may call functions.
pub(super) enum Said {
    /// Calls, as OpenAI's messages have them, and what was said before.
    Calls {
        text: String,
        calls: Vec<Call>,
    },
    Text(String),
}

impl Tools {
    /// Read the functions of a request; none where it has none or wants none called.
    ///
    /// `raw`: the request's body, whose order the schemas keep.
    ///
    /// fails: a choice of what is not there; a tool that is no function
    pub(super) fn read(
        tools: &[Tool],
        choice: Option<&ToolChoice>,
        several: bool,
        raw: &Json,
    ) -> Result<Option<Self>, ApiError> {
        let (must_call, only) = match choice {
            None => (false, None),
            Some(ToolChoice::Mode(ToolMode::None)) => return Ok(None),
            Some(ToolChoice::Mode(mode)) => (matches!(mode, ToolMode::Required), None),
            Some(ToolChoice::Named(named)) => (true, Some(named.function.name.as_str())),
        };
        let (mut functions, mut listed) = (Vec::new(), Vec::new());
        for (at, tool) in tools.iter().enumerate() {
            if tool.kind != "function" {
                return Err(ApiError::input(format!(
                    "\"tools[{at}]\" is a {:?}: this server knows functions only",
                    tool.kind
                )));
            }
            let name = &tool.function.name;
            if only.is_some_and(|only| only != name) {
                continue;
            }
            listed.push(json!({ "type": "function", "function": described(tool) }));
            let parameters = ["tools", &at.to_string(), "function", "parameters"];
            functions.push(Function {
                name: name.clone(),
                description: tool.function.description.clone().unwrap_or_default(),
                parameters: raw
                    .at(&parameters)
                    .filter(|json| **json != Json::Null)
                    .cloned(),
            });
        }
        if functions.is_empty() && must_call {
            return Err(ApiError::input(
                "\"tool_choice\" wants a function that \"tools\" does not have",
            ));
        }
        Ok((!functions.is_empty()).then_some(Self {
            functions,
            listed,
            must_call,
            several,
        }))
    }

    /// The grammar of an answer, in the form of the template, and how to read what it lets through.
    ///
    /// fails: the parameters of a function demand what no grammar says
    pub(super) fn grammar(&self, chat: &Conversations) -> Result<(String, Calls), ApiError> {
        let form = chat.tool_use().and_then(|native| native.calls.clone());
        let (must, several) = (self.must_call, self.several);
        let grammar = grammar::of_calls(&self.functions, must, several, form.as_ref());
        let grammar = grammar.map_err(|error| ApiError::input(format!("\"tools\": {error}")))?;
        let names = self.functions.iter().map(|function| function.name.clone());
        let names = names.collect();
        Ok((grammar, Calls { names, form }))
    }

    /// The functions, for a template that writes them.
    pub(super) fn listed(&self) -> Vec<Value> {
        self.listed.clone()
    }

    /// Say in the system message what can be called and how.
    pub(super) fn announce(&self, turns: &mut Vec<Value>) {
        let one = |function: &Function| {
            let parameters = function
                .parameters
                .as_ref()
                .map_or("{}".into(), Json::to_string);
            format!(
                "- {}: {} Arguments, as a JSON schema: {parameters}\n",
                function.name, function.description
            )
        };
        let functions: String = self.functions.iter().map(one).collect();
        let calls = r#"{"tool_calls": [{"name": "...", "arguments": {...}}]}"#;
        let how = if self.must_call {
            format!("Answer with a call of a function, as {calls}.")
        } else {
            format!(
                "Answer in JSON: either with a call, as {calls}, or with a response to the user, as {{\"response\": \"...\"}}."
            )
        };
        let text = format!("These functions can be called:\n{functions}{how}");
        match turns.first_mut().filter(|turn| turn["role"] == "system") {
            Some(system) => {
                let own = system["content"].as_str().unwrap_or_default();
                system["content"] = format!("{own}\n\n{text}").into();
            }
            None => turns.insert(0, json!({ "role": "system", "content": text })),
        }
    }
}

fn described(tool: &Tool) -> Map<String, Value> {
    let function = &tool.function;
    let fields = [
        ("name", Some(function.name.as_str().into())),
        (
            "description",
            function.description.as_deref().map(Into::into),
        ),
        ("parameters", function.parameters.clone().map(Value::Object)),
    ];
    let there = |(name, value): (&str, Option<Value>)| Some((name.to_owned(), value?));
    fields.into_iter().filter_map(there).collect()
}

/// How an answer that may call functions is read.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    names: Vec<String>,
    /// None: as the system message says.
    form: Option<CallForm>,
}

impl Calls {
    /// Read a finished answer. What the end of the context cut off is text as it stands.
    pub(super) fn read(&self, app: &App, text: String) -> Said {
        match &self.form {
            Some(form) => self.read_native(app, form, text),
            None => read_json(app, text),
        }
    }

    /// Calls as the template has them, wherever they begin: a model may say something before.
    fn read_native(&self, app: &App, form: &CallForm, text: String) -> Said {
        let (mut calls, mut before, mut at) = (Vec::new(), text.as_str(), 0);
        while let Some(start) = text[at..].find('{').map(|found| at + found) {
            at = start + 1;
            let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Json>();
            let Some(Ok(found)) = values.next() else {
                continue;
            };
            let Some(Json::Text(name)) = found.get(&form.name) else {
                continue;
            };
            let Some(arguments @ Json::Object(_)) = found.get(&form.arguments) else {
                continue;
            };
            if !self.names.contains(name) {
                continue;
            }
            if calls.is_empty() {
                before = &text[..start];
            }
            at = start + values.byte_offset();
            calls.push(call(app, name, arguments.to_string()));
        }
        if calls.is_empty() {
            return Said::Text(text);
        }
        // Markup in what opens a call may be there or not, as it is a token of its own.
        let open = form.open.trim();
        let before = before.trim_end();
        Said::Calls {
            text: before
                .strip_suffix(open)
                .unwrap_or(before)
                .trim()
                .to_owned(),
            calls,
        }
    }
}

fn read_json(app: &App, text: String) -> Said {
    let Ok(json) = Json::read(text.as_bytes()) else {
        return Said::Text(text);
    };
    if let Some(Json::Text(response)) = json.get("response") {
        return Said::Text(response.clone());
    }
    let Some(Json::List(calls)) = json.get("tool_calls") else {
        return Said::Text(text);
    };
    let one = |found: &Json| {
        let Some(Json::Text(name)) = found.get("name") else {
            return None;
        };
        let arguments = found.get("arguments").map_or("{}".into(), Json::to_string);
        Some(call(app, name, arguments))
    };
    match calls.iter().map(one).collect() {
        Some(calls) => Said::Calls {
            text: String::new(),
            calls,
        },
        None => Said::Text(text),
    }
}

fn call(app: &App, name: &str, arguments: String) -> Call {
    Call {
        index: None,
        id: app.id("call"),
        kind: "function",
        function: FunctionCall {
            name: name.to_owned(),
            arguments,
        },
    }
}

/// A message for a template that writes tools.
///
/// fails: the arguments of a call are no JSON, and the template takes them as an object
pub(super) fn native_turn(
    message: Message,
    content: &str,
    native: &ToolUse,
) -> Result<Value, ApiError> {
    let mut turn = json!({ "role": message.role, "content": content });
    for (name, value) in [
        ("name", message.name),
        ("reasoning_content", message.reasoning_content),
        ("tool_call_id", message.tool_call_id),
    ] {
        if let Some(value) = value {
            turn[name] = value.into();
        }
    }
    let calls = message.tool_calls.unwrap_or_default();
    if calls.is_empty() {
        return Ok(turn);
    }
    let one = |made: super::schema::ToolCall| {
        let (name, text) = (made.function.name, made.function.arguments);
        let arguments = if native.objects {
            serde_json::from_str(&text).map_err(|error| {
                ApiError::input(format!(
                    "the arguments of a call of {name:?} are no JSON: {error}"
                ))
            })?
        } else {
            Value::from(text)
        };
        let function = json!({ "name": name, "arguments": arguments });
        let mut call = json!({ "type": "function", "function": function });
        if let Some(id) = made.id {
            call["id"] = id.into();
        }
        Ok(call)
    };
    let calls = calls
        .into_iter()
        .map(one)
        .collect::<Result<Vec<_>, ApiError>>()?;
    turn["tool_calls"] = calls.into();
    Ok(turn)
}

/// A message as a turn of text: the calls of an answer, or the result of one, as JSON.
pub(super) fn text_turn(message: &Message, content: &str) -> Value {
    let calls = message.tool_calls.as_deref().unwrap_or_default();
    if !calls.is_empty() {
        let one = |call: &super::schema::ToolCall| {
            let arguments = &call.function.arguments;
            let arguments = serde_json::from_str::<Value>(arguments)
                .unwrap_or_else(|_| arguments.as_str().into());
            json!({ "name": call.function.name, "arguments": arguments })
        };
        let calls: Vec<Value> = calls.iter().map(one).collect();
        let content = json!({ "tool_calls": calls }).to_string();
        return json!({ "role": message.role, "content": content });
    }
    if message.role == "tool" {
        let id = message.tool_call_id.as_deref();
        let result = json!({ "tool_response": { "tool_call_id": id, "content": content } });
        return json!({ "role": "user", "content": result.to_string() });
    }
    let mut turn = json!({ "role": message.role, "content": content });
    if let Some(thought) = &message.reasoning_content {
        turn["reasoning_content"] = thought.as_str().into();
    }
    turn
}
