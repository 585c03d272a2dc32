//! Leaves out a share of the inputs of each A in a training step.
//!
//! A mask holds 0 or 1 / (1 − share), drawn by counting from a key, so that the same step draws the
//! same mask, also after a restart.
//!
//! source: PEFT `LoraLayer` (lora_dropout)

use translora_llama::{Compute, Dtype, Graph, Tensor};

use crate::error::TrainError;

/// What one product with an A reads instead of its input.
#[derive(Clone, Copy)]
pub(crate) struct Mask {
    mask: Tensor,
    /// The input, times the mask.
    pub masked: Tensor,
    elements: usize,
    slot: usize,
}

impl Mask {
    /// `slot`: the A's index in the adapter's storage.
    pub fn new(graph: &mut Graph, input: Tensor, slot: usize) -> Result<Self, TrainError> {
        let shape = graph.shape(input)?;
        let mask = graph.input(Dtype::F32, &shape, "dropout")?;
        let masked = apply(graph, input, mask)?;
        let elements = usize::try_from(shape.iter().product::<i64>()).unwrap_or(0);
        Ok(Self {
            mask,
            masked,
            elements,
            slot,
        })
    }

    /// The input, computed again, times the mask.
    pub fn recompute(&self, graph: &mut Graph, input: Tensor) -> Result<Tensor, TrainError> {
        apply(graph, input, self.mask)
    }

    /// The gradient for the input from that for the masked one.
    pub fn back(&self, graph: &mut Graph, gradient: Tensor) -> Result<Tensor, TrainError> {
        let gradient = graph.dense(gradient)?;
        Ok(graph.mul(gradient, self.mask)?)
    }

    pub fn fill(
        &self,
        compute: &mut Compute,
        graph: &Graph,
        share: f32,
        draw: u64,
    ) -> Result<(), TrainError> {
        Ok(compute.set_f32(
            graph,
            self.mask,
            &values(self.elements, share, key(&[draw, self.slot as u64])),
        )?)
    }
}

fn apply(graph: &mut Graph, input: Tensor, mask: Tensor) -> Result<Tensor, TrainError> {
    let input = graph.dense(input)?;
    Ok(graph.mul(input, mask)?)
}

/// One number out of several.
pub(crate) fn key(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |key, part| mix(key ^ mix(*part)))
}

/// source: splitmix64 (Steele, Lea, Flood 2014)
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn values(count: usize, share: f32, key: u64) -> Vec<f32> {
    let (most, kept) = (
        (f64::from(share) * f64::from(u32::MAX)) as u64,
        1.0 / (1.0 - share),
    );
    let at = |i: usize| mix(key.wrapping_add((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))) >> 32;
    (0..count)
        .map(|i| if at(i) < most { 0.0 } else { kept })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_leaves_out_its_share_and_keeps_the_mean() {
        for share in [0.1_f32, 0.5, 0.9] {
            let mask = values(100_000, share, key(&[1, 2]));
            let zeros = mask.iter().filter(|value| **value == 0.0).count() as f32 / 100_000.0;
            let mean = mask.iter().sum::<f32>() / 100_000.0;
            assert!((zeros - share).abs() < 0.01, "{share}: {zeros} {mean}");
            assert!((mean - 1.0).abs() < 0.05, "{share}: {zeros} {mean}");
        }
        assert!(values(1000, 0.0, 7).iter().all(|value| *value == 1.0));
        let [a, b, again] = [[1, 2], [2, 1], [1, 2]].map(|parts| values(1000, 0.5, key(&parts)));
        assert_eq!(a, again);
        let agree = a.iter().zip(&b).filter(|(a, b)| a == b).count();
        assert!((400..600).contains(&agree), "{agree} of 1000 agree");
    }
}
