//! The formats that llama.cpp knows by name, as Jinja texts, and the one for models without any.

/// For a base model without a template: each message is a line of its own, and an answer ends
/// with the token that ends a text.
pub const PLAIN: &str = "{% for m in messages %}{{ m.content }}\
    {% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}";

/// The Jinja text of a format that llama.cpp knows by this name, or of `plain`.
pub fn format(name: &str) -> Option<&'static str> {
    FORMATS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, text)| *text)
}

/// The names of all formats.
pub fn format_names() -> impl Iterator<Item = &'static str> {
    FORMATS.iter().map(|(name, _)| *name)
}

/// Turns that differ in their role only: before the role, after it, after the content; what opens
/// an answer; a filter for the content.
macro_rules! each {
    ($before:literal, $after:literal, $end:literal, $open:literal) => {
        each!($before, $after, $end, $open, "", "")
    };
    ($before:literal, $after:literal, $end:literal, $open:literal, $filter:literal) => {
        each!($before, $after, $end, $open, $filter, "")
    };
    ($before:literal, $after:literal, $end:literal, $open:literal, $filter:literal, $start:literal) => {
        concat!(
            "{{ '",
            $start,
            "' }}{% for m in messages %}{{ '",
            $before,
            "' + m.role + '",
            $after,
            "' + m.content",
            $filter,
            " + '",
            $end,
            "' }}{% endfor %}\
             {% if add_generation_prompt %}{{ '",
            $open,
            "' }}{% endif %}"
        )
    };
}

/// Turns by role: what stands before and after the content of each; what opens an answer; a filter
/// for the content; what the text begins with.
macro_rules! turns {
    ($system:tt, $user:tt, $assistant:tt, $open:literal) => {
        turns!($system, $user, $assistant, $open, "", "")
    };
    ($system:tt, $user:tt, $assistant:tt, $open:literal, $filter:literal) => {
        turns!($system, $user, $assistant, $open, $filter, "")
    };
    (
        [$s:literal, $s_end:literal], [$u:literal, $u_end:literal], [$a:literal, $a_end:literal],
        $open:literal, $filter:literal, $start:literal
    ) => {
        concat!(
            "{{ '",
            $start,
            "' }}{% for m in messages %}{% if m.role == 'system' %}{{ '",
            $s,
            "' + m.content",
            $filter,
            " + '",
            $s_end,
            "' }}{% elif m.role == 'user' %}{{ '",
            $u,
            "' + m.content",
            $filter,
            " + '",
            $u_end,
            "' }}{% elif m.role == 'assistant' %}{{ '",
            $a,
            "' + m.content",
            $filter,
            " + '",
            $a_end,
            "' }}{% endif %}{% endfor %}\
             {% if add_generation_prompt %}{{ '",
            $open,
            "' }}{% endif %}"
        )
    };
}

/// Llama 2: the system's text inside the first turn. Before and after that text, what begins each
/// later turn, and a filter for the content.
macro_rules! llama2 {
    ($s:literal, $s_end:literal, $again:literal, $filter:literal) => {
        concat!(
            "{{ '[INST] ' }}{% set ns = namespace(inside=true) %}{% for m in messages %}\
             {% if not ns.inside %}{{ '",
            $again,
            "[INST] ' }}{% set ns.inside = true %}{% endif %}\
             {% if m.role == 'system' %}{{ '",
            $s,
            "' + m.content",
            $filter,
            " + '",
            $s_end,
            "' }}\
             {% elif m.role == 'user' %}{{ m.content",
            $filter,
            " + ' [/INST]' }}\
             {% else %}{{ m.content",
            $filter,
            " + '</s>' }}{% set ns.inside = false %}{% endif %}\
             {% endfor %}"
        )
    };
}

