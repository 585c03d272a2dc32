//! Backward rules: one for each operation of a traced graph.
//!
//! Each rule is written with operations that every ggml backend has: no OUT_PROD, no *_BACK except ROPE_BACK, no autodiff.
//! Shapes are ggml's, innermost first; `dy` is the gradient of the loss for a node's result.

mod direct;

pub(crate) use direct::{adapted, attention};

use std::collections::HashMap;

use translora_llama::{Graph, Node, Op, Tensor, Trace};

use crate::error::TrainError;
use crate::weights::Weights;

type Done = Result<(), TrainError>;

/// Walks a forward graph backwards and adds the gradient nodes to it.
pub(crate) struct Backward<'a> {
    pub graph: &'a mut Graph,
    pub trace: &'a Trace,
    /// This graph's tensor for each traced node that was emitted.
    pub forward: &'a [Option<Tensor>],
    /// Nodes whose value depends on an adapter matrix.
    pub needs: &'a [bool],
    pub weights: &'a Weights,
    /// Input: for each token, the output row taken at it, or the padding row.
    pub output_of: Tensor,
    gradients: Vec<Option<Tensor>>,
    turned: HashMap<Tensor, Tensor>,
    /// Forward values that were computed again here, by node.
    recomputed: HashMap<usize, Tensor>,
}

impl<'a> Backward<'a> {
    pub fn new(
        graph: &'a mut Graph,
        trace: &'a Trace,
        forward: &'a [Option<Tensor>],
        needs: &'a [bool],
        weights: &'a Weights,
        output_of: Tensor,
    ) -> Self {
        let gradients = vec![None; trace.nodes.len()];
        Self { graph, trace, forward, needs, weights, output_of, gradients, turned: HashMap::new(), recomputed: HashMap::new() }
    }

    /// Propagate `gradient` of node `from` down to every adapter matrix; returns the gradient of each node that has one.
    pub fn run(mut self, from: usize, gradient: Tensor) -> Result<Vec<Option<Tensor>>, TrainError> {
        self.gradients[from] = Some(gradient);
        for index in (0..=from).rev() {
            let Some(gradient) = self.gradients[index] else { continue };
            let trace = self.trace;
            let node = &trace.nodes[index];
            if node.op == Op::Weight {
                let gradient = self.graph.dense(gradient)?;
                self.gradients[index] = Some(gradient);
                self.graph.expand(gradient)?;
                continue;
            }
            self.rule(index, node, gradient)?;
        }
        Ok(self.gradients)
    }

    fn rule(&mut self, index: usize, node: &Node, dy: Tensor) -> Done {
        match node.op {
            Op::Add => match self.weights.direct().zip(adapted(self.trace, self.needs, index)) {
                Some((kernel, found)) => self.adapted_direct(node, found, dy, kernel),
                None => self.add(node, dy),
            },
            Op::Mul => self.mul(node, dy),
            Op::Scale => {
                let dx = self.graph.scale(dy, node.parameter_f32(0), 0.0)?;
                self.give(node, 0, dx)
            }
            Op::MulMat => self.mul_mat(node, dy),
            Op::RmsNorm => self.rms_norm(index, node, dy),
            Op::SoftMax => self.soft_max(index, node, dy),
            Op::Swiglu => self.swiglu(node, dy),
            Op::Silu => self.silu(node, dy),
            Op::Rope => self.rope(node, dy),
            Op::GetRows => self.get_rows(node, dy),
            Op::Cont | Op::Reshape | Op::View => self.same_memory(node, dy),
            Op::Permute => {
                let mut axes = [0; 4];
                for (from, to) in node.parameters[..4].iter().enumerate() {
                    axes[usize::try_from(*to).unwrap_or(0)] = from as i32;
                }
                let dx = self.graph.permute(dy, axes)?;
                self.give(node, 0, dx)
            }
            Op::Transpose => {
                let dx = self.graph.transpose(dy)?;
                self.give(node, 0, dx)
            }
            Op::Weight | Op::Input | Op::Other(..) => Err(no_rule(node, "")),
        }
    }

    /// y = a + b
    fn add(&mut self, node: &Node, dy: Tensor) -> Done {
        for operand in [0, 1] {
            if self.wants(node, operand) {
                self.same_shape(node, operand)?;
                self.give(node, operand, dy)?;
            }
        }
        Ok(())
    }

