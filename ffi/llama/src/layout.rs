//! Graph operations that move or look at memory and change no value.

use llama_cpp_sys_2 as sys;

use crate::error::LlamaError;
use crate::graph::{Built, Dtype, Graph, Tensor, set_name};

impl Graph {
    /// The same values, contiguous.
    pub fn cont(&mut self, a: Tensor) -> Built {
        // SAFETY: no precondition on shape.
        self.unary(a, |ctx, a| unsafe { sys::ggml_cont(ctx, a) })
    }

    /// `cont` unless the tensor is contiguous already.
    pub fn dense(&mut self, a: Tensor) -> Built {
        // SAFETY: reads a live tensor.
        if unsafe { sys::ggml_is_contiguous(self.raw(a)?) } {
            Ok(a)
        } else {
            self.cont(a)
        }
    }

    /// Swap the inner two dimensions into fresh memory.
    ///
    /// ggml's own copy of a transposed F32 view moves four bytes at a time; on the CPU a tiled
    /// kernel of ours does it.
    pub fn transposed(&mut self, a: Tensor) -> Built {
        let raw = self.raw(a)?;
        // SAFETY: reads a live tensor.
        let (dtype, ne, nb) = unsafe { ((*raw).type_, (*raw).ne, (*raw).nb) };
        if self.home.is_some() || dtype != sys::GGML_TYPE_F32 || nb[0] != size_of::<f32>() {
            let view = self.transpose(a)?;
            return self.cont(view);
        }
        self.room()?;
        let mut sources = [raw];
        // SAFETY: room was checked; one live source, copied by the call; the kernel needs exactly
        // what was checked: F32 with dense rows in, and the fresh contiguous tensor of the swapped
        // shape out.
        let raw = unsafe {
            let kernel = Some(
                crate::kernels::turn
                    as unsafe extern "C" fn(*mut sys::ggml_tensor, i32, i32, *mut std::ffi::c_void),
            );
            sys::ggml_custom_4d(
                self.ctx(),
                dtype,
                ne[1],
                ne[0],
                ne[2],
                ne[3],
                sources.as_mut_ptr(),
                1,
                kernel,
                -1,
                std::ptr::null_mut(),
            )
        };
        // SAFETY: the tensor that was just made.
        unsafe { set_name(raw, "turn") };
        Ok(self.push(raw))
    }

    /// Swap the inner two dimensions, as a view.
    pub fn transpose(&mut self, a: Tensor) -> Built {
        // SAFETY: no precondition on shape.
        self.unary(a, |ctx, a| unsafe { sys::ggml_transpose(ctx, a) })
    }

    /// Dimension `i` of `a` becomes dimension `axes[i]`, as a view.
    pub fn permute(&mut self, a: Tensor, axes: [i32; 4]) -> Built {
        let mut seen = [false; 4];
        for axis in axes {
            let slot = usize::try_from(axis)
                .ok()
                .and_then(|axis| seen.get_mut(axis));
            let slot = slot.ok_or_else(|| LlamaError::Graph(format!("permute {axes:?}")))?;
            *slot = true;
        }
        if seen.contains(&false) {
            return Err(LlamaError::Graph(format!("permute {axes:?}")));
        }
        // SAFETY: the axes are a permutation of 0..4.
        self.unary(a, |ctx, a| unsafe {
            sys::ggml_permute(ctx, a, axes[0], axes[1], axes[2], axes[3])
        })
    }

    /// Read contiguous memory under another shape of as many elements.
    pub fn reshape(&mut self, a: Tensor, shape: [i64; 4]) -> Built {
        let a = self.dense(a)?;
        let have: i64 = self.shape(a)?.iter().product();
        if shape.iter().product::<i64>() != have || shape.iter().any(|n| *n < 1) {
            return Err(LlamaError::Graph(format!(
                "reshape of {have} elements to {shape:?}"
            )));
        }
        // SAFETY: contiguous, and the element counts agree.
        self.unary(a, |ctx, a| unsafe {
            sys::ggml_reshape_4d(ctx, a, shape[0], shape[1], shape[2], shape[3])
        })
    }

    /// Columns `first .. first + count` of a dense matrix, as a view.
    ///
    /// shapes: [n, m] → [n, count]
    pub fn columns(&mut self, a: Tensor, first: i64, count: i64) -> Built {
        let a = self.dense(a)?;
        let shape = self.shape(a)?;
        let [n, m, ..] = shape;
        if n * m != shape.iter().product::<i64>()
            || first < 0
            || count < 1
            || first + count > m
            || self.dtype(a)? != Dtype::F32
        {
            return Err(LlamaError::Graph(format!(
                "columns {first} + {count} of {shape:?}"
            )));
        }
        let row = usize::try_from(n).unwrap_or(0) * size_of::<f32>();
        let offset = usize::try_from(first).unwrap_or(0) * row;
        // SAFETY: a dense F32 matrix; the view ends inside it by the check above.
        self.unary(a, |ctx, a| unsafe {
            sys::ggml_view_2d(ctx, a, n, count, row, offset)
        })
    }
}
