use super::*;
use crate::distill::{FitReport, Trained};
use crate::engine::{Answer, SoftLabels, TrainerInfo};
use crate::filter::{Judged, Kept, Reason};
use crate::generate::Candidate;
use crate::label::{Labeled, label_answered};

/// A journal in a folder that goes away with the test.
struct Fresh {
    journal: Journal,
    _folder: tempfile::TempDir,
}

impl Fresh {
    fn open() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let header = Header::new("transfer", &serde_json::Value::Null, BTreeMap::new());
        let journal = Journal::open(&folder.path().join("new.gguf"), header, false);
        Self {
            journal: journal.expect("nothing lies there"),
            _folder: folder,
        }
    }
}

fn there_and_back<R>(journal: &mut Journal, stage: &str, rows: &[R])
where
    R: Clone + std::fmt::Debug + PartialEq + Serialize + Restored,
{
    let product = Product {
        head: (),
        rows: rows.to_vec(),
        blob: None,
        summary: String::new(),
        seconds: 1.0,
        resumed: false,
    };
    journal.finish(stage, &product).unwrap();
    let found = journal.finished::<(), R>(stage).unwrap();
    assert_eq!(found.expect("it is finished").rows, rows, "{stage}");
}

#[test]
fn nouns_come_back_as_they_were() {
    let mut fresh = Fresh::open();
    let journal = &mut fresh.journal;
    let answer = Answer {
        text: "an answer".into(),
        tokens: 2,
        finished: true,
        log_probability: -0.1 - 0.2,
    };
    let candidates = [
        Candidate::example("one", true),
        Candidate::example("two\nlines", false),
    ];
    there_and_back(journal, "generate", &candidates);
    let judged = [
        Judged::example("in", "out", None),
        Judged::example("\u{1F600}", "", Some(Reason::NoAnswer)),
    ];
    there_and_back(journal, "filter", &judged);
    let (plain, _) = label_answered(&[Kept::example("in", Some(answer))]);
    let soft = SoftLabels {
        words: vec![vec![(7, 0.3)], Vec::new()],
        weights: Some(vec![0.1, 2.0]),
    };
    let labeled = [plain[0].clone(), plain[0].clone().with_labels(soft)];
    there_and_back(journal, "label", &labeled);
}

#[test]
fn a_trained_adapter_comes_back_with_its_bytes() {
    let report = FitReport {
        examples: 1,
        steps: 2,
        loss_first: 3.0,
        loss_last: 0.5,
        losses: vec![(1, 3.0)],
        tokens: 9,
        held_out: Vec::new(),
        held_out_steps: Vec::new(),
        stopped_early: false,
        kept_step: 2,
        learning_rates: vec![(1, 1e-3)],
        restarts: Vec::new(),
        trainer: TrainerInfo {
            matrices: 1,
            parameters: 4,
            modules: vec!["q".into()],
            device: "CPU".into(),
            placement: Vec::new(),
            plan: None,
        },
    };
    let mut fresh = Fresh::open();
    let journal = &mut fresh.journal;
    let line = serde_json::json!({"report": report, "probes": []}).to_string();
    let trained: Trained = restored(&line, vec![1, 2, 3]).unwrap();
    assert_eq!(
        (trained.adapter(), trained.report()),
        (&[1, 2, 3][..], &report)
    );
    let product = Product {
        blob: Some(trained.adapter().to_vec()),
        head: trained,
        rows: Vec::<()>::new(),
        summary: String::new(),
        seconds: 1.0,
        resumed: false,
    };
    journal.finish("distill", &product).unwrap();
    let found = journal.finished::<Trained, ()>("distill").unwrap();
    assert_eq!(found.expect("it is finished").head, product.head);
    // The adapter lies beside, as a file that an engine can open, and not in the line.
    assert_eq!(fs::read(journal.path("distill.gguf")).unwrap(), [1, 2, 3]);
    let line = fs::read_to_string(journal.path("distill.jsonl")).unwrap();
    assert!(!line.contains("adapter"), "{line}");
}

