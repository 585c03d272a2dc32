//! Turns a traced forward graph into a training graph: forward, loss, gradients.

use std::collections::{HashMap, HashSet};

use translora_llama::{Compute, Dtype, Graph, Node, Op, Storage, Tensor, Trace};

use crate::error::TrainError;
use crate::pack::Packed;
use crate::profile::{Bounds, StepTimes};
use crate::rules::{Backward, no_rule};
use crate::weights::Weights;

/// What a program computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// The probability of each label.
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
    /// shapes: [1, outputs]
    probability: Tensor,
    logits: Option<Tensor>,
    /// By stored index: A and B of each pair in turn.
    gradients: Vec<Tensor>,
}

struct Inputs {
    tokens: Tensor,
    positions: Option<Tensor>,
    mask: Option<Tensor>,
    output_ids: Option<Tensor>,
    output_of: Tensor,
    labels: Tensor,
    /// Row of each label's probability in all outputs' probabilities.
    label_rows: Tensor,
    weights: Tensor,
}

/// What a run of a program yields.
pub(crate) struct Outcome {
    /// Sum over outputs of −ln p(label). units: nats.
    pub loss: f64,
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
    pub fn new(trace: &Trace, weights: &Weights, adapter: &Storage, index: &AdapterIndex, purpose: Purpose) -> Result<Self, TrainError> {
        let Reach { live, needs } = reach(trace, index);
        let mut graph = Graph::new(trace.nodes.len() * 16 + 256)?;
        let mut emit = Emit {
            graph: &mut graph,
            trace,
            weights,
            adapter,
            index,
            needs: &needs,
            forward: vec![None; trace.nodes.len()],
            roles: HashMap::new(),
        };
        for i in (0..=trace.output).filter(|i| live[*i]) {
            emit.node(i)?;
        }
        let Emit { forward, roles, .. } = emit;
        let head = &trace.nodes[trace.output];
        let (hidden, matrix) = head_operands(trace, head)?;
        let value = |index: usize| forward[index].ok_or_else(|| no_rule(head, " of a node that was not emitted"));
        let (logits, matrix_tensor) = (value(trace.output)?, value(matrix)?);
        graph.expand(value(hidden)?)?;
        let mut bounds = Bounds { forward: graph.nodes(), loss: usize::MAX };
        let [vocabulary, outputs, ..] = head.shape;
        let tokens = roles.get("tokens").copied().ok_or_else(|| no_rule(head, " without token input"))?;
        let [count, ..] = graph.shape(tokens)?;

        let inputs = Inputs {
            tokens,
            positions: roles.get("positions").copied(),
            mask: roles.get("mask").copied(),
            output_ids: roles.get("output_ids").copied(),
            output_of: graph.input(Dtype::I32, &[count], "output_of")?,
            labels: graph.input(Dtype::I32, &[outputs], "labels")?,
            label_rows: graph.input(Dtype::I32, &[outputs], "label_rows")?,
            weights: graph.input(Dtype::F32, &[1, outputs], "weights")?,
        };
        let all = graph.soft_max(logits)?;
        let column = graph.reshape(all, [1, vocabulary * outputs, 1, 1])?;
        let probability = graph.get_rows(column, inputs.label_rows)?;
        graph.output(probability)?;
        if purpose == Purpose::Logits {
            graph.output(logits)?;
        }
        let mut gradients = Vec::new();
        if purpose == Purpose::Gradients {
            // d loss / d hidden = Wᵀ softmax(W h) − W[label], each column times its weight: no one-hot labels.
            let weighted = graph.mul(all, inputs.weights)?;
            let expected = weights.turned_product(&mut graph, &trace.nodes[matrix], matrix_tensor, weighted)?;
            let expected = expected.ok_or_else(|| no_rule(head, " without a transposed copy"))?;
            let labels = graph.get_rows(matrix_tensor, inputs.labels)?;
            let labels = graph.mul(labels, inputs.weights)?;
            let gradient = graph.sub(expected, labels)?;
            graph.expand(gradient)?;
            bounds.loss = graph.nodes();
            let found = Backward::new(&mut graph, trace, &forward, &needs, weights, inputs.output_of).run(hidden, gradient)?;
            gradients = outputs_of(&mut graph, trace, index, &found)?;
        }
        let tokens = usize::try_from(count).unwrap_or(0);
        let logits = (purpose == Purpose::Logits).then_some(logits);
        Ok(Self { graph, bounds, tokens, vocabulary: usize::try_from(vocabulary).unwrap_or(0), inputs, probability, logits, gradients })
    }

    /// Run on one packed sequence. `scale` multiplies every gradient (F16 products need numbers away from zero).
    pub fn run(&mut self, compute: &mut Compute, packed: &Packed, scale: f32) -> Result<Outcome, TrainError> {
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
        let rows: Vec<i32> = packed.labels.iter().enumerate().map(|(i, label)| (i * self.vocabulary) as i32 + label).collect();
        compute.set_ids(graph, inputs.label_rows, &rows, words * rows.len() as i64)?;
        if !self.gradients.is_empty() {
            compute.set_ids(graph, inputs.labels, &packed.labels, words)?;
            compute.set_ids(graph, inputs.output_of, &packed.output_of, packed.labels.len() as i64)?;
            let scaled: Vec<f32> = packed.weights.iter().map(|weight| weight * scale).collect();
            compute.set_f32(graph, inputs.weights, &scaled)?;
        }
        compute.run(graph)?;
        let probability = compute.get_f32(graph, self.probability)?;
        let nats =
            |(p, weight): (&f32, &f32)| if *weight == 0.0 { 0.0 } else { -f64::from(p.max(f32::MIN_POSITIVE)).ln() * f64::from(*weight) };
        let not_a_number = probability.iter().zip(&packed.weights).any(|(p, weight)| *weight != 0.0 && p.is_nan());
        let loss = if not_a_number { f64::NAN } else { probability.iter().zip(&packed.weights).map(nats).sum() };
        let gradients = self.gradients.iter().map(|gradient| compute.get_f32(graph, *gradient)).collect::<Result<_, _>>()?;
        let logits = self.logits.map_or(Ok(Vec::new()), |logits| compute.get_f32(graph, logits))?;
        Ok(Outcome { loss, gradients, logits })
    }

    /// Add the times of the run just made.
    pub fn add_times(&self, compute: &Compute, times: &mut StepTimes) {
        times.add(&self.graph, self.bounds, compute);
    }
}

/// The hidden state (a node) and the output matrix (a weight) whose product the logits are.
fn head_operands(trace: &Trace, head: &Node) -> Result<(usize, usize), TrainError> {
    let (Some(Some(matrix)), Some(Some(hidden))) = (head.sources.first(), head.sources.get(1)) else {
        return Err(no_rule(head, " as logits"));
    };
    if head.op != Op::MulMat || trace.nodes[*matrix].op != Op::Weight {
        return Err(no_rule(head, " as logits"));
    }
    Ok((*hidden, *matrix))
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
            _ => {
                let sources: Vec<Option<Tensor>> =
                    node.sources.iter().map(|source| source.and_then(|source| self.forward[source])).collect();
                let view = node.view.and_then(|(root, _)| self.forward[root]);
                match self.weights.product(self.graph, trace, self.needs, i, &mut self.forward)? {
                    Some(product) => product,
                    None => self.graph.replay(node, &sources, view)?,
                }
            }
        };
        self.forward[i] = Some(tensor);
        Ok(())
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
