//! What becomes of conversations that a template does not take as they are, and of templates that
//! do not end.

use serde_json::{Value, json};
use translora_chat::{ChatTemplate, PLAIN, Rendering, TemplateError, format, format_names};

const STRICT: &str = "{% for m in messages %}{% if m.role == 'system' %}\
    {{ raise_exception('no system') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}";
const PARTS: &str = "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}\
    {{ part.text }}{% endfor %}{% endfor %}";
const TEXT: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}";

fn render(template: &str, messages: &Value) -> Result<String, TemplateError> {
    ChatTemplate::new(template, "<s>", "</s>")?.render(messages, true)
}

fn parts(texts: &[&str]) -> Value {
    texts
        .iter()
        .map(|text| json!({"type": "text", "text": text}))
        .collect()
}

#[test]
fn a_conversation_takes_the_form_that_the_template_takes() {
    let user = json!({"role": "user", "content": "b"});
    let system = json!({"role": "system", "content": "a"});
    for (template, messages, wanted) in [
        (STRICT, json!([system, user]), Ok("<user>a\nb")),
        (TEXT, json!([system, user]), Ok("<system>a<user>b")),
        (STRICT, json!([system]), Err(TemplateError::System)),
        (PARTS, json!([user]), Ok("<user>b")),
        (PARTS, json!([system, user]), Ok("<system>a<user>b")),
        (
            TEXT,
            json!([{"role": "user", "content": parts(&["x", "y"])}]),
            Ok("<user>x\ny"),
        ),
        (
            PARTS,
            json!([{"role": "user", "content": parts(&["x", "y"])}]),
            Ok("<user>xy"),
        ),
        (
            STRICT,
            json!([system, {"role": "user", "content": parts(&["x"])}]),
            Ok("<user>a\nx"),
        ),
        (
            TEXT,
            json!([{"role": "user", "content": [{"type": "image_url"}]}]),
            Err(TemplateError::Part("image_url".into())),
        ),
        (
            TEXT,
            json!([{"content": "x"}]),
            Err(TemplateError::Messages),
        ),
        (TEXT, json!("x"), Err(TemplateError::Messages)),
        (
            "{% if false %}x{% endif %}",
            json!([user]),
            Err(TemplateError::Empty),
        ),
        (
            "{{ m",
            json!([user]),
            Err(TemplateError::Syntax(
                "unexpected end of input, expected end of variable block (line 1)".into(),
            )),
        ),
    ] {
        assert_eq!(
            render(template, &messages),
            wanted.map(str::to_owned),
            "{template} {messages}"
        );
    }
}

#[test]
fn a_template_that_does_not_end_is_an_error() {
    let loops = "{% for a in range(90000) %}{% for b in range(90000) %}{% set c = a %}\
        {% endfor %}{% endfor %}";
    let calls = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    let user = json!([{"role": "user", "content": "x"}]);
    for template in [loops, calls] {
        let said = render(template, &user);
        assert!(matches!(said, Err(TemplateError::Endless(_))), "{said:?}");
    }
}

#[test]
fn arguments_cannot_replace_what_is_set() {
    let template = ChatTemplate::new(TEXT, "", "").unwrap();
    let user = json!([{"role": "user", "content": "x"}]);
    let kwargs = json!({"messages": []}).as_object().unwrap().clone();
    let rendering = Rendering {
        kwargs,
        ..Rendering::default()
    };
    let said = template.render_with(&user, &rendering);
    assert_eq!(said, Err(TemplateError::Reserved("messages".into())));
}

#[test]
fn the_plain_format_writes_lines_and_ends_answers() {
    let messages = json!([
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
    ]);
    assert_eq!(render(PLAIN, &messages).unwrap(), "s\nq\na</s>\n");
    assert_eq!(format("plain"), Some(PLAIN));
}

#[test]
fn every_format_compiles_and_writes_both_texts() {
    let messages = json!([
        {"role": "user", "content": "question"},
        {"role": "assistant", "content": "answer"},
    ]);
    for name in format_names() {
        let text = render(format(name).unwrap(), &messages).unwrap();
        assert!(text.contains("question"), "{name}: {text}");
        assert!(text.contains("answer"), "{name}: {text}");
    }
}
