//! Computes logits, losses and LoRA gradients of a model the plain way: what the trainer is checked
//! against.
//!
//! Every weight is turned into floats, every value is an `f64`, every loop is written out, forward
//! and backward. It is slow and short on purpose. It knows the dense llama, qwen2 and qwen3
//! architectures and refuses a model with any tensor that it would leave out of the sum. It knows
//! nothing of ggml, and nobody but tests may call it.
//!
//! shapes: a batch of T tokens is `Rows`, T rows of one vector each. A weight is
//! `[outputs][inputs]`.

mod adapter;
mod error;
mod load;
mod parts;
#[cfg(test)]
mod tests;

pub use adapter::{LoraWeight, ReferenceLora};
pub use error::ReferenceError;

use parts::{
    Linear, Norm, Rope, add, add_rows, dot, log_sum_exp, multiply_transposed, sigmoid, softmax,
    zeros_like,
};
use std::collections::BTreeMap;
use translora_gguf::Gguf;

type Result<T> = std::result::Result<T, ReferenceError>;

/// One vector per token.
type Rows = Vec<Vec<f64>>;

/// The derivatives of the loss by A (`[rank][inputs]`) and by B (`[outputs][rank]`), by name of the
/// weight.
pub type Gradients = BTreeMap<String, (Vec<f64>, Vec<f64>)>;

/// A token's loss and its derivatives by the logits, or nothing where it has no loss.
pub type Judge<'a> = dyn Fn(usize, &[f64]) -> Option<(f64, Vec<f64>)> + 'a;

/// Lets each token attend to itself and to those before it.
pub fn causal(query: usize, key: usize) -> bool {
    key <= query
}

#[derive(Debug, Clone)]
struct Layer {
    attn_norm: Norm,
    q: Linear,
    k: Linear,
    v: Linear,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
    output: Linear,
    ffn_norm: Norm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Layer {
    /// Lists the weights that an adapter may touch.
    fn linears(&self) -> [&Linear; 7] {
        [
            &self.q,
            &self.k,
            &self.v,
            &self.output,
            &self.gate,
            &self.up,
            &self.down,
        ]
    }
}

/// Remembers what the backward pass of a layer needs from the forward pass.
struct Tape {
    input: Rows,
    normed: Rows,
    q_projected: Rows,
    k_projected: Rows,
    q: Rows,
    k: Rows,
    v: Rows,
    /// `[head][query][key]`, zero where the key is not visible.
    probabilities: Vec<Rows>,
    attended: Rows,
    middle: Rows,
    ffn_normed: Rows,
    gate: Rows,
    up: Rows,
    activated: Rows,
}

struct Batch<'a> {
    tokens: &'a [u32],
    positions: &'a [i32],
    visible: &'a dyn Fn(usize, usize) -> bool,
}

/// Holds a whole model as floats.
#[derive(Debug, Clone)]
pub struct ReferenceModel {
    heads: usize,
    kv_heads: usize,
    key_length: usize,
    value_length: usize,
    rope: Rope,
    embedding: Linear,
    layers: Vec<Layer>,
    norm: Norm,
    /// Absent where the embedding serves as output.
    output: Option<Linear>,
}

impl ReferenceModel {
    /// Turns a model file into floats.
    ///
    /// fails: on another architecture; on a tensor that is missing, of the wrong shape, or without
    /// a place in the architecture; on scaled positions other than linear ones
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<ReferenceModel> {
        load::model(gguf)
    }

    /// Computes the logits of every token.
    ///
    /// shapes: `positions` is `[T]`, the result `[T][vocabulary]`. Token i attends to token j where
    /// `visible(i, j)`
    pub fn forward(
        &self,
        lora: &ReferenceLora,
        tokens: &[u32],
        positions: &[i32],
        visible: &dyn Fn(usize, usize) -> bool,
    ) -> Result<Vec<Vec<f64>>> {
        let batch = Batch {
            tokens,
            positions,
            visible,
        };
        let (_, hidden) = self.run(lora, &batch)?;
        Ok(self
            .output()
            .forward(lora, &self.norm.forward_rows(&hidden)))
    }

