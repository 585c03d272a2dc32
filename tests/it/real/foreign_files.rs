//! Files that are something else than the one that was meant: each is called what it is, at every
//! door that reads a GGUF, and what helps is said.

use std::fs;

use super::{Folder, Run, refused, rows, transfer};

/// The file, its first bytes, what the error calls it, and a word of what helps.
const FOREIGN: &[(&str, &[u8], &str, &str)] = &[
    ("empty", b"", "an empty file", "fetch the file again"),
    (
        "zeros",
        &[0; 4096],
        "a file of zeros",
        "fetch the file again",
    ),
    (
        "page",
        b"<!DOCTYPE html><title>404</title>",
        "a web page",
        "an address answered with a page",
    ),
    (
        "pointer",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "a Git LFS pointer",
        "git lfs pull",
    ),
    (
        "model.bin",
        b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10\0\0\0archive/data.pkl",
        "a PyTorch file",
        "convert it to GGUF",
    ),
    (
        "packed",
        b"\x1f\x8b\x08\0\0\0\0\0",
        "a gzip archive",
        "unpack it",
    ),
    (
        "ggla",
        b"algg\x01\0\0\0\x08\0\0\0",
        "llama.cpp's formats before GGUF",
        "convert the original again",
    ),
    (
        "big-endian",
        b"GGUF\0\0\0\x03\0\0\0\0\0\0\0\0",
        "a big-endian GGUF file",
        "little-endian",
    ),
    (
        "picture",
        b"\x89PNG\r\n\x1a\n\0",
        "a PNG picture",
        "another file",
    ),
    (
        "text",
        b"prompt,completion\n",
        "a text file",
        "another file",
    ),
    (
        "cut",
        b"GGUF\x03\0\0\0\x01",
        "truncated",
        "fetch the file again",
    ),
];

/// The doors that take a GGUF file of any kind, with `FILE` in its place.
fn doors() -> Vec<String> {
    vec![
        "inspect FILE".into(),
        transfer(&[("--source", "FILE")]),
        transfer(&[("--target", "FILE")]),
        transfer(&[("--source-lora", "FILE")]),
        transfer(&[("--kit", "FILE")]),
        "train -m FILE --data rows.jsonl --out new.gguf".into(),
        "eval -m FILE --data rows.jsonl".into(),
        "eval -m NEW --lora FILE --data rows.jsonl".into(),
        "kit -m FILE --lora LORA --data rows.jsonl --out new.kit".into(),
        "kit -m OLD --lora FILE --data rows.jsonl --out new.kit".into(),
        "serve -m FILE --port 0".into(),
        "serve -m NEW --lora FILE --port 0".into(),
    ]
}

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("rows.jsonl", rows("train.jsonl", 40).as_bytes());
    folder.write("seeds.jsonl", rows("seeds.jsonl", 5).as_bytes());
    folder
}

#[track_caller]
fn refuse(run: &Run, file: &str, says: &str, helps: &str) {
    refused(file, run, &[file, says]);
    let hint = run.err.split("hint: ").last().expect("there is a hint");
    assert!(hint.contains(helps), "{file}: {helps:?} is not said: {run}");
}

#[test]
fn a_foreign_file_is_called_what_it_is_at_every_door() {
    let folder = folder();
    for (file, bytes, ..) in FOREIGN {
        folder.write(file, bytes);
    }
    for door in doors() {
        for (file, _, says, helps) in FOREIGN {
            refuse(&folder.run(&door.replace("FILE", file)), file, says, helps);
        }
    }
}

#[test]
fn what_is_no_file_is_called_what_it_is_at_every_door() {
    let folder = folder();
    fs::create_dir(folder.path("folder")).expect("the folder is writable");
    for door in doors() {
        for (file, says, helps) in [
            ("folder", "this is a folder", "name a file in it"),
            ("/dev/null", "a device or a pipe", "another file"),
            ("nowhere.gguf", "No such file", "check the path"),
        ] {
            refuse(&folder.run(&door.replace("FILE", file)), file, says, helps);
        }
    }
}
