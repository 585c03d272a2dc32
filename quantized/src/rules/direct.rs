//! Products and their gradients by the kernels that read weights where they lie: no transposed copies, no turned operands.

use translora_llama::{Kernel, Node, Op, Tensor};

use super::{Backward, Done, no_rule, source};
use crate::error::TrainError;

impl Backward<'_> {
    /// As `mul_mat`, on views.
    ///
    /// shapes: a [k, m, g], b [k, n, h], y [m, n, h] with h a multiple of g
    pub(super) fn mul_mat_direct(&mut self, node: &Node, dy: Tensor, kernel: Kernel) -> Done {
        if self.wants(node, 1) {
            let db = self.right_gradient_direct(node, dy, kernel)?;
            self.give(node, 1, db)?;
        }
        if self.wants(node, 0) {
            let da = self.left_gradient(node, dy)?;
            self.give(node, 0, da)?;
        }
        Ok(())
    }

    /// db = a dy
    fn right_gradient_direct(&mut self, node: &Node, dy: Tensor, kernel: Kernel) -> Result<Tensor, TrainError> {
        let a = self.value(node, 0)?;
        if self.trace.nodes[source(node, 0)?].op == Op::Weight {
            return Ok(self.graph.times_turned(kernel, a, dy)?);
        }
        let turned = self.graph.transpose(a)?;
        Ok(self.graph.product(Kernel::exact(), turned, dy)?)
    }

    /// da = b dyᵀ, summed over the heads that share one `a`
    fn left_gradient(&mut self, node: &Node, dy: Tensor) -> Result<Tensor, TrainError> {
        let b = self.value(node, 1)?;
        let [k, n, h, outer] = self.graph.shape(b)?;
        let [_, m, g, _] = self.trace.nodes[source(node, 0)?].shape;
        if outer != 1 {
            return Err(no_rule(node, " with an outer batch"));
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
}
