//! DoRA: merged into weights, a teacher, refused beside a base.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::peft::formats;
use super::{done, names, refused, rows, transfer};

/// The exported adapter with lengths for the rows of its modules, as PEFT saves DoRA. `of_row` says
/// that of a row of a module, or none where the module stays plain.
fn as_dora(peft: &Path, dora: &Path, of_row: impl Fn(&str, usize) -> Option<f32>) {
    let bytes = fs::read(peft.join("adapter_model.safetensors")).expect("it was exported");
    let (length, rest) = bytes.split_first_chunk().expect("a header");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: Value = serde_json::from_slice(header).expect("JSON");
    let mut data = data.to_vec();
    let tensors = header.as_object_mut().expect("an object");
    for (name, tensor) in tensors.clone() {
        let Some(module) = name.strip_suffix(".lora_B.weight") else {
            continue;
        };
        let rows = tensor["shape"][0].as_u64().expect("a number") as usize;
        let lengths: Option<Vec<f32>> = (0..rows).map(|row| of_row(module, row)).collect();
        let Some(lengths) = lengths else { continue };
        let start = data.len();
        data.extend(lengths.iter().flat_map(|length| length.to_le_bytes()));
        let place = [start, data.len()];
        let magnitude = json!({"dtype": "F32", "shape": [rows], "data_offsets": place});
        tensors.insert(format!("{module}.lora_magnitude_vector.weight"), magnitude);
    }
    let header = header.to_string();
    let length = (header.len() as u64).to_le_bytes();
    let file = [length.as_slice(), header.as_bytes(), &data].concat();
    let config = fs::read(peft.join("adapter_config.json")).expect("it was exported");
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    config["use_dora"] = true.into();
    fs::create_dir(dora).expect("the folder is writable");
    fs::write(dora.join("adapter_model.safetensors"), file).expect("the folder is writable");
    fs::write(dora.join("adapter_config.json"), config.to_string()).expect("writable");
}

fn length_of(row: usize) -> f32 {
    0.5 + row as f32 / 64.0
}

/// The name of a matrix, and its rows.
type Matrix = (String, Vec<Vec<f32>>);

/// The matrices of the blocks of a model.
fn matrices(path: &Path) -> Vec<Matrix> {
    let bytes = fs::read(path).expect("it was written");
    let gguf = translora_gguf::Gguf::parse(&bytes).expect("it is whole");
    let is_matrix = |tensor: &&translora_gguf::Tensor| {
        tensor.name.starts_with("blk.") && tensor.shape.get(1).is_some_and(|rows| *rows > 1)
    };
    let rows = |tensor: &translora_gguf::Tensor| {
        let values = translora_gguf::dequantize(tensor.kind, gguf.data(tensor)).expect("floats");
        let rows = values
            .chunks(tensor.shape[0] as usize)
            .map(<[f32]>::to_vec)
            .collect();
        (tensor.name.clone(), rows)
    };
    gguf.tensors().iter().filter(is_matrix).map(rows).collect()
}

fn norm(row: &[f32]) -> f32 {
    row.iter().map(|x| x * x).sum::<f32>().sqrt()
}

