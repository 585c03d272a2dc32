//! A folder of PEFT of any bytes is refused, or becomes a sound adapter that fits its base.
//!
//! The input is the configuration, a byte of zero, and the safetensors file.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use translora_lora::{Base, Foreign, Lora};

#[path = "../base.rs"]
mod base;

fuzz_target!(|bytes: &[u8]| {
    let Some(end) = bytes.iter().position(|byte| *byte == 0) else {
        return;
    };
    let folder = std::env::temp_dir().join(format!("translora-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder is created");
    let written = [
        ("adapter_config.json", &bytes[..end]),
        ("adapter_model.safetensors", &bytes[end + 1..]),
    ];
    for (name, bytes) in written {
        fs::write(folder.join(name), bytes).expect("a file is written");
    }
    let found = Foreign::find(&folder).expect("both files are there");
    let foreign = found.expect("a folder is no GGUF file");
    let model = base::model();
    let base = Base::of(&translora_gguf::Gguf::parse(&model).expect("the base is sound"));
    let Ok(adapter) = foreign.to_gguf(&base) else {
        return;
    };
    if let Ok(lora) = Lora::read(&adapter) {
        lora.fits(&base)
            .expect("what was written for a base fits it");
    }
});
