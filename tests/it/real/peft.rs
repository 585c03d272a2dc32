//! Adapters of PEFT and MLX at every door, written as PEFT saves them, and merged.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use translora::adapters::{self, Base};

use super::serve::{Served, short};
use super::{Folder, done, lab, old_base, refused};
use crate::serve::client::{get, post, said};
use crate::tokenizer::{WORDS, tokenizer};

/// The lab's adapter in each format.
pub(super) fn formats() -> Folder {
    let folder = Folder::with(&[("eval.jsonl", 12), ("train.jsonl", 40)]);
    fs::create_dir(folder.path("served")).expect("the folder is writable");
    fs::copy(&lab().lora, folder.path("served/gguf.gguf")).expect("the folder is writable");
    done(&folder.run("export served/gguf.gguf -m OLD --peft served/peft"));
    as_mlx(&folder.path("served/peft"), &folder.path("served/mlx"));
    folder
}

/// The paths that name it.
const FORMATS: [&str; 5] = [
    "served/gguf.gguf",
    "served/peft",
    "served/peft/adapter_model.safetensors",
    "served/peft/adapter_config.json",
    "served/mlx",
];

/// Writes a folder of PEFT as MLX does: A and B the other way around, and one scale.
fn as_mlx(peft: &Path, mlx: &Path) {
    let bytes = fs::read(peft.join("adapter_model.safetensors")).expect("it was exported");
    let (length, rest) = bytes.split_first_chunk().expect("a header");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: Value = serde_json::from_slice(header).expect("JSON");
    let (mut tensors, mut out) = (serde_json::Map::new(), Vec::new());
    for (name, tensor) in header.as_object().expect("an object") {
        let Some(name) = name.strip_prefix("base_model.model.") else {
            continue;
        };
        let number = |value: &Value| value.as_u64().expect("a number") as usize;
        let (rows, columns) = (number(&tensor["shape"][0]), number(&tensor["shape"][1]));
        let (from, start) = (number(&tensor["data_offsets"][0]), out.len());
        for column in 0..columns {
            for row in 0..rows {
                out.extend_from_slice(&data[from + 4 * (row * columns + column)..][..4]);
            }
        }
        let name = name
            .replace("lora_A.weight", "lora_a")
            .replace("lora_B.weight", "lora_b");
        let (shape, place) = ([columns, rows], [start, out.len()]);
        let tensor = json!({"dtype": "F32", "shape": shape, "data_offsets": place});
        tensors.insert(name, tensor);
    }
    let header = Value::from(tensors).to_string();
    let length = (header.len() as u64).to_le_bytes();
    let file = [length.as_slice(), header.as_bytes(), &out].concat();
    let config = fs::read(peft.join("adapter_config.json")).expect("it was exported");
    let config: Value = serde_json::from_slice(&config).expect("JSON");
    let number = |key: &str| config[key].as_f64().expect("a number");
    let scale = number("lora_alpha") / number("r");
    let parameters = json!({"rank": config["r"], "scale": scale});
    let config = json!({"fine_tune_type": "lora", "lora_parameters": parameters});
    fs::create_dir(mlx).expect("the folder is writable");
    fs::write(mlx.join("adapters.safetensors"), file).expect("the folder is writable");
    fs::write(mlx.join("adapter_config.json"), config.to_string()).expect("writable");
}

