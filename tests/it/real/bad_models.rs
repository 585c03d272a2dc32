//! Bad base models: cut short, without what is needed, or such that llama.cpp would abort.

use std::fs;

use translora_gguf::{Gguf, TensorKind, Value, Writer};

use super::bad_inputs::header_bytes;
use super::{Folder, new_base, old_base, refused, rows, transfer};

/// Metadata of a copy of the old base, to be spoiled; tensors stay as they are.
pub(super) type Spoil = fn(&str, &Value) -> Option<Value>;

/// What it is, the file, what of the metadata is changed or left out, what the error must say.
const SPOILED: &[(&str, Spoil, &[&str])] = &[
    (
        "no-tokenizer",
        |key, value| keep(!key.starts_with("tokenizer."), value),
        &["tokenizer"],
    ),
    (
        "no-vocabulary",
        |key, value| replace(key, value, "tokenizer.ggml.model", "no_vocab"),
        &["it has no tokenizer"],
    ),
    (
        "empty-template",
        |key, value| {
            replace(
                key,
                value,
                "tokenizer.chat_template",
                "{% if false %}x{% endif %}",
            )
        },
        &["chat template", "writes nothing"],
    ),
    (
        "broken-template",
        |key, value| replace(key, value, "tokenizer.chat_template", "{% for x"),
        &["chat template"],
    ),
    (
        "mute-template",
        |key, value| {
            replace(
                key,
                value,
                "tokenizer.chat_template",
                "{{ raise_exception('no users') }}",
            )
        },
        &["no users"],
    ),
    (
        "no-bytes",
        |key, value| replace(key, value, "tokenizer.ggml.model", "llama"),
        &["SentencePiece", "of the 256 bytes"],
    ),
    (
        "twice",
        |key, value| token(key, value, "Z", "Q"),
        &["vocabulary holds \"Q\" twice"],
    ),
    (
        "unheard-of",
        |key, value| replace(key, value, "general.architecture", "unheard"),
        &["unheard"],
    ),
    (
        "no-blocks",
        |key, value| keep(key != "llama.block_count", value),
        &["block_count"],
    ),
    (
        "more-blocks",
        |key, value| number(key, value, "llama.block_count", 7),
        &["blk.5"],
    ),
    (
        "wide",
        |key, value| number(key, value, "llama.embedding_length", 256),
        &["token_embd.weight"],
    ),
    // The byte tokens of `é` are there under other names: BPE leaves such text out.
    (
        "no-accents",
        |key, value| token(key, value, "Ã", "no such byte"),
        &["jsonl:", "tokenizer cannot encode", "café"],
    ),
];

pub(super) fn keep(yes: bool, value: &Value) -> Option<Value> {
    yes.then(|| value.clone())
}

pub(super) fn replace(key: &str, value: &Value, what: &str, by: &str) -> Option<Value> {
    Some(if key == what {
        by.into()
    } else {
        value.clone()
    })
}

fn number(key: &str, value: &Value, what: &str, by: u32) -> Option<Value> {
    Some(if key == what {
        by.into()
    } else {
        value.clone()
    })
}

/// Give one token of the vocabulary another text.
fn token(key: &str, value: &Value, from: &str, to: &str) -> Option<Value> {
    let Some(tokens) = value
        .as_strings()
        .filter(|_| key == "tokenizer.ggml.tokens")
    else {
        return Some(value.clone());
    };
    assert!(
        tokens.iter().any(|token| token == from),
        "no token {from:?} to spoil"
    );
    Some(
        tokens
            .iter()
            .map(|token| {
                if token == from {
                    to.to_owned()
                } else {
                    token.clone()
                }
            })
            .collect::<Vec<_>>()
            .into(),
    )
}

pub(super) fn spoiled(file: &[u8], spoil: Spoil) -> Vec<u8> {
    let gguf = Gguf::parse(file).expect("a whole file");
    let mut writer = Writer::new();
    for (key, value) in gguf.metadata() {
        if let Some(value) = spoil(key, value) {
            writer.set(key, value);
        }
    }
    copied(&gguf, writer)
}

