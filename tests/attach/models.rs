//! The models and adapters of the cases.

use std::fs;
use std::path::{Path, PathBuf};

use translora_gguf::{Gguf, Pending, TensorKind, Value, Writer};

/// A base, and adapters for it that answer differently.
pub struct Set {
    pub base: PathBuf,
    pub adapters: Vec<PathBuf>,
}

/// The lab's new base as a gemma3 model: layers look back 48 tokens only, and the server keeps
/// checkpoints of what they saw. What it says is nonsense, and always the same nonsense.
pub fn sliding(set: &Set, folder: &Path) -> Set {
    let base = folder.join("sliding.gguf");
    rewrite(&set.base, &base, |writer, gguf| {
        let width = gguf
            .get("qwen3.embedding_length")
            .and_then(Value::as_u64)
            .expect("a width");
        let blocks = gguf
            .get("qwen3.block_count")
            .and_then(Value::as_u64)
            .expect("blocks");
        writer.set("gemma3.attention.sliding_window", 48_u32);
        for block in 0..blocks {
            for name in ["post_attention_norm", "post_ffw_norm"] {
                writer.tensor_f32(
                    format!("blk.{block}.{name}.weight"),
                    &[width],
                    &vec![1.0; width as usize],
                );
            }
        }
    });
    let adapter = |(i, from): (usize, &PathBuf)| {
        let to = folder.join(format!("sliding-{i}.gguf"));
        rewrite(from, &to, |_, _| {});
        to
    };
    Set {
        base,
        adapters: set.adapters.iter().enumerate().map(adapter).collect(),
    }
}

/// The lab's new base as an lfm2 model: every other block has a convolution in place of its
/// attention, whose state cannot be cut back.
pub fn hybrid(set: &Set, folder: &Path) -> Set {
    const CACHE: u64 = 3;
    let attends = |name: &str| {
        block(name).is_none_or(|block| {
            block % 2 == 1 || !name.contains(".attn_") || name.contains(".attn_norm")
        })
    };
    let base = folder.join("hybrid.gguf");
    rename(&set.base, &base, "lfm2", &attends, |writer, gguf| {
        let count = |key: &str| gguf.get(key).and_then(Value::as_u64).expect("a number");
        let (width, blocks, heads) = (
            count("qwen3.embedding_length"),
            count("qwen3.block_count"),
            count("qwen3.attention.head_count_kv"),
        );
        writer.set("lfm2.shortconv.l_cache", CACHE as u32);
        writer.set(
            "lfm2.attention.head_count_kv",
            (0..blocks)
                .map(|block| if block % 2 == 1 { heads as u32 } else { 0 })
                .collect::<Vec<u32>>(),
        );
        let mut numbers = Numbers(1);
        for block in (0..blocks).step_by(2) {
            let mut add = |name: &str, shape: &[u64], size: f32| {
                writer.tensor_f32(
                    format!("blk.{block}.shortconv.{name}.weight"),
                    shape,
                    &numbers.some(shape, size),
                );
            };
            add("conv", &[CACHE, width], 1.0);
            add("in_proj", &[width, 3 * width], 0.2);
            add("out_proj", &[width, width], 0.2);
        }
    });
    let adapter = |(i, from): (usize, &PathBuf)| {
        let to = folder.join(format!("hybrid-{i}.gguf"));
        rename(from, &to, "lfm2", &attends, |_, _| {});
        to
    };
    Set {
        base,
        adapters: set.adapters.iter().enumerate().map(adapter).collect(),
    }
}

const MAMBA_BLOCKS: u64 = 2;
const MAMBA_WIDTH: u64 = 192;
const MAMBA_INNER: u64 = 2 * MAMBA_WIDTH;

