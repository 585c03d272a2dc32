//! The C++ shim's entries; see shim.cpp.

use std::ffi::c_char;

use llama_cpp_sys_2 as sys;

unsafe extern "C" {
    pub fn translora_graph_reserve(
        ctx: *mut sys::llama_context,
        n_tokens: u32,
        n_outputs: u32,
        reason: *mut c_char,
        size: usize,
    ) -> *mut sys::ggml_cgraph;
    pub fn translora_training_mode(
        ctx: *mut sys::llama_context,
        model: *mut sys::llama_model,
        reason: *mut c_char,
        size: usize,
    ) -> bool;
    pub fn translora_tokenize(
        vocab: *const sys::llama_vocab,
        text: *const c_char,
        text_len: i32,
        tokens: *mut sys::llama_token,
        n_max: i32,
        add_special: bool,
        parse_special: bool,
        reason: *mut c_char,
        size: usize,
    ) -> i32;
    pub fn translora_grammar(
        vocab: *const sys::llama_vocab,
        text: *const c_char,
        root: *const c_char,
        reason: *mut c_char,
        size: usize,
    ) -> *mut sys::llama_sampler;
    pub fn translora_grammar_accept(
        grammar: *mut sys::llama_sampler,
        token: sys::llama_token,
        reason: *mut c_char,
        size: usize,
    ) -> bool;
    pub fn translora_decode(
        ctx: *mut sys::llama_context,
        batch: sys::llama_batch,
        reason: *mut c_char,
        size: usize,
    ) -> i32;
    pub fn translora_context(
        model: *mut sys::llama_model,
        params: sys::llama_context_params,
        reason: *mut c_char,
        size: usize,
    ) -> *mut sys::llama_context;
    pub fn translora_adapter(
        model: *mut sys::llama_model,
        path: *const c_char,
        reason: *mut c_char,
        size: usize,
    ) -> *mut sys::llama_adapter_lora;
    pub fn translora_tensor(
        model: *mut sys::llama_model,
        name: *const c_char,
    ) -> *mut sys::ggml_tensor;
    pub fn translora_device_bytes(model: *mut sys::llama_model) -> usize;
    pub fn translora_quantize(
        from: *const c_char,
        to: *const c_char,
        params: *const sys::llama_model_quantize_params,
        reason: *mut c_char,
        size: usize,
    ) -> u32;
    pub fn translora_synthesize(
        metadata: *const c_char,
        out: *const c_char,
        fill: unsafe extern "C" fn(*mut sys::ggml_tensor, *mut std::ffi::c_void),
        user: *mut std::ffi::c_void,
        reason: *mut c_char,
        size: usize,
    ) -> bool;
}
