//! Turns a traced forward graph into a training graph: forward, loss, gradients.

use std::collections::HashMap;

use translora_llama::{
    Compute, Dtype, Graph, Operation, Placement, Storage, Tensor, Trace, WorkBytes,
};

use crate::dropout::Mask;
use crate::emit::Emit;
use crate::error::TrainError;
use crate::forward::Forward;
use crate::frozen::{Cache, Cut};
use crate::goal::{Goal, Purpose};
use crate::inputs::{Feed, Tables};
use crate::loss::{Head, Loss, Parts};
use crate::pack::{Example, Packed};
use crate::profile::{Bounds, StepTimes};
use crate::reach::{AdapterIndex, Reach};
use crate::rules::Backward;
use crate::tracer::Traced;
use crate::weights::Weights;

/// A training graph for fixed numbers of tokens and outputs.
pub(crate) struct Program {
    graph: Graph,
    /// Where its forward part and its loss end.
    bounds: Bounds,
    vocabulary: usize,
    outputs: usize,
    inputs: Vec<Feed>,
    output_of: Tensor,
    masks: Vec<Mask>,
    dropout: f32,
    /// Values of the frozen part that are filled in, and their numbers for one token.
    frozen_inputs: Vec<Tensor>,
    widths: Vec<usize>,
    loss: Loss,
    /// By stored index: A and B of each pair in turn.
    gradients: Vec<Tensor>,
}

/// What differs from run to run besides the examples.
#[derive(Clone, Copy)]
pub(crate) struct Pass {
    /// Every gradient is multiplied by this (F16 products need numbers away from zero).
    pub scale: f32,
    /// Decides what dropout leaves out.
    pub draw: u64,
}

/// What a run of a program yields.
pub(crate) struct Outcome {
    /// Sum over outputs of their losses, times their weights. units: nats.
    pub loss: f64,
    pub weight: f64,
    pub gradients: Vec<Vec<f32>>,
    pub logits: Vec<f32>,
    /// What ran where; none where all is the CPU's.
    pub placement: Option<Placement>,
}

impl Program {
    /// Emit forward, loss and (for `Purpose::Gradients`) gradients of a trace.
    ///
    /// fails: an operation without a backward rule between an adapter matrix and the loss.
    pub fn new(
        traced: &Traced,
        weights: &Weights,
        adapter: &Storage,
        index: &AdapterIndex,
        purpose: Purpose,
        goal: Goal,
    ) -> Result<Self, TrainError> {
        let trace = &traced.trace;
        let reach = Reach::of(trace, index);
        let Reach { live, needs, .. } = &reach;
        let output = &trace.nodes[trace.output];
        let [vocabulary, outputs, ..] = output.shape;
        let head = Head::find(trace, needs);
        let mut graph = weights
            .graph(trace.nodes.len() * 28 + 256 + head.nodes_max(vocabulary, outputs, &goal))?;
        let emit = Emit {
            trace,
            needs,
            weights,
            dropping: purpose == Purpose::Gradients && goal.dropout > 0.0,
        };
        let cut = goal.frozen.then(|| Cut::find(trace, &reach)).flatten();
        let shown = cut
            .as_ref()
            .map_or_else(|| live.clone(), |cut| cut.above(trace));
        let mut pass = Forward::new(&mut graph, traced, live, emit, adapter, index);
        let nodes = (0..=trace.output).filter(|i| shown[*i] && !head.tail.contains(i));
        pass.emit(cut.as_ref().map_or(&[], |cut| &cut.nodes), nodes)?;
        let Forward {
            forward,
            inputs,
            masks,
            frozen,
            ..
        } = pass;
        if frozen.is_empty() && !inputs.iter().any(Feed::is_tokens) {
            return Err(TrainError::no_rule(output, " without token input"));
        }
        let start = forward[head.start];
        start.map(|start| graph.expand(start)).transpose()?;
        let mut bounds = Bounds {
            forward: graph.nodes(),
            loss: usize::MAX,
        };
        let output_of = graph.input(Dtype::I32, &[i64::from(trace.tokens)], "output_of")?;
        let parts = Parts {
            trace,
            forward: &forward,
            needs,
            weights,
            head: &head,
            output_of,
            purpose,
            goal,
        };
        let (loss, gradient) = Loss::new(&mut graph, &parts)?;
        let mut gradients = Vec::new();
        if let Some(gradient) = gradient {
            graph.expand(gradient)?;
            bounds.loss = graph.nodes();
            gradients = backward(&mut graph, &parts, emit, (&reach, index), &masks, gradient)?;
        }
        let size = |value: i64| usize::try_from(value).unwrap_or(0);
        Ok(Self {
            graph,
            bounds,
            vocabulary: size(vocabulary),
            outputs: size(outputs),
            inputs,
            output_of,
            masks: masks.into_values().collect(),
            dropout: goal.dropout,
            frozen_inputs: frozen,
            widths: cut.map(|cut| cut.widths).unwrap_or_default(),
            loss,
            gradients,
        })
    }

