//! AdamW on the adapter's numbers, in f32 on the host.

/// Constants of the optimizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Share of the first moment that a step keeps.
    pub beta1: f32,
    /// Share of the second moment that a step keeps.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Share of each number that a step takes away, times the learning rate.
    pub weight_decay: f32,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
        }
    }
}

/// First and second moments of one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// Decaying mean of gradients.
    pub first: Vec<f32>,
    /// Decaying mean of their squares.
    pub second: Vec<f32>,
}

impl Moments {
    /// Before the first step.
    pub fn zero(length: usize) -> Self {
        Self {
            first: vec![0.0; length],
            second: vec![0.0; length],
        }
    }
}

impl AdamW {
    /// Move `values` against `gradient`. `step` counts from 1.
    ///
    /// source: Loshchilov and Hutter 2019, algorithm 2 (decoupled weight decay)
    pub fn step(
        &self,
        values: &mut [f32],
        gradient: &[f32],
        moments: &mut Moments,
        learning_rate: f32,
        step: u64,
    ) {
        let power = i32::try_from(step).unwrap_or(i32::MAX);
        let correction1 = 1.0 - self.beta1.powi(power);
        let correction2 = (1.0 - self.beta2.powi(power)).sqrt();
        let rate = learning_rate / correction1;
        let keep = 1.0 - learning_rate * self.weight_decay;
        let states = moments.first.iter_mut().zip(&mut moments.second);
        for ((value, gradient), (first, second)) in values.iter_mut().zip(gradient).zip(states) {
            *first = self.beta1 * *first + (1.0 - self.beta1) * gradient;
            *second = self.beta2 * *second + (1.0 - self.beta2) * gradient * gradient;
            *value = *value * keep - rate * *first / (second.sqrt() / correction2 + self.epsilon);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two steps by hand: with β1 = 0.9, β2 = 0.999, ε = 0 the first step is exactly the learning
    /// rate against the sign.
    #[test]
    fn follows_the_algorithm() {
        let adam = AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 0.0,
            weight_decay: 0.1,
        };
        let (mut values, mut moments) = (vec![1.0, -2.0], Moments::zero(2));
        adam.step(&mut values, &[0.5, -0.25], &mut moments, 0.01, 1);
        assert!(
            (values[0] - (1.0 * 0.999 - 0.01)).abs() < 1e-6,
            "{values:?}"
        );
        assert!(
            (values[1] - (-2.0 * 0.999 + 0.01)).abs() < 1e-6,
            "{values:?}"
        );
        adam.step(&mut values, &[-0.5, -0.25], &mut moments, 0.01, 2);
        let (m, v) = (
            (0.9 * 0.05 - 0.05) / (1.0 - 0.81),
            (0.999 * 0.000_25 + 0.000_25) / (1.0 - 0.998_001),
        );
        let expected = 0.989 * 0.999 - 0.01 * m / f32::sqrt(v);
        assert!(
            (values[0] - expected).abs() < 1e-6,
            "{} {expected}",
            values[0]
        );
    }
}
