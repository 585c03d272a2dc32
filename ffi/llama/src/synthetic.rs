//! Makes models with random weights from metadata alone: llama.cpp itself says which tensors such a
//! model has.

use std::ffi::{CStr, CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use llama_cpp_sys_2 as sys;
use translora_gguf::{Gguf, Writer};

use crate::backend::Backend;
use crate::error::LlamaError;
use crate::log::{self, Reason};
use crate::refuse::check_container;

/// How the weights are drawn.
struct Draw {
    seed: u64,
    deviation: f32,
}

/// Write a model whose metadata is that of the GGUF `metadata` and whose weights are normal with
/// this standard deviation. Same arguments, same bytes.
///
/// fails: metadata that llama.cpp makes no model of, an architecture that it does not save, an
/// unwritable `out`.
pub fn synthesize(
    _backend: Backend,
    metadata: &Path,
    seed: u64,
    deviation: f32,
    out: &Path,
) -> Result<(), LlamaError> {
    check_container(metadata)?;
    let text = |path: &Path| {
        CString::new(path.as_os_str().as_bytes()).map_err(|_| LlamaError::Path(path.to_owned()))
    };
    let (from, to) = (text(metadata)?, text(out)?);
    let mut draw = Draw { seed, deviation };
    let (mark, mut reason) = (log::mark(), Reason::new());
    let (buffer, size) = reason.pointer();
    // SAFETY: both paths are NUL-terminated, `draw` outlives the call that passes it to `fill`;
    // exceptions end in the shim.
    let done = unsafe {
        crate::shim::translora_synthesize(
            from.as_ptr(),
            to.as_ptr(),
            fill,
            std::ptr::from_mut(&mut draw).cast(),
            buffer,
            size,
        )
    };
    if done {
        complete(metadata, out).map_err(|error| LlamaError::ModelLoad {
            path: metadata.to_owned(),
            reason: error.to_string(),
        })
    } else {
        Err(LlamaError::ModelLoad {
            path: metadata.to_owned(),
            reason: reason.or_log(mark, "llama.cpp gave no reason"),
        })
    }
}

/// Set what llama.cpp does not save of a model's metadata, as it reads it.
fn complete(metadata: &Path, out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let (requested, written) = (std::fs::read(metadata)?, std::fs::read(out)?);
    let (requested, written) = (Gguf::parse(&requested)?, Gguf::parse(&written)?);
    if requested
        .metadata()
        .all(|(key, _)| written.get(key).is_some())
    {
        return Ok(());
    }
    let mut writer = Writer::new();
    for (key, value) in requested.metadata().chain(written.metadata()) {
        writer.set(key, value.clone());
    }
    for tensor in written.tensors() {
        writer.tensor(
            &tensor.name,
            tensor.kind,
            &tensor.shape,
            written.data(tensor),
        );
    }
    Ok(std::fs::write(out, writer.to_bytes()?)?)
}

/// Fill one tensor of a model under construction.
///
/// # Safety
/// `tensor` must be a placed F32 or F16 tensor and `user` the live `Draw`; called by llama.cpp.
unsafe extern "C" fn fill(tensor: *mut sys::ggml_tensor, user: *mut c_void) {
    // SAFETY: as promised.
    unsafe {
        let draw = &*user.cast::<Draw>();
        let name = CStr::from_ptr((*tensor).name.as_ptr()).to_bytes();
        let mut state = name
            .iter()
            .fold(draw.seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
        // What decays a state has to be negative, or the state grows without bound.
        let decay = name.windows(5).any(|part| part == b"ssm_a");
        let count = usize::try_from(sys::ggml_nelements(tensor)).unwrap_or(0);
        let values: Vec<f32> = (0..count)
            .map(|_| {
                let value = normal(&mut state) * draw.deviation;
                if decay { -value.abs() } else { value }
            })
            .collect();
        let bytes = sys::ggml_nbytes(tensor);
        if (*tensor).type_ == sys::GGML_TYPE_F32 {
            sys::ggml_backend_tensor_set(tensor, values.as_ptr().cast(), 0, bytes);
        } else if (*tensor).type_ == sys::GGML_TYPE_F16 {
            let halves: Vec<u16> = values
                .iter()
                .map(|value| sys::ggml_fp32_to_fp16(*value))
                .collect();
            sys::ggml_backend_tensor_set(tensor, halves.as_ptr().cast(), 0, bytes);
        }
    }
}

/// One draw of a standard normal distribution. source: Steele, Lea and Flood 2014 (SplitMix64); Box
/// and Muller 1958
fn normal(state: &mut u64) -> f32 {
    let mut unit = || {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    };
    let (radius, angle) = (
        (-2.0 * (1.0 - unit()).ln()).sqrt(),
        std::f64::consts::TAU * unit(),
    );
    (radius * angle.cos()) as f32
}

#[cfg(test)]
mod tests {
    #[test]
    fn draws_are_normal() {
        let mut state = 7;
        let draws: Vec<f64> = (0..20_000)
            .map(|_| f64::from(super::normal(&mut state)))
            .collect();
        let mean = draws.iter().sum::<f64>() / 20_000.0;
        let variance = draws.iter().map(|x| x * x).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03, "{mean} {variance}");
        assert!((variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
