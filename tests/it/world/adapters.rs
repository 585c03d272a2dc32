//! Adapter files, as public reports tell of them: made here from small numbers, each judged by the
//! program and by the check that every entry shares.

use std::fs;

use translora::adapters::{self, Base};
use translora_gguf::{TensorKind, Value, Writer};

use crate::real::{Folder, done, old_base, refused, rows};

/// Rank of the pairs.
const RANK: u64 = 4;
const ALPHA: &str = "adapter.lora.alpha";

/// A number of a report, what is changed in a sound adapter, and what is said of it: nothing where
/// it is taken.
type Case = (&'static str, &'static str, fn(&mut Made), &'static str);

/// An adapter in the making.
struct Made {
    keys: Vec<(&'static str, Option<Value>)>,
    /// Layers, and the matrices of each: name, columns, rows.
    layers: std::ops::Range<usize>,
    matrices: Vec<(&'static str, u64, u64)>,
    /// Of A and B.
    ranks: [u64; 2],
    /// Zeros stand in B.
    zero: bool,
    kind: Option<(TensorKind, u8)>,
    more: Vec<(&'static str, u64)>,
}

impl Made {
    /// As a converter writes one for the lab's old base.
    fn new() -> Self {
        Self {
            keys: vec![
                ("general.architecture", Some("llama".into())),
                ("general.type", Some("adapter".into())),
                ("adapter.type", Some("lora".into())),
                (ALPHA, Some(8.0_f32.into())),
            ],
            layers: 0..5,
            matrices: vec![
                ("attn_q", 128, 128),
                ("attn_v", 128, 32),
                ("ffn_up", 128, 384),
            ],
            ranks: [RANK; 2],
            zero: false,
            kind: None,
            more: Vec::new(),
        }
    }

    fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.keys.push((key, Some(value.into())));
    }

    fn without(&mut self, key: &'static str) {
        self.keys.push((key, None));
    }

    fn bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        for (key, value) in &self.keys {
            let last = self.keys.iter().rfind(|(other, _)| other == key);
            if let Some((_, Some(_))) = last
                && let Some(value) = value
            {
                writer.set(*key, value.clone());
            }
        }
        for layer in self.layers.clone() {
            for (name, columns, rows) in &self.matrices {
                let name = format!("blk.{layer}.{name}.weight");
                let [a, b] = self.ranks;
                self.half(&mut writer, format!("{name}.lora_a"), &[*columns, a], false);
                self.half(
                    &mut writer,
                    format!("{name}.lora_b"),
                    &[b, *rows],
                    self.zero,
                );
            }
        }
        for (name, length) in &self.more {
            let ones = vec![1.0; *length as usize];
            writer.tensor_f32(*name, &[*length], &ones);
        }
        writer.to_bytes().expect("it keeps the limits")
    }

    fn half(&self, writer: &mut Writer<'_>, name: String, shape: &[u64], zero: bool) {
        if let Some((kind, byte)) = self.kind {
            let bytes = kind.bytes(shape).expect("whole blocks") as usize;
            writer.tensor(name, kind, shape, vec![byte; bytes]);
            return;
        }
        let count = shape.iter().product::<u64>();
        let small = |n: u64| {
            if zero {
                0.0
            } else {
                (n % 7) as f32 * 0.01 - 0.03
            }
        };
        let numbers: Vec<f32> = (0..count).map(small).collect();
        writer.tensor_f32(name, shape, &numbers);
    }
}

const CASES: &[Case] = &[
    (
        "19",
        "norm vectors",
        |m| m.more.push(("blk.0.attn_norm.weight", 128)),
        "\"blk.0.attn_norm.weight\" is no half of a LoRA pair",
    ),
    (
        "19",
        "rope_freqs",
        |m| m.more.push(("rope_freqs.weight", 16)),
        "\"rope_freqs.weight\" is no half of a LoRA pair",
    ),
    ("20", "alpha as f32", |_| {}, ""),
    ("20", "alpha below zero", |m| m.set(ALPHA, -8.0_f32), ""),
    (
        "20",
        "alpha as f64",
        |m| m.set(ALPHA, 8.0_f64),
        "alpha is a f64, and must be a 32-bit float",
    ),
    (
        "20",
        "alpha as u32",
        |m| m.set(ALPHA, 8_u32),
        "alpha is a u32, and must be a 32-bit float",
    ),
    (
        "20",
        "alpha as i32",
        |m| m.set(ALPHA, 8_i32),
        "alpha is a i32, and must be a 32-bit float",
    ),
    (
        "20",
        "alpha as text",
        |m| m.set(ALPHA, "8"),
        "alpha is a string, and must be a 32-bit float",
    ),
    (
        "20",
        "no alpha",
        |m| m.without(ALPHA),
        "alpha is missing, and must be a 32-bit float",
    ),
    (
        "20",
        "alpha of zero",
        |m| m.set(ALPHA, 0.0_f32),
        "alpha is 0, and must be a number other than 0",
    ),
    (
        "20",
        "alpha of NaN",
        |m| m.set(ALPHA, f32::NAN),
        "alpha is NaN, and must be a number other than 0",
    ),
    (
        "20",
        "alpha of infinity",
        |m| m.set(ALPHA, f32::INFINITY),
        "alpha is inf, and must be a number other than 0",
    ),
    (
        "20",
        "a huge alpha",
        |m| m.set(ALPHA, 1e38_f32),
        "at most 1000000",
    ),
    (
        "20",
        "general.type as a number",
        |m| m.set("general.type", 1_u32),
        "general.type is a u32, and must be a string",
    ),
    (
        "20",
        "adapter.type as a bool",
        |m| m.set("adapter.type", true),
        "adapter.type is a bool, and must be a string",
    ),
    (
        "20",
        "a type of numbers",
        |m| m.set("general.architecture", vec![1_u32]),
        "general.architecture is ",
    ),
    ("21", "rank 256", |m| m.ranks = [256; 2], ""),
    (
        "21",
        "A and B of unequal rank",
        |m| m.ranks = [4, 8],
        "differ in rank",
    ),
    ("21", "B of zeros", |m| m.zero = true, "adapts nothing"),
    ("21", "no tensors", |m| m.layers = 0..0, "adapts nothing"),
    (
        "21",
        "8-bit integers",
        |m| m.kind = Some((TensorKind::I8, 1)),
        "no product",
    ),
    (
        "21",
        "32-bit integers",
        |m| m.kind = Some((TensorKind::I32, 1)),
        "no product",
    ),
    (
        "21",
        "64-bit floats",
        |m| m.kind = Some((TensorKind::F64, 1)),
        "no product",
    ),
    (
        "21",
        "quantized with scales of NaN",
        |m| {
            m.ranks = [32; 2];
            m.kind = Some((TensorKind::Q8_0, 0xFF));
        },
        "NaN at element 0",
    ),
    (
        "23",
        "activated LoRA",
        |m| m.set("adapter.alora.invocation_tokens", vec![1_u32, 5, 7]),
        "an activated LoRA",
    ),
    (
        "23",
        "activated LoRA, signed",
        |m| m.set("adapter.alora.invocation_tokens", vec![1_i32, 5, 7]),
        "an activated LoRA",
    ),
    (
        "23",
        "words for a server to show",
        |m| m.set("adapter.lora.prompt_prefix", "classify: "),
        "",
    ),
    (
        "27",
        "another architecture",
        |m| m.set("general.architecture", "qwen3"),
        "\"qwen3\", and this one is \"llama\"",
    ),
    (
        "27",
        "no architecture",
        |m| m.without("general.architecture"),
        "general.architecture is missing",
    ),
    (
        "27",
        "two layers more",
        |m| m.layers = 0..7,
        "the base has no \"blk.5.attn_q.weight\"",
    ),
    (
        "27",
        "a wider base",
        |m| m.matrices = vec![("attn_q", 256, 256)],
        "is 128×128 in the base, and the adapter's pair is for 256×256",
    ),
    (
        "27",
        "one matrix of the last layer",
        |m| {
            m.layers = 4..5;
            m.matrices = vec![("attn_q", 128, 128)];
        },
        "",
    ),
];

#[test]
fn adapters_are_taken_or_refused_by_name() {
    let folder = Folder::new();
    folder.write("rows.jsonl", rows("eval.jsonl", 2).as_bytes());
    let old = old_base();
    let base = Base::read(&old).expect("the lab is in the repository");
    for (case, what, change, says) in CASES {
        let mut made = Made::new();
        change(&mut made);
        let path = folder.write("lora.gguf", &made.bytes());
        let name = format!("{case}, {what}");
        let checked = adapters::check(&base, &path);
        let line = format!(
            "eval -m {} --lora lora.gguf --data rows.jsonl --answer-tokens 2",
            old.display()
        );
        let run = folder.run(&line);
        if says.is_empty() {
            assert!(checked.is_ok(), "{name}: {checked:?}");
            done(&run);
        } else {
            let error = checked.expect_err(&name).to_string();
            assert!(error.contains(says), "{name}: {error}");
            refused(&name, &run, &["lora.gguf", says]);
        }
    }
}

/// 17 and 24: what lies in the place of an adapter, and what is said of it.
#[test]
fn what_is_no_adapter_is_called_what_it_is() {
    let folder = Folder::new();
    folder.write("rows.jsonl", rows("eval.jsonl", 2).as_bytes());
    fs::create_dir(folder.path("empty")).expect("the folder is writable");
    fs::create_dir(folder.path("config")).expect("the folder is writable");
    let config = br#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8}"#;
    folder.write("config/adapter_config.json", config);
    folder.write("alone.safetensors", b"\x08\0\0\0\0\0\0\0{}      ");
    fs::create_dir(folder.path("pickled")).expect("the folder is writable");
    folder.write("pickled/adapter_config.json", config);
    folder.write("pickled/adapter_model.bin", b"PK\x03\x04");
    folder.write(
        "adapter_model.bin",
        b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10\0\0\0archive/data.pkl",
    );
    for (file, says, helps) in [
        (
            "empty",
            "a folder, and there is no adapter_config.json",
            "the whole folder",
        ),
        ("config", "no adapter_model.safetensors", "folder"),
        (
            "alone.safetensors",
            "no adapter_config.json beside it",
            "the whole folder",
        ),
        ("pickled", "PyTorch file (pickle)", "safetensors"),
        ("adapter_model.bin", "PyTorch file (pickle)", "safetensors"),
        ("nowhere.gguf", "No such file", "check the path"),
        ("rows.jsonl", "a JSON file", "another file"),
    ] {
        let line = format!(
            "eval -m {} --lora {file} --data rows.jsonl",
            old_base().display()
        );
        let run = folder.run(&line);
        refused(file, &run, &[file, says]);
        let hint = run.err.split("hint: ").last().expect("there is a hint");
        assert!(hint.contains(helps), "{file}: {run}");
    }
}

/// 48: what writes adapters takes paths that are no UTF-8, and its report is JSON all the same.
#[cfg(unix)]
#[test]
fn odd_paths_go_in_and_out() {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::OsStringExt;
    let folder = Folder::new();
    folder.write("lora.gguf", &Made::new().bytes());
    let old = old_base();
    let odd = |name: &str| OsString::from_vec([b"na\xFF".as_slice(), name.as_bytes()].concat());
    let [lora, peft, back, merged] = ["l.gguf", "peft", "back.gguf", "merged.gguf"].map(odd);
    let from = folder.path("lora.gguf");
    fs::rename(from, folder.path("").join(&lora)).expect("the folder is writable");
    let runs: [&[&OsStr]; 3] = [
        &["export".as_ref(), &lora, "--peft".as_ref(), &peft],
        &["import".as_ref(), &peft, "--out".as_ref(), &back],
        &[
            "merge".as_ref(),
            "--lora".as_ref(),
            &peft,
            "--out".as_ref(),
            &merged,
        ],
    ];
    for words in runs {
        let output = folder
            .command("--json")
            .args(words)
            .args([OsStr::new("-m"), old.as_os_str()])
            .output()
            .expect("the program runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let text = |key: &str| report[key].as_str().unwrap_or_default().to_owned();
        assert!(text("lora").starts_with("na\u{FFFD}"), "{report}");
        assert!(text("out").starts_with("na\u{FFFD}"), "{report}");
    }
    assert!(folder.path("").join(back).is_file() && folder.path("").join(merged).is_file());
}
