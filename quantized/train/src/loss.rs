//! The loss, from the logits to the gradient for the hidden state.
//!
//! Works from the traced output node whatever computes it: one product with the output matrix, or
//! that and a tail (bias, scale, tanh cap). `signal` makes the gradient for the logits, without
//! one-hot labels; from there the head is differentiated by the ordinary rules.
//!
//! Logits are taken at completion positions only and a few positions at a time, so that no more
//! than a fixed number of bytes holds them, however many outputs a sequence has.

use std::ops::Range;

use translora_llama::{Compute, Dtype, Graph, Node, Op, Plus, Tensor, Trace};

use crate::emit::Emit;
use crate::error::TrainError;
use crate::goal::{Goal, Purpose};
use crate::objective::Objective;
use crate::pack::{Example, Packed};
use crate::rules::Backward;
use crate::signal::{Place, Signal};
use crate::weights::Weights;

/// units: bytes that logits, probabilities and their gradients may take at one time, unless
/// the spec says otherwise.
pub const LOSS_BYTES: usize = 64 << 20;

/// The end of a traced graph that is computed a few outputs at a time.
pub(crate) struct Head {
    /// The node whose columns are split: the hidden state, or the logits where their computation is
    /// not understood.
    pub start: usize,
    /// The nodes after it, in order, down to the logits.
    pub tail: Vec<usize>,
}

impl Head {
    /// Walk up from the logits to the product with the output matrix, by way of operations that
    /// treat each output by itself.
    pub fn find(trace: &Trace, needs: &[bool]) -> Self {
        let (mut tail, mut at) = (Vec::new(), trace.output);
        loop {
            let node = &trace.nodes[at];
            let (wanted, fixed): (Vec<usize>, Vec<usize>) = node
                .sources
                .iter()
                .flatten()
                .partition(|source| needs[**source]);
            let by_rows = fixed.iter().all(|source| {
                trace.nodes[*source].op == Op::Weight && trace.nodes[*source].shape[2..] == [1, 1]
            });
            let [source] = wanted[..] else { break };
            if !by_rows || node.view.is_some() || node.shape[2..] != [1, 1] {
                break;
            }
            let product = node.op == Op::MulMat
                && node.sources[1] == Some(source)
                && trace.nodes[source].shape[1] == node.shape[1];
            let repeated = fixed
                .iter()
                .all(|source| trace.nodes[*source].shape[1] == 1);
            if product {
                tail.push(at);
                tail.reverse();
                return Self {
                    start: source,
                    tail,
                };
            }
            if node.op == Op::MulMat || !repeated || trace.nodes[source].shape != node.shape {
                break;
            }
            tail.push(at);
            at = source;
        }
        Self {
            start: trace.output,
            tail: Vec::new(),
        }
    }

    /// The logits are the product with the output matrix, times a number at most.
    ///
    /// fails: with the operation that makes them something else.
    pub fn check_linear(&self, trace: &Trace) -> Result<(), TrainError> {
        let scale_only = |node: &Node| node.op == Op::Scale && node.parameter_f32(1) == 0.0;
        let after = self
            .tail
            .iter()
            .skip(1)
            .map(|index| &trace.nodes[*index])
            .find(|node| !scale_only(node));
        let unknown = self.tail.is_empty().then(|| &trace.nodes[trace.output]);
        match after.or(unknown) {
            None => Ok(()),
            Some(node) => {
                let reason = format!(
                    "{} ({:?}) makes the logits of this model; match the teacher's likeliest words",
                    node.op.name(),
                    node.name
                );
                Err(TrainError::Objective { reason })
            }
        }
    }

    /// Tensors that the loss adds to a graph at most.
    pub fn nodes_max(&self, vocabulary: i64, outputs: i64, goal: &Goal) -> usize {
        let chunks = (outputs as u64).div_ceil(self.columns(vocabulary, outputs, goal) as u64);
        usize::try_from(chunks).unwrap_or(0) * (self.tail.len() * 8 + 64)
    }

    /// Outputs that may be computed at one time within the goal's bytes, even over all
    /// `outputs`.
    fn columns(&self, vocabulary: i64, outputs: i64, goal: &Goal) -> i64 {
        // Each operation of a tail keeps its result for its rule.
        let arrays = goal.arrays() + self.tail.len().saturating_sub(1);
        let column = usize::try_from(vocabulary).unwrap_or(0).max(1) * size_of::<f32>() * arrays;
        let fit = i64::try_from(goal.bytes / column)
            .unwrap_or(i64::MAX)
            .clamp(1, outputs.max(1));
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
    signal: Signal,
    /// shapes: [1, outputs]; absent where no gradient is taken.
    weights: Option<Tensor>,
    logits: Option<Tensor>,
}

/// What the loss is built from.
pub(crate) struct Parts<'a> {
    pub trace: &'a Trace,
    pub forward: &'a [Option<Tensor>],
    pub needs: &'a [bool],
    pub weights: &'a Weights,
    pub head: &'a Head,
    /// `Backward` needs it; no rule of a head reads it.
    pub output_of: Tensor,
    pub purpose: Purpose,
    pub goal: Goal,
}

