//! Floats rounded to integers with a scale for each block, in the layout that `tile` tells of. What
//! is not finite makes its scale so.

use std::arch::x86_64::{
    __m256, __m256i, _CMP_GE_OQ, _mm_add_epi32, _mm_cvtsi128_si32, _mm_max_epi32,
    _mm_shuffle_epi32, _mm256_and_ps, _mm256_and_si256, _mm256_blend_epi16, _mm256_castps_si256,
    _mm256_castsi256_ps, _mm256_castsi256_si128, _mm256_cmp_ps, _mm256_cvtps_epi32, _mm256_div_ps,
    _mm256_extracti128_si256, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_maddubs_epi16, _mm256_maskload_ps, _mm256_max_epi32, _mm256_mul_ps, _mm256_packs_epi16,
    _mm256_packs_epi32, _mm256_permute4x64_epi64, _mm256_permutevar8x32_epi32, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32, _mm256_setzero_si256,
    _mm256_slli_epi32, _mm256_storeu_ps, _mm256_storeu_si256, _mm256_xor_si256,
};

use super::tile::{bytes, words};

/// A line of either operand, in blocks of words.
pub(super) const WORDS: [unsafe fn(*const f32, usize, *mut u32); 2] =
    [along::<{ words::BLOCK }>; 2];

/// A line of the first operand, a line of the second, in blocks of bytes.
pub(super) const BYTES: [unsafe fn(*const f32, usize, *mut u32); 2] =
    [along::<{ bytes::BLOCK }>, along::<SECOND>];

/// Stands for the blocks of bytes of the second operand, which have another form.
const SECOND: usize = 0;

/// The largest byte, and the largest word of which products of a whole block do not overflow.
pub(super) const BYTE_MAX: f32 = 127.0;
pub(super) const WORD_MAX: f32 = 5792.0;
const _: () = assert!(5792 * 5792 * words::BLOCK < i32::MAX as usize);

/// Round a line that runs along the reduction; a last block is filled up with zeros.
///
/// # Safety
/// The processor has AVX2; `from` holds `count` floats, `to` as many steps as they take.
#[target_feature(enable = "avx2")]
unsafe fn along<const KIND: usize>(from: *const f32, count: usize, to: *mut u32) {
    let (block, steps) = if KIND == words::BLOCK {
        (words::BLOCK, words::STEPS)
    } else {
        (bytes::BLOCK, bytes::STEPS)
    };
    let mut rest = [0_f32; words::BLOCK];
    for (number, start) in (0..count).step_by(block).enumerate() {
        // SAFETY: as promised; the last block goes through a buffer.
        unsafe {
            let mut from = from.add(start);
            if count - start < block {
                rest.as_mut_ptr()
                    .copy_from_nonoverlapping(from, count - start);
                from = rest.as_ptr();
            }
            let to = to.add(number * steps);
            match KIND {
                words::BLOCK => block_of_words(from, to),
                bytes::BLOCK => block_of_bytes::<false>(from, to),
                _ => block_of_bytes::<true>(from, to),
            }
        }
    }
}

/// # Safety
/// The processor has AVX2; `from` holds a block, `to` has room for its steps.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn block_of_words(from: *const f32, to: *mut u32) {
    // SAFETY: as promised.
    unsafe {
        let floats: [__m256; words::BLOCK / 8] =
            std::array::from_fn(|i| _mm256_loadu_ps(from.add(8 * i)));
        let (scale, inverse) = scale(&floats, WORD_MAX);
        for (i, two) in floats.as_chunks::<2>().0.iter().enumerate() {
            let words = _mm256_packs_epi32(rounded(two[0], inverse), rounded(two[1], inverse));
            // Packing works in halves of a vector.
            _mm256_storeu_si256(
                to.add(8 * i).cast(),
                _mm256_permute4x64_epi64::<0b11_01_10_00>(words),
            );
        }
        *to.add(words::DATA) = scale.to_bits();
    }
}

/// # Safety
/// As `block_of_words`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn block_of_bytes<const SECOND: bool>(from: *const f32, to: *mut u32) {
    // SAFETY: as promised.
    unsafe {
        let floats: [__m256; bytes::BLOCK / 8] =
            std::array::from_fn(|i| _mm256_loadu_ps(from.add(8 * i)));
        let (scale, inverse) = scale(&floats, BYTE_MAX);
        let [a, b, c, d] = floats.map(|floats| rounded(floats, inverse));
        let packed = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
        let packed = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        // 128 more is the other sign.
        let packed = if SECOND {
            _mm256_xor_si256(packed, _mm256_set1_epi8(i8::MIN))
        } else {
            packed
        };
        _mm256_storeu_si256(to.cast(), packed);
        *to.add(bytes::DATA) = scale.to_bits();
        *to.add(bytes::DATA + 1) = if SECOND {
            0
        } else {
            (-128 * sum(packed)).cast_unsigned()
        };
    }
}

