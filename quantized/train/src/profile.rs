//! Where the time of training steps goes, for benchmarks.

use std::collections::BTreeMap;

use translora_llama::{Compute, Graph};

/// units: seconds, summed over all steps while time is taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepTimes {
    /// Of the graph up to the hidden state.
    pub forward: f64,
    /// Of the head: logits, losses, and the gradient for the hidden state.
    pub loss: f64,
    /// Of the rest.
    pub backward: f64,
    /// By operation and kind of operand, all three together.
    pub operations: BTreeMap<String, f64>,
}

/// Where the parts of a program's graph end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bounds {
    pub forward: usize,
    pub loss: usize,
}

impl StepTimes {
    /// Add the run of `graph` that `compute` just timed.
    pub(crate) fn add(&mut self, graph: &Graph, bounds: Bounds, compute: &Compute) {
        for (place, seconds) in compute.times().iter().enumerate() {
            let part = match place {
                _ if place < bounds.forward => &mut self.forward,
                _ if place < bounds.loss => &mut self.loss,
                _ => &mut self.backward,
            };
            *part += seconds;
            *self.operations.entry(graph.describe(place)).or_default() += seconds;
        }
    }
}
