//! Rules for what works element by element, gates included.

use translora_llama::{Glu, Graph, Node, Tensor, Unary};

use super::{Backward, Done};
use crate::error::TrainError;

/// √(2/π), and the cubic term of GELU's usual approximation. source: ggml `ggml_gelu_f32`
const GELU_SCALE: f32 = 0.797_884_6;
const GELU_CUBE: f32 = 0.044_715;
/// source: ggml `ggml_gelu_quick_f32`
const GELU_QUICK: f32 = 1.702;
/// 1/√(2π), the density that erf's GELU has for a slope.
const NORMAL: f32 = 0.398_942_3;

impl Backward<'_> {
    /// y = a + b, b repeated where it is a bias (or, for ADD_ID, chosen by the third operand: the
    /// bias itself is never trained)
    pub(super) fn add(&mut self, node: &Node, dy: Tensor) -> Done {
        if node.op == translora_llama::Op::AddId {
            if self.needs_gradient(node, 1) {
                return Err(TrainError::no_rule(node, " with a trained bias"));
            }
            return self.accumulate(node, 0, dy);
        }
        self.accumulate_summed(node, 0, dy)?;
        self.accumulate_summed(node, 1, dy)
    }

    /// y = a − b
    pub(super) fn sub(&mut self, node: &Node, dy: Tensor) -> Done {
        self.accumulate_summed(node, 0, dy)?;
        if self.needs_gradient(node, 1) {
            let db = self.graph.scale(dy, -1.0, 0.0)?;
            self.accumulate_summed(node, 1, db)?;
        }
        Ok(())
    }

    /// y = a ⊙ b, b repeated where it is a norm's weight
    pub(super) fn mul(&mut self, node: &Node, dy: Tensor) -> Done {
        let dy = self.graph.dense(dy)?;
        for (operand, other) in [(0, 1), (1, 0)] {
            if self.needs_gradient(node, operand) {
                let other = self.value(node, other)?;
                let dx = self.graph.mul(dy, other)?;
                self.accumulate_summed(node, operand, dx)?;
            }
        }
        Ok(())
    }

    /// y = a / b: da = dy / b; db = −dy y / b
    pub(super) fn div(&mut self, index: usize, node: &Node, dy: Tensor) -> Done {
        let dy = self.graph.dense(dy)?;
        let b = self.value(node, 1)?;
        let da = self.graph.div(dy, b)?;
        if self.needs_gradient(node, 1) {
            let y = self.emitted(index)?;
            let product = self.graph.mul(da, y)?;
            let db = self.graph.scale(product, -1.0, 0.0)?;
            self.accumulate_summed(node, 1, db)?;
        }
        self.accumulate_summed(node, 0, da)
    }

    /// y = x²: dx = 2 x dy; y = √x: dx = dy / 2 y
    pub(super) fn power(&mut self, index: usize, node: &Node, dy: Tensor) -> Done {
        let dx = if node.op == translora_llama::Op::Sqr {
            let x = self.value(node, 0)?;
            let product = self.graph.mul(dy, x)?;
            self.graph.scale(product, 2.0, 0.0)?
        } else {
            let y = self.emitted(index)?;
            let quotient = self.graph.div(dy, y)?;
            self.graph.scale(quotient, 0.5, 0.0)?
        };
        self.accumulate(node, 0, dx)
    }

    /// y = min(max(x, a), b): dx = dy inside
    pub(super) fn clamp(&mut self, node: &Node, dy: Tensor) -> Done {
        let x = self.value(node, 0)?;
        let inside = self.inside(x, node.parameter_f32(0), node.parameter_f32(1))?;
        let dx = self.graph.mul(dy, inside)?;
        self.accumulate(node, 0, dx)
    }

    /// 1 where a < x < b, 0 elsewhere; a bound that is not finite is none.
    fn inside(&mut self, x: Tensor, a: f32, b: f32) -> Result<Tensor, TrainError> {
        let mut inside = None;
        for (bound, sign) in [(a, 1.0), (b, -1.0)] {
            // Beyond half of what an f32 holds there is no number to keep out.
            if bound.abs() < f32::MAX / 2.0 {
                let distance = self.graph.scale(x, sign, -sign * bound)?;
                let step = self.graph.step(distance)?;
                inside = Some(match inside {
                    None => step,
                    Some(other) => self.graph.mul(step, other)?,
                });
            }
        }
        match inside {
            Some(inside) => Ok(inside),
            None => Ok(self.graph.scale(x, 0.0, 1.0)?),
        }
    }

    pub(super) fn unary(&mut self, index: usize, node: &Node, unary: Unary, dy: Tensor) -> Done {
        let (x, y, dy) = (
            self.value(node, 0)?,
            self.emitted(index)?,
            self.graph.dense(dy)?,
        );
        let x = self.graph.dense(x)?;
        let slope = match unary {
            Unary::Sgn | Unary::Step => self.graph.scale(x, 0.0, 0.0)?,
            Unary::Neg => self.graph.scale(x, 0.0, -1.0)?,
            Unary::Abs => self.graph.sgn(x)?,
            Unary::Exp => y,
            Unary::Softplus => self.graph.sigmoid(x)?,
            Unary::Tanh => {
                let square = self.graph.sqr(y)?;
                self.graph.scale(square, -1.0, 1.0)?
            }
            Unary::Sigmoid => {
                let square = self.graph.sqr(y)?;
                self.graph.sub(y, square)?
            }
            Unary::Relu | Unary::Silu | Unary::Gelu | Unary::GeluQuick | Unary::GeluErf => {
                self.activation(activation_of(unary), x)?.1
            }
        };
        let dx = self.graph.mul(dy, slope)?;
        self.accumulate(node, 0, dx)
    }

    /// y = act(g) ⊙ u: du = dy ⊙ act(g); dg = dy ⊙ u ⊙ act′(g). Gate and value are two operands, or
    /// two halves of one.
    pub(super) fn glu(&mut self, node: &Node, glu: Glu, dy: Tensor) -> Done {
        let dy = self.graph.dense(dy)?;
        let split = node.sources.get(1).copied().flatten().is_some();
        if split && glu == Glu::Swiglu && self.weights.direct().is_some() {
            return self.swiglu_direct(node, dy);
        }
        let (gate, up) = if split {
            (self.value(node, 0)?, self.value(node, 1)?)
        } else {
            let (whole, half) = (self.value(node, 0)?, node.shape[0]);
            let (gate, up) = if node.parameters[1] == 0 {
                (0, half)
            } else {
                (half, 0)
            };
            let gate = self.graph.slice(whole, 0, gate, half)?;
            let up = self.graph.slice(whole, 0, up, half)?;
            (self.graph.cont(gate)?, self.graph.cont(up)?)
        };
        let (value, slope, up, up_slope) = self.gate_parts(node, glu, gate, up)?;
        let mut du = self.graph.mul(dy, value)?;
        if let Some(slope) = up_slope {
            du = self.graph.mul(du, slope)?;
        }
        let dg = self.graph.mul(dy, up)?;
        let dg = self.graph.mul(dg, slope)?;
        if split {
            self.accumulate(node, 1, du)?;
            return self.accumulate(node, 0, dg);
        }
        let [_, n1, n2, n3] = node.shape;
        let (first, second) = if node.parameters[1] == 0 {
            (dg, du)
        } else {
            (du, dg)
        };
        let both = self.graph.join(first, second, 0)?;
        let both = self.graph.reshape(both, [2 * node.shape[0], n1, n2, n3])?;
        self.accumulate(node, 0, both)
    }

    /// act(g), its slope, the value that it multiplies, and that value's slope where it is not 1.
    fn gate_parts(
        &mut self,
        node: &Node,
        glu: Glu,
        gate: Tensor,
        up: Tensor,
    ) -> Result<(Tensor, Tensor, Tensor, Option<Tensor>), TrainError> {
        let up = self.graph.dense(up)?;
        let (alpha, limit) = (node.parameter_f32(2), node.parameter_f32(3));
        let activation = match glu {
            Glu::Swiglu => Activation::Silu(1.0),
            Glu::Reglu => Activation::Relu,
            Glu::Geglu => Activation::Gelu,
            Glu::GegluErf => Activation::GeluErf,
            Glu::GegluQuick => Activation::Silu(GELU_QUICK),
            Glu::SwigluOai => Activation::Silu(alpha),
            Glu::SwigluClamp => Activation::Silu(1.0),
        };
        if !matches!(glu, Glu::SwigluOai | Glu::SwigluClamp) {
            let (value, slope) = self.activation(activation, gate)?;
            return Ok((value, slope, up, None));
        }
        let gate = self.graph.dense(gate)?;
        let clamped = self.graph.clamp(gate, f32::MIN, limit)?;
        let (value, slope) = self.activation(activation, clamped)?;
        let inside = self.inside(gate, f32::NEG_INFINITY, limit)?;
        let slope = self.graph.mul(slope, inside)?;
        let up_slope = self.inside(up, -limit, limit)?;
        let up = self.graph.clamp(up, -limit, limit)?;
        let up = if glu == Glu::SwigluOai {
            self.graph.scale(up, 1.0, 1.0)?
        } else {
            up
        };
        Ok((value, slope, up, Some(up_slope)))
    }

    /// An activation and its slope at x.
    fn activation(
        &mut self,
        activation: Activation,
        x: Tensor,
    ) -> Result<(Tensor, Tensor), TrainError> {
        let graph = &mut *self.graph;
        let x = graph.dense(x)?;
        Ok(match activation {
            // x σ(a x): σ + a x σ (1 − σ)
            Activation::Silu(a) => {
                let scaled = if a == 1.0 { x } else { graph.scale(x, a, 0.0)? };
                let sigma = graph.sigmoid(scaled)?;
                let value = graph.mul(x, sigma)?;
                let product = graph.mul(value, sigma)?;
                let difference = graph.sub(value, product)?;
                let difference = if a == 1.0 {
                    difference
                } else {
                    graph.scale(difference, a, 0.0)?
                };
                (value, graph.add(sigma, difference)?)
            }
            Activation::Relu => {
                let slope = graph.step(x)?;
                (graph.mul(x, slope)?, slope)
            }
            // ½ x (1 + t), t = tanh(c (x + k x³)): ½ (1 + t) + ½ x (1 − t²) c (1 + 3 k x²)
            Activation::Gelu => {
                let square = graph.sqr(x)?;
                let factor = graph.scale(square, GELU_SCALE * GELU_CUBE, GELU_SCALE)?;
                let inner = graph.mul(factor, x)?;
                let t = graph.tanh(inner)?;
                let half = graph.scale(t, 0.5, 0.5)?;
                let value = graph.mul(x, half)?;
                let rate = graph.scale(square, 1.5 * GELU_SCALE * GELU_CUBE, 0.5 * GELU_SCALE)?;
                let rate = graph.mul(rate, x)?;
                let rest = graph.sqr(t)?;
                let rest = graph.scale(rest, -1.0, 1.0)?;
                let second = graph.mul(rest, rate)?;
                (value, graph.add(half, second)?)
            }
            // x Φ(x): Φ + x φ
            Activation::GeluErf => {
                let value = graph.gelu_erf(x)?;
                let square = graph.sqr(x)?;
                let exponent = graph.scale(square, -0.5, 0.0)?;
                let density = graph.exp(exponent)?;
                let density = graph.mul(density, x)?;
                let density = graph.scale(density, NORMAL, 0.0)?;
                // Φ without a division by an x near zero: ½ (1 + erf) is what the value holds,
                // times x.
                let phi = if self.weights.on_device() {
                    normal(graph, x, value)?
                } else {
                    graph.phi(x)?
                };
                (value, graph.add(phi, density)?)
            }
        })
    }
}

