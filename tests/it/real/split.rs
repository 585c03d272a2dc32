//! A model that is split over several files is the model: targets, sizes, tensors, adapters.

use std::fs;
use std::path::Path;

use serde_json::Value;
use translora_gguf::{Gguf, Writer};

use super::{Folder, done, old_base, refused, rows, transfer};

const FIRST: &str = "sprout-00001-of-00003.gguf";

/// Write the old base in three parts, as `llama-gguf-split` does: metadata in the first, a third of
/// the tensors in each.
fn split(folder: &Folder) {
    let whole = fs::read(old_base()).expect("the lab is in the repository");
    let gguf = Gguf::parse(&whole).expect("a whole file");
    let share = gguf.tensors().len().div_ceil(3);
    for (index, tensors) in gguf.tensors().chunks(share).enumerate() {
        let mut writer = match index {
            0 => Writer::with_metadata_of(&gguf),
            _ => Writer::new(),
        };
        writer
            .set("split.no", index as u16)
            .set("split.count", 3_u16)
            .set("split.tensors.count", gguf.tensors().len() as i32);
        for tensor in tensors {
            let (name, data) = (tensor.name.as_str(), gguf.data(tensor));
            writer.tensor(name, tensor.kind, &tensor.shape, data);
        }
        let name = format!("sprout-{:05}-of-00003.gguf", index + 1);
        folder.write(&name, &writer.to_bytes().expect("it keeps the limits"));
    }
}

/// The tensors of an adapter with their bytes, and its metadata without the hash of its base.
fn contents(path: &Path) -> (Vec<(String, Vec<u8>)>, Vec<String>) {
    let bytes = fs::read(path).expect("the adapter was written");
    let gguf = Gguf::parse(&bytes).expect("a whole file");
    let tensors = gguf.tensors().iter();
    let tensors = tensors.map(|tensor| (tensor.name.clone(), gguf.data(tensor).to_vec()));
    let metadata = gguf
        .metadata()
        .filter(|(key, _)| *key != "translora.model.sha256")
        .map(|(key, value)| format!("{key} = {value:?}"));
    (tensors.collect(), metadata.collect())
}

#[test]
fn a_split_model_is_trained_whole() {
    let folder = Folder::new();
    split(&folder);
    folder.write("train.jsonl", rows("train.jsonl", 40).as_bytes());
    for (model, out) in [("OLD", "whole"), (FIRST, "split")] {
        done(&folder.run(&format!(
            "train -m {model} --data train.jsonl --out {out}.gguf --epochs 1 --rank 4"
        )));
    }
    let (tensors, metadata) = contents(&folder.path("split.gguf"));
    assert!(
        (tensors, metadata) == contents(&folder.path("whole.gguf")),
        "the adapters differ"
    );

    let card = |file: &str| folder.run(&format!("inspect {file} --json")).json();
    let (whole, parts) = (card("OLD"), card(FIRST));
    for key in [
        "parameters",
        "tensors",
        "layers",
        "types",
        "trainable_matrices",
    ] {
        assert_eq!(whole[key], parts[key], "{key}");
    }
    assert_eq!(whole["parts"], Value::Null);
    assert_eq!(parts["parts"], 3);
    // What `cat PARTS | sha256sum` prints is what an adapter names as its base.
    let hash = parts["sha256"].as_str().expect("a hash");
    let adapter = card("split.gguf");
    assert_eq!(adapter["translora"]["translora.model.sha256"], hash);
    assert_ne!(whole["sha256"], parts["sha256"]);

    // The adapter, a kit and a transfer take the split base.
    let eval = format!("eval -m {FIRST} --lora split.gguf --data train.jsonl --json");
    let (split, one) = (folder.run(&eval), folder.run(&eval.replace(FIRST, "OLD")));
    assert_eq!(split.json()["nll"], one.json()["nll"]);
    done(&folder.run(&format!(
        "kit -m {FIRST} --lora split.gguf --data train.jsonl --out task.kit --epochs 1 --rank 4"
    )));
    let made_for_the_parts = folder.run(&transfer(&[
        ("--source-lora", "split.gguf"),
        ("--kit", "task.kit"),
    ]));
    refused("another base", &made_for_the_parts, &["another base"]);
}

#[test]
fn a_part_that_is_not_as_it_should_be_is_named() {
    let folder = Folder::new();
    split(&folder);
    folder.write("train.jsonl", rows("train.jsonl", 4).as_bytes());
    folder.write("seeds.jsonl", rows("seeds.jsonl", 5).as_bytes());
    let second = "sprout-00002-of-00003.gguf";
    fs::copy(folder.path(FIRST), folder.path("renamed.gguf")).expect("the folder is writable");
    let refuse = |model: &str, says: &[&str]| {
        for line in [
            format!("train -m {model} --data train.jsonl --out new.gguf"),
            format!("eval -m {model} --data train.jsonl"),
            format!("inspect {model}"),
            format!("serve -m {model}"),
            transfer(&[("--target", model)]),
            transfer(&[("--source", model)]),
        ] {
            refused(model, &folder.run(&line), says);
        }
    };
    refuse(second, &[second, "part 2 of 3", "not the first"]);
    refuse("renamed.gguf", &["renamed.gguf", "-00001-of-00003.gguf"]);
    fs::remove_file(folder.path(second)).expect("it is there");
    refuse(FIRST, &["part 2 of 3", "missing", second]);
}
