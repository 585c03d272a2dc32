//! Graph operations on parts of tensors, and the elementwise ones that losses need.

use llama_cpp_sys_2 as sys;

use crate::error::LlamaError;
use crate::graph::{Dtype, Graph, Tensor};

type Built = Result<Tensor, LlamaError>;

impl Graph {
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

    /// Natural logarithm.
    pub fn log(&mut self, a: Tensor) -> Built {
        let a = self.dense(a)?;
        // SAFETY: no precondition on shape.
        self.unary(a, |ctx, a| unsafe { sys::ggml_log(ctx, a) })
    }

    /// A copy of `a` with every value in `low ..= high`.
    pub fn clamp(&mut self, a: Tensor, low: f32, high: f32) -> Built {
        // ggml's clamp writes where it reads.
        let a = self.cont(a)?;
        // SAFETY: a fresh contiguous tensor that nobody else reads.
        self.unary(a, |ctx, a| unsafe { sys::ggml_clamp(ctx, a, low, high) })
    }
}