impl Loss {
    /// Append the loss to `graph`; returns it, and where gradients are wanted the one for
    /// `head.start`.
    pub fn new(graph: &mut Graph, parts: &Parts<'_>) -> Result<(Self, Option<Tensor>), TrainError> {
        if parts.goal.objective == Objective::Condensed {
            parts.head.check_linear(parts.trace)?;
        }
        let output = &parts.trace.nodes[parts.trace.output];
        let [vocabulary, outputs, ..] = output.shape;
        let step = parts.head.columns(vocabulary, outputs, &parts.goal);
        let (mut chunks, mut gradient) = (Vec::new(), None);
        for first in (0..outputs).step_by(usize::try_from(step).unwrap_or(1)) {
            let count = step.min(outputs - first);
            let (chunk, part) = Chunk::new(graph, parts, first, count)?;
            chunks.push(chunk);
            gradient = match (gradient, part) {
                (Some(sofar), Some(part)) => Some(graph.join(sofar, part, 1)?),
                (_, part) => part,
            };
        }
        Ok((
            Self {
                vocabulary: usize::try_from(vocabulary).unwrap_or(0),
                chunks,
            },
            gradient,
        ))
    }

    /// Fill the inputs for one packed sequence of the examples of `run`; gradients are multiplied
    /// by `scale`.
    pub fn fill(
        &self,
        compute: &mut Compute,
        graph: &Graph,
        packed: &Packed,
        run: &[&Example],
        scale: f32,
    ) -> Result<(), TrainError> {
        for chunk in &self.chunks {
            chunk
                .signal
                .fill(compute, graph, &self.place(chunk, packed, run))?;
            if let Some(weights) = chunk.weights {
                let scaled: Vec<f32> = packed.weights[chunk.outputs.clone()]
                    .iter()
                    .map(|weight| weight * scale)
                    .collect();
                compute.set_f32(graph, weights, &scaled)?;
            }
        }
        Ok(())
    }

    /// Weighted sum of the outputs' losses, after a run. units: nats.
    pub fn value(
        &self,
        compute: &Compute,
        graph: &Graph,
        packed: &Packed,
        run: &[&Example],
    ) -> Result<f64, TrainError> {
        let mut nats = 0.0;
        for chunk in &self.chunks {
            let losses = chunk
                .signal
                .losses(compute, graph, &self.place(chunk, packed, run))?;
            let weighted = losses
                .iter()
                .zip(&packed.weights[chunk.outputs.clone()])
                .filter(|(_, weight)| **weight != 0.0);
            nats += weighted
                .map(|(loss, weight)| loss * f64::from(*weight))
                .sum::<f64>();
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

    fn place<'a>(&self, chunk: &Chunk, packed: &'a Packed, run: &'a [&'a Example]) -> Place<'a> {
        Place {
            packed,
            run,
            outputs: chunk.outputs.clone(),
            vocabulary: self.vocabulary,
        }
    }
}

impl Chunk {
    fn new(
        graph: &mut Graph,
        parts: &Parts<'_>,
        first: i64,
        count: i64,
    ) -> Result<(Self, Option<Tensor>), TrainError> {
        let forward = parts.tail(graph, first, count)?;
        let (logits, hidden) = (
            parts.value(&forward, parts.trace.output)?,
            parts.value(&forward, parts.head.start)?,
        );
        let outputs =
            usize::try_from(first).unwrap_or(0)..usize::try_from(first + count).unwrap_or(0);
        let kept = if parts.purpose == Purpose::Logits {
            Some(logits)
        } else {
            None
        };
        if let Some(logits) = kept {
            graph.output(logits)?;
        }
        let goal = if kept.is_some() {
            Goal {
                objective: Objective::Text,
                ..parts.goal
            }
        } else {
            parts.goal
        };
        let wanted = parts.purpose == Purpose::Gradients;
        let weights = wanted
            .then(|| graph.input(Dtype::F32, &[1, count], "weights"))
            .transpose()?;
        let (signal, gradient) = Signal::new(graph, goal, logits, hidden, weights)?;
        let chunk = Self {
            outputs,
            signal,
            weights,
            logits: kept,
        };
        let (Some(gradient), Some(weights)) = (gradient, weights) else {
            return Ok((chunk, None));
        };
        // Kernels that read floats take the weights at the hidden state, which is small; F16
        // products lose small numbers, and take them with the scale in them before.
        let late = chunk.signal.is_unweighted() && parts.weights.direct().is_some();
        let gradient = if chunk.signal.is_unweighted() && !late {
            graph.mul(gradient, weights)?
        } else {
            gradient
        };
        let emit = Emit {
            trace: parts.trace,
            needs: parts.needs,
            weights: parts.weights,
            dropping: false,
        };
        let rules = Backward::new(graph, emit, &forward, parts.output_of);
        let found = rules.run(parts.trace.output, parts.head.start + 1, gradient)?;
        let gradient = found[parts.head.start]
            .ok_or_else(|| TrainError::internal("no gradient reaches the hidden state"))?;
        let gradient = chunk
            .signal
            .at_hidden(graph, gradient, (!late).then_some(weights))?;
        let gradient = graph.dense(gradient)?;
        let gradient = if late {
            graph.mul(gradient, weights)?
        } else {
            gradient
        };
        // Everything of this chunk is computed, and its memory free, before the next one begins.
        graph.expand(gradient)?;
        Ok((chunk, Some(gradient)))
    }
}

