//! Rules for products with matrices.

use translora_llama::{Node, Op, Tensor};

use super::{Backward, Done, source};
use crate::error::TrainError;

impl Backward<'_> {
    /// y = aᵀ b: db = a dy; da = b dyᵀ, summed over the heads that share one `a`
    ///
    /// shapes: a [k, m, g, p], b [k, n, h, p], y [m, n, h, p] with h a multiple of g
    pub(super) fn mul_mat(&mut self, node: &Node, dy: Tensor) -> Done {
        if let Some(kernel) = self.weights.direct() {
            return self.mul_mat_direct(node, dy, kernel);
        }
        // ggml's fast F32 product wants its second operand contiguous; gradients of permuted heads
        // are not.
        let dy = self.graph.dense(dy)?;
        if self.needs_gradient(node, 1) {
            let db = self.right_gradient(node, dy)?;
            self.accumulate(node, 1, db)?;
        }
        if self.needs_gradient(node, 0) {
            let [_, _, g, p] = self.trace.nodes[source(node, 0)?].shape;
            let b = self.value(node, 1)?;
            let [k, n, h, outer] = self.graph.shape(b)?;
            let m = node.shape[0];
            if outer != p {
                return Err(TrainError::no_rule(
                    node,
                    " with a matrix for several outer batches",
                ));
            }
            let folded = n * h / g;
            let b = self.graph.reshape(b, [k, folded, g, p])?;
            let dy = self.graph.reshape(dy, [m, folded, g, p])?;
            let (b, dy) = (self.transposed(b)?, self.transposed(dy)?);
            let da = self.graph.mul_mat(b, dy)?;
            self.accumulate(node, 0, da)?;
        }
        Ok(())
    }

    /// W dy for a frozen weight, by whatever reads it; else a product with the first operand
    /// transposed here.
    pub(super) fn right_gradient(&mut self, node: &Node, dy: Tensor) -> Result<Tensor, TrainError> {
        let index = source(node, 0)?;
        let (a, tensor) = (&self.trace.nodes[index], self.value(node, 0)?);
        if a.op == Op::Weight && !self.needs[index] && a.shape[2..] == [1, 1] {
            let product = self.weights.transposed_product(self.graph, a, tensor, dy)?;
            return product.ok_or_else(|| {
                TrainError::internal(format!("{:?} has no transposed copy", a.name))
            });
        }
        let floats = self.graph.to_f32(tensor)?;
        let transposed = self.transposed(floats)?;
        Ok(self.graph.mul_mat(transposed, dy)?)
    }

    /// y = aᵀ b with an `a` chosen for each row of y; the choice is fixed
    ///
    /// shapes: a [k, m, experts], b [k, chosen or 1, t], ids [chosen, t], y [m, chosen, t]
    pub(super) fn mul_mat_id(&mut self, node: &Node, dy: Tensor) -> Done {
        let dy = self.graph.dense(dy)?;
        let ids = self.value(node, 2)?;
        let weights = self.value(node, 0)?;
        if self.needs_gradient(node, 1) {
            let db = match self.weights.direct() {
                Some(kernel) => self.graph.experts_back(kernel, weights, dy, ids)?,
                None => self.graph.mul_mat_id_back(weights, dy, ids)?,
            };
            self.accumulate_summed(node, 1, db)?;
        }
        if self.needs_gradient(node, 0) {
            let b = self.value(node, 1)?;
            let experts = self.graph.shape(weights)?[2];
            let da = match self.weights.direct() {
                Some(kernel) => self.graph.experts_weights(kernel, b, dy, ids, experts)?,
                None => self.graph.mul_mat_id_weights(b, dy, ids, experts)?,
            };
            self.accumulate(node, 0, da)?;
        }
        Ok(())
    }
}
