//! Squares of lanes, transposed in registers.

use std::arch::x86_64::{
    __m512i, _mm512_loadu_si512, _mm512_mask_storeu_epi32, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

/// Interleave 16 lanes of each of `width` lines, at most 16.
///
/// # Safety
/// The processor has these instructions; each of the first `width` pointers has 16 lanes behind it, `to` room for `16 * width`.
#[target_feature(enable = "avx512f")]
pub unsafe fn turn(from: &[*const u32; 16], offset: usize, width: usize, to: *mut u32) {
    // SAFETY: as promised.
    unsafe {
        let mut rows = [_mm512_setzero_si512(); 16];
        for (row, from) in rows.iter_mut().zip(from).take(width) {
            *row = _mm512_loadu_si512(from.add(offset).cast());
        }
        store(&transposed(rows), width, to);
    }
}

/// Write the first `width` lanes of each column, one behind the other.
///
/// # Safety
/// The processor has these instructions; `to` has room for `16 * width`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn store(columns: &[__m512i; 16], width: usize, to: *mut u32) {
    // A store under a mask takes as long as a dozen whole ones. What a whole one writes too much the next columns overwrite, but for
    // the last of them.
    // SAFETY: as promised; a whole store is made where 16 lanes are left.
    unsafe {
        if width == 16 {
            for (step, column) in columns.iter().enumerate() {
                _mm512_storeu_si512(to.add(step * 16).cast(), *column);
            }
            return;
        }
        let mask = (u32::MAX >> (32 - width)) as u16;
        for (step, column) in columns.iter().enumerate() {
            if step * width + 16 <= 16 * width {
                _mm512_storeu_si512(to.add(step * width).cast(), *column);
            } else {
                _mm512_mask_storeu_epi32(to.add(step * width).cast(), mask, *column);
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
            fours[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[4 * i + j], pairs[4 * i + 2 + j]);
        }
    }
    // Vector `4 g + c` of `fours` holds, of columns c, c + 4, c + 8 and c + 12, the rows 4 g to 4 g + 3.
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
