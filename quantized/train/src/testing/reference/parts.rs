//! The parts of layers: linear maps with their adapters, norms, rotations; each
//! forward and backward.

use super::adapter::ReferenceLora;
use super::{Gradients, Rows};

/// Holds a weight, its bias if it has one, and its name.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    pub(super) name: String,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) weight: Vec<f32>,
    pub(super) bias: Option<Vec<f32>>,
}

impl Linear {
    /// Computes y = W x + bias + scale · B (A x) for every row.
    pub(super) fn forward(&self, lora: &ReferenceLora, x: &Rows) -> Rows {
        x.iter().map(|x| self.forward_row(lora, x)).collect()
    }

    pub(super) fn forward_row(&self, lora: &ReferenceLora, x: &[f64]) -> Vec<f64> {
        let mut y = multiply(&self.weight, x);
        if let Some(bias) = &self.bias {
            add(&mut y, bias.iter().map(|&b| f64::from(b)));
        }
        if let Some((lora, scale)) = lora.get(&self.name) {
            let inner = multiply(&lora.a, x);
            add(
                &mut y,
                multiply(&lora.b, &inner).into_iter().map(|y| scale * y),
            );
        }
        y
    }

    /// Computes dx from dy, and adds what this weight's A and B gain.
    ///
    /// dx = Wᵀ dy + scale · Aᵀ (Bᵀ dy), dA += scale · (Bᵀ dy) xᵀ, dB += scale · dy (A x)ᵀ
    pub(super) fn backward(
        &self,
        lora: &ReferenceLora,
        x: &Rows,
        dy: &Rows,
        gradients: &mut Gradients,
    ) -> Rows {
        let mut dx: Rows = dy
            .iter()
            .map(|dy| multiply_transposed(&self.weight, dy, self.inputs))
            .collect();
        let Some((lora, scale)) = lora.get(&self.name) else {
            return dx;
        };
        let empty = || (vec![0.0; lora.a.len()], vec![0.0; lora.b.len()]);
        let (da, db) = gradients.entry(self.name.clone()).or_insert_with(empty);
        for ((x, dy), dx) in x.iter().zip(dy).zip(&mut dx) {
            let inner = multiply(&lora.a, x);
            let d_inner: Vec<f64> = multiply_transposed(&lora.b, dy, lora.rank)
                .iter()
                .map(|d| scale * d)
                .collect();
            add(
                dx,
                multiply_transposed(&lora.a, &d_inner, self.inputs).into_iter(),
            );
            add(
                da,
                d_inner.iter().flat_map(|d| x.iter().map(move |x| d * x)),
            );
            add(
                db,
                dy.iter()
                    .flat_map(|d| inner.iter().map(move |inner| scale * d * inner)),
            );
        }
        dx
    }
}

/// Computes W x.
pub(super) fn multiply(weight: &[f32], x: &[f64]) -> Vec<f64> {
    weight
        .chunks_exact(x.len())
        .map(|row| dot(row.iter().map(|&w| f64::from(w)), x))
        .collect()
}

/// Computes Wᵀ y for W of `inputs` columns.
pub(super) fn multiply_transposed(weight: &[f32], y: &[f64], inputs: usize) -> Vec<f64> {
    let mut x = vec![0.0; inputs];
    for (row, y) in weight.chunks_exact(inputs).zip(y) {
        add(&mut x, row.iter().map(|&w| f64::from(w) * y));
    }
    x
}

pub(super) fn dot(a: impl Iterator<Item = f64>, b: &[f64]) -> f64 {
    a.zip(b).map(|(a, b)| a * b).sum()
}

pub(super) fn add(sum: &mut [f64], terms: impl Iterator<Item = f64>) {
    sum.iter_mut()
        .zip(terms)
        .for_each(|(sum, term)| *sum += term);
}

pub(super) fn add_rows(a: &Rows, b: &Rows) -> Rows {
    a.iter()
        .zip(b)
        .map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect())
        .collect()
}

pub(super) fn zeros_like(rows: &Rows) -> Rows {
    rows.iter().map(|row| vec![0.0; row.len()]).collect()
}

/// Divides by the root of the mean square, and multiplies by the weight.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    pub(super) weight: Vec<f32>,
    pub(super) epsilon: f64,
}

impl Norm {
    pub(super) fn inverse_root(&self, x: &[f64]) -> f64 {
        (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + self.epsilon)
            .sqrt()
            .recip()
    }

    /// Computes y = w x r, with r = 1 / sqrt(mean(x²) + epsilon).
    pub(super) fn forward(&self, x: &[f64]) -> Vec<f64> {
        let r = self.inverse_root(x);
        x.iter()
            .zip(&self.weight)
            .map(|(x, &w)| x * r * f64::from(w))
            .collect()
    }

    /// Computes dx = r w dy − x r³ mean(x w dy).
    pub(super) fn backward(&self, x: &[f64], dy: &[f64]) -> Vec<f64> {
        let r = self.inverse_root(x);
        let weighted: Vec<f64> = dy
            .iter()
            .zip(&self.weight)
            .map(|(dy, &w)| dy * f64::from(w))
            .collect();
        let mean = dot(weighted.iter().copied(), x) / x.len() as f64;
        weighted
            .iter()
            .zip(x)
            .map(|(d, x)| r * d - x * r * r * r * mean)
            .collect()
    }

    pub(super) fn forward_rows(&self, x: &Rows) -> Rows {
        x.iter().map(|x| self.forward(x)).collect()
    }

    pub(super) fn backward_rows(&self, x: &Rows, dy: &Rows) -> Rows {
        x.iter()
            .zip(dy)
            .map(|(x, dy)| self.backward(x, dy))
            .collect()
    }
}

/// Turns pairs of a head by angles that grow with the position.
#[derive(Debug, Clone)]
pub(super) struct Rope {
    /// Pairs are neighbours (llama), else they lie half the rotated part apart (qwen).
    pub(super) interleaved: bool,
    /// The angle per position of each pair.
    pub(super) frequencies: Vec<f64>,
}

impl Rope {
    /// Turns one head; backwards with `direction` −1.
    pub(super) fn rotate(&self, head: &mut [f64], position: i32, direction: f64) {
        let pairs = self.frequencies.len();
        for (i, frequency) in self.frequencies.iter().enumerate() {
            let (first, second) = if self.interleaved {
                (2 * i, 2 * i + 1)
            } else {
                (i, i + pairs)
            };
            let (sin, cos) = (direction * f64::from(position) * frequency).sin_cos();
            let (x, y) = (head[first], head[second]);
            head[first] = x * cos - y * sin;
            head[second] = x * sin + y * cos;
        }
    }
}

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Computes ln Σ exp(score).
pub(super) fn log_sum_exp(scores: &[f64]) -> f64 {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + scores
        .iter()
        .map(|score| (score - max).exp())
        .sum::<f64>()
        .ln()
}

/// Turns scores into probabilities; all zeros where no score is finite.
pub(super) fn softmax(scores: &[f64]) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return vec![0.0; scores.len()];
    }
    let exponentials: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|e| e / sum).collect()
}