/// What makes `most` of the largest number, and its inverse; too small for one, numbers become
/// zero.
#[inline]
#[target_feature(enable = "avx2")]
fn scale(floats: &[__m256], most: f32) -> (f32, __m256) {
    let largest = floats
        .iter()
        .fold(_mm256_setzero_si256(), |largest, floats| {
            _mm256_max_epi32(largest, size(*floats))
        });
    let largest = _mm_max_epi32(
        _mm256_castsi256_si128(largest),
        _mm256_extracti128_si256::<1>(largest),
    );
    let largest = _mm_max_epi32(largest, _mm_shuffle_epi32::<0b01_00_11_10>(largest));
    let largest = _mm_max_epi32(largest, _mm_shuffle_epi32::<0b10_11_00_01>(largest));
    let scale = f32::from_bits(_mm_cvtsi128_si32(largest).cast_unsigned()) / most;
    (
        scale,
        _mm256_set1_ps(if scale >= f32::MIN_POSITIVE {
            1.0 / scale
        } else {
            0.0
        }),
    )
}

/// The sum of signed bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn sum(bytes: __m256i) -> i32 {
    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    let sums = _mm_add_epi32(
        _mm256_castsi256_si128(fours),
        _mm256_extracti128_si256::<1>(fours),
    );
    let sums = _mm_add_epi32(sums, _mm_shuffle_epi32::<0b01_00_11_10>(sums));
    _mm_cvtsi128_si32(_mm_add_epi32(
        sums,
        _mm_shuffle_epi32::<0b10_11_00_01>(sums),
    ))
}

/// Round up to a block of lines across the reduction to words, where each lane has its scale, into
/// panels of `W` lanes.
///
/// # Safety
/// The processor has AVX2; each line holds `count` floats, `to` has room for a block's steps in
/// panels that are `panel` lanes apart.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn across<const W: usize>(
    lines: &[*const f32],
    count: usize,
    to: *mut u32,
    panel: usize,
) {
    for left in (0..count.next_multiple_of(W)).step_by(8) {
        // SAFETY: as promised; what lies beyond the lines is not read.
        unsafe {
            let to = to.add(left / W * panel + left % W);
            if left + 8 <= count {
                eight::<W>(
                    lines.len(),
                    |line| _mm256_loadu_ps(lines[line].add(left)),
                    to,
                );
            } else {
                const MASK: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
                let mask =
                    _mm256_loadu_si256(MASK.as_ptr().add(8 - count.saturating_sub(left)).cast());
                eight::<W>(
                    lines.len(),
                    |line| _mm256_maskload_ps(lines[line].wrapping_add(left), mask),
                    to,
                );
            }
        }
    }
}

/// Eight lanes of a block of so many lines, which `read` gives.
///
/// # Safety
/// The processor has AVX2; `to` has room for a block's steps.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn eight<const W: usize>(lines: usize, read: impl Fn(usize) -> __m256, to: *mut u32) {
    /// Steps that are read before any is written: see `floats_avx2`.
    const TOGETHER: usize = 8;
    let largest = (0..lines).fold(_mm256_setzero_si256(), |largest, line| {
        _mm256_max_epi32(largest, size(read(line)))
    });
    let scale = _mm256_div_ps(_mm256_castsi256_ps(largest), _mm256_set1_ps(WORD_MAX));
    let enough = _mm256_cmp_ps::<_CMP_GE_OQ>(scale, _mm256_set1_ps(f32::MIN_POSITIVE));
    let inverse = _mm256_and_ps(_mm256_div_ps(_mm256_set1_ps(1.0), scale), enough);
    let word = |line: usize| {
        if line < lines {
            rounded(read(line), inverse)
        } else {
            _mm256_setzero_si256()
        }
    };
    // SAFETY: as promised.
    unsafe {
        for first in (0..words::DATA).step_by(TOGETHER) {
            let lanes: [__m256i; TOGETHER] = std::array::from_fn(|i| {
                let line = 2 * (first + i);
                _mm256_blend_epi16::<0b1010_1010>(
                    word(line),
                    _mm256_slli_epi32::<16>(word(line + 1)),
                )
            });
            lanes
                .into_iter()
                .enumerate()
                .for_each(|(i, lanes)| _mm256_storeu_si256(to.add((first + i) * W).cast(), lanes));
        }
        _mm256_storeu_ps(to.add(words::DATA * W).cast(), scale);
    }
}

/// Numbers without their signs, as integers in the same order: what is no number is the largest.
#[inline]
#[target_feature(enable = "avx2")]
fn size(floats: __m256) -> __m256i {
    _mm256_and_si256(_mm256_castps_si256(floats), _mm256_set1_epi32(i32::MAX))
}

#[inline]
#[target_feature(enable = "avx2")]
fn rounded(floats: __m256, inverse: __m256) -> __m256i {
    _mm256_cvtps_epi32(_mm256_mul_ps(floats, inverse))
}
