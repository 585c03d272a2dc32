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
        if n * m != shape.iter().product::<i64>() || first < 0 || count < 1 || first + count > m || self.dtype(a)? != Dtype::F32 {
            return Err(LlamaError::Graph(format!("columns {first} + {count} of {shape:?}")));
        }
        let row = usize::try_from(n).unwrap_or(0) * size_of::<f32>();
        let offset = usize::try_from(first).unwrap_or(0) * row;
        // SAFETY: a dense F32 matrix; the view ends inside it by the check above.
        self.unary(a, |ctx, a| unsafe { sys::ggml_view_2d(ctx, a, n, count, row, offset) })
    }

    /// `b` after `a` along the second dimension.
    ///
    /// shapes: F32 [n, m] and [n, k] → [n, m + k]
    pub fn beside(&mut self, a: Tensor, b: Tensor) -> Built {
        let (sa, sb) = (self.shape(a)?, self.shape(b)?);
        if sa[0] != sb[0] || sa[2..] != sb[2..] || self.dtype(a)? != Dtype::F32 || self.dtype(b)? != Dtype::F32 {
            return Err(LlamaError::Graph(format!("{sb:?} beside {sa:?}")));
        }
        // SAFETY: ggml asks for equal types and equal sizes in all dimensions but this one.
        self.binary(a, b, |ctx, a, b| unsafe { sys::ggml_concat(ctx, a, b, 1) })
    }

    /// Overwrite the rows `ids` of `into` with those of `rows`. The result shares the memory of `into`: what must read the old values has
    /// to come first, which is so where `rows` depends on it.
    ///
    /// shapes: F32 `into [n, m]`, `rows [n, k]`, I32 `ids [k]` → [n, m]
    pub fn set_rows(&mut self, into: Tensor, rows: Tensor, ids: Tensor) -> Built {
        let (si, sr, sk) = (self.shape(into)?, self.shape(rows)?, self.shape(ids)?);
        let flat = si[2..] == [1, 1] && sr[2..] == [1, 1] && sk[1..] == [1, 1, 1];
        let floats = self.dtype(into)? == Dtype::F32 && self.dtype(rows)? == Dtype::F32 && self.dtype(ids)? == Dtype::I32;
        if !flat || !floats || si[0] != sr[0] || sr[1] != sk[0] {
            return Err(LlamaError::Graph(format!("set_rows of {si:?} to {sr:?} by {sk:?}")));
        }
        let (into, rows) = (self.dense(into)?, self.dense(rows)?);
        let ids = self.raw(ids)?;
        // SAFETY: ggml's shape and type conditions hold. The ids' values are the caller's to check before each run (`Compute::set_ids`).
        self.binary(into, rows, |ctx, into, rows| unsafe { sys::ggml_set_rows(ctx, into, rows, ids) })
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
