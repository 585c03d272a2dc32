//! Turns a traced forward graph into a training graph: forward, loss, gradients.

use std::collections::{HashMap, HashSet};

use translora_llama::{Compute, Dtype, Graph, Node, Op, Storage, Tensor, Trace};

use crate::dropout::Mask;
use crate::error::TrainError;
use crate::loss::{Head, Loss, Parts};
use crate::objective::Goal;
use crate::pack::{Example, Packed};
use crate::profile::{Bounds, StepTimes};
use crate::rules::{Backward, no_rule};
use crate::weights::Weights;

/// What a program computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// The loss.
    Loss,
    /// That, and the gradient of each adapter matrix.
    Gradients,
    /// That, and all logits.
    Logits,
}

/// A training graph for fixed numbers of tokens and outputs.
pub(crate) struct Program {
    graph: Graph,
    /// Where its forward part and its loss end.
    bounds: Bounds,
    tokens: usize,
    vocabulary: usize,
    inputs: Inputs,
    masks: Vec<Mask>,
    dropout: f32,
    loss: Loss,
    /// By stored index: A and B of each pair in turn.
    gradients: Vec<Tensor>,
}

struct Inputs {
    tokens: Tensor,
    positions: Option<Tensor>,
    mask: Option<Tensor>,
    output_ids: Option<Tensor>,
    output_of: Tensor,
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
}

/// Nodes that the output depends on, and among them those that depend on an adapter matrix.
pub(crate) struct Reach {
    pub live: Vec<bool>,
    pub needs: Vec<bool>,
}

/// `blk.0.attn_q.weight.lora_b` → its index in the adapter's storage
pub(crate) type AdapterIndex = HashMap<String, usize>;

pub(crate) fn reach(trace: &Trace, adapter: &AdapterIndex) -> Reach {
    let mut live = vec![false; trace.nodes.len()];
    live[trace.output] = true;
    for index in (0..trace.nodes.len()).rev().filter(|index| *index <= trace.output) {
        if live[index] {
            let node = &trace.nodes[index];
            for source in node.sources.iter().flatten().chain(node.view.iter().map(|(root, _)| root)) {
                live[*source] = true;
            }
        }
    }
    let mut needs = vec![false; trace.nodes.len()];
    for (index, node) in trace.nodes.iter().enumerate() {
        needs[index] =
            adapter.contains_key(&node.name) && node.op == Op::Weight || node.sources.iter().flatten().any(|source| needs[*source]);
    }
    Reach { live, needs }
}

/// The weights whose transposes the gradients need.
pub(crate) fn wanted(trace: &Trace, adapter: &AdapterIndex) -> HashSet<String> {
    let Reach { live, needs } = reach(trace, adapter);
    let products = trace.nodes.iter().enumerate().filter(|(index, node)| live[*index] && node.op == Op::MulMat);
    let frozen = products.filter_map(|(_, node)| {
        let (Some(Some(weight)), Some(Some(input))) = (node.sources.first(), node.sources.get(1)) else { return None };
        let weight = &trace.nodes[*weight];
        let wanted = weight.op == Op::Weight && !adapter.contains_key(&weight.name) && needs[*input];
        wanted.then(|| weight.name.clone())
    });
    frozen.collect()
}

