//! Finds out how a template writes tools and calls of them, by rendering conversations.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What a template does with tools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolUse {
    /// It wants the arguments of a call as an object; else as JSON in a text.
    pub objects: bool,
    /// How an answer calls; none where that is not JSON between fixed texts.
    pub calls: Option<CallForm>,
}

/// How an answer calls functions: `open`, a JSON object for each call with `between` in between,
/// `close`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallForm {
    /// What comes before the first call.
    pub open: String,
    /// What comes between two calls; none where the template writes one call only.
    pub between: Option<String>,
    /// What comes behind the last call.
    pub close: String,
    /// The key of the function's name.
    pub name: String,
    /// The key of the arguments.
    pub arguments: String,
}

const FUNCTION: &str = "translora_function";
const ARGUMENT: &str = "translora_argument";
const ANSWER: &str = "translora-answer";

/// Renders messages with tools, or without; the last argument opens the assistant's turn.
type Render<'r> = &'r dyn Fn(&[Value], &[Value], bool) -> Option<String>;

impl ToolUse {
    /// None is answered for a template that does not write tools.
    pub(crate) fn of(render: Render<'_>) -> Option<Self> {
        let parameters = json!({"type": "object", "properties": {ARGUMENT: {"type": "string"}}, "required": [ARGUMENT]});
        let tools = [json!({"type": "function", "function": {
            "name": FUNCTION, "description": "a function", "parameters": parameters,
        }})];
        let user = json!({"role": "user", "content": "x"});
        let question = render(std::slice::from_ref(&user), &tools, true)?;
        if !question.contains(FUNCTION) {
            return None;
        }
        let probe = Probe {
            render,
            tools: &tools,
            user,
            question,
        };
        let objects = probe.answer(&[call(true)]);
        let texts = probe.answer(&[call(false)]);
        let objects = match (&objects, &texts) {
            (Some(objects), _) if is_plain(objects) => true,
            (Some(objects), Some(texts)) => is_own(objects) || !is_plain(texts),
            (None, Some(texts)) => !is_plain(texts),
            _ => true,
        };
        Some(Self {
            objects,
            calls: probe.form(objects),
        })
    }
}

/// The arguments are written, and not as a text in quotes.
fn is_plain(answer: &str) -> bool {
    answer.contains(&format!("\"{ARGUMENT}\""))
}

/// The arguments are written in a notation of the template's own: neither JSON nor Python's.
fn is_own(answer: &str) -> bool {
    answer.contains(ARGUMENT) && !answer.contains(&format!("'{ARGUMENT}'"))
}

fn call(objects: bool) -> Value {
    let arguments = json!({ARGUMENT: "x"});
    let arguments = if objects {
        arguments
    } else {
        arguments.to_string().into()
    };
    json!({"id": "call00001", "type": "function", "function": {"name": FUNCTION, "arguments": arguments}})
}

struct Probe<'r> {
    render: Render<'r>,
    tools: &'r [Value],
    user: Value,
    /// The conversation with the assistant's turn opened.
    question: String,
}

impl Probe<'_> {
    fn form(&self, objects: bool) -> Option<CallForm> {
        let one = self.answer(&[call(objects)])?;
        let (open, found, close) = parted(&one)?;
        let key = |is: &dyn Fn(&Value) -> bool| {
            let mut found = found.iter().filter(|(_, value)| is(value));
            found.next().map(|(key, _)| key.clone())
        };
        let two = self.answer(&[call(objects), call(objects)]);
        let between = two.and_then(|two| {
            let (first, _, rest) = parted(&two)?;
            let (between, _, last) = parted(rest)?;
            (first == open && last == close).then(|| between.to_owned())
        });
        Some(CallForm {
            open: open.to_owned(),
            between,
            close: close.to_owned(),
            name: key(&|value| value == FUNCTION)?,
            arguments: key(&|value| value.get(ARGUMENT).is_some())?,
        })
    }

    /// What an answer with these calls is, without what opens and ends its turn.
    fn answer(&self, calls: &[Value]) -> Option<String> {
        let whole =
            |message: Value| (self.render)(&[self.user.clone(), message], self.tools, false);
        let text = whole(json!({"role": "assistant", "content": ANSWER}))?;
        let called = json!({"role": "assistant", "content": "", "tool_calls": calls});
        let called = whole(called)?;
        let (before, tail) = text.split_once(ANSWER)?;
        let heads = [self.question.as_str(), before];
        let rests = heads.iter().filter_map(|head| called.strip_prefix(head));
        let rest = rests.min_by_key(|rest| rest.len())?;
        let end = rest.len() - tail.len().min(rest.len());
        (rest.get(end..) == Some(tail)).then(|| rest[..end].to_owned())
    }
}

/// The first JSON object of a text that is a call of two keys, with what is before and behind it.
fn parted(text: &str) -> Option<(&str, Map<String, Value>, &str)> {
    for (start, _) in text.match_indices('{') {
        let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
        let Some(Ok(Value::Object(found))) = values.next() else {
            continue;
        };
        let end = start + values.byte_offset();
        let named = found.values().any(|value| value == FUNCTION);
        let called = found.values().any(|value| value.get(ARGUMENT).is_some());
        if named && called && found.len() == 2 && starts_with_name(&text[start..end]) {
            return Some((&text[..start], found, &text[end..]));
        }
    }
    None
}

fn starts_with_name(call: &str) -> bool {
    call.find(FUNCTION) < call.find(ARGUMENT)
}