#[test]
fn dora_is_merged_and_refused_elsewhere() {
    let folder = formats();
    as_dora(
        &folder.path("served/peft"),
        &folder.path("dora"),
        |_, row| Some(length_of(row)),
    );
    for (lora, out) in [("served/peft", "plain.gguf"), ("dora", "merged.gguf")] {
        let run = folder.run(&format!("merge -m OLD --lora {lora} --out {out} --json"));
        done(&run);
        assert_eq!(run.json()["dora"], lora == "dora", "{run}");
        // Half precision has room for both, so nothing is lost beside the copy of the engine.
        assert_eq!(run.json()["cost"]["same"], 8, "{run}");
    }
    let plain = matrices(&folder.path("plain.gguf"));
    let merged = matrices(&folder.path("merged.gguf"));
    assert_eq!(merged.len(), 35);
    for ((name, plain), (_, merged)) in plain.iter().zip(&merged) {
        // The rows of queries and keys are in another order in the base.
        let mut lengths: Vec<f32> = merged.iter().map(|row| norm(row)).collect();
        lengths.sort_by(f32::total_cmp);
        for (row, length) in (0..).zip(lengths) {
            let right = length_of(row);
            assert!(
                (length - right).abs() < 1e-3 * right,
                "{name} {row}: {length} {right}"
            );
        }
        // What the adapter does to the direction of a row is what it does without DoRA.
        for (plain, merged) in plain.iter().zip(merged) {
            let (one, other) = (norm(plain), norm(merged));
            let apart = plain
                .iter()
                .zip(merged)
                .map(|(a, b)| (a / one - b / other).abs());
            assert!(apart.fold(0.0, f32::max) < 2e-3, "{name}");
        }
    }
    let nll = |model: &str| {
        let run = folder.run(&format!("eval {model} --data eval.jsonl --json"));
        done(&run);
        run.json()["nll"].clone()
    };
    let copies = || names(&folder.path("cache/translora/adapters"));
    let before = copies();
    let right = nll("-m merged.gguf");
    assert_eq!(nll("-m OLD --lora dora"), right);
    assert_eq!(
        copies(),
        before,
        "the copy that merge compared with is used"
    );
    let inspect = |flags: &str| {
        let run = folder.run(&format!("inspect dora {flags} --json"));
        done(&run);
        run.json()["verdict"].clone()
    };
    assert_eq!(inspect(""), "not known without a base to compare it with");
    let verdict = inspect("-m OLD");
    assert_eq!(verdict, "sound, as DoRA: for merge, transfer, eval and kit");
    for line in [
        "import dora -m OLD --out back.gguf",
        "serve -m OLD --lora dora --port 0",
    ] {
        let run = folder.run(line);
        refused("DoRA", &run, &["dora", "use_dora: DoRA"]);
        assert!(run.err.contains("`translora merge`"), "{run}");
    }
}

/// Where llama.cpp has a module whose rows are in the order of transformers.
fn matrix_of(module: &str) -> Option<String> {
    let module = module.strip_prefix("base_model.model.model.layers.")?;
    let (layer, module) = module.split_once('.')?;
    let name = match module {
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{name}.weight"))
}

/// With the lengths that the rows have anyway, DoRA is the plain adapter: a good teacher.
#[test]
fn dora_is_a_teacher() {
    let folder = formats();
    folder.write("seeds.jsonl", rows("train.jsonl", 5).as_bytes());
    let merge = "--lora served/peft --out plain.gguf";
    done(&folder.run(&format!("merge -m OLD {merge}")));
    let plain: HashMap<String, Vec<Vec<f32>>> =
        matrices(&folder.path("plain.gguf")).into_iter().collect();
    as_dora(
        &folder.path("served/peft"),
        &folder.path("dora"),
        |module, row| Some(norm(plain.get(&matrix_of(module)?)?.get(row)?)),
    );
    let passed = |lora: &str, more: &[(&str, &str)]| {
        let flags = [&[("--source-lora", lora)][..], more].concat();
        let run = folder.run(&transfer(&flags));
        assert!(matches!(run.code, Some(0 | 1)), "{run}");
        run
    };
    let first = passed("dora", &[("--eval", "eval.jsonl"), ("--out", "a.gguf")]);
    assert!(first.err.contains("the adapter is DoRA: "), "{first}");
    let copies = names(&folder.path("cache/translora/adapters"));
    let of_kit = "kit -m OLD --lora dora --data train.jsonl --out a.kit --epochs 1 --rank 4";
    done(&folder.run(of_kit));
    let kit = [
        ("--kit", "a.kit"),
        ("--out", "b.gguf"),
        ("--filter", "both"),
    ];
    passed("dora", &kit);
    assert_eq!(names(&folder.path("cache/translora/adapters")), copies);
    let other = folder.run(&transfer(&[
        ("--source-lora", "served/peft"),
        ("--kit", "a.kit"),
    ]));
    refused("the plain one", &other, &["a.kit"]);
    let report = |name: &str| -> Value {
        let all = folder.names();
        let file = all
            .iter()
            .find(|file| file.starts_with(name) && file.ends_with(".json"));
        let text = fs::read_to_string(folder.path(file.expect("it was written")));
        let text = text.expect("it is readable");
        serde_json::from_str(&text).expect("JSON")
    };
    let right = passed(
        "served/peft",
        &[("--eval", "eval.jsonl"), ("--out", "c.gguf")],
    );
    let [dora, lora] = ["a.", "c."].map(report);
    assert_eq!(
        dora["scores"]["source_lora"], lora["scores"]["source_lora"],
        "{right}"
    );
}
