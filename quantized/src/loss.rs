//! The loss, from the logits to the gradient for the hidden state.
//!
//! Works from the traced output node whatever computes it: one product with the output matrix, or that and a tail (bias, scale, tanh
//! cap). The gradient for the logits is weight · (softmax − 1 at the label), made without one-hot labels: the label's probability is
//! read out of all outputs' probabilities seen as one column, and written back one lower. From there the head is differentiated by the
//! ordinary rules.
//!
//! Logits are taken at completion positions only and a few positions at a time, so that no more than a fixed number of bytes holds
//! them, however many outputs a sequence has.

use std::ops::Range;

use translora_llama::{Compute, Dtype, Graph, Node, Op, Tensor, Trace};

use crate::error::TrainError;
use crate::pack::Packed;
use crate::program::Purpose;
use crate::rules::{Backward, no_rule};
use crate::weights::Weights;

/// units: bytes that logits, probabilities and their gradients may take at one time, unless asked otherwise.
pub const LOSS_BYTES: usize = 64 << 20;

/// The end of a traced graph that is computed a few outputs at a time.
pub(crate) struct Head {
    /// The node whose columns are split: the hidden state, or the logits where their computation is not understood.
    pub start: usize,
    /// The nodes after it, in order, down to the logits.
    pub tail: Vec<usize>,
}

impl Head {
    /// Walk up from the logits to the product with the output matrix, through operations that treat each output by itself.
    pub fn find(trace: &Trace, needs: &[bool]) -> Self {
        let (mut tail, mut at) = (Vec::new(), trace.output);
        loop {
            let node = &trace.nodes[at];
            let (wanted, fixed): (Vec<usize>, Vec<usize>) = node.sources.iter().flatten().partition(|source| needs[**source]);
            let by_rows = fixed.iter().all(|source| trace.nodes[*source].op == Op::Weight && trace.nodes[*source].shape[2..] == [1, 1]);
            let [source] = wanted[..] else { break };
            if !by_rows || node.view.is_some() || node.shape[2..] != [1, 1] {
                break;
            }
            let product = node.op == Op::MulMat && node.sources[1] == Some(source) && trace.nodes[source].shape[1] == node.shape[1];
            let repeated = fixed.iter().all(|source| trace.nodes[*source].shape[1] == 1);
            if product {
                tail.push(at);
                tail.reverse();
                return Self { start: source, tail };
            }
            if node.op == Op::MulMat || !repeated || trace.nodes[source].shape != node.shape {
                break;
            }
            tail.push(at);
            at = source;
        }
        Self { start: trace.output, tail: Vec::new() }
    }

    /// The product with the output matrix, if it is known.
    pub fn product(&self) -> Option<usize> {
        self.tail.first().copied()
    }

    /// Tensors that the loss adds to a graph at most.
    pub fn nodes_max(&self, vocabulary: i64, outputs: i64, bytes: usize) -> usize {
        let chunks = (outputs as u64).div_ceil(self.columns(vocabulary, outputs, bytes) as u64);
        usize::try_from(chunks).unwrap_or(0) * (self.tail.len() * 8 + 32)
    }

    /// Outputs that may be computed at one time within `bytes`, made even over all `outputs`.
    fn columns(&self, vocabulary: i64, outputs: i64, bytes: usize) -> i64 {
        // Logits, probabilities and the F16 operand of the product back; each operation of a tail keeps its result for its rule.
        let arrays = 3 + self.tail.len().saturating_sub(1);
        let column = usize::try_from(vocabulary).unwrap_or(0).max(1) * size_of::<f32>() * arrays;
        let fit = i64::try_from(bytes / column).unwrap_or(i64::MAX).clamp(1, outputs.max(1));
        (outputs as u64).div_ceil((outputs as u64).div_ceil(fit as u64)) as i64
    }
}

/// The loss nodes of a program.
pub(crate) struct Loss {
    vocabulary: usize,
    chunks: Vec<Chunk>,
}

/// A few outputs, computed together.
struct Chunk {
    outputs: Range<usize>,
    /// Row of each label's probability among this chunk's probabilities in one column.
    rows: Tensor,
    /// shapes: [1, outputs]; absent where no gradient is taken.
    weights: Option<Tensor>,
    /// shapes: [1, outputs]
    probability: Tensor,
    logits: Option<Tensor>,
}

/// What the loss is built from.
pub(crate) struct Parts<'a> {
    pub trace: &'a Trace,
    pub forward: &'a [Option<Tensor>],
    pub needs: &'a [bool],
    pub weights: &'a Weights,
    pub head: &'a Head,
    /// `Backward` asks for it; no rule of a head reads it.
    pub output_of: Tensor,
    pub purpose: Purpose,
    pub bytes: usize,
}

impl Loss {
    /// Append the loss to `graph`; returns it, and where gradients are asked for the one for `head.start`.
    pub fn new(graph: &mut Graph, parts: &Parts<'_>) -> Result<(Self, Option<Tensor>), TrainError> {
        let output = &parts.trace.nodes[parts.trace.output];
        let [vocabulary, outputs, ..] = output.shape;
        let step = parts.head.columns(vocabulary, outputs, parts.bytes);
        let (mut chunks, mut gradient) = (Vec::new(), None);
        for first in (0..outputs).step_by(usize::try_from(step).unwrap_or(1)) {
            let count = step.min(outputs - first);
            let (chunk, part) = Chunk::new(graph, parts, first, count)?;
            chunks.push(chunk);
            gradient = match (gradient, part) {
                (Some(sofar), Some(part)) => Some(graph.beside(sofar, part)?),
                (_, part) => part,
            };
        }
        Ok((Self { vocabulary: usize::try_from(vocabulary).unwrap_or(0), chunks }, gradient))
    }

