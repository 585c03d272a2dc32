//! Rules for products with matrices.

use translora_llama::{Node, Op, Tensor};

use super::{Backward, Done, no_rule, source};
use crate::error::TrainError;

impl Backward<'_> {
    /// y = aᵀ b: db = a dy; da = b dyᵀ, summed over the heads that share one `a`
    ///
    /// shapes: a [k, m, g, p], b [k, n, h, p], y [m, n, h, p] with h a multiple of g
    pub(super) fn mul_mat(&mut self, node: &Node, dy: Tensor) -> Done {
        // ggml's fast F32 product wants its second operand contiguous; gradients of permuted heads are not.
        let dy = self.graph.dense(dy)?;
        if self.wants(node, 1) {
            let turned = self.transposed_operand(node)?;
            let db = self.graph.mul_mat(turned, dy)?;
            self.give(node, 1, db)?;
        }
        if self.wants(node, 0) {
            let [_, _, g, p] = self.trace.nodes[source(node, 0)?].shape;
            let b = self.value(node, 1)?;
            let [k, n, h, outer] = self.graph.shape(b)?;
            let m = node.shape[0];
            if outer != p {
                return Err(no_rule(node, " with a matrix for several outer batches"));
            }
            let folded = n * h / g;
            let b = self.graph.reshape(b, [k, folded, g, p])?;
            let dy = self.graph.reshape(dy, [m, folded, g, p])?;
            let (b, dy) = (self.turn(b)?, self.turn(dy)?);
            let da = self.graph.mul_mat(b, dy)?;
            self.give(node, 0, da)?;
        }
        Ok(())
    }

    /// The first operand of a product, transposed: the prepared copy of a weight, or turned here.
    fn transposed_operand(&mut self, node: &Node) -> Result<Tensor, TrainError> {
        let index = source(node, 0)?;
        let a = &self.trace.nodes[index];
        if a.op == Op::Weight && !self.needs[index] {
            if let Some(copy) = self.weights.transposed(self.graph, a)? {
                return Ok(copy);
            }
        }
        let a = self.value(node, 0)?;
        let a = self.graph.to_f32(a)?;
        self.turn(a)
    }

    /// y = aᵀ b with an `a` chosen for each row of y; the choice is fixed
    ///
    /// shapes: a [k, m, experts], b [k, chosen or 1, t], ids [chosen, t], y [m, chosen, t]
    pub(super) fn mul_mat_id(&mut self, node: &Node, dy: Tensor) -> Done {
        let dy = self.graph.dense(dy)?;
        let ids = self.value(node, 2)?;
        let weights = self.value(node, 0)?;
        if self.wants(node, 1) {
            let db = self.graph.mul_mat_id_back(weights, dy, ids)?;
            self.give_folded(node, 1, db)?;
        }
        if self.wants(node, 0) {
            let b = self.value(node, 1)?;
            let experts = self.graph.shape(weights)?[2];
            let da = self.graph.mul_mat_id_weights(b, dy, ids, experts)?;
            self.give(node, 0, da)?;
        }
        Ok(())
    }
}
