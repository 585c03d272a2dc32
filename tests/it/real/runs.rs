//! Whole runs: repeated, stopped in every stage, and what they publish.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::{Folder, Run, done, lab, transfer};

fn world(eval: usize) -> Folder {
    Folder::with(&[
        ("seeds.jsonl", 5),
        ("eval.jsonl", eval),
        ("train.jsonl", 40),
    ])
}

/// A transfer whose stages last long enough to be hit.
fn longer() -> String {
    let kit = lab().kit.to_str().expect("the path is UTF-8");
    transfer(&[
        ("--kit", kit),
        ("--filter", "kit"),
        ("--samples", "24"),
        ("--epochs", "12"),
        ("--lr", "3e-3"),
        ("--eval", "eval.jsonl"),
    ])
}

/// The bytes of the adapter that a run wrote: accepted or set aside.
fn adapter(folder: &Folder, run: &Run) -> Vec<u8> {
    assert!(matches!(run.code, Some(0 | 1)), "{run}");
    let name = if run.code == Some(0) {
        "new.gguf"
    } else {
        "new.rejected.gguf"
    };
    fs::read(folder.path(name)).unwrap_or_else(|error| panic!("{name}: {error}: {run}"))
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_does_not() {
    let lines = [
        (
            "a.gguf",
            "train -m OLD --data train.jsonl --out a.gguf --rank 4 --epochs 1",
        ),
        (
            "a.kit",
            "kit -m OLD --lora LORA --data train.jsonl --out a.kit --rank 4 --epochs 1",
        ),
    ];
    let made = |line: &str, name: &str| {
        let folder = world(5);
        done(&folder.run(line));
        fs::read(folder.path(name)).expect("it was made")
    };
    for (name, line) in lines {
        let first = made(&format!("{line} --seed 7"), name);
        assert!(
            first == made(&format!("{line} --seed 7"), name),
            "{line}: other bytes"
        );
        assert!(
            first != made(&format!("{line} --seed 8"), name),
            "{line}: the seed has no effect"
        );
    }
    let moved = |seed: &str| {
        let folder = world(5);
        adapter(&folder, &folder.run(&transfer(&[("--seed", seed)])))
    };
    let first = moved("7");
    assert!(first == moved("7"), "transfer: other bytes");
    assert!(first != moved("8"), "transfer: the seed has no effect");
}

/// When to press Ctrl-C: while this stage works, which is known by this.
enum Sign {
    /// A line of stderr that begins so.
    Line(&'static str),
    /// A file in the journal.
    File(&'static str),
}

const STOPS: &[(&str, Sign)] = &[
    ("kit", Sign::Line("translora transfer")),
    ("open", Sign::Line("kit ")),
    ("generate", Sign::Line("open ")),
    ("filter", Sign::Line("generate ")),
    ("label", Sign::Line("filter ")),
    ("distill", Sign::File("distill.checkpoint.bin")),
    ("evaluate", Sign::File("distill.jsonl")),
];

/// Start a run, press Ctrl-C at the sign, and wait for its end.
fn interrupted(folder: &Folder, line: &str, sign: &Sign) -> Run {
    let mut child = folder
        .command(line)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut stderr = BufReader::new(child.stderr.take().expect("its stderr is piped"));
    let mut err = String::new();
    match sign {
        Sign::Line(start) => {
            while !err.lines().any(|line| line.starts_with(start))
                && stderr.read_line(&mut err).expect("stderr is UTF-8") > 0
            {}
        }
        Sign::File(name) => {
            let file = folder.path("new.gguf.journal").join(name);
            while !file.exists() && child.try_wait().expect("it can be asked").is_none() {
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(
        sent.is_ok_and(|status| status.success()),
        "it ended before Ctrl-C: {err}"
    );
    stderr.read_to_string(&mut err).expect("stderr is UTF-8");
    let output = child.wait_with_output().expect("it ends");
    Run {
        err,
        ..Run::of(line, &output)
    }
}

/// One run, stopped in every stage and taken up again each time, makes what a straight run makes.
#[test]
fn ctrl_c_in_any_stage_leaves_nothing_but_the_journal_and_resume_ends_in_the_same_bytes() {
    let straight = {
        let folder = world(60);
        adapter(&folder, &folder.run(&longer()))
    };
    let folder = world(60);
    let before = folder.names();
    let mut line = longer();
    for (stage, sign) in STOPS {
        let run = interrupted(&folder, &line, sign);
        assert_eq!(run.code, Some(2), "{stage}: {run}");
        assert_eq!(run.out.as_str(), "", "{stage}: {run}");
        assert!(run.err.contains("error: cancelled"), "{stage}: {run}");
        assert!(run.err.contains("--resume"), "{stage}: {run}");
        let left: Vec<String> = folder
            .names()
            .into_iter()
            .filter(|name| !before.contains(name) && name != "new.gguf.journal")
            .collect();
        assert!(left.is_empty(), "{stage}: {left:?} was left behind");
        if folder.path("new.gguf.journal").exists() {
            line = format!("{} --resume", longer());
        }
    }
    let run = folder.run(&line);
    for stage in ["open", "generate", "filter", "label", "distill"] {
        assert!(
            run.err
                .lines()
                .any(|line| line.starts_with(stage) && line.contains("resumed")),
            "{stage} was done twice: {run}"
        );
    }
    assert!(
        adapter(&folder, &run) == straight,
        "a resumed run made other bytes"
    );
    assert!(
        !folder.path("new.gguf.journal").exists(),
        "the journal is left behind"
    );
}

/// The last stage takes milliseconds: it ends either before Ctrl-C or not at all.
#[test]
fn ctrl_c_while_publishing_leaves_all_or_nothing() {
    let folder = world(5);
    let before = folder.names();
    let run = interrupted(
        &folder,
        &transfer(&[("--eval", "eval.jsonl")]),
        &Sign::File("evaluate.jsonl"),
    );
    let new: Vec<String> = folder
        .names()
        .into_iter()
        .filter(|name| !before.contains(name))
        .collect();
    match run.code {
        Some(2) => assert_eq!(new, ["new.gguf.journal"], "{run}"),
        _ => assert_eq!(
            new,
            [
                "new.rejected.gguf",
                "new.rejected.report.html",
                "new.rejected.report.json"
            ],
            "{run}"
        ),
    }
}

#[test]
fn what_is_published_is_what_was_judged() {
    let folder = world(40);
    let run = folder.run(&format!("{} --json", longer()));
    let report = run.json();
    let path = report["adapter"]
        .as_str()
        .expect("the report names the adapter")
        .to_owned();
    adapter(&folder, &run);
    let kept = fs::read_to_string(folder.path(report["report"].as_str().expect("and itself")))
        .expect("it was written");
    let kept: serde_json::Value = serde_json::from_str(&kept).expect("it is JSON");
    assert_eq!(&kept["scores"], &report["scores"]);
    assert_eq!(&kept["verdict"], &report["verdict"]);

    let card = folder.run(&format!("inspect {path} --json")).json();
    assert_eq!(card["what"], "adapter");
    assert_eq!(card["architecture"], "qwen3");
    assert_eq!(card["rank"], 4);
    assert_eq!(card["translora"]["translora.verdict"], report["verdict"]);
    assert_eq!(card["translora"]["translora.seed"], "1");
    let target = folder.run("inspect NEW --json").json();
    assert_eq!(
        card["translora"]["translora.target.sha256"],
        target["sha256"]
    );
    assert!(folder.run(&format!("inspect {path}")).out.contains("qwen3"));

    let arms = [
        ("target", "NEW".to_owned()),
        ("source_lora", "OLD --lora LORA".to_owned()),
        ("transferred", format!("NEW --lora {path}")),
    ];
    for (arm, model) in arms {
        let score = folder.run(&format!("eval -m {model} --data eval.jsonl --json"));
        done(&score);
        assert_eq!(
            score.json()["exact"],
            report["scores"][arm],
            "{arm}: {score}"
        );
    }
    assert!(
        report["scores"]["source_lora"]
            .as_f64()
            .is_some_and(|exact| exact > 0.8),
        "the lab's own adapter is bad: {report}"
    );
}

#[test]
fn inspect_knows_a_kit_and_a_base() {
    let lab = lab();
    let kit = lab.folder.run("inspect KIT --json").json();
    assert_eq!(kit["what"], "kit");
    assert_eq!(kit["seeds"].as_array().map(Vec::len), Some(5));
    let base = lab.folder.run("inspect OLD --json").json();
    assert_eq!(base["what"], "model");
    assert_eq!(base["architecture"], "llama");
    assert_eq!(base["layers"], 5);
}
