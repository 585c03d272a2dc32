//! Trainer state as bytes: a header, then A, B and both moments of each tensor, then a checksum.

use crate::adapter::Adapter;
use crate::error::TrainError;
use crate::optimizer::Moments;

const MAGIC: &[u8; 8] = b"TLSNAP01";

pub(crate) fn write(adapter: &Adapter, moments: &[Moments], steps: u64, scale: f32) -> Vec<u8> {
    let mut out = Vec::with_capacity(28 + adapter.parameters() * 12 + 8);
    out.extend(MAGIC);
    out.extend(steps.to_le_bytes());
    out.extend(scale.to_le_bytes());
    out.extend((adapter.parameters() as u64).to_le_bytes());
    let tensors = adapter.pairs.iter().flat_map(|pair| [&pair.a, &pair.b]);
    for (values, moments) in tensors.zip(moments) {
        for value in values.iter().chain(&moments.first).chain(&moments.second) {
            out.extend(value.to_le_bytes());
        }
    }
    let sum = fnv(&out);
    out.extend(sum.to_le_bytes());
    out
}

/// `like`: an adapter of the shape the snapshot must have.
pub(crate) fn read(
    bytes: &[u8],
    like: &Adapter,
) -> Result<(Adapter, Vec<Moments>, u64, f32), TrainError> {
    let refuse = |reason: &str| TrainError::Snapshot(reason.to_owned());
    let expected = 28 + like.parameters() * 12 + 8;
    if bytes.len() != expected {
        return Err(refuse(&format!(
            "{} bytes where this adapter needs {expected}",
            bytes.len()
        )));
    }
    let (body, sum) = bytes.split_at(bytes.len() - 8);
    if body[..8] != *MAGIC || sum != fnv(body).to_le_bytes() {
        return Err(refuse("damaged"));
    }
    let u64_at = |at: usize| {
        body[at..at + 8]
            .try_into()
            .map(u64::from_le_bytes)
            .map_err(|_| refuse("damaged"))
    };
    let steps = u64_at(8)?;
    let mut numbers = body[16..20]
        .iter()
        .chain(&body[28..])
        .copied()
        .collect::<Vec<u8>>()
        .as_chunks::<4>()
        .0
        .to_vec()
        .into_iter()
        .map(f32::from_le_bytes);
    let scale = numbers.next().ok_or_else(|| refuse("damaged"))?;
    let mut adapter = like.clone();
    let mut moments = Vec::new();
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
    Ok((adapter, moments, steps, scale))
}

/// FNV-1a, 64 bits: catches a torn or flipped file, not an adversary.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
