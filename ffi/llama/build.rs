//! Compiles the C++ shim against the headers that `llama-cpp-sys-2` installed. The only build
//! script that meets C.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=src/shim.cpp");
    println!("cargo:rerun-if-changed=build.rs");
    let package = env::var("DEP_LLAMA_GGML_CMAKE_DIR")
        .expect("llama-cpp-sys-2 tells where it installed ggml's cmake package");
    // <out>/lib/cmake -> <out>/include
    let include = PathBuf::from(package).join("../../include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file("src/shim.cpp")
        .include(include)
        .compile("translora_shim");
}
