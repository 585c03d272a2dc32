//! Adapters of PEFT and MLX against what llama.cpp's converter writes, and back.
//!
//! `tests/peft` was made by `scripts/check/peft-cases.py`, with llama.cpp's converter.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value as Json, json};
use translora_gguf::Gguf;
use translora_lora::{Base, Foreign, Lora, LoraError, to_peft};

const ARCHITECTURES: [&str; 11] = [
    "gemma3",
    "granite",
    "llama",
    "llama-bf16",
    "lm-head",
    "mistral",
    "mixtral",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3moe",
];

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/peft")
        .join(name)
}

fn base(name: &str) -> Base {
    Base::open(&case(name).join("base.gguf")).expect("the base is committed")
}

fn gguf(folder: &Path, base: &Base) -> Result<Vec<u8>, LoraError> {
    let foreign = Foreign::find(folder)?.expect("this is no GGUF");
    foreign.to_gguf(base)
}

/// Type, shape and bytes of each tensor.
fn tensors(bytes: &[u8]) -> BTreeMap<String, (String, Vec<u64>, Vec<u8>)> {
    let gguf = Gguf::parse(bytes).expect("it is whole");
    let of = |tensor: &translora_gguf::Tensor| {
        let mut shape = tensor.shape.clone();
        while shape.len() > 2 && shape.last() == Some(&1) {
            shape.pop();
        }
        let data = gguf.data(tensor).to_vec();
        (tensor.name.clone(), (tensor.kind.to_string(), shape, data))
    };
    gguf.tensors().iter().map(of).collect()
}

#[test]
fn it_is_what_the_converter_of_llama_cpp_writes() {
    for name in ARCHITECTURES {
        let base = base(name);
        let ours = gguf(&case(name), &base).unwrap_or_else(|error| panic!("{name}: {error}"));
        let theirs = fs::read(case(name).join("converted.gguf")).expect("it is committed");
        let (lora, other) = (
            Lora::read(&ours).expect(name),
            Lora::read(&theirs).expect(name),
        );
        lora.fits(&base).expect(name);
        assert_eq!(lora.alpha(), other.alpha(), "{name}");
        assert_eq!(lora.architecture(), other.architecture(), "{name}");
        let (ours, theirs) = (tensors(&ours), tensors(&theirs));
        assert!(
            ours.keys().eq(theirs.keys()),
            "{name}: {:?} {:?}",
            ours.keys(),
            theirs.keys()
        );
        for (tensor, of) in &ours {
            assert!(*of == theirs[tensor], "{name}: {tensor}");
        }
    }
}

