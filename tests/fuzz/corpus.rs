//! Writes the inputs that the fuzzers begin with: `corpus FOLDER`, a folder a target below it.

use std::{env, fs, path::PathBuf};

use translora_gguf::{TensorKind, Writer};
use translora_harvest::{Asked, Bounds, Harvest, Row, file_of};

mod base;

fn adapter(kind: TensorKind) -> Vec<u8> {
    let mut adapter = Writer::new();
    adapter
        .set("general.type", "adapter")
        .set("adapter.type", "lora");
    adapter
        .set("general.architecture", "llama")
        .set("adapter.lora.alpha", 16.0_f32);
    let (a, b) = ("blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b");
    if kind == TensorKind::F32 {
        adapter.tensor_f32(a, &[4, 2], &[0.5; 8]);
        adapter.tensor_f32(b, &[2, 6], &[0.5; 12]);
    } else {
        // Bytes of 0x11 are a small number in every kind.
        for (name, shape) in [(a, [32, 1]), (b, [32, 1])] {
            let bytes = kind.bytes(&shape).expect("the shape is of whole blocks");
            adapter.tensor(name, kind, &shape, vec![0x11; bytes as usize]);
        }
    }
    adapter.to_bytes().expect("a small file is written")
}

fn peft() -> Vec<u8> {
    let config = br#"{"peft_type":"LORA","r":2,"lora_alpha":16,"target_modules":["q_proj"]}"#;
    let name =
        |half| format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{half}.weight");
    let head = format!(
        r#"{{"{}":{{"dtype":"F32","shape":[2,4],"data_offsets":[0,32]}},"{}":{{"dtype":"F32","shape":[6,2],"data_offsets":[32,80]}}}}"#,
        name("A"),
        name("B")
    );
    let mut bytes = config.to_vec();
    bytes.push(0);
    bytes.extend((head.len() as u64).to_le_bytes());
    bytes.extend(head.as_bytes());
    bytes.extend(0.5_f32.to_le_bytes().repeat(20));
    bytes
}

fn rows(folder: &std::path::Path) -> Vec<u8> {
    let kept = folder.join("kept");
    let mut harvest = Harvest::open(&kept, Bounds::default()).expect("the folder is created");
    for number in 0..3 {
        let row = Row {
            at: 900,
            until: 2000 + number,
            sha256: "0".repeat(64),
            asked: Asked::Text(format!("prompt {number}")),
            answer: (number == 1).then(|| "answer".to_owned()),
        };
        harvest.keep("task", &row, 1).expect("a row is kept");
    }
    let bytes = fs::read(kept.join(file_of("task"))).expect("the file is there");
    fs::remove_dir_all(kept).expect("the folder is removed");
    bytes
}

fn main() {
    let folder = PathBuf::from(env::args_os().nth(1).expect("usage: corpus FOLDER"));
    fs::create_dir_all(&folder).expect("the folder is created");
    let rows = rows(&folder);
    let inputs = [
        ("gguf", "model", base::model()),
        ("gguf", "adapter", adapter(TensorKind::F32)),
        ("gguf", "quantized", adapter(TensorKind::Q8_0)),
        ("lora", "f32", adapter(TensorKind::F32)),
        ("lora", "q8_0", adapter(TensorKind::Q8_0)),
        ("lora", "q4_0", adapter(TensorKind::Q4_0)),
        ("peft", "q_proj", peft()),
        ("rows", "three", rows),
    ];
    for (target, name, bytes) in inputs {
        let folder = folder.join(target);
        fs::create_dir_all(&folder).expect("the folder is created");
        fs::write(folder.join(name), bytes).expect("a file is written");
    }
}
