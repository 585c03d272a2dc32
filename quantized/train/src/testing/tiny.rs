//! Makes models and adapters from a seed, for tests: small, random, and complete enough for
//! llama.cpp to load.
//!
//! The vocabulary has one token per byte and the three control tokens of ChatML. The weights mean
//! nothing, but are scaled so that values neither vanish nor explode. Same arguments, same bytes.
//! May be called by tests only.

use translora_gguf::{Gguf, TensorKind, Value, Writer};

/// The token that begins a text.
pub const END_OF_TEXT: u32 = 256;
/// The token that begins a message.
pub const MESSAGE_START: u32 = 257;
/// The token that ends a message, and an answer.
pub const MESSAGE_END: u32 = 258;
/// The number of tokens, unless a shape has more.
pub const VOCABULARY: usize = 259;

const CHAT_TEMPLATE: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] \
    + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const FILE_TYPES: [(TensorKind, u32); 3] = [
    (TensorKind::F32, 0),
    (TensorKind::F16, 1),
    (TensorKind::Q8_0, 7),
];

/// Names an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TinyArchitecture {
    /// Rotates neighbouring pairs.
    Llama,
    /// Rotates halves; q, k and v have biases.
    Qwen2,
    /// Rotates halves; q and k are normalized per head.
    Qwen3,
    /// As llama, with logits divided by a number.
    Granite,
    /// Norms before and after each part; attention scores and logits pass a tanh.
    Gemma2,
}

impl TinyArchitecture {
    /// Lists those that the naive reference knows.
    pub const ALL: [TinyArchitecture; 3] = [
        TinyArchitecture::Llama,
        TinyArchitecture::Qwen2,
        TinyArchitecture::Qwen3,
    ];

    /// Is llama.cpp's name.
    pub const fn name(self) -> &'static str {
        match self {
            TinyArchitecture::Llama => "llama",
            TinyArchitecture::Qwen2 => "qwen2",
            TinyArchitecture::Qwen3 => "qwen3",
            TinyArchitecture::Granite => "granite",
            TinyArchitecture::Gemma2 => "gemma2",
        }
    }
}

/// Holds the dimensions of a tiny model.
#[derive(Debug, Clone, PartialEq)]
pub struct TinyShape {
    /// The width of the residual stream.
    pub width: usize,
    /// The number of blocks.
    pub blocks: usize,
    /// The number of query heads.
    pub heads: usize,
    /// The number of key and value heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// The length of a head, even; for llama and qwen2 `width / heads`.
    pub head_length: usize,
    /// The inner width of the feed-forward part.
    pub feed_forward: usize,
    /// The context that the metadata promises, in tokens.
    pub context: usize,
    /// The number of tokens, at least `VOCABULARY`; what is beyond it is control tokens.
    pub vocabulary: usize,
    /// Whether the embedding serves as output.
    pub tied: bool,
    /// The type of the matrices: F32, F16 or Q8_0 (rows divisible by 32). Norms and biases are F32.
    pub kind: TensorKind,
}

impl Default for TinyShape {
    fn default() -> Self {
        TinyShape {
            width: 64,
            blocks: 2,
            heads: 4,
            kv_heads: 2,
            head_length: 16,
            feed_forward: 96,
            context: 256,
            vocabulary: VOCABULARY,
            tied: true,
            kind: TensorKind::F32,
        }
    }
}

/// Makes a model file.
///
/// bounds: panics where `shape` has a type that cannot be written or for rows that its blocks do
/// not divide
pub fn tiny_model(architecture: TinyArchitecture, seed: u64, shape: &TinyShape) -> Vec<u8> {
    let mut model = ModelWriter {
        writer: Writer::new(),
        random: Random(seed),
        kind: shape.kind,
    };
    write_metadata(&mut model.writer, architecture, shape);
    write_vocabulary(&mut model.writer, shape.vocabulary);
    model.matrix("token_embd.weight", shape.width, shape.vocabulary, 0.5);
    model.vector("output_norm.weight", shape.width, 1.0, 0.1);
    if !shape.tied {
        model.matrix(
            "output.weight",
            shape.width,
            shape.vocabulary,
            gain(shape.width),
        );
    }
    for block in 0..shape.blocks {
        model.block(block, architecture, shape);
    }
    model
        .writer
        .to_bytes()
        .expect("a tiny model follows the rules of the format")
}