/// A mamba model of random numbers with the lab's vocabulary, and two adapters of random numbers
/// for it.
pub fn recurrent(set: &Set, folder: &Path) -> Set {
    const WIDTH: u64 = MAMBA_WIDTH;
    const INNER: u64 = MAMBA_INNER;
    const STATE: u64 = 16;
    const STEP: u64 = 12;
    let bytes = fs::read(&set.base).expect("a model of the lab");
    let gguf = Gguf::parse(&bytes).expect("sound");
    let mut writer = Writer::new();
    writer.set("general.architecture", "mamba");
    for (key, value) in gguf
        .metadata()
        .filter(|(key, _)| key.starts_with("tokenizer."))
    {
        writer.set(key, value.clone());
    }
    let sizes = [
        ("context_length", 2048),
        ("embedding_length", WIDTH),
        ("block_count", MAMBA_BLOCKS),
        ("feed_forward_length", 0),
        ("attention.head_count", 0),
        ("ssm.conv_kernel", 4),
        ("ssm.inner_size", INNER),
        ("ssm.state_size", STATE),
        ("ssm.time_step_rank", STEP),
    ];
    for (key, size) in sizes {
        writer.set(format!("mamba.{key}"), size as u32);
    }
    writer.set("mamba.attention.layer_norm_rms_epsilon", 1e-5_f32);
    let words = gguf.tensor("token_embd.weight").expect("an embedding");
    writer.tensor(
        "token_embd.weight",
        words.kind,
        &words.shape,
        gguf.data(words),
    );
    writer.tensor_f32("output_norm.weight", &[WIDTH], &[1.0; WIDTH as usize]);
    let mut numbers = Numbers(2);
    for block in 0..MAMBA_BLOCKS {
        let mut add = |name: &str, shape: &[u64], values: Vec<f32>| {
            writer.tensor_f32(format!("blk.{block}.{name}"), shape, &values);
        };
        add("attn_norm.weight", &[WIDTH], vec![1.0; WIDTH as usize]);
        add("ssm_d", &[INNER], vec![1.0; INNER as usize]);
        add(
            "ssm_a",
            &[STATE, INNER],
            (0..INNER)
                .flat_map(|_| (1..=STATE).map(|i| -(i as f32)))
                .collect(),
        );
        for (name, shape, size) in [
            ("ssm_in.weight", &[WIDTH, 2 * INNER][..], 0.15),
            ("ssm_conv1d.weight", &[4, INNER], 0.5),
            ("ssm_conv1d.bias", &[INNER], 0.1),
            ("ssm_x.weight", &[INNER, STEP + 2 * STATE], 0.1),
            ("ssm_dt.weight", &[STEP, INNER], 0.3),
            ("ssm_dt.bias", &[INNER], 1.0),
            ("ssm_out.weight", &[INNER, WIDTH], 0.1),
        ] {
            add(name, shape, numbers.some(shape, size));
        }
    }
    let base = folder.join("recurrent.gguf");
    fs::write(&base, writer.to_bytes().expect("a small file")).expect("the folder is writable");
    Set {
        base,
        adapters: [3, 4].map(|seed| mamba_adapter(folder, seed)).into(),
    }
}

/// An adapter of random numbers for the mamba model.
fn mamba_adapter(folder: &Path, seed: u64) -> PathBuf {
    const RANK: u64 = 4;
    let mut writer = Writer::new();
    writer
        .set("general.type", "adapter")
        .set("adapter.type", "lora")
        .set("general.architecture", "mamba")
        .set("adapter.lora.alpha", 4.0_f32);
    let mut numbers = Numbers(seed);
    for block in 0..MAMBA_BLOCKS {
        for (name, from, to) in [
            ("ssm_in", MAMBA_WIDTH, 2 * MAMBA_INNER),
            ("ssm_out", MAMBA_INNER, MAMBA_WIDTH),
        ] {
            for (half, shape) in [("a", [from, RANK]), ("b", [RANK, to])] {
                writer.tensor_f32(
                    format!("blk.{block}.{name}.weight.lora_{half}"),
                    &shape,
                    &numbers.some(&shape, 0.2),
                );
            }
        }
    }
    let file = folder.join(format!("recurrent-{seed}.gguf"));
    fs::write(&file, writer.to_bytes().expect("a small file")).expect("the folder is writable");
    file
}

/// A vision encoder of random numbers that makes four embeddings of an image, of the width of the
/// lab's new base.
pub fn projector(folder: &Path) -> PathBuf {
    const WIDTH: u64 = 32;
    const INNER: u64 = 64;
    const TEXT: u64 = 192;
    let mut writer = Writer::new();
    writer
        .set("general.architecture", "clip")
        .set("clip.has_vision_encoder", true)
        .set("clip.projector_type", "gemma3");
    writer
        .set("clip.use_gelu", true)
        .set("clip.vision.attention.layer_norm_epsilon", 1e-6_f32);
    for key in ["image_mean", "image_std"] {
        writer.set(format!("clip.vision.{key}"), vec![0.5_f32; 3]);
    }
    let sizes = [
        ("embedding_length", WIDTH),
        ("feed_forward_length", INNER),
        ("block_count", 1),
        ("projection_dim", TEXT),
        ("attention.head_count", 2),
        ("image_size", 32),
        ("patch_size", 8),
        ("projector.scale_factor", 2),
    ];
    for (key, size) in sizes {
        writer.set(format!("clip.vision.{key}"), size as u32);
    }
    let mut numbers = Numbers(5);
    for (name, shape) in [
        ("v.patch_embd.weight", &[8, 8, 3, WIDTH][..]),
        ("v.patch_embd.bias", &[WIDTH]),
        ("v.position_embd.weight", &[WIDTH, 16]),
        ("v.blk.0.attn_q.weight", &[WIDTH, WIDTH]),
        ("v.blk.0.attn_k.weight", &[WIDTH, WIDTH]),
        ("v.blk.0.attn_v.weight", &[WIDTH, WIDTH]),
        ("v.blk.0.attn_out.weight", &[WIDTH, WIDTH]),
        ("v.blk.0.ffn_up.weight", &[WIDTH, INNER]),
        ("v.blk.0.ffn_down.weight", &[INNER, WIDTH]),
        ("v.blk.0.ln1.weight", &[WIDTH]),
        ("v.blk.0.ln2.weight", &[WIDTH]),
        ("v.post_ln.weight", &[WIDTH]),
        ("mm.soft_emb_norm.weight", &[WIDTH]),
        ("mm.input_projection.weight", &[TEXT, WIDTH]),
    ] {
        writer.tensor_f32(name, shape, &numbers.some(shape, 0.3));
    }
    let file = folder.join("projector.gguf");
    fs::write(&file, writer.to_bytes().expect("a small file")).expect("the folder is writable");
    file
}

