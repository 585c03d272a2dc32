//! `bench train`: every way of reading the weights takes the same step, and says what it cost.

use serde_json::Value;

use super::{Folder, done, old_base};

fn bench(folder: &Folder, more: &str) -> Value {
    let told = folder.run(&format!("bench train -m {} --tokens 96 --steps 2 --rank 4 --json {more}", old_base().display()));
    done(&told);
    told.json()
}

#[test]
fn all_ways_take_the_same_step() {
    let folder = Folder::new("bench");
    let number = |report: &Value, path: &str| report.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
    let right = bench(&folder, "--mode exact");
    for (more, mode) in [("", "direct"), ("--mode native", "native"), ("--mode exact", "direct")] {
        let report = bench(&folder, more);
        assert_eq!(report["plan"]["mode"], mode);
        let shares: f64 = ["forward", "loss", "backward", "optimizer"].map(|part| number(&report, &format!("/share/{part}"))).iter().sum();
        assert!((shares - 1.0).abs() < 1e-6, "{report}");
        assert!(number(&report, "/tokens_per_second") > 0.0 && number(&report, "/trainer_bytes") > 0.0, "{report}");
        for loss in ["/loss_first", "/loss_last"] {
            let (ours, right) = (number(&report, loss), number(&right, loss));
            assert!((ours - right).abs() < 0.01 * right, "{more} {loss}: {ours} where {right} is right");
        }
        assert!(number(&report, "/loss_last") < number(&report, "/loss_first"), "{report}");
    }
}

#[test]
fn a_peer_and_a_mode_exclude_each_other() {
    let folder = Folder::new("bench");
    let told = folder.run(&format!("bench train -m {} --peer outprod --mode exact", old_base().display()));
    assert_eq!(told.code, Some(2), "{told}");
    assert!(told.err.contains("--peer") && told.err.contains("--mode"), "{told}");
}
