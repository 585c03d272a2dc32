use std::fs;
use std::path::{Path, PathBuf};

use super::GgmlEngine;
use crate::engine::{CompletionScore, Engine, LoraSpec, Model, Monitor, OpenOptions, With};
use crate::record::{Cancel, Pair, Prompt};
use crate::request::Shape;

/// A model of a type that ggml lays out anew, removed with the test.
struct Packed(tempfile::TempDir);

impl Packed {
    fn new() -> Self {
        let packed = Self(tempfile::tempdir().expect("a temporary folder can be made"));
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lab/branch.f16.gguf");
        let backend = translora_llama::Backend::init().expect("llama.cpp starts");
        translora_llama::quantize(backend, &base, &packed.path(), "q4_0")
            .expect("a temporary folder is writable");
        packed
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("a.gguf")
    }
}

fn pairs() -> Vec<Pair> {
    let rows =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lab/tasks/ticket/eval.jsonl");
    let text = fs::read_to_string(rows).expect("the lab's tasks are in the repository");
    text.lines()
        .take(6)
        .map(|line| serde_json::from_str(line).expect("a row"))
        .collect()
}

fn scores(model: &mut dyn Model, pairs: &[Pair]) -> Vec<CompletionScore> {
    let (cancel, mut progress) = (Cancel::default(), |_: usize, _: usize| {});
    model
        .score(
            With::Base,
            pairs,
            &mut Monitor {
                cancel: &cancel,
                progress: &mut progress,
            },
        )
        .expect("it scores")
}

fn losses(model: &mut dyn Model, pairs: &[Pair]) -> [f64; 2] {
    let mut trainer = model
        .trainer(&LoraSpec {
            shape: Shape {
                rank: 4,
                ..Shape::default()
            },
            ..LoraSpec::default()
        })
        .expect("it can be trained on");
    trainer.load(pairs).expect("rows fit");
    [(), ()].map(|()| trainer.step(&[0, 1, 2], 1e-3).expect("a step").loss)
}

/// Completions that are the answer, longer ones, some that only begin like it, and others.
#[test]
fn what_is_examined_at_once_is_what_is_answered_and_scored() {
    let engine = GgmlEngine::new().expect("llama.cpp starts");
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lab/branch.f16.gguf");
    let mut model = engine
        .open(
            &base,
            &OpenOptions {
                threads: 1,
                ..OpenOptions::default()
            },
        )
        .expect("it opens");
    let (cancel, mut progress, tokens_max) = (Cancel::default(), |_: usize, _: usize| {}, 12);
    let mut monitor = Monitor {
        cancel: &cancel,
        progress: &mut progress,
    };
    let mut pairs: Vec<Pair> = [
        "say red",
        "upper: lamp",
        "3 + 4",
        "first word: the old box",
        "count: a b c",
    ]
    .into_iter()
    .chain(pairs().iter().map(|pair| pair.prompt.text.as_str()))
    .map(|prompt| Pair {
        prompt: prompt.into(),
        completion: "no such thing".into(),
    })
    .collect();
    let prompts: Vec<Prompt> = pairs.iter().map(|pair| pair.prompt.clone()).collect();
    let answers = model
        .answer(With::Base, &prompts, tokens_max, &mut monitor)
        .expect("it answers");
    assert!(answers.iter().any(|answer| answer.finished));
    assert!(answers.iter().any(|answer| answer.tokens > 2));
    for (i, (pair, answer)) in pairs.iter_mut().zip(&answers).enumerate() {
        match i % 4 {
            0 => pair.completion.clone_from(&answer.text),
            1 => pair.completion = format!("{} and more", answer.text),
            2 => pair.completion = format!("{}zz", answer.text.chars().take(4).collect::<String>()),
            _ => {}
        }
    }
    let scores = model
        .score(With::Base, &pairs, &mut monitor)
        .expect("it scores");
    let examined = model
        .examine(With::Base, &pairs, tokens_max, &mut monitor)
        .expect("it does both");
    let near = |a: f64, b: f64| (a - b).abs() < 1e-2 * (1.0 + a.abs());
    for ((found, score), (answer, wanted)) in examined.iter().zip(answers.iter().zip(&scores)) {
        assert_eq!(&found.text, &answer.text);
        assert_eq!(found.tokens, answer.tokens);
        assert_eq!(found.finished, answer.finished);
        assert_eq!(score.tokens, wanted.tokens);
        assert!(
            near(found.log_probability, answer.log_probability),
            "{found:?} {answer:?}"
        );
        assert!(
            near(score.log_probability, wanted.log_probability),
            "{score:?} {wanted:?}"
        );
    }
}

/// Products from weights that were laid out anew add up in another order, and are those of the file
/// all the same; the trainer reads the file.
#[test]
fn a_model_that_is_laid_out_anew_answers_and_learns_as_the_file_does() {
    let (packed, pairs) = (Packed::new(), pairs());
    let engine = GgmlEngine::new().expect("llama.cpp starts");
    let open = |repack: bool| {
        engine
            .open(
                &packed.path(),
                &OpenOptions {
                    repack,
                    threads: 1,
                    ..OpenOptions::default()
                },
            )
            .expect("it opens")
    };
    let (mut plain, mut anew) = (open(false), open(true));
    let (a, b) = (scores(&mut *plain, &pairs), scores(&mut *anew, &pairs));
    for (a, b) in a.iter().zip(&b) {
        let (a, b) = (a.log_probability, b.log_probability);
        assert!(
            (a - b).abs() < 0.01 * a.abs(),
            "{a} from the file, {b} laid out anew"
        );
    }
    assert_eq!(losses(&mut *plain, &pairs), losses(&mut *anew, &pairs));
    assert_eq!(scores(&mut *anew, &pairs), b, "training changes no answer");
}
