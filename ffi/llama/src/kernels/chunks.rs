//! Turns lines of weights into floats, 32 elements at a time.

use std::arch::x86_64::{
    __m128i, __m256, __m256i, __m512, _mm_and_si128, _mm_cvtph_ps, _mm_cvtsi32_si128,
    _mm_cvtss_f32, _mm_loadu_si128, _mm_set1_epi8, _mm_set1_epi16, _mm_shuffle_epi8,
    _mm_srli_epi16, _mm_srli_si128, _mm256_and_si256, _mm256_castsi256_si128, _mm256_cmpeq_epi8,
    _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_extracti128_si256, _mm256_fmadd_ps,
    _mm256_loadu_si256, _mm256_or_si256, _mm256_set_m128i, _mm256_set1_epi8, _mm256_set1_epi32,
    _mm256_set1_epi64x, _mm256_set1_ps, _mm256_setr_epi64x, _mm256_shuffle_epi8, _mm256_slli_epi16,
    _mm256_srl_epi16, _mm256_srli_epi16, _mm256_storeu_ps, _mm256_sub_epi8, _mm512_cvtepi8_epi32,
    _mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_set1_ps, _mm512_storeu_ps,
};
use std::ops::Range;

use llama_cpp_sys_2 as sys;

use super::Level;

/// Elements that are read at a time.
pub(super) const CHUNK: usize = 32;

/// Some chunks of a line as floats.
pub(super) type ToFloats = unsafe fn(*const u8, Range<usize>, *mut f32);

macro_rules! readers {
    ($($kind:ident => $chunk:ident),*) => {
        /// What reads lines of a type, if there is something better than ggml's own conversion that
        /// this processor can run.
        pub(super) fn reader(kind: sys::ggml_type) -> Option<ToFloats> {
            match kind {
                $(sys::$kind if able() => Some(floats::<$chunk>),)*
                $(sys::$kind if able_avx2() => Some(floats_avx2::<$chunk>),)*
                _ => None,
            }
        }
    };
}

readers! {
    GGML_TYPE_Q8_0 => Q8_0, GGML_TYPE_Q4_0 => Q4_0, GGML_TYPE_Q4_1 => Q4_1,
    GGML_TYPE_Q5_0 => Q5_0, GGML_TYPE_Q5_1 => Q5_1, GGML_TYPE_Q4_K => Q4K, GGML_TYPE_Q5_K => Q5K, GGML_TYPE_Q6_K => Q6K,
    GGML_TYPE_IQ4_NL => Iq4Nl, GGML_TYPE_IQ4_XS => Iq4Xs
}

/// This processor has what reading needs, and it may be used.
pub(super) fn able() -> bool {
    use std::arch::is_x86_feature_detected as has;
    let can = has!("avx512f")
        && has!("avx512bw")
        && has!("avx512vl")
        && has!("avx2")
        && has!("f16c")
        && has!("ssse3");
    can && Level::Avx512.allowed()
}

/// The same for what has AVX2 only.
fn able_avx2() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx2") && has!("fma") && has!("f16c") && has!("ssse3") && Level::Avx2.allowed()
}

/// # Safety
/// The processor is able (`reader` checks it); the line holds the chunks, `to` has room for as many
/// floats.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c,ssse3")]
unsafe fn floats<Q: Quantized>(line: *const u8, chunks: Range<usize>, to: *mut f32) {
    for (place, number) in chunks.enumerate() {
        // SAFETY: as promised.
        unsafe {
            let [first, second] = Q::read(line, number).wide_floats();
            _mm512_storeu_ps(to.add(place * CHUNK), first);
            _mm512_storeu_ps(to.add(place * CHUNK + 16), second);
        }
    }
}

