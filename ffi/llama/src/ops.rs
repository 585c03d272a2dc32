//! More operations for graphs: what the gradients of the rarer architectures are made of.

use std::ffi::c_void;

use llama_cpp_sys_2 as sys;

use crate::error::LlamaError;
use crate::graph::{Built, Dtype, Graph, Tensor, set_name};
use crate::op::Op;
use crate::recurrent;
use crate::trace::Node;

/// A CPU kernel as ggml calls it: target, number of the thread, threads, nothing.
type Kernel = unsafe extern "C" fn(*mut sys::ggml_tensor, i32, i32, *mut c_void);

impl Graph {
    /// `b` after `a` along `axis`.
    pub fn join(&mut self, a: Tensor, b: Tensor, axis: usize) -> Built {
        let (a, b) = (self.dense(a)?, self.dense(b)?);
        let (sa, sb) = (self.shape(a)?, self.shape(b)?);
        let differs = (0..4).any(|i| i != axis && sa[i] != sb[i]);
        if axis > 3 || differs || self.dtype(a)? != self.dtype(b)? {
            return Err(LlamaError::Graph(format!(
                "{sb:?} after {sa:?} along {axis}"
            )));
        }
        let axis = i32::try_from(axis).unwrap_or(0);
        // SAFETY: equal types, and equal sizes but along the axis, as ggml requires.
        self.binary(a, b, |ctx, a, b| unsafe {
            sys::ggml_concat(ctx, a, b, axis)
        })
    }

    /// The values as F32, whatever they are, contiguous.
    pub fn to_f32(&mut self, a: Tensor) -> Built {
        if self.dtype(a)? == Dtype::F32 {
            return self.dense(a);
        }
        // SAFETY: no precondition on shape; every type converts to F32.
        self.unary(a, |ctx, a| unsafe {
            sys::ggml_cast(ctx, a, sys::GGML_TYPE_F32)
        })
    }

    /// The values as F16, contiguous; of a view, too.
    pub fn to_f16(&mut self, a: Tensor) -> Built {
        // SAFETY: no precondition on shape; F32 converts to F16.
        self.unary(a, |ctx, a| unsafe {
            sys::ggml_cast(ctx, a, sys::GGML_TYPE_F16)
        })
    }

    /// Tile `a` to a shape whose sizes are multiples of its own.
    pub fn repeat(&mut self, a: Tensor, shape: [i64; 4]) -> Built {
        let have = self.shape(a)?;
        if have == shape {
            return Ok(a);
        }
        if shape.iter().zip(&have).any(|(want, have)| want % have != 0) {
            return Err(LlamaError::Graph(format!(
                "repeat of {have:?} to {shape:?}"
            )));
        }
        let a = self.dense(a)?;
        // SAFETY: the sizes are multiples, which is what ggml asserts.
        self.unary(a, |ctx, a| unsafe {
            sys::ggml_repeat_4d(ctx, a, shape[0], shape[1], shape[2], shape[3])
        })
    }

    /// The part of `a` that begins at `start` in dimension `axis` and is `length` long, as a view.
    pub fn slice(&mut self, a: Tensor, axis: usize, start: i64, length: i64) -> Built {
        let mut shape = self.shape(a)?;
        if axis > 3 || start < 0 || length < 1 || start + length > shape[axis] {
            return Err(LlamaError::Graph(format!(
                "{length} of {shape:?} from {start} along {axis}"
            )));
        }
        shape[axis] = length;
        // SAFETY: reads a live tensor; the part lies inside it by the check above.
        self.unary(a, |ctx, a| unsafe {
            let [_, b1, b2, b3] = (*a).nb;
            let offset = usize::try_from(start).unwrap_or(0) * (*a).nb[axis];
            let view = sys::ggml_view_4d(
                ctx, a, shape[0], shape[1], shape[2], shape[3], b1, b2, b3, offset,
            );
            (*view).nb[0] = (*a).nb[0];
            view
        })
    }