/// The file with one more key.
fn with(file: &[u8], (key, value): (&str, Value)) -> Vec<u8> {
    let gguf = Gguf::parse(file).expect("a whole file");
    let mut writer = Writer::new();
    for (key, value) in gguf.metadata() {
        writer.set(key, value.clone());
    }
    writer.set(key, value);
    copied(&gguf, writer)
}

fn copied<'a>(gguf: &Gguf<'a>, mut writer: Writer<'a>) -> Vec<u8> {
    for tensor in gguf.tensors() {
        let data = gguf.data(tensor);
        writer.tensor(tensor.name.as_str(), tensor.kind, &tensor.shape, data);
    }
    writer.to_bytes().expect("a valid file")
}

fn refuse(folder: &Folder, what: &str, line: &str, says: &[&str]) {
    let before = folder.names();
    refused(what, &folder.run(line), says);
    assert_eq!(folder.names(), before, "{what}: something was left behind");
}

#[test]
fn a_base_that_cannot_be_used_is_refused_by_name() {
    let whole = fs::read(old_base()).expect("the lab is in the repository");
    let folder = Folder::new();
    folder.write(
        "seeds.jsonl",
        (rows("seeds.jsonl", 2) + "{\"prompt\": \"ticket from Zoé: a café\"}\n").as_bytes(),
    );
    folder.write(
        "train.jsonl",
        "{\"prompt\": \"ticket from Zoé: a café\", \"completion\": \"[SHIP]\"}\n".as_bytes(),
    );
    let causal = Value::Bool(false);
    let added = [
        (
            "an-encoder",
            ("llama.attention.causal", causal),
            &["it is an encoder"][..],
        ),
        (
            "embeddings",
            ("llama.pooling_type", 1_u32.into()),
            &["an embedding model"][..],
        ),
    ];
    let added = added.map(|(what, added, says)| (what, with(&whole, added), says));
    let spoiled = SPOILED
        .iter()
        .map(|(what, spoil, says)| (*what, spoiled(&whole, *spoil), *says));
    for (what, bytes, says) in spoiled.chain(added) {
        let file = format!("{what}.gguf");
        folder.write(&file, &bytes);
        let says: Vec<&str> = says.iter().copied().chain([file.as_str()]).collect();
        refuse(&folder, what, &transfer(&[("--target", &file)]), &says);
        refuse(
            &folder,
            what,
            &format!("train -m {file} --data train.jsonl --out new.gguf"),
            &says,
        );
        refuse(
            &folder,
            what,
            &format!("eval -m {file} --data train.jsonl"),
            &says,
        );
    }
}

#[test]
fn a_base_that_was_cut_short_is_refused_wherever_it_ends() {
    let whole = fs::read(new_base()).expect("the lab is in the repository");
    let header = header_bytes(&whole);
    let folder = Folder::new();
    folder.write("seeds.jsonl", rows("seeds.jsonl", 5).as_bytes());
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
            refuse(&folder, &file, &line, &[&file]);
        }
        fs::remove_file(folder.path(&file)).expect("it is ours");
    }
    fs::create_dir(folder.path("a-folder")).expect("the folder is writable");
    refuse(
        &folder,
        "a folder",
        &transfer(&[("--target", "a-folder")]),
        &["a-folder"],
    );
    refuse(&folder, "a folder", "inspect a-folder", &["a-folder"]);
}

/// The norm before the output, in numbers that are none.
fn not_numbers(file: &[u8]) -> Vec<u8> {
    let gguf = Gguf::parse(file).expect("a whole file");
    let norm = gguf
        .tensor("output_norm.weight")
        .expect("every llama has one");
    assert_eq!(norm.kind, TensorKind::F32);
    let mut spoiled = file.to_vec();
    let (start, end) = (norm.offset as usize, (norm.offset + norm.bytes) as usize);
    for number in spoiled[start..end].chunks_exact_mut(4) {
        number.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    spoiled
}

#[test]
fn training_blames_the_base_where_its_weights_are_no_numbers() {
    let folder = Folder::new();
    folder.write(
        "nan.gguf",
        &not_numbers(&fs::read(old_base()).expect("the lab")),
    );
    folder.write("train.jsonl", rows("train.jsonl", 12).as_bytes());
    refuse(
        &folder,
        "a base of NaN",
        "train -m nan.gguf --data train.jsonl --out new.gguf",
        &["the model nan.gguf makes logits that are not finite"],
    );
}
