//! Rules for the CPU's own kernels: products on views, an adapted product as one operation,
//! gradients of rows in one pass.

use translora_llama::{Kernel, Node, Op, Plus, Tensor};

use super::{Backward, Done, source};
use crate::error::TrainError;
use crate::patterns::{Adapted, attention, readers};

impl Backward<'_> {
    /// The gradients of an adapted product: dx = W dy + A dz with dz = s B dy; dA = x dzᵀ; dB = (s
    /// z) dyᵀ
    ///
    /// shapes: W [k, m], A [k, r], B [r, m], x [k, n], z = Aᵀ x [r, n], dy [m, n]
    pub(super) fn adapted_direct(
        &mut self,
        index: usize,
        found: Adapted,
        dy: Tensor,
        kernel: Kernel,
    ) -> Done {
        let dy = self.graph.dense(dy)?;
        let [weight, a, b, x] =
            [found.weight, found.a, found.b, found.x].map(|index| self.emitted(index));
        let (weight, a, b, x) = (weight?, a?, b?, x?);
        if self.values[found.small].is_none() {
            // It is computed beside the sum; what of that nobody reads is not computed.
            let kept = self.values[index].take();
            self.recompute(index)?;
            self.values[index] = kept.or(self.values[index]);
        }
        let z = self.emitted(found.small)?;
        let scale = self.trace.nodes[found.scale].parameter_f32(0);
        let dz = self.graph.times_transposed(
            kernel,
            b,
            dy,
            Plus {
                scale,
                ..Plus::NONE
            },
        )?;
        if self.needs[found.x] {
            let plus = Plus {
                adapter: Some((a, dz)),
                base: self.gradients[found.x],
                scale: 1.0,
            };
            self.gradients[found.x] = Some(self.graph.times_transposed(kernel, weight, dy, plus)?);
        }
        let [x, z, dz, dy] = [
            self.columns(x)?,
            self.columns(z)?,
            self.columns(dz)?,
            self.columns(dy)?,
        ];
        // In both the wide operand is the one whose panels are cheap to make.
        let da = self.graph.product(kernel, x, dz)?;
        let db = self.graph.product(kernel, dy, z)?;
        let db = self.graph.transposed(db)?;
        self.add_gradient(found.a, da)?;
        self.add_gradient(found.b, db)
    }

    /// All columns of a tensor as the rows of a view.
    fn columns(&mut self, x: Tensor) -> Result<Tensor, TrainError> {
        let [k, n, p, q] = self.graph.shape(x)?;
        let flat = self.graph.reshape(x, [k, n * p * q, 1, 1])?;
        Ok(self.graph.transpose(flat)?)
    }

    /// As `mul_mat`, on views.
    ///
    /// shapes: a [k, m, g], b [k, n, h], y [m, n, h] with h a multiple of g
    pub(super) fn mul_mat_direct(&mut self, node: &Node, dy: Tensor, kernel: Kernel) -> Done {
        if self.needs_gradient(node, 1) && !self.through_attention(node, dy)? {
            let db = self.right_gradient_direct(node, dy, kernel)?;
            self.accumulate(node, 1, db)?;
        }
        if self.needs_gradient(node, 0) {
            let da = self.left_gradient(node, dy)?;
            self.accumulate(node, 0, da)?;
        }
        Ok(())
    }

    /// The gradient of what attention's probabilities are multiplied with goes to their scores in
    /// one operation. False if they are not.
    fn through_attention(&mut self, node: &Node, dy: Tensor) -> Result<bool, TrainError> {
        let index = source(node, 1)?;
        let Some(scores) =
            attention(self.trace, index).filter(|_| readers(self.trace, &[index]) == 1)
        else {
            return Ok(false);
        };
        let (a, p) = (self.value(node, 0)?, self.emitted(index)?);
        let v = self.graph.transpose(a)?;
        let gradient = self
            .graph
            .attention_back(Kernel::exact(), v, dy, p, scores.scale)?;
        self.add_gradient(scores.product, gradient)?;
        Ok(true)
    }

    /// db = a dy
    fn right_gradient_direct(
        &mut self,
        node: &Node,
        dy: Tensor,
        kernel: Kernel,
    ) -> Result<Tensor, TrainError> {
        let a = self.value(node, 0)?;
        let weight = &self.trace.nodes[source(node, 0)?];
        if weight.op == Op::Weight && weight.shape[2..] == [1, 1] {
            return Ok(self.graph.times_transposed(kernel, a, dy, Plus::NONE)?);
        }
        let a = if weight.op == Op::Weight {
            self.graph.to_f32(a)?
        } else {
            a
        };
        let transposed = self.graph.transpose(a)?;
        Ok(self.graph.product(Kernel::exact(), transposed, dy)?)
    }

    /// da = b dyᵀ, summed over the heads that share one `a`
    fn left_gradient(&mut self, node: &Node, dy: Tensor) -> Result<Tensor, TrainError> {
        let b = self.value(node, 1)?;
        let [k, n, h, outer] = self.graph.shape(b)?;
        let [_, m, g, _] = self.trace.nodes[source(node, 0)?].shape;
        if outer != 1 {
            return Err(TrainError::no_rule(node, " with an outer batch"));
        }
        let (mut b, mut dy) = (b, dy);
        if g != h {
            let folded = n * h / g;
            b = self.graph.reshape(b, [k, folded, g, 1])?;
            dy = self.graph.reshape(dy, [m, folded, g, 1])?;
        }
        let (b, dy) = (self.graph.transpose(b)?, self.graph.transpose(dy)?);
        Ok(self.graph.product(Kernel::exact(), b, dy)?)
    }

    /// As `rms_norm`, onto what the operand's gradient is so far.
    pub(super) fn rms_norm_direct(&mut self, node: &Node, dy: Tensor) -> Done {
        let index = source(node, 0)?;
        if self.needs[index] {
            let x = self.value(node, 0)?;
            let dx =
                self.graph
                    .rms_norm_back(x, dy, node.parameter_f32(0), self.gradients[index])?;
            self.gradients[index] = Some(dx);
        }
        Ok(())
    }

    /// As `soft_max`.
    pub(super) fn soft_max_direct(&mut self, y: Tensor, node: &Node, dy: Tensor) -> Done {
        let dx = self.graph.soft_max_back(y, dy, node.parameter_f32(0))?;
        self.accumulate(node, 0, dx)
    }

    /// As `swiglu`.
    pub(super) fn swiglu_direct(&mut self, node: &Node, dy: Tensor) -> Done {
        let (gate, up) = (self.value(node, 0)?, self.value(node, 1)?);
        let (dg, du) = self.graph.swiglu_back(gate, up, dy)?;
        self.accumulate(node, 0, dg)?;
        self.accumulate(node, 1, du)
    }
}
