//! Bad data, adapters and outputs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use translora_gguf::Gguf;

use super::{Folder, lab, refused, rows, transfer};

/// A folder with seeds, held-out rows, and whatever `fill` puts there.
fn world(fill: impl FnOnce(&Folder)) -> Folder {
    let folder = Folder::with(&[("seeds.jsonl", 5), ("eval.jsonl", 5)]);
    fill(&folder);
    folder
}

/// Run, expect a refusal that says these words, and nothing new in the folder.
#[track_caller]
pub(super) fn refuse(folder: &Folder, line: &str, says: &[&str]) {
    let before = folder.names();
    refused(line, &folder.run(line), says);
    assert_eq!(folder.names(), before, "{line}: something was left behind");
}

#[test]
fn rows_that_are_none_are_refused_by_line() {
    let row = r#"{"prompt": "ticket from Ann: the key broke", "completion": "[BROKEN]"}"#;
    let cases = [
        (
            "twice.jsonl",
            format!("{row}\n\n{{\"prompt\": \"a\", \"prompt\": \"b\"}}\n"),
            "twice.jsonl:3: the key \"prompt\" is there twice",
        ),
        (
            "huge.jsonl",
            format!("{row}\n{{\"prompt\": \"{}\"}}\n", "x".repeat(10 << 20)),
            "huge.jsonl:2: the row is longer than 4194304 bytes",
        ),
        (
            "page.jsonl",
            "<!doctype html><title>Sign in</title>".to_owned(),
            "page.jsonl: this is an HTML page, and no rows",
        ),
        (
            "cut.jsonl",
            format!("{row}\n{{\"prompt\": \"tick"),
            "cut.jsonl:2: not JSON",
        ),
        (
            "nothing.jsonl",
            String::new(),
            "nothing.jsonl: it has no rows",
        ),
    ];
    let folder = world(|folder| {
        cases
            .iter()
            .for_each(|(name, text, _)| _ = folder.write(name, text.as_bytes()));
    });
    for (name, _, says) in &cases {
        for line in [
            transfer(&[("--seeds", name)]),
            transfer(&[("--eval", name)]),
            format!("train -m OLD --data {name} --out new.gguf"),
            format!("kit -m OLD --lora LORA --data {name} --out new.kit"),
            format!("eval -m OLD --data {name}"),
        ] {
            refuse(&folder, &line, &[says]);
        }
    }
}

#[test]
fn seeds_that_are_all_the_same_are_refused() {
    let seed = rows("seeds.jsonl", 1);
    let folder = world(|folder| {
        _ = folder.write("same.jsonl", seed.repeat(5).as_bytes());
    });
    let says = "same.jsonl: all 5 seeds are the same";
    refuse(&folder, &transfer(&[("--seeds", "same.jsonl")]), &[says]);
}

#[test]
fn a_row_longer_than_the_context_is_refused_by_number() {
    let long = format!(
        "{{\"prompt\": \"{}\", \"completion\": \"[SHIP]\"}}\n",
        "the spoon did not arrive ".repeat(200)
    );
    let folder = world(|folder| {
        _ = folder.write("long.jsonl", (rows("train.jsonl", 12) + &long).as_bytes());
    });
    let train = "train -m OLD --data long.jsonl --out new.gguf";
    refuse(&folder, train, &["long.jsonl:13: ", "context"]);
}

#[test]
fn adapters_that_are_damaged_or_of_another_base_are_refused() {
    let whole = fs::read(&lab().lora).expect("the lab made it");
    let header = header_bytes(&whole);
    let cuts = [
        0,
        3,
        20,
        header / 2,
        header,
        header + 40,
        whole.len() / 2,
        whole.len() - 64,
    ];
    let folder = world(|folder| {
        cuts.iter()
            .for_each(|&cut| _ = folder.write(&format!("cut-{cut}.gguf"), &whole[..cut]));
    });
    for cut in cuts {
        let name = format!("cut-{cut}.gguf");
        for line in [
            transfer(&[("--source-lora", &name)]),
            format!("inspect {name}"),
        ] {
            refuse(&folder, &line, &[&name]);
        }
    }
    let others = ["old-lora.gguf", "\"llama\"", "\"qwen3\""];
    refuse(&folder, &transfer(&[("--source", "NEW")]), &others);
    refuse(
        &folder,
        "eval -m NEW --lora LORA --data eval.jsonl",
        &others,
    );
    refuse(
        &folder,
        &transfer(&[("--source-lora", "NEW")]),
        &["branch.f16.gguf"],
    );
    refuse(
        &folder,
        &transfer(&[("--target", "LORA")]),
        &["old-lora.gguf"],
    );
}

/// Where the data of a GGUF begins.
pub(super) fn header_bytes(file: &[u8]) -> usize {
    let gguf = Gguf::parse(file).expect("a whole file");
    gguf.tensors()
        .iter()
        .map(|tensor| tensor.offset as usize)
        .min()
        .expect("it has tensors")
}

#[test]
fn outputs_that_cannot_be_written_are_refused_at_once() {
    let folder = world(|folder| {
        folder.write("there.gguf", b"somebody's");
        folder.write("reported.report.json", b"somebody's");
        folder.write("closed", b"");
    });
    for (out, says) in [
        ("there.gguf", "nothing is overwritten"),
        ("reported.gguf", "nothing is overwritten"),
        ("nowhere/new.gguf", "cannot write"),
        ("seeds.jsonl/new.gguf", "cannot write"),
        ("/dev/null/new.gguf", "cannot write"),
        (".", "."),
    ] {
        let shown = out.replace("reported.gguf", "reported.report.json");
        let train = format!("train -m OLD --data eval.jsonl --out {out}");
        for line in [transfer(&[("--out", out)]), train] {
            refuse(&folder, &line, &[&shown, says]);
        }
    }
    assert_eq!(
        fs::read(folder.path("there.gguf")).expect("it is there"),
        b"somebody's"
    );
}

#[test]
fn a_folder_that_may_not_be_written_is_refused() {
    let folder = world(|folder| {
        fs::create_dir(folder.path("closed")).expect("the folder is writable");
    });
    let closed = folder.path("closed");
    let mode = |bits| {
        fs::set_permissions(&closed, fs::Permissions::from_mode(bits)).expect("the folder is ours");
    };
    mode(0o555);
    if fs::write(closed.join("probe"), b"").is_ok() {
        crate::skipped("this user may write everywhere (root); a closed folder is not tested here");
    } else {
        let line = transfer(&[("--out", "closed/new.gguf")]);
        refuse(&folder, &line, &["closed/new.gguf", "cannot write"]);
        assert_eq!(super::names(Path::new(&closed)), Vec::<String>::new());
    }
    mode(0o755);
}