/// Makes an adapter file for any model: A and B random, so that it changes every answer.
///
/// `modules` are names such as `attn_q` or `ffn_down`; every weight of a block with one of these
/// names is adapted.
/// bounds: panics where the model has none
pub fn tiny_adapter(
    model: &Gguf<'_>,
    seed: u64,
    rank: usize,
    alpha: f32,
    modules: &[&str],
) -> Vec<u8> {
    let mut random = Random(seed);
    let mut writer = Writer::new();
    let architecture = model
        .get("general.architecture")
        .and_then(Value::as_str)
        .expect("a model names its architecture");
    writer
        .set("general.type", "adapter")
        .set("general.architecture", architecture);
    writer
        .set("adapter.type", "lora")
        .set("adapter.lora.alpha", alpha);
    let mut adapted = 0;
    for tensor in model.tensors() {
        let module = tensor
            .name
            .strip_suffix(".weight")
            .and_then(|name| name.strip_prefix("blk.")?.split_once('.'));
        if let (Some((_, module)), &[inputs, outputs]) = (module, tensor.shape.as_slice())
            && modules.contains(&module)
        {
            adapted += 1;
            let rank = rank as u64;
            let a = random.normals(inputs * rank, 0.0, gain(inputs as usize));
            let b = random.normals(outputs * rank, 0.0, 0.1);
            writer.tensor_f32(format!("{}.lora_a", tensor.name), &[inputs, rank], &a);
            writer.tensor_f32(format!("{}.lora_b", tensor.name), &[rank, outputs], &b);
        }
    }
    assert!(adapted > 0, "the model has none of {modules:?}");
    writer
        .to_bytes()
        .expect("a tiny adapter follows the rules of the format")
}

/// Chooses the deviation that keeps the size of what a matrix multiplies.
fn gain(inputs: usize) -> f32 {
    (inputs as f32).sqrt().recip()
}

fn write_metadata(writer: &mut Writer<'_>, architecture: TinyArchitecture, shape: &TinyShape) {
    let name = architecture.name();
    let file_type = FILE_TYPES
        .iter()
        .find(|(kind, _)| *kind == shape.kind)
        .expect("F32, F16 or Q8_0")
        .1;
    writer
        .set("general.architecture", name)
        .set("general.type", "model")
        .set("general.name", format!("tiny {name}"));
    writer
        .set("general.file_type", file_type)
        .set("general.quantization_version", 2u32);
    let mut set = |key: &str, value: usize| {
        writer.set(format!("{name}.{key}"), value as u32);
    };
    set("context_length", shape.context);
    set("embedding_length", shape.width);
    set("block_count", shape.blocks);
    set("feed_forward_length", shape.feed_forward);
    set("attention.head_count", shape.heads);
    set("attention.head_count_kv", shape.kv_heads);
    set("attention.key_length", shape.head_length);
    set("attention.value_length", shape.head_length);
    set("rope.dimension_count", shape.head_length);
    set("vocab_size", shape.vocabulary);
    writer.set(format!("{name}.attention.layer_norm_rms_epsilon"), 1e-5f32);
    writer.set(format!("{name}.rope.freq_base"), 10_000f32);
    let more: &[(&str, f32)] = match architecture {
        TinyArchitecture::Granite => &[("logit_scale", 3.0)],
        TinyArchitecture::Gemma2 => &[
            ("attn_logit_softcapping", 20.0),
            ("final_logit_softcapping", 6.0),
        ],
        _ => &[],
    };
    for (key, value) in more {
        writer.set(format!("{name}.{key}"), *value);
    }
}

