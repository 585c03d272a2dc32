//! Backward rules: one for each operation of a traced graph.
//!
//! Rules are written with operations that every ggml backend has: no OUT_PROD, no *_BACK except
//! ROPE_BACK, no autodiff. Recurrences and products with chosen matrices have CPU kernels of our
//! own. Shapes are ggml's, innermost first; `dy` is the gradient of the loss for a node's result.

use std::collections::HashMap;

use translora_llama::{Graph, Node, Op, Tensor, Trace};

use crate::dropout::Mask;
use crate::emit::Emit;
use crate::error::TrainError;
use crate::patterns::{adapted, attention};
use crate::reach::operands;
use crate::weights::Weights;

mod direct;
mod elementwise;
mod memory;
mod norms;
mod products;
mod recurrent;

type Done = Result<(), TrainError>;

/// Walks a forward graph backwards and adds the gradient nodes to it.
pub(crate) struct Backward<'a> {
    pub graph: &'a mut Graph,
    pub trace: &'a Trace,
    /// Nodes whose value depends on an adapter matrix.
    pub needs: &'a [bool],
    pub weights: &'a Weights,
    emit: Emit<'a>,
    /// This graph's tensor for each traced node: of the forward pass where that is kept, else
    /// computed again once it is read.
    values: Vec<Option<Tensor>>,
    /// Whether it is kept; all are where nothing is said.
    kept: Vec<bool>,
    /// Input: for each token, the output row taken at it, or the padding row.
    pub output_of: Tensor,
    /// What the products with these matrices read instead of their second operand.
    pub masks: HashMap<usize, Mask>,
    gradients: Vec<Option<Tensor>>,
    transposes: HashMap<Tensor, Tensor>,
    /// Masked inputs, by matrix, where it is not kept.
    masked: HashMap<usize, Tensor>,
}

impl<'a> Backward<'a> {
    pub fn new(
        graph: &'a mut Graph,
        emit: Emit<'a>,
        forward: &[Option<Tensor>],
        output_of: Tensor,
    ) -> Self {
        let Emit {
            trace,
            needs,
            weights,
            ..
        } = emit;
        let (gradients, kept) = (vec![None; trace.nodes.len()], vec![true; trace.nodes.len()]);
        let (masks, transposes, masked) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self {
            graph,
            trace,
            needs,
            weights,
            emit,
            values: forward.to_vec(),
            kept,
            output_of,
            masks,
            gradients,
            transposes,
            masked,
        }
    }

    /// Read these values of the forward pass only.
    pub fn with_checkpoints(mut self, kept: &[bool]) -> Self {
        self.kept = kept.to_vec();
        for value in self
            .values
            .iter_mut()
            .zip(kept)
            .filter(|(_, kept)| !**kept)
            .map(|(value, _)| value)
        {
            *value = None;
        }
        self
    }

    /// Propagate `gradient` of node `from` down to the nodes before `until`, whose rules are not
    /// applied any more; returns the gradient of each node that has one.
    pub fn run(
        mut self,
        from: usize,
        until: usize,
        gradient: Tensor,
    ) -> Result<Vec<Option<Tensor>>, TrainError> {
        self.gradients[from] = Some(gradient);
        for index in (until..=from).rev() {
            let Some(gradient) = self.gradients[index] else {
                continue;
            };
            let trace = self.trace;
            let node = &trace.nodes[index];
            if node.op == Op::Weight {
                let gradient = self.graph.dense(gradient)?;
                self.gradients[index] = Some(gradient);
                self.graph.expand(gradient)?;
                continue;
            }
            self.rule(index, node, gradient)
                .map_err(|error| at(error, node, index))?;
        }
        Ok(self.gradients)
    }

