//! What training on a device consists of, against what Metal has: the table (`supports_op`) of the
//! vendored ggml-metal is compiled as it is and its table is read for every operation of every
//! dense model, with its types, shapes and strides. Needs a C++ compiler, no Mac.
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test says what it measures"
)]

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use translora_llama::{Layout, Operation};
use translora_train::testing::tiny::{TinyArchitecture, TinyShape};
use translora_train::{Example, TrainSpec, Trainer, Transpose};

/// The vendored llama.cpp. Of this platform only: cargo downloads no packages of others.
fn vendored() -> PathBuf {
    let host = Command::new("rustc").arg("-vV").output().unwrap();
    let host = String::from_utf8(host.stdout).unwrap();
    let host = host
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .expect("rustc names its host");
    let run = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--offline",
            "--filter-platform",
            host,
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(run.stdout).unwrap();
    let field = "\"manifest_path\":\"";
    let paths = text
        .split(field)
        .skip(1)
        .filter_map(|rest| rest.split('"').next());
    let manifest = paths
        .into_iter()
        .find(|path| path.contains("llama-cpp-sys-2"))
        .expect("cargo knows where the bindings lie");
    Path::new(manifest).with_file_name("llama.cpp")
}

/// The text of a function, from the line that names it first to the brace that closes it.
fn function(source: &str, start: &str) -> String {
    let at = source
        .find(start)
        .unwrap_or_else(|| panic!("ggml-metal has no {start}"));
    let end = source[at..].find("\n}\n").expect("a function ends") + 3;
    source[at..at + end].to_owned()
}

/// A program that answers for Metal.
fn table(folder: &Path) -> PathBuf {
    let ggml = vendored().join("ggml");
    let read =
        |name: &str| std::fs::read_to_string(ggml.join("src/ggml-metal").join(name)).unwrap();
    let (device, common) = (read("ggml-metal-device.m"), read("ggml-metal-common.cpp"));
    let functions = [
        function(&common, "bool ggml_metal_fwht_supported_size("),
        function(&common, "bool ggml_metal_op_mul_mat_use_fwht("),
        function(&common, "bool ggml_metal_op_mul_mat_use_mm("),
        function(&common, "bool ggml_metal_op_mul_mat_id_use_mm("),
        function(&device, "static bool ggml_metal_supports_mul_mat_op("),
        function(
            &device,
            "bool ggml_metal_device_supports_op(ggml_metal_device_t dev",
        ),
    ];
    let (source, program) = (folder.join("table.cpp"), folder.join("table"));
    std::fs::write(
        &source,
        include_str!("metal.cpp").replace("//FUNCTIONS//", &functions.join("\n")),
    )
    .unwrap();
    let include =
        [ggml.join("include"), ggml.join("src")].map(|path| format!("-I{}", path.display()));
    let object = folder.join("ggml.o");
    let run = |command: &mut Command| {
        let done = command.output().unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    };
    // CMake would make this one.
    std::fs::write(
        folder.join("ggml-version.h"),
        "#define GGML_VERSION \"\"\n#define GGML_COMMIT \"\"\n",
    )
    .unwrap();
    let own = format!("-I{}", folder.display());
    run(Command::new("cc")
        .args(["-O1", "-c", "-w"])
        .arg(own)
        .args(&include)
        .arg(ggml.join("src/ggml.c"))
        .arg("-o")
        .arg(&object));
    // Of ggml.c only what looks at shapes is called.
    let missing = if cfg!(target_os = "macos") {
        ["-Wl,-undefined,dynamic_lookup", "-w"]
    } else {
        ["-Wl,--unresolved-symbols=ignore-all", "-no-pie"]
    };
    run(Command::new("c++")
        .args(["-O1", "-w", "-std=c++17"])
        .args(missing)
        .args(&include)
        .arg(&source)
        .arg(&object)
        .arg("-o")
        .arg(&program));
    program
}

fn numbers(layout: &Layout) -> String {
    let sizes = layout.shape.map(|n| n.to_string()).join(" ");
    format!(
        "{} {sizes} {}",
        layout.number,
        layout.strides.map(|n| n.to_string()).join(" ")
    )
}

/// The operations that Metal lacks, by name.
fn lacking(table: &Path, operations: &[Operation]) -> Vec<String> {
    let mut text = String::new();
    for operation in operations {
        let parameters = operation
            .parameters
            .map(|parameter| parameter.to_string())
            .join(" ");
        text += &format!(
            "{} {} {parameters} {}",
            numbers(&operation.result),
            operation.op,
            operation.sources.len()
        );
        for source in &operation.sources {
            text += &source
                .as_ref()
                .map_or(" 0".into(), |source| format!(" 1 {}", numbers(source)));
        }
        text += "\n";
    }
    let mut child = Command::new(table)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()).unwrap());
    let answers = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    writer.join().unwrap();
    let answers: Vec<bool> = answers.lines().map(|line| line == "1").collect();
    assert_eq!(answers.len(), operations.len());
    let mut names: Vec<String> = operations
        .iter()
        .zip(answers)
        .filter(|(_, has)| !has)
        .map(|(operation, _)| operation.name.clone())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Every operation of a training step, by the rules for devices or by those for the CPU.
fn operations(path: &Path, device: &str, transpose: Transpose) -> Vec<Operation> {
    let (backend, model) = common::open_on(path, Some(device.into()));
    let spec = TrainSpec {
        transpose,
        ..common::spec(common::exact())
    };
    let mut trainer = Trainer::new(backend, &model, &spec).unwrap();
    let tokens = (0..40).map(|i| i * 7 % 100).collect();
    let example = Example::new(tokens, 12, 0).unwrap();
    trainer.load(vec![example]).unwrap();
    trainer.step(&[0], 1e-3).unwrap();
    trainer.operations()
}

#[test]
fn metal_has_all_that_dense_models_train_with() {
    let folder = tempfile::tempdir().unwrap();
    let table = table(folder.path());
    let mut models = Vec::new();
    for name in ["sprout", "branch"] {
        for kind in ["f16", "q8_0", "q4_0", "q4_1", "q4_k_m"] {
            let path = common::variant(folder.path(), name, kind);
            models.push((format!("{name} {kind}"), path));
        }
    }
    for name in common::DENSE.split(' ') {
        models.push((
            name.to_string(),
            common::synthetic(folder.path(), name, 0.3),
        ));
    }
    for (name, path) in &models {
        for transpose in Transpose::ALL {
            let operations = operations(path, "CPU", transpose);
            assert!(operations.len() > 100, "{name}");
            assert_eq!(
                lacking(&table, &operations),
                Vec::<String>::new(),
                "{name} {transpose:?}"
            );
        }
    }
    eprintln!("{} models, each with {:?}", models.len(), Transpose::ALL);
}

/// The table lacks the CPU's kernels: so it is read indeed.
#[test]
fn metal_has_none_of_the_kernels_for_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let (llama, shape) = (TinyArchitecture::Llama, TinyShape::default());
    let path = common::tiny(folder.path(), llama, &shape, "f32");
    let lacking = lacking(
        &table(folder.path()),
        &operations(&path, "none", Transpose::F16),
    );
    eprintln!("not on Metal: {lacking:?}");
    assert!(lacking.len() > 3, "{lacking:?}");
    assert!(
        lacking.iter().all(|name| !name.starts_with("MUL_MAT")),
        "{lacking:?}"
    );
}
