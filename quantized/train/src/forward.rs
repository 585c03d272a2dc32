//! Builds the forward pass of a program: the nodes of a trace in a graph, its inputs, its masks.

use std::collections::HashMap;

use translora_llama::{Dtype, Graph, Node, Op, Storage, Tensor};

use crate::dropout::Mask;
use crate::emit::Emit;
use crate::error::TrainError;
use crate::inputs::Feed;
use crate::reach::AdapterIndex;
use crate::tracer::Traced;

/// A forward pass under construction.
pub(crate) struct Forward<'a> {
    graph: &'a mut Graph,
    traced: &'a Traced<'a>,
    live: &'a [bool],
    emit: Emit<'a>,
    adapter: &'a Storage,
    index: &'a AdapterIndex,
    pub forward: Vec<Option<Tensor>>,
    pub inputs: Vec<Feed>,
    /// By the index of the A whose product reads it.
    pub masks: HashMap<usize, Mask>,
    pub frozen: Vec<Tensor>,
}

impl<'a> Forward<'a> {
    /// Nothing yet. `live` is what the logits of the whole trace depend on.
    pub fn new(
        graph: &'a mut Graph,
        traced: &'a Traced<'a>,
        live: &'a [bool],
        emit: Emit<'a>,
        adapter: &'a Storage,
        index: &'a AdapterIndex,
    ) -> Self {
        let (forward, inputs, masks, frozen) = (
            vec![None; traced.trace.nodes.len()],
            Vec::new(),
            HashMap::new(),
            Vec::new(),
        );
        Self {
            graph,
            traced,
            live,
            emit,
            adapter,
            index,
            forward,
            inputs,
            masks,
            frozen,
        }
    }

    /// Take the values of the nodes `frozen` as inputs, and compute the nodes `computed` in their
    /// order.
    pub fn emit(
        &mut self,
        frozen: &[usize],
        computed: impl Iterator<Item = usize>,
    ) -> Result<(), TrainError> {
        for i in frozen {
            let node = &self.traced.trace.nodes[*i];
            let tensor = self.graph.input(Dtype::F32, &node.shape, &node.name)?;
            self.frozen.push(tensor);
            self.forward[*i] = Some(tensor);
        }
        for i in computed {
            if self.forward[i].is_none() {
                self.node(i)?;
            }
        }
        Ok(())
    }

    fn node(&mut self, i: usize) -> Result<(), TrainError> {
        let trace = &self.traced.trace;
        let node = &trace.nodes[i];
        if self.traced.broken.contains(&i) {
            return Err(TrainError::NoRule {
                op: "a partly written memory".into(),
                node: node.name.clone(),
                position: i,
            });
        }
        let tensor = match node.op {
            Op::Weight => match self.index.get(&node.name) {
                Some(slot) => self.graph.stored(self.adapter, *slot)?,
                None => self.graph.weight(trace, node)?,
            },
            Op::Input | Op::State => {
                let feed = Feed::new(self.graph, self.traced.pair, self.live, i, node)?;
                let tensor = feed.tensor();
                self.inputs.push(feed);
                tensor
            }
            _ => self.compute(i, node)?,
        };
        self.forward[i] = Some(tensor);
        Ok(())
    }

    /// A node that computes something: the product with an A reads its input with a mask on it
    /// where there is dropout.
    fn compute(&mut self, i: usize, node: &Node) -> Result<Tensor, TrainError> {
        let a = node.sources.first().copied().flatten();
        let input = node
            .sources
            .get(1)
            .copied()
            .flatten()
            .and_then(|input| self.forward[input]);
        let (true, Some(a), Some(input)) = (self.emit.dropping, a, input) else {
            return self.emit.value(self.graph, i, &mut self.forward);
        };
        let name = &self.traced.trace.nodes[a].name;
        let Some(slot) = self.index.get(name).filter(|_| name.ends_with(".lora_a")) else {
            return self.emit.value(self.graph, i, &mut self.forward);
        };
        let mask = Mask::new(self.graph, input, *slot)?;
        self.masks.insert(a, mask);
        self.emit
            .masked_value(self.graph, i, &mut self.forward, mask.masked)
    }
}