/// Random numbers. source: Marsaglia, Xorshift RNGs
struct Numbers(u64);

impl Numbers {
    /// Numbers between -size and size for a tensor.
    fn some(&mut self, shape: &[u64], size: f32) -> Vec<f32> {
        let mut one = || {
            for (left, by) in [(true, 13), (false, 7), (true, 17)] {
                self.0 ^= if left { self.0 << by } else { self.0 >> by };
            }
            ((self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0) * size
        };
        (0..shape.iter().product::<u64>()).map(|_| one()).collect()
    }
}

/// The number of the block that a tensor is in.
fn block(name: &str) -> Option<u64> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

fn rewrite(from: &Path, to: &Path, more: impl FnOnce(&mut Writer<'_>, &Gguf<'_>)) {
    rename(from, to, "gemma3", &|_| true, more);
}

/// Write a model or adapter of the lab as one of another architecture, with the tensors that are
/// `kept`, and with more.
fn rename(
    from: &Path,
    to: &Path,
    architecture: &str,
    kept: &dyn Fn(&str) -> bool,
    more: impl FnOnce(&mut Writer<'_>, &Gguf<'_>),
) {
    let bytes = fs::read(from).expect("a model of the lab");
    let gguf = Gguf::parse(&bytes).expect("sound");
    let mut writer = Writer::new();
    for (key, value) in gguf.metadata() {
        // What it is made for is another file from here on.
        if key.starts_with("translora.") && key.ends_with(".sha256") {
            continue;
        }
        let renamed = key
            .strip_prefix("qwen3.")
            .map_or_else(|| key.to_owned(), |rest| format!("{architecture}.{rest}"));
        if key == "general.architecture" {
            writer.set(renamed, architecture)
        } else {
            writer.set(renamed, value.clone())
        };
    }
    for tensor in gguf.tensors().iter().filter(|tensor| kept(&tensor.name)) {
        let name = if architecture == "lfm2" {
            tensor.name.replace("output_norm", "token_embd_norm")
        } else {
            tensor.name.clone()
        };
        writer.tensor(name, tensor.kind, &tensor.shape, gguf.data(tensor));
    }
    more(&mut writer, &gguf);
    fs::write(to, writer.to_bytes().expect("a small file")).expect("the folder is writable");
}

/// Files that must change nothing, each with a word of the reason.
pub fn bad(set: &Set, folder: &Path) -> Vec<(PathBuf, &'static str)> {
    let good = fs::read(&set.adapters[0]).expect("an adapter");
    let write = |name: &str, bytes: &[u8]| {
        let file = folder.join(name);
        fs::write(&file, bytes).expect("the folder is writable");
        file
    };
    let half = write("half.gguf", &good[..good.len() / 2]);
    let text = write("text.gguf", b"this is no adapter");
    let other = folder.join("other-base.gguf");
    rewrite(&set.adapters[0], &other, |_, _| {});
    let gguf = Gguf::parse(&good).expect("sound");
    let spoiled = |name: &str, change: &dyn Fn(&mut Pending<'_>)| {
        let mut writer = Writer::copy_of(&gguf);
        writer.retain_tensors(|tensor| {
            change(tensor);
            true
        });
        write(name, &writer.to_bytes().expect("a small file"))
    };
    assert!(
        gguf.tensors()
            .iter()
            .all(|tensor| tensor.kind == TensorKind::F32),
        "the lab's adapters are F32"
    );
    let not_a_number = spoiled("nan.gguf", &|tensor| {
        if tensor.name.ends_with("blk.1.attn_q.weight.lora_b") {
            tensor.bytes()[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
    });
    let narrow = spoiled("narrow.gguf", &|tensor| {
        if tensor.name.ends_with("blk.1.attn_q.weight.lora_a") {
            let half = tensor.bytes().len() / 2;
            tensor.bytes().truncate(half);
            tensor.shape[0] /= 2;
        }
    });
    let mut moved = Writer::copy_of(&gguf);
    moved.set("translora.target.sha256", "0123456789abcdef".repeat(4));
    let moved = write("moved.gguf", &moved.to_bytes().expect("a small file"));
    vec![
        (half, "half.gguf"),
        (moved, "was made for a base with SHA-256 0123456789ab"),
        (text, "text.gguf"),
        (other, "is for a base of architecture"),
        (not_a_number, "NaN"),
        (narrow, "in the base, and the adapter's pair is for"),
        (folder.join("missing.gguf"), "No such file"),
    ]
}