/// Two chunks are read before any float is written: where processors may not read past a write
/// whose place is not known yet (a mitigation that virtual machines often run with), each change
/// from writing to reading takes dozens of cycles.
///
/// # Safety
/// As `floats`, for a processor with AVX2.
#[target_feature(enable = "avx2,fma,f16c,ssse3")]
unsafe fn floats_avx2<Q: Quantized>(line: *const u8, chunks: Range<usize>, to: *mut f32) {
    let count = chunks.len();
    let number = |place: usize| chunks.start + place;
    for place in (0..count / 2).map(|pair| 2 * pair) {
        // SAFETY: as promised.
        unsafe {
            let (first, second) = (
                Q::read(line, number(place)).floats(),
                Q::read(line, number(place + 1)).floats(),
            );
            write(first, to.add(place * CHUNK));
            write(second, to.add((place + 1) * CHUNK));
        }
    }
    if !count.is_multiple_of(2) {
        // SAFETY: as promised.
        unsafe {
            write(
                Q::read(line, number(count - 1)).floats(),
                to.add((count - 1) * CHUNK),
            );
        };
    }
}

/// # Safety
/// `to` has room for 32 floats.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn write(floats: [__m256; 4], to: *mut f32) {
    for (i, eight) in floats.into_iter().enumerate() {
        // SAFETY: as promised.
        unsafe { _mm256_storeu_ps(to.add(8 * i), eight) };
    }
}

/// A type of whole numbers with scales.
trait Quantized {
    /// Chunk `number` of a line.
    ///
    /// # Safety
    /// The processor has AVX2, F16C and SSSE3, and the line holds the chunk.
    unsafe fn read(line: *const u8, number: usize) -> Quants;
}

/// 32 signed bytes; each stands for itself times the scale of its half, plus a number.
struct Quants {
    bytes: __m256i,
    scales: [f32; 2],
    plus: f32,
}

impl Quants {
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn floats(self) -> [__m256; 4] {
        let plus = _mm256_set1_ps(self.plus);
        let [first, second] = self.scales.map(|scale| _mm256_set1_ps(scale));
        let float = |scale, bytes: __m128i| {
            _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), plus)
        };
        let (low, high) = (
            _mm256_castsi256_si128(self.bytes),
            _mm256_extracti128_si256::<1>(self.bytes),
        );
        [
            float(first, low),
            float(first, _mm_srli_si128::<8>(low)),
            float(second, high),
            float(second, _mm_srli_si128::<8>(high)),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx2")]
    fn wide_floats(self) -> [__m512; 2] {
        let halves = [
            _mm256_castsi256_si128(self.bytes),
            _mm256_extracti128_si256::<1>(self.bytes),
        ];
        let float = |i: usize| {
            let floats = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(halves[i]));
            _mm512_fmadd_ps(
                _mm512_set1_ps(self.scales[i]),
                floats,
                _mm512_set1_ps(self.plus),
            )
        };
        [float(0), float(1)]
    }
}