/// Mistral's first formats: the spaces before and after the markers, and a filter for answers.
macro_rules! mistral {
    ($leading:literal, $trailing:literal, $filter:literal) => {
        concat!(
            "{% set ns = namespace(inside=false) %}{% for m in messages %}{% if not ns.inside %}\
             {{ '",
            $leading,
            "[INST]",
            $trailing,
            "' }}{% set ns.inside = true %}{% endif %}\
             {% if m.role == 'system' %}{{ m.content + '\\n\\n' }}{% elif m.role == 'user' %}\
             {{ m.content + '",
            $leading,
            "[/INST]' }}{% else %}{{ '",
            $trailing,
            "' + m.content",
            $filter,
            " + '</s>' }}{% set ns.inside = false %}{% endif %}{% endfor %}"
        )
    };
}

/// The system's text waits for the next turn of a user: what stands before a user's content and
/// after it, before an answer and after it, what opens one, and a filter for the content.
macro_rules! merged {
    (
        [$u:literal, $u_end:literal], [$a:literal, $a_end:literal], $open:literal, $filter:literal
    ) => {
        concat!(
            "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}\
             {% set ns.system = ns.system + m.content",
            $filter,
            " %}{% elif m.role == 'user' %}\
             {{ '",
            $u,
            "' }}{% if ns.system %}{{ ns.system + '\\n\\n' }}{% set ns.system = '' %}\
             {% endif %}{{ m.content",
            $filter,
            " + '",
            $u_end,
            "' }}{% else %}{{ '",
            $a,
            "' + m.content",
            $filter,
            " + '",
            $a_end,
            "' }}{% endif %}{% endfor %}\
             {% if add_generation_prompt %}{{ '",
            $open,
            "' }}{% endif %}"
        )
    };
}

/// Ling and Ring: roles in capitals. What begins the text, ends a turn and opens an answer.
macro_rules! bailing {
    ($start:literal, $end:literal, $open:literal) => {
        concat!(
            $start,
            "{% for m in messages %}{{ '<role>' + ('HUMAN' if m.role == 'user' else \
             m.role | upper) + '</role>' + m.content + '",
            $end,
            "' }}{% endfor %}\
             {% if add_generation_prompt %}{{ '<role>ASSISTANT</role>",
            $open,
            "' }}{% endif %}"
        )
    };
}

const GRANITE: &str = "{% for m in messages %}{% if m.role == 'assistant_tool_call' %}\
    {{ '<|start_of_role|>assistant<|end_of_role|><|tool_call|>' }}{% else %}\
    {{ '<|start_of_role|>' + m.role + '<|end_of_role|>' }}{% endif %}\
    {{ m.content + '<|end_of_text|>\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}";

const EXAONE: &str = "{% for m in messages %}{{ '[|' + m.role + '|]' + m.content | trim }}\
    {{ '\\n' if m.role == 'user' else '[|endofturn|]\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}";

