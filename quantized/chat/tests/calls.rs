//! How templates write calls.

use translora_chat::{CallForm, ChatTemplate, ToolUse};

const HERMES: &str = "{% if tools %}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{% endif %}\
    {% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\
    {% for call in m.tool_calls or [] %}{{ '\n' if not loop.first }}<tool_call>\n\
    {\"name\": \"{{ call.function.name }}\", \"arguments\": {{ call.function.arguments | tojson }}}\n\
    </tool_call>{% endfor %}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}\
    <think>\n\n</think>\n\n{% endif %}{% endif %}";
const LIST: &str = "{{ tools | tojson if tools }}{% for m in messages %}[{{ m.role }}]{{ m.content }}\
    {% if m.tool_calls %}<|call|>[{% for call in m.tool_calls %}{{ ', ' if not loop.first }}\
    {\"name\": \"{{ call.function.name }}\", \"parameters\": {{ call.function.arguments }}}\
    {% endfor %}]{% endif %}</s>{% endfor %}";
const SINGLE: &str = "{{ tools | tojson if tools }}{% for m in messages %}[{{ m.role }}]\
    {% if m.tool_calls %}{% if m.tool_calls | length > 1 %}{{ raise_exception('one call') }}{% endif %}\
    {{ {'name': m.tool_calls[0].function.name, 'arguments': m.tool_calls[0].function.arguments} | tojson }}\
    {% else %}{{ m.content }}{% endif %}</s>{% endfor %}";
const MARKUP: &str = "{{ tools | tojson if tools }}{% for m in messages %}[{{ m.role }}]{{ m.content }}\
    {% for call in m.tool_calls or [] %}<function={{ call.function.name }}>\
    {% for name, value in call.function.arguments | items %}<{{ name }}>{{ value }}{% endfor %}\
    {% endfor %}</s>{% endfor %}";
const OWN: &str = "{{ tools | tojson if tools }}{% for m in messages %}[{{ m.role }}]{{ m.content }}\
    {% for call in m.tool_calls or [] %}call:{{ call.function.name }}(\
    {% if call.function.arguments is mapping %}{% for name, value in call.function.arguments | items %}\
    {{ name }}:<|{{ value }}|>{% endfor %}{% else %}{{ call.function.arguments }}{% endif %})\
    {% endfor %}</s>{% endfor %}";
const NONE: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";

fn form(open: &str, between: Option<&str>, close: &str, arguments: &str) -> CallForm {
    CallForm {
        open: open.into(),
        between: between.map(Into::into),
        close: close.into(),
        name: "name".into(),
        arguments: arguments.into(),
    }
}

#[test]
fn the_form_of_calls_is_read_off_a_template() {
    let of = |objects, calls| Some(ToolUse { objects, calls });
    let hermes = form(
        "<tool_call>\n",
        Some("\n</tool_call>\n<tool_call>\n"),
        "\n</tool_call>",
        "arguments",
    );
    for (template, right) in [
        (HERMES, of(true, Some(hermes))),
        (
            LIST,
            of(
                false,
                Some(form("<|call|>[", Some(", "), "]", "parameters")),
            ),
        ),
        (SINGLE, of(true, Some(form("", None, "", "arguments")))),
        (MARKUP, of(true, None)),
        (OWN, of(true, None)),
        (NONE, None),
    ] {
        let compiled = ChatTemplate::new(template, "<s>", "</s>").unwrap();
        assert_eq!(compiled.tool_use(), right.as_ref(), "{template}");
    }
}
