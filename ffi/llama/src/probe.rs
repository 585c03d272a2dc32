//! Looks at what llama.cpp itself fills a graph's inputs with.
//!
//! Masks, position tables and the like depend on a model's own parameters (windows, chunks, slopes,
//! temperatures), which no public interface tells. One decoding of a plain sequence shows them; a
//! training graph then looks them up by position.

use std::collections::HashMap;
use std::ffi::{CStr, c_void};

use llama_cpp_sys_2 as sys;

use crate::context::{Batch, Context, ContextParams};
use crate::error::LlamaError;
use crate::model::Model;

/// What an input held while tokens 0, 1, 2, … were decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Filled {
    /// shapes: ggml order, innermost first.
    pub shape: [i64; 4],
    /// The elements in memory order; integers and halves as floats.
    pub values: Vec<f32>,
}

/// The input's name and, where several inputs share one, the name of a node that reads it.
pub type Reading = (String, Option<String>);

/// What the callback reads and writes.
pub(crate) struct Watch {
    wanted: Vec<Reading>,
    found: HashMap<Reading, Filled>,
}

impl Model {
    /// Decode `tokens` tokens at positions 0, 1, 2, … and note what the wanted inputs hold. Stops
    /// computing once all are seen; what was not seen is missing from the result.
    ///
    /// fails: too little memory, or a failed computation.
    pub fn probe(
        &self,
        tokens: u32,
        threads: u32,
        wanted: &[Reading],
    ) -> Result<HashMap<Reading, Filled>, LlamaError> {
        let params = ContextParams {
            context: tokens,
            batch: tokens,
            ubatch: tokens,
            sequences: 1,
            threads,
            exact: true,
            kernel: None,
        };
        let mut watch = Box::new(Watch {
            wanted: wanted.to_vec(),
            found: HashMap::new(),
        });
        let mut context = Context::watched(self, &params, &mut watch)?;
        let mut batch = Batch::default();
        for position in 0..tokens {
            batch.push(0, position.cast_signed(), 0, position + 1 == tokens);
        }
        let result = context.decode(&batch);
        drop(context);
        if watch.found.is_empty() {
            result?;
        }
        Ok(watch.found)
    }
}

/// Called before a node is computed and after. Everything is seen before the nodes that read
/// it run.
///
/// # Safety
/// `user` must be the live `Watch` that the context was made with, and `node` a live tensor; called
/// by ggml.
pub(crate) unsafe extern "C" fn look(
    node: *mut sys::ggml_tensor,
    ask: bool,
    user: *mut c_void,
) -> bool {
    // SAFETY: as promised; ggml calls from one thread at a time.
    unsafe {
        let watch = &mut *user.cast::<Watch>();
        if !ask {
            // Only called for the node at which everything was seen: stop there.
            return false;
        }
        for source in (*node).src.iter().filter(|source| !source.is_null()) {
            if (**source).op != sys::GGML_OP_NONE || (**source).buffer.is_null() {
                continue;
            }
            let (name, reader) = (text(*source), text(node));
            for reading in [(name.clone(), Some(reader)), (name, None)] {
                let wanted = watch.wanted.contains(&reading) && !watch.found.contains_key(&reading);
                if let (true, Some(filled)) = (wanted, read(*source)) {
                    watch.found.insert(reading, filled);
                }
            }
        }
        watch.found.len() == watch.wanted.len()
    }
}

/// # Safety
/// `raw` must be a live tensor.
unsafe fn text(raw: *mut sys::ggml_tensor) -> String {
    // SAFETY: ggml keeps names NUL-terminated. Copies that the scheduler makes for a device are
    // called `device#name#number`.
    let name = unsafe { CStr::from_ptr((*raw).name.as_ptr()) }
        .to_string_lossy()
        .into_owned();
    match name.split('#').collect::<Vec<_>>()[..] {
        [_, inner, _] => inner.to_owned(),
        _ => name,
    }
}

/// # Safety
/// `raw` must be a live, placed tensor.
unsafe fn read(raw: *mut sys::ggml_tensor) -> Option<Filled> {
    // SAFETY: contiguous is checked; the buffer is as long as the tensor.
    unsafe {
        if !sys::ggml_is_contiguous(raw) {
            return None;
        }
        let mut bytes = vec![0_u8; sys::ggml_nbytes(raw)];
        sys::ggml_backend_tensor_get(raw, bytes.as_mut_ptr().cast(), 0, bytes.len());
        let values = match (*raw).type_ {
            sys::GGML_TYPE_F32 => bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|raw| f32::from_ne_bytes(*raw))
                .collect(),
            sys::GGML_TYPE_I32 => bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|raw| i32::from_ne_bytes(*raw) as f32)
                .collect(),
            sys::GGML_TYPE_F16 => bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|raw| sys::ggml_fp16_to_fp32(u16::from_ne_bytes(*raw)))
                .collect(),
            _ => return None,
        };
        Some(Filled {
            shape: (*raw).ne,
            values,
        })
    }
}