#[rustfmt::skip]
const FORMATS: &[(&str, &str)] = &[
    ("plain", PLAIN),
    ("chatml", each!("<|im_start|>", "\\n", "<|im_end|>\\n", "<|im_start|>assistant\\n")),
    ("llama2", llama2!("", "\\n", "", "")),
    ("llama2-sys", llama2!("<<SYS>>\\n", "\\n<</SYS>>\\n\\n", "", "")),
    ("llama2-sys-bos", llama2!("<<SYS>>\\n", "\\n<</SYS>>\\n\\n", "<s>", "")),
    ("llama2-sys-strip", llama2!("<<SYS>>\\n", "\\n<</SYS>>\\n\\n", "", " | trim")),
    ("mistral-v1", mistral!(" ", " ", "")),
    ("mistral-v3", mistral!("", " ", " | trim")),
    ("mistral-v3-tekken", mistral!("", "", "")),
    ("mistral-v7", turns!(["[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"], ["[INST] ", "[/INST]"], [" ", "</s>"], "")),
    ("mistral-v7-tekken", turns!(["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"], ["[INST]", "[/INST]"], ["", "</s>"], "")),
    ("phi3", each!("<|", "|>\\n", "<|end|>\\n", "<|assistant|>\\n")),
    ("phi4", each!("<|im_start|>", "<|im_sep|>", "<|im_end|>", "<|im_start|>assistant<|im_sep|>")),
    ("falcon3", each!("<|", "|>\\n", "\\n", "<|assistant|>\\n")),
    ("zephyr", each!("<|", "|>\\n", "<|endoftext|>\\n", "<|assistant|>\\n")),
    ("monarch", "{% for m in messages %}{{ ('' if loop.first else '<s>') + m.role + '\\n' + m.content + '</s>\\n' }}{% endfor %}\
                 {% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}"),
    ("gemma", merged!(["<start_of_turn>user\\n", "<end_of_turn>\\n"], ["<start_of_turn>model\\n", "<end_of_turn>\\n"], "<start_of_turn>model\\n", " | trim")),
    ("orion", merged!(["Human: ", "\\n\\nAssistant: </s>"], ["", "</s>"], "", "")),
    ("openchat", turns!(["", "<|end_of_turn|>"], ["GPT4 Correct User: ", "<|end_of_turn|>"], ["GPT4 Correct Assistant: ", "<|end_of_turn|>"], "GPT4 Correct Assistant:")),
    ("vicuna", turns!(["", "\\n\\n"], ["USER: ", "\\n"], ["ASSISTANT: ", "</s>\\n"], "ASSISTANT:")),
    ("vicuna-orca", turns!(["SYSTEM: ", "\\n"], ["USER: ", "\\n"], ["ASSISTANT: ", "</s>\\n"], "ASSISTANT:")),
    ("deepseek", turns!(["", ""], ["### Instruction:\\n", "\\n"], ["### Response:\\n", "\\n<|EOT|>\\n"], "### Response:\\n")),
    ("deepseek2", turns!(["", "\\n\\n"], ["User: ", "\\n\\n"], ["Assistant: ", "<｜end▁of▁sentence｜>"], "Assistant:")),
    ("deepseek3", turns!(["", "\\n\\n"], ["<｜User｜>", ""], ["<｜Assistant｜>", "<｜end▁of▁sentence｜>"], "<｜Assistant｜>")),
    ("deepseek-ocr", "{% for m in messages %}{{ m.content }}{% endfor %}"),
    ("command-r", turns!(["<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"], ["<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"], ["<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"], "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", " | trim")),
    ("llama3", each!("<|start_header_id|>", "<|end_header_id|>\\n\\n", "<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\\n\\n", " | trim")),
    ("chatglm3", each!("<|", "|>\\n ", "", "<|assistant|>", "", "[gMASK]sop")),
    ("chatglm4", each!("<|", "|>\\n", "", "<|assistant|>\\n", "", "[gMASK]<sop>")),
    ("glmedge", each!("<|", "|>\\n", "", "<|assistant|>")),
    ("minicpm", turns!(["", ""], ["<用户>", "<AI>"], ["", ""], "", " | trim")),
    ("exaone3", EXAONE),
    ("exaone4", EXAONE),
    ("exaone-moe", each!("<|", "|>\\n", "<|endofturn|>\\n", "<|assistant|>\\n", " | trim")),
    ("rwkv-world", "{% for m in messages %}{{ m.role | capitalize + ': ' + m.content | trim + '\\n\\n' }}\
                    {% if loop.last and m.role == 'user' %}{{ 'Assistant:' }}{% endif %}{% endfor %}"),
    ("granite", "{% for m in messages %}{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' }}\
                 {% if m.role == 'assistant_tool_call' %}{{ '<|tool_call|>' }}{% endif %}{{ m.content + '<|end_of_text|>\\n' }}{% endfor %}\
                 {% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"),
    ("granite-4.0", GRANITE),
    ("granite-4.1", GRANITE),
    ("gigachat", turns!(["", "<|message_sep|>"], ["user<|role_sep|>", "<|message_sep|>available functions<|role_sep|>[]<|message_sep|>"], ["assistant<|role_sep|>", "<|message_sep|>"], "assistant<|role_sep|>", "", "<s>")),
    ("megrez", each!("<|role_start|>", "<|role_end|>", "<|turn_end|>", "<|role_start|>assistant<|role_end|>")),
    ("yandex", "{% for m in messages %}{% if m.role == 'user' %}{{ ' Пользователь: ' + m.content + '\\n\\n' }}\
                {% elif m.role == 'assistant' %}{{ ' Ассистент: ' + m.content + '\\n\\n' }}{% endif %}{% endfor %}\
                {% if add_generation_prompt %}{{ ' Ассистент:[SEP]' }}{% endif %}"),
    ("bailing", bailing!("", "", "")),
    ("bailing-think", bailing!("", "", "<think>")),
    ("bailing2", bailing!("{% if messages[0].role != 'system' %}{{ '<role>SYSTEM</role>detailed thinking off<|role_end|>' }}{% endif %}", "<|role_end|>", "")),
    ("llama4", each!("<|header_start|>", "<|header_end|>\\n\\n", "<|eot|>", "<|header_start|>assistant<|header_end|>\\n\\n", " | trim")),
    ("smolvlm", turns!(["", "\\n\\n"], ["User: ", "<end_of_utterance>\\n"], ["Assistant: ", "<end_of_utterance>\\n"], "Assistant:", "", "<|im_start|>")),
    ("hunyuan-moe", turns!(["<|startoftext|>", "<|extra_4|>"], ["<|startoftext|>", "<|extra_0|>"], ["", "<|eos|>"], "")),
    ("gpt-oss", "{% for m in messages %}{{ '<|start|>' + m.role + '<|message|>' + m.content + ('<|return|>' if m.role == 'assistant' else '<|end|>') }}{% endfor %}\
                 {% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"),
    ("hunyuan-dense", turns!(["", "<｜hy_place▁holder▁no▁3｜>"], ["<｜hy_User｜>", "<｜hy_Assistant｜>"], ["<｜hy_Assistant｜>", "<｜hy_place▁holder▁no▁2｜>"], "")),
    ("hunyuan-vl", turns!(["", "<｜hy_place▁holder▁no▁3｜>"], ["", "<｜hy_User｜>"], ["", "<｜hy_Assistant｜>"], "", "", "<｜hy_begin▁of▁sentence｜>")),
    ("kimi-k2", turns!(["<|im_system|>system<|im_middle|>", "<|im_end|>"], ["<|im_user|>user<|im_middle|>", "<|im_end|>"], ["<|im_assistant|>assistant<|im_middle|>", "<|im_end|>"], "<|im_assistant|>assistant<|im_middle|>")),
    ("seed_oss", "{% for m in messages %}{{ '<seed:bos>' + m.role + '\\n' + (m.content | trim if m.role == 'assistant' else m.content) + '<seed:eos>' }}{% endfor %}\
                  {% if add_generation_prompt %}{{ '<seed:bos>assistant\\n' }}{% endif %}"),
    ("grok-2", "{% for m in messages %}{% if m.role == 'assistant' %}{{ 'Assistant: ' + m.content }}\
                {% else %}{{ ('System: ' if m.role == 'system' else 'Human: ') + m.content | trim }}{% endif %}{{ '<|separator|>\\n\\n' }}{% endfor %}\
                {% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"),
    ("pangu-embedded", "{% if messages[0].role != 'system' %}{{ '[unused9]系统：[unused10]' }}{% endif %}\
                        {% set names = {'system': '系统', 'user': '用户', 'assistant': '助手', 'tool': '工具', 'function': '方法'} %}\
                        {% for m in messages %}{{ '[unused9]' + names[m.role] + '：' + m.content + '[unused10]' }}{% endfor %}\
                        {% if add_generation_prompt %}{{ '[unused9]助手：' }}{% endif %}"),
    ("solar-open", each!("<|begin|>", "<|content|>", "<|end|>", "<|begin|>assistant")),
];