/// A folder in the temporary directory, which goes away.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("translora-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("the folder is writable");
        Self(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.0.join(name), bytes).expect("the folder is writable");
    }

    /// A case with other settings.
    fn of(name: &str, case_name: &str, change: impl FnOnce(&mut Json)) -> Self {
        let folder = Self::new(name);
        let read = |file: &str| fs::read(case(case_name).join(file)).expect("it is committed");
        let mut config = serde_json::from_slice(&read("adapter_config.json")).expect("JSON");
        change(&mut config);
        folder.write("adapter_config.json", config.to_string());
        folder.write(
            "adapter_model.safetensors",
            read("adapter_model.safetensors"),
        );
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_is_exported_comes_back_as_it_was() {
    for name in ARCHITECTURES {
        let (base, folder) = (base(name), Folder::new(&format!("export-{name}")));
        let before = gguf(&case(name), &base).expect(name);
        for (file, bytes) in to_peft(&before, &base).unwrap_or_else(|e| panic!("{name}: {e}")) {
            folder.write(file, bytes);
        }
        assert!(gguf(&folder.0, &base).expect(name) == before, "{name}");
        let saved = |folder: &Path| {
            let bytes = fs::read(folder.join("adapter_model.safetensors")).expect(name);
            let file = SafeTensors::deserialize(&bytes).expect(name);
            file.names().iter().map(ToString::to_string).collect()
        };
        let (ours, theirs): (Vec<String>, Vec<String>) = (saved(&folder.0), saved(&case(name)));
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        assert_eq!(sorted(ours), sorted(theirs), "{name}");
    }
}

/// What B is multiplied by, of a module that a pattern names and of one that none does, and alpha.
#[test]
fn scales_that_differ_are_folded_into_b() {
    let plain = gguf(&case("llama"), &base("llama")).expect("it is sound");
    let root2 = 2_f32.sqrt();
    type Change = fn(&mut Json);
    let table: [(Change, f32, f32, f32); 5] = [
        (|_| {}, 5.0, 1.0, 1.0),
        (|c| c["use_rslora"] = true.into(), 5.0 * root2, 1.0, 1.0),
        (
            |c| c["alpha_pattern"] = json!({"q_proj": 10}),
            5.0,
            2.0,
            1.0,
        ),
        (
            |c| c["alpha_pattern"] = json!({r"layers\.\d+\.self_attn\.(q|o)_proj": 2.5}),
            5.0,
            0.5,
            1.0,
        ),
        // The rank of its modules is 2, by the pattern.
        (
            |c| {
                c["r"] = 8.into();
                c["rank_pattern"] = json!({".*_proj": 2});
            },
            5.0,
            1.0,
            1.0,
        ),
    ];
    for (row, (change, alpha, q, k)) in table.into_iter().enumerate() {
        let folder = Folder::of(&format!("scales-{row}"), "llama", change);
        let bytes = gguf(&folder.0, &base("llama")).expect("it is sound");
        assert_eq!(
            Lora::read(&bytes).expect("sound").alpha(),
            alpha,
            "row {row}"
        );
        let (was, is) = (tensors(&plain), tensors(&bytes));
        for (matrix, factor) in [("attn_q", q), ("attn_k", k)] {
            let name = format!("blk.1.{matrix}.weight.lora_b");
            let numbers = |of: &BTreeMap<String, (String, Vec<u64>, Vec<u8>)>| {
                let chunks = of[&name].2.as_chunks::<4>().0.iter();
                chunks.map(|x| f32::from_le_bytes(*x)).collect::<Vec<_>>()
            };
            let expected: Vec<f32> = numbers(&was).iter().map(|x| x * factor).collect();
            assert_eq!(numbers(&is), expected, "row {row}: {matrix}");
        }
    }
}

/// MLX keeps A and B the other way around, and one scale.
#[test]
fn a_folder_of_mlx_is_the_same_adapter() {
    let bytes = fs::read(case("llama").join("adapter_model.safetensors")).expect("committed");
    let file = SafeTensors::deserialize(&bytes).expect("sound");
    let turned: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .iter()
        .map(|(name, view)| {
            let [rows, columns] = *view.shape() else {
                panic!("{name}: {:?}", view.shape());
            };
            let at = |row, column| &view.data()[4 * (row * columns + column)..][..4];
            let data = (0..columns)
                .flat_map(|column| (0..rows).flat_map(move |row| at(row, column)).copied())
                .collect();
            let name = name.strip_prefix("base_model.model.").expect("PEFT's");
            let name = name
                .replace("lora_A.weight", "lora_a")
                .replace("lora_B.weight", "lora_b");
            (name, vec![columns, rows], data)
        })
        .collect();
    let views = turned.iter().map(|(name, shape, data)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), data).expect("it fits");
        (name, view)
    });
    let folder = Folder::new("mlx");
    let bytes = safetensors::serialize(views, None).expect("it is small");
    folder.write("adapters.safetensors", bytes);
    let config = json!({"fine_tune_type": "lora", "num_layers": 2,
        "lora_parameters": {"rank": 2, "scale": 2.5, "dropout": 0.0}});
    folder.write("adapter_config.json", config.to_string());
    let plain = gguf(&case("llama"), &base("llama")).expect("it is sound");
    assert!(gguf(&folder.0, &base("llama")).expect("it is sound") == plain);
    let config = json!({"fine_tune_type": "dora", "lora_parameters": {"rank": 2, "scale": 2.5}});
    folder.write("adapter_config.json", config.to_string());
    let error = gguf(&folder.0, &base("llama")).expect_err("DoRA");
    assert!(error.to_string().contains("of the kind dora"), "{error}");
}