#[test]
fn half_a_noun_or_more_than_one_is_refused() {
    let whole = r#"{"prompt":"a","completion":"b","confidence":1.0,"log_probability":-0.5}"#;
    assert_eq!(
        restored::<Labeled>(whole, Vec::new())
            .unwrap()
            .pair()
            .prompt,
        "a".into()
    );
    for line in [
        "",
        r#"{"prompt":"a","completion":"b"}"#,
        r#"{"prompt":"a","completion":"b","confidence":"1","log_probability":-0.5}"#,
        r#"{"prompt":"a","completion":"b","confidence":1.0}"#,
        &format!("{whole} {whole}"),
    ] {
        assert!(restored::<Labeled>(line, Vec::new()).is_err(), "{line}");
    }
}

/// What a disk may do to a file, and how many of three finished stages are left. The file is one of
/// the second stage, or the index.
#[test]
fn a_damaged_stage_is_lost_with_those_after_it_and_no_more() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Option<Damage>); 6] = [
        (
            "flipped",
            Some(|bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }),
        ),
        ("zeroed", Some(|bytes| bytes.fill(0))),
        ("cut", Some(|bytes| bytes.truncate(bytes.len() / 2))),
        ("empty", Some(Vec::clear)),
        ("with a tail of zeros", Some(|bytes| bytes.extend([0; 512]))),
        ("gone", None),
    ];
    let header = || Header::new("transfer", &serde_json::Value::Null, BTreeMap::new());
    for file in ["two.jsonl", "two.gguf", INDEX] {
        for (what, damage) in damages {
            let folder = tempfile::tempdir().expect("a temporary folder can be made");
            let out = folder.path().join("new.gguf");
            let mut journal = Journal::open(&out, header(), false).expect("nothing lies there");
            for stage in ["one", "two", "three"] {
                let product = Product {
                    head: (),
                    rows: vec![stage.to_owned(), "é".repeat(400)],
                    blob: Some(stage.as_bytes().to_vec()),
                    summary: String::new(),
                    seconds: 1.0,
                    resumed: false,
                };
                journal.finish(stage, &product).expect("writable");
            }
            journal
                .replace("three.checkpoint.bin", &[b"x"])
                .expect("writable");
            let path = journal.path(file);
            drop(journal);
            match damage {
                Some(damage) => {
                    let mut bytes = fs::read(&path).expect("it was written");
                    damage(&mut bytes);
                    fs::write(&path, bytes).expect("writable");
                }
                None => fs::remove_file(&path).expect("it was written"),
            }
            let journal = Journal::open(&out, header(), true).expect("it goes on");
            let left = |stage: &str| {
                journal
                    .finished::<(), String>(stage)
                    .expect("whole")
                    .is_some()
            };
            let left = ["one", "two", "three"].map(left);
            let notes = journal.notes();
            if file == INDEX {
                // What is cut off is lost, and nothing comes back that is not whole.
                assert!(left.is_sorted_by(|a, b| a >= b), "{file} {what}: {left:?}");
                assert!(left == [true; 3] || !notes.is_empty(), "{what}");
            } else {
                assert_eq!(left, [true, false, false], "{file} {what}");
                assert!(notes[0].contains(file), "{notes:?}");
                assert!(!journal.path("three.jsonl").exists());
                assert!(!journal.path("three.checkpoint.bin").exists());
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn a_journal_is_its_owners_and_leftovers_are_swept() {
    use std::os::unix::fs::PermissionsExt;

    let mut fresh = Fresh::open();
    there_and_back(&mut fresh.journal, "generate", &["prompt".to_owned()]);
    let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
    let journal = &fresh.journal;
    assert_eq!(mode(&journal.folder), 0o700);
    for file in [INDEX, "generate.jsonl"] {
        assert_eq!(mode(&journal.path(file)), 0o600, "{file}");
    }
    let folder = fresh._folder.path();
    let over = folder.join(".other.gguf.journal.over");
    fs::create_dir(&over).expect("writable");
    fs::write(over.join("lock"), "1").expect("writable");
    let header = Header::new("transfer", &serde_json::Value::Null, BTreeMap::new());
    let next = Journal::open(&folder.join("next.gguf"), header, false).expect("it is new");
    assert!(!over.exists());
    next.remove().expect("writable");
}
