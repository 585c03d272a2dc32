//! Writes a model of random F16 weights in the shape of a known one, for benchmarks: it has no
//! tokenizer and means nothing.
//!
//! `cargo run --example shape -- qwen2-0.5b OUT.gguf`; `quantize` makes other types of it.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "an example prints"
)]

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::process::ExitCode;

use translora_gguf::{TensorKind, Writer};

struct Shape {
    name: &'static str,
    architecture: &'static str,
    width: u64,
    blocks: u64,
    feed_forward: u64,
    heads: u64,
    kv_heads: u64,
    words: u64,
    tied: bool,
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "qwen2-0.5b",
        architecture: "qwen2",
        width: 896,
        blocks: 24,
        feed_forward: 4864,
        heads: 14,
        kv_heads: 2,
        words: 151_936,
        tied: true,
    },
    Shape {
        name: "llama-1b",
        architecture: "llama",
        width: 2048,
        blocks: 16,
        feed_forward: 8192,
        heads: 32,
        kv_heads: 8,
        words: 32_000,
        tied: false,
    },
    Shape {
        name: "smollm2-135m",
        architecture: "llama",
        width: 576,
        blocks: 30,
        feed_forward: 1536,
        heads: 9,
        kv_heads: 3,
        words: 49_152,
        tied: true,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let names = SHAPES.map(|shape| shape.name).join(", ");
    let asked = || match &arguments[..] {
        [name, out] => SHAPES
            .iter()
            .find(|shape| shape.name == name)
            .map(|shape| (shape, out)),
        _ => None,
    };
    let Some((shape, out)) = asked() else {
        eprintln!("usage: shape NAME OUT.gguf\nnames: {names}");
        return ExitCode::from(2);
    };
    match write(shape, out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "error: {out}: {error}\nhint: nothing is overwritten; name a file that does not exist, where one can be written"
            );
            ExitCode::from(2)
        }
    }
}

fn write(shape: &Shape, out: &str) -> Result<(), Box<dyn std::error::Error>> {
    let file = File::create_new(out)?;
    let mut writer = Writer::new();
    metadata(&mut writer, shape);
    let mut random = Random(1);
    let head = shape.width / shape.heads;
    let (width, ff, kv) = (shape.width, shape.feed_forward, head * shape.kv_heads);
    random.matrix(&mut writer, "token_embd.weight".into(), width, shape.words);
    if !shape.tied {
        random.matrix(&mut writer, "output.weight".into(), width, shape.words);
    }
    writer.tensor_f32("output_norm.weight", &[width], &vec![1.0; width as usize]);
    for block in 0..shape.blocks {
        let name = |part: &str| format!("blk.{block}.{part}");
        for part in ["attn_norm.weight", "ffn_norm.weight"] {
            writer.tensor_f32(name(part), &[width], &vec![1.0; width as usize]);
        }
        for (part, inputs, outputs) in [
            ("attn_q", width, width),
            ("attn_k", width, kv),
            ("attn_v", width, kv),
            ("attn_output", width, width),
            ("ffn_gate", width, ff),
            ("ffn_up", width, ff),
            ("ffn_down", ff, width),
        ] {
            random.matrix(
                &mut writer,
                name(&format!("{part}.weight")),
                inputs,
                outputs,
            );
            if shape.architecture == "qwen2" && matches!(part, "attn_q" | "attn_k" | "attn_v") {
                writer.tensor_f32(
                    name(&format!("{part}.bias")),
                    &[outputs],
                    &vec![0.0; outputs as usize],
                );
            }
        }
    }
    let mut out = BufWriter::new(file);
    writer.write(&mut out)?;
    Ok(out.flush()?)
}

fn metadata(writer: &mut Writer<'_>, shape: &Shape) {
    let name = shape.architecture;
    writer
        .set("general.architecture", name)
        .set("general.type", "model")
        .set("general.name", shape.name);
    writer
        .set("general.file_type", 1u32)
        .set("general.quantization_version", 2u32);
    writer.set("tokenizer.ggml.model", "none");
    for (key, value) in [
        ("context_length", 4096),
        ("embedding_length", shape.width),
        ("block_count", shape.blocks),
        ("feed_forward_length", shape.feed_forward),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.kv_heads),
        ("rope.dimension_count", shape.width / shape.heads),
        ("vocab_size", shape.words),
    ] {
        writer.set(format!("{name}.{key}"), value as u32);
    }
    writer
        .set(format!("{name}.attention.layer_norm_rms_epsilon"), 1e-5f32)
        .set(format!("{name}.rope.freq_base"), 10_000f32);
}

/// source: splitmix64 (Steele, Lea, Flood 2014)
struct Random(u64);

impl Random {
    /// Uniform numbers of a size that keeps what the matrix multiplies at its own.
    fn matrix(&mut self, writer: &mut Writer<'_>, name: String, inputs: u64, outputs: u64) {
        let size = (3.0 / inputs as f32).sqrt();
        let bytes: Vec<u8> = (0..inputs * outputs)
            .flat_map(|_| half::f16::from_f32(size * self.uniform()).to_le_bytes())
            .collect();
        writer.tensor(name, TensorKind::F16, &[inputs, outputs], bytes);
    }

    /// In −1..1.
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