/// Saves tensors of 32-bit floats. shapes: the row last
fn save(tensors: &BTreeMap<String, (Vec<usize>, Vec<f32>)>) -> Vec<u8> {
    let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let all: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| (name, shape, bytes(values)))
        .collect();
    let views = all.iter().map(|(name, shape, data)| {
        let view = TensorView::new(Dtype::F32, (*shape).clone(), data).expect("it fits");
        (name, view)
    });
    safetensors::serialize(views, None).expect("it is small")
}

/// Transformers 5 has the experts of a layer in two parameters, and PEFT adapts these.
#[test]
fn experts_in_one_parameter_are_the_experts_one_by_one() {
    let (base, experts, rank) = (base("qwen3moe"), 4, 2);
    let number = |seed: usize| ((seed * 7919) % 101) as f32 / 50.0 - 1.0;
    let (mut single, mut whole) = (BTreeMap::new(), BTreeMap::new());
    let module = "base_model.model.model.layers.0.mlp.experts";
    // The parameter, its sizes, and the modules that its rows are.
    let parameters = [
        ("experts.base_layer", 16, 48, &["gate_proj", "up_proj"][..]),
        ("experts", 24, 16, &["down_proj"][..]),
    ];
    for (p, (parameter, ins, outs, parts)) in parameters.into_iter().enumerate() {
        let a = |e: usize, k: usize, i: usize| number(p + 3 * e + 11 * k + 31 * i);
        let b = |e: usize, o: usize, k: usize| number(p + 5 * e + 17 * o + 41 * k);
        let rows = (0..experts).flat_map(|e| (0..rank).map(move |k| (e, k)));
        let values = rows.flat_map(|(e, k)| (0..ins).map(move |i| a(e, k, i)));
        let path = format!("base_model.model.model.layers.0.mlp.{parameter}");
        let shape = vec![experts * rank, ins];
        whole.insert(format!("{path}.lora_A.weight"), (shape, values.collect()));
        let columns = (0..outs).flat_map(|o| (0..rank).map(move |k| (o, k)));
        let values = columns.flat_map(|(o, k)| (0..experts).map(move |e| b(e, o, k)));
        let shape = vec![outs, experts * rank];
        whole.insert(format!("{path}.lora_B.weight"), (shape, values.collect()));
        let each = outs / parts.len();
        for e in 0..experts {
            for (n, part) in parts.iter().enumerate() {
                let path = format!("{module}.{e}.{part}");
                let values = (0..rank).flat_map(|k| (0..ins).map(move |i| a(e, k, i)));
                let name = format!("{path}.lora_A.weight");
                single.insert(name, (vec![rank, ins], values.collect()));
                let rows = n * each..(n + 1) * each;
                let values = rows.flat_map(|o| (0..rank).map(move |k| b(e, o, k)));
                let name = format!("{path}.lora_B.weight");
                single.insert(name, (vec![each, rank], values.collect()));
            }
        }
    }
    let made = |name: &str, tensors| {
        let folder = Folder::of(name, "qwen3moe", |_| {});
        folder.write("adapter_model.safetensors", save(tensors));
        gguf(&folder.0, &base).expect("it is sound")
    };
    let (single, whole) = (made("single", &single), made("whole", &whole));
    assert_eq!(tensors(&whole).len(), 6);
    assert!(single == whole);
}

