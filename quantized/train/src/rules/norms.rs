//! Rules for what normalizes over rows.

use translora_llama::{Node, Tensor};

use super::{Backward, Done};

impl Backward<'_> {
    /// y = x / √(mean x² + ε): dx = (dy − y mean(y ⊙ dy)) / √(mean x² + ε)
    pub(super) fn rms_norm(&mut self, index: usize, node: &Node, dy: Tensor) -> Done {
        if self.weights.direct().is_some() {
            return self.rms_norm_direct(node, dy);
        }
        let (x, y) = (self.value(node, 0)?, self.emitted(index)?);
        let inverse = 1.0 / node.shape[0] as f32;
        let graph = &mut *self.graph;
        let (x, dy) = (graph.dense(x)?, graph.dense(dy)?);
        let squares = graph.sqr(x)?;
        let sum = graph.sum_rows(squares)?;
        let mean = graph.scale(sum, inverse, node.parameter_f32(0))?;
        let root = graph.sqrt(mean)?;
        let product = graph.mul(dy, y)?;
        let sum = graph.sum_rows(product)?;
        let mean = graph.scale(sum, inverse, 0.0)?;
        let along = graph.mul(y, mean)?;
        let across = graph.sub(dy, along)?;
        let dx = graph.div(across, root)?;
        self.accumulate(node, 0, dx)
    }

    /// y = (x − mean x) / σ with σ² = var x + ε: dx = (dy − mean dy − y mean(y ⊙ dy)) / σ
    pub(super) fn norm(&mut self, node: &Node, dy: Tensor) -> Done {
        let x = self.value(node, 0)?;
        let inverse = 1.0 / node.shape[0] as f32;
        let graph = &mut *self.graph;
        let (x, dy) = (graph.dense(x)?, graph.dense(dy)?);
        let sum = graph.sum_rows(x)?;
        let mean = graph.scale(sum, inverse, 0.0)?;
        let centred = graph.sub(x, mean)?;
        let squares = graph.sqr(centred)?;
        let sum = graph.sum_rows(squares)?;
        let variance = graph.scale(sum, inverse, node.parameter_f32(0))?;
        let deviation = graph.sqrt(variance)?;
        let y = graph.div(centred, deviation)?;
        let product = graph.mul(dy, y)?;
        let sum = graph.sum_rows(product)?;
        let slope = graph.scale(sum, inverse, 0.0)?;
        let along = graph.mul(y, slope)?;
        let sum = graph.sum_rows(dy)?;
        let level = graph.scale(sum, inverse, 0.0)?;
        let across = graph.sub(dy, along)?;
        let across = graph.sub(across, level)?;
        let dx = graph.div(across, deviation)?;
        self.accumulate(node, 0, dx)
    }

    /// y = x / max(|x|, ε): dx = (dy − y Σ y ⊙ dy) / |x|, for rows that are not all but zero
    pub(super) fn l2_norm(&mut self, index: usize, node: &Node, dy: Tensor) -> Done {
        let (x, y) = (self.value(node, 0)?, self.emitted(index)?);
        let epsilon = node.parameter_f32(0);
        let graph = &mut *self.graph;
        let (x, dy) = (graph.dense(x)?, graph.dense(dy)?);
        let squares = graph.sqr(x)?;
        let sum = graph.sum_rows(squares)?;
        let length = graph.sqrt(sum)?;
        let length = graph.clamp(length, epsilon, f32::MAX)?;
        let product = graph.mul(dy, y)?;
        let sum = graph.sum_rows(product)?;
        let along = graph.mul(y, sum)?;
        let across = graph.sub(dy, along)?;
        let dx = graph.div(across, length)?;
        self.accumulate(node, 0, dx)
    }

    /// y = softmax(s x + mask): dx = s y ⊙ (dy − Σ y ⊙ dy). A sink takes part in y and has no
    /// value, so it adds nothing to the sum.
    pub(super) fn soft_max(&mut self, index: usize, node: &Node, dy: Tensor) -> Done {
        let y = self.emitted(index)?;
        if self.weights.direct().is_some() {
            return self.soft_max_direct(y, node, dy);
        }
        let graph = &mut *self.graph;
        let dy = graph.dense(dy)?;
        let product = graph.mul(y, dy)?;
        let sum = graph.sum_rows(product)?;
        let centred = graph.sub(dy, sum)?;
        let dx = graph.mul(centred, y)?;
        let dx = graph.scale(dx, node.parameter_f32(0), 0.0)?;
        self.accumulate(node, 0, dx)
    }
}
