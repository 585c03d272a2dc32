use std::fs;
use std::path::{Path, PathBuf};

use super::GgmlEngine;
use crate::engine::{CompletionScore, Engine, LoraSpec, Model, OpenOptions, Talk, With};
use crate::record::{Cancel, Pair};

/// A model of a type that ggml lays out anew, removed with the test.
struct Packed(PathBuf);

impl Packed {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("translora-repack-{}.gguf", std::process::id()));
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lab/branch.f16.gguf");
        let backend = translora_llama::Backend::init().expect("llama.cpp starts");
        translora_llama::quantize(backend, &base, &path, "q4_0").expect("a temporary folder is writable");
        Self(path)
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        _ = fs::remove_file(&self.0);
    }
}

fn pairs() -> Vec<Pair> {
    let rows = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lab/tasks/ticket/eval.jsonl");
    let text = fs::read_to_string(rows).expect("the lab's tasks are in the repository");
    text.lines().take(6).map(|line| serde_json::from_str(line).expect("a row")).collect()
}

fn scores(model: &mut dyn Model, pairs: &[Pair]) -> Vec<CompletionScore> {
    let (cancel, mut progress) = (Cancel::default(), |_: usize, _: usize| {});
    model.score(With::Base, pairs, &mut Talk { cancel: &cancel, progress: &mut progress }).expect("it scores")
}

fn losses(model: &mut dyn Model, pairs: &[Pair]) -> [f64; 2] {
    let mut trainer = model.trainer(&LoraSpec { rank: 4, ..LoraSpec::default() }).expect("it can be trained on");
    trainer.load(pairs).expect("rows fit");
    [(), ()].map(|()| trainer.step(&[0, 1, 2], 1e-3).expect("a step").loss)
}

/// Products from weights that were laid out anew add up in another order, and are those of the file all the same; the trainer reads the file.
#[test]
fn a_model_that_is_laid_out_anew_answers_and_learns_as_the_file_does() {
    let (packed, pairs) = (Packed::new(), pairs());
    let engine = GgmlEngine::new().expect("llama.cpp starts");
    let open = |repack: bool| engine.open(&packed.0, &OpenOptions { repack, threads: 1, ..OpenOptions::default() }).expect("it opens");
    let (mut plain, mut anew) = (open(false), open(true));
    let (a, b) = (scores(&mut *plain, &pairs), scores(&mut *anew, &pairs));
    for (a, b) in a.iter().zip(&b) {
        let (a, b) = (a.log_probability, b.log_probability);
        assert!((a - b).abs() < 0.01 * a.abs(), "{a} from the file, {b} laid out anew");
    }
    assert_eq!(losses(&mut *plain, &pairs), losses(&mut *anew, &pairs));
    assert_eq!(scores(&mut *anew, &pairs), b, "training changes no answer");
}
