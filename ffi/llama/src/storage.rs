use std::ptr::NonNull;
use std::sync::Arc;

use llama_cpp_sys_2 as sys;

use crate::compute::Compute;
use crate::dtype::Dtype;
use crate::error::LlamaError;
use crate::graph::set_name;
use crate::model::{Adapter, Model};
use crate::trace::{Node, Op, Trace};

/// Tensors that outlive a graph: adapter matrices, transposed weights. Allocated once; clones share them.
#[derive(Clone)]
pub struct Storage(Arc<Inner>);

struct Inner {
    context: NonNull<sys::ggml_context>,
    buffer: NonNull<sys::ggml_backend_buffer>,
    tensors: Vec<*mut sys::ggml_tensor>,
}

// SAFETY: plain memory. Contents change only through `Compute::write_stored`, which takes the `&mut Compute` that runs every graph over it.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: the last owner; graphs that point here hold an `Arc` of this value.
        unsafe {
            sys::ggml_backend_buffer_free(self.buffer.as_ptr());
            sys::ggml_free(self.context.as_ptr());
        }
    }
}

/// What keeps a leaf's memory alive.
pub(crate) enum Shared {
    Model(#[expect(dead_code, reason = "held, not read")] Model),
    Adapter(#[expect(dead_code, reason = "held, not read")] Adapter),
    Storage(#[expect(dead_code, reason = "held, not read")] Storage),
}

impl Storage {
    /// Allocate zeroed tensors on the device of `compute`, of up to four dimensions.
    ///
    /// fails: too little memory.
    pub fn new<const D: usize>(compute: &Compute, tensors: &[(Dtype, [i64; D], String)]) -> Result<Self, LlamaError> {
        let elements = |shape: &[i64; D]| usize::try_from(shape.iter().product::<i64>()).unwrap_or(0);
        let bytes: usize = tensors.iter().map(|(dtype, shape, _)| dtype.row_bytes(elements(shape))).sum();
        let refused = || LlamaError::Memory { what: format!("{} MiB for {} tensors", bytes >> 20, tensors.len()) };
        // SAFETY: plain parameters; room for exactly these tensors; each has up to four positive sizes in whole blocks (ggml pads nothing else).
        unsafe {
            let mem_size = (tensors.len() + 1) * sys::ggml_tensor_overhead();
            let context = sys::ggml_init(sys::ggml_init_params { mem_size, mem_buffer: std::ptr::null_mut(), no_alloc: true });
            let context = NonNull::new(context).ok_or_else(refused)?;
            let mut raws = Vec::with_capacity(tensors.len());
            for (dtype, shape, name) in tensors {
                let raw = sys::ggml_new_tensor(context.as_ptr(), dtype.0, D as i32, shape.as_ptr());
                set_name(raw, name);
                raws.push(raw);
            }
            let Some(buffer) = NonNull::new(sys::ggml_backend_alloc_ctx_tensors(context.as_ptr(), compute.backend())) else {
                sys::ggml_free(context.as_ptr());
                return Err(refused());
            };
            sys::ggml_backend_buffer_clear(buffer.as_ptr(), 0);
            Ok(Self(Arc::new(Inner { context, buffer, tensors: raws })))
        }
    }

    pub fn len(&self) -> usize {
        self.0.tensors.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.tensors.is_empty()
    }

    /// units: bytes held.
    pub fn bytes(&self) -> usize {
        // SAFETY: a live buffer.
        unsafe { sys::ggml_backend_buffer_get_size(self.0.buffer.as_ptr()) }
    }

    pub(crate) fn tensor(&self, index: usize) -> Result<*mut sys::ggml_tensor, LlamaError> {
        let missing = || LlamaError::Graph(format!("tensor {index} of {}", self.0.tensors.len()));
        self.0.tensors.get(index).copied().ok_or_else(missing)
    }
}

impl Trace {
    /// units: bytes of the memories that the traced context had: its cache, its states.
    pub fn state_bytes(&self) -> usize {
        let bytes = |node: &Node| node.dtype.row_bytes(usize::try_from(node.elements()).unwrap_or(0));
        self.nodes.iter().filter(|node| node.op == Op::State).map(bytes).sum()
    }

    /// Read a weight back from its device.
    pub fn weight_bytes(&self, node: &Node) -> Result<Vec<u8>, LlamaError> {
        if node.op != Op::Weight {
            return Err(LlamaError::Graph(format!("{} is not a weight", node.name)));
        }
        // SAFETY: the tensor lives as long as the trace's model and adapters; the buffer is as long as the tensor.
        unsafe {
            let mut bytes = vec![0_u8; sys::ggml_nbytes(node.raw)];
            sys::ggml_backend_tensor_get(node.raw, bytes.as_mut_ptr().cast(), 0, bytes.len());
            Ok(bytes)
        }
    }
}
