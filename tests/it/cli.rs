//! The program as a shell sees it: streams, exit codes, messages.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const COMMANDS: [&str; 7] = [
    "train", "kit", "transfer", "eval", "inspect", "doctor", "serve",
];

fn translora() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_translora"));
    command.env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

fn run(line: &str) -> (i32, String, String) {
    ran(translora().args(line.split_whitespace()))
}

fn ran(command: &mut Command) -> (i32, String, String) {
    captured(&command.output().expect("the program runs"))
}

fn captured(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("output is UTF-8");
    (
        output.status.code().expect("an exit code"),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn help_is_data_and_has_an_example() {
    for command in COMMANDS {
        for flag in ["-h", "--help"] {
            let (code, out, err) = run(&format!("{command} {flag}"));
            assert_eq!((code, err.as_str()), (0, ""), "{command} {flag}");
            assert!(out.contains("Example"), "{command} {flag}: {out}");
            assert!(
                out.contains(&format!("translora {command} ")),
                "{command} {flag}: {out}"
            );
        }
    }
    let (code, out, _) = run("--help");
    assert_eq!(code, 0);
    assert!(
        COMMANDS.iter().all(|command| out.contains(command)),
        "{out}"
    );
    assert!(out.contains("Exit status"), "{out}");
    let (code, out, _) = run("--version");
    assert_eq!(code, 0);
    assert!(out.contains(env!("CARGO_PKG_VERSION")), "{out}");
    assert!(
        out.contains(if cfg!(feature = "ggml") {
            "ggml"
        } else {
            "toy"
        }),
        "{out}"
    );
}

#[test]
fn a_bad_flag_is_an_error_and_names_itself() {
    let transfer = "transfer --source a --source-lora b --target c --out d";
    let train = "train -m a --data b --out c";
    let cases = [
        (String::new(), "Usage"),
        ("serve".into(), "--model"),
        ("train -m a".into(), "--data"),
        (format!("{train} --rank 0"), "1 to 1024"),
        (format!("{train} --rank 1025"), "1 to 1024"),
        (format!("{train} --lr nan"), "above 0"),
        (format!("{train} --lr=-1"), "above 0"),
        (format!("{train} --alpha inf"), "above 0"),
        (format!("{train} --epochs 0"), "above 0"),
        (format!("{train} --epochs 1001"), "at most 1000"),
        (format!("{train} --batch 0"), "1 to 4096"),
        (format!("{train} --modules q,head"), "head"),
        (format!("{train} --seed x"), "--seed"),
        (format!("{train} -ngl many"), "or all"),
        (transfer.into(), "--kit"),
        (format!("{transfer} --kit k --seeds s"), "--seeds"),
        (format!("{transfer} --kit k --samples 0"), "--samples"),
        (format!("{transfer} --kit k --temperature 9"), "at most 5"),
        (format!("{transfer} --kit k --filter best"), "contrast"),
        (format!("{transfer} --kit k --objective best"), "aligned"),
        (format!("{transfer} --kit k --kl-budget 101"), "at most 100"),
        (
            format!("{transfer} --seeds s --filter kit"),
            "hint: add --kit",
        ),
        (
            format!("{transfer} --kit k --generator nobody"),
            "source-lora",
        ),
        (
            "kit -m a --lora b --data c --out d --seeds 0".into(),
            "1 to 1000",
        ),
    ];
    for (line, expected) in cases {
        let (code, out, err) = run(&line);
        assert_eq!((code, out.as_str()), (2, ""), "{line}: {err}");
        assert!(err.contains(expected), "{line}: {err}");
    }
}

#[test]
fn a_missing_file_is_an_error_with_its_name_and_a_hint() {
    let lines = [
        "train -m missing.gguf --data missing.jsonl --out never.gguf",
        "kit -m missing.gguf --lora missing.gguf --data missing.jsonl --out never.kit",
        "transfer --source missing.gguf --source-lora missing.gguf --target missing.gguf --seeds missing.jsonl --out never.gguf",
        "transfer --source missing.gguf --source-lora missing.gguf --target missing.gguf --kit missing.kit --out never.gguf --json",
        "eval -m missing.gguf --data missing.jsonl",
        "inspect missing.gguf",
    ];
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for line in lines {
        let (code, out, err) = ran(translora().args(line.split(' ')).current_dir(&folder));
        assert_eq!((code, out.as_str()), (2, ""), "{line}: {err}");
        assert!(err.contains("error: "), "{line}: {err}");
        assert!(err.contains("missing."), "{line}: {err}");
        assert!(err.contains("hint: "), "{line}: {err}");
        assert!(!err.contains('\x1b'), "colours without a terminal: {err:?}");
    }
    assert_eq!(
        std::fs::read_dir(&folder)
            .expect("the folder is there")
            .count(),
        0,
        "a failed run left something behind"
    );
}

#[test]
fn nobody_reading_is_no_error_and_a_full_disk_is() {
    let Some(model) = fixture() else { return };
    let mut child = translora()
        .arg("inspect")
        .arg(&model)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    drop(child.stdout.take());
    let (code, _, err) = captured(&child.wait_with_output().expect("it ends"));
    assert_eq!((code, err.as_str()), (0, ""));
    if let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") {
        let (code, _, err) = ran(translora().arg("inspect").arg(&model).stdout(full));
        assert_eq!(code, 2);
        assert!(err.contains("cannot write to standard output"), "{err}");
    }
}

#[test]
fn inspect_names_what_it_sees() {
    let Some(model) = fixture() else { return };
    let (code, out, err) = ran(translora().arg("inspect").arg(&model));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("architecture"), "{out}");
    assert!(out.contains("llama"), "{out}");
    let (_, out, _) = ran(translora().args(["inspect", "--json"]).arg(&model));
    assert_eq!(one_object(&out)["what"], "model");
}

