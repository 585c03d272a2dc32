use std::ptr::NonNull;
use std::sync::Arc;

use llama_cpp_sys_2 as sys;

use crate::compute::{Compute, Place};
use crate::dtype::Dtype;
use crate::error::LlamaError;
use crate::graph::set_name;
use crate::model::{Adapter, Model};
use crate::trace::{Node, Op, Trace};

/// Tensors that outlive a graph: adapter matrices, transposed weights. Allocated once; clones share
/// them.
#[derive(Clone)]
pub struct Storage(Arc<Inner>);

struct Inner {
    parts: Vec<Part>,
    tensors: Vec<*mut sys::ggml_tensor>,
}

/// The tensors of one place.
struct Part {
    context: NonNull<sys::ggml_context>,
    buffer: NonNull<sys::ggml_backend_buffer>,
    on_device: bool,
}

// SAFETY: plain memory. Contents change only through `Compute::write_stored`, which takes the `&mut
// Compute` that runs every graph over it.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Drop for Part {
    fn drop(&mut self) {
        // SAFETY: the only owner; graphs that point here hold an `Arc` of what owns this value.
        unsafe {
            sys::ggml_backend_buffer_free(self.buffer.as_ptr());
            sys::ggml_free(self.context.as_ptr());
        }
    }
}

impl Part {
    /// Allocate zeroed tensors at one place.
    fn new<const D: usize>(
        compute: &Compute,
        place: Place,
        tensors: &[&(Dtype, [i64; D], String)],
    ) -> Result<(Self, Vec<*mut sys::ggml_tensor>), LlamaError> {
        let elements =
            |shape: &[i64; D]| usize::try_from(shape.iter().product::<i64>()).unwrap_or(0);
        let bytes: usize = tensors
            .iter()
            .map(|(dtype, shape, _)| dtype.row_bytes(elements(shape)))
            .sum();
        let refused = || LlamaError::Memory {
            what: format!("{} MiB for {} tensors", bytes >> 20, tensors.len()),
        };
        // SAFETY: plain parameters; room for exactly these tensors; each has up to four positive
        // sizes in whole blocks (ggml pads nothing else).
        unsafe {
            let mem_size = (tensors.len() + 1) * sys::ggml_tensor_overhead();
            let context = sys::ggml_init(sys::ggml_init_params {
                mem_size,
                mem_buffer: std::ptr::null_mut(),
                no_alloc: true,
            });
            let context = NonNull::new(context).ok_or_else(refused)?;
            let mut raws = Vec::with_capacity(tensors.len());
            for (dtype, shape, name) in tensors {
                let raw = sys::ggml_new_tensor(context.as_ptr(), dtype.0, D as i32, shape.as_ptr());
                set_name(raw, name);
                raws.push(raw);
            }
            let Some(buffer) = NonNull::new(sys::ggml_backend_alloc_ctx_tensors(
                context.as_ptr(),
                compute.backend_at(place),
            )) else {
                sys::ggml_free(context.as_ptr());
                return Err(refused());
            };
            sys::ggml_backend_buffer_clear(buffer.as_ptr(), 0);
            Ok((
                Self {
                    context,
                    buffer,
                    on_device: compute.is_device(place),
                },
                raws,
            ))
        }
    }

    fn bytes(&self) -> usize {
        // SAFETY: a live buffer.
        unsafe { sys::ggml_backend_buffer_get_size(self.buffer.as_ptr()) }
    }
}

