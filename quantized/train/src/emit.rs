//! Emits the operations of a trace into a graph: each once for the forward pass, some once more for
//! the backward pass.

use translora_llama::{Graph, Op, Tensor, Trace};

use crate::error::TrainError;
use crate::weights::Weights;

/// What an emitted operation depends on besides its operands.
#[derive(Clone, Copy)]
pub(crate) struct Emit<'a> {
    pub trace: &'a Trace,
    /// Nodes whose value depends on an adapter matrix.
    pub needs: &'a [bool],
    pub weights: &'a Weights,
    /// Products with an A read their input with a mask on it.
    pub dropping: bool,
}

impl Emit<'_> {
    /// The value of the traced node `i`, which is no leaf, from those of its operands.
    pub fn value(
        &self,
        graph: &mut Graph,
        i: usize,
        values: &mut [Option<Tensor>],
    ) -> Result<Tensor, TrainError> {
        let node = &self.trace.nodes[i];
        let sources: Vec<Option<Tensor>> = node
            .sources
            .iter()
            .map(|source| source.and_then(|source| values[source]))
            .collect();
        if matches!(node.op, Op::Store | Op::StoreTransposed) {
            let value = sources
                .first()
                .copied()
                .flatten()
                .ok_or_else(|| TrainError::not_emitted(node))?;
            let mut value = graph.to_f32(value)?;
            if node.op == Op::StoreTransposed {
                let tokens = i64::from(self.trace.tokens);
                let rows = graph.reshape(value, [node.elements() / tokens, tokens, 1, 1])?;
                value = graph.transposed(rows)?;
            }
            return Ok(graph.reshape(value, node.shape)?);
        }
        // A product that reads a masked input is not the one that the trace has.
        if let Some(product) =
            self.weights
                .product(graph, self.trace, self.needs, i, values, !self.dropping)?
        {
            return Ok(product);
        }
        let view = node.view.and_then(|(root, _)| values[root]);
        Ok(graph.replay(node, &sources, view)?)
    }

    /// The same where the second operand is read with a mask on it.
    pub fn masked_value(
        &self,
        graph: &mut Graph,
        i: usize,
        values: &mut [Option<Tensor>],
        masked: Tensor,
    ) -> Result<Tensor, TrainError> {
        let Some(input) = self.trace.nodes[i].sources.get(1).copied().flatten() else {
            return self.value(graph, i, values);
        };
        let whole = values[input].replace(masked);
        let value = self.value(graph, i, values);
        values[input] = whole;
        value
    }
}
