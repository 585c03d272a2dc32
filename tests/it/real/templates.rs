//! Chat templates: those of models, those of a flag, and models without any.

use serde_json::json;

use super::bad_models::{TEMPLATE, spoiled};
use super::serve::Served;
use super::{Folder, done, refused, rows};
use crate::serve::client::post;

/// Any question, and nothing to sample.
const ASK: &str = r#"{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}"#;

/// A folder with rows, a base without a template, and one whose template does not compile.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("rows.jsonl", rows("train.jsonl", 4).as_bytes());
    let bare = spoiled(|file| _ = file.retain_metadata(|key, _| key != TEMPLATE));
    folder.write("bare.gguf", &bare);
    let broken = spoiled(|file| _ = file.set(TEMPLATE, "{% for x"));
    folder.write("broken.gguf", &broken);
    folder
}

fn train(model: &str, out: &str, more: &str) -> String {
    format!("train -m {model} --data rows.jsonl --out {out} --epochs 1 --rank 2 {more}")
}

#[test]
fn a_base_without_a_template_takes_the_plain_format_everywhere() {
    let folder = folder();
    for line in [
        train("bare.gguf", "l.gguf", ""),
        "eval -m bare.gguf --data rows.jsonl".into(),
    ] {
        let run = folder.run(&line);
        done(&run);
        assert!(run.err.contains("has no chat template"), "{run}");
    }
    let card = folder.run("inspect l.gguf --json").json();
    let carried = card["translora"]["translora.chat_template"].as_str();
    assert!(
        carried.is_some_and(|text| text.contains("eos_token")),
        "{card}"
    );
    let card = folder.run("inspect bare.gguf --json").json();
    assert!(
        card["chat_template"]
            .as_str()
            .is_some_and(|text| text.starts_with("none")),
        "{card}"
    );
    let served = Served::start(&folder, "-m bare.gguf");
    let turns = json!({ "messages": [{ "role": "user", "content": "Hello" }] });
    let prompt = post(served.address, "/apply-template", &turns).json();
    assert_eq!(prompt["prompt"], "Hello\n");
}

#[test]
fn an_adapter_carries_the_template_that_was_asked_for() {
    let folder = folder();
    folder.write(
        "t.jinja",
        b"{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}",
    );
    for (name, text) in [("chatml", "<|im_start|>"), ("t.jinja", "m.role }}: ")] {
        let out = format!("{}.gguf", name.replace('.', "-"));
        let run = folder.run(&train("OLD", &out, &format!("--chat-template {name}")));
        done(&run);
        let card = folder.run(&format!("inspect {out} --json")).json();
        let carried = card["translora"]["translora.chat_template"].as_str();
        assert!(
            carried.is_some_and(|carried| carried.contains(text)),
            "{name}: {card}"
        );
        let run = folder.run(&format!("eval -m OLD --lora {out} --data rows.jsonl"));
        done(&run);
        assert!(
            run.err
                .contains(&format!("the one that {out} was made with")),
            "{run}"
        );
    }
    let own = folder.run(&train("OLD", "own.gguf", ""));
    done(&own);
    let card = folder.run("inspect own.gguf --json").json();
    assert_eq!(
        card["translora"].get("translora.chat_template"),
        None,
        "{card}"
    );
    let wrong = folder.run(&train("OLD", "no.gguf", "--chat-template lama3"));
    refused("an unknown name", &wrong, &["lama3", "llama3", "chatml"]);
}

/// What `renderer.rs` tries in the child, through the program: an error that names the file.
#[test]
fn a_template_that_would_end_the_program_is_refused() {
    let folder = folder();
    let doubled = "{% set n = namespace(x='ab') %}{% for i in range(90) %}\
        {% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}";
    let endless = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}x";
    for (text, word) in [(doubled, "process ended"), (endless, "come to an end")] {
        folder.write("t.jinja", text.as_bytes());
        let run = folder.run("eval -m OLD --data rows.jsonl --chat-template t.jinja");
        refused(text, &run, &["t.jinja", word]);
    }
}

#[test]
fn a_server_whose_template_does_not_compile_answers_texts() {
    let folder = folder();
    let served = Served::start(&folder, "-m broken.gguf");
    let text = post(
        served.address,
        "/completion",
        &json!({ "prompt": "Hello", "n_predict": 2 }),
    );
    assert_eq!(text.status, 200);
    let ask = serde_json::from_str(ASK).expect("it is JSON");
    let chat = post(served.address, "/v1/chat/completions", &ask);
    assert_eq!(chat.status, 400);
    assert!(
        chat.error().contains("does not compile"),
        "{}",
        chat.error()
    );
    let chosen = Served::start(&folder, "-m broken.gguf --chat-template chatml");
    assert_eq!(
        post(chosen.address, "/v1/chat/completions", &ask).status,
        200
    );
}
