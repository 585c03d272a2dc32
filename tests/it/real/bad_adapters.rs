//! One table of bad adapter files, and every door that takes an adapter: each refuses each file, all
//! with the same words, and a server that runs goes on.

use std::path::Path;

use serde_json::{Value as Json, json};
use translora::adapters::{self, Base};
use translora_gguf::{Gguf, Pending, TensorKind, Writer};
use translora_llama::{Backend, synthesize};
use translora_lora::Lora;

use super::serve::{Served, short};
use super::{Folder, lab, old_base, rows, transfer};
use crate::serve::client::{get, post, said};

/// A name, a change to a sound adapter, and what is said of it.
type Bad = (&'static str, fn(&mut Writer<'_>), &'static str);

const TABLE: &[Bad] = &[
    ("alpha-f64", |w| _ = w.set(ALPHA, 16.0_f64), "is a f64"),
    ("alpha-u32", |w| _ = w.set(ALPHA, 16_u32), "is a u32"),
    ("alpha-i32", |w| _ = w.set(ALPHA, 16_i32), "is a i32"),
    ("alpha-string", |w| _ = w.set(ALPHA, "16"), "is a string"),
    ("alpha-zero", |w| _ = w.set(ALPHA, 0.0_f32), "alpha is 0"),
    ("alpha-nan", |w| _ = w.set(ALPHA, f32::NAN), "alpha is NaN"),
    ("alpha-inf", |w| _ = w.set(ALPHA, f32::INFINITY), "is inf"),
    ("alpha-huge", |w| _ = w.set(ALPHA, 1e38_f32), "at most"),
    ("no-alpha", |w| without(w, ALPHA), "alpha is missing"),
    ("type", |w| _ = w.set("general.type", 1_u32), "is a u32"),
    ("kind", |w| _ = w.set("adapter.type", true), "is a bool"),
    ("arch", |w| _ = w.set(MODEL, "gemma3"), "\"gemma3\""),
    ("arch-list", |w| _ = w.set(MODEL, vec![1_u32]), "an array"),
    ("no-arch", |w| without(w, MODEL), "is missing"),
    ("alora", |w| _ = w.set(ALORA, vec![1_u32]), "activated"),
    ("alora-i32", |w| _ = w.set(ALORA, vec![1_i32]), "activated"),
    ("no-tensors", |w| tensors(w, |_| false), "adapts nothing"),
    ("one-half", |w| tensors(w, |part| is_a(part)), "one half"),
    ("zero", |w| bytes(w, TensorKind::F32, 0), "adapts nothing"),
    ("i8", |w| bytes(w, TensorKind::I8, 1), "no product"),
    ("i32", |w| bytes(w, TensorKind::I32, 1), "no product"),
    ("f64", |w| bytes(w, TensorKind::F64, 1), "no product"),
    (
        "nan",
        |w| bytes(w, TensorKind::F32, 0xFF),
        "NaN at element 0",
    ),
    ("q8-nan", of_rank_32, "NaN at element 0"),
    ("rank", of_two_ranks, "differ in rank"),
    ("three", of_two_experts, "experts"),
    ("wide", twice_as_wide, "in the base"),
    ("norm", |w| rename(w, "attn_q", "attn_norm"), "is a vector"),
    (
        "half",
        |w| rename(w, Q, "blk.0.attn_norm.weight"),
        "no half",
    ),
    (
        "rope",
        |w| _ = w.tensor_f32("rope_freqs", &[1], &[1.0]),
        "no half",
    ),
    ("elsewhere", |w| rename(w, "blk.0.", "blk.77."), "has no"),
];

const ALPHA: &str = "adapter.lora.alpha";
const ALORA: &str = "adapter.alora.invocation_tokens";
const MODEL: &str = "general.architecture";
const Q: &str = "blk.0.attn_q.weight.lora_a";

fn without(file: &mut Writer<'_>, missing: &str) {
    file.retain_metadata(|key, _| key != missing);
}

fn tensors(file: &mut Writer<'_>, keep: fn(&mut Pending<'_>) -> bool) {
    file.retain_tensors(keep);
}

fn is_a(part: &Pending<'_>) -> bool {
    part.name.ends_with(".lora_a")
}

fn rename(file: &mut Writer<'_>, from: &str, to: &str) {
    file.retain_tensors(|part| {
        part.name = part.name.replace(from, to);
        true
    });
}

/// As many elements of another type, each of these bytes.
fn bytes(file: &mut Writer<'_>, kind: TensorKind, byte: u8) {
    file.retain_tensors(|part| {
        part.shape[0] = part.shape[0].next_multiple_of(kind.block_elements());
        *part.bytes() = vec![byte; kind.bytes(&part.shape).expect("whole blocks") as usize];
        part.kind = kind;
        true
    });
}

/// In quantized numbers, which come in blocks of 32.
fn of_rank_32(file: &mut Writer<'_>) {
    file.retain_tensors(|part| {
        let rank = usize::from(is_a(part));
        part.shape[rank] = 32;
        true
    });
    bytes(file, TensorKind::Q8_0, 0xFF);
}

fn of_two_ranks(file: &mut Writer<'_>) {
    tensors(file, |part| {
        if !is_a(part) {
            part.shape[0] *= 2;
            part.bytes().extend_from_within(..);
        }
        true
    });
}

fn of_two_experts(file: &mut Writer<'_>) {
    tensors(file, |part| {
        part.shape.push(2);
        part.bytes().extend_from_within(..);
        true
    });
}

