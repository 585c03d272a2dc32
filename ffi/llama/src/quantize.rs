use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use llama_cpp_sys_2 as sys;

use crate::backend::Backend;
use crate::error::LlamaError;
use crate::log::{self, Reason};

/// The file types of `quantize`, with llama.cpp's names.
pub const QUANTIZATIONS: [(&str, sys::llama_ftype); 15] = [
    ("f32", sys::LLAMA_FTYPE_ALL_F32),
    ("f16", sys::LLAMA_FTYPE_MOSTLY_F16),
    ("bf16", sys::LLAMA_FTYPE_MOSTLY_BF16),
    ("q8_0", sys::LLAMA_FTYPE_MOSTLY_Q8_0),
    ("q4_0", sys::LLAMA_FTYPE_MOSTLY_Q4_0),
    ("q4_1", sys::LLAMA_FTYPE_MOSTLY_Q4_1),
    ("q5_0", sys::LLAMA_FTYPE_MOSTLY_Q5_0),
    ("q5_1", sys::LLAMA_FTYPE_MOSTLY_Q5_1),
    ("q4_k_m", sys::LLAMA_FTYPE_MOSTLY_Q4_K_M),
    ("q5_k_m", sys::LLAMA_FTYPE_MOSTLY_Q5_K_M),
    ("q6_k", sys::LLAMA_FTYPE_MOSTLY_Q6_K),
    ("q3_k_m", sys::LLAMA_FTYPE_MOSTLY_Q3_K_M),
    ("q2_k", sys::LLAMA_FTYPE_MOSTLY_Q2_K),
    ("iq4_nl", sys::LLAMA_FTYPE_MOSTLY_IQ4_NL),
    ("iq4_xs", sys::LLAMA_FTYPE_MOSTLY_IQ4_XS),
];

/// Write `from` to `to` with its matrices in another type, as `llama-quantize` does.
///
/// fails: unknown type name, unreadable or unwritable file; the reason is llama.cpp's own.
pub fn quantize(_backend: Backend, from: &Path, to: &Path, kind: &str) -> Result<(), LlamaError> {
    let failed = |reason: String| LlamaError::Quantize {
        path: from.to_owned(),
        reason,
    };
    let Some((_, ftype)) = QUANTIZATIONS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(kind))
    else {
        let names: Vec<&str> = QUANTIZATIONS.iter().map(|(name, _)| *name).collect();
        return Err(failed(format!(
            "unknown type {kind:?}, one of: {}",
            names.join(" ")
        )));
    };
    let path = |path: &Path| {
        CString::new(path.as_os_str().as_bytes()).map_err(|_| LlamaError::Path(path.to_owned()))
    };
    let (input, output) = (path(from)?, path(to)?);
    let (mark, mut reason) = (log::mark(), Reason::new());
    // SAFETY: both paths NUL-terminated and alive; parameters are the defaults with plain values
    // replaced.
    let code = unsafe {
        let mut params = sys::llama_model_quantize_default_params();
        params.ftype = *ftype;
        params.allow_requantize = true;
        let (buffer, size) = reason.pointer();
        crate::shim::translora_quantize(
            input.as_ptr(),
            output.as_ptr(),
            &raw const params,
            buffer,
            size,
        )
    };
    if code == 0 {
        Ok(())
    } else {
        Err(failed(reason.or_log(mark, "llama.cpp gave no reason")))
    }
}
