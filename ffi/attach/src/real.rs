//! The functions of the server's libllama, looked up by name in the library that it loaded. None is
//! linked.

use std::ffi::{CString, c_char, c_void};

use crate::batch::Batch;
use crate::error::AttachError;

/// A `llama_context`, `llama_model`, `llama_memory_t`, `llama_adapter_lora` or `llama_batch_ext` of
/// the server; never looked into.
pub type Handle = *mut c_void;

/// `struct llama_embd`, which is passed by value.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Embd {
    data: *const f32,
    rows: usize,
    width: usize,
}

macro_rules! functions {
    ($(#[$doc:meta])* $name:ident { $($field:ident $symbol:literal ($($arg:ty),*) $(-> $result:ty)?;)* }) => {
        $(#[$doc])*
        pub struct $name {
            $(pub $field: unsafe extern "C-unwind" fn($($arg),*) $(-> $result)?,)*
        }

        impl $name {
            /// Take the functions out of the library at `path`, which is loaded.
            ///
            /// fails: with the names that the library does not have
            pub fn of(path: &str) -> Result<Self, AttachError> {
                let handle = open(path)?;
                let missing: Vec<&'static str> = [$($symbol),*].into_iter().filter(|symbol| find(handle, symbol).is_null()).collect();
                if !missing.is_empty() {
                    return Err(AttachError::Symbols { path: path.into(), symbols: missing });
                }
                Ok(Self {
                    // SAFETY: not null, checked above; a function of this type by llama.h of the
                    // versions that `attach` accepts.
                    $($field: unsafe {
                        std::mem::transmute::<*mut c_void, unsafe extern "C-unwind" fn($($arg),*) $(-> $result)?>(find(handle, $symbol))
                    },)*
                })
            }
        }
    };
}

functions! {
    /// Addresses in the server's libllama. `C-unwind`: some throw C++ exceptions, which reach
    /// the server.
    Real {
        adapter_free "llama_adapter_lora_free" (Handle);
        adapter_init "llama_adapter_lora_init" (Handle, *const c_char) -> Handle;
        detokenize "llama_detokenize" (Handle, *const i32, i32, *mut c_char, i32, bool, bool) -> i32;
        embeddings_ith "llama_get_embeddings_ith" (Handle, i32) -> *mut f32;
        embeddings_seq "llama_get_embeddings_seq" (Handle, i32) -> *mut f32;
        free "llama_free" (Handle);
        get_memory "llama_get_memory" (Handle) -> Handle;
        get_model "llama_get_model" (Handle) -> Handle;
        get_size "llama_state_seq_get_size_ext" (Handle, i32, u32) -> usize;
        get_state "llama_state_seq_get_data_ext" (Handle, *mut u8, usize, i32, u32) -> usize;
        is_hybrid "llama_model_is_hybrid" (Handle) -> bool;
        is_recurrent "llama_model_is_recurrent" (Handle) -> bool;
        load_file "llama_state_seq_load_file" (Handle, *const c_char, i32, *mut i32, usize, *mut usize) -> usize;
        log_get "llama_log_get" (*mut LogCallback, *mut Handle);
        log_set "llama_log_set" (LogCallback, Handle);
        logits_ith "llama_get_logits_ith" (Handle, i32) -> *mut f32;
        memory_clear "llama_memory_clear" (Handle, bool);
        model_free "llama_model_free" (Handle);
        n_batch "llama_n_batch" (Handle) -> u32;
        n_classes "llama_model_n_cls_out" (Handle) -> u32;
        n_ctx_seq "llama_n_ctx_seq" (Handle) -> u32;
        n_embd_out "llama_model_n_embd_out" (Handle) -> i32;
        n_swa "llama_model_n_swa" (Handle) -> i32;
        n_tokens "llama_vocab_n_tokens" (Handle) -> i32;
        n_ubatch "llama_n_ubatch" (Handle) -> u32;
        pooling_type "llama_pooling_type" (Handle) -> i32;
        pos_min "llama_memory_seq_pos_min" (Handle, i32) -> i32;
        save_file "llama_state_seq_save_file" (Handle, *const c_char, i32, *const i32, usize) -> usize;
        seq_add "llama_memory_seq_add" (Handle, i32, i32, i32, i32);
        seq_cp "llama_memory_seq_cp" (Handle, i32, i32, i32, i32);
        seq_rm "llama_memory_seq_rm" (Handle, i32, i32, i32) -> bool;
        set_adapters "llama_set_adapters_lora" (Handle, *mut Handle, usize, *mut f32) -> i32;
        set_embeddings "llama_set_embeddings" (Handle, bool);
        set_layer_input "_Z30llama_set_embeddings_layer_inpP13llama_contextjb" (Handle, u32, bool);
        set_next "_Z26llama_set_embeddings_nextnP13llama_contextbb" (Handle, bool, bool);
        set_sampler "llama_set_sampler" (Handle, i32, Handle) -> bool;
        set_state "llama_state_seq_set_data_ext" (Handle, *const u8, usize, i32, u32) -> usize;
        synchronize "llama_synchronize" (Handle);
        tokenize "llama_tokenize" (Handle, *const c_char, i32, *mut i32, i32, bool, bool) -> i32;
        version "llama_version" () -> *const c_char;
        vocab "llama_model_get_vocab" (Handle) -> Handle;
    }
}

functions! {
    /// How llama.cpp decodes since 0.5.
    Kept {
        add_embd "llama_batch_ext_add_embd" (Handle, i32, Embd) -> i32;
        add_seq "llama_batch_ext_add_seq" (Handle, i32, i32) -> bool;
        add_token "llama_batch_ext_add_token" (Handle, i32, i32) -> i32;
        batch_clear "llama_batch_ext_clear" (Handle);
        batch_free "llama_batch_ext_free" (Handle);
        batch_init "llama_batch_ext_init" (Handle) -> Handle;
        process "llama_process" (Handle, i32, Handle) -> i32;
        set_embd_token "llama_batch_ext_set_embd_token" (Handle, i32, Embd) -> bool;
        set_output "llama_batch_ext_set_output_logits" (Handle, i32, bool) -> bool;
        set_pos "llama_batch_ext_set_pos" (Handle, i32, *const i32) -> bool;
    }
}

functions! {
    /// How it did before.
    Structs {
        decode "llama_decode" (Handle, Batch) -> i32;
    }
}

/// `ggml_log_callback`.
pub type LogCallback = Option<unsafe extern "C" fn(i32, *const c_char, Handle)>;

/// A handle of a library that is loaded already.
fn open(path: &str) -> Result<*mut c_void, AttachError> {
    let name = CString::new(path).map_err(|_| AttachError::ZeroByte { path: path.into() })?;
    // SAFETY: a terminated name; NOLOAD loads nothing and runs nothing.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
    if handle.is_null() {
        Err(AttachError::Library { path: path.into() })
    } else {
        Ok(handle)
    }
}

fn find(library: *mut c_void, symbol: &str) -> *mut c_void {
    let Ok(name) = CString::new(symbol) else {
        return std::ptr::null_mut();
    };
    // SAFETY: a handle of `open`, which is never closed, and a terminated name.
    unsafe { libc::dlsym(library, name.as_ptr()) }
}