macro_rules! quantized {
    ($(#[$doc:meta])* $name:ident, $bytes:literal bytes for $chunks:literal, |$block:ident, $number:ident| $body:block) => {
        $(#[$doc])*
        struct $name;
        impl Quantized for $name {
            #[inline]
            #[target_feature(enable = "avx2,f16c,ssse3")]
            unsafe fn read(line: *const u8, number: usize) -> Quants {
                // SAFETY: the line holds the block.
                unsafe {
                    const CHUNKS: usize = $chunks;
                    let at = number / CHUNKS;
                    let ($block, $number) = (line.add(at * $bytes), number - at * CHUNKS);
                    $body
                }
            }
        }
    };
}

quantized!(
    /// A scale in half precision, 32 signed bytes.
    Q8_0, 34 bytes for 1, |block, _number| { scaled(_mm256_loadu_si256(block.add(2).cast()), half(block)) }
);
quantized!(
    /// A scale, 32 times four bits, less 8.
    Q4_0, 18 bytes for 1, |block, _number| { scaled(_mm256_sub_epi8(nibbles(block.add(2)), _mm256_set1_epi8(8)), half(block)) }
);
quantized!(
    /// A scale and a least value, 32 times four bits.
    Q4_1, 20 bytes for 1, |block, _number| { Quants { plus: half(block.add(2)), ..scaled(nibbles(block.add(4)), half(block)) } }
);
quantized!(
    /// A scale, 32 fifth bits, 32 times four bits; less 16.
    Q5_0, 22 bytes for 1, |block, _number| {
        let bytes = _mm256_or_si256(nibbles(block.add(6)), fifth(block.add(2)));
        scaled(_mm256_sub_epi8(bytes, _mm256_set1_epi8(16)), half(block))
    }
);
quantized!(
    /// A scale and a least value, 32 fifth bits, 32 times four bits.
    Q5_1, 24 bytes for 1, |block, _number| {
        let bytes = _mm256_or_si256(nibbles(block.add(8)), fifth(block.add(4)));
        Quants { plus: half(block.add(2)), ..scaled(bytes, half(block)) }
    }
);
quantized!(
    /// Two scales in half precision, eight scales and least values of six bits, 256 times four
    /// bits.
    Q4K, 144 bytes for 8, |block, number| {
        let (scale, least) = six_bit_pair(block, number);
        Quants { plus: -least, ..scaled(half_of(block.add(16 + number / 2 * 32), number % 2 == 1), scale) }
    }
);
quantized!(
    /// As `Q4K`, with 256 fifth bits before the rest.
    Q5K, 176 bytes for 8, |block, number| {
        let (scale, least) = six_bit_pair(block, number);
        let bit = _mm256_set1_epi8((1_u8 << number).cast_signed());
        let high = sixteens(_mm256_loadu_si256(block.add(16).cast()), bit);
        let bytes = half_of(block.add(48 + number / 2 * 32), number % 2 == 1);
        Quants { plus: -least, ..scaled(_mm256_or_si256(bytes, high), scale) }
    }
);
quantized!(
    /// 256 times low four bits, high two bits, sixteen scales of sixteen numbers each, and a scale
    /// of those in half precision; less 32.
    Q6K, 210 bytes for 8, |block, number| {
        let (side, quarter) = (number / 4, number % 4);
        let low = half_of(block.add(side * 64 + quarter % 2 * 32), quarter >= 2);
        let high = _mm256_loadu_si256(block.add(128 + side * 32).cast());
        let high = _mm256_srl_epi16(high, _mm_cvtsi32_si128(2 * quarter as i32));
        let high = _mm256_slli_epi16::<4>(_mm256_and_si256(high, _mm256_set1_epi8(3)));
        let bytes = _mm256_sub_epi8(_mm256_or_si256(low, high), _mm256_set1_epi8(32));
        let scale = half(block.add(208));
        let small = |part: usize| scale * f32::from(block.add(192 + side * 8 + quarter * 2 + part).cast::<i8>().read());
        Quants { bytes, scales: [small(0), small(1)], plus: -0.0 }
    }
);
quantized!(
    /// A scale, 32 times four bits that stand for uneven steps.
    Iq4Nl, 18 bytes for 1, |block, _number| { scaled(stepped(block.add(2)), half(block)) }
);
quantized!(
    /// A scale, eight scales of two and four bits, 256 times four bits that stand for uneven steps.
    Iq4Xs, 136 bytes for 8, |block, number| {
        let high = block.add(2).cast::<u16>().read_unaligned() >> (2 * number) & 3;
        let low = *block.add(4 + number / 2) >> (4 * (number % 2)) & 15;
        let scale = half(block) * (f32::from(u16::from(low) | high << 4) - 32.0);
        scaled(stepped(block.add(8 + number * 16)), scale)
    }
);

/// All times one scale. What is added leaves every number as it is, a negative zero too.
fn scaled(bytes: __m256i, scale: f32) -> Quants {
    Quants {
        bytes,
        scales: [scale; 2],
        plus: -0.0,
    }
}

/// A float from half precision. Spread first: a load into one lane waits for what the register held
/// before.
///
/// # Safety
/// Two bytes lie at `from`.
#[inline]
#[target_feature(enable = "f16c")]
unsafe fn half(from: *const u8) -> f32 {
    // SAFETY: as promised.
    let raw = unsafe { from.cast::<i16>().read_unaligned() };
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_set1_epi16(raw)))
}

