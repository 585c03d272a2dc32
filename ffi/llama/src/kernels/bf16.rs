//! Panels of bf16 straight from lines of any type.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_loadu_si512, _mm512_permutexvar_epi16, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_storeu_si512,
};
use std::mem::transmute;
use std::ops::Range;

use super::chunks::{CHUNK, Chunk};
use super::square::{store, transposed};

/// Up to sixteen lines; null stands for zeros.
pub(super) type Lanes = [*const u8; 16];

/// Round chunks of lines and interleave them: each lane holds two elements that follow each other in a line.
///
/// # Safety
/// The processor has AVX-512 with BF16; each line that is not null holds the chunks, `to` has room for
/// `16 * W` lanes of each.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,f16c,ssse3")]
pub(super) unsafe fn along<C: Chunk, const W: usize>(lines: &Lanes, chunks: Range<usize>, to: *mut u32) {
    let mut rows = [_mm512_setzero_si512(); 16];
    for (number, chunk) in chunks.enumerate() {
        for (row, line) in rows.iter_mut().zip(lines).take(W) {
            if line.is_null() {
                continue;
            }
            // SAFETY: as promised.
            let [first, second] = unsafe { C::read(*line, chunk) };
            *row = pairs(second, first);
        }
        // SAFETY: as promised.
        unsafe { store::<W>(&transposed(rows), to.add(number * CHUNK / 2 * W)) };
    }
}

/// Round chunks of two lines into the lower and upper half of each lane, sixteen lanes in each panel.
///
/// # Safety
/// The processor has AVX-512 with BF16; both lines hold the chunks, unless the upper is null; `to` has room for two panels of each,
/// `panel` lanes apart.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,f16c,ssse3")]
pub(super) unsafe fn across<C: Chunk>(lower: *const u8, upper: *const u8, chunks: Range<usize>, to: *mut u32, panel: usize) {
    /// Element i of the lower half and of the upper half, in turn.
    const TURNS: [u16; 32] = {
        let mut turns = [0; 32];
        let mut i = 0;
        while i < 32 {
            turns[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        turns
    };
    // SAFETY: as promised, and the table is a whole vector.
    unsafe {
        let turns = _mm512_loadu_si512(TURNS.as_ptr().cast());
        for (number, chunk) in chunks.enumerate() {
            let low = C::read(lower, chunk);
            let high = if upper.is_null() { [_mm512_setzero_ps(); 2] } else { C::read(upper, chunk) };
            for part in 0..2 {
                let lanes = _mm512_permutexvar_epi16(turns, pairs(high[part], low[part]));
                _mm512_storeu_si512(to.add((2 * number + part) * panel).cast(), lanes);
            }
        }
    }
}

/// Sixteen bf16 of `lower`, then sixteen of `upper`.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(upper: __m512, lower: __m512) -> __m512i {
    // SAFETY: both are 64 plain bytes.
    unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(upper, lower)) }
}
