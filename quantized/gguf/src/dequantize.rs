//! Turns blocks of quantized numbers into floats, plainly: this is what faster code is checked
//! against.

use crate::{GgufError, TensorKind};
use half::{bf16, f16};

/// Turns whole blocks into floats.
///
/// shapes: `bytes` is n blocks, the result is n × [`TensorKind::block_elements`]
/// source: block structures in ggml-common.h
/// fails: on a type that [`TensorKind::is_dequantizable`] denies, and on a part of a block
pub fn dequantize(kind: TensorKind, bytes: &[u8]) -> Result<Vec<f32>, GgufError> {
    let unpack: fn(&[u8], &mut Vec<f32>) = match kind {
        TensorKind::F32 => |b, out| out.push(f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        TensorKind::F16 => |b, out| out.push(half_at(b, 0)),
        TensorKind::BF16 => |b, out| out.push(bf16::from_le_bytes([b[0], b[1]]).to_f32()),
        TensorKind::Q8_0 => q8_0,
        TensorKind::Q4_0 => q4_0,
        TensorKind::Q4_1 => q4_1,
        TensorKind::Q5_0 => q5_0,
        TensorKind::Q5_1 => q5_1,
        TensorKind::Q4_K => q4_k,
        TensorKind::Q5_K => q5_k,
        TensorKind::Q6_K => q6_k,
        TensorKind::Q2_K => q2_k,
        TensorKind::Q3_K => q3_k,
        TensorKind::IQ4_NL => |b, out| steps(half_at(b, 0), &b[2..], &IQ4_STEPS, out),
        TensorKind::IQ4_XS => iq4_xs,
        TensorKind::MXFP4 => mxfp4,
        _ => return Err(GgufError::NotDequantizable { kind }),
    };
    let (block, got) = (kind.block_bytes() as usize, bytes.len() as u64);
    if !bytes.len().is_multiple_of(block) {
        return Err(GgufError::PartialBlock { kind, got });
    }
    let mut out = Vec::with_capacity(bytes.len() / block * kind.block_elements() as usize);
    for block in bytes.chunks_exact(block) {
        unpack(block, &mut out);
    }
    Ok(out)
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Walks over 4-bit numbers: all low halves of the bytes, then all high halves.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    bytes
        .iter()
        .map(|b| b & 15)
        .chain(bytes.iter().map(|b| b >> 4))
}

/// Walks over 5-bit numbers: nibbles, with bit `i` of the four bytes `high` above the `i`-th of
/// them.
fn five_bits<'a>(high: &'a [u8], low: &'a [u8]) -> impl Iterator<Item = u8> + 'a {
    nibbles(low)
        .enumerate()
        .map(|(i, nibble)| nibble | (high[i / 8] >> (i % 8) & 1) << 4)
}

/// Block of 32: scale f16, 32 × i8.
fn q8_0(block: &[u8], out: &mut Vec<f32>) {
    let scale = half_at(block, 0);
    out.extend(block[2..].iter().map(|&q| scale * f32::from(q as i8)));
}

/// Block of 32: scale f16, 16 bytes of nibbles around 8.
fn q4_0(block: &[u8], out: &mut Vec<f32>) {
    let scale = half_at(block, 0);
    out.extend(nibbles(&block[2..]).map(|q| scale * (f32::from(q) - 8.0)));
}

/// Block of 32: scale f16, minimum f16, 16 bytes of nibbles.
fn q4_1(block: &[u8], out: &mut Vec<f32>) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    out.extend(nibbles(&block[4..]).map(|q| scale * f32::from(q) + minimum));
}

/// Block of 32: scale f16, 4 bytes of fifth bits, 16 bytes of nibbles, around 16.
fn q5_0(block: &[u8], out: &mut Vec<f32>) {
    let scale = half_at(block, 0);
    out.extend(five_bits(&block[2..6], &block[6..]).map(|q| scale * (f32::from(q) - 16.0)));
}

/// Block of 32: scale f16, minimum f16, 4 bytes of fifth bits, 16 bytes of nibbles.
fn q5_1(block: &[u8], out: &mut Vec<f32>) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    out.extend(five_bits(&block[4..8], &block[8..]).map(|q| scale * f32::from(q) + minimum));
}

/// Unpacks the 6-bit scale and the 6-bit minimum of one of eight sub-blocks from 12 bytes.
///
/// The first four pairs lie in the low six bits of bytes 0–3 and 4–7; of the last four, the low
/// halves lie in bytes 8–11 and the upper two bits on top of the first four.
fn scale_and_minimum(packed: &[u8], sub: usize) -> (f32, f32) {
    let (scale, minimum) = if sub < 4 {
        (packed[sub] & 63, packed[sub + 4] & 63)
    } else {
        let low = packed[sub + 4];
        (
            (low & 15) | (packed[sub - 4] >> 6) << 4,
            (low >> 4) | (packed[sub] >> 6) << 4,
        )
    };
    (f32::from(scale), f32::from(minimum))
}

/// Block of 256: scale f16, minimum f16, 12 bytes of sub-scales, 128 bytes of nibbles in four
/// groups of two sub-blocks.
fn q4_k(block: &[u8], out: &mut Vec<f32>) {
    k_block(block, &block[16..], |_, _| 0, out);
}

