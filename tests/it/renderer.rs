//! Chat templates that are to end whatever renders them: in a child they are errors.

use std::path::Path;

use serde_json::{Value, json};
use translora::engine::renderer::{Renderer, TEMPLATE_BYTES_MAX};

fn renderer(text: &str) -> Result<Renderer, String> {
    let program = Path::new(env!("CARGO_BIN_EXE_translora"));
    Renderer::apart(program, text, ["<s>", "</s>"]).map_err(|error| error.to_string())
}

fn rendered(text: &str, messages: &Value) -> Result<String, String> {
    let rendered = renderer(text)?.render_with(messages, &Default::default());
    rendered.map_err(|error| error.to_string())
}

#[test]
fn a_template_in_a_child_renders_as_one_here() {
    let text = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    let both =
        json!([{"role": "system", "content": "a"}, {"role": "user", "content": "\u{1F600}\n"}]);
    assert_eq!(
        rendered(text, &both).as_deref(),
        Ok("<s><system>a<user>\u{1F600}\n")
    );
    let refusal = "{{ raise_exception('not so') }}";
    assert_eq!(rendered(refusal, &both), Err("not so (line 1)".into()));
    let unfit = renderer("{{ x").expect_err("it does not compile");
    assert!(unfit.contains("does not compile"), "{unfit}");
    let tools = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{{ messages[0].content }}";
    let tools = renderer(tools).expect("it compiles");
    assert!(tools.tool_use().is_some());
}

/// A row: what is wrong with it, the template, and a word of the refusal.
fn hostile() -> Vec<(&'static str, String, &'static str)> {
    let loops = "{% set n = namespace(x='ab') %}{% for i in range(90) %}";
    let many = |part: &str, most: usize| part.repeat(most / part.len());
    vec![
        ("steps", "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}x".into(), "come to an end"),
        ("a doubled text", format!("{loops}{{% set n.x = n.x ~ n.x %}}{{% endfor %}}{{{{ n.x | length }}}}"), "process ended"),
        ("a replaced text", format!("{loops}{{% set n.x = n.x.replace('a', n.x) %}}{{% endfor %}}x"), "process ended"),
        ("a joined text", format!("{loops}{{% set n.x = [n.x, n.x, n.x] | join %}}{{% endfor %}}x"), "process ended"),
        ("a captured text", format!("{loops}{{% set n.x %}}{{{{ n.x }}}}{{{{ n.x }}}}{{% endset %}}{{% endfor %}}x"), "process ended"),
        ("much output", format!("{{% for i in range(90000) %}}{}{{% endfor %}}", many("text", 4000)), "writes more"),
        ("deep lists", "{% set n = namespace(x=[]) %}{% for i in range(99000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}".into(), "process ended"),
        ("length", many("{{ 'x' }}", TEMPLATE_BYTES_MAX + 100), "bytes, and may have"),
        ("nothing", String::new(), "writes nothing"),
    ]
}

#[test]
fn what_a_template_does_to_its_child_is_an_error_and_the_next_rendering_is_right() {
    let question = json!([{"role": "user", "content": "x"}]);
    for (what, text, wanted) in hostile() {
        let said = rendered(&text, &question).expect_err(what);
        assert!(said.contains(wanted), "{what}: {said}");
    }
    // Nothing that nests ends more than the child; whether it compiles is the engine's business.
    let before = [" not", "-", "(", "[", "{'a':"];
    let behind = ["+1", ".a", "|string", " if 1 else 1", "[0]", "~1"];
    let many = |part: &str| part.repeat(200_000 / part.len());
    let nested = before.map(|part| format!("{{{{{} 1}}}}x", many(part)));
    let chained = behind.map(|part| format!("{{{{1{}}}}}x", many(part)));
    for text in nested.iter().chain(&chained) {
        if let Err(said) = rendered(text, &question) {
            assert!(said.starts_with("the template"), "{said}");
        }
    }
    let elif = format!(
        "{{% if 0 %}}{}{{% endif %}}x",
        "{% elif 0 %}".repeat(20_000)
    );
    _ = rendered(&elif, &question);
    // A template that ends its child for one conversation renders the next one.
    let sometimes = "{% set n = namespace(x='ab') %}{% if messages[0].content == 'end' %}\
        {% for i in range(90) %}{% set n.x = n.x ~ n.x %}{% endfor %}{% endif %}{{ n.x }}";
    let template = renderer(sometimes).expect("it compiles");
    let end = json!([{"role": "user", "content": "end"}]);
    for _ in 0..2 {
        assert!(template.render_with(&end, &Default::default()).is_err());
        let next = template.render_with(&question, &Default::default());
        assert_eq!(next.expect("it renders"), "ab");
    }
}