#[test]
fn every_door_takes_every_format_as_the_same_adapter() {
    let (folder, old) = (formats(), old_base());
    let base = Base::read(&old).expect("the lab is in the repository");
    let measured = |path: &str| {
        let line = format!("eval -m OLD --lora {path} --data eval.jsonl --json");
        let run = folder.run(&line);
        done(&run);
        let report: Value = serde_json::from_str(&run.out).expect("JSON");
        (report["nll"].clone(), report["correct"].clone())
    };
    let right = measured(FORMATS[0]);
    for path in &FORMATS[1..] {
        assert_eq!(measured(path), right, "{path}");
        let checked = adapters::check(&base, &folder.path(path)).expect(path);
        assert_eq!((checked.rank, checked.matrices), (8, 35), "{path}");
    }
    done(
        &folder.run(
            "kit -m OLD --lora served/peft --data train.jsonl --out a.kit --epochs 1 --rank 4",
        ),
    );
    let served = Served::start(&folder, "-m OLD --adapters served --alias base");
    let list = get(served.address, "/v1/adapters").json();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(3), "{list}");
    let prompt = "ticket from Ann: the key broke";
    let answer = |name: &str| said(&short(served.address, name, prompt));
    let right = answer("gguf");
    assert_ne!(answer("base"), right);
    for (number, path) in FORMATS.into_iter().enumerate() {
        let file = path.strip_prefix("served/").expect("it lies there");
        let name = format!("adapter-{number}");
        let body = json!({ "lora_name": name, "lora_path": file });
        let reply = post(served.address, "/v1/load_lora_adapter", &body);
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(answer(&name), right, "{path}");
    }
}

#[test]
fn an_adapter_goes_to_peft_and_comes_back() {
    let folder = formats();
    let import = "import served/peft -m OLD --out back.gguf";
    done(&folder.run(import));
    let tensors = |path: &Path| {
        let bytes = fs::read(path).expect("it was written");
        let gguf = translora_gguf::Gguf::parse(&bytes).expect("it is whole");
        let of = |tensor: &translora_gguf::Tensor| {
            let data = gguf.data(tensor).to_vec();
            (tensor.name.clone(), tensor.shape.clone(), data)
        };
        let mut all: Vec<_> = gguf.tensors().iter().map(of).collect();
        all.sort();
        all
    };
    assert!(tensors(&lab().lora) == tensors(&folder.path("back.gguf")));
    let again = folder.run("export back.gguf -m OLD --peft served/peft");
    refused("a folder", &again, &["there is a file already"]);
    refused("a file", &folder.run(import), &["there is a file already"]);
}

#[test]
fn a_merged_model_answers_as_the_base_with_its_adapter() {
    let folder = formats();
    let line = "merge -m OLD --lora served/peft --out merged.gguf --json";
    let run = folder.run(line);
    done(&run);
    let report: Value = serde_json::from_str(&run.out).expect("JSON");
    let number = |key: &str| report[key].as_f64().expect("a number");
    assert_eq!(report["matrices"], 35, "{report}");
    // Nobody asked with rows, so the adapter's own answers count, and half precision keeps them.
    let cost = |key: &str| report["cost"][key].as_f64().expect("a number");
    assert_eq!(report["cost"]["rows"], 8, "{report}");
    assert_eq!(report["cost"]["by_itself"], true, "{report}");
    assert!(
        (cost("nll_before") - cost("nll_after")).abs() < 0.05,
        "{report}"
    );
    assert!(cost("same") >= 6.0, "{report}");
    let judged = "merge -m OLD --lora served/peft --out two.gguf --eval eval.jsonl --json";
    let judged = folder.run(judged);
    done(&judged);
    let judged = judged.json();
    assert_eq!(judged["cost"]["rows"], 12, "{judged}");
    assert!(
        judged["cost"]["nll_after"]
            .as_f64()
            .is_some_and(|nll| nll < 0.1),
        "{judged}"
    );
    assert!(
        judged["cost"]["same"]
            .as_f64()
            .is_some_and(|same| same >= 11.0),
        "{judged}"
    );
    let half = "merge -m OLD --lora served/peft --out half.gguf --scale 0.5 --json";
    let half = folder.run(half);
    done(&half);
    assert!(half.json()["cost"].is_null(), "{half}");
    assert!(
        half.out.contains("no engine answers at a scale of 0.5"),
        "{half}"
    );
    // Half precision has 11 bits.
    assert!(number("error") < 1e-3, "{report}");
    assert!(number("change") > 1e-3, "{report}");
    let nll = |model: &str| {
        let run = folder.run(&format!("eval {model} --data eval.jsonl --json"));
        done(&run);
        let report: Value = serde_json::from_str(&run.out).expect("JSON");
        report["nll"].as_f64().expect("a number")
    };
    let with = nll("-m OLD --lora served/gguf.gguf");
    let merged = nll("-m merged.gguf");
    assert!((with - merged).abs() < 0.02, "{with} {merged}");
    assert!((nll("-m OLD") - merged).abs() > 0.5);
    refused("merged", &folder.run(line), &["there is a file already"]);
}

