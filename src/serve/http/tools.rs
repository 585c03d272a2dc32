//! Calls of functions, whatever the template knows of them: the model reads what it may call in the
//! system message, and a grammar lets it answer with nothing but a call or a response.

use serde_json::{Value, json};

use super::App;
use super::schema::{Message, Tool, ToolChoice, ToolMode};
use crate::engine::host::Turn;
use crate::serve::error::ApiError;
use crate::serve::grammar::{self, Function, Json};

/// What an answer may call.
pub(super) struct Tools {
    functions: Vec<Function>,
    must_call: bool,
    several: bool,
}

/// An answer of a model that may call functions.
pub(super) enum Said {
    /// Calls, as OpenAI's messages have them.
    Calls(Vec<Value>),
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
        let mut functions = Vec::new();
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
            must_call,
            several,
        }))
    }

    /// The grammar of an answer.
    ///
    /// fails: the parameters of a function demand what no grammar says
    pub(super) fn grammar(&self) -> Result<String, ApiError> {
        grammar::of_calls(&self.functions, self.must_call, self.several)
            .map_err(|error| ApiError::input(format!("\"tools\": {error}")))
    }

    /// Say in the system message what can be called and how.
    pub(super) fn announce(&self, turns: &mut Vec<Turn>) {
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
        match turns.first_mut().filter(|turn| turn.role == "system") {
            Some(system) => system.content = format!("{}\n\n{text}", system.content),
            None => turns.insert(
                0,
                Turn {
                    role: "system".into(),
                    content: text,
                },
            ),
        }
    }

    /// Read a finished answer. What the end of the context cut off is text as it stands.
    pub(super) fn read_answer(app: &App, text: &str) -> Said {
        let Ok(json) = Json::read(text.as_bytes()) else {
            return Said::Text(text.into());
        };
        if let Some(Json::Text(response)) = json.get("response") {
            return Said::Text(response.clone());
        }
        let Some(Json::List(calls)) = json.get("tool_calls") else {
            return Said::Text(text.into());
        };
        let one = |call: &Json| {
            let Some(Json::Text(name)) = call.get("name") else {
                return Value::Null;
            };
            let arguments = call.get("arguments").map_or("{}".into(), Json::to_string);
            json!({
                "id": app.id("call"), "type": "function",
                "function": { "name": name, "arguments": arguments },
            })
        };
        Said::Calls(calls.iter().map(one).collect())
    }
}

/// A message about calls as a turn of text: the calls of an answer, or the result of one.
pub(super) fn turn(message: &Message, content: String) -> Turn {
    if let Some(calls) = message
        .tool_calls
        .as_deref()
        .filter(|calls| !calls.is_empty())
    {
        let one = |call: &super::schema::ToolCall| {
            let arguments = &call.function.arguments;
            let arguments = serde_json::from_str::<Value>(arguments)
                .unwrap_or_else(|_| arguments.as_str().into());
            json!({ "name": call.function.name, "arguments": arguments })
        };
        let calls: Vec<Value> = calls.iter().map(one).collect();
        return Turn {
            role: message.role.clone(),
            content: json!({ "tool_calls": calls }).to_string(),
        };
    }
    if message.role == "tool" {
        let id = message.tool_call_id.as_deref();
        let result = json!({ "tool_response": { "tool_call_id": id, "content": content } });
        return Turn {
            role: "user".into(),
            content: result.to_string(),
        };
    }
    Turn {
        role: message.role.clone(),
        content,
    }
}
