//! Tests the conversion of blocks to floats by value, on blocks laid out by hand.

use half::{bf16, f16};
use translora_gguf::{GgufError, TensorKind, dequantize};

fn half(x: f32) -> [u8; 2] {
    f16::from_f32(x).to_le_bytes()
}

/// Packs numbers 0–15 as the 32-element types do: element i low, element i + 16 high.
fn pack_nibbles(numbers: &[u8; 32]) -> Vec<u8> {
    (0..16)
        .map(|i| (numbers[i] & 15) | (numbers[i + 16] & 15) << 4)
        .collect()
}

/// Collects bit 4 of 32 numbers.
fn fifth_bits(numbers: &[u8; 32]) -> [u8; 4] {
    (0..32)
        .fold(0u32, |bits, i| bits | u32::from(numbers[i] >> 4 & 1) << i)
        .to_le_bytes()
}

#[test]
fn plain_floats() {
    assert_eq!(
        dequantize(TensorKind::F32, &(-1.5f32).to_le_bytes()).unwrap(),
        [-1.5]
    );
    assert_eq!(
        dequantize(TensorKind::F16, &[half(0.25), half(-3.0)].concat()).unwrap(),
        [0.25, -3.0]
    );
    assert_eq!(
        dequantize(TensorKind::BF16, &bf16::from_f32(1.5).to_le_bytes()).unwrap(),
        [1.5]
    );
}

#[test]
fn blocks_of_32() {
    let small: [u8; 32] = std::array::from_fn(|i| (i * 7 % 16) as u8);
    let large: [u8; 32] = std::array::from_fn(|i| (i * 11 % 32) as u8);
    let check = |kind, block: Vec<u8>, value: &dyn Fn(usize) -> f32| {
        let expected: Vec<f32> = (0..32).map(value).collect();
        assert_eq!(dequantize(kind, &block).unwrap(), expected, "{kind}");
    };
    let (scale, minimum, nibbles) = (half(0.5), half(-2.0), pack_nibbles(&small));
    let q8: Vec<u8> = (0..32).map(|i| (i as i8 - 16) as u8).collect();
    check(TensorKind::Q8_0, [&scale[..], &q8].concat(), &|i| {
        0.5 * (i as f32 - 16.0)
    });
    check(TensorKind::Q4_0, [&scale[..], &nibbles].concat(), &|i| {
        0.5 * (f32::from(small[i]) - 8.0)
    });
    check(
        TensorKind::Q4_1,
        [&scale[..], &minimum, &nibbles].concat(),
        &|i| 0.5 * f32::from(small[i]) - 2.0,
    );
    let (nibbles, fifth) = (pack_nibbles(&large), fifth_bits(&large));
    check(
        TensorKind::Q5_0,
        [&scale[..], &fifth, &nibbles].concat(),
        &|i| 0.5 * (f32::from(large[i]) - 16.0),
    );
    check(
        TensorKind::Q5_1,
        [&scale[..], &minimum, &fifth, &nibbles].concat(),
        &|i| 0.5 * f32::from(large[i]) - 2.0,
    );
}

/// The 6-bit scales and minima of the eight sub-blocks, some above 15 and some above 31 to use
/// every bit.
const SCALES: [u8; 8] = [1, 17, 33, 63, 2, 18, 47, 60];
const MINIMA: [u8; 8] = [5, 21, 40, 62, 7, 31, 32, 59];

/// Packs [`SCALES`] and [`MINIMA`] into 12 bytes.
fn pack_scales() -> [u8; 12] {
    let mut packed = [0; 12];
    for sub in 0..4 {
        packed[sub] = SCALES[sub] | (SCALES[sub + 4] >> 4) << 6;
        packed[sub + 4] = MINIMA[sub] | (MINIMA[sub + 4] >> 4) << 6;
        packed[sub + 8] = (SCALES[sub + 4] & 15) | (MINIMA[sub + 4] & 15) << 4;
    }
    packed
}

#[test]
fn blocks_of_256_with_minima() {
    let number = |sub: usize, i: usize| ((sub * 5 + i * 3) % 32) as u8;
    let low: Vec<u8> = (0..128)
        .map(|at| {
            let (group, i) = (at / 32, at % 32);
            (number(2 * group, i) & 15) | (number(2 * group + 1, i) & 15) << 4
        })
        .collect();
    let high: Vec<u8> = (0..32)
        .map(|i| (0..8).fold(0, |bits, sub| bits | (number(sub, i) >> 4) << sub))
        .collect();
    let head = [&half(0.5)[..], &half(0.25), &pack_scales()].concat();
    let expected = |mask: u8| -> Vec<f32> {
        let value = |sub: usize, i: usize| {
            0.5 * f32::from(SCALES[sub]) * f32::from(number(sub, i) & mask)
                - 0.25 * f32::from(MINIMA[sub])
        };
        (0..256).map(|at| value(at / 32, at % 32)).collect()
    };
    assert_eq!(
        dequantize(TensorKind::Q4_K, &[&head[..], &low].concat()).unwrap(),
        expected(15)
    );
    assert_eq!(
        dequantize(TensorKind::Q5_K, &[&head[..], &high, &low].concat()).unwrap(),
        expected(31)
    );
}

