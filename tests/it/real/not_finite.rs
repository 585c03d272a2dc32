//! Models and adapters whose numbers make no distribution: every entry says whose they are, and
//! none takes their silence for an answer.

use std::fs;

use serde_json::json;
use translora_gguf::{TensorKind, dequantize};

use super::serve::Served;
use super::{Folder, changed, lab, old_base, refused, rows, transfer};
use crate::serve::client::{ask, get, post, said};

/// The old base with a norm that is not a number.
fn broken_model() -> Vec<u8> {
    changed(&old_base(), |tensor| {
        if tensor.name == "blk.2.attn_norm.weight" {
            assert_eq!(tensor.kind, TensorKind::F32);
            let numbers = tensor.bytes().len() / 4;
            *tensor.bytes() = f32::NAN.to_le_bytes().repeat(numbers);
        }
        true
    })
}

/// The lab's adapter, so large that sums with it are infinite: each number of it is finite.
fn broken_adapter() -> Vec<u8> {
    scaled_adapter(1e30)
}

/// The lab's adapter with each number multiplied.
fn scaled_adapter(factor: f32) -> Vec<u8> {
    changed(&lab().lora, |tensor| {
        assert_eq!(tensor.kind, TensorKind::F32);
        let values = dequantize(tensor.kind, tensor.bytes()).expect("floats");
        *tensor.bytes() = values
            .iter()
            .flat_map(|x| (x * factor).to_le_bytes())
            .collect();
        true
    })
}

#[test]
fn what_is_not_finite_is_an_error_that_names_whose_it_is() {
    let folder = Folder::new();
    folder.write("nan.gguf", &broken_model());
    folder.write("huge.gguf", &broken_adapter());
    folder.write("train.jsonl", rows("train.jsonl", 12).as_bytes());
    folder.write("seeds.jsonl", rows("seeds.jsonl", 5).as_bytes());
    let model: &[&str] = &["the model", "nan.gguf", "not finite"];
    let adapter: &[&str] = &["the adapter", "huge.gguf", "not finite"];
    let cases = [
        ("eval -m nan.gguf --data train.jsonl".into(), model),
        (
            "eval -m nan.gguf --lora LORA --data train.jsonl".into(),
            model,
        ),
        (
            "eval -m OLD --lora huge.gguf --data train.jsonl".into(),
            adapter,
        ),
        (
            "train -m nan.gguf --data train.jsonl --out new.gguf".into(),
            model,
        ),
        (transfer(&[("--source-lora", "huge.gguf")]), adapter),
        (transfer(&[("--source", "nan.gguf")]), model),
        (transfer(&[("--target", "nan.gguf")]), model),
    ];
    for (line, says) in cases {
        let run = folder.run(&line);
        refused(&line, &run, says);
        assert!(!run.err.contains("learning rate"), "{run}");
        assert!(!run.err.contains("--lr"), "{run}");
    }
}

#[test]
fn inspect_reads_every_weight_where_that_is_wanted() {
    let folder = Folder::new();
    folder.write("nan.gguf", &broken_model());
    for (line, code, says) in [
        ("inspect nan.gguf", 0, "llama"),
        ("inspect nan.gguf --check", 1, "holds NaN at element 0"),
        ("inspect OLD --check", 0, "all are finite"),
    ] {
        let run = folder.run(&format!("{line} --json"));
        assert_eq!(run.code, Some(code), "{line}: {run}");
        assert!(run.out.contains(says), "{line}: {run}");
    }
}

#[test]
fn a_server_answers_with_an_error_and_goes_on() {
    let folder = Folder::new();
    folder.write("huge.gguf", &broken_adapter());
    fs::copy(&lab().lora, folder.path("ticket.gguf")).expect("the folder is writable");
    let line = "-m OLD --alias base --adapters . -np 2";
    let served = Served::start(&folder, line);
    let address = served.address;
    let prompt = "Sara writes: the grey bag stopped working";
    let (base, ticket) = (
        said(&ask(address, "base", prompt)),
        said(&ask(address, "ticket", prompt)),
    );
    assert_ne!(base, ticket);
    let failed = |body: serde_json::Value, who: &str| {
        let reply = post(address, "/completion", &body);
        assert_eq!(reply.status, 500, "{reply:?}");
        assert!(reply.error().contains("not finite"), "{reply:?}");
        assert!(reply.error().contains(who), "{reply:?}");
        assert!(
            !reply.body.contains(&folder.path("").display().to_string()),
            "{reply:?}"
        );
    };
    let ids = get(address, "/lora-adapters").json();
    let ids = ids.as_array().expect("a list").clone();
    let id = |name: &str| {
        let of =
            |entry: &&serde_json::Value| entry["path"].as_str().is_some_and(|p| p.contains(name));
        ids.iter().find(of).expect(name)["id"].clone()
    };
    for _ in 0..2 {
        failed(
            json!({ "prompt": prompt, "lora": [{ "id": id("huge"), "scale": 1.0 }] }),
            "the adapter \"huge\" (generation",
        );
        failed(
            json!({ "prompt": prompt, "lora": [{ "id": id("ticket"), "scale": 1e38 }] }),
            "the adapter \"ticket\" (generation",
        );
    }
    let reply = ask(address, "huge", prompt);
    assert!(reply.status == 500, "{reply:?}");
    assert!(reply.error().contains("the adapter \"huge\""), "{reply:?}");
    assert_eq!(said(&ask(address, "base", prompt)), base);
    assert_eq!(said(&ask(address, "ticket", prompt)), ticket);
    drop(served);

    folder.write("nan.gguf", &broken_model());
    let served = Served::start(
        &folder,
        "-m nan.gguf --alias base --lora ticket.gguf --lora-init-without-apply --force",
    );
    // Once the bare model has failed, its adapters are not blamed.
    for model in ["base", "ticket"] {
        let reply = ask(served.address, model, prompt);
        assert_eq!(reply.status, 500, "{reply:?}");
        assert!(reply.error().contains("the model itself"), "{reply:?}");
    }
}

#[test]
fn an_adapter_that_moves_no_logit_is_refused_unless_it_is_forced() {
    let folder = Folder::new();
    folder.write("faint.gguf", &scaled_adapter(1e-30));
    fs::copy(&lab().lora, folder.path("ticket.gguf")).expect("the folder is writable");
    let steps = "-b 64 -ub 32 --no-mmap";
    let line = format!("-m OLD --alias base --adapters . -np 1 {steps}");
    let served = Served::start(&folder, &line);
    let address = served.address;
    let list = get(address, "/v1/adapters").json();
    let effect = &list["data"][0]["live"]["effect"];
    for of in ["logits", "probabilities"] {
        assert!(effect[of].as_f64().is_some_and(|x| x > 0.0), "{list}");
    }
    let reason = list["refused"][0]["reason"].as_str().expect("text");
    assert!(reason.contains("faint.gguf changes no answer"), "{list}");
    let load = json!({ "path": "faint.gguf", "force": true });
    let loaded = post(address, "/v1/adapters", &load).json();
    assert_eq!(loaded["live"]["effect"]["logits"], 0.0, "{loaded}");
    let prompt = "Sara writes: the grey bag stopped working";
    assert_eq!(
        said(&ask(address, "faint", prompt)),
        said(&ask(address, "base", prompt))
    );
    let run = folder.run("serve -m OLD --lora faint.gguf --port 0");
    refused(
        "an adapter without effect",
        &run,
        &["faint", "changes no answer"],
    );
}