/// The words are the base's, and so are their numbers: only whole texts show that they are cut
/// otherwise.
#[test]
fn a_tokenizer_that_cuts_texts_otherwise_is_named() {
    let (folder, old) = (formats(), old_base());
    let write = |words: &str| {
        let file = tokenizer(&old, words);
        folder.write("served/peft/tokenizer.json", file.as_bytes());
    };
    let eval = "eval -m OLD --lora served/peft --data eval.jsonl";
    write(WORDS);
    done(&folder.run(eval));
    write(&WORDS.replace(r"[^\r\n\p{L}\p{N}]?\p{L}+", r"\p{L}+"));
    let says = [
        "the tokenizer.json beside it is not that of this base",
        "\"The quick brown fox ",
        "in the base",
    ];
    refused("spaces alone", &folder.run(eval), &says);
    let import = "import served/peft -m OLD --out no.gguf";
    refused("spaces alone", &folder.run(import), &says);
    let inspect = "inspect served/peft -m OLD --json";
    let card = folder.run(inspect).json();
    assert!(
        card["verdict"]
            .as_str()
            .is_some_and(|text| text.contains(says[0])),
        "{card}"
    );
    let served = Served::start(&folder, "-m OLD --adapters served");
    let body = json!({ "lora_name": "new", "lora_path": "peft" });
    let reply = post(served.address, "/v1/load_lora_adapter", &body);
    assert_eq!(reply.status, 400, "{reply:?}");
    assert!(reply.error().contains(says[0]), "{}", reply.error());
    write("((");
    refused(
        "no expression",
        &folder.run(eval),
        &["tokenizer.json cannot be used"],
    );
}

#[test]
fn inspect_says_what_a_foreign_adapter_is_and_which_base_takes_it() {
    let (folder, old) = (formats(), old_base());
    let other = super::new_base();
    for file in FORMATS {
        let alone = folder.run(&format!("inspect {file} --json"));
        let card = alone.json();
        let known = card["verdict"] == "sound";
        assert_eq!(known, file.ends_with(".gguf"), "{card}");
        let fits = folder.run(&format!("inspect {file} --base OLD --json"));
        let card = fits.json();
        assert_eq!(fits.code, Some(0), "{card}");
        assert_eq!(card["verdict"], "sound", "{card}");
        assert_eq!(card["what"], "adapter", "{card}");
        assert!(card["matrices"].as_u64().is_some_and(|n| n > 0), "{card}");
        let unfit = folder.run(&format!("inspect {file} -m {} --json", other.display()));
        let verdict = unfit.json()["verdict"].as_str().expect("text").to_owned();
        assert!(unfit.code == Some(1), "{unfit}");
        assert!(verdict.starts_with("refused: "), "{unfit}");
    }
    let format =
        |file: &str| folder.run(&format!("inspect {file} --json")).json()["format"].clone();
    let formats = ["served/gguf.gguf", "served/peft", "served/mlx"].map(format);
    assert_eq!(formats, ["GGUF", "PEFT", "MLX"]);
    for line in [
        format!("inspect {0} --base {0}", old.display()),
        "inspect served/peft --chat-template chatml".to_owned(),
    ] {
        let run = folder.run(&line);
        refused("a flag without effect", &run, &["changes nothing here"]);
    }
    let template = |name: &str| {
        let line = format!("inspect OLD --chat-template {name} --json");
        folder.run(&line).json()["chat_template"].clone()
    };
    assert_eq!(template("chatml"), "chatml, as was asked for");
    folder.write("broken.jinja", b"{% for x");
    let broken = template("broken.jinja");
    assert!(
        broken.as_str().expect("text").starts_with("refused: "),
        "{broken}"
    );
}
