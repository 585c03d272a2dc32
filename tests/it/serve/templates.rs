//! What conversations are rendered with: variables, functions, and the template of each adapter.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use translora::engine::ChatOptions;
use translora::serve::Config;
use translora_gguf::{Gguf, Writer};

use super::client::{get, post, with};
use super::{Lab, serve, served};

const RENDER: &str = "/apply-template";
/// Thinks unless it is told not to, takes functions, and writes calls as JSON.
const TEMPLATE: &str = "{% for tool in tools or [] %}<tool>{{ tool | tojson }}{% endfor %}\
    {% for m in messages %}<{{ m.role }}>{{ m.content }}{% for call in m.tool_calls or [] %}\
    <call>{\"name\": \"{{ call.function.name }}\", \"arguments\": {{ call.function.arguments | tojson }}}\
    </call>{% endfor %}</s>{% endfor %}{% if add_generation_prompt %}<assistant>\
    {% if enable_thinking is not false %}<think>{% endif %}{{ mood }}{% endif %}";

/// A copy of an adapter that carries a template.
fn carrying(adapter: &Path, template: &str) -> Vec<u8> {
    let bytes = fs::read(adapter).expect("it was written");
    let gguf = Gguf::parse(&bytes).expect("a whole file");
    let mut writer = Writer::copy_of(&gguf);
    writer.set("translora.chat_template", template);
    writer.to_bytes().expect("a small file")
}

fn hi(more: &Value) -> Value {
    with(
        json!({ "messages": [{ "role": "user", "content": "hi" }] }),
        more,
    )
}

#[test]
fn variables_and_functions_reach_the_template() {
    let lab = Lab::new();
    let chat = ChatOptions {
        template: Some(TEMPLATE.into()),
        ..ChatOptions::default()
    };
    let (_server, address) = serve(Config {
        chat,
        ..lab.config()
    });
    let book = json!({ "type": "function", "function": { "name": "book", "strict": true,
        "parameters": { "type": "object", "properties": { "b": {}, "a": {} } } } });
    let listed = r#"<tool>{"type": "function", "function": {"name": "book", "parameters": {"type": "object", "properties": {"b": {}, "a": {}}}}}"#;
    let called = json!([
        { "role": "user", "content": "hi" },
        { "role": "assistant", "tool_calls": [{ "id": "1", "type": "function",
            "function": { "name": "book", "arguments": "{\"b\": [1]}" } }] },
        { "role": "tool", "tool_call_id": "1", "content": "done" },
    ]);
    let called_text = r#"<user>hi</s><assistant><call>{"name": "book", "arguments": {"b": [1]}}</call></s><tool>done</s><assistant>"#;
    for (body, right) in [
        (hi(&json!({})), "<user>hi</s><assistant>".to_owned()),
        (
            hi(&json!({ "chat_template_kwargs": { "enable_thinking": true } })),
            "<user>hi</s><assistant><think>".to_owned(),
        ),
        (
            hi(&json!({ "chat_template_kwargs": { "mood": "glad", "other": [1] } })),
            "<user>hi</s><assistant>glad".to_owned(),
        ),
        (
            hi(&json!({ "tools": [book] })),
            format!("{listed}<user>hi</s><assistant>"),
        ),
        (
            hi(&json!({ "tools": [book], "tool_choice": "none" })),
            "<user>hi</s><assistant>".to_owned(),
        ),
        (json!({ "messages": called }), called_text.to_owned()),
    ] {
        let reply = post(address, RENDER, &body);
        assert_eq!(reply.json()["prompt"], right, "{body}");
        let counted = post(address, "/v1/chat/completions/input_tokens", &body).json();
        assert_eq!(counted["input_tokens"], right.len(), "{body}");
    }
    for (more, says) in [
        (json!({ "chat_template_kwargs": 3 }), "chat_template_kwargs"),
        (
            json!({ "chat_template_kwargs": { "enable_thinking": "no" } }),
            "true or false, not \"no\"",
        ),
        (
            json!({ "chat_template_kwargs": { "messages": [] } }),
            "\"messages\" cannot be an argument",
        ),
        (json!({ "tools": [{ "type": "search" }] }), "tools"),
    ] {
        for path in [RENDER, "/v1/chat/completions"] {
            let reply = post(address, path, &hi(&more));
            assert_eq!(reply.status, 400, "{path} {more}: {reply:?}");
            assert!(reply.error().contains(says), "{path} {more}: {reply:?}");
        }
    }
}