/// Settings that cannot be held, or are no adapter's, and the words that name them.
#[test]
fn settings_that_a_gguf_cannot_hold_are_refused_by_name() {
    let settings = [
        ("use_dora", json!(true), "use_dora: DoRA"),
        ("modules_to_save", json!(["lm_head"]), "modules_to_save"),
        ("alora_invocation_tokens", json!([1, 2]), "activated"),
        ("lora_bias", json!(true), "lora_bias"),
        ("trainable_token_indices", json!([3]), "trained whole"),
        ("layer_replication", json!([[0, 1]]), "layer_replication"),
        ("init_lora_weights", json!("pissa"), "before training"),
        ("peft_type", json!("IA3"), "of the kind IA3"),
        ("peft_type", json!("ADALORA"), "of the kind ADALORA"),
        ("lora_alpha", Json::Null, "no lora_alpha"),
        ("lora_alpha", json!(0), "says lora_alpha: 0"),
        ("lora_alpha", json!("16"), "invalid type: string"),
        ("r", json!(3), "rank 2, and its adapter_config.json says 3"),
        ("r", json!(-1), "adapter_config.json: invalid value"),
        ("rank_pattern", json!({"(": 2}), "the pattern \"(\""),
        ("alpha_pattern", json!([1]), "invalid type: sequence"),
        // Without it, the file is of neither format.
        ("peft_type", Json::Null, "neither PEFT's peft_type"),
    ];
    let base = base("llama");
    for (row, (key, value, said)) in settings.into_iter().enumerate() {
        let change = |config: &mut Json| match value {
            Json::Null => drop(config.as_object_mut().expect("an object").remove(key)),
            value => config[key] = value,
        };
        let folder = Folder::of(&format!("settings-{row}"), "llama", change);
        let error = gguf(&folder.0, &base).expect_err(said).to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
}

/// Tensors that are no halves of a pair.
#[test]
fn tensors_that_a_gguf_cannot_hold_are_refused_by_name() {
    let q = "base_model.model.model.layers.0.self_attn.q_proj";
    let attn = "layers.0.self_attn";
    let tensors = [
        (
            format!("{attn}.q_proj.lora_magnitude_vector.weight"),
            "DoRA",
        ),
        (format!("{attn}.q_proj.lora_B.bias"), "a bias"),
        (format!("{attn}.q_proj.lora_E"), "no half of a LoRA pair"),
        (format!("{attn}.q_proj.lora_A.default.weight"), "twice"),
        (format!("{attn}.k_proj.lora_A.weight"), "k_proj.lora_b"),
        ("layers.0.input_layernorm.weight".into(), "a norm vector"),
        ("lm_head.weight".into(), "a whole matrix"),
        (
            "embed_tokens.modules_to_save.weight".into(),
            "a whole matrix",
        ),
        (
            "layers.0.mlp.experts.0.gate_proj.lora_A.weight".into(),
            "one half",
        ),
    ];
    let base = base("llama");
    for (row, (name, said)) in tensors.into_iter().enumerate() {
        let folder = Folder::of(&format!("tensors-{row}"), "llama", |_| {});
        let mut all = BTreeMap::new();
        all.insert(format!("{q}.lora_A.weight"), (vec![2, 16], vec![1.0; 32]));
        all.insert(format!("{q}.lora_B.weight"), (vec![16, 2], vec![1.0; 32]));
        all.insert(
            format!("base_model.model.model.{name}"),
            (vec![2, 16], vec![1.0; 32]),
        );
        folder.write("adapter_model.safetensors", save(&all));
        let error = gguf(&folder.0, &base).expect_err(said).to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
}

/// Modules that the base does not have, by the words of the fault.
#[test]
fn what_does_not_fit_the_base_is_named() {
    let modules = [
        (
            "model.layers.9.self_attn.q_proj",
            "the base has no \"blk.9.attn_q.weight\"",
        ),
        (
            "model.layers.0.attn.wq",
            "no matrix of the base's architecture goes by that name",
        ),
        ("model.vision_tower.layers.0.fc1", "goes by that name"),
        (
            "model.layers.0.mlp.up_proj",
            "blk.0.ffn_up.weight is 16×24 in the base",
        ),
        (
            "model.layers.0.mlp.experts.0.up_proj",
            "the base has no \"blk.0.ffn_up_exps",
        ),
    ];
    for (row, (module, said)) in modules.into_iter().enumerate() {
        let folder = Folder::of(&format!("modules-{row}"), "llama", |_| {});
        let path = format!("base_model.model.{module}");
        let mut all = BTreeMap::new();
        all.insert(format!("{path}.lora_A.weight"), (vec![2, 8], vec![1.0; 16]));
        all.insert(format!("{path}.lora_B.weight"), (vec![8, 2], vec![1.0; 16]));
        folder.write("adapter_model.safetensors", save(&all));
        let error = gguf(&folder.0, &base("llama")).expect_err(said).to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
    let other = Base::new("t5".into(), []);
    let error = gguf(&case("llama"), &other).expect_err("another architecture");
    assert!(
        error.to_string().contains("\"t5\" is not known here"),
        "{error}"
    );
}

/// Files of other formats, and folders that lack a part.
#[test]
fn each_foreign_file_has_words_of_its_own() {
    let folder = Folder::new("formats");
    let files: [(&str, &[u8], &str); 7] = [
        (
            "adapter_model.bin",
            b"\x80\x02}q\0",
            "adapter_model.bin is a PyTorch file",
        ),
        ("lora.pt", b"\x80\x02\x8a\x0a", "lora.pt is a PyTorch file"),
        ("page.gguf", b"<!DOCTYPE html>", "this is a web page"),
        (
            "pointer.gguf",
            b"version https://git-lfs.github.com/spec/v1\n",
            "a Git LFS pointer",
        ),
        ("old.bin", b"algg\x01\0\0\0", "formats before GGUF"),
        (
            "x.safetensors",
            b"\x10\0\0\0\0\0\0\0{\"a\":{}}",
            "no adapter_config.json beside it",
        ),
        ("other.json", b"{}", "a JSON file"),
    ];
    for (name, bytes, said) in files {
        folder.write(name, bytes);
        let error = Foreign::find(&folder.0.join(name))
            .expect_err(said)
            .to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
    let found = |path: &Path| Foreign::find(path).expect_err("refused").to_string();
    assert!(found(&folder.0).contains("this is a folder"));
    folder.write("adapter_config.json", "{}");
    assert!(found(&folder.0).contains("adapter_model.bin is a PyTorch file"));
    fs::remove_file(folder.0.join("adapter_model.bin")).expect("it is there");
    assert!(found(&folder.0).contains("no adapter_model.safetensors"));
    assert!(found(&folder.0.join("none.gguf")).contains("No such file"));
    assert!(found(Path::new("/dev/null")).contains("a device"));
    // The configuration names its folder.
    folder.write("adapter_model.safetensors", b"");
    let config = folder.0.join("adapter_config.json");
    assert!(Foreign::find(&config).expect("it is whole").is_some());
}

/// A file of tensors that was cut or forged.
#[test]
fn hostile_files_of_tensors_are_refused() {
    let sound = fs::read(case("llama").join("adapter_model.safetensors")).expect("committed");
    let with_header = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(vec![0; data]);
        bytes
    };
    let one = |offsets: &str| {
        format!(
            "{{\"a.lora_A.weight\":{{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":{offsets}}}}}"
        )
    };
    let mut longest = sound.clone();
    longest[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut cases = vec![
        longest,
        with_header(&one("[0,16]"), 8),
        with_header(&one("[8,24]"), 24),
        with_header(&one("[0,18446744073709551615]"), 16),
        with_header(&one("[16,0]"), 16),
        with_header("{\"a\":1}", 0),
        with_header(&"[".repeat(100_000), 0),
        Vec::new(),
    ];
    cases.extend([0, 4, 8, 9, 100, sound.len() - 1].map(|end| sound[..end].to_vec()));
    for (row, bytes) in cases.into_iter().enumerate() {
        let folder = Folder::of(&format!("hostile-{row}"), "llama", |_| {});
        folder.write("adapter_model.safetensors", bytes);
        let error = gguf(&folder.0, &base("llama")).expect_err("it is not sound");
        assert!(!error.is_about_the_base(), "row {row}: {error}");
    }
    let kind = "{\"a.lora_A.weight\":{\"dtype\":\"I64\",\"shape\":[2,2],\"data_offsets\":[0,32]}}";
    let folder = Folder::of("integers", "llama", |_| {});
    folder.write("adapter_model.safetensors", with_header(kind, 32));
    let error = gguf(&folder.0, &base("llama")).expect_err("integers");
    assert!(error.to_string().contains("of type I64"), "{error}");
}
