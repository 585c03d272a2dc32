//! Base models, as public reports tell of them.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use translora_gguf::Gguf;

use super::templates::CHATML;
use super::tiny;
use crate::real::{Folder, changed, done, refused, rows, transfer};

/// What is said of a context beyond the training of the lab's old base.
const BEYOND: &str = "tokens, and the model was trained on 512";

/// 09 and 39: a context beyond the model's training is taken with a warning by each command.
#[test]
fn a_context_beyond_training_is_warned_of_by_each_command() {
    let folder = Folder::new();
    folder.write("rows.jsonl", rows("train.jsonl", 20).as_bytes());
    folder.write("seeds.jsonl", rows("seeds.jsonl", 5).as_bytes());
    let lines = [
        "eval -m OLD --data rows.jsonl".into(),
        "train -m OLD --data rows.jsonl --out l.gguf --epochs 1 --rank 2".into(),
        "kit -m OLD --lora LORA --data rows.jsonl --out k.kit --epochs 1 --rank 2".into(),
        transfer(&[("--samples", "8"), ("--rank", "2"), ("--restarts", "0")]),
    ];
    for line in lines {
        let run = folder.run(&format!("{line} -c 4096"));
        assert_ne!(run.code, Some(2), "{run}");
        let warned = |line: &str| line.starts_with("warning: ") && line.contains(BEYOND);
        let count = run.err.lines().filter(|line| warned(line)).count();
        // A transfer has a source and a target.
        let models = if line.starts_with("transfer") { 2 } else { 1 };
        assert_eq!(count, models, "{run}");
    }
    let run = folder.run("eval -m OLD --data rows.jsonl -c 512");
    done(&run);
    assert!(!run.err.contains("was trained on"), "{run}");

    let mut served = folder
        .command("serve -m OLD -c 4096 --port 0")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut first = String::new();
    let out = served.stdout.take().expect("piped");
    let read = BufReader::new(out).read_line(&mut first);
    read.expect("it says where it listens");
    served.kill().expect("it runs");
    served.wait().expect("it ends");
    let mut said = String::new();
    let mut err = served.stderr.take().expect("piped");
    err.read_to_string(&mut said).expect("text");
    assert!(said.contains(BEYOND), "{said}");
}

/// 50: a weight that only some rows use is no number. Whenever training comes to such a row, the
/// row and the weight are named, and no learning rate.
#[test]
fn a_row_that_meets_a_weight_that_is_no_number_is_named() {
    let folder = Folder::new();
    let model = tiny::model(&folder, "tiny", CHATML);
    let whole = fs::read(&model).expect("it was written");
    let gguf = Gguf::parse(&whole).expect("it is whole");
    let tokens = gguf.get("tokenizer.ggml.tokens");
    let tokens = tokens
        .and_then(translora_gguf::Value::as_strings)
        .expect("it has words");
    let z = tokens
        .iter()
        .position(|token| token == "z")
        .expect("a letter");
    let spoiled = changed(&model, |tensor| {
        if tensor.name == "token_embd.weight" {
            let row = tensor.bytes().len() / tokens.len();
            tensor.bytes()[z * row..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        true
    });
    folder.write("nan.gguf", &spoiled);
    let weight = format!(
        "its tensor token_embd.weight holds NaN at element {}",
        tiny::WIDTH as usize * z
    );
    // With one row a step, only one of these lines can be that of the first.
    for line in [3, 8] {
        let row = |number| {
            let prompt = if number == line {
                "is it lazy"
            } else {
                "is it late"
            };
            format!("{{\"prompt\": \"{prompt}\", \"completion\": \"yes\"}}\n")
        };
        folder.write(
            "rows.jsonl",
            (1..=10).map(row).collect::<String>().as_bytes(),
        );
        let train = format!(
            "train -m nan.gguf --data rows.jsonl --out l{line}.gguf --batch 1 --epochs 1 --rank 2"
        );
        let run = folder.run(&train);
        let place = format!("rows.jsonl:{line}: the model nan.gguf makes logits");
        refused("a row of NaN", &run, &[&place, "for this row", &weight]);
        assert!(!run.err.contains("learning rate"), "{run}");
    }
}
