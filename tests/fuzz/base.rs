//! A base model of one matrix, for the targets and the corpus.

use translora_gguf::Writer;

/// The bytes of its file. shapes: `attn_q` is (6, 4), output first
pub fn model() -> Vec<u8> {
    let mut model = Writer::new();
    model.set("general.architecture", "llama");
    model
        .set("llama.block_count", 1_u32)
        .set("llama.attention.head_count", 1_u32);
    model.tensor_f32("blk.0.attn_q.weight", &[4, 6], &[0.25; 24]);
    model.to_bytes().expect("a small file is written")
}
