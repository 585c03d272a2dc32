//! Answers that are held to a grammar, a schema or the functions of a request, on the lab's model:
//! whatever it would say, what it says fits.

use serde_json::{Value, json};

use super::Folder;
use super::serve::Served;
use crate::serve::client::{open, post, send, with};

const CHAT: &str = "/v1/chat/completions";

fn chat(more: &Value) -> Value {
    let question = json!([{ "role": "user", "content": "which day?" }]);
    with(json!({ "messages": question, "seed": 7 }), more)
}

#[test]
fn answers_fit_what_the_request_holds_them_to() {
    let folder = Folder::new();
    let served = Served::start(&folder, "-m OLD --alias base -np 2");
    let address = served.address;
    let schema = r#"{"type": "object", "properties": {"z": {"enum": ["mon", "tue"]},
        "a": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["z", "a"]}"#;
    for body in [
        format!(r#"{{"messages": [{{"role": "user", "content": "x"}}], "json_schema": {schema}}}"#),
        format!(
            r#"{{"messages": [{{"role": "user", "content": "x"}}], "response_format":
            {{"type": "json_schema", "json_schema": {{"name": "day", "schema": {schema}}}}}}}"#
        ),
    ] {
        let reply = open(address, "POST", CHAT, &[], body.as_bytes()).whole();
        assert_eq!(reply.status, 200, "{reply:?}");
        let choice = reply.json()["choices"][0].clone();
        let text = choice["message"]["content"].as_str().expect("text");
        let answer: Value = serde_json::from_str(text).expect("the answer is JSON");
        assert!(
            ["mon", "tue"].contains(&answer["z"].as_str().expect("a day")),
            "{text}"
        );
        assert!(answer["a"].as_u64().is_some_and(|a| a <= 9), "{text}");
        assert!(
            text.find("\"z\"") < text.find("\"a\""),
            "the order of the schema: {text}"
        );
        assert_eq!(choice["finish_reason"], "stop");
    }
    let grammar = json!({ "prompt": "say", "grammar": "root ::= \"yes\" | \"no\"", "n_probs": 1 });
    let said = post(address, "/completion", &grammar).json();
    assert!(
        ["yes", "no"].contains(&said["content"].as_str().expect("text")),
        "{said}"
    );
    assert!(said["stop_type"] == "eos", "{said}");
    for bad in ["root ::= x", "roots ::= \"a\"", "root ::= root \"a\""] {
        let reply = post(address, CHAT, &chat(&json!({ "grammar": bad })));
        assert_eq!(reply.status, 400, "{bad}: {reply:?}");
        assert!(reply.error().contains("grammar"), "{bad}: {reply:?}");
    }
}

/// Writes functions and calls as many models do.
const TEMPLATE: &str = "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}\
    {% for m in messages %}{{ m.role }}: {{ m.content }}{% for call in m.tool_calls or [] %}\
    <tool_call>{\"name\": \"{{ call.function.name }}\", \"arguments\": \
    {{ call.function.arguments | tojson }}}</tool_call>{% endfor %}{{ eos_token }}\n{% endfor %}\
    {% if add_generation_prompt %}assistant: {% endif %}";

#[test]
fn functions_are_called_as_the_template_writes_them() {
    let folder = Folder::new();
    folder.write("t.jinja", TEMPLATE.as_bytes());
    let line = "-m OLD --chat-template t.jinja";
    let served = Served::start(&folder, line);
    let address = served.address;
    let tools = json!([{ "type": "function", "function": { "name": "book", "parameters":
        { "properties": { "day": { "enum": ["mon", "tue"] } }, "required": ["day"] } } }]);
    let must = json!({ "tools": tools, "tool_choice": "required", "parallel_tool_calls": false });
    let reply = post(address, CHAT, &chat(&must));
    assert_eq!(reply.status, 200, "{reply:?}");
    let choice = reply.json()["choices"][0].clone();
    assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
    assert_eq!(choice["message"]["content"], Value::Null, "{choice}");
    let call = &choice["message"]["tool_calls"][0]["function"];
    let arguments = call["arguments"].as_str().expect("a text");
    let arguments: Value = serde_json::from_str(arguments).expect("JSON");
    assert!(call["name"] == "book", "{call}");
    assert!(arguments["day"].is_string(), "{call}");
    // The call goes back as the template writes it.
    let mut turns = chat(&json!({}))["messages"]
        .as_array()
        .expect("a list")
        .clone();
    turns.push(choice["message"].clone());
    turns.push(json!({ "role": "tool", "content": "done" }));
    let prompt = post(address, "/apply-template", &json!({ "messages": turns })).json();
    let prompt = prompt["prompt"].as_str().expect("text");
    let written = format!(
        "assistant: <tool_call>{{\"name\": \"book\", \"arguments\": {{\"day\": {}}}}}</tool_call>",
        arguments["day"]
    );
    assert!(prompt.contains(&written), "{prompt}");
    assert!(prompt.contains("tool: done"), "{prompt}");
}

#[test]
fn functions_are_called_as_their_schemas_say() {
    let folder = Folder::new();
    let served = Served::start(&folder, "-m OLD --alias base -np 2");
    let address = served.address;
    let tools = json!([
        { "type": "function", "function": { "name": "book", "description": "Book a table.",
            "parameters": { "properties": { "day": { "enum": ["mon", "tue"] } }, "required": ["day"] } } },
        { "type": "function", "function": { "name": "cancel", "parameters": { "enum": [{}] } } },
    ]);
    let named = json!({ "type": "function", "function": { "name": "book" } });
    let once = json!({ "tools": tools, "tool_choice": named, "parallel_tool_calls": false });
    let reply = post(address, CHAT, &chat(&once));
    assert_eq!(reply.status, 200, "{reply:?}");
    let choice = reply.json()["choices"][0].clone();
    assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
    let calls = choice["message"]["tool_calls"].as_array().expect("calls");
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0]["function"]["name"], "book");
    let arguments = calls[0]["function"]["arguments"].as_str().expect("a text");
    let arguments: Value = serde_json::from_str(arguments).expect("JSON");
    assert!(
        arguments["day"] == "mon" || arguments["day"] == "tue",
        "{arguments}"
    );
    // The same seed says the same in a stream.
    let mut body = chat(&once);
    body["stream"] = json!(true);
    let events = send(address, CHAT, &body).rest();
    let deltas: Vec<Value> = events
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok())
        .map(|event| event["choices"][0].clone())
        .collect();
    let streamed = deltas
        .iter()
        .find_map(|choice| choice["delta"]["tool_calls"].as_array())
        .expect("the calls came");
    assert_eq!(streamed[0]["function"], calls[0]["function"]);
    assert!(
        deltas
            .iter()
            .any(|choice| choice["finish_reason"] == "tool_calls")
    );
    // The result goes back, and what follows is no call where none is to be called.
    let mut turns = body["messages"].as_array().expect("a list").clone();
    turns.push(choice["message"].clone());
    turns.push(json!({ "role": "tool", "tool_call_id": calls[0]["id"], "content": "done" }));
    let body = json!({ "messages": turns, "tools": tools, "tool_choice": "none", "max_tokens": 8 });
    let reply = post(address, CHAT, &body);
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(reply.json()["choices"][0]["message"]["content"].is_string());
    let prompt = post(address, "/apply-template", &json!({ "messages": turns })).json();
    let prompt = prompt["prompt"].as_str().expect("text");
    assert!(prompt.contains("tool_response"), "{prompt}");
    assert!(prompt.contains("\"name\":\"book\""), "{prompt}");
}
