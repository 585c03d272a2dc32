//! Bad base models: cut short, without what is needed, or such that llama.cpp would abort.

use std::fs;

use translora_gguf::{Gguf, TensorKind, Writer};

use super::bad_inputs::{header_bytes, refuse};
use super::{Folder, new_base, old_base, rows, transfer};

/// What makes a copy of the old base a bad one.
pub(super) type Spoil = fn(&mut Writer<'_>);

/// What it is, the file, how it is spoiled, what the error must say.
const SPOILED: &[(&str, Spoil, &[&str])] = &[
    (
        "no-tokenizer",
        |file| _ = file.retain_metadata(|key, _| !key.starts_with("tokenizer.")),
        &["tokenizer"],
    ),
    (
        "no-vocabulary",
        |file| _ = file.set("tokenizer.ggml.model", "no_vocab"),
        &["it has no tokenizer"],
    ),
    (
        "empty-template",
        |file| _ = file.set(TEMPLATE, "{% if false %}x{% endif %}"),
        &["chat template", "writes nothing"],
    ),
    (
        "broken-template",
        |file| _ = file.set(TEMPLATE, "{% for x"),
        &["chat template"],
    ),
    (
        "mute-template",
        |file| _ = file.set(TEMPLATE, "{{ raise_exception('no users') }}"),
        &["no users"],
    ),
    (
        "no-bytes",
        |file| _ = file.set("tokenizer.ggml.model", "llama"),
        &["SentencePiece", "of the 256 bytes"],
    ),
    (
        "twice",
        |file| token(file, "Z", "Q"),
        &["vocabulary holds \"Q\" twice"],
    ),
    (
        "unheard-of",
        |file| _ = file.set("general.architecture", "unheard"),
        &["unheard"],
    ),
    (
        "no-blocks",
        |file| _ = file.retain_metadata(|key, _| key != "llama.block_count"),
        &["block_count"],
    ),
    (
        "more-blocks",
        |file| _ = file.set("llama.block_count", 7_u32),
        &["blk.5"],
    ),
    (
        "wide",
        |file| _ = file.set("llama.embedding_length", 256_u32),
        &["token_embd.weight"],
    ),
    (
        "an-encoder",
        |file| _ = file.set("llama.attention.causal", false),
        &["it is an encoder"],
    ),
    (
        "embeddings",
        |file| _ = file.set("llama.pooling_type", 1_u32),
        &["an embedding model"],
    ),
    (
        "no-layers",
        |file| _ = file.set("llama.block_count", 0_u32),
        &["block_count is 0"],
    ),
    (
        "epsilon",
        |file| _ = file.set(EPSILON, -1e-5_f32),
        &["epsilon is -0.0000"],
    ),
    (
        "alignment",
        |file| _ = file.set("general.alignment", 8_u32),
        &["general.alignment is 8"],
    ),
    (
        "types",
        |file| _ = file.set("tokenizer.ggml.token_type", vec![1_i32]),
        &["token_type is a list of 1 i32"],
    ),
    (
        "integers",
        |file| {
            file.retain_tensors(|part| {
                if part.name == "blk.1.ffn_up.weight" {
                    part.kind = TensorKind::I16;
                }
                true
            });
        },
        &["blk.1.ffn_up.weight", "no product"],
    ),
    // The byte tokens of `é` are there under other names: BPE leaves such text out.
    (
        "no-accents",
        |file| token(file, "Ã", "no such byte"),
        &["jsonl:", "tokenizer cannot encode", "café"],
    ),
];

const EPSILON: &str = "llama.attention.layer_norm_rms_epsilon";
pub(super) const TEMPLATE: &str = "tokenizer.chat_template";

/// Give one token of the vocabulary another text.
fn token(file: &mut Writer<'_>, from: &str, to: &str) {
    let mut found = false;
    file.retain_metadata(|key, value| {
        if key == "tokenizer.ggml.tokens" {
            let mut tokens = value.as_strings().expect("texts").to_vec();
            for token in tokens.iter_mut().filter(|token| *token == from) {
                to.clone_into(token);
                found = true;
            }
            *value = tokens.into();
        }
        true
    });
    assert!(found, "no token {from:?} to spoil");
}

/// The old base, spoiled.
pub(super) fn spoiled(spoil: Spoil) -> Vec<u8> {
    let bytes = fs::read(old_base()).expect("the lab is in the repository");
    let gguf = Gguf::parse(&bytes).expect("a whole file");
    let mut writer = Writer::copy_of(&gguf);
    spoil(&mut writer);
    writer.to_bytes().expect("a valid file")
}

#[test]
fn a_base_that_cannot_be_used_is_refused_by_name() {
    let folder = Folder::new();
    folder.write(
        "seeds.jsonl",
        (rows("seeds.jsonl", 2) + "{\"prompt\": \"ticket from Zoé: a café\"}\n").as_bytes(),
    );
    folder.write(
        "train.jsonl",
        "{\"prompt\": \"ticket from Zoé: a café\", \"completion\": \"[SHIP]\"}\n".as_bytes(),
    );
    for (what, spoil, says) in SPOILED {
        let file = format!("{what}.gguf");
        folder.write(&file, &spoiled(*spoil));
        let says = [*says, &[&file]].concat();
        for line in [
            transfer(&[("--target", &file)]),
            format!("train -m {file} --data train.jsonl --out new.gguf"),
            format!("eval -m {file} --data train.jsonl"),
        ] {
            refuse(&folder, &line, &says);
        }
    }
}

#[test]
fn a_base_that_was_cut_short_is_refused_wherever_it_ends() {
    let whole = fs::read(new_base()).expect("the lab is in the repository");
    let header = header_bytes(&whole);
    let folder = Folder::with(&[("seeds.jsonl", 5)]);
    for cut in [
        0,
        3,
        4,
        23,
        1000,
        header / 2,
        header - 1,
        header,
        header + 1,
        whole.len() / 2,
        whole.len() - 64,
        whole.len() - 1,
    ] {
        let file = format!("cut-{cut}.gguf");
        folder.write(&file, &whole[..cut]);
        for line in [
            transfer(&[("--target", &file)]),
            transfer(&[("--source", &file)]),
            format!("inspect {file}"),
        ] {
            refuse(&folder, &line, &[&file]);
        }
        fs::remove_file(folder.path(&file)).expect("it is ours");
    }
}