    /// Computes the sum over i of `weights[i]` · cross-entropy of token i's logits against
    /// `targets[i]`, and its derivatives.
    ///
    /// shapes: all slices are `[T]`; a token without a target has no loss, whatever its weight
    pub fn loss_and_gradients(
        &self,
        lora: &ReferenceLora,
        tokens: &[u32],
        positions: &[i32],
        visible: &dyn Fn(usize, usize) -> bool,
        targets: &[Option<u32>],
        weights: &[f32],
    ) -> Result<(f64, Gradients)> {
        if targets.len() != tokens.len() || weights.len() != tokens.len() {
            return Err(ReferenceError::Batch(
                "as many targets and weights as tokens are needed",
            ));
        }
        if targets
            .iter()
            .flatten()
            .any(|&target| target as usize >= self.embedding.outputs)
        {
            return Err(ReferenceError::Batch("a target is outside the vocabulary"));
        }
        let cross_entropy = |i: usize, logits: &[f64]| {
            let (target, weight) = (targets[i]? as usize, f64::from(weights[i]));
            let mut d_logits = softmax(logits);
            d_logits[target] -= 1.0;
            d_logits.iter_mut().for_each(|d| *d *= weight);
            Some((weight * (log_sum_exp(logits) - logits[target]), d_logits))
        };
        self.loss_and_gradients_by(lora, tokens, positions, visible, &cross_entropy)
    }

    /// Computes the sum over tokens of any loss of their logits, and its derivatives.
    pub fn loss_and_gradients_by(
        &self,
        lora: &ReferenceLora,
        tokens: &[u32],
        positions: &[i32],
        visible: &dyn Fn(usize, usize) -> bool,
        judge: &Judge<'_>,
    ) -> Result<(f64, Gradients)> {
        let batch = Batch {
            tokens,
            positions,
            visible,
        };
        let (tapes, hidden) = self.run(lora, &batch)?;
        let normed = self.norm.forward_rows(&hidden);
        let (mut loss, mut d_normed) = (0.0, zeros_like(&normed));
        for i in 0..tokens.len() {
            let logits = self.output().forward_row(lora, &normed[i]);
            let Some((part, d_logits)) = judge(i, &logits) else {
                continue;
            };
            loss += part;
            d_normed[i] =
                multiply_transposed(&self.output().weight, &d_logits, self.output().inputs);
        }
        let mut gradients = Gradients::new();
        let mut dx = self.norm.backward_rows(&hidden, &d_normed);
        for (layer, tape) in self.layers.iter().zip(&tapes).rev() {
            dx = self.layer_backward(layer, lora, &batch, tape, &dx, &mut gradients);
        }
        Ok((loss, gradients))
    }

