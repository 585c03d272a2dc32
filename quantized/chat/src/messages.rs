//! Fits a conversation to what a template takes.

use serde_json::{Value, json};

use crate::TemplateError;

/// What a template takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Takes {
    /// A system turn, and its text is written.
    pub system: bool,
    /// Content as text.
    pub text: bool,
    /// Content as a list of parts.
    pub parts: bool,
}

const USER: &str = "translora-user";
const SYSTEM: &str = "translora-system";

impl Takes {
    /// Find out by rendering conversations.
    pub fn of(render: impl Fn(&[Value]) -> Option<String>) -> Self {
        let writes = |messages: &[Value], word: &str| {
            render(messages).is_some_and(|text| text.contains(word) && !written_as_list(&text))
        };
        let user = |content: Value| json!({"role": "user", "content": content});
        let text = writes(&[user(json!(USER))], USER);
        let parts = writes(&[user(part(USER))], USER);
        let content = |word: &str| if text { json!(word) } else { part(word) };
        let system = json!({"role": "system", "content": content(SYSTEM)});
        let system = writes(&[system, user(content(USER))], SYSTEM);
        Self {
            system,
            text,
            parts,
        }
    }
}

fn part(text: &str) -> Value {
    json!([{"type": "text", "text": text}])
}

/// A template that expects text may write a list as Python or JSON would.
fn written_as_list(text: &str) -> bool {
    ["'text'", "\"text\""].iter().any(|key| text.contains(key))
}

/// The conversation in the form that the template takes. `takes` is called only where it matters.
pub(crate) fn fitted(
    mut messages: Vec<Value>,
    takes: impl Fn() -> Takes,
) -> Result<Vec<Value>, TemplateError> {
    if messages
        .iter()
        .any(|message| message.get("role").is_none_or(|role| !role.is_string()))
    {
        return Err(TemplateError::Messages);
    }
    let takes = takes();
    if !takes.system
        && messages
            .first()
            .is_some_and(|first| first["role"] == "system")
    {
        let system = messages.remove(0);
        let first = messages.first_mut().filter(|first| first["role"] == "user");
        let first = first.ok_or(TemplateError::System)?;
        first["content"] = merged(&system["content"], &first["content"], takes.parts)?;
    }
    for message in &mut messages {
        // As transformers does: a template often takes a null for the text "None".
        if let Some(fields) = message.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        let Some(content) = message.get_mut("content") else {
            continue;
        };
        if content.is_array() && !takes.parts {
            *content = joined(content)?.into();
        } else if let Some(text) = content.as_str().filter(|_| !takes.text && takes.parts) {
            *content = part(text);
        }
    }
    Ok(messages)
}

/// The system's text in front of the user's, as llama.cpp puts it.
fn merged(system: &Value, user: &Value, parts: bool) -> Result<Value, TemplateError> {
    let text = joined(system)? + "\n";
    Ok(match user {
        Value::Array(user) if parts => {
            let first = json!({"type": "text", "text": text});
            std::iter::once(first).chain(user.iter().cloned()).collect()
        }
        user => Value::String(text + &joined(user)?),
    })
}

/// Content as one text.
fn joined(content: &Value) -> Result<String, TemplateError> {
    let Value::Array(parts) = content else {
        return Ok(content.as_str().unwrap_or_default().to_owned());
    };
    let text = |part: &Value| match (part.as_str(), part["text"].as_str()) {
        (Some(text), _) | (None, Some(text)) => Ok(text.to_owned()),
        (None, None) => Err(TemplateError::Part(
            part["type"].as_str().unwrap_or("?").into(),
        )),
    };
    let texts: Vec<String> = parts.iter().map(text).collect::<Result<_, _>>()?;
    Ok(texts.join("\n"))
}