    /// `whole`, with `part` added to the elements that a view of these strides and this offset has.
    ///
    /// shapes: both F32; `whole` contiguous; the part's rows contiguous
    pub fn add_part(
        &mut self,
        whole: Tensor,
        part: Tensor,
        strides: [usize; 4],
        offset: usize,
    ) -> Built {
        let (whole, part) = (self.dense(whole)?, self.dense(part)?);
        let (sw, sp) = (self.shape(whole)?, self.shape(part)?);
        let last: usize = strides
            .iter()
            .zip(&sp)
            .map(|(b, n)| b * usize::try_from(n - 1).unwrap_or(0))
            .sum();
        let bytes = usize::try_from(sw.iter().product::<i64>()).unwrap_or(0) * size_of::<f32>();
        let floats = self.dtype(whole)? == Dtype::F32 && self.dtype(part)? == Dtype::F32;
        if !floats || strides[0] != size_of::<f32>() || offset + last + size_of::<f32>() > bytes {
            return Err(LlamaError::Graph(format!(
                "a part {sp:?} at {offset} of {sw:?}"
            )));
        }
        let [_, b1, b2, b3] = strides;
        // SAFETY: both contiguous F32, the part inside the whole by the check above.
        self.binary(whole, part, |ctx, a, b| unsafe {
            sys::ggml_acc(ctx, a, b, b1, b2, b3, offset)
        })
    }

    /// `target` with the rows `ids` replaced by `rows`, a choice for each of the outer entries. The
    /// result shares the memory of `target`: what must read the old values has to come first, which
    /// is so where `rows` depends on it.
    ///
    /// shapes: F32 target [n, m, p], rows [n, k, p], I32 ids [k, p]; ids below m are the caller's
    /// promise
    pub fn set_rows(&mut self, target: Tensor, rows: Tensor, ids: Tensor) -> Built {
        let (target, rows, ids) = (self.dense(target)?, self.dense(rows)?, self.dense(ids)?);
        let (st, sr, si) = (self.shape(target)?, self.shape(rows)?, self.shape(ids)?);
        let fits = st[0] == sr[0]
            && st[2] == sr[2]
            && st[3] == sr[3]
            && sr[1] == si[0]
            && sr[2] == si[1]
            && si[2] == 1
            && si[3] == 1;
        let types = self.dtype(rows)? == Dtype::F32
            && self.dtype(target)? == Dtype::F32
            && self.dtype(ids)? == Dtype::I32;
        if !fits || !types {
            return Err(LlamaError::Graph(format!(
                "set_rows of {sr:?} by {si:?} in {st:?}"
            )));
        }
        self.room()?;
        let (target, rows, ids) = (self.raw(target)?, self.raw(rows)?, self.raw(ids)?);
        // SAFETY: room was checked; shapes and types are those that ggml asserts.
        let raw = unsafe { sys::ggml_set_rows(self.ctx(), target, rows, ids) };
        Ok(self.push(raw))
    }

    /// Gradient of a traced ROPE for its first operand. `positions` and `factors` are this graph's
    /// tensors for the node's operands 1 and 2.
    pub fn rope_back(
        &mut self,
        node: &Node,
        gradient: Tensor,
        positions: Tensor,
        factors: Option<Tensor>,
    ) -> Built {
        if node.op != Op::Rope || self.shape(gradient)? != node.shape {
            return Err(LlamaError::Graph(format!(
                "{} is no rope of the gradient's shape",
                node.name
            )));
        }
        let gradient = self.dense(gradient)?;
        let mut sources = [std::ptr::null_mut(); 10];
        sources[0] = self.raw(gradient)?;
        sources[1] = self.raw(positions)?;
        sources[2] = factors
            .map(|factors| self.raw(factors))
            .transpose()?
            .unwrap_or(std::ptr::null_mut());
        self.room()?;
        let [n0, n1, n2, n3] = node.shape;
        // SAFETY: room was checked; operands and parameters are those of the forward node, which
        // llama.cpp built through ggml's own checks, with a contiguous gradient of its shape in
        // place of the first; so every variant of rope keeps what it has.
        let raw = unsafe {
            let raw = sys::ggml_new_tensor_4d(self.ctx(), sys::GGML_TYPE_F32, n0, n1, n2, n3);
            (*raw).op = sys::GGML_OP_ROPE_BACK;
            (*raw).op_params = node.parameters;
            (*raw).src = sources;
            raw
        };
        Ok(self.push(raw))
    }