/// Φ(x) from x Φ(x), by a division where x is far from zero, and by the first terms of its series
/// where it is near. Devices have no Φ.
fn normal(graph: &mut Graph, x: Tensor, value: Tensor) -> Result<Tensor, TrainError> {
    // The next term of the series, x⁵/40 φ(0), is below 1e-7 here.
    const NEAR: f32 = 0.1;
    let square = graph.sqr(x)?;
    let above = graph.scale(square, 1.0, -NEAR * NEAR)?;
    let far = graph.step(above)?;
    let near = graph.scale(far, -1.0, 1.0)?;
    let kept = graph.mul(x, far)?;
    let divisor = graph.add(kept, near)?;
    let quotient = graph.div(value, divisor)?;
    let quotient = graph.mul(quotient, far)?;
    let slope = graph.scale(square, -NORMAL / 6.0, NORMAL)?;
    let series = graph.mul(slope, x)?;
    let series = graph.scale(series, 1.0, 0.5)?;
    let series = graph.mul(series, near)?;
    Ok(graph.add(quotient, series)?)
}

/// What gates and feed-forwards bend their values with.
#[derive(Clone, Copy)]
enum Activation {
    /// x σ(a x)
    Silu(f32),
    Relu,
    Gelu,
    GeluErf,
}

fn activation_of(unary: Unary) -> Activation {
    match unary {
        Unary::Relu => Activation::Relu,
        Unary::Gelu => Activation::Gelu,
        Unary::GeluErf => Activation::GeluErf,
        Unary::GeluQuick => Activation::Silu(GELU_QUICK),
        _ => Activation::Silu(1.0),
    }
}
