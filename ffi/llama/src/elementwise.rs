//! Graph operations element by element, and over each row.

use llama_cpp_sys_2 as sys;

use crate::error::LlamaError;
use crate::graph::{Built, Graph, Tensor};
use crate::recurrent;

impl Graph {
    /// `b` is repeated to the shape of `a`.
    pub fn add(&mut self, a: Tensor, b: Tensor) -> Built {
        self.repeats(a, b, "add")?;
        // SAFETY: ggml_can_repeat(b, a) was checked.
        self.binary(a, b, |ctx, a, b| unsafe { sys::ggml_add(ctx, a, b) })
    }

    /// `a − b`, with `b` repeated to the shape of `a`.
    ///
    /// fails: `a` is no whole repetition of `b`.
    pub fn sub(&mut self, a: Tensor, b: Tensor) -> Built {
        self.repeats(a, b, "sub")?;
        // SAFETY: ggml_can_repeat(b, a) was checked.
        self.binary(a, b, |ctx, a, b| unsafe { sys::ggml_sub(ctx, a, b) })
    }

    /// `a ⊙ b`, with `b` repeated to the shape of `a`.
    ///
    /// fails: `a` is no whole repetition of `b`.
    pub fn mul(&mut self, a: Tensor, b: Tensor) -> Built {
        self.repeats(a, b, "mul")?;
        // SAFETY: ggml_can_repeat(b, a) was checked.
        self.binary(a, b, |ctx, a, b| unsafe { sys::ggml_mul(ctx, a, b) })
    }

    /// `a ⊘ b`, with `b` repeated to the shape of `a`.
    ///
    /// fails: `a` is no whole repetition of `b`.
    pub fn div(&mut self, a: Tensor, b: Tensor) -> Built {
        self.repeats(a, b, "div")?;
        // SAFETY: ggml_can_repeat(b, a) was checked.
        self.binary(a, b, |ctx, a, b| unsafe { sys::ggml_div(ctx, a, b) })
    }

    /// `a * factor + bias`
    pub fn scale(&mut self, a: Tensor, factor: f32, bias: f32) -> Built {
        let a = self.dense(a)?;
        let (raw, shape) = (self.raw(a)?, self.shape(a)?);
        // SAFETY: reads a live tensor. ggml also looks at the strides of axes of one element, which
        // contiguity says nothing of.
        let strides = unsafe { (*raw).nb };
        let padded = (1..3).all(|axis| {
            strides[axis + 1] == strides[axis] * usize::try_from(shape[axis]).unwrap_or(0)
        });
        let a = if padded { a } else { self.cont(a)? };
        // SAFETY: contiguity with regular strides is what ggml asserts.
        self.unary(a, |ctx, a| unsafe {
            sys::ggml_scale_bias(ctx, a, factor, bias)
        })
    }

    /// x², element by element.
    pub fn sqr(&mut self, a: Tensor) -> Built {
        // SAFETY: no precondition on shape.
        self.unary(a, |ctx, a| unsafe { sys::ggml_sqr(ctx, a) })
    }

    /// √x, element by element.
    pub fn sqrt(&mut self, a: Tensor) -> Built {
        // SAFETY: no precondition on shape.
        self.unary(a, |ctx, a| unsafe { sys::ggml_sqrt(ctx, a) })
    }

    /// 1 / (1 + e⁻ˣ), element by element.
    pub fn sigmoid(&mut self, a: Tensor) -> Built {
        let a = self.dense(a)?;
        // SAFETY: contiguity is what ggml asserts and `dense` gives.
        self.unary(a, |ctx, a| unsafe { sys::ggml_sigmoid(ctx, a) })
    }

    /// shapes: [n, …] → [1, …]
    pub fn sum_rows(&mut self, a: Tensor) -> Built {
        // SAFETY: no precondition on shape.
        self.unary(a, |ctx, a| unsafe { sys::ggml_sum_rows(ctx, a) })
    }

    /// Over the innermost dimension, without mask or scale.
    pub fn soft_max(&mut self, a: Tensor) -> Built {
        let a = self.dense(a)?;
        // SAFETY: contiguity is what ggml asserts and `dense` gives.
        self.unary(a, |ctx, a| unsafe { sys::ggml_soft_max(ctx, a) })
    }

    /// tanh x, element by element.
    pub fn tanh(&mut self, a: Tensor) -> Built {
        let a = self.dense(a)?;
        // SAFETY: contiguity is what ggml asserts and `dense` gives.
        self.unary(a, |ctx, a| unsafe { sys::ggml_tanh(ctx, a) })
    }

    /// eˣ, element by element.
    pub fn exp(&mut self, a: Tensor) -> Built {
        let a = self.dense(a)?;
        // SAFETY: as in `tanh`.
        self.unary(a, |ctx, a| unsafe { sys::ggml_exp(ctx, a) })
    }

    /// 1 above zero, 0 elsewhere.
    pub fn step(&mut self, a: Tensor) -> Built {
        let a = self.dense(a)?;
        // SAFETY: as in `tanh`.
        self.unary(a, |ctx, a| unsafe { sys::ggml_step(ctx, a) })
    }

    /// −1, 0 or 1.
    pub fn sgn(&mut self, a: Tensor) -> Built {
        let a = self.dense(a)?;
        // SAFETY: as in `tanh`.
        self.unary(a, |ctx, a| unsafe { sys::ggml_sgn(ctx, a) })
    }

    /// x Φ(x) with the exact normal distribution Φ.
    pub fn gelu_erf(&mut self, a: Tensor) -> Built {
        let a = self.dense(a)?;
        // SAFETY: as in `tanh`.
        self.unary(a, |ctx, a| unsafe { sys::ggml_gelu_erf(ctx, a) })
    }

    /// Φ(x), the normal distribution.
    ///
    /// ggml has it only inside its GELU, which is zero at zero and tells nothing there: a CPU
    /// kernel.
    pub fn phi(&mut self, a: Tensor) -> Built {
        let a = self.to_f32(a)?;
        let shape = self.shape(a)?;
        self.kernel(&[a], shape, (recurrent::phi, "phi"))
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

    fn repeats(&self, a: Tensor, b: Tensor, what: &str) -> Result<(), LlamaError> {
        let (sa, sb) = (self.shape(a)?, self.shape(b)?);
        if sa.iter().zip(&sb).any(|(a, b)| a % b != 0) {
            return Err(LlamaError::Graph(format!("{what} of {sa:?} and {sb:?}")));
        }
        Ok(())
    }
}