    /// Gradient of a short convolution for its input.
    ///
    /// shapes: dy [channels, tokens, sequences], weights [taps, channels] → [taps − 1 + tokens,
    /// channels, sequences]
    pub fn ssm_conv_back(&mut self, dy: Tensor, weights: Tensor) -> Built {
        let (dy, weights) = (self.to_f32(dy)?, self.to_f32(weights)?);
        let (sd, sw) = (self.shape(dy)?, self.shape(weights)?);
        if sd[0] != sw[1] || sd[3] != 1 {
            return Err(LlamaError::Graph(format!("ssm_conv of {sd:?} by {sw:?}")));
        }
        self.kernel(
            &[dy, weights],
            [sw[0] - 1 + sd[1], sd[0], sd[2], 1],
            (recurrent::ssm_conv_back, "ssm_conv_back"),
        )
    }

    /// Gradient of a gated delta net for q, k, v, g and β, one after the other in one row.
    ///
    /// shapes: q, k [s, g, t], v, dy [s, h, t], gates [1 or s, h, t], β [1, h, t]; the state begins
    /// at zero
    pub fn gated_delta_net_back(&mut self, operands: [Tensor; 5], dy: Tensor) -> Built {
        let mut sources = Vec::new();
        for operand in operands.into_iter().chain([dy]) {
            sources.push(self.to_f32(operand)?);
        }
        let shapes = sources
            .iter()
            .map(|source| self.shape(*source))
            .collect::<Result<Vec<_>, _>>()?;
        let [q, k, v, gate, beta, dy] = shapes[..] else {
            return Err(LlamaError::Graph("six operands".into()));
        };
        let [s, h, t, one] = v;
        let gates = (gate[0] == 1 || gate[0] == s) && gate[1..] == v[1..];
        let fits = one == 1
            && q == k
            && q[0] == s
            && q[2] == t
            && q[3] == 1
            && h % q[1] == 0
            && dy == v
            && beta == [1, h, t, 1];
        if !gates || !fits {
            return Err(LlamaError::Graph(format!("gated delta net of {shapes:?}")));
        }
        let length = shapes[..5]
            .iter()
            .map(|shape| shape.iter().product::<i64>())
            .sum();
        self.kernel(
            &sources,
            [length, 1, 1, 1],
            (recurrent::gated_delta_net_back, "gated_delta_net_back"),
        )
    }

    /// Gradient of a selective scan for x, dt, B and C, one after the other in one row.
    ///
    /// shapes: x, dy [d, h, t], dt [h, t], A [n or 1, h], B, C [n, g, t]; the state begins at zero
    pub fn ssm_scan_back(&mut self, operands: [Tensor; 5], dy: Tensor) -> Built {
        let mut sources = Vec::new();
        for operand in operands.into_iter().chain([dy]) {
            sources.push(self.to_f32(operand)?);
        }
        let shapes = sources
            .iter()
            .map(|source| self.shape(*source))
            .collect::<Result<Vec<_>, _>>()?;
        let [x, dt, a, b, c, dy] = shapes[..] else {
            return Err(LlamaError::Graph("six operands".into()));
        };
        let [_, h, t, one] = x;
        let states = a[0] == 1 || a[0] == b[0];
        let fits = one == 1
            && dt == [h, t, 1, 1]
            && a[1] == h
            && b == c
            && b[2] == t
            && b[3] == 1
            && h % b[1] == 0
            && dy == x;
        if !states || !fits {
            return Err(LlamaError::Graph(format!("selective scan of {shapes:?}")));
        }
        let length = [x, dt, b, c]
            .iter()
            .map(|shape| shape.iter().product::<i64>())
            .sum();
        self.kernel(
            &sources,
            [length, 1, 1, 1],
            (recurrent::ssm_scan_back, "ssm_scan_back"),
        )
    }