    /// Outputs that the loss is taken at: as many as the trace picks, or one for each token where
    /// the model picks none.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes of work memory that a run would need, and tensors of the graph.
    pub fn measure(&mut self, compute: &mut Compute) -> Result<(WorkBytes, usize), TrainError> {
        Ok((compute.measure(&mut self.graph)?, self.graph.len()))
    }

    /// Run on one packed sequence, of the examples of `run`.
    pub fn run(
        &mut self,
        compute: &mut Compute,
        packed: &Packed,
        tables: &Tables,
        run: &[&Example],
        frozen: &Cache,
        pass: Pass,
    ) -> Result<Outcome, TrainError> {
        compute.bind(&mut self.graph)?;
        let graph = &self.graph;
        let frozen = frozen.rows(run, packed, &self.widths)?;
        for (input, rows) in self.frozen_inputs.iter().zip(frozen) {
            compute.set_f32(graph, *input, &rows)?;
        }
        for input in &self.inputs {
            input.fill(compute, graph, packed, tables, self.vocabulary as i64)?;
        }
        // Nobody reads it where the model picks no outputs, or where all that is adapted stands
        // behind the pick.
        if compute.reads(graph, self.output_of) {
            compute.set_ids(
                graph,
                self.output_of,
                &packed.output_of,
                packed.labels.len() as i64,
            )?;
        }
        self.loss.fill(compute, graph, packed, run, pass.scale)?;
        for mask in &self.masks {
            mask.fill(compute, graph, self.dropout, pass.draw)?;
        }
        compute.run(graph)?;
        let loss = self.loss.value(compute, graph, packed, run)?;
        let gradients = self
            .gradients
            .iter()
            .map(|gradient| compute.get_f32(graph, *gradient))
            .collect::<Result<_, _>>()?;
        let logits = self.loss.logits(compute, graph)?;
        let weight = packed.weights.iter().map(|weight| f64::from(*weight)).sum();
        Ok(Outcome {
            loss,
            weight,
            gradients,
            logits,
            placement: compute.placement(graph),
        })
    }

    /// What it consists of.
    pub fn operations(&self) -> Vec<Operation> {
        self.graph.operations()
    }

    /// Add the times of the last run.
    pub fn add_times(&self, compute: &Compute, times: &mut StepTimes) {
        times.add(&self.graph, self.bounds, compute);
    }
}

/// Append the backward pass below the head, from the gradient for the hidden state; returns those
/// of the adapter, in the order of its storage.
fn backward(
    graph: &mut Graph,
    parts: &Parts<'_>,
    emit: Emit<'_>,
    (reach, index): (&Reach, &AdapterIndex),
    masks: &HashMap<usize, Mask>,
    gradient: Tensor,
) -> Result<Vec<Tensor>, TrainError> {
    let Parts { trace, head, .. } = *parts;
    let direct = parts.weights.direct().is_some();
    let kept = parts.goal.checkpoints.of(trace, reach, head.start, direct);
    let mut rules =
        Backward::new(graph, emit, parts.forward, parts.output_of).with_checkpoints(&kept);
    rules.masks.clone_from(masks);
    let found = rules.run(head.start, 0, gradient)?;
    outputs_of(graph, trace, index, &found)
}

/// Mark the adapter's gradients as outputs, in the order of its storage.
fn outputs_of(
    graph: &mut Graph,
    trace: &Trace,
    index: &AdapterIndex,
    found: &[Option<Tensor>],
) -> Result<Vec<Tensor>, TrainError> {
    let mut ordered = vec![None; index.len()];
    for (node, gradient) in trace.nodes.iter().zip(found) {
        if let (Some(slot), Some(gradient)) = (index.get(&node.name), gradient) {
            graph.output(*gradient)?;
            ordered[*slot] = Some(*gradient);
        }
    }
    // The survey left out what no gradient reaches.
    let missing = |slot: usize| {
        let name = index
            .iter()
            .find(|(_, at)| **at == slot)
            .map_or("", |(name, _)| name);
        TrainError::internal(format!("no gradient reaches {name:?}"))
    };
    ordered
        .into_iter()
        .enumerate()
        .map(|(slot, gradient)| gradient.ok_or_else(|| missing(slot)))
        .collect()
}