#[test]
fn blocks_of_256_around_32() {
    let number = |at: usize| (at * 13 % 64) as u8;
    let mut block = vec![0u8; 210];
    for half in 0..2 {
        for i in 0..32 {
            let at = |quarter: usize| number(half * 128 + quarter * 32 + i);
            block[half * 64 + i] = (at(0) & 15) | (at(2) & 15) << 4;
            block[half * 64 + 32 + i] = (at(1) & 15) | (at(3) & 15) << 4;
            block[128 + half * 32 + i] = (0..4).fold(0, |bits, quarter| {
                bits | (at(quarter) >> 4) << (2 * quarter)
            });
        }
    }
    for sub in 0..16 {
        block[192 + sub] = (sub as i8 * 3 - 20) as u8;
    }
    block[208..].copy_from_slice(&half(0.125));
    let value = |at: usize| {
        0.125 * (f32::from(at as u8 / 16) * 3.0 - 20.0) * (f32::from(number(at)) - 32.0)
    };
    let expected: Vec<f32> = (0..256).map(value).collect();
    assert_eq!(dequantize(TensorKind::Q6_K, &block).unwrap(), expected);
}

#[test]
fn blocks_of_256_in_sixteenths() {
    let number = |at: usize| (at * 5 % 8) as u8;
    let mut pairs = vec![0u8; 64];
    let mut third = [0u8; 32];
    for at in 0..256 {
        pairs[at / 128 * 32 + at % 32] |= (number(at) & 3) << (at % 128 / 32 * 2);
        third[at % 32] |= (number(at) >> 2) << (at / 32);
    }
    let (scales, minima): ([u8; 16], [u8; 16]) = (
        std::array::from_fn(|i| i as u8),
        std::array::from_fn(|i| 15 - i as u8),
    );
    let head: Vec<u8> = scales
        .iter()
        .zip(minima)
        .map(|(scale, minimum)| scale | minimum << 4)
        .collect();
    let block = [&head[..], &pairs, &half(0.5), &half(0.25)].concat();
    let value = |at: usize| {
        0.5 * f32::from(scales[at / 16]) * f32::from(number(at) & 3)
            - 0.25 * f32::from(minima[at / 16])
    };
    assert_eq!(
        dequantize(TensorKind::Q2_K, &block).unwrap(),
        (0..256).map(value).collect::<Vec<f32>>()
    );

    let six = |sub: usize| (sub * 11 % 64) as u8;
    let mut packed = [0u8; 12];
    for sub in 0..16 {
        packed[sub % 8] |= (six(sub) & 15) << (sub / 8 * 4);
        packed[8 + sub % 4] |= (six(sub) >> 4) << (sub / 4 * 2);
    }
    let block = [&third[..], &pairs, &packed, &half(0.5)].concat();
    let value = |at: usize| 0.5 * (f32::from(six(at / 16)) - 32.0) * (f32::from(number(at)) - 4.0);
    assert_eq!(
        dequantize(TensorKind::Q3_K, &block).unwrap(),
        (0..256).map(value).collect::<Vec<f32>>()
    );
}

#[test]
fn uneven_steps() {
    let numbers: [u8; 32] = std::array::from_fn(|i| (i * 7 % 16) as u8);
    let at = |steps: &[f32], scale: f32| -> Vec<f32> {
        numbers
            .iter()
            .map(|q| scale * steps[usize::from(*q)])
            .collect()
    };
    let block = [&half(0.5)[..], &pack_nibbles(&numbers)].concat();
    let steps = [
        -127., -104., -83., -65., -49., -35., -22., -10., 1., 13., 25., 38., 53., 69., 89., 113.,
    ];
    assert_eq!(
        dequantize(TensorKind::IQ4_NL, &block).unwrap(),
        at(&steps, 0.5)
    );
    // Exponent 129 stands for four; the numbers are those of four-bit floats.
    let block = [&[129][..], &pack_nibbles(&numbers)].concat();
    let steps = [
        0., 0.5, 1., 1.5, 2., 3., 4., 6., 0., -0.5, -1., -1.5, -2., -3., -4., -6.,
    ];
    assert_eq!(
        dequantize(TensorKind::MXFP4, &block).unwrap(),
        at(&steps, 4.0)
    );
}

#[test]
fn other_kinds_and_partial_blocks_are_refused() {
    assert!(matches!(
        dequantize(TensorKind::IQ2_S, &[0; 82]),
        Err(GgufError::NotDequantizable { .. })
    ));
    assert!(matches!(
        dequantize(TensorKind::Q8_0, &[0; 33]),
        Err(GgufError::PartialBlock { got: 33, .. })
    ));
    for &kind in TensorKind::ALL {
        let converted = dequantize(kind, &vec![0; kind.block_bytes() as usize]);
        assert_eq!(converted.is_ok(), kind.is_dequantizable(), "{kind}");
        assert!(converted.map_or(true, |floats| floats.len() as u64 == kind.block_elements()));
    }
}