/// Block of 256: as `q4_k`, with 32 bytes before the nibbles whose bit `s` is the fifth bit of
/// sub-block `s`.
fn q5_k(block: &[u8], out: &mut Vec<f32>) {
    let high = &block[16..48];
    k_block(block, &block[48..], |sub, i| (high[i] >> sub & 1) << 4, out);
}

/// Unpacks eight sub-blocks of 32, with the upper bits of each number from `high(sub-block,
/// position)`.
fn k_block(block: &[u8], low: &[u8], high: impl Fn(usize, usize) -> u8, out: &mut Vec<f32>) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    for sub in 0..8 {
        let (sub_scale, sub_minimum) = scale_and_minimum(&block[4..16], sub);
        let (scale, minimum) = (scale * sub_scale, minimum * sub_minimum);
        let group = &low[sub / 2 * 32..][..32];
        out.extend(group.iter().enumerate().map(|(i, byte)| {
            let nibble = byte >> (sub % 2 * 4) & 15;
            scale * f32::from(nibble | high(sub, i)) - minimum
        }));
    }
}

/// Block of 256: 128 bytes of low nibbles, 64 of upper bit pairs, 16 × i8 sub-scales, scale f16,
/// around 32.
///
/// Two halves of 128: in each, four quarters of 32 share 64 low bytes (two nibbles each) and 32
/// high bytes (four pairs each).
fn q6_k(block: &[u8], out: &mut Vec<f32>) {
    let (low, high, scales, scale) = (
        &block[..128],
        &block[128..192],
        &block[192..208],
        half_at(block, 208),
    );
    for i in 0..256 {
        let (half, quarter, position) = (i / 128, i % 128 / 32, i % 32);
        let nibble = low[half * 64 + quarter % 2 * 32 + position] >> (quarter / 2 * 4) & 15;
        let pair = high[half * 32 + position] >> (quarter * 2) & 3;
        let sub_scale = f32::from(scales[i / 16] as i8);
        out.push(scale * sub_scale * (f32::from(nibble | pair << 4) - 32.0));
    }
}

/// Walks over 256 numbers of two bits: in each half, 32 bytes hold four times 32 of them.
fn pairs(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    (0..256).map(|i| bytes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3)
}

/// Block of 256: 16 bytes of sub-scales (low nibble) and sub-minima (high nibble), 64 bytes of
/// pairs, scale f16, minimum f16.
fn q2_k(block: &[u8], out: &mut Vec<f32>) {
    let (scale, minimum) = (half_at(block, 80), half_at(block, 82));
    out.extend(pairs(&block[16..80]).enumerate().map(|(i, q)| {
        let sub = block[i / 16];
        scale * f32::from(sub & 15) * f32::from(q) - minimum * f32::from(sub >> 4)
    }));
}

/// Block of 256: 32 bytes of third bits, 64 bytes of pairs, 12 bytes of sixteen 6-bit sub-scales
/// around 32, scale f16; around 4.
///
/// Of the sub-scales the low four bits lie in bytes 0–7 (the second eight in the high nibbles), the
/// upper two in bytes 8–11.
fn q3_k(block: &[u8], out: &mut Vec<f32>) {
    let (high, packed, scale) = (&block[..32], &block[96..108], half_at(block, 108));
    let sub_scale = |sub: usize| {
        let low = packed[sub % 8] >> (sub / 8 * 4) & 15;
        let upper = packed[8 + sub % 4] >> (sub / 4 * 2) & 3;
        f32::from(low | upper << 4) - 32.0
    };
    out.extend(pairs(&block[32..96]).enumerate().map(|(i, q)| {
        let third = high[i % 32] >> (i / 32) & 1;
        scale * sub_scale(i / 16) * (f32::from(q | third << 2) - 4.0)
    }));
}

/// What four bits stand for.
///
/// source: `kvalues_iq4nl` and `kvalues_mxfp4` in ggml-common.h
const IQ4_STEPS: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];
const MXFP4_STEPS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

fn steps(scale: f32, low: &[u8], steps: &[i8; 16], out: &mut Vec<f32>) {
    out.extend(nibbles(low).map(|q| scale * f32::from(steps[usize::from(q)])));
}

/// Block of 256: scale f16, upper bit pairs of eight 6-bit sub-scales around 32, their low nibbles,
/// 128 bytes of nibbles.
fn iq4_xs(block: &[u8], out: &mut Vec<f32>) {
    let (scale, high) = (half_at(block, 0), u16::from_le_bytes([block[2], block[3]]));
    for sub in 0..8 {
        let low = block[4 + sub / 2] >> (sub % 2 * 4) & 15;
        let sub_scale = f32::from(u16::from(low) | (high >> (2 * sub) & 3) << 4) - 32.0;
        steps(
            scale * sub_scale,
            &block[8 + sub * 16..][..16],
            &IQ4_STEPS,
            out,
        );
    }
}

/// Block of 32: a power of two, 16 bytes of nibbles; the steps are twice the numbers, so that the
/// scale is halved.
fn mxfp4(block: &[u8], out: &mut Vec<f32>) {
    // The smallest two exponents give numbers below the least normal one.
    let bits = if block[0] < 2 {
        0x0020_0000 << block[0]
    } else {
        u32::from(block[0] - 1) << 23
    };
    steps(f32::from_bits(bits), &block[1..], &MXFP4_STEPS, out);
}
