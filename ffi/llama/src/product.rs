//! Products by kernels of our own, on the CPU: weights are read where they lie, in whatever type.

use std::ffi::c_void;

use llama_cpp_sys_2 as sys;

use crate::dtype::Dtype;
use crate::error::LlamaError;
use crate::graph::{Built, Graph, Tensor, set_name};
use crate::kernels::{self, Kernel, Side, pack_rows, packed_lanes};

type Operation = unsafe extern "C" fn(*mut sys::ggml_tensor, i32, i32, *mut c_void);

impl Graph {
    /// y = Wᵀ x, as `mul_mat`, but `x` is not quantized.
    ///
    /// shapes: W [k, m], x [k, …] → [m, …]
    pub fn times(&mut self, kernel: Kernel, weight: Tensor, x: Tensor) -> Built {
        self.weight_product(kernel, weight, x, Side::Rows)
    }

    /// x = W y: the gradient of `times` for x, from the same rows of W.
    ///
    /// shapes: W [k, m], y [m, …] → [k, …]
    pub fn times_turned(&mut self, kernel: Kernel, weight: Tensor, y: Tensor) -> Built {
        self.weight_product(kernel, weight, y, Side::Columns)
    }

    fn weight_product(&mut self, kernel: Kernel, weight: Tensor, x: Tensor, side: Side) -> Built {
        let (sw, sx) = (self.shape(weight)?, self.shape(x)?);
        let (over, result) = if side == Side::Rows { (sw[0], sw[1]) } else { (sw[1], sw[0]) };
        if sw[2] != 1 || sw[3] != 1 || over != sx[0] || self.dtype(x)? != Dtype::F32 {
            return Err(LlamaError::Graph(format!("product of a weight {sw:?} and {sx:?} ({side:?})")));
        }
        self.readable(weight)?;
        let packed = self.packed(kernel, x)?;
        let operation: Operation = if side == Side::Rows { kernels::times::<false> } else { kernels::times::<true> };
        let name = if side == Side::Rows { "times" } else { "times_turned" };
        // SAFETY: the operation needs a weight with dense rows of a type that converts to floats, and rows packed for this kernel, as
        // long as the weight is on this side.
        unsafe { self.custom(kernel, name, operation, [result, sx[1], sx[2], sx[3]], &[weight, packed]) }
    }

    /// aᵀ b of two F32 tensors, as `mul_mat`, but either may be a transposed view.
    ///
    /// shapes: a [k, m, g, …], b [k, n, h, …] → [m, n, h, …], h a multiple of g
    pub fn product(&mut self, kernel: Kernel, a: Tensor, b: Tensor) -> Built {
        let (sa, sb) = (self.shape(a)?, self.shape(b)?);
        let floats = self.dtype(a)? == Dtype::F32 && self.dtype(b)? == Dtype::F32;
        if sa[0] != sb[0] || sb[2] % sa[2] != 0 || sb[3] % sa[3] != 0 || !floats {
            return Err(LlamaError::Graph(format!("product of {sa:?} and {sb:?}")));
        }
        let (a, b) = (self.lined(a)?, self.lined(b)?);
        // SAFETY: the operation needs F32 operands that ggml_can_mul_mat, each with one dense dimension of the inner two.
        unsafe { self.custom(kernel, "product", kernels::product, [sa[1], sb[1], sb[2], sb[3]], &[a, b]) }
    }

    /// The tensor itself if one of its inner dimensions is dense, else a copy.
    fn lined(&mut self, a: Tensor) -> Built {
        // SAFETY: reads a live tensor.
        let [first, second, ..] = unsafe { (*self.raw(a)?).nb };
        let float = size_of::<f32>();
        if first == float || second == float { Ok(a) } else { self.cont(a) }
    }

    /// `x` in panels, made once for all products with this kernel.
    fn packed(&mut self, kernel: Kernel, x: Tensor) -> Built {
        if let Some(packed) = self.packed.get(&(x, kernel.name())) {
            return Ok(*packed);
        }
        let dense = self.dense(x)?;
        let [depth, n, p, q] = self.shape(dense)?.map(|size| usize::try_from(size).unwrap_or(0));
        let lanes = packed_lanes(kernel.tiles(), n * p * q, depth);
        let lanes = i64::try_from(lanes).map_err(|_| LlamaError::Graph(format!("{lanes} lanes")))?;
        // SAFETY: the operation needs a contiguous F32 operand and room for its panels.
        let packed = unsafe { self.custom(kernel, "pack", pack_rows, [lanes, 1, 1, 1], &[dense])? };
        self.packed.insert((x, kernel.name()), packed);
        Ok(packed)
    }

    /// Refuse a weight that the kernels cannot read: on another device, repacked, or of a type without conversion.
    fn readable(&self, weight: Tensor) -> Result<(), LlamaError> {
        let raw = self.raw(weight)?;
        // SAFETY: a live tensor; the traits are a static table.
        let (host, dense, converts) = unsafe {
            let kind = (*raw).type_;
            let buffer = if (*raw).buffer.is_null() && !(*raw).view_src.is_null() { (*(*raw).view_src).buffer } else { (*raw).buffer };
            let host = buffer.is_null() || sys::ggml_backend_buffer_is_host(buffer);
            let converts = kind == sys::GGML_TYPE_F32 || (*sys::ggml_get_type_traits(kind)).to_float.is_some();
            (host, (*raw).nb[0] == sys::ggml_type_size(kind), converts)
        };
        if host && dense && converts {
            return Ok(());
        }
        Err(LlamaError::Graph(format!("a weight of {} that the processor cannot read where it lies", self.dtype(weight)?.name())))
    }

    /// Append an operation of ours.
    ///
    /// # Safety
    /// The operation reads and writes nothing beyond the sources and an F32 result of `shape`, for this kernel.
    unsafe fn custom(&mut self, kernel: Kernel, name: &str, operation: Operation, shape: [i64; 4], sources: &[Tensor]) -> Built {
        let mut raws = sources.iter().map(|source| self.raw(*source)).collect::<Result<Vec<_>, _>>()?;
        self.room()?;
        let count = i32::try_from(raws.len()).unwrap_or(0);
        let [n0, n1, n2, n3] = shape;
        let tiles = std::ptr::from_ref(kernel.tiles()).cast_mut().cast();
        // SAFETY: room was checked; the sources are live and copied by the call; the kernel's table is static and only read.
        let raw = unsafe {
            sys::ggml_custom_4d(self.ctx(), sys::GGML_TYPE_F32, n0, n1, n2, n3, raws.as_mut_ptr(), count, Some(operation), -1, tiles)
        };
        // SAFETY: the tensor that was just made.
        unsafe { set_name(raw, name) };
        Ok(self.push(raw))
    }
}
