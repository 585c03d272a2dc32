//! Squares of lanes, transposed in registers.

use std::arch::x86_64::{
    __m512i, _mm512_loadu_si512, _mm512_mask_storeu_epi32, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

/// Interleave 16 lanes of each of `width` lines, 12 or 16.
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
        match width {
            16 => store::<16>(&transposed(rows), to),
            _ => store::<12>(&transposed(rows), to),
        }
    }
}

/// Write the first `W` lanes of each column, one behind the other. What a whole vector writes too much the next column overwrites; the last
/// ones write no more than they should.
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
                _mm512_mask_storeu_epi32(to.add(step * W).cast(), (u32::MAX >> (32 - W)) as u16, *column);
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
