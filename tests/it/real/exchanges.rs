//! Exchanges on `translora serve`, and what of a model could outlive them: cells of the prompt that
//! is asked again, of a sliding window, of the server next door.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::json;
use translora_gguf::{Gguf, Value as Field, Writer};

use super::serve::{Served, adapters, own};
use super::{Folder, done, new_base};
use crate::serve::client::{Reply, get, post, said};
use crate::source::root;

/// How far a token's probability moves with the batch that it is decoded in (nats), at most.
const NOISE: f64 = 0.05;
/// How far two adapters' answers are apart at least, so that a mixture of them is noticed.
const APART: f64 = 4.0 * NOISE;

/// Put a file of the folder in the place of the adapter `live`.
fn exchange(address: SocketAddr, file: &str) -> Reply {
    let reply = post(
        address,
        "/v1/load_lora_adapter",
        &json!({ "lora_name": "live", "lora_path": file, "load_inplace": true }),
    );
    assert_eq!(reply.status, 200, "{reply:?}");
    reply
}

fn rollback(address: SocketAddr, name: &str) -> Reply {
    post(
        address,
        &format!("/v1/adapters/{name}/rollback"),
        &json!({}),
    )
}

/// A short answer: its tokens with what the model thought of them, and how many tokens of the
/// prompt were there already.
fn answer(address: SocketAddr, model: &str, prompt: &str) -> (Vec<(String, f64)>, u64) {
    let body = json!({ "model": model, "prompt": prompt, "temperature": 0, "max_tokens": 8, "ignore_eos": true, "logprobs": 1 });
    let reply = post(address, "/v1/completions", &body);
    assert_eq!(reply.status, 200, "{reply:?}");
    let reply = reply.json();
    let cached = reply["usage"]["prompt_tokens_details"]["cached_tokens"]
        .as_u64()
        .expect("a count");
    (super::serve::logprobs(&reply), cached)
}

/// How far apart two answers are, at the tokens up to the first that differs, which counts too: at
/// a tie both are as likely.
fn distance(one: &[(String, f64)], other: &[(String, f64)]) -> f64 {
    let alike = one
        .iter()
        .zip(other)
        .take_while(|(a, b)| a.0 == b.0)
        .count();
    one.iter()
        .zip(other)
        .take(alike + 1)
        .map(|(a, b)| (a.1 - b.1).abs())
        .fold(0.0, f64::max)
}

/// The lab's new base, or an adapter for it, as a gemma3 model, whose layers look back 48 tokens.
fn sliding(from: &Path, to: &Path, base: bool) {
    let bytes = fs::read(from).expect("it was made");
    let gguf = Gguf::parse(&bytes).expect("sound");
    let mut writer = Writer::copy_of(&gguf);
    for (key, value) in gguf.metadata() {
        if let Some(rest) = key.strip_prefix("qwen3.") {
            writer.set(format!("gemma3.{rest}"), value.clone());
        }
    }
    writer.set("general.architecture", "gemma3");
    if base {
        let number = |key: &str| gguf.get(key).and_then(Field::as_u64).expect("a number");
        let width = number("qwen3.embedding_length");
        writer.set("gemma3.attention.sliding_window", 48_u32);
        for block in 0..number("qwen3.block_count") {
            for name in ["post_attention_norm", "post_ffw_norm"] {
                writer.tensor_f32(
                    format!("blk.{block}.{name}.weight"),
                    &[width],
                    &vec![1.0; width as usize],
                );
            }
        }
    }
    fs::write(to, writer.to_bytes().expect("a small file")).expect("the folder is writable");
}

/// Prompts longer than the window, again and again, with the adapter exchanged and put back in
/// between: every answer is as that of a server that had this adapter from the start, and nothing
/// of the other's cells is taken over.
#[test]
fn a_sliding_window_holds_nothing_of_the_adapter_before() {
    let folder = Folder::new();
    for (task, name) in [("ticket", "one"), ("date_iso", "two")] {
        let rows =
            fs::read_to_string(root().join(format!("tests/fixtures/lab/tasks/{task}/train.jsonl")))
                .expect("in the repository");
        folder.write(
            "rows.jsonl",
            rows.lines()
                .take(48)
                .map(|row| format!("{row}\n"))
                .collect::<String>()
                .as_bytes(),
        );
        let line = format!(
            "train -m NEW --data rows.jsonl --out {name}-plain.gguf --epochs 1 --lr 4e-3 --rank 4"
        );
        done(&folder.run(&line));
        fs::create_dir_all(folder.path("adapters")).expect("writable");
        sliding(
            &folder.path(&format!("{name}-plain.gguf")),
            &folder.path(&format!("adapters/{name}.gguf")),
            false,
        );
    }
    sliding(&new_base(), &folder.path("window.gguf"), true);
    let long = "the key of Ann broke on the 3rd of May and nobody came to look at it; ".repeat(8);
    let prompts = [
        long.clone(),
        format!("{long} then the lamp went out"),
        long[..long.len() / 2].to_owned(),
    ];
    // They were made for the base without a window.
    let line = "-m window.gguf --adapters adapters --alias base -np 1 --force";
    let known = ["one", "two"].map(|name| {
        prompts.clone().map(|prompt| {
            let served = Served::start(&folder, line);
            answer(served.address, name, &prompt).0
        })
    });
    for (one, two) in known[0].iter().zip(&known[1]) {
        assert!(
            distance(one, two) > APART,
            "the adapters cannot be told apart: {one:?} {two:?}"
        );
    }
    let served = Served::start(&folder, line);
    let address = served.address;
    let check = |which: usize, prompt: usize, cached: Option<bool>| {
        let (got, there) = answer(address, "live", &prompts[prompt]);
        let off = distance(&known[which][prompt], &got);
        assert!(
            off < NOISE,
            "prompt {prompt} with adapter {which} is {off} nats off: {got:?} {:?}",
            known[which][prompt]
        );
        assert!(
            cached.is_none_or(|cached| (there > 0) == cached),
            "{there} tokens were there already"
        );
    };
    exchange(address, "one.gguf");
    check(0, 0, Some(false));
    check(0, 0, Some(true));
    check(0, 1, Some(true));
    check(0, 2, Some(true));
    exchange(address, "two.gguf");
    check(1, 2, Some(false));
    check(1, 0, Some(true));
    assert_eq!(rollback(address, "live").status, 200);
    check(0, 0, None);
    check(0, 1, None);
    exchange(address, "two.gguf");
    check(1, 1, Some(false));
    check(1, 0, Some(true));
}

