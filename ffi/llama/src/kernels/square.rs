//! Squares of lanes, transposed in registers.

use std::arch::x86_64::{
    __m256, __m256i, __m512i, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_maskstore_ps,
    _mm256_permute2f128_ps, _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_storeu_ps,
    _mm256_unpackhi_ps, _mm256_unpacklo_ps, _mm512_loadu_si512, _mm512_mask_storeu_epi32,
    _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

/// Interleave 16 lanes of each of `width` lines, 12 or 16.
///
/// # Safety
/// The processor has these instructions; each of the first `width` pointers has 16 lanes behind it,
/// `to` room for `16 * width`.
#[target_feature(enable = "avx512f")]
pub unsafe fn turn(from: &[*const u32; 16], offset: usize, width: usize, to: *mut u32) {
    // SAFETY: as promised.
    unsafe {
        let mut rows = [_mm512_setzero_si512(); 16];
        for (row, from) in rows.iter_mut().zip(from).take(width) {
            *row = _mm512_loadu_si512(from.add(offset).cast());
        }
        match width {
            16 => store::<16>(&transposed(rows), to),
            _ => store::<12>(&transposed(rows), to),
        }
    }
}

/// Write the first `W` lanes of each column, one behind the other. What a whole vector writes too
/// much the next column overwrites; the last ones write no more than they should.
///
/// # Safety
/// The processor has these instructions; `to` has room for `16 * W`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn store<const W: usize>(columns: &[__m512i; 16], to: *mut u32) {
    for (step, column) in columns.iter().enumerate() {
        // SAFETY: as promised.
        unsafe {
            if step * W + 16 <= 16 * W {
                _mm512_storeu_si512(to.add(step * W).cast(), *column);
            } else {
                _mm512_mask_storeu_epi32(
                    to.add(step * W).cast(),
                    (u32::MAX >> (32 - W)) as u16,
                    *column,
                );
            }
        }
    }
}

/// By pairs of lanes, pairs of those, and then by quarters of a vector.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transposed(rows: [__m512i; 16]) -> [__m512i; 16] {
    let (mut pairs, mut fours, mut halves, mut columns) = (rows, rows, rows, rows);
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    for i in 0..4 {
        for j in 0..2 {
            fours[4 * i + 2 * j] = _mm512_unpacklo_epi64(pairs[4 * i + j], pairs[4 * i + 2 + j]);
            fours[4 * i + 2 * j + 1] =
                _mm512_unpackhi_epi64(pairs[4 * i + j], pairs[4 * i + 2 + j]);
        }
    }
    // Vector `4 g + c` of `fours` holds, of columns c, c + 4, c + 8 and c + 12, the rows 4 g to 4 g
    // + 3.
    for c in 0..4 {
        halves[c] = _mm512_shuffle_i32x4::<0x88>(fours[c], fours[4 + c]);
        halves[4 + c] = _mm512_shuffle_i32x4::<0xdd>(fours[c], fours[4 + c]);
        halves[8 + c] = _mm512_shuffle_i32x4::<0x88>(fours[8 + c], fours[12 + c]);
        halves[12 + c] = _mm512_shuffle_i32x4::<0xdd>(fours[8 + c], fours[12 + c]);
    }
    for c in 0..4 {
        columns[c] = _mm512_shuffle_i32x4::<0x88>(halves[c], halves[8 + c]);
        columns[8 + c] = _mm512_shuffle_i32x4::<0xdd>(halves[c], halves[8 + c]);
        columns[4 + c] = _mm512_shuffle_i32x4::<0x88>(halves[4 + c], halves[12 + c]);
        columns[12 + c] = _mm512_shuffle_i32x4::<0xdd>(halves[4 + c], halves[12 + c]);
    }
    columns
}

/// The same for 6 or 8 lines, with half as wide vectors.
///
/// # Safety
/// As `turn`, for a processor with AVX2.
#[target_feature(enable = "avx2")]
pub unsafe fn turn_avx2(from: &[*const u32; 16], offset: usize, width: usize, to: *mut u32) {
    // SAFETY: as promised.
    unsafe {
        for part in 0..2 {
            let mut rows = [_mm256_setzero_ps(); 8];
            for (row, from) in rows.iter_mut().zip(from).take(width) {
                *row = _mm256_loadu_ps(from.add(offset + 8 * part).cast());
            }
            let columns = transposed_avx2(rows);
            match width {
                8 => store_avx2::<8>(&columns, to.add(8 * 8 * part).cast()),
                _ => store_avx2::<6>(&columns, to.add(8 * 6 * part).cast()),
            }
        }
    }
}

/// As `store`.
///
/// # Safety
/// The processor has AVX2; `to` has room for `8 * W`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_avx2<const W: usize>(columns: &[__m256; 8], to: *mut f32) {
    const MASK: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    for (step, column) in columns.iter().enumerate() {
        // SAFETY: as promised; the mask begins with `W` lanes that are set.
        unsafe {
            if step * W + 8 <= 8 * W {
                _mm256_storeu_ps(to.add(step * W), *column);
            } else {
                let mask: __m256i = _mm256_loadu_si256(MASK.as_ptr().add(8 - W).cast());
                _mm256_maskstore_ps(to.add(step * W), mask, *column);
            }
        }
    }
}

/// By pairs of lanes, pairs of those, and then by halves of a vector.
#[inline]
#[target_feature(enable = "avx2")]
fn transposed_avx2(rows: [__m256; 8]) -> [__m256; 8] {
    let (mut pairs, mut fours, mut columns) = (rows, rows, rows);
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    // Vector `4 g + c` of `fours` holds, of columns c and c + 4, the rows 4 g to 4 g + 3.
    for g in 0..2 {
        for j in 0..2 {
            fours[4 * g + 2 * j] =
                _mm256_shuffle_ps::<0x44>(pairs[4 * g + j], pairs[4 * g + 2 + j]);
            fours[4 * g + 2 * j + 1] =
                _mm256_shuffle_ps::<0xee>(pairs[4 * g + j], pairs[4 * g + 2 + j]);
        }
    }
    for c in 0..4 {
        columns[c] = _mm256_permute2f128_ps::<0x20>(fours[c], fours[4 + c]);
        columns[4 + c] = _mm256_permute2f128_ps::<0x31>(fours[c], fours[4 + c]);
    }
    columns
}
