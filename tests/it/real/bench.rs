//! `bench`: every way of reading the weights takes the same training step; drawing and swapping are
//! measured.

use serde_json::Value;

use super::{Folder, done, lab};

fn bench(folder: &Folder, more: &str) -> Value {
    let run = folder.run(&format!(
        "bench train -m OLD --tokens 96 --steps 2 --rank 4 --json {more}"
    ));
    done(&run);
    run.json()
}

#[test]
fn all_ways_take_the_same_step() {
    let folder = Folder::new();
    let number = |report: &Value, path: &str| {
        report
            .pointer(path)
            .and_then(Value::as_f64)
            .unwrap_or(f64::NAN)
    };
    let right = bench(&folder, "--mode exact");
    for (more, mode) in [
        ("", "direct"),
        ("--mode native", "native"),
        ("--mode exact", "direct"),
    ] {
        let report = bench(&folder, more);
        assert_eq!(report["plan"]["mode"], mode);
        let shares: f64 = ["forward", "loss", "backward", "optimizer"]
            .map(|part| number(&report, &format!("/share/{part}")))
            .iter()
            .sum();
        assert!((shares - 1.0).abs() < 1e-6, "{report}");
        assert!(number(&report, "/tokens_per_second") > 0.0, "{report}");
        assert!(number(&report, "/trainer_bytes") > 0.0, "{report}");
        for loss in ["/loss_first", "/loss_last"] {
            let (ours, right) = (number(&report, loss), number(&right, loss));
            assert!(
                (ours - right).abs() < 0.01 * right,
                "{more} {loss}: {ours} where {right} is right"
            );
        }
        assert!(
            number(&report, "/loss_last") < number(&report, "/loss_first"),
            "{report}"
        );
    }
}

#[test]
fn a_peer_and_a_mode_exclude_each_other() {
    let folder = Folder::new();
    let run = folder.run("bench train -m OLD --peer outprod --mode exact");
    assert_eq!(run.code, Some(2), "{run}");
    assert!(run.err.contains("--peer"), "{run}");
    assert!(run.err.contains("--mode"), "{run}");
}

#[test]
fn drawing_side_by_side_is_measured() {
    let folder = Folder::new();
    let run = folder.run("bench generate -m OLD --width 3 --prefix 40 --tokens 6 --json");
    done(&run);
    let report = run.json();
    for number in [
        "tokens_per_second",
        "prefix_tokens_per_second",
        "step_ms",
        "draw_ms",
    ] {
        assert!(
            report[number].as_f64().is_some_and(|number| number > 0.0),
            "{number}: {report}"
        );
    }
    assert!(
        report["draw_ms"].as_f64() < report["step_ms"].as_f64(),
        "{report}"
    );
    assert_eq!(
        [
            &report["plan"]["width"],
            &report["plan"]["prefix"],
            &report["plan"]["tokens"]
        ]
        .map(Value::as_u64),
        [Some(3), Some(40), Some(6)]
    );
    let wide = folder.run("bench generate -m OLD --width 32");
    assert_eq!(wide.code, Some(2), "{wide}");
}

#[test]
fn a_swap_is_measured() {
    let folder = Folder::new();
    let lora = &lab().lora;
    for name in ["a.gguf", "b.gguf"] {
        std::fs::copy(lora, folder.path(name)).expect("the folder is writable");
    }
    let run = folder.run("bench swap -m OLD --lora a.gguf --lora b.gguf --swaps 3 --json -q");
    done(&run);
    let report = run.json();
    for number in [
        "step_ms",
        "undisturbed_ms",
        "pause_ms",
        "live_ms",
        "ask_new_ms",
        "ask_same_ms",
        "gap_beside_new_ms",
    ] {
        assert!(
            report[number].as_f64().is_some_and(|number| number > 0.0),
            "{number}: {report}"
        );
    }
    assert!(report["first_token_ms"].as_f64() > report["live_ms"].as_f64());
    assert!(report["pause_ms_max"].as_f64() >= report["pause_ms"].as_f64());
    assert_eq!(report["swaps"], 3);
    let refused = |line: &str, hint: &str| {
        let run = folder.run(&format!("bench swap -m OLD {line}"));
        assert!(run.code == Some(2) && run.err.contains(hint), "{run}");
    };
    refused("--lora a.gguf", "give --lora twice");
    refused("--lora a.gguf --lora LORA", "two folders");
    refused("--lora a.gguf --lora c.gguf", "c.gguf");
}
