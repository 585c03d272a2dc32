//! One table of bad adapter files, and every door that takes an adapter: each refuses each file, all
//! with the same words, and a server that runs goes on.

use std::path::Path;

use serde_json::{Value as Json, json};
use translora::adapters::{self, Base};
use translora_gguf::{Gguf, TensorKind, Value, Writer};
use translora_llama::{Backend, synthesize};
use translora_lora::Lora;

use super::serve::{Served, short};
use super::{Folder, lab, new_base, old_base, rows};
use crate::serve::client::{get, post, said};

/// A change to a sound adapter's metadata, and to each of its tensors: another name, type, shape or
/// bytes, or none.
struct Bad {
    name: &'static str,
    keys: Vec<(&'static str, Value)>,
    tensor: fn(Part) -> Option<Part>,
    said: &'static str,
}

struct Part {
    name: String,
    kind: TensorKind,
    shape: Vec<u64>,
    bytes: Vec<u8>,
}

impl Part {
    fn is(&self, end: &str) -> bool {
        self.name.ends_with(end)
    }

    /// As many elements of another type, each of these bytes.
    fn of(mut self, kind: TensorKind, byte: u8) -> Option<Self> {
        let row = kind.block_elements();
        self.shape[0] = self.shape[0].next_multiple_of(row);
        self.bytes = vec![byte; kind.bytes(&self.shape)? as usize];
        self.kind = kind;
        Some(self)
    }
}

fn same(part: Part) -> Option<Part> {
    Some(part)
}

fn table() -> Vec<Bad> {
    let key = |name, key, value: Value, said| Bad {
        name,
        keys: vec![(key, value)],
        tensor: same,
        said,
    };
    let tensor = |name, tensor, said| Bad {
        name,
        keys: Vec::new(),
        tensor,
        said,
    };
    let alpha = "adapter.lora.alpha";
    vec![
        key("alpha-f64", alpha, 16.0_f64.into(), "a f64, and must be"),
        key("alpha-u32", alpha, 16_u32.into(), "a u32, and must be"),
        key("alpha-i32", alpha, 16_i32.into(), "a i32, and must be"),
        key("alpha-string", alpha, "16".into(), "a string, and must be"),
        key("alpha-zero", alpha, 0.0_f32.into(), "alpha is 0"),
        key("alpha-nan", alpha, f32::NAN.into(), "alpha is NaN"),
        key("alpha-inf", alpha, f32::INFINITY.into(), "alpha is inf"),
        key(
            "type",
            "general.type",
            1_u32.into(),
            "general.type is a u32",
        ),
        key(
            "kind",
            "adapter.type",
            true.into(),
            "adapter.type is a bool",
        ),
        key(
            "arch",
            "general.architecture",
            "gemma3".into(),
            "\"gemma3\"",
        ),
        key(
            "alora",
            "adapter.alora.invocation_tokens",
            vec![1_u32].into(),
            "activated",
        ),
        tensor("no-tensors", |_| None, "adapts nothing"),
        tensor(
            "one-half",
            |part| part.is(".lora_a").then_some(part),
            "one half",
        ),
        tensor(
            "zero",
            |part| {
                if part.is(".lora_b") {
                    part.of(TensorKind::F32, 0)
                } else {
                    Some(part)
                }
            },
            "adapts nothing",
        ),
        tensor("i8", |part| part.of(TensorKind::I8, 1), "no product"),
        tensor("i32", |part| part.of(TensorKind::I32, 1), "no product"),
        tensor("f64", |part| part.of(TensorKind::F64, 1), "no product"),
        tensor(
            "nan",
            |part| part.of(TensorKind::F32, 0xFF),
            "NaN at element 0",
        ),
        tensor(
            "rank",
            |mut part| {
                if part.is(".lora_b") {
                    part.shape[0] *= 2;
                    part.bytes.extend_from_within(..);
                }
                Some(part)
            },
            "differ in rank",
        ),
        tensor(
            "three",
            |mut part| {
                part.shape.push(2);
                part.bytes.extend_from_within(..);
                Some(part)
            },
            "experts",
        ),
        tensor(
            "norm",
            |mut part| {
                if part.is("blk.0.attn_q.weight.lora_a") {
                    part.name = "blk.0.attn_norm.weight".into();
                }
                Some(part)
            },
            "no half of a LoRA pair",
        ),
        tensor(
            "elsewhere",
            |mut part| {
                part.name = part.name.replace("blk.0.", "blk.77.");
                Some(part)
            },
            "the base has no",
        ),
        tensor(
            "q8-nan",
            |mut part| {
                let rank = usize::from(part.is(".lora_a"));
                part.shape[rank] = 32;
                part.of(TensorKind::Q8_0, 0xFF)
            },
            "NaN at element 0",
        ),
    ]
}

/// A sound adapter of the lab with one thing changed.
fn changed(bad: &Bad) -> Vec<u8> {
    let bytes = std::fs::read(&lab().lora).expect("the lab made it");
    let gguf = Gguf::parse(&bytes).expect("it is whole");
    let mut writer = Writer::new();
    for (key, value) in gguf.metadata() {
        writer.set(key, value.clone());
    }
    for (key, value) in &bad.keys {
        writer.set(*key, value.clone());
    }
    for tensor in gguf.tensors() {
        let part = Part {
            name: tensor.name.clone(),
            kind: tensor.kind,
            shape: tensor.shape.clone(),
            bytes: gguf.data(tensor).to_vec(),
        };
        if let Some(part) = (bad.tensor)(part) {
            writer.tensor(part.name, part.kind, &part.shape, part.bytes);
        }
    }
    writer.to_bytes().expect("it keeps the limits")
}

/// What the one definition says of a file.
fn sentence(bytes: &[u8], base: &translora_lora::Base) -> String {
    let fits = Lora::read(bytes).and_then(|lora| lora.fits(base));
    fits.expect_err("the table is of bad files").to_string()
}

#[test]
fn every_door_refuses_every_bad_file_with_the_same_words() {
    let folder = Folder::new();
    folder.write("train.jsonl", rows("train.jsonl", 20).as_bytes());
    folder.write("seeds.jsonl", rows("seeds.jsonl", 5).as_bytes());
    folder.write("eval.jsonl", rows("eval.jsonl", 5).as_bytes());
    std::fs::create_dir(folder.path("served")).expect("the folder is writable");
    let (old, new, good) = (old_base(), new_base(), lab().lora.clone());
    std::fs::copy(&good, folder.path("served/good.gguf")).expect("the folder is writable");
    let shapes = translora_lora::Base::open(&old).expect("the lab is in the repository");
    let checked_against = Base::read(&old).expect("the lab is in the repository");

    let mut all = Vec::new();
    for bad in table() {
        let (bytes, file) = (changed(&bad), format!("served/{}.gguf", bad.name));
        folder.write(&file, &bytes);
        let said = sentence(&bytes, &shapes);
        assert!(said.contains(bad.said), "{}: {said}", bad.name);
        let (old, new, good) = (old.display(), new.display(), good.display());
        for line in [
            format!("eval -m {old} --lora {file} --data eval.jsonl"),
            format!("kit -m {old} --lora {file} --data train.jsonl --out new.kit"),
            format!(
                "transfer --source {old} --source-lora {file} --target {new} --seeds seeds.jsonl --out new.gguf"
            ),
            format!(
                "transfer --source {old} --source-lora {good} --target {old} --seeds seeds.jsonl --eval eval.jsonl \
                 --oracle {file} --out new.gguf"
            ),
            format!("serve -m {old} --lora {file} --port 0"),
        ] {
            let run = folder.run(&line);
            assert_eq!(run.code, Some(2), "{}: {run}", bad.name);
            assert!(run.err.contains(&said), "{}: {said}\n{run}", bad.name);
            assert!(!folder.path("new.gguf").exists() && !folder.path("new.kit").exists());
        }
        let error = adapters::check(&checked_against, &folder.path(&file)).expect_err(bad.name);
        assert!(error.to_string().contains(&said), "{}: {error}", bad.name);
        let inspected = folder.run(&format!("inspect {file}"));
        if Lora::read(&bytes).is_err() && bad.name != "type" {
            assert_eq!(inspected.code, Some(1), "{inspected}");
            assert!(inspected.out.contains(&said), "{said}\n{inspected}");
        }
        all.push((file, said));
    }
    a_server_goes_on(&folder, &all);
}

/// A server whose folder holds all of them answers, says what it left out, and refuses each.
fn a_server_goes_on(folder: &Folder, all: &[(String, String)]) {
    std::fs::create_dir(folder.path("served/folder.gguf")).expect("the folder is writable");
    folder.write("served/cut.gguf", b"GGUF");
    let served = Served::start(
        folder,
        &format!("-m {} --adapters served --alias base", old_base().display()),
    );
    let first = said(&short(
        served.address,
        "good",
        "ticket from Ann: the key broke",
    ));
    let list = get(served.address, "/v1/adapters").json();
    let names = |key: &str| list[key].as_array().map_or(0, Vec::len);
    assert_eq!(
        (names("data"), names("refused")),
        (1, all.len() + 2),
        "{list}"
    );
    for (file, said) in all {
        let (_, name) = file.split_once('/').expect("it lies in the folder");
        let refused = |entry: &&Json| {
            let path = entry["path"].as_str().map(Path::new);
            path.and_then(Path::file_name).is_some_and(|of| of == name)
        };
        let listed = list["refused"]
            .as_array()
            .and_then(|all| all.iter().find(refused));
        let reason = listed
            .and_then(|entry| entry["reason"].as_str())
            .unwrap_or_default();
        assert!(reason.contains(said), "{name}: {reason}");
        let body = json!({ "lora_name": "new", "lora_path": name });
        let reply = post(served.address, "/v1/load_lora_adapter", &body);
        assert_eq!(reply.status, 400, "{name}");
        let message = reply.json()["error"]["message"].to_string();
        let quoted = Json::from(said.as_str()).to_string();
        assert!(
            message.contains(quoted.trim_matches('"')),
            "{name}: {message}"
        );
    }
    let again = said(&short(
        served.address,
        "good",
        "ticket from Ann: the key broke",
    ));
    assert_eq!(first, again);
}

/// llama.cpp reads past the end of an adapter with fewer experts than its base.
#[test]
fn a_mixture_takes_adapters_with_as_many_experts_only() {
    let folder = Folder::new();
    let bytes = std::fs::read(old_base()).expect("the lab is in the repository");
    let gguf = Gguf::parse(&bytes).expect("it is whole");
    let mut metadata = Writer::new();
    for (key, value) in gguf.metadata() {
        metadata.set(key, value.clone());
    }
    metadata
        .set("llama.expert_count", 4_u32)
        .set("llama.expert_used_count", 2_u32);
    folder.write("metadata.gguf", &metadata.to_bytes().expect("small"));
    let base = folder.path("mixture.gguf");
    let backend = Backend::init().expect("there is a CPU");
    synthesize(backend, &folder.path("metadata.gguf"), 1, 0.02, &base).expect("llama.cpp knows it");
    folder.write("eval.jsonl", rows("eval.jsonl", 2).as_bytes());
    let shapes = translora_lora::Base::open(&base).expect("it was written");
    let matrix = "blk.0.ffn_up_exps.weight";
    let [inputs, outputs, experts] = shapes.shape(matrix).expect("it is a mixture");
    assert_eq!(experts, 4);
    for (a, b) in [(4, 4), (2, 2), (1, 1), (8, 8), (2, 4)] {
        let mut writer = Writer::new();
        writer
            .set("general.type", "adapter")
            .set("adapter.type", "lora");
        writer
            .set("general.architecture", "llama")
            .set("adapter.lora.alpha", 4.0_f32);
        let (of_a, of_b) = ([inputs, 2, a], [2, outputs, b]);
        let half = |shape: [u64; 3]| vec![0.01; shape.iter().product::<u64>() as usize];
        writer.tensor_f32(format!("{matrix}.lora_a"), &of_a, &half(of_a));
        writer.tensor_f32(format!("{matrix}.lora_b"), &of_b, &half(of_b));
        let bytes = writer.to_bytes().expect("small");
        folder.write("lora.gguf", &bytes);
        let run =
            folder.run("eval -m mixture.gguf --lora lora.gguf --data eval.jsonl --answer-tokens 4");
        if (a, b) == (4, 4) {
            assert_eq!(run.code, Some(0), "{run}");
        } else {
            assert_eq!(run.code, Some(2), "{run}");
            assert!(run.err.contains(&sentence(&bytes, &shapes)), "{run}");
        }
    }
}