    fn rule(&mut self, index: usize, node: &Node, dy: Tensor) -> Done {
        match node.op {
            Op::Add => match self
                .weights
                .direct()
                .filter(|_| self.masks.is_empty())
                .zip(adapted(self.trace, self.needs, index))
            {
                Some((kernel, found)) => self.adapted_direct(index, found, dy, kernel),
                None => self.add(node, dy),
            },
            Op::AddId => self.add(node, dy),
            Op::Sub => self.sub(node, dy),
            Op::Mul => self.mul(node, dy),
            Op::Div => self.div(index, node, dy),
            Op::Scale => {
                let dx = self.graph.scale(dy, node.parameter_f32(0), 0.0)?;
                self.accumulate(node, 0, dx)
            }
            Op::Sqr | Op::Sqrt => self.power(index, node, dy),
            Op::Clamp => self.clamp(node, dy),
            Op::Unary(unary) => self.unary(index, node, unary, dy),
            Op::Glu(glu) => self.glu(node, glu, dy),
            Op::MulMat => self.mul_mat(node, dy),
            Op::MulMatId => self.mul_mat_id(node, dy),
            Op::RmsNorm => self.rms_norm(index, node, dy),
            Op::Norm => self.norm(node, dy),
            Op::L2Norm => self.l2_norm(index, node, dy),
            Op::SoftMax => self.soft_max(index, node, dy),
            Op::SumRows | Op::Repeat => self.spread(node, dy),
            Op::Concat => self.concat(node, dy),
            Op::Rope => self.rope(node, dy),
            Op::GetRows => self.get_rows(node, dy),
            Op::Cont | Op::Reshape | Op::Store => self.same_order(node, dy),
            Op::StoreTransposed => self.store_transposed(node, dy),
            Op::View => self.view(node, dy),
            Op::Permute | Op::Transpose => self.permute(node, dy),
            Op::SsmConv => self.ssm_conv(node, dy),
            Op::SsmScan => self.ssm_scan(node, dy),
            Op::GatedDeltaNet => self.gated_delta_net(node, dy),
            Op::Weight
            | Op::Input
            | Op::State
            | Op::SetRows
            | Op::RopeBack
            | Op::Cpy
            | Op::Argsort
            | Op::TopK
            | Op::Fill
            | Op::Other(..) => Err(TrainError::no_rule(node, "")),
        }
    }

    fn needs_gradient(&self, node: &Node, operand: usize) -> bool {
        node.sources
            .get(operand)
            .copied()
            .flatten()
            .is_some_and(|index| self.needs[index])
    }

    fn value(&mut self, node: &Node, operand: usize) -> Result<Tensor, TrainError> {
        let index = source(node, operand)?;
        let Some(mask) = self.mask(node, operand) else {
            return self.emitted(index);
        };
        let matrix = source(node, 0)?;
        if let Some(masked) = self.masked.get(&matrix) {
            return Ok(*masked);
        }
        let masked = if self.kept[index] {
            mask.masked
        } else {
            let input = self.emitted(index)?;
            mask.recompute(self.graph, input)?
        };
        self.masked.insert(matrix, masked);
        Ok(masked)
    }

    fn mask(&self, node: &Node, operand: usize) -> Option<Mask> {
        let matrix = node.sources.first().copied().flatten()?;
        (operand == 1)
            .then(|| self.masks.get(&matrix).copied())
            .flatten()
    }

    fn emitted(&mut self, index: usize) -> Result<Tensor, TrainError> {
        if self.values[index].is_none() {
            self.recompute(index)?;
        }
        self.values[index].ok_or_else(|| TrainError::not_emitted(&self.trace.nodes[index]))
    }