/// The low halves of 16 bytes, then the high ones.
///
/// # Safety
/// 16 bytes lie at `from`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn nibbles(from: *const u8) -> __m256i {
    // SAFETY: as promised.
    let both = unsafe { _mm_loadu_si128(from.cast()) };
    _mm256_and_si256(
        _mm256_set_m128i(_mm_srli_epi16::<4>(both), both),
        _mm256_set1_epi8(15),
    )
}

/// The low or the high halves of 32 bytes.
///
/// # Safety
/// 32 bytes lie at `from`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn half_of(from: *const u8, high: bool) -> __m256i {
    // SAFETY: as promised.
    let both = unsafe { _mm256_loadu_si256(from.cast()) };
    _mm256_and_si256(
        if high {
            _mm256_srli_epi16::<4>(both)
        } else {
            both
        },
        _mm256_set1_epi8(15),
    )
}

/// 32 bits as 16 or nothing.
///
/// # Safety
/// Four bytes lie at `from`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn fifth(from: *const u8) -> __m256i {
    // SAFETY: as promised.
    let bits = _mm256_set1_epi32(unsafe { from.cast::<i32>().read_unaligned() });
    // Byte i gets the byte that its bit is in, and looks at that bit.
    const EIGHT: i64 = 0x0101_0101_0101_0101;
    let bytes = _mm256_shuffle_epi8(bits, _mm256_setr_epi64x(0, EIGHT, 2 * EIGHT, 3 * EIGHT));
    sixteens(
        bytes,
        _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed()),
    )
}

/// 16 where a byte has all of some bits, else nothing.
#[inline]
#[target_feature(enable = "avx2")]
fn sixteens(bytes: __m256i, bits: __m256i) -> __m256i {
    _mm256_and_si256(
        _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bits), bits),
        _mm256_set1_epi8(16),
    )
}

/// What four bits stand for, for the low halves of 16 bytes and then for the high ones.
///
/// source: ggml, `kvalues_iq4nl`
///
/// # Safety
/// 16 bytes lie at `from`.
#[inline]
#[target_feature(enable = "avx2,ssse3")]
unsafe fn stepped(from: *const u8) -> __m256i {
    const STEPS: [i8; 16] = [
        -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
    ];
    // SAFETY: as promised, and the table is 16 bytes.
    let (both, steps): (__m128i, __m128i) = unsafe {
        (
            _mm_loadu_si128(from.cast()),
            _mm_loadu_si128(STEPS.as_ptr().cast()),
        )
    };
    let low = _mm_shuffle_epi8(steps, _mm_and_si128(both, _mm_set1_epi8(15)));
    let high = _mm_shuffle_epi8(
        steps,
        _mm_and_si128(_mm_srli_epi16::<4>(both), _mm_set1_epi8(15)),
    );
    _mm256_set_m128i(high, low)
}

/// Scale and least value of one of the eight chunks of a block: six bits each, times the block's
/// own two.
///
/// source: ggml, `get_scale_min_k4`
///
/// # Safety
/// 16 bytes lie at `block`.
#[inline]
#[target_feature(enable = "f16c")]
unsafe fn six_bit_pair(block: *const u8, number: usize) -> (f32, f32) {
    // SAFETY: as promised.
    unsafe {
        let at = |index: usize| *block.add(4 + index);
        let (scale, least) = if number < 4 {
            (at(number) & 63, at(number + 4) & 63)
        } else {
            (
                at(number + 4) & 15 | at(number - 4) >> 6 << 4,
                at(number + 4) >> 4 | at(number) >> 6 << 4,
            )
        };
        (
            half(block) * f32::from(scale),
            half(block.add(2)) * f32::from(least),
        )
    }
}
