//! Rules for what moves values without changing them.

use translora_llama::{Node, Op, Tensor};

use super::{Backward, Done, source};
use crate::error::TrainError;

impl Backward<'_> {
    /// y repeats x or sums its rows: dx is the sum over the repetitions, or dy repeated
    pub(super) fn spread(&mut self, node: &Node, dy: Tensor) -> Done {
        if node.op == Op::Repeat {
            return self.accumulate_summed(node, 0, dy);
        }
        let shape = self.trace.nodes[source(node, 0)?].shape;
        let dx = self.graph.repeat(dy, shape)?;
        self.accumulate(node, 0, dx)
    }

    /// y = a then b along an axis
    pub(super) fn concat(&mut self, node: &Node, dy: Tensor) -> Done {
        let axis = usize::try_from(node.parameters[0]).unwrap_or(0);
        let mut start = 0;
        for operand in [0, 1] {
            let length = self.trace.nodes[source(node, operand)?].shape[axis.min(3)];
            if self.needs_gradient(node, operand) && length > 0 {
                let part = self.graph.slice(dy, axis, start, length)?;
                let part = self.graph.cont(part)?;
                self.accumulate(node, operand, part)?;
            }
            start += length;
        }
        Ok(())
    }

    pub(super) fn rope(&mut self, node: &Node, dy: Tensor) -> Done {
        let positions = self.value(node, 1)?;
        let factors = match node.sources.get(2).copied().flatten() {
            Some(_) => Some(self.value(node, 2)?),
            None => None,
        };
        let dx = self.graph.rope_back(node, dy, positions, factors)?;
        self.accumulate(node, 0, dx)
    }

    /// y = rows of x: at the outputs, dx takes each token's row back, and zero (the padding row's
    /// gradient) elsewhere; at places that the model chose (each once), dx is zero but there
    pub(super) fn get_rows(&mut self, node: &Node, dy: Tensor) -> Done {
        let ids = &self.trace.nodes[source(node, 1)?];
        if ids.op == Op::Input && ids.name == "out_ids" {
            let [width, rows, ..] = node.shape;
            let dy = self.graph.reshape(dy, [width, rows, 1, 1])?;
            let dx = self.graph.get_rows(dy, self.output_of)?;
            return self.accumulate(node, 0, dx);
        }
        if ids.op == Op::Input {
            return Err(TrainError::no_rule(node, " by an input"));
        }
        let (x, ids) = (self.value(node, 0)?, self.value(node, 1)?);
        let zero = self.graph.scale(x, 0.0, 0.0)?;
        let dx = self.graph.set_rows(zero, dy, ids)?;
        self.accumulate(node, 0, dx)
    }

    /// y has x's elements in x's order, under another shape or in fresh memory
    pub(super) fn same_order(&mut self, node: &Node, dy: Tensor) -> Done {
        let shape = self.trace.nodes[source(node, 0)?].shape;
        let dx = self.graph.reshape(dy, shape)?;
        self.accumulate(node, 0, dx)
    }

    /// y is xᵀ, of one row of x for each token
    pub(super) fn store_transposed(&mut self, node: &Node, dy: Tensor) -> Done {
        let (tokens, dy) = (i64::from(self.trace.tokens), self.graph.dense(dy)?);
        let columns = self
            .graph
            .reshape(dy, [tokens, node.elements() / tokens, 1, 1])?;
        let rows = self.graph.transposed(columns)?;
        self.same_order(node, rows)
    }

    /// y is a part of x's memory: dx is zero but there
    pub(super) fn view(&mut self, node: &Node, dy: Tensor) -> Done {
        let x = &self.trace.nodes[source(node, 0)?];
        let start = x.view.map_or(0, |(_, offset)| offset);
        let offset = node
            .view
            .map_or(0, |(_, offset)| offset)
            .checked_sub(start)
            .ok_or_else(|| TrainError::no_rule(node, " before its source"))?;
        if offset == 0 && node.elements() == x.elements() && is_dense(node) && is_dense(x) {
            return self.same_order(node, dy);
        }
        if offset == 0 && node.shape == x.shape && node.strides == x.strides {
            return self.accumulate(node, 0, dy);
        }
        if !is_dense(x) {
            return self.view_of_strided(node, x, offset, dy);
        }
        self.accumulate_part(node, dy, node.strides, offset)
    }

    /// Add the gradient of a part of the operand into that of the whole, which begins as zeros.
    fn accumulate_part(
        &mut self,
        node: &Node,
        part: Tensor,
        strides: [usize; 4],
        offset: usize,
    ) -> Done {
        let index = source(node, 0)?;
        let whole = match self.gradients[index] {
            Some(sofar) => sofar,
            None => {
                let x = self.value(node, 0)?;
                self.graph.scale(x, 0.0, 0.0)?
            }
        };
        self.gradients[index] = Some(self.graph.add_part(whole, part, strides, offset)?);
        Ok(())
    }

    /// A part of x along its own axes, where x itself is not contiguous: the axes and the start are
    /// found from the strides.
    fn view_of_strided(&mut self, node: &Node, x: &Node, offset: usize, dy: Tensor) -> Done {
        if node.strides != x.strides {
            return Err(TrainError::no_rule(node, " across the rows of its source"));
        }
        let (mut rest, mut start) = (offset, [0_usize; 4]);
        let mut axes: Vec<usize> = (0..4).filter(|axis| x.shape[*axis] > 1).collect();
        axes.sort_by_key(|axis| std::cmp::Reverse(x.strides[*axis]));
        for axis in axes {
            start[axis] = rest / x.strides[axis].max(1);
            rest %= x.strides[axis].max(1);
        }
        let inside = (0..4).all(|axis| start[axis] as i64 + node.shape[axis] <= x.shape[axis]);
        if rest != 0 || !inside {
            return Err(TrainError::no_rule(node, " across the rows of its source"));
        }
        // In the dense gradient of x, the part has the dense strides.
        let mut dense = [size_of::<f32>(); 4];
        for axis in 1..4 {
            dense[axis] = dense[axis - 1] * usize::try_from(x.shape[axis - 1]).unwrap_or(0);
        }
        let offset = (0..4).map(|axis| start[axis] * dense[axis]).sum();
        self.accumulate_part(node, dy, dense, offset)
    }

    /// Axis i of x is axis pᵢ of y
    pub(super) fn permute(&mut self, node: &Node, dy: Tensor) -> Done {
        let dx = if node.op == Op::Transpose {
            self.graph.transpose(dy)?
        } else {
            let mut axes = [0; 4];
            for (from, to) in node.parameters[..4].iter().enumerate() {
                axes[usize::try_from(*to).unwrap_or(0)] = from as i32;
            }
            self.graph.permute(dy, axes)?
        };
        self.accumulate(node, 0, dx)
    }
}

/// The elements lie in memory in the order of the shape, without gaps.
fn is_dense(node: &Node) -> bool {
    let mut next = size_of::<f32>();
    for (size, stride) in node.shape.iter().zip(node.strides) {
        if *size > 1 && stride != next {
            return false;
        }
        next *= usize::try_from(*size).unwrap_or(0);
    }
    true
}