    /// Compute a forward value that was not kept again, and before it whatever it needs.
    fn recompute(&mut self, index: usize) -> Done {
        let node = &self.trace.nodes[index];
        if matches!(node.op, Op::Weight | Op::Input | Op::State) {
            return Ok(());
        }
        // Of what is one operation only the ends are read.
        let direct = self.weights.direct().is_some();
        let product =
            adapted(self.trace, self.needs, index).filter(|_| direct && !self.emit.dropping);
        let needed = match (product, attention(self.trace, index).filter(|_| direct)) {
            (Some(found), _) => vec![found.weight, found.a, found.b, found.x],
            (_, Some(scores)) => vec![scores.k, scores.q, scores.mask],
            _ => operands(node).collect(),
        };
        for operand in needed {
            if self.values[operand].is_none() {
                self.recompute(operand)?;
            }
        }
        let value = match self.mask(node, 1) {
            None => self.emit.value(self.graph, index, &mut self.values)?,
            Some(_) => {
                let masked = self.value(node, 1)?;
                self.emit
                    .masked_value(self.graph, index, &mut self.values, masked)?
            }
        };
        self.values[index] = Some(value);
        Ok(())
    }

    /// Transpose the inner two dimensions into memory, once for each tensor.
    fn transposed(&mut self, tensor: Tensor) -> Result<Tensor, TrainError> {
        if let Some(transposed) = self.transposes.get(&tensor) {
            return Ok(*transposed);
        }
        let transposed = self.graph.transposed(tensor)?;
        self.transposes.insert(tensor, transposed);
        Ok(transposed)
    }

    /// Add `gradient` to what an operand has so far.
    fn accumulate(&mut self, node: &Node, operand: usize, gradient: Tensor) -> Done {
        let index = source(node, operand)?;
        if !self.needs[index] {
            return Ok(());
        }
        let gradient = match self.mask(node, operand) {
            Some(mask) => mask.back(self.graph, gradient)?,
            None => gradient,
        };
        self.add_gradient(index, gradient)
    }

    fn add_gradient(&mut self, index: usize, gradient: Tensor) -> Done {
        if !self.needs[index] {
            return Ok(());
        }
        self.gradients[index] = Some(match self.gradients[index] {
            None => gradient,
            Some(sofar) => {
                let (sofar, gradient) = (self.graph.dense(sofar)?, self.graph.dense(gradient)?);
                self.graph.add(sofar, gradient)?
            }
        });
        Ok(())
    }

    /// Sum `gradient` over what an operand was repeated over, then `accumulate` it.
    fn accumulate_summed(&mut self, node: &Node, operand: usize, gradient: Tensor) -> Done {
        if !self.needs_gradient(node, operand) {
            return Ok(());
        }
        let shape = self.trace.nodes[source(node, operand)?].shape;
        let mut sum = gradient;
        for axis in 0..4 {
            let have = self.graph.shape(sum)?;
            if have[axis] == shape[axis] {
                continue;
            }
            if shape[axis] != 1 {
                return Err(TrainError::no_rule(node, " of tiles"));
            }
            sum = if axis == 0 {
                let dense = self.graph.dense(sum)?;
                self.graph.sum_rows(dense)?
            } else {
                let mut axes = [0, 1, 2, 3];
                axes.swap(0, axis);
                let swapped = self.graph.permute(sum, axes)?;
                let dense = self.graph.dense(swapped)?;
                let folded = self.graph.sum_rows(dense)?;
                self.graph.permute(folded, axes)?
            };
        }
        self.accumulate(node, operand, sum)
    }
}

fn source(node: &Node, operand: usize) -> Result<usize, TrainError> {
    node.sources
        .get(operand)
        .copied()
        .flatten()
        .ok_or_else(|| TrainError::no_rule(node, &format!(" without operand {operand}")))
}

/// Say where in the graph a rule is missing. What the graph itself refuses is a missing rule, too:
/// no rule was written for such a shape.
fn at(error: TrainError, node: &Node, index: usize) -> TrainError {
    match error {
        TrainError::NoRule { op, node, .. } => TrainError::NoRule {
            op,
            node,
            position: index,
        },
        TrainError::Llama(translora_llama::LlamaError::Graph(reason)) => TrainError::NoRule {
            op: format!("{} ({reason})", node.op.name()),
            node: node.name.clone(),
            position: index,
        },
        other => other,
    }
}