    fn output(&self) -> &Linear {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// Runs all layers, and returns their tapes and the last output.
    fn run(&self, lora: &ReferenceLora, batch: &Batch<'_>) -> Result<(Vec<Tape>, Rows)> {
        self.check(lora, batch)?;
        let width = self.embedding.inputs;
        let embed = |&token: &u32| {
            self.embedding.weight[token as usize * width..][..width]
                .iter()
                .map(|&x| x.into())
                .collect()
        };
        let mut x: Rows = batch.tokens.iter().map(embed).collect();
        let mut tapes = Vec::new();
        for layer in &self.layers {
            let (tape, output) = self.layer_forward(layer, lora, batch, x);
            tapes.push(tape);
            x = output;
        }
        Ok((tapes, x))
    }

    fn check(&self, lora: &ReferenceLora, batch: &Batch<'_>) -> Result<()> {
        if batch.positions.len() != batch.tokens.len() {
            return Err(ReferenceError::Batch(
                "as many positions as tokens are needed",
            ));
        }
        if batch
            .tokens
            .iter()
            .any(|&token| token as usize >= self.embedding.outputs)
        {
            return Err(ReferenceError::Batch("a token is outside the vocabulary"));
        }
        let known: BTreeMap<&str, &Linear> = self
            .layers
            .iter()
            .flat_map(Layer::linears)
            .map(|linear| (linear.name.as_str(), linear))
            .collect();
        for (name, lora) in &lora.weights {
            let fits = |l: &&Linear| {
                lora.a.len() == lora.rank * l.inputs && lora.b.len() == lora.rank * l.outputs
            };
            if lora.rank == 0 || !known.get(name.as_str()).is_some_and(fits) {
                return Err(ReferenceError::Lora(name.clone()));
            }
        }
        Ok(())
    }

    /// Computes one layer: x + attention(norm(x)), then that plus feed-forward(norm(that)).
    fn layer_forward(
        &self,
        layer: &Layer,
        lora: &ReferenceLora,
        batch: &Batch<'_>,
        input: Rows,
    ) -> (Tape, Rows) {
        let normed = layer.attn_norm.forward_rows(&input);
        let q_projected = layer.q.forward(lora, &normed);
        let k_projected = layer.k.forward(lora, &normed);
        let v = layer.v.forward(lora, &normed);
        let q = self.place(&q_projected, layer.q_norm.as_ref(), batch.positions);
        let k = self.place(&k_projected, layer.k_norm.as_ref(), batch.positions);
        let (probabilities, attended) = self.attend(batch, &q, &k, &v);
        let middle = add_rows(&input, &layer.output.forward(lora, &attended));
        let ffn_normed = layer.ffn_norm.forward_rows(&middle);
        let gate = layer.gate.forward(lora, &ffn_normed);
        let up = layer.up.forward(lora, &ffn_normed);
        let silu_times = |(g, u): (&f64, &f64)| g * sigmoid(*g) * u;
        let activated = gate
            .iter()
            .zip(&up)
            .map(|(g, u)| g.iter().zip(u).map(silu_times).collect())
            .collect();
        let output = add_rows(&middle, &layer.down.forward(lora, &activated));
        let tape = Tape {
            input,
            normed,
            q_projected,
            k_projected,
            q,
            k,
            v,
            probabilities,
            attended,
            middle,
            ffn_normed,
            gate,
            up,
            activated,
        };
        (tape, output)
    }

    /// Computes the derivative by a layer's input from that by its output.
    fn layer_backward(
        &self,
        layer: &Layer,
        lora: &ReferenceLora,
        batch: &Batch<'_>,
        tape: &Tape,
        d_output: &Rows,
        gradients: &mut Gradients,
    ) -> Rows {
        let d_activated = layer
            .down
            .backward(lora, &tape.activated, d_output, gradients);
        let (mut d_gate, mut d_up) = (zeros_like(&tape.gate), zeros_like(&tape.up));
        for (i, d_activated) in d_activated.iter().enumerate() {
            for (j, d) in d_activated.iter().enumerate() {
                let (g, s) = (tape.gate[i][j], sigmoid(tape.gate[i][j]));
                d_up[i][j] = d * g * s;
                d_gate[i][j] = d * tape.up[i][j] * s * (1.0 + g * (1.0 - s));
            }
        }
        let d_ffn_normed = add_rows(
            &layer
                .gate
                .backward(lora, &tape.ffn_normed, &d_gate, gradients),
            &layer.up.backward(lora, &tape.ffn_normed, &d_up, gradients),
        );
        let d_middle = add_rows(
            d_output,
            &layer.ffn_norm.backward_rows(&tape.middle, &d_ffn_normed),
        );

        let d_attended = layer
            .output
            .backward(lora, &tape.attended, &d_middle, gradients);
        let (d_q, d_k, d_v) = self.attend_backward(tape, &d_attended);
        let d_q = self.place_backward(
            &tape.q_projected,
            layer.q_norm.as_ref(),
            batch.positions,
            d_q,
        );
        let d_k = self.place_backward(
            &tape.k_projected,
            layer.k_norm.as_ref(),
            batch.positions,
            d_k,
        );
        let mut d_normed = layer.q.backward(lora, &tape.normed, &d_q, gradients);
        d_normed = add_rows(
            &d_normed,
            &layer.k.backward(lora, &tape.normed, &d_k, gradients),
        );
        d_normed = add_rows(
            &d_normed,
            &layer.v.backward(lora, &tape.normed, &d_v, gradients),
        );
        add_rows(
            &d_middle,
            &layer.attn_norm.backward_rows(&tape.input, &d_normed),
        )
    }

    /// Normalizes every head of every row where the architecture does, and rotates it to its
    /// position.
    fn place(&self, projected: &Rows, norm: Option<&Norm>, positions: &[i32]) -> Rows {
        let mut rows = projected.clone();
        for (row, &position) in rows.iter_mut().zip(positions) {
            for head in row.chunks_exact_mut(self.key_length) {
                if let Some(norm) = norm {
                    head.copy_from_slice(&norm.forward(head));
                }
                self.rope.rotate(head, position, 1.0);
            }
        }
        rows
    }

    /// Computes the derivative by the projection from that by its placed heads.
    fn place_backward(
        &self,
        projected: &Rows,
        norm: Option<&Norm>,
        positions: &[i32],
        mut d: Rows,
    ) -> Rows {
        for ((row, d), &position) in projected.iter().zip(&mut d).zip(positions) {
            for (head, d) in row
                .chunks_exact(self.key_length)
                .zip(d.chunks_exact_mut(self.key_length))
            {
                self.rope.rotate(d, position, -1.0);
                if let Some(norm) = norm {
                    d.copy_from_slice(&norm.backward(head, d));
                }
            }
        }
        d
    }

    /// Says where a query head lies in a row of q and its key in k, and where its output and its
    /// value.
    fn head_ranges(&self, head: usize) -> [std::ops::Range<usize>; 4] {
        let kv_head = head / (self.heads / self.kv_heads);
        let range = |index: usize, length: usize| index * length..(index + 1) * length;
        [
            range(head, self.key_length),
            range(kv_head, self.key_length),
            range(head, self.value_length),
            range(kv_head, self.value_length),
        ]
    }

    fn attention_scale(&self) -> f64 {
        (self.key_length as f64).sqrt().recip()
    }

    /// Computes softmax(q kᵀ / sqrt(key length)) v over the visible keys; a token that sees nothing
    /// gets zeros.
    fn attend(&self, batch: &Batch<'_>, q: &Rows, k: &Rows, v: &Rows) -> (Vec<Rows>, Rows) {
        let count = q.len();
        let mut attended = vec![vec![0.0; self.heads * self.value_length]; count];
        let mut all = Vec::new();
        for head in 0..self.heads {
            let [at_q, at_k, at_out, at_v] = self.head_ranges(head);
            let score = |i: usize, j: usize| match (batch.visible)(i, j) {
                true => {
                    self.attention_scale()
                        * dot(q[i][at_q.clone()].iter().copied(), &k[j][at_k.clone()])
                }
                false => f64::NEG_INFINITY,
            };
            let rows: Rows = (0..count)
                .map(|i| softmax(&(0..count).map(|j| score(i, j)).collect::<Vec<_>>()))
                .collect();
            for (i, row) in rows.iter().enumerate() {
                for (v, p) in v.iter().zip(row) {
                    add(
                        &mut attended[i][at_out.clone()],
                        v[at_v.clone()].iter().map(|v| p * v),
                    );
                }
            }
            all.push(rows);
        }
        (all, attended)
    }

    /// Computes the derivatives by q, k and v from that by the output of the attention.
    fn attend_backward(&self, tape: &Tape, d_attended: &Rows) -> (Rows, Rows, Rows) {
        let (mut d_q, mut d_k, mut d_v) = (
            zeros_like(&tape.q),
            zeros_like(&tape.k),
            zeros_like(&tape.v),
        );
        for (head, rows) in tape.probabilities.iter().enumerate() {
            let [at_q, at_k, at_out, at_v] = self.head_ranges(head);
            for (i, row) in rows.iter().enumerate() {
                let d_out = &d_attended[i][at_out.clone()];
                let d_p: Vec<f64> = tape
                    .v
                    .iter()
                    .map(|v| dot(d_out.iter().copied(), &v[at_v.clone()]))
                    .collect();
                let mean = dot(row.iter().copied(), &d_p);
                for (j, p) in row.iter().enumerate() {
                    let d_score = self.attention_scale() * p * (d_p[j] - mean);
                    add(
                        &mut d_q[i][at_q.clone()],
                        tape.k[j][at_k.clone()].iter().map(|k| d_score * k),
                    );
                    add(
                        &mut d_k[j][at_k.clone()],
                        tape.q[i][at_q.clone()].iter().map(|q| d_score * q),
                    );
                    add(&mut d_v[j][at_v.clone()], d_out.iter().map(|d| p * d));
                }
            }
        }
        (d_q, d_k, d_v)
    }
}
