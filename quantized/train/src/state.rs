//! What training changes: the adapter's numbers, the optimizer's moments, the steps taken. As bytes
//! it is a header, then A, B and both moments of each tensor, then a checksum.

use crate::adapter::Adapter;
use crate::error::TrainError;
use crate::optimizer::{AdamW, Moments};

const MAGIC: &[u8; 8] = b"TLSNAP01";
/// units: bytes of what stands before the numbers: magic, steps, scale, how many numbers.
const HEADER: usize = 28;
/// units: bytes of what stands behind them.
const CHECKSUM: usize = 8;
/// Gradients are multiplied by this inside the graph: F16 products lose what is below 2⁻²⁴.
const SCALE: f32 = 16.0;
/// Gradients that are not finite at this scale are the model's fault.
const SCALE_MIN: f32 = 1e-3;

/// An adapter under training, with all that the next step depends on.
pub(crate) struct State {
    adapter: Adapter,
    /// Of A and B of each pair in turn.
    moments: Vec<Moments>,
    /// Optimizer steps taken.
    steps: u64,
    /// See `SCALE`; smaller once gradients overflowed.
    scale: f32,
}

impl State {
    /// The state before the first step.
    pub fn new(adapter: Adapter) -> Self {
        let moments = adapter
            .pairs
            .iter()
            .flat_map(|pair| [Moments::zero(pair.a.len()), Moments::zero(pair.b.len())])
            .collect();
        Self {
            adapter,
            moments,
            steps: 0,
            scale: SCALE,
        }
    }

    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    pub fn steps(&self) -> u64 {
        self.steps
    }

    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Replace the adapter's numbers.
    ///
    /// fails: an adapter of other matrices
    pub fn set_adapter(&mut self, adapter: Adapter) -> Result<(), TrainError> {
        let same = adapter.pairs.len() == self.adapter.pairs.len()
            && adapter.pairs.iter().zip(&self.adapter.pairs).all(|(a, b)| {
                a.target == b.target && a.a.len() == b.a.len() && a.b.len() == b.b.len()
            });
        if !same {
            return Err(TrainError::OtherAdapter);
        }
        self.adapter = adapter;
        Ok(())
    }

    /// Use a smaller scale from now on; false where there is no smaller one.
    pub fn lower_scale(&mut self) -> bool {
        self.scale /= 4.0;
        self.scale >= SCALE_MIN
    }

    /// Let the optimizer take its step on each tensor; the threads share them. `rates`: of A and
    /// of B.
    pub fn descend(
        &mut self,
        optimizer: AdamW,
        gradients: &[Vec<f32>],
        rates: [f32; 2],
        threads: u32,
    ) {
        self.steps += 1;
        let steps = self.steps;
        let threads = usize::try_from(threads).unwrap_or(1).max(1);
        let each = self.adapter.pairs.len().div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let shares = self
                .adapter
                .pairs
                .chunks_mut(each)
                .zip(self.moments.chunks_mut(2 * each))
                .zip(gradients.chunks(2 * each));
            for ((pairs, moments), gradients) in shares {
                scope.spawn(move || {
                    let tensors = pairs.iter_mut().flat_map(|pair| [&mut pair.a, &mut pair.b]);
                    for (((values, gradient), moments), rate) in tensors
                        .zip(gradients)
                        .zip(moments)
                        .zip(rates.into_iter().cycle())
                    {
                        optimizer.step(values, gradient, moments, rate, steps);
                    }
                });
            }
        });
    }

    /// The state as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.length());
        out.extend(MAGIC);
        out.extend(self.steps.to_le_bytes());
        out.extend(self.scale.to_le_bytes());
        out.extend((self.adapter.parameters() as u64).to_le_bytes());
        let tensors = self
            .adapter
            .pairs
            .iter()
            .flat_map(|pair| [&pair.a, &pair.b]);
        for (values, moments) in tensors.zip(&self.moments) {
            for value in values.iter().chain(&moments.first).chain(&moments.second) {
                out.extend(value.to_le_bytes());
            }
        }
        let sum = fnv(&out);
        out.extend(sum.to_le_bytes());
        out
    }

    /// The state that these bytes hold, for an adapter of the same shape.
    ///
    /// fails: damaged bytes, or a state of another shape.
    pub fn restored(&self, bytes: &[u8]) -> Result<Self, TrainError> {
        let damaged = || TrainError::Snapshot("damaged".into());
        let expected = self.length();
        if bytes.len() != expected {
            return Err(TrainError::Snapshot(format!(
                "{} bytes where this adapter needs {expected}",
                bytes.len()
            )));
        }
        let (body, sum) = bytes.split_at(expected - CHECKSUM);
        if sum != fnv(body).to_le_bytes() {
            return Err(damaged());
        }
        let (header, numbers) = body.split_at(HEADER);
        let (magic, header) = header.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (steps, header) = header.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (scale, _) = header.split_first_chunk::<4>().ok_or_else(damaged)?;
        if magic != MAGIC {
            return Err(damaged());
        }
        let mut numbers = numbers
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes));
        let (mut adapter, mut moments) = (self.adapter.clone(), Vec::new());
        for values in adapter
            .pairs
            .iter_mut()
            .flat_map(|pair| [&mut pair.a, &mut pair.b])
        {
            let length = values.len();
            let mut take = || numbers.by_ref().take(length).collect::<Vec<f32>>();
            *values = take();
            moments.push(Moments {
                first: take(),
                second: take(),
            });
        }
        Ok(Self {
            adapter,
            moments,
            steps: u64::from_le_bytes(*steps),
            scale: f32::from_le_bytes(*scale),
        })
    }

    /// units: bytes of a state of this shape.
    fn length(&self) -> usize {
        HEADER + self.adapter.parameters() * 3 * size_of::<f32>() + CHECKSUM
    }
}

/// FNV-1a, 64 bits: catches a torn or flipped file, not an adversary.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
