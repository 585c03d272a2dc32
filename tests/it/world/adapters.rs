//! Adapter files, as public reports tell of them, each judged by the program and by the check that
//! every entry shares.

use std::fs;

use translora::adapters::{self, Base};
use translora_gguf::{Gguf, Writer};

use crate::real::{Folder, done, lab, old_base, refused, rows};

/// A change to a sound adapter.
type Change = fn(&mut Writer<'_>);

/// 20, 21, 23 and 27: what is unusual, and sound. `real/bad_adapters.rs` has what is not.
const SOUND: &[(&str, Change)] = &[
    ("alpha below zero", |w| {
        _ = w.set("adapter.lora.alpha", -8.0_f32);
    }),
    ("rank 256", |w| {
        w.retain_tensors(|part| {
            let (rank, other) = if part.name.ends_with("lora_a") {
                (1, 0)
            } else {
                (0, 1)
            };
            part.shape[rank] = 256;
            *part.bytes() = 0.01_f32
                .to_le_bytes()
                .repeat(256 * part.shape[other] as usize);
            true
        });
    }),
    ("words for a server to show", |w| {
        _ = w.set("adapter.lora.prompt_prefix", "classify: ");
    }),
    ("one matrix of the last layer", |w| {
        w.retain_tensors(|part| part.name.starts_with("blk.4.attn_q."));
    }),
];

#[test]
fn unusual_adapters_are_taken() {
    let folder = Folder::new();
    folder.write("rows.jsonl", rows("eval.jsonl", 2).as_bytes());
    let base = Base::read(&old_base()).expect("the lab is in the repository");
    let bytes = fs::read(&lab().lora).expect("the lab made it");
    let gguf = Gguf::parse(&bytes).expect("it is whole");
    for (what, change) in SOUND {
        let mut writer = Writer::copy_of(&gguf);
        change(&mut writer);
        let path = folder.write(
            "lora.gguf",
            &writer.to_bytes().expect("it keeps the limits"),
        );
        let checked = adapters::check(&base, &path);
        assert!(checked.is_ok(), "{what}: {checked:?}");
        let line = "eval -m OLD --lora lora.gguf --data rows.jsonl --answer-tokens 2";
        done(&folder.run(line));
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
        let line = format!("eval -m OLD --lora {file} --data rows.jsonl");
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
    let old = old_base();
    let odd = |name: &str| OsString::from_vec([b"na\xFF".as_slice(), name.as_bytes()].concat());
    let [lora, peft, back, merged] = ["l.gguf", "peft", "back.gguf", "merged.gguf"].map(odd);
    fs::copy(&lab().lora, folder.path("").join(&lora)).expect("the folder is writable");
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