fn twice_as_wide(file: &mut Writer<'_>) {
    tensors(file, |part| {
        let width = usize::from(!is_a(part));
        part.shape[width] *= 2;
        part.bytes().extend_from_within(..);
        true
    });
}

/// A sound adapter of the lab with one thing changed.
fn changed(change: fn(&mut Writer<'_>)) -> Vec<u8> {
    let bytes = std::fs::read(&lab().lora).expect("the lab made it");
    let mut writer = Writer::copy_of(&Gguf::parse(&bytes).expect("it is whole"));
    change(&mut writer);
    writer.to_bytes().expect("it keeps the limits")
}

/// What the one definition says of a file.
fn sentence(bytes: &[u8], base: &translora_lora::Base) -> String {
    let fits = Lora::read(bytes).and_then(|lora| lora.fits(base));
    fits.expect_err("the table is of bad files").to_string()
}

#[test]
fn every_door_refuses_every_bad_file_with_the_same_words() {
    let folder = Folder::with(&[("train.jsonl", 20), ("seeds.jsonl", 5), ("eval.jsonl", 5)]);
    std::fs::create_dir(folder.path("served")).expect("the folder is writable");
    let old = old_base();
    std::fs::copy(&lab().lora, folder.path("served/good.gguf")).expect("the folder is writable");
    let shapes = translora_lora::Base::open(&old).expect("the lab is in the repository");
    let checked_against = Base::read(&old).expect("the lab is in the repository");

    let mut all = Vec::new();
    for (name, change, says) in TABLE {
        let (bytes, file) = (changed(*change), format!("served/{name}.gguf"));
        folder.write(&file, &bytes);
        let said = sentence(&bytes, &shapes);
        assert!(said.contains(says), "{name}: {said}");
        for line in [
            format!("eval -m OLD --lora {file} --data eval.jsonl"),
            format!("kit -m OLD --lora {file} --data train.jsonl --out new.kit"),
            transfer(&[("--source-lora", &file)]),
            transfer(&[
                ("--target", "OLD"),
                ("--eval", "eval.jsonl"),
                ("--oracle", &file),
            ]),
            format!("serve -m OLD --lora {file} --port 0"),
        ] {
            let run = folder.run(&line);
            assert_eq!(run.code, Some(2), "{name}: {run}");
            assert!(run.err.contains(&said), "{name}: {said}\n{run}");
            assert!(!folder.path("new.gguf").exists() && !folder.path("new.kit").exists());
        }
        let error = adapters::check(&checked_against, &folder.path(&file)).expect_err(name);
        assert!(error.to_string().contains(&said), "{name}: {error}");
        let inspected = folder.run(&format!("inspect {file}"));
        if Lora::read(&bytes).is_err() && *name != "type" {
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
    let served = Served::start(folder, "-m OLD --adapters served --alias base");
    let first = said(&short(
        served.address,
        "good",
        "ticket from Ann: the key broke",
    ));
    let list = get(served.address, "/v1/adapters").json();
    let names = |key: &str| list[key].as_array().map_or(0, Vec::len);
    assert_eq!(names("data"), 1, "{list}");
    assert_eq!(names("refused"), all.len() + 2, "{list}");
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

/// One that was made for another base is no bad file, and no server lets it answer unless it is
/// forced.
#[test]
fn an_adapter_of_another_base_is_refused_at_every_door_that_serves() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("served")).expect("the folder is writable");
    let elsewhere = "0123456789abcdef".repeat(4);
    let bytes = std::fs::read(&lab().lora).expect("the lab made it");
    let mut writer = Writer::copy_of(&Gguf::parse(&bytes).expect("it is whole"));
    writer.set("translora.target.sha256", elsewhere.as_str());
    let bytes = writer.to_bytes().expect("it keeps the limits");
    folder.write("served/moved.gguf", &bytes);
    let base = Base::read(&old_base()).expect("the lab is in the repository");
    let lora = Lora::read(&bytes).expect("it is sound");
    let said = lora
        .is_for(&base.sha256.to_string())
        .expect_err("another")
        .to_string();
    assert!(said.contains("0123456789ab…"), "{said}");
    let run = folder.run("serve -m OLD --lora served/moved.gguf --port 0");
    assert_eq!(run.code, Some(2), "{run}");
    assert!(run.err.contains(&said), "{run}");
    let swaps = adapters::Adapters::default();
    swaps
        .set_base(&old_base())
        .expect("the lab is in the repository");
    let path = folder.path("served/moved.gguf");
    let error = swaps
        .prepare("task", &path, false)
        .expect_err("another base");
    assert!(error.to_string().contains(&said), "{error}");
    swaps.prepare("task", &path, true).expect("it is forced");
    let served = Served::start(&folder, "-m OLD --adapters served");
    let list = get(served.address, "/v1/adapters").json();
    assert!(
        list["refused"][0]["reason"].to_string().contains(&said),
        "{list}"
    );
    for (force, status) in [(false, 400), (true, 200)] {
        let body = json!({ "lora_name": "new", "lora_path": "moved.gguf", "force": force });
        let reply = post(served.address, "/v1/load_lora_adapter", &body);
        assert_eq!(reply.status, status, "{reply:?}");
        assert_eq!(!force, reply.body.contains(&said), "{reply:?}");
    }
}

/// llama.cpp reads past the end of an adapter with fewer experts than its base.
#[test]
fn a_mixture_takes_adapters_with_as_many_experts_only() {
    let folder = Folder::new();
    let bytes = std::fs::read(old_base()).expect("the lab is in the repository");
    let gguf = Gguf::parse(&bytes).expect("it is whole");
    let mut metadata = Writer::with_metadata_of(&gguf);
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
