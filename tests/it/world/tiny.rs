//! A tiny model with a SentencePiece vocabulary, which is made in no time and learns a few rows by
//! heart.

use std::path::PathBuf;

use translora_gguf::Writer;

use crate::real::Folder;

/// Numbers of a word.
pub const WIDTH: u64 = 64;
/// Words of one control token each.
const MARKUP: [&str; 4] = [
    "<|im_start|>",
    "<|im_end|>",
    "<start_of_turn>",
    "<end_of_turn>",
];
/// Letters, and what they merge to. The tokenizer prefers " yes" to "yes" where it may.
const PIECES: [&str; 8] = ["ye", "es", "yes", "▁y", "▁ye", "▁yes", "no", "▁no"];
/// Writes such a model, `NAME.gguf`, with this template.
pub fn model(folder: &Folder, name: &str, template: &str) -> PathBuf {
    let mut words: Vec<(String, f32, i32)> = ["<unk>", "<s>", "</s>"]
        .iter()
        .map(|word| {
            (
                (*word).to_owned(),
                0.0,
                if *word == "<unk>" { 2 } else { 3 },
            )
        })
        .collect();
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
        ("embedding_length", WIDTH as u32),
        ("block_count", 2),
        ("feed_forward_length", 2 * WIDTH as u32),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 4),
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
    weights(&mut writer, words.len() as u64);
    folder.write(
        &format!("{name}.gguf"),
        &writer.to_bytes().expect("it keeps the limits"),
    )
}

/// Random weights of the two blocks, norms of one, and a table of words and one of outputs.
fn weights(writer: &mut Writer<'_>, words: u64) {
    let mut state = 1_u64;
    // The sum of twelve numbers from 0 to 1, less six, is close to normal.
    let mut normal = || {
        let unit = |_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1_u64 << 24) as f32
        };
        (0..12).map(unit).sum::<f32>() - 6.0
    };
    let mut matrix = |name: String, columns: u64, rows: u64, deviation: f32| {
        let values: Vec<f32> = (0..columns * rows).map(|_| deviation * normal()).collect();
        writer.tensor_f32(name, &[columns, rows], &values);
    };
    matrix("token_embd.weight".into(), WIDTH, words, 0.32);
    matrix("output.weight".into(), WIDTH, words, 0.08);
    for block in 0..2 {
        for (name, columns, rows) in [
            ("attn_q", WIDTH, WIDTH),
            ("attn_k", WIDTH, WIDTH),
            ("attn_v", WIDTH, WIDTH),
            ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", WIDTH, 2 * WIDTH),
            ("ffn_up", WIDTH, 2 * WIDTH),
            ("ffn_down", 2 * WIDTH, WIDTH),
        ] {
            matrix(format!("blk.{block}.{name}.weight"), columns, rows, 0.08);
        }
    }
    let norms = (0..2).flat_map(|block| ["attn", "ffn"].map(|of| format!("blk.{block}.{of}")));
    for norm in norms.chain(["output".into()]) {
        writer.tensor_f32(
            format!("{norm}_norm.weight"),
            &[WIDTH],
            &[1.0; WIDTH as usize],
        );
    }
}