/// Writes the byte-level vocabulary: token b is byte b, in the alphabet in which every byte has a
/// visible letter.
fn write_vocabulary(writer: &mut Writer<'_>, count: usize) {
    let mut next_letter = 256u32;
    let mut letter = |byte: u8| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => {
            next_letter += 1;
            char::from_u32(next_letter - 1).expect("68 letters from 256 on are all characters")
        }
    };
    let mut tokens: Vec<String> = (0..=255).map(|byte| letter(byte).to_string()).collect();
    tokens.extend(["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(String::from));
    tokens.extend((VOCABULARY..count).map(|token| format!("<|more{token}|>")));
    let (normal, control) = (1, 3);
    let kinds: Vec<i32> = (0..count)
        .map(|token| if token < 256 { normal } else { control })
        .collect();
    writer
        .set("tokenizer.ggml.model", "gpt2")
        .set("tokenizer.ggml.pre", "qwen2");
    writer
        .set("tokenizer.ggml.tokens", tokens)
        .set("tokenizer.ggml.token_type", kinds);
    writer.set("tokenizer.ggml.merges", Vec::<String>::new());
    writer
        .set("tokenizer.ggml.bos_token_id", END_OF_TEXT)
        .set("tokenizer.ggml.eos_token_id", MESSAGE_END);
    writer
        .set("tokenizer.ggml.padding_token_id", END_OF_TEXT)
        .set("tokenizer.ggml.add_bos_token", false);
    writer.set("tokenizer.chat_template", CHAT_TEMPLATE);
}

struct ModelWriter {
    writer: Writer<'static>,
    random: Random,
    kind: TensorKind,
}

impl ModelWriter {
    fn block(&mut self, block: usize, architecture: TinyArchitecture, shape: &TinyShape) {
        let name = |part: &str| format!("blk.{block}.{part}");
        let (q, kv) = (
            shape.heads * shape.head_length,
            shape.kv_heads * shape.head_length,
        );
        self.vector(&name("attn_norm.weight"), shape.width, 1.0, 0.1);
        for (part, outputs) in [("attn_q", q), ("attn_k", kv), ("attn_v", kv)] {
            self.matrix(
                &name(&format!("{part}.weight")),
                shape.width,
                outputs,
                gain(shape.width),
            );
            if architecture == TinyArchitecture::Qwen2 {
                self.vector(&name(&format!("{part}.bias")), outputs, 0.0, 0.1);
            }
        }
        if architecture == TinyArchitecture::Qwen3 {
            self.vector(&name("attn_q_norm.weight"), shape.head_length, 1.0, 0.1);
            self.vector(&name("attn_k_norm.weight"), shape.head_length, 1.0, 0.1);
        }
        self.matrix(&name("attn_output.weight"), q, shape.width, gain(q));
        self.vector(&name("ffn_norm.weight"), shape.width, 1.0, 0.1);
        if architecture == TinyArchitecture::Gemma2 {
            self.vector(&name("post_attention_norm.weight"), shape.width, 1.0, 0.1);
            self.vector(&name("post_ffw_norm.weight"), shape.width, 1.0, 0.1);
        }
        self.matrix(
            &name("ffn_gate.weight"),
            shape.width,
            shape.feed_forward,
            gain(shape.width),
        );
        self.matrix(
            &name("ffn_up.weight"),
            shape.width,
            shape.feed_forward,
            gain(shape.width),
        );
        self.matrix(
            &name("ffn_down.weight"),
            shape.feed_forward,
            shape.width,
            gain(shape.feed_forward),
        );
    }

    fn vector(&mut self, name: &str, length: usize, mean: f32, deviation: f32) {
        let values = self.random.normals(length as u64, mean, deviation);
        self.writer.tensor_f32(name, &[length as u64], &values);
    }

    fn matrix(&mut self, name: &str, inputs: usize, outputs: usize, deviation: f32) {
        let values = self
            .random
            .normals((inputs * outputs) as u64, 0.0, deviation);
        let bytes = match self.kind {
            TensorKind::F16 => values
                .iter()
                .flat_map(|&x| half::f16::from_f32(x).to_le_bytes())
                .collect(),
            TensorKind::Q8_0 => values.chunks_exact(32).flat_map(quantize_q8_0).collect(),
            _ => values
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect::<Vec<u8>>(),
        };
        self.writer
            .tensor(name, self.kind, &[inputs as u64, outputs as u64], bytes);
    }
}

/// Packs 32 floats: a scale in half precision, then 32 bytes.
fn quantize_q8_0(values: &[f32]) -> Vec<u8> {
    let largest = values.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let scale = half::f16::from_f32(largest / 127.0);
    let quantize = |x: &f32| {
        (x / scale.to_f32().max(f32::MIN_POSITIVE))
            .round()
            .clamp(-127.0, 127.0) as i8 as u8
    };
    scale
        .to_le_bytes()
        .into_iter()
        .chain(values.iter().map(quantize))
        .collect()
}

/// Draws numbers from a seed.
///
/// source: splitmix64 (Steele, Lea, Flood 2014)
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Draws numbers that are nearly normal: sums of four uniform ones, whose variance is a third.
    fn normals(&mut self, count: u64, mean: f32, deviation: f32) -> Vec<f32> {
        let mut standard = || ((0..4).map(|_| self.uniform()).sum::<f32>() - 2.0) * 3f32.sqrt();
        (0..count).map(|_| mean + deviation * standard()).collect()
    }
}