impl Program {
    /// Emit forward, loss and (if asked for) gradients of `trace`.
    ///
    /// fails: an operation without a backward rule between an adapter matrix and the loss.
    pub fn new(
        trace: &Trace,
        weights: &Weights,
        adapter: &Storage,
        index: &AdapterIndex,
        purpose: Purpose,
        goal: Goal,
    ) -> Result<Self, TrainError> {
        let Reach { live, needs } = reach(trace, index);
        let output = &trace.nodes[trace.output];
        let [vocabulary, outputs, ..] = output.shape;
        let head = Head::find(trace, &needs);
        let mut graph = Graph::new(trace.nodes.len() * 16 + 256 + head.nodes_max(vocabulary, outputs, &goal))?;
        let forward = vec![None; trace.nodes.len()];
        let dropping = purpose == Purpose::Gradients && goal.dropout > 0.0;
        let (roles, masks) = (HashMap::new(), HashMap::new());
        let mut emit = Emit { graph: &mut graph, trace, weights, adapter, index, needs: &needs, forward, roles, dropping, masks };
        for i in (0..=trace.output).filter(|i| live[*i] && !head.tail.contains(i)) {
            emit.node(i)?;
        }
        let Emit { forward, roles, masks, .. } = emit;
        let tokens = roles.get("tokens").copied().ok_or_else(|| no_rule(output, " without token input"))?;
        let [count, ..] = graph.shape(tokens)?;
        let inputs = Inputs {
            tokens,
            positions: roles.get("positions").copied(),
            mask: roles.get("mask").copied(),
            output_ids: roles.get("output_ids").copied(),
            output_of: graph.input(Dtype::I32, &[count], "output_of")?,
        };
        let output_of = inputs.output_of;
        let parts = Parts { trace, forward: &forward, needs: &needs, weights, head: &head, output_of, purpose, goal };
        graph.expand(forward[head.start].ok_or_else(|| no_rule(output, " of a node that was not emitted"))?)?;
        let mut bounds = Bounds { forward: graph.nodes(), loss: usize::MAX };
        let (loss, gradient) = Loss::new(&mut graph, &parts)?;
        let mut gradients = Vec::new();
        if let Some(gradient) = gradient {
            graph.expand(gradient)?;
            bounds.loss = graph.nodes();
            let mut rules = Backward::new(&mut graph, trace, &forward, &needs, weights, output_of);
            rules.masks.clone_from(&masks);
            let found = rules.run(head.start, 0, gradient)?;
            gradients = outputs_of(&mut graph, trace, index, &found)?;
        }
        let size = |value: i64| usize::try_from(value).unwrap_or(0);
        Ok(Self {
            graph,
            bounds,
            tokens: size(count),
            vocabulary: size(vocabulary),
            inputs,
            masks: masks.into_values().collect(),
            dropout: goal.dropout,
            loss,
            gradients,
        })
    }

    /// Run on one packed sequence, of the examples of `run`.
    pub fn run(&mut self, compute: &mut Compute, packed: &Packed, run: &[&Example], pass: Pass) -> Result<Outcome, TrainError> {
        compute.bind(&mut self.graph)?;
        let (graph, inputs, words) = (&self.graph, &self.inputs, self.vocabulary as i64);
        compute.set_ids(graph, inputs.tokens, &packed.tokens, words)?;
        if let Some(positions) = inputs.positions {
            compute.set_ids(graph, positions, &packed.positions, i64::from(i32::MAX))?;
        }
        if let Some(mask) = inputs.mask {
            compute.set_f32(graph, mask, &packed.mask)?;
        }
        if let Some(ids) = inputs.output_ids {
            compute.set_ids(graph, ids, &packed.output_ids, self.tokens as i64)?;
        }
        if !self.gradients.is_empty() {
            compute.set_ids(graph, inputs.output_of, &packed.output_of, packed.labels.len() as i64)?;
        }
        self.loss.fill(compute, graph, packed, run, pass.scale)?;
        for mask in &self.masks {
            mask.fill(compute, graph, self.dropout, pass.draw)?;
        }
        compute.run(graph)?;
        let loss = self.loss.value(compute, graph, packed, run)?;
        let gradients = self.gradients.iter().map(|gradient| compute.get_f32(graph, *gradient)).collect::<Result<_, _>>()?;
        let logits = self.loss.logits(compute, graph)?;
        let weight = packed.weights.iter().map(|weight| f64::from(*weight)).sum();
        Ok(Outcome { loss, weight, gradients, logits })
    }

    /// Add the times of the run just made.
    pub fn add_times(&self, compute: &Compute, times: &mut StepTimes) {
        times.add(&self.graph, self.bounds, compute);
    }
}

