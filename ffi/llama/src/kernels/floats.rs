//! Dequantization by vectors where ggml's plain loops are the slower part; same numbers, bit for bit.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_cvtph_ps, _mm_cvtsi32_si128, _mm_loadu_si128, _mm256_and_si256, _mm256_castsi256_si128, _mm256_extracti128_si256,
    _mm256_loadu_si256, _mm256_or_si256, _mm256_set1_epi8, _mm256_slli_epi16, _mm256_srli_epi16, _mm256_sub_epi8, _mm512_broadcastss_ps,
    _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_storeu_ps,
};
use std::ffi::c_void;

use llama_cpp_sys_2 as sys;

pub(super) type ToFloats = unsafe extern "C" fn(*const c_void, *mut f32, i64);

/// A faster conversion of a type, if there is one for this processor.
pub(super) fn faster(kind: sys::ggml_type) -> Option<ToFloats> {
    use std::arch::is_x86_feature_detected;
    let can = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c");
    match kind {
        sys::GGML_TYPE_Q8_0 if can => Some(q8_0),
        sys::GGML_TYPE_Q6_K if can => Some(q6_k),
        _ => None,
    }
}

/// Sixteen signed bytes times a scale.
///
/// # Safety
/// The processor has AVX-512F; `to` has room for sixteen floats.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn sixteen(bytes: __m128i, scale: std::arch::x86_64::__m512, to: *mut f32) {
    // SAFETY: as promised.
    unsafe { _mm512_storeu_ps(to, _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)))) };
}

/// Blocks of 32: a scale in half precision, 32 signed bytes.
///
/// # Safety
/// The processor has AVX-512F and F16C; `from` holds `count / 32` blocks, `to` has room for `count` floats.
#[target_feature(enable = "avx512f,f16c")]
unsafe extern "C" fn q8_0(from: *const c_void, to: *mut f32, count: i64) {
    const BYTES: usize = 34;
    // SAFETY: as promised.
    unsafe {
        for block in 0..count as usize / 32 {
            let (from, to) = (from.cast::<u8>().add(block * BYTES), to.add(block * 32));
            let half = from.cast::<u16>().read_unaligned();
            let scale = _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(half))));
            sixteen(_mm_loadu_si128(from.add(2).cast()), scale, to);
            sixteen(_mm_loadu_si128(from.add(18).cast()), scale, to.add(16));
        }
    }
}

/// Blocks of 256: low four bits, high two bits, sixteen scales of sixteen numbers each, and a scale of those in half precision.
///
/// # Safety
/// The processor has AVX-512F, AVX2 and F16C; `from` holds `count / 256` blocks, `to` has room for `count` floats.
#[target_feature(enable = "avx512f,avx2,f16c")]
unsafe extern "C" fn q6_k(from: *const c_void, to: *mut f32, count: i64) {
    const BYTES: usize = 210;
    const HIGH: usize = 128;
    const SCALES: usize = 192;
    // SAFETY: as promised.
    unsafe {
        for block in 0..count as usize / 256 {
            let (from, to) = (from.cast::<u8>().add(block * BYTES), to.add(block * 256));
            let half = from.add(208).cast::<u16>().read_unaligned();
            let scale = f32_of(half);
            for n in 0..2 {
                let low = [0, 32].map(|offset| _mm256_loadu_si256(from.add(n * 64 + offset).cast()));
                let high = _mm256_loadu_si256(from.add(HIGH + n * 32).cast());
                for (quarter, bytes) in six_bits(low, high).into_iter().enumerate() {
                    let to = to.add(n * 128 + quarter * 32);
                    for (part, bytes) in [_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes)].into_iter().enumerate() {
                        let small = from.add(SCALES + n * 8 + quarter * 2 + part).cast::<i8>().read();
                        sixteen(bytes, _mm512_set1_ps(scale * f32::from(small)), to.add(part * 16));
                    }
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "f16c,avx512f")]
fn f32_of(half: u16) -> f32 {
    std::arch::x86_64::_mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(half))))
}

/// Four times 32 numbers of six bits, less 32.
#[inline]
#[target_feature(enable = "avx2")]
fn six_bits(low: [__m256i; 2], high: __m256i) -> [__m256i; 4] {
    let (nibble, two, offset) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30), _mm256_set1_epi8(32));
    let join =
        |low: __m256i, high: __m256i| _mm256_sub_epi8(_mm256_or_si256(_mm256_and_si256(low, nibble), _mm256_and_si256(high, two)), offset);
    [
        join(low[0], _mm256_slli_epi16::<4>(high)),
        join(low[1], _mm256_slli_epi16::<2>(high)),
        join(_mm256_srli_epi16::<4>(low[0]), high),
        join(_mm256_srli_epi16::<4>(low[1]), _mm256_srli_epi16::<2>(high)),
    ]
}
