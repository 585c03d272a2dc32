//! Rules for recurrences, which run from a state of zeros over the tokens of one sequence.

use translora_llama::{Node, Tensor};

use super::{Backward, Done, source};
use crate::error::TrainError;

impl Backward<'_> {
    /// y[c, t] = Σⱼ w[j, c] x[t + j, c]
    pub(super) fn ssm_conv(&mut self, node: &Node, dy: Tensor) -> Done {
        if self.needs_gradient(node, 1) {
            return Err(TrainError::no_rule(node, " with trained taps"));
        }
        let weights = self.value(node, 1)?;
        let dx = self.graph.ssm_conv_back(dy, weights)?;
        self.accumulate(node, 0, dx)
    }

    /// The result holds y and then the last states, which nobody reads in training.
    pub(super) fn ssm_scan(&mut self, node: &Node, dy: Tensor) -> Done {
        if self.needs_gradient(node, 0) || self.needs_gradient(node, 3) {
            return Err(TrainError::no_rule(node, " with a trained state"));
        }
        let x = self.trace.nodes[source(node, 1)?].shape;
        let dy = self.first(dy, x)?;
        let operands = self.operands(node, [1, 2, 3, 4, 5])?;
        let all = self.graph.ssm_scan_back(operands, dy)?;
        self.accumulate_slices(node, [1, 2, 4, 5], all)
    }

    /// As `ssm_scan`: the outputs come first, the states after them.
    pub(super) fn gated_delta_net(&mut self, node: &Node, dy: Tensor) -> Done {
        if self.needs_gradient(node, 5) {
            return Err(TrainError::no_rule(node, " with a trained state"));
        }
        let v = self.trace.nodes[source(node, 2)?].shape;
        let dy = self.first(dy, v)?;
        let operands = self.operands(node, [0, 1, 2, 3, 4])?;
        let all = self.graph.gated_delta_net_back(operands, dy)?;
        self.accumulate_slices(node, [0, 1, 2, 3, 4], all)
    }

    fn operands<const N: usize>(
        &mut self,
        node: &Node,
        places: [usize; N],
    ) -> Result<[Tensor; N], TrainError> {
        let mut found = Vec::with_capacity(N);
        for place in places {
            found.push(self.value(node, place)?);
        }
        found
            .try_into()
            .map_err(|_| TrainError::internal("an operand for each place"))
    }

    /// As many numbers as `shape` has, from the front.
    fn first(&mut self, a: Tensor, shape: [i64; 4]) -> Result<Tensor, TrainError> {
        let length = self.graph.shape(a)?.iter().product();
        let flat = self.graph.reshape(a, [length, 1, 1, 1])?;
        let part = self.graph.slice(flat, 0, 0, shape.iter().product())?;
        Ok(self.graph.reshape(part, shape)?)
    }

    /// Deal out gradients that stand one after the other in one row.
    fn accumulate_slices<const N: usize>(
        &mut self,
        node: &Node,
        places: [usize; N],
        all: Tensor,
    ) -> Done {
        let mut start = 0;
        for place in places {
            let shape = self.trace.nodes[source(node, place)?].shape;
            let length = shape.iter().product();
            if self.needs_gradient(node, place) {
                let part = self.graph.slice(all, 0, start, length)?;
                let part = self.graph.reshape(part, shape)?;
                self.accumulate(node, place, part)?;
            }
            start += length;
        }
        Ok(())
    }
}
