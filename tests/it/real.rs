//! The program with the real engine, on the lab's two base models: what it refuses, and that a run
//! can be stopped and repeated.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;
use translora_gguf::{Gguf, Pending, Writer};

use crate::source::root;

mod bad_adapters;
mod bad_inputs;
mod bad_models;
mod bench;
mod dora;
mod exchanges;
mod foreign_files;
mod jobs;
mod memory;
mod not_finite;
mod objectives;
mod peft;
mod runs;
pub(crate) mod serve;
mod split;
#[cfg(feature = "fetch")]
mod starts;
mod structured;
mod templates;

/// What every test starts from, made once: a source adapter for the task `ticket`, and its kit.
pub(crate) struct Lab {
    folder: Folder,
    pub(crate) lora: PathBuf,
    kit: PathBuf,
}

pub(crate) fn old_base() -> PathBuf {
    root().join("tests/fixtures/lab/sprout.f16.gguf")
}

pub(crate) fn new_base() -> PathBuf {
    root().join("tests/fixtures/lab/branch.f16.gguf")
}

/// The first rows of a file of the task.
pub(crate) fn rows(file: &str, count: usize) -> String {
    let path = root().join("tests/fixtures/lab/tasks/ticket").join(file);
    let text = fs::read_to_string(path).expect("the lab's tasks are in the repository");
    text.lines()
        .take(count)
        .map(|line| format!("{line}\n"))
        .collect()
}

pub(crate) fn lab() -> &'static Lab {
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(|| {
        let folder = Folder::new();
        folder.write("train.jsonl", rows("train.jsonl", 200).as_bytes());
        let train = "train -m OLD --data train.jsonl --epochs 5 --lr 4e-3 --rank 8";
        done(&folder.run(&format!("{train} --out old-lora.gguf")));
        folder.write("few.jsonl", rows("train.jsonl", 40).as_bytes());
        let kit = "kit -m OLD --lora old-lora.gguf --data few.jsonl --epochs 2 --lr 2e-3 --rank 4";
        done(&folder.run(&format!("{kit} --out task.kit")));
        let (lora, kit) = (folder.path("old-lora.gguf"), folder.path("task.kit"));
        Lab { folder, lora, kit }
    })
}

/// A folder that goes away with the test.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(
            tempfile::Builder::new()
                .prefix("translora")
                .tempdir()
                .expect("a temporary folder can be made"),
        )
    }

    /// With the first rows of files of the task.
    pub(crate) fn with(files: &[(&str, usize)]) -> Self {
        let folder = Self::new();
        for (file, count) in files {
            folder.write(file, rows(file, *count).as_bytes());
        }
        folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.path(name), bytes).expect("the folder is writable");
        self.path(name)
    }

    /// Names in the folder, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        names(self.0.path())
    }

    /// The program in this folder, on one thread. The words OLD, NEW, LORA and KIT stand for the
    /// lab's files.
    pub(crate) fn command(&self, line: &str) -> Command {
        let words = line.split_whitespace().map(|word| match word {
            "OLD" => old_base(),
            "NEW" => new_base(),
            "LORA" => lab().lora.clone(),
            "KIT" => lab().kit.clone(),
            word => word.into(),
        });
        let mut command = Command::new(env!("CARGO_BIN_EXE_translora"));
        command
            .env_remove("NO_COLOR")
            .env("XDG_CACHE_HOME", self.path("cache"))
            .stdin(Stdio::null())
            .current_dir(&self.0)
            .args(words);
        let own = ["--json", "inspect", "import", "export", "merge"];
        if !own.iter().any(|name| line.starts_with(name)) {
            command.args(["-t", "1"]);
        }
        command
    }

    pub(crate) fn run(&self, line: &str) -> Run {
        Run::of(
            line,
            &self.command(line).output().expect("the program runs"),
        )
    }
}

/// A copy of a GGUF file with the tensors that `keep` says yes to, which may change them.
pub(crate) fn changed(file: &Path, keep: impl FnMut(&mut Pending<'_>) -> bool) -> Vec<u8> {
    let bytes = fs::read(file).expect("it is there");
    let gguf = Gguf::parse(&bytes).expect("a whole file");
    let mut writer = Writer::copy_of(&gguf);
    writer.retain_tensors(keep);
    writer.to_bytes().expect("it keeps the limits")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder is readable");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// What a run of the program came to.
pub(crate) struct Run {
    line: String,
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    fn of(line: &str, output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("output is UTF-8");
        Self {
            line: line.to_owned(),
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// The object of a run with `--json`.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "translora {}\nexit {:?}\n{}{}",
            self.line, self.code, self.out, self.err
        )
    }
}

#[track_caller]
pub(crate) fn done(run: &Run) {
    assert_eq!(run.code, Some(0), "{run}");
}

/// The run was an error that names what was wrong and says what to do.
#[track_caller]
pub(crate) fn refused(what: &str, run: &Run, says: &[&str]) {
    assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{what}: {run}");
    let error = run
        .err
        .find("error: ")
        .unwrap_or_else(|| panic!("{what}: there is no error: {run}"));
    let (error, hint) = run.err[error..]
        .split_once("hint: ")
        .unwrap_or_else(|| panic!("{what}: no hint: {run}"));
    assert!(
        says.iter().all(|word| error.contains(word)),
        "{what}: {says:?} is not said: {run}"
    );
    assert!(
        !hint.trim().is_empty(),
        "{what}: {says:?} is not said: {run}"
    );
    assert!(!hint.contains("a bug"), "{what}: {run}");
}

/// A transfer that takes a second; `with` changes flags or adds some.
pub(crate) fn transfer(with: &[(&str, &str)]) -> String {
    let mut flags = vec![
        ("--source", "OLD"),
        ("--source-lora", "LORA"),
        ("--target", "NEW"),
        ("--seeds", "seeds.jsonl"),
        ("--out", "new.gguf"),
        ("--samples", "12"),
        ("--rank", "4"),
        ("--epochs", "1"),
    ];
    for (flag, value) in with {
        flags.retain(|(known, _)| known != flag && !(*flag == "--kit" && *known == "--seeds"));
        flags.push((flag, value));
    }
    let words = flags.iter().map(|(flag, value)| format!(" {flag} {value}"));
    format!("transfer{}", words.collect::<String>())
}
