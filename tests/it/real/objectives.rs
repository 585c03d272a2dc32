//! What an adapter is fitted to, on real models: a teacher's words are its own, and a student comes
//! nearer to them.

use translora::engine::ggml::GgmlEngine;
use translora::engine::{Engine, Monitor, OpenOptions, Spelling, With};
use translora::record::{Cancel, Pair};
use translora_llama::{Backend, quantize};

use super::{Folder, lab, new_base, old_base, transfer};

const TEXTS: [&str; 5] = [
    "[SHIP]",
    "2024-03-07",
    "naïve Zürich → 東京 🙂",
    "a b  c",
    "12345 and 7",
];

fn pairs() -> Vec<Pair> {
    TEXTS
        .map(|text| Pair {
            prompt: "what is it?".into(),
            completion: text.into(),
        })
        .into()
}

#[test]
fn a_teachers_words_are_those_it_scores_and_its_tokens_lie_in_the_answer() {
    let lab = lab();
    let engine = GgmlEngine::new().unwrap();
    let options = OpenOptions {
        threads: 1,
        ..OpenOptions::default()
    };
    let mut model = engine.open(&old_base(), &options).unwrap();
    let with = With::Adapter(model.attach(&lab.lora).unwrap());
    let mut monitor = Monitor {
        cancel: &Cancel::default(),
        progress: &mut |_, _| {},
    };
    let scores = model.score(with, &pairs(), &mut monitor).unwrap();
    let lesson = model.teach(with, &pairs(), 16, &mut monitor).unwrap();
    for ((text, score), spoken) in TEXTS.iter().zip(scores).zip(&lesson.answers) {
        assert_eq!(spoken.len(), score.tokens, "{text}");
        let own = |spoken: &translora::engine::Spoken| {
            spoken
                .words
                .iter()
                .find(|(word, _)| *word == spoken.token.id)
                .unwrap()
                .1
        };
        let sum: f64 = spoken.iter().map(|spoken| f64::from(own(spoken))).sum();
        assert!(
            (sum - score.log_probability).abs() < 1e-3,
            "{text}: {sum}, not {}",
            score.log_probability
        );
        let mut at = 0;
        for (i, said) in spoken.iter().enumerate() {
            let (from, to) = said.token.bytes.expect("these texts survive the tokenizer");
            let last = i + 1 == spoken.len();
            assert!(from == at, "{text}: {said:?}");
            assert!((to > from || last), "{text}: {said:?}");
            assert!(said.token.ends == last, "{text}: {said:?}");
            at = to;
            let p: f32 = said.words.iter().map(|(_, log)| log.exp()).sum();
            assert!(said.words.len() == 16, "{text}: {p}");
            assert!(p > 0.0, "{text}: {p}");
            assert!(p < 1.0001, "{text}: {p}");
        }
        assert_eq!(at, text.len(), "{text}");
    }
    for (word, spelling) in &lesson.spelling {
        let found = model.word(spelling);
        assert!(
            found == Some(*word)
                || spelling.bytes.is_empty()
                || found.is_none_or(|other| other != *word),
            "{word}: {spelling:?}"
        );
    }
    assert_eq!(
        model.word(&Spelling {
            bytes: b"no word is that long, of this I am sure".into(),
            ends: false
        }),
        None
    );
    let words = lesson.answers.iter().map(|spoken| {
        spoken
            .iter()
            .map(|said| said.words.iter().map(|(word, _)| *word).collect())
            .collect()
    });
    let again = model
        .weigh(with, &pairs(), &words.collect::<Vec<_>>(), &mut monitor)
        .unwrap();
    for (spoken, logs) in lesson.answers.iter().zip(again) {
        for (said, logs) in spoken.iter().zip(logs) {
            assert!(
                said.words
                    .iter()
                    .zip(logs)
                    .all(|((_, a), b)| (a - b).abs() < 1e-3),
                "{said:?}"
            );
        }
    }
    let same = engine.open(&old_base(), &options).unwrap().vocabulary();
    let other = engine.open(&new_base(), &options).unwrap().vocabulary();
    assert!(model.vocabulary() == same && model.vocabulary() != other);
}

#[test]
fn a_student_comes_nearer_to_its_teachers_probabilities() {
    let folder = Folder::with(&[("seeds.jsonl", 5)]);
    let same = folder.path("old.q8_0.gguf");
    quantize(Backend::init().unwrap(), &old_base(), &same, "q8_0").unwrap();
    let (same, other) = (same.display().to_string(), new_base().display().to_string());
    for (objective, target) in [("kl", &same), ("aligned", &other), ("delta", &other)] {
        let out = format!("{objective}.gguf");
        let flags = [
            ("--target", target.as_str()),
            ("--objective", objective),
            ("--out", &out),
            ("--samples", "24"),
            ("--lr", "4e-3"),
        ];
        let line = format!(
            "{} --epochs 4 --json",
            transfer(&flags).replace("--epochs 1", "")
        );
        let run = folder.run(&line);
        assert!(matches!(run.code, Some(0 | 1)), "{run}");
        let report = &run.json()["objective"];
        assert_eq!(report["objective"].as_str(), Some(objective), "{run}");
        assert_eq!(
            report["same_vocabulary"].as_bool(),
            Some(objective == "kl"),
            "{run}"
        );
        let number = |name: &str| report[name].as_u64().unwrap();
        let taught = number("tokens_taught");
        assert!(
            if objective == "kl" {
                taught == number("tokens")
            } else {
                taught > 0 && taught <= number("tokens")
            },
            "{report}"
        );
        let nats = |name: &str| report["divergence"][name].as_f64().unwrap();
        assert!(nats("transferred") < 0.7 * nats("target"), "{report}");
    }
    let run = folder.run(&transfer(&[("--objective", "kl"), ("--out", "no.gguf")]));
    super::refused("two vocabularies", &run, &["different vocabularies"]);
    let run = folder.run(&transfer(&[
        ("--label", "consistent"),
        ("--token-weights", "contrast"),
        ("--out", "yes.gguf"),
    ]));
    assert!(matches!(run.code, Some(0 | 1)), "{run}");
}
