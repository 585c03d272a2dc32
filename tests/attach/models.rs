//! The models and adapters of the cases.

use std::fs;
use std::path::{Path, PathBuf};

use translora_gguf::{Gguf, TensorKind, Value, Writer};

/// A base, and adapters for it that answer differently.
pub struct Set {
    pub base: PathBuf,
    pub adapters: Vec<PathBuf>,
}

/// The lab's new base as a gemma3 model: layers look back 48 tokens only, and the server keeps checkpoints of what they saw.
/// What it says is nonsense, and always the same nonsense.
pub fn sliding(set: &Set, folder: &Path) -> Set {
    let base = folder.join("sliding.gguf");
    rewrite(&set.base, &base, |writer, gguf| {
        let width = gguf.get("qwen3.embedding_length").and_then(Value::as_u64).expect("a width");
        let blocks = gguf.get("qwen3.block_count").and_then(Value::as_u64).expect("blocks");
        writer.set("gemma3.attention.sliding_window", 48_u32);
        for block in 0..blocks {
            for name in ["post_attention_norm", "post_ffw_norm"] {
                writer.tensor_f32(format!("blk.{block}.{name}.weight"), &[width], &vec![1.0; width as usize]);
            }
        }
    });
    let adapter = |(i, from): (usize, &PathBuf)| {
        let to = folder.join(format!("sliding-{i}.gguf"));
        rewrite(from, &to, |_, _| {});
        to
    };
    Set { base, adapters: set.adapters.iter().enumerate().map(adapter).collect() }
}

fn rewrite(from: &Path, to: &Path, more: impl FnOnce(&mut Writer<'_>, &Gguf<'_>)) {
    let bytes = fs::read(from).expect("a model of the lab");
    let gguf = Gguf::parse(&bytes).expect("sound");
    let mut writer = Writer::new();
    for (key, value) in gguf.metadata() {
        let renamed = key.strip_prefix("qwen3.").map_or_else(|| key.to_owned(), |rest| format!("gemma3.{rest}"));
        if key == "general.architecture" {
            writer.set(renamed, "gemma3")
        } else {
            writer.set(renamed, value.clone())
        };
    }
    for tensor in gguf.tensors() {
        writer.tensor(tensor.name.clone(), tensor.kind, &tensor.shape, gguf.data(tensor));
    }
    more(&mut writer, &gguf);
    fs::write(to, writer.to_bytes().expect("a small file")).expect("the folder is writable");
}

/// A change to a tensor, given its name, of its data and shape.
type Spoil<'a> = &'a dyn Fn(&str, &mut Vec<u8>, &mut Vec<u64>);

/// Files that must change nothing, each with a word of the reason that is given.
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
    let spoiled = |name: &str, change: Spoil<'_>| {
        let mut writer = Writer::new();
        for (key, value) in gguf.metadata() {
            writer.set(key, value.clone());
        }
        for tensor in gguf.tensors() {
            let (mut data, mut shape) = (gguf.data(tensor).to_vec(), tensor.shape.clone());
            change(&tensor.name, &mut data, &mut shape);
            writer.tensor(tensor.name.clone(), tensor.kind, &shape, data);
        }
        write(name, &writer.to_bytes().expect("a small file"))
    };
    assert!(gguf.tensors().iter().all(|tensor| tensor.kind == TensorKind::F32), "the lab's adapters are F32");
    let not_a_number = spoiled("nan.gguf", &|name, data, _| {
        if name.ends_with("blk.1.attn_q.weight.lora_b") {
            data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
    });
    let narrow = spoiled("narrow.gguf", &|name, data, shape| {
        if name.ends_with("blk.1.attn_q.weight.lora_a") {
            data.truncate(data.len() / 2);
            shape[0] /= 2;
        }
    });
    vec![
        (half, "half.gguf"),
        (text, "text.gguf"),
        (other, "does not fit"),
        (not_a_number, "NaN"),
        (narrow, "does not fit"),
        (folder.join("missing.gguf"), "No such file"),
    ]
}