    /// y = a ⊙ b, b repeated over rows where it is a norm's weight
    fn mul(&mut self, node: &Node, dy: Tensor) -> Done {
        let dy = self.graph.dense(dy)?;
        for (operand, other) in [(0, 1), (1, 0)] {
            if self.wants(node, operand) {
                self.same_shape(node, operand)?;
                let other = self.value(node, other)?;
                let dx = self.graph.mul(dy, other)?;
                self.give(node, operand, dx)?;
            }
        }
        Ok(())
    }

    /// y = aᵀ b: db = a dy; da = b dyᵀ, summed over the heads that share one `a`
    ///
    /// shapes: a [k, m, g], b [k, n, h], y [m, n, h] with h a multiple of g
    fn mul_mat(&mut self, node: &Node, dy: Tensor) -> Done {
        if let Some(kernel) = self.weights.direct() {
            return self.mul_mat_direct(node, dy, kernel);
        }
        // ggml's fast F32 product wants its second operand contiguous; gradients of permuted heads are not.
        let dy = self.graph.dense(dy)?;
        if self.wants(node, 1) {
            let db = self.right_gradient(node, dy)?;
            self.give(node, 1, db)?;
        }
        if self.wants(node, 0) {
            let a = &self.trace.nodes[source(node, 0)?];
            let b = self.value(node, 1)?;
            let [k, n, h, outer] = self.graph.shape(b)?;
            let [_, m, g, _] = a.shape;
            if outer != 1 {
                return Err(no_rule(node, " with an outer batch"));
            }
            let folded = n * h / g;
            let b = self.graph.reshape(b, [k, folded, g, 1])?;
            let dy = self.graph.reshape(dy, [m, folded, g, 1])?;
            let (b, dy) = (self.turn(b)?, self.turn(dy)?);
            let da = self.graph.mul_mat(b, dy)?;
            self.give(node, 0, da)?;
        }
        Ok(())
    }

    /// W dy for a frozen weight, by whatever reads it; else a product with the first operand turned here.
    fn right_gradient(&mut self, node: &Node, dy: Tensor) -> Result<Tensor, TrainError> {
        let index = source(node, 0)?;
        let (a, tensor) = (&self.trace.nodes[index], self.value(node, 0)?);
        if a.op == Op::Weight && !self.needs[index] {
            let product = self.weights.turned_product(self.graph, a, tensor, dy)?;
            return product.ok_or_else(|| no_rule(node, " without a transposed copy"));
        }
        let turned = self.turn(tensor)?;
        Ok(self.graph.mul_mat(turned, dy)?)
    }

    /// y = x / √(mean x² + ε): dx = (dy − y mean(y ⊙ dy)) / √(mean x² + ε)
    fn rms_norm(&mut self, index: usize, node: &Node, dy: Tensor) -> Done {
        if self.weights.direct().is_some() {
            return self.rms_norm_direct(node, dy);
        }
        let (x, y) = (self.value(node, 0)?, self.emitted(index, node)?);
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
        self.give(node, 0, dx)
    }

    /// y = softmax(s x + mask): dx = s y ⊙ (dy − Σ y ⊙ dy)
    fn soft_max(&mut self, index: usize, node: &Node, dy: Tensor) -> Done {
        if node.sources.get(2).copied().flatten().is_some() {
            return Err(no_rule(node, " with sinks"));
        }
        let y = self.emitted(index, node)?;
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
        self.give(node, 0, dx)
    }

    /// y = silu(g) ⊙ u: du = dy ⊙ silu(g); dg = dy ⊙ u ⊙ silu′(g)
    fn swiglu(&mut self, node: &Node, dy: Tensor) -> Done {
        if node.sources.len() < 2 {
            return Err(no_rule(node, " with gate and value in one tensor"));
        }
        if self.weights.direct().is_some() {
            return self.swiglu_direct(node, dy);
        }
        let (gate, up) = (self.value(node, 0)?, self.value(node, 1)?);
        let dy = self.graph.dense(dy)?;
        let (silu, slope) = self.silu_parts(gate)?;
        if self.wants(node, 1) {
            let du = self.graph.mul(dy, silu)?;
            self.give(node, 1, du)?;
        }
        if self.wants(node, 0) {
            let dg = self.graph.mul(dy, up)?;
            let dg = self.graph.mul(dg, slope)?;
            self.give(node, 0, dg)?;
        }
        Ok(())
    }