/// What keeps a leaf's memory alive.
pub(crate) enum Shared {
    Model(#[expect(dead_code, reason = "held, not read")] Model),
    Adapter(#[expect(dead_code, reason = "held, not read")] Adapter),
    Storage(#[expect(dead_code, reason = "held, not read")] Storage),
}

impl Storage {
    /// Allocate zeroed tensors on the first device of `compute`, of up to four dimensions.
    ///
    /// fails: too little memory.
    pub fn new<const D: usize>(
        compute: &Compute,
        tensors: &[(Dtype, [i64; D], String)],
    ) -> Result<Self, LlamaError> {
        Self::placed(compute, tensors, &vec![Place::default(); tensors.len()])
    }

    /// As `new`, each tensor at a place of its own.
    ///
    /// shapes: as many places as tensors
    pub fn placed<const D: usize>(
        compute: &Compute,
        tensors: &[(Dtype, [i64; D], String)],
        places: &[Place],
    ) -> Result<Self, LlamaError> {
        let (mut parts, mut raws) = (Vec::new(), vec![std::ptr::null_mut(); tensors.len()]);
        if places.len() != tensors.len() {
            return Err(LlamaError::Graph(format!(
                "{} places for {} tensors",
                places.len(),
                tensors.len()
            )));
        }
        let mut different = places.to_vec();
        different.sort_unstable();
        different.dedup();
        for place in different {
            let here: Vec<usize> = (0..tensors.len())
                .filter(|index| places[*index] == place)
                .collect();
            let (part, made) = Part::new(
                compute,
                place,
                &here
                    .iter()
                    .map(|index| &tensors[*index])
                    .collect::<Vec<_>>(),
            )?;
            parts.push(part);
            here.into_iter()
                .zip(made)
                .for_each(|(index, raw)| raws[index] = raw);
        }
        Ok(Self(Arc::new(Inner {
            parts,
            tensors: raws,
        })))
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.0.tensors.len()
    }

    /// There is no tensor.
    pub fn is_empty(&self) -> bool {
        self.0.tensors.is_empty()
    }

    /// units: bytes held.
    pub fn bytes(&self) -> usize {
        self.0.parts.iter().map(Part::bytes).sum()
    }

    /// units: bytes held on devices, the CPU that stands for one among them.
    pub fn device_bytes(&self) -> usize {
        self.0
            .parts
            .iter()
            .filter(|part| part.on_device)
            .map(Part::bytes)
            .sum()
    }

    pub(crate) fn tensor(&self, index: usize) -> Result<*mut sys::ggml_tensor, LlamaError> {
        let missing = || LlamaError::Graph(format!("tensor {index} of {}", self.0.tensors.len()));
        self.0.tensors.get(index).copied().ok_or_else(missing)
    }
}

impl Trace {
    /// units: bytes of the memories that the traced context had: its cache, its states.
    pub fn state_bytes(&self) -> usize {
        let bytes = |node: &Node| {
            node.dtype
                .row_bytes(usize::try_from(node.elements()).unwrap_or(0))
        };
        self.nodes
            .iter()
            .filter(|node| node.op == Op::State)
            .map(bytes)
            .sum()
    }

    /// Some columns of a weight, of all its rows.
    ///
    /// shapes: W [k, m] → m rows of `count` elements, which must be whole blocks
    pub fn weight_columns(
        &self,
        node: &Node,
        first: usize,
        count: usize,
    ) -> Result<Vec<u8>, LlamaError> {
        let [width, height, ..] = node.shape.map(|n| usize::try_from(n).unwrap_or(0));
        let whole =
            first.is_multiple_of(node.dtype.block()) && count.is_multiple_of(node.dtype.block());
        if node.op != Op::Weight || !whole || first + count > width || node.shape[2..] != [1, 1] {
            return Err(LlamaError::Graph(format!(
                "{count} columns from {first} of {} {:?}",
                node.name, node.shape
            )));
        }
        let (start, length) = (node.dtype.row_bytes(first), node.dtype.row_bytes(count));
        let mut bytes = vec![0_u8; length * height];
        for (row, part) in bytes.chunks_exact_mut(length.max(1)).enumerate() {
            // SAFETY: the tensor lives as long as the trace's model; the part lies in its row by
            // the check above, and weights are dense.
            unsafe {
                let offset = row * node.strides[1] + start;
                sys::ggml_backend_tensor_get(node.raw, part.as_mut_ptr().cast(), offset, length);
            }
        }
        Ok(bytes)
    }
}