/// The same prompt after each exchange and each way back, by the adapter's name.
#[test]
fn the_same_prompt_again_is_answered_by_what_is_live() {
    let lab = adapters();
    let served = Served::start(&lab.folder, &format!("{} -np 1", own(&lab.folder, "again")));
    let address = served.address;
    let sure = |at: &usize| {
        ["ticket", "date_iso"]
            .iter()
            .all(|name| lab.steady[*name][*at])
            && lab.answers["ticket"][*at] != lab.answers["date_iso"][*at]
    };
    let questions: Vec<usize> = (0..lab.prompts.len()).filter(sure).take(3).collect();
    assert!(!questions.is_empty(), "no answer tells the adapters apart");
    let check = |name: &str, generation: &str, exchanged: bool| {
        // Each is asked again where all of it is there already, and first where it was the other
        // adapter's.
        for (turn, at) in questions.iter().rev().chain(&questions).enumerate() {
            let reply = super::serve::short(address, "live", &lab.prompts[*at]);
            assert_eq!(
                reply.generation(),
                generation,
                "{name}: {}",
                lab.prompts[*at]
            );
            assert_eq!(
                &said(&reply),
                &lab.answers[name][*at],
                "{name}: {}",
                lab.prompts[*at]
            );
            let cached = reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
                .as_u64()
                .expect("a count");
            assert_eq!(
                cached == 0,
                exchanged && turn == 0,
                "{name}: {cached} tokens were there already"
            );
        }
    };
    let first = exchange(address, "ticket.gguf").generation().to_owned();
    check("ticket", &first, true);
    // Nothing was before it, and nobody else is called so.
    assert_eq!(rollback(address, "live").status, 409);
    assert_eq!(rollback(address, "nobody").status, 404);
    check("ticket", &first, false);
    let second = exchange(address, "date_iso.gguf").generation().to_owned();
    check("date_iso", &second, true);
    for (name, generation) in [
        ("ticket", &first),
        ("date_iso", &second),
        ("ticket", &first),
    ] {
        let reply = rollback(address, "live");
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.generation(), generation.as_str(), "{reply:?}");
        check(name, generation, true);
    }
}

/// Two servers with one folder of adapters: an exchange in one is none in the other.
#[test]
fn two_servers_keep_their_own_adapters() {
    let lab = adapters();
    let line = format!("{} -np 1", own(&lab.folder, "two"));
    let (one, two) = (
        Served::start(&lab.folder, &line),
        Served::start(&lab.folder, &line),
    );
    let check = |server: &Served, name: &str| {
        let (prompt, right) = lab.sure(name);
        assert_eq!(
            said(&super::serve::short(server.address, "live", prompt)),
            right,
            "{name}"
        );
    };
    exchange(one.address, "ticket.gguf");
    exchange(two.address, "other.gguf");
    check(&one, "ticket");
    check(&two, "other");
    exchange(two.address, "date_iso.gguf");
    check(&one, "ticket");
    check(&two, "date_iso");
    assert_eq!(rollback(two.address, "live").status, 200);
    assert_eq!(rollback(one.address, "live").status, 409);
    check(&one, "ticket");
    check(&two, "other");
    drop(two);
    check(&one, "ticket");
    // What serve has none of, a client is told.
    for action in ["save", "restore"] {
        let reply = post(
            one.address,
            &format!("/slots/0?action={action}"),
            &json!({ "filename": "a.bin" }),
        );
        assert!(reply.status == 404, "{reply:?}");
        assert!(reply.error().contains("no such path"), "{reply:?}");
    }
    assert!(
        get(one.address, "/props")
            .json()
            .get("is_sleeping")
            .is_none()
    );
}