/// Mark the adapter's gradients as outputs, in the order of its storage.
fn outputs_of(graph: &mut Graph, trace: &Trace, index: &AdapterIndex, found: &[Option<Tensor>]) -> Result<Vec<Tensor>, TrainError> {
    let mut ordered = vec![None; index.len()];
    for (node, gradient) in trace.nodes.iter().zip(found) {
        if let (Some(slot), Some(gradient)) = (index.get(&node.name), gradient) {
            graph.output(*gradient)?;
            ordered[*slot] = Some(*gradient);
        }
    }
    let missing = |slot: usize| {
        let name = index.iter().find(|(_, at)| **at == slot).map_or("", |(name, _)| name);
        TrainError::NoRule {
            op: "llama.cpp does not apply an adapter to this matrix, or no gradient reaches it".into(),
            node: name.to_owned(),
        }
    };
    ordered.into_iter().enumerate().map(|(slot, gradient)| gradient.ok_or_else(|| missing(slot))).collect()
}

struct Emit<'a> {
    graph: &'a mut Graph,
    trace: &'a Trace,
    weights: &'a Weights,
    adapter: &'a Storage,
    index: &'a AdapterIndex,
    needs: &'a [bool],
    forward: Vec<Option<Tensor>>,
    /// Inputs by what they mean.
    roles: HashMap<&'static str, Tensor>,
    /// A program for training steps with dropout.
    dropping: bool,
    /// By the index of the A that reads through it.
    masks: HashMap<usize, Mask>,
}

impl Emit<'_> {
    fn node(&mut self, i: usize) -> Result<(), TrainError> {
        let trace = self.trace;
        let node = &trace.nodes[i];
        let tensor = match node.op {
            Op::Weight => match self.index.get(&node.name) {
                Some(slot) => self.graph.stored(self.adapter, *slot)?,
                None => self.graph.weight(trace, node)?,
            },
            Op::Input => self.input(i, node)?,
            _ => match self.masked(i, node)? {
                Some(product) => product,
                None => self.operation(i, node)?,
            },
        };
        self.forward[i] = Some(tensor);
        Ok(())
    }

    /// A node that computes something.
    fn operation(&mut self, i: usize, node: &Node) -> Result<Tensor, TrainError> {
        if let Some(product) = self.weights.product(self.graph, self.trace, self.needs, i, &mut self.forward, !self.dropping)? {
            return Ok(product);
        }
        let sources: Vec<Option<Tensor>> = node.sources.iter().map(|source| source.and_then(|source| self.forward[source])).collect();
        let view = node.view.and_then(|(root, _)| self.forward[root]);
        Ok(self.graph.replay(node, &sources, view)?)
    }

    /// The product with an A, which reads its input through a mask; nothing for other nodes.
    fn masked(&mut self, i: usize, node: &Node) -> Result<Option<Tensor>, TrainError> {
        let [Some(a), Some(input), ..] = node.sources[..] else { return Ok(None) };
        let name = &self.trace.nodes[a].name;
        let slot = self.index.get(name).filter(|_| self.dropping && name.ends_with(".lora_a"));
        let (Some(slot), Some(whole)) = (slot, self.forward[input]) else { return Ok(None) };
        let mask = Mask::new(self.graph, whole, *slot)?;
        self.masks.insert(a, mask);
        self.forward[input] = Some(mask.masked);
        let product = self.operation(i, node);
        self.forward[input] = Some(whole);
        product.map(Some)
    }

    /// Tell what an input means by who reads it.
    fn input(&mut self, i: usize, node: &Node) -> Result<Tensor, TrainError> {
        let reads = |(reader, operand): (&Node, usize)| match (reader.op, operand) {
            (Op::GetRows, 1) => {
                let rows = reader.sources[0].map(|rows| self.trace.nodes[rows].op);
                Some(if rows == Some(Op::Weight) { "tokens" } else { "output_ids" })
            }
            (Op::Rope, 1) => Some("positions"),
            (Op::SoftMax, 1) => Some("mask"),
            _ => None,
        };
        let readers = self.trace.nodes.iter().flat_map(|reader| {
            reader.sources.iter().enumerate().filter(|(_, source)| **source == Some(i)).map(move |(operand, _)| (reader, operand))
        });
        let mut roles: Vec<Option<&'static str>> = readers.map(reads).collect();
        roles.dedup();
        let [Some(role)] = roles[..] else { return Err(no_rule(node, " of unknown meaning")) };
        let tensor = self.graph.input(node.dtype, &node.shape, role)?;
        if self.roles.insert(role, tensor).is_some() {
            return Err(no_rule(node, " given twice"));
        }
        Ok(tensor)
    }
}