#[test]
fn an_answer_is_gone_on_with_behind_its_thoughts() {
    let lab = Lab::new();
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.reasoning_content }}|{{ m.content }}</s>\
        {% endfor %}{% if add_generation_prompt %}<assistant>\
        {% set enable_thinking = enable_thinking | default(true) %}\
        {% if enable_thinking %}<think>\n{% endif %}{% endif %}";
    let chat = ChatOptions {
        template: Some(template.into()),
        ..ChatOptions::default()
    };
    let (_server, address) = serve(Config {
        chat,
        ..lab.config()
    });
    let conversation = |last: Value, more: Value| {
        let mut body = more;
        body["messages"] = json!([{ "role": "user", "content": "hi" }, last]);
        body
    };
    let thinking = json!({ "chat_template_kwargs": { "enable_thinking": true } });
    let whole = json!({ "continue_final_message": false });
    let begun = json!({ "role": "assistant", "content": "It is" });
    let thought = json!({ "role": "assistant", "content": "It is", "reasoning_content": "why" });
    let called = json!({ "role": "assistant", "content": "It is", "tool_calls": [{
        "function": { "name": "book", "arguments": "{}" } }] });
    for (last, more, right) in [
        (&begun, json!({}), "<user>|hi</s><assistant>It is"),
        (
            &begun,
            thinking,
            "<user>|hi</s><assistant><think>\n</think>\n\nIt is",
        ),
        (
            &thought,
            whole,
            "<user>|hi</s><assistant>why|It is</s><assistant>",
        ),
    ] {
        let body = conversation(last.clone(), more);
        let reply = post(address, RENDER, &body);
        assert_eq!(reply.json()["prompt"], right, "{body}");
    }
    for (last, field) in [(thought, "reasoning_content"), (called, "tool_calls")] {
        let reply = post(address, RENDER, &conversation(last, json!({})));
        assert_eq!(reply.status, 400, "{field}: {reply:?}");
        let says = format!("the last message has {field:?}");
        assert!(reply.error().contains(&says), "{reply:?}");
        assert!(
            reply.error().contains("continue_final_message"),
            "{reply:?}"
        );
    }
}

#[test]
fn a_template_without_functions_has_them_in_its_system_message() {
    let (_lab, _server, address) = served();
    let tools = json!([{ "type": "function", "function": { "name": "book" } }]);
    let reply = post(address, RENDER, &hi(&json!({ "tools": tools })));
    let text = reply.json()["prompt"].as_str().expect("text").to_owned();
    assert!(
        text.starts_with("system: These functions can be called:\n- book"),
        "{text}"
    );
}

#[test]
fn every_adapter_is_served_with_the_template_it_was_made_with() {
    let lab = Lab::new();
    let folder = lab.world.path("served");
    fs::create_dir(&folder).expect("writable");
    let own = carrying(
        &lab.adapters[0],
        "{% for m in messages %}({{ m.content }}){% endfor %}",
    );
    fs::write(folder.join("own.gguf"), own).expect("writable");
    let broken = carrying(&lab.adapters[0], "{% for x");
    fs::write(folder.join("broken.gguf"), &broken).expect("writable");
    let empty = carrying(&lab.adapters[0], "{% if false %}x{% endif %}");
    fs::write(folder.join("empty.gguf"), &empty).expect("writable");
    let config = Config {
        folder: Some(folder.clone()),
        ..lab.config()
    };
    let (_server, address) = serve(config.clone());
    let base = "user: hi\nassistant: ";
    for (model, right, from) in [
        ("base", base, "model"),
        ("ticket", base, "base"),
        ("own", "(hi)", "adapter"),
    ] {
        let reply = post(address, RENDER, &hi(&json!({ "model": model })));
        assert_eq!(reply.json()["prompt"], right, "{model}");
        let shown = get(address, &format!("/v1/models/{model}")).json();
        assert_eq!(shown["translora"]["chat_template"]["from"], from, "{shown}");
    }
    let refused = get(address, "/v1/adapters").json()["refused"].clone();
    let refused = refused.as_array().expect("a list");
    assert_eq!(refused.len(), 2, "{refused:?}");
    for row in refused {
        let reason = row["reason"].as_str().expect("text");
        assert!(reason.contains("cannot use this chat template"), "{reason}");
    }
    fs::write(folder.join("later.gguf"), &broken).expect("writable");
    let load = json!({ "name": "later", "path": "later.gguf" });
    let reply = post(address, "/v1/adapters", &load);
    assert_eq!(reply.status, 400, "{reply:?}");
    assert!(
        reply
            .error()
            .contains("later.gguf: cannot use this chat template"),
        "{reply:?}"
    );
    // What was asked for at the start counts for all.
    let (_server, address) = serve(Config {
        chat: ChatOptions {
            template: Some("[{{ messages[0].content }}]".into()),
            ..ChatOptions::default()
        },
        ..config
    });
    for model in ["base", "own", "broken"] {
        let reply = post(address, RENDER, &hi(&json!({ "model": model })));
        assert_eq!(reply.json()["prompt"], "[hi]", "{model}: {reply:?}");
    }
}
