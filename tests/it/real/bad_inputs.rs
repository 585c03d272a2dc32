//! Bad data, adapters and outputs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use translora_gguf::{Gguf, Writer};

use super::{Folder, lab, new_base, refused, rows, transfer};

/// A folder with seeds, held-out rows, and whatever `fill` puts there.
fn world(fill: impl FnOnce(&Folder)) -> Folder {
    let folder = Folder::new();
    folder.write("seeds.jsonl", rows("seeds.jsonl", 5).as_bytes());
    folder.write("eval.jsonl", rows("eval.jsonl", 5).as_bytes());
    fill(&folder);
    folder
}

/// Run, expect a refusal that says these words, and nothing new in the folder.
fn refuse(folder: &Folder, what: &str, line: &str, says: &[&str]) {
    let before = folder.names();
    refused(what, &folder.run(line), says);
    assert_eq!(folder.names(), before, "{what}: something was left behind");
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
    let (lora, old) = (lab().lora.display(), super::old_base());
    for (name, _, says) in &cases {
        refuse(&folder, name, &transfer(&[("--seeds", name)]), &[says]);
        refuse(&folder, name, &transfer(&[("--eval", name)]), &[says]);
        refuse(
            &folder,
            name,
            &format!("train -m {} --data {name} --out new.gguf", old.display()),
            &[says],
        );
        refuse(
            &folder,
            name,
            &format!(
                "kit -m {} --lora {lora} --data {name} --out new.kit",
                old.display()
            ),
            &[says],
        );
        refuse(
            &folder,
            name,
            &format!("eval -m {} --data {name}", old.display()),
            &[says],
        );
    }
}

#[test]
fn seeds_that_are_all_the_same_are_refused() {
    let seed = rows("seeds.jsonl", 1);
    let folder = world(|folder| {
        _ = folder.write("same.jsonl", seed.repeat(5).as_bytes());
    });
    refuse(
        &folder,
        "the same seeds",
        &transfer(&[("--seeds", "same.jsonl")]),
        &["same.jsonl: all 5 seeds are the same"],
    );
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
    let old = super::old_base();
    refuse(
        &folder,
        "a long row",
        &format!(
            "train -m {} --data long.jsonl --out new.gguf",
            old.display()
        ),
        &["long.jsonl:13: ", "context"],
    );
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
        folder.write("nan.gguf", &with_a_number_that_is_none(&whole));
    });
    let new = new_base().display().to_string();
    for cut in cuts {
        let name = format!("cut-{cut}.gguf");
        refuse(
            &folder,
            &name,
            &transfer(&[("--source-lora", &name)]),
            &[&name],
        );
        refuse(&folder, &name, &format!("inspect {name}"), &[&name]);
    }
    refuse(
        &folder,
        "not a number",
        &transfer(&[("--source-lora", "nan.gguf")]),
        &["nan.gguf", "NaN"],
    );
    let lora = lab().lora.to_str().expect("the path is UTF-8");
    let names = [lora, "\"llama\"", "\"qwen3\""];
    refuse(
        &folder,
        "an adapter of another base",
        &transfer(&[("--source", &new)]),
        &names,
    );
    refuse(
        &folder,
        "an adapter of another base",
        &format!("eval -m {new} --lora {lora} --data eval.jsonl"),
        &names,
    );
    refuse(
        &folder,
        "a base as an adapter",
        &transfer(&[("--source-lora", &new)]),
        &[&new],
    );
    refuse(
        &folder,
        "an adapter as a base",
        &transfer(&[("--target", lora)]),
        &[lora],
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

fn with_a_number_that_is_none(adapter: &[u8]) -> Vec<u8> {
    changed(adapter, |i, _, data| {
        if i == 3 {
            data[40..44].copy_from_slice(&f32::NAN.to_le_bytes());
        }
    })
}

/// The adapter with each tensor changed, by its place and name.
fn changed(adapter: &[u8], change: impl Fn(usize, &str, &mut Vec<u8>)) -> Vec<u8> {
    let gguf = Gguf::parse(adapter).expect("a whole file");
    let mut writer = Writer::new();
    gguf.metadata()
        .for_each(|(key, value)| _ = writer.set(key, value.clone()));
    for (i, tensor) in gguf.tensors().iter().enumerate() {
        let mut data = gguf.data(tensor).to_vec();
        change(i, &tensor.name, &mut data);
        writer.tensor(tensor.name.as_str(), tensor.kind, &tensor.shape, data);
    }
    writer.to_bytes().expect("a valid file")
}

#[test]
fn an_adapter_that_changes_nothing_has_nothing_to_transfer() {
    let adapter = fs::read(&lab().lora).expect("the adapter is there");
    let zero = changed(&adapter, |_, name, data| {
        if name.ends_with("lora_b") {
            data.fill(0);
        }
    });
    let folder = world(|folder| _ = folder.write("zero.gguf", &zero));
    refuse(
        &folder,
        "an adapter whose B is zero",
        &transfer(&[("--source-lora", "zero.gguf")]),
        &["it adapts nothing", "B of every pair is zero"],
    );
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
        refuse(&folder, out, &transfer(&[("--out", out)]), &[&shown, says]);
        let old = super::old_base();
        refuse(
            &folder,
            out,
            &format!("train -m {} --data eval.jsonl --out {out}", old.display()),
            &[&shown, says],
        );
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
        refuse(
            &folder,
            "a closed folder",
            &transfer(&[("--out", "closed/new.gguf")]),
            &["closed/new.gguf", "cannot write"],
        );
        assert_eq!(super::names(Path::new(&closed)), Vec::<String>::new());
    }
    mode(0o755);
}