    /// Gradient of a product with chosen matrices for its input, one row for each token and chosen
    /// matrix.
    ///
    /// shapes: weights [k, m, experts], dy [m, chosen, t], I32 ids [chosen, t] → [k, chosen, t]
    pub fn mul_mat_id_back(&mut self, weights: Tensor, dy: Tensor, ids: Tensor) -> Built {
        let (dy, ids) = (self.to_f32(dy)?, self.dense(ids)?);
        let (sw, sd, si) = (self.shape(weights)?, self.shape(dy)?, self.shape(ids)?);
        self.chosen(sd, si, ids)?;
        if sw[1] != sd[0] || sw[3] != 1 {
            return Err(LlamaError::Graph(format!(
                "mul_mat_id of {sw:?} and {sd:?}"
            )));
        }
        self.kernel(
            &[weights, dy, ids],
            [sw[0], sd[1], sd[2], 1],
            (recurrent::mul_mat_id_back, "mul_mat_id_back"),
        )
    }

    /// Gradient of a product with chosen matrices for the matrices.
    ///
    /// shapes: x [k, chosen or 1, t], dy [m, chosen, t], I32 ids [chosen, t] → [k, m, experts]
    pub fn mul_mat_id_weights(
        &mut self,
        x: Tensor,
        dy: Tensor,
        ids: Tensor,
        experts: i64,
    ) -> Built {
        let (x, dy, ids) = (self.to_f32(x)?, self.to_f32(dy)?, self.dense(ids)?);
        let (sx, sd, si) = (self.shape(x)?, self.shape(dy)?, self.shape(ids)?);
        self.chosen(sd, si, ids)?;
        if sx[2] != sd[2] || sx[3] != 1 || (sx[1] != 1 && sx[1] != sd[1]) || experts < 1 {
            return Err(LlamaError::Graph(format!(
                "mul_mat_id of {sx:?} and {sd:?}"
            )));
        }
        self.kernel(
            &[x, dy, ids],
            [sx[0], sd[0], experts, 1],
            (recurrent::mul_mat_id_weights, "mul_mat_id_weights"),
        )
    }

    fn chosen(&self, dy: [i64; 4], ids: [i64; 4], tensor: Tensor) -> Result<(), LlamaError> {
        if dy[3] == 1 && ids == [dy[1], dy[2], 1, 1] && self.dtype(tensor)? == Dtype::I32 {
            return Ok(());
        }
        Err(LlamaError::Graph(format!("choices {ids:?} for {dy:?}")))
    }

    /// A CPU kernel over contiguous operands (the first may be quantized where the kernel says so),
    /// with a fresh F32 result.
    pub(crate) fn kernel(
        &mut self,
        sources: &[Tensor],
        shape: [i64; 4],
        (kernel, name): (Kernel, &str),
    ) -> Built {
        self.room()?;
        let mut raws = sources
            .iter()
            .map(|source| self.raw(*source))
            .collect::<Result<Vec<_>, _>>()?;
        let [n0, n1, n2, n3] = shape;
        let count = i32::try_from(raws.len()).unwrap_or(0);
        // SAFETY: room was checked; live sources, copied by the call; the callers checked the
        // shapes and types that the kernel needs.
        let raw = unsafe {
            let (kernel, nothing) = (Some(kernel), std::ptr::null_mut());
            let raw = sys::ggml_custom_4d(
                self.ctx(),
                sys::GGML_TYPE_F32,
                n0,
                n1,
                n2,
                n3,
                raws.as_mut_ptr(),
                count,
                kernel,
                -1,
                nothing,
            );
            set_name(raw, name);
            raw
        };
        Ok(self.push(raw))
    }
}
