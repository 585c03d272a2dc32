//! What this machine has, as far as it matters here.

use serde::Serialize;
use translora_system::sandbox;

/// The machine, and what this build makes of it.
#[derive(Serialize)]
pub struct Machine {
    version: &'static str,
    engine: &'static str,
    processor: String,
    /// The instruction sets that the kernels choose from.
    instructions: Vec<&'static str>,
    /// What this program was compiled for, at least.
    built_for: Vec<&'static str>,
    cores: usize,
    threads: usize,
    /// units: bytes
    memory_total: Option<u64>,
    memory_free: Option<u64>,
    /// What keeps a worker to the files of its job.
    sandbox_files: String,
    /// What keeps it from the network and from other processes.
    sandbox_calls: String,
    #[serde(flatten)]
    llama: Option<Llama>,
}

/// The llama.cpp inside.
#[derive(Serialize)]
struct Llama {
    ggml_version: String,
    llama_built_for: String,
    devices: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

pub fn look() -> Machine {
    // A thread, so that this process goes on as it is.
    let tried = std::thread::spawn(|| sandbox::confine::<&str>(&[], &[])).join();
    let (sandbox_files, sandbox_calls) = match tried {
        Ok(in_force) => (in_force.files, in_force.calls),
        Err(_) => (
            "none: the thread ended".into(),
            "none: the thread ended".into(),
        ),
    };
    Machine {
        sandbox_files,
        sandbox_calls,
        version: env!("CARGO_PKG_VERSION"),
        engine: if cfg!(feature = "ggml") {
            "ggml"
        } else {
            "toy"
        },
        processor: processor(),
        instructions: instructions(),
        built_for: built_for(),
        cores: num_cpus::get_physical(),
        threads: num_cpus::get(),
        memory_total: memory("MemTotal:"),
        memory_free: memory("MemAvailable:"),
        llama: llama(),
    }
}

#[cfg(feature = "ggml")]
fn llama() -> Option<Llama> {
    Some(match translora::engine::ggml::GgmlEngine::new() {
        Err(error) => Llama {
            ggml_version: String::new(),
            llama_built_for: String::new(),
            devices: Vec::new(),
            problem: Some(error.to_string()),
        },
        Ok(engine) => {
            let described = |device: translora::engine::ggml::DeviceInfo| {
                format!(
                    "{} {} ({} MiB, {} free)",
                    device.kind,
                    device.description,
                    device.memory_total >> 20,
                    device.memory_free >> 20
                )
            };
            let devices = engine.devices().into_iter().map(described).collect();
            Llama {
                ggml_version: engine.ggml_version(),
                llama_built_for: engine.system_info(),
                devices,
                problem: None,
            }
        }
    })
}

#[cfg(not(feature = "ggml"))]
fn llama() -> Option<Llama> {
    None
}

/// The name that the system gives the processor; its architecture where it gives none.
fn processor() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(
        || std::env::consts::ARCH.to_owned(),
        |(_, name)| name.trim().to_owned(),
    )
}

/// source: proc(5). units: bytes
fn memory(field: &str) -> Option<u64> {
    let all = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = all.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

/// Features as the compiler names them, those that are there.
macro_rules! there {
    ($has:ident, $($name:tt),+) => {
        [$(($name, $has!($name))),+].into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
    };
}

#[cfg(target_arch = "x86_64")]
fn instructions() -> Vec<&'static str> {
    use std::arch::is_x86_feature_detected;
    there!(
        is_x86_feature_detected,
        "avx",
        "avx2",
        "fma",
        "f16c",
        "bmi2",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512vnni",
        "avx512bf16",
        "avxvnni"
    )
}

#[cfg(target_arch = "aarch64")]
fn instructions() -> Vec<&'static str> {
    use std::arch::is_aarch64_feature_detected;
    there!(
        is_aarch64_feature_detected,
        "neon",
        "dotprod",
        "fp16",
        "i8mm",
        "bf16",
        "sve",
        "sve2"
    )
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn instructions() -> Vec<&'static str> {
    Vec::new()
}

fn built_for() -> Vec<&'static str> {
    macro_rules! built {
        ($name:tt) => {
            cfg!(target_feature = $name)
        };
    }
    there!(
        built,
        "avx2",
        "fma",
        "f16c",
        "bmi2",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512vnni",
        "avx512bf16",
        "neon",
        "dotprod",
        "i8mm"
    )
}