/// The lab's old base.
fn fixture() -> Option<PathBuf> {
    let path = crate::source::root().join("tests/fixtures/lab/sprout.f16.gguf");
    if !path.exists() {
        crate::skipped(&format!("{} is missing", path.display()));
    }
    path.exists().then_some(path)
}

/// Standard output of `--json`: one object on one line, and nothing else.
fn one_object(out: &str) -> Value {
    assert_eq!(out.lines().count(), 1, "{out}");
    let value: Value = serde_json::from_str(out).expect("standard output is JSON");
    assert!(value.is_object(), "{out}");
    value
}

/// The whole job in the toy world, each step as a shell would start it.
mod toy {
    use std::io::{BufRead, BufReader, Read};

    use super::*;
    use crate::toy::World;

    /// Run a line whose words may be names of the world's files.
    fn run(world: &World, line: &str) -> (i32, String, String) {
        ran(translora()
            .args(line.split_whitespace())
            .current_dir(&world.folder))
    }

    fn with_lora() -> World {
        let world = World::new();
        let (code, out, err) = run(
            &world,
            "train -m old.json --data train.jsonl --out l.gguf --rank 8 --epochs 4 --lr 4e-3",
        );
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("l.gguf"), "{out}");
        assert!(
            out.contains("translora serve -m old.json --lora l.gguf"),
            "{out}"
        );
        assert!(err.contains("translora train"), "{err}");
        assert!(err.contains("\n  seed"), "{err}");
        assert!(err.contains("rank 8, the rest by default"), "{err}");
        assert!(err.contains("lr 0.004"), "{err}");
        assert!(!err.contains("limits"), "{err}");
        world
    }

    const TRANSFER: &str =
        "transfer --source old.json --source-lora l.gguf --target new.json --samples 120 --rank 8";

    #[test]
    fn the_whole_job_ends_in_an_adapter_and_a_table() {
        let world = with_lora();
        let (code, out, err) = run(
            &world,
            "kit -m old.json --lora l.gguf --data train.jsonl --out k.kit --epochs 2 --rank 8 --lr 4e-3 --json",
        );
        assert_eq!(code, 0, "{err}");
        assert_eq!(one_object(&out)["seeds"], 5);

        let (code, out, err) = run(
            &world,
            &format!("{TRANSFER} --kit k.kit --lr 4e-3 --out n.gguf --eval eval.jsonl"),
        );
        assert_eq!(code, 0, "{err}");
        for part in [
            "bare target",
            "source + LoRA",
            "transferred",
            "95 % interval",
            "accepted",
            "translora serve -m new.json --lora n.gguf",
            "translora adapters --attach SOCKET load n.gguf",
            "n.report.html",
        ] {
            assert!(out.contains(part), "{part}: {out}");
        }
        let plan = err.find("\n  seed").expect("the seed is printed");
        assert!(
            err.find("generate").is_some_and(|work| plan < work),
            "the plan comes first: {err}"
        );

        let (code, out, err) = run(
            &world,
            &format!("{TRANSFER} --kit k.kit --lr 4e-3 --out n.gguf --eval eval.jsonl"),
        );
        assert_eq!((code, out.as_str()), (2, ""), "nothing is overwritten");
        assert!(err.contains("n.gguf") && err.contains("hint: "), "{err}");

        let (code, out, _) = run(
            &world,
            "eval -m new.json --lora n.gguf --data eval.jsonl --json -q",
        );
        let score = one_object(&out);
        let (_, _, err) = run(
            &world,
            "eval -m new.json --lora n.gguf --data eval.jsonl -v",
        );
        assert!(err.contains("answer tokens"), "{err}");
        assert!(err.contains("\n  limits"), "{err}");
        assert_eq!((code, score["rows"].as_u64()), (0, Some(120)));
        assert!(score["exact"].as_f64().is_some_and(|x| x > 0.5), "{score}");
        for (file, what) in [("n.gguf", "adapter"), ("k.kit", "kit")] {
            let (code, out, _) = run(&world, &format!("inspect {file} --json"));
            assert_eq!((code, one_object(&out)["what"].as_str()), (0, Some(what)));
        }
    }

    #[test]
    fn json_is_one_object_with_the_promised_keys() {
        let world = with_lora();
        let line = format!(
            "{TRANSFER} --seeds seeds.jsonl --lr 4e-3 --out n.gguf --eval eval.jsonl --json --objective text"
        );
        let (code, out, err) = run(&world, &line);
        let object = one_object(&out);
        assert_eq!(code, 0, "{err}");
        assert_eq!(object["verdict"], "accept", "{err}");
        assert_eq!(object["adapter"], "n.gguf");
        for arm in ["target", "source_lora", "transferred"] {
            assert!(object["scores"][arm].is_f64(), "{object}");
        }
        assert!(object["counts"].is_object(), "{object}");
        assert!(object["seconds"].is_object(), "{object}");
        assert!(world.path("n.gguf").exists());
    }

    #[test]
    fn evidence_refuses_with_one() {
        let world = with_lora();
        let (code, out, err) = run(
            &world,
            &format!("{TRANSFER} --seeds seeds.jsonl --out n.gguf --lr 1e-9 -q"),
        );
        assert_eq!(code, 1, "{err}");
        assert!(out.contains("n.rejected.gguf"), "{out}");
        assert!(!out.contains("translora serve"), "{out}");
        assert!(out.contains("n.rejected.report.html"), "{out}");
        assert!(out.contains("next "), "{out}");
        assert!(out.contains("--eval"), "{out}");
        assert!(out.contains("--harvest"), "{out}");
        assert!(!world.path("n.gguf").exists());
        let quiet = err.lines().all(|line| line.starts_with("warning: "));
        assert!(quiet, "{err}");
    }

    /// Start a command that takes long, and send it a signal when a line of it begins with `sign`.
    fn stopped(
        world: &World,
        line: &str,
        sign: &str,
        signal: &str,
    ) -> (Option<i32>, String, String) {
        let mut child = translora()
            .args(line.split(' '))
            .current_dir(&world.folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut monitor = BufReader::new(child.stderr.take().expect("its monitor is piped"));
        let mut err = String::new();
        while !err.lines().any(|line| line.starts_with(sign)) {
            assert!(
                monitor.read_line(&mut err).expect("monitor is UTF-8") > 0,
                "it ended early: {err}"
            );
        }
        // The plan is shown before the journal is begun.
        let journal = |name: &String| world.path(name).join("lock").exists();
        while sign == "  seed" && !world.names().iter().any(journal) {
            let ended = child.try_wait().expect("it can be asked");
            assert!(ended.is_none(), "it ended early: {err}");
        }
        let sent = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status();
        assert!(sent.is_ok_and(|status| status.success()));
        monitor.read_to_string(&mut err).expect("monitor is UTF-8");
        let output = child.wait_with_output().expect("it ends");
        let out = String::from_utf8(output.stdout).expect("output is UTF-8");
        (output.status.code(), out, err)
    }

    /// A supervisor's signal is as kind as Ctrl-C, for every command that works long.
    #[test]
    fn a_signal_stops_at_a_safe_point() {
        let world = with_lora();
        let many = std::fs::read_to_string(&world.train)
            .expect("rows")
            .repeat(1000);
        std::fs::write(world.path("many.jsonl"), many).expect("writable");
        let before = world.names();
        let train = "train -m old.json --data train.jsonl --out m.gguf --epochs 900";
        let kit =
            "kit -m old.json --lora l.gguf --data train.jsonl --out k.kit --rank 8 --epochs 900";
        let transfer = format!("{TRANSFER} --seeds seeds.jsonl --out n.gguf --epochs 900");
        let eval = "eval -m old.json --lora l.gguf --data many.jsonl";
        for (line, sign, signal) in [
            (train, "  seed", "-INT"),
            (eval, "open", "-INT"),
            (kit, "  seed", "-TERM"),
            (&transfer, "  seed", "-TERM"),
            (eval, "open", "-TERM"),
        ] {
            let (code, out, err) = stopped(&world, line, sign, signal);
            assert_eq!((code, out.as_str()), (Some(2), ""), "{line}: {err}");
            assert!(
                err.contains("a second signal ends it at once"),
                "{line}: {err}"
            );
            assert!(err.contains("cancelled"), "{line}: {err}");
            assert!(err.contains("--resume"), "{line}: {err}");
        }
        let left: Vec<String> = world
            .names()
            .into_iter()
            .filter(|name| !before.contains(name))
            .collect();
        let journals = ["k.kit.journal", "m.gguf.journal", "n.gguf.journal"];
        assert!(
            left.iter().all(|name| journals.contains(&name.as_str())),
            "{left:?}"
        );
    }

    #[test]
    fn a_run_that_another_process_works_on_is_refused_with_its_number() {
        let world = with_lora();
        let train = "train -m old.json --data train.jsonl --out m.gguf --epochs 900";
        let (code, _, err) = stopped(&world, train, "  seed", "-TERM");
        assert_eq!(code, Some(2), "{err}");
        // As the other process does.
        let lock = std::fs::File::open(world.path("m.gguf.journal/lock")).expect("a lock");
        lock.lock().expect("nobody has it: that process ended");
        let number = std::fs::read_to_string(world.path("m.gguf.journal/lock")).expect("text");
        for line in [train.to_owned(), format!("{train} --resume")] {
            let (code, out, err) = run(&world, &line);
            assert_eq!((code, out.as_str()), (2, ""), "{line}: {err}");
            assert!(
                err.contains(&format!(
                    "m.gguf.journal: process {number} works on this run"
                )),
                "{line}: {err}"
            );
            assert!(
                err.contains("hint: wait until it has ended, or choose another --out"),
                "{line}: {err}"
            );
        }
        drop(lock);
        let (code, _, err) = run(&world, &format!("{train} --resume --rank 2"));
        assert_eq!(code, 2, "{err}");
        assert!(err.contains("the plan changed"), "{err}");
    }

    /// Names and folders that no text can hold are refused or used, and end nothing.
    #[cfg(target_os = "linux")]
    #[test]
    fn paths_that_are_no_text_end_nothing() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;

        let world = with_lora();
        let odd = world.folder.join(OsStr::from_bytes(b"caf\xe9"));
        std::fs::create_dir(&odd).expect("the disk takes it");
        for name in ["old.json", "l.gguf", "train.jsonl", "eval.jsonl"] {
            std::fs::copy(world.path(name), odd.join(name)).expect("copied");
        }
        let at = |folder: &std::path::Path, words: &[&OsStr]| {
            ran(translora().args(words).current_dir(folder))
        };
        // Inside such a folder everything works.
        for line in [
            "train -m old.json --data train.jsonl --out m.gguf --rank 8 --json",
            "eval -m old.json --lora l.gguf --data eval.jsonl --json",
            "inspect l.gguf --json",
        ] {
            let words: Vec<&OsStr> = line.split(' ').map(OsStr::new).collect();
            let (code, out, err) = at(&odd, &words);
            assert_eq!(code, 0, "{line}: {err}");
            one_object(&out);
        }
        // By its name it is used where a path is all that is needed, and refused where it must
        // stand in a plan.
        let lora = odd.join("l.gguf");
        let (code, out, err) = at(
            &world.folder,
            &["inspect".as_ref(), lora.as_os_str(), "--json".as_ref()],
        );
        assert_eq!(code, 0, "{err}");
        one_object(&out);
        let words = ["train", "-m", "old.json", "--data", "train.jsonl", "--out"];
        let mut words: Vec<&OsStr> = words.map(OsStr::new).to_vec();
        let out = odd.join("n.gguf");
        words.push(out.as_os_str());
        let (code, _, err) = at(&world.folder, &words);
        assert_eq!(code, 2, "{err}");
        assert!(err.contains("UTF-8") && err.contains("--out"), "{err}");
        assert!(!err.contains("panicked"), "{err}");
    }
}

/// A backend without its driver looks the same: a file that the dynamic loader refuses.
#[cfg(feature = "ggml")]
#[test]
fn a_backend_that_cannot_be_loaded_is_refused_with_its_path_and_a_hint() {
    let world = crate::toy::World::new();
    let path = world.path("libggml-cuda.so");
    std::fs::write(&path, "no library").expect("a file");
    let (code, out, err) = ran(translora()
        .args(["inspect", "--list-devices"])
        .env("GGML_BACKEND_PATH", &path));
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    let path = path.display().to_string();
    assert!(err.contains(&path), "{err}");
    assert!(err.contains("cannot load this backend"), "{err}");
    assert!(err.contains("\nhint: "), "{err}");
    assert!(err.contains("driver"), "{err}");
    assert_eq!(
        err.matches(path.as_str()).count(),
        2,
        "our words and the dynamic loader's: {err}"
    );
}