impl Parts<'_> {
    /// This graph's tensors with those of the head computed for some of the outputs.
    fn tail(
        &self,
        graph: &mut Graph,
        first: i64,
        count: i64,
    ) -> Result<Vec<Option<Tensor>>, TrainError> {
        let mut forward = self.forward.to_vec();
        let start = self.value(&forward, self.head.start)?;
        let whole = graph.shape(start)?[1] == count;
        forward[self.head.start] = Some(if whole {
            start
        } else {
            graph.columns(start, first, count)?
        });
        for index in &self.head.tail {
            let mut node: Node = self.trace.nodes[*index].clone();
            node.shape[1] = count;
            let sources: Vec<Option<Tensor>> = node
                .sources
                .iter()
                .map(|source| source.and_then(|source| forward[source]))
                .collect();
            forward[*index] = Some(match (node.op, self.weights.direct(), &sources[..]) {
                (Op::MulMat, Some(kernel), [Some(matrix), Some(hidden)]) => {
                    graph.times(kernel, *matrix, *hidden, Plus::NONE)?
                }
                _ => graph.replay(&node, &sources, None)?,
            });
        }
        Ok(forward)
    }

    fn value(&self, forward: &[Option<Tensor>], index: usize) -> Result<Tensor, TrainError> {
        forward[index].ok_or_else(|| TrainError::not_emitted(&self.trace.nodes[index]))
    }
}

/// What `Trainer::condense` needs of a trainer.
pub(crate) struct Condenser<'a> {
    pub trace: &'a Trace,
    pub needs: &'a [bool],
    pub weights: &'a Weights,
    pub goal: Goal,
}

impl Condenser<'_> {
    /// The gradient for the hidden state that each row of logit gradients comes down to.
    ///
    /// shapes: rows of vocabulary → as many rows of hidden
    pub fn run(
        &self,
        compute: &mut Compute,
        rows: &[Vec<f32>],
    ) -> Result<Vec<Vec<f32>>, TrainError> {
        // F16 products lose what is below 2⁻²⁴.
        const SCALE: f32 = 1024.0;
        let trace = self.trace;
        let head = Head::find(trace, self.needs);
        head.check_linear(trace)?;
        let [vocabulary, ..] = trace.nodes[trace.output].shape;
        let step = head.columns(vocabulary, rows.len() as i64, &self.goal);
        let mut condensed = Vec::with_capacity(rows.len());
        for some in rows.chunks(usize::try_from(step).unwrap_or(1)) {
            if let Some(row) = some.iter().find(|row| row.len() as i64 != vocabulary) {
                return Err(TrainError::Objective {
                    reason: format!(
                        "{} probabilities for a vocabulary of {vocabulary}",
                        row.len()
                    ),
                });
            }
            let mut graph = self.weights.graph(256)?;
            let mut forward = vec![None; trace.nodes.len()];
            for source in head
                .tail
                .iter()
                .flat_map(|index| trace.nodes[*index].sources.iter().flatten())
            {
                if trace.nodes[*source].op == Op::Weight {
                    forward[*source] = Some(graph.weight(trace, &trace.nodes[*source])?);
                }
            }
            let input = graph.input(
                Dtype::F32,
                &[vocabulary, some.len() as i64],
                "probabilities",
            )?;
            let scaled = graph.scale(input, SCALE, 0.0)?;
            let output_of = graph.input(Dtype::I32, &[1], "output_of")?;
            let emit = Emit {
                trace,
                needs: self.needs,
                weights: self.weights,
                dropping: false,
            };
            let rules = Backward::new(&mut graph, emit, &forward, output_of);
            let found = rules.run(trace.output, head.start + 1, scaled)?;
            let result = found[head.start]
                .ok_or_else(|| TrainError::internal("no gradient reaches the hidden state"))?;
            let result = graph.scale(result, 1.0 / SCALE, 0.0)?;
            graph.output(result)?;
            compute.bind(&mut graph)?;
            compute.set_f32(&graph, input, &some.concat())?;
            compute.run(&graph)?;
            let width = usize::try_from(graph.shape(result)?[0]).unwrap_or(1);
            condensed.extend(
                compute
                    .get_f32(&graph, result)?
                    .chunks_exact(width)
                    .map(<[f32]>::to_vec),
            );
        }
        Ok(condensed)
    }
}