    fn silu(&mut self, node: &Node, dy: Tensor) -> Done {
        let x = self.value(node, 0)?;
        let (_, slope) = self.silu_parts(x)?;
        let dy = self.graph.dense(dy)?;
        let dx = self.graph.mul(dy, slope)?;
        self.give(node, 0, dx)
    }

    /// silu(x) = x σ(x) and silu′(x) = σ(x) + silu(x) − silu(x) σ(x)
    fn silu_parts(&mut self, x: Tensor) -> Result<(Tensor, Tensor), TrainError> {
        let graph = &mut *self.graph;
        let x = graph.dense(x)?;
        let sigma = graph.sigmoid(x)?;
        let silu = graph.mul(x, sigma)?;
        let sum = graph.add(sigma, silu)?;
        let product = graph.mul(silu, sigma)?;
        Ok((silu, graph.sub(sum, product)?))
    }

    fn rope(&mut self, node: &Node, dy: Tensor) -> Done {
        let positions = self.value(node, 1)?;
        let factors = match node.sources.get(2).copied().flatten() {
            Some(_) => Some(self.value(node, 2)?),
            None => None,
        };
        let dx = self.graph.rope_back(node, dy, positions, factors)?;
        self.give(node, 0, dx)
    }

    /// y = rows of x at the outputs: dx takes each token's row back, and zero (the padding row's gradient) elsewhere
    fn get_rows(&mut self, node: &Node, dy: Tensor) -> Done {
        let ids = &self.trace.nodes[source(node, 1)?];
        if ids.op != Op::Input {
            return Err(no_rule(node, " by computed rows"));
        }
        let [width, rows, ..] = node.shape;
        let dy = self.graph.reshape(dy, [width, rows, 1, 1])?;
        let dx = self.graph.get_rows(dy, self.output_of)?;
        self.give(node, 0, dx)
    }

    /// y reads all of x's memory in its order, under another shape
    fn same_memory(&mut self, node: &Node, dy: Tensor) -> Done {
        let x = &self.trace.nodes[source(node, 0)?];
        let whole = x.elements() == node.elements() && node.view.is_none_or(|(_, offset)| offset == x.view.map_or(0, |(_, offset)| offset));
        if !whole {
            return Err(no_rule(node, " of a part"));
        }
        let dx = self.graph.reshape(dy, x.shape)?;
        self.give(node, 0, dx)
    }

    fn wants(&self, node: &Node, operand: usize) -> bool {
        node.sources.get(operand).copied().flatten().is_some_and(|index| self.needs[index])
    }

    fn same_shape(&self, node: &Node, operand: usize) -> Done {
        if self.trace.nodes[source(node, operand)?].shape == node.shape { Ok(()) } else { Err(no_rule(node, " repeated over rows")) }
    }

    fn value(&mut self, node: &Node, operand: usize) -> Result<Tensor, TrainError> {
        self.emitted(source(node, operand)?, node)
    }

    fn emitted(&mut self, index: usize, node: &Node) -> Result<Tensor, TrainError> {
        if self.weights.direct().is_some()
            && let Some(again) = self.again(index)?
        {
            return Ok(again);
        }
        self.forward[index].ok_or_else(|| no_rule(node, " of a node that was not emitted"))
    }

    /// Transpose the inner two dimensions into memory, once for each tensor.
    fn turn(&mut self, tensor: Tensor) -> Result<Tensor, TrainError> {
        if let Some(turned) = self.turned.get(&tensor) {
            return Ok(*turned);
        }
        let turned = self.graph.turned(tensor)?;
        self.turned.insert(tensor, turned);
        Ok(turned)
    }

    /// Add `gradient` to what an operand has so far.
    fn give(&mut self, node: &Node, operand: usize, gradient: Tensor) -> Done {
        self.add_gradient(source(node, operand)?, gradient)
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
}

fn source(node: &Node, operand: usize) -> Result<usize, TrainError> {
    node.sources.get(operand).copied().flatten().ok_or_else(|| no_rule(node, &format!(" without operand {operand}")))
}

pub(crate) fn no_rule(node: &Node, detail: &str) -> TrainError {
    TrainError::NoRule { op: format!("{}{detail}", node.op.name()), node: node.name.clone() }
}