    /// Fill the inputs for one packed sequence; gradients are multiplied by `scale`.
    pub fn fill(&self, compute: &mut Compute, graph: &Graph, packed: &Packed, scale: f32) -> Result<(), TrainError> {
        for chunk in &self.chunks {
            let labels = &packed.labels[chunk.outputs.clone()];
            let rows: Vec<i32> = labels.iter().enumerate().map(|(i, label)| (i * self.vocabulary) as i32 + label).collect();
            compute.set_ids(graph, chunk.rows, &rows, (self.vocabulary * labels.len()) as i64)?;
            if let Some(weights) = chunk.weights {
                let scaled: Vec<f32> = packed.weights[chunk.outputs.clone()].iter().map(|weight| weight * scale).collect();
                compute.set_f32(graph, weights, &scaled)?;
            }
        }
        Ok(())
    }

    /// Weighted sum over outputs of −ln p(label), after a run. units: nats.
    pub fn value(&self, compute: &Compute, graph: &Graph, packed: &Packed) -> Result<f64, TrainError> {
        let mut nats = 0.0;
        for chunk in &self.chunks {
            let probability = compute.get_f32(graph, chunk.probability)?;
            for (p, weight) in probability.iter().zip(&packed.weights[chunk.outputs.clone()]).filter(|(_, weight)| **weight != 0.0) {
                nats -= if p.is_nan() { f64::NAN } else { f64::from(p.max(f32::MIN_POSITIVE)).ln() * f64::from(*weight) };
            }
        }
        Ok(nats)
    }

    /// All logits, where the program keeps them.
    ///
    /// shapes: outputs rows of vocabulary
    pub fn logits(&self, compute: &Compute, graph: &Graph) -> Result<Vec<f32>, TrainError> {
        let mut all = Vec::new();
        for logits in self.chunks.iter().filter_map(|chunk| chunk.logits) {
            all.extend(compute.get_f32(graph, logits)?);
        }
        Ok(all)
    }
}

impl Chunk {
    fn new(graph: &mut Graph, parts: &Parts<'_>, first: i64, count: i64) -> Result<(Self, Option<Tensor>), TrainError> {
        let forward = parts.tail(graph, first, count)?;
        let logits = parts.value(&forward, parts.trace.output)?;
        let [vocabulary, ..] = graph.shape(logits)?;
        let rows = graph.input(Dtype::I32, &[count], "label_rows")?;
        let all = graph.soft_max(logits)?;
        let column = graph.reshape(all, [1, vocabulary * count, 1, 1])?;
        let probability = graph.get_rows(column, rows)?;
        graph.output(probability)?;
        let outputs = usize::try_from(first).unwrap_or(0)..usize::try_from(first + count).unwrap_or(0);
        let mut chunk = Self { outputs, rows, weights: None, probability, logits: None };
        if parts.purpose == Purpose::Logits {
            graph.output(logits)?;
            chunk.logits = Some(logits);
        }
        if parts.purpose != Purpose::Gradients {
            return Ok((chunk, None));
        }
        let weights = graph.input(Dtype::F32, &[1, count], "weights")?;
        chunk.weights = Some(weights);
        let lower = graph.scale(probability, 1.0, -1.0)?;
        let column = graph.set_rows(column, lower, rows)?;
        let difference = graph.reshape(column, [vocabulary, count, 1, 1])?;
        let gradient = graph.mul(difference, weights)?;
        let rules = Backward::new(graph, parts.trace, &forward, parts.needs, parts.weights, parts.output_of);
        let found = rules.run(parts.trace.output, parts.head.start + 1, gradient)?;
        let gradient = found[parts.head.start].ok_or_else(|| no_rule(&parts.trace.nodes[parts.trace.output], " as logits"))?;
        let gradient = graph.dense(gradient)?;
        // Everything of this chunk is computed, and its memory free, before the next one begins.
        graph.expand(gradient)?;
        Ok((chunk, Some(gradient)))
    }
}

impl Parts<'_> {
    /// This graph's tensors with those of the head computed for some of the outputs.
    fn tail(&self, graph: &mut Graph, first: i64, count: i64) -> Result<Vec<Option<Tensor>>, TrainError> {
        let mut forward = self.forward.to_vec();
        let start = self.value(&forward, self.head.start)?;
        let whole = graph.shape(start)?[1] == count;
        forward[self.head.start] = Some(if whole { start } else { graph.columns(start, first, count)? });
        for index in &self.head.tail {
            let mut node: Node = self.trace.nodes[*index].clone();
            node.shape[1] = count;
            let sources: Vec<Option<Tensor>> = node.sources.iter().map(|source| source.and_then(|source| forward[source])).collect();
            forward[*index] = Some(graph.replay(&node, &sources, None)?);
        }
        Ok(forward)
    }

    fn value(&self, forward: &[Option<Tensor>], index: usize) -> Result<Tensor, TrainError> {
        forward[index].ok_or_else(|| no_rule(&self.trace.nodes[index], " that was not emitted"))
    }
}
