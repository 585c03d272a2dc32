use translora_gguf::Writer;
use translora_llama::{Backend, ModelParams, synthesize};

use super::*;

/// Words of one control token each: what templates of several families end a turn with.
const MARKUP: [&str; 4] = [
    "<|im_start|>",
    "<|im_end|>",
    "<start_of_turn>",
    "<end_of_turn>",
];
/// Letters, and what they merge to. The tokenizer prefers " yes" to "yes" where it may.
const PIECES: [&str; 8] = ["ye", "es", "yes", "▁y", "▁ye", "▁yes", "no", "▁no"];

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
const LLAMA2: &str = "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content }} [/INST]\
    {% else %} {{ m.content }} </s>{% endif %}{% endfor %}";
const GEMMA: &str = "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n\
    {{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}";
const ZEPHYR: &str = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}\
    {% if add_generation_prompt %}<|assistant|>\n{% endif %}";
const THINKING: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n\
    {% if m.role == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
const OPENED: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}";
const PLAIN: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
    {% if add_generation_prompt %}assistant:{% endif %}";
const SPACED: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}\
    {% if add_generation_prompt %}assistant: {% endif %}";

/// A tiny model with a SentencePiece vocabulary and this template.
fn model(template: &str) -> Model {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (metadata, path) = (
        folder.path().join("head.gguf"),
        folder.path().join("m.gguf"),
    );
    let mut words: Vec<(String, f32, i32)> = vec![
        ("<unk>".into(), 0.0, 2),
        ("<s>".into(), 0.0, 3),
        ("</s>".into(), 0.0, 3),
    ];
    words.extend((0..=255).map(|byte| (format!("<0x{byte:02X}>"), 0.0, 6)));
    words.extend(MARKUP.map(|word| (word.to_owned(), 0.0, 3)));
    words.push(("▁".into(), -1000.0, 1));
    words.extend((b'a'..=b'z').map(|letter| (char::from(letter).to_string(), -900.0, 1)));
    let pieces = PIECES.iter().zip(1_i16..);
    words.extend(pieces.map(|(piece, at)| ((*piece).to_owned(), -f32::from(100 - at), 1)));
    let mut writer = Writer::new();
    writer.set("general.architecture", "llama");
    for (key, value) in [
        ("context_length", 256_u32),
        ("embedding_length", 32),
        ("block_count", 1),
        ("feed_forward_length", 32),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 2),
        ("rope.dimension_count", 16),
        ("vocab_size", words.len() as u32),
    ] {
        writer.set(format!("llama.{key}"), value);
    }
    writer.set("llama.attention.layer_norm_rms_epsilon", 1e-5_f32);
    writer.set("tokenizer.ggml.model", "llama");
    let texts: Vec<String> = words.iter().map(|(text, ..)| text.clone()).collect();
    writer.set("tokenizer.ggml.tokens", texts);
    let scores: Vec<f32> = words.iter().map(|(_, score, _)| *score).collect();
    writer.set("tokenizer.ggml.scores", scores);
    let kinds: Vec<i32> = words.iter().map(|(.., kind)| *kind).collect();
    writer.set("tokenizer.ggml.token_type", kinds);
    writer.set("tokenizer.ggml.bos_token_id", 1_u32);
    writer.set("tokenizer.ggml.eos_token_id", 2_u32);
    writer.set("tokenizer.ggml.add_bos_token", true);
    writer.set("tokenizer.chat_template", template);
    std::fs::write(&metadata, writer.to_bytes().expect("it is small")).expect("it is writable");
    let backend = Backend::init().expect("llama.cpp starts");
    synthesize(backend, &metadata, 1, 0.02, &path).expect("llama.cpp knows such models");
    let params = ModelParams {
        gpu_layers: 0,
        device: None,
        mmap: false,
        mlock: false,
        repack: false,
    };
    Model::load(backend, &path, &params).expect("it is a model")
}

fn chat_of(model: &Model) -> Result<Chat, LlamaError> {
    let options = ChatOptions::default();
    let own = model.metadata("tokenizer.chat_template");
    let info = ChatInfo::choose(&options, own).expect("the model has one");
    Chat::of(model, info, &options)
}

/// What tokens say, markup included.
fn said(model: &Model, tokens: &[i32]) -> String {
    let vocab = model.vocab();
    let bytes: Vec<u8> = tokens
        .iter()
        .flat_map(|token| vocab.piece(*token, true))
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn an_answer_is_what_the_template_writes_behind_what_a_server_sends() {
    // Template, answer; the text that is learnt, and what ends the turn.
    let cases = [
        (CHATML, "yes", "yes", "<|im_end|>"),
        (CHATML, " yes\n", " yes\n", "<|im_end|>"),
        (LLAMA2, "yes", " yes ", "</s>"),
        (GEMMA, " yes ", "yes", "<end_of_turn>"),
        (ZEPHYR, "yes", "yes", "</s>"),
        (THINKING, "yes", "<think>\n\n</think>\n\nyes", "<|im_end|>"),
        (OPENED, "yes", "</think>\n\nyes", "<|im_end|>"),
        (PLAIN, "yes", " yes", "</s>"),
        (SPACED, "yes", "yes", "</s>"),
    ];
    for (template, answer, learnt, end) in cases {
        let model = model(template);
        let chat = chat_of(&model).expect("the template renders");
        let pair = Pair::new("is it", answer);
        let encoded = chat.pair(&model, &pair).expect("it is encoded");
        let prompt = chat.prompt(&model, &pair.prompt).expect("it is encoded");
        assert_eq!(
            encoded.tokens[..encoded.start],
            prompt,
            "{template}: a server sends another prompt"
        );
        let text = said(&model, &encoded.tokens[encoded.start..encoded.end]);
        assert_eq!(text, learnt, "{template}");
        assert_eq!(
            said(&model, &encoded.tokens[encoded.end..]),
            end,
            "{template}"
        );
    }
}

#[test]
fn markup_in_an_answer_is_text() {
    let model = model(CHATML);
    let chat = chat_of(&model).expect("the template renders");
    let pair = Pair::new("is it", "yes<|im_end|>no");
    let encoded = chat.pair(&model, &pair).expect("it is encoded");
    let answer = &encoded.tokens[encoded.start..encoded.end];
    assert_eq!(said(&model, answer), "yes<|im_end|>no");
    assert!(answer.iter().all(|token| !model.vocab().is_control(*token)));
    assert_eq!(said(&model, &encoded.tokens[encoded.end..]), "<|im_end|>");
}

#[test]
fn system_prompts_and_earlier_turns_are_rendered() {
    let model = model(CHATML);
    let chat = chat_of(&model).expect("the template renders");
    let before = [
        Turn::new(Role::System, "be kind"),
        Turn::new(Role::User, "hello"),
        Turn::new(Role::Assistant, "hi"),
    ];
    let prompt = Prompt::behind(&before, "is it");
    let tokens = chat.prompt(&model, &prompt).expect("it is encoded");
    // The tokenizer writes a space behind markup.
    let text = said(&model, &tokens)
        .replace("<|im_start|> ", "<|im_start|>")
        .replace("<|im_end|> ", "<|im_end|>");
    assert!(
        text.ends_with(
            "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nhi<|im_end|>\n\
             <|im_start|>user\nis it<|im_end|>\n<|im_start|>assistant\n"
        ),
        "{text:?}"
    );
}
