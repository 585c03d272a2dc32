//! The inner loops of a product: a tile of results in registers, one loop for each instruction set.
//!
//! A packed operand is made of panels. A panel holds, for each step along the reduction, one lane of four bytes for each of its rows
//! (or columns): a float, or two consecutive ones as bf16.

/// One tile: rows of a panel of the first operand times one or two panels of the second.
pub struct Tile {
    /// Steps along the reduction.
    pub steps: usize,
    /// A panel of as many rows as the kernel has; the tile may use the first of them only.
    pub a: *const u32,
    pub b: *const u32,
    /// units: lanes between two panels of `b`.
    pub panel: usize,
    pub c: *mut f32,
    /// units: floats between two rows of `c`.
    pub stride: usize,
    /// What the product is added to; null for nothing.
    pub from: *const f32,
    /// units: floats between two rows of `from`.
    pub from_stride: usize,
}

pub type TileFn = unsafe fn(&Tile);

/// The most rows of any kernel.
const ROWS_MAX: usize = 12;

/// Repeat a statement for each row that a tile has. Written out, because the compiler keeps an array in registers only where no index
/// into it varies.
macro_rules! each_row {
    ($r:ident, $body:block) => { each_row!($r, $body, 0 1 2 3 4 5 6 7 8 9 10 11) };
    ($r:ident, $body:block, $($index:literal)*) => {$(
        if $index < R {
            const $r: usize = $index;
            $body
        }
    )*};
}

/// Write one loop over helpers of the surrounding module: `zero`, `load`, `spread`, `step`, `store`, `add`.
macro_rules! tile {
    ($(#[$feature:meta])*) => {
        /// Compute `R` rows of `N` vectors.
        ///
        /// # Safety
        /// The processor has this module's instructions; `a` and `b` are packed panels of `steps` steps, `c` has `R` rows of `N` vectors.
        $(#[$feature])*
        unsafe fn tile<const R: usize, const N: usize>(t: &Tile) {
            // SAFETY: the caller promises operands of these sizes.
            unsafe {
                let mut sums = [[zero(); 2]; super::ROWS_MAX];
                let (mut a, mut b) = (t.a, t.b);
                for _ in 0..t.steps {
                    let first = load(b);
                    let second = if N > 1 { load(b.add(t.panel)) } else { first };
                    each_row!(ROW, {
                        let value = spread(a.add(ROW));
                        sums[ROW][0] = step(sums[ROW][0], value, first);
                        if N > 1 {
                            sums[ROW][1] = step(sums[ROW][1], value, second);
                        }
                    });
                    a = a.add(ROWS);
                    b = b.add(LANES);
                }
                let from = !t.from.is_null();
                each_row!(ROW, {
                    let (c, old) = (t.c.add(ROW * t.stride), t.from.wrapping_add(ROW * t.from_stride).cast::<u32>());
                    store(c, if from { add(load(old), sums[ROW][0]) } else { sums[ROW][0] });
                    if N > 1 {
                        let (c, old) = (c.add(LANES), old.wrapping_add(LANES));
                        store(c, if from { add(load(old), sums[ROW][1]) } else { sums[ROW][1] });
                    }
                });
            }
        }

        /// By thirds of the panel's rows, then by vectors.
        pub const TILES: [[super::TileFn; 2]; 3] = [
            [tile::<{ ROWS / 3 }, 1>, tile::<{ ROWS / 3 }, 2>],
            [tile::<{ ROWS / 3 * 2 }, 1>, tile::<{ ROWS / 3 * 2 }, 2>],
            [tile::<ROWS, 1>, tile::<ROWS, 2>],
        ];
    };
}

/// Plain loops, which the compiler turns into what the target has (two NEON registers to a vector).
pub(super) mod portable {
    use super::Tile;

    pub const LANES: usize = 8;
    pub const ROWS: usize = 6;
    type Vector = [f32; LANES];

    #[inline(always)]
    fn zero() -> Vector {
        [0.0; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const u32) -> Vector {
        // SAFETY: the tile's caller promises a whole vector.
        unsafe { from.cast::<Vector>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn spread(from: *const u32) -> Vector {
        // SAFETY: the tile's caller promises a lane.
        [unsafe { from.cast::<f32>().read() }; LANES]
    }
    #[inline(always)]
    fn step(mut sum: Vector, a: Vector, b: Vector) -> Vector {
        for i in 0..LANES {
            sum[i] += a[i] * b[i];
        }
        sum
    }
    #[inline(always)]
    fn add(mut a: Vector, b: Vector) -> Vector {
        for i in 0..LANES {
            a[i] += b[i];
        }
        a
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Vector) {
        // SAFETY: the tile's caller promises a whole vector.
        unsafe { to.cast::<Vector>().write_unaligned(value) }
    }

    tile!();
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use std::arch::x86_64::{
        __m256, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };

    use super::Tile;

    pub const LANES: usize = 8;
    pub const ROWS: usize = 6;

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn zero() -> __m256 {
        _mm256_setzero_ps()
    }
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn load(from: *const u32) -> __m256 {
        // SAFETY: the tile's caller promises a whole vector.
        unsafe { _mm256_loadu_ps(from.cast()) }
    }
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn spread(from: *const u32) -> __m256 {
        // SAFETY: the tile's caller promises a lane.
        unsafe { _mm256_broadcast_ss(&*from.cast::<f32>()) }
    }
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn step(sum: __m256, a: __m256, b: __m256) -> __m256 {
        _mm256_fmadd_ps(a, b, sum)
    }
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn add(a: __m256, b: __m256) -> __m256 {
        _mm256_add_ps(a, b)
    }
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn store(to: *mut f32, value: __m256) {
        // SAFETY: the tile's caller promises a whole vector.
        unsafe { _mm256_storeu_ps(to, value) }
    }

    tile!(#[target_feature(enable = "avx2,fma")]);
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use std::arch::x86_64::{__m512, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps};

    use super::Tile;

    pub const LANES: usize = 16;
    pub const ROWS: usize = 12;

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn zero() -> __m512 {
        _mm512_setzero_ps()
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(from: *const u32) -> __m512 {
        // SAFETY: the tile's caller promises a whole vector.
        unsafe { _mm512_loadu_ps(from.cast()) }
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn spread(from: *const u32) -> __m512 {
        // SAFETY: the tile's caller promises a lane.
        _mm512_set1_ps(unsafe { *from.cast::<f32>() })
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn step(sum: __m512, a: __m512, b: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, sum)
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store(to: *mut f32, value: __m512) {
        // SAFETY: the tile's caller promises a whole vector.
        unsafe { _mm512_storeu_ps(to, value) }
    }

    tile!(#[target_feature(enable = "avx512f")]);
}

/// A lane holds two bf16, and one instruction multiplies and adds both.
#[cfg(target_arch = "x86_64")]
pub(super) mod bf16 {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512,
        _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps, _mm512_storeu_si512,
    };
    use std::mem::transmute;

    use super::Tile;

    pub const LANES: usize = 16;
    pub const ROWS: usize = 12;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn zero() -> __m512 {
        _mm512_setzero_ps()
    }
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn load(from: *const u32) -> __m512 {
        // SAFETY: the tile's caller promises a whole vector.
        unsafe { _mm512_loadu_ps(from.cast()) }
    }
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn spread(from: *const u32) -> __m512 {
        // SAFETY: the tile's caller promises a lane; both are 64 plain bytes.
        unsafe { transmute::<__m512i, __m512>(_mm512_set1_epi32((*from).cast_signed())) }
    }
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn step(sum: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: each is 64 plain bytes.
        unsafe { _mm512_dpbf16_ps(sum, transmute::<__m512, __m512bh>(a), transmute::<__m512, __m512bh>(b)) }
    }
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn add(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn store(to: *mut f32, value: __m512) {
        // SAFETY: the tile's caller promises a whole vector.
        unsafe { _mm512_storeu_ps(to, value) }
    }

    tile!(#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]);

    /// Round two floats that follow each other into each lane; an odd last one is paired with zero.
    ///
    /// # Safety
    /// The processor has these instructions; `from` holds `count` floats, `to` as many lanes as pairs.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn pair_along(from: *const f32, count: usize, to: *mut u32) {
        // SAFETY: as promised; the tail goes through buffers.
        unsafe {
            let whole = count / 32;
            for i in 0..whole {
                along(from.add(i * 32), to.add(i * 16));
            }
            let rest = count - whole * 32;
            if rest > 0 {
                let (mut floats, mut lanes) = ([0_f32; 32], [0_u32; 16]);
                floats.as_mut_ptr().copy_from_nonoverlapping(from.add(whole * 32), rest);
                along(floats.as_ptr(), lanes.as_mut_ptr());
                to.add(whole * 16).copy_from_nonoverlapping(lanes.as_ptr(), rest.div_ceil(2));
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn along(from: *const f32, to: *mut u32) {
        // SAFETY: 32 floats in, 16 lanes out; the transmutes are of 64 plain bytes.
        unsafe {
            let pairs = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from.add(16)), _mm512_loadu_ps(from));
            _mm512_storeu_si512(to.cast(), transmute::<__m512bh, __m512i>(pairs));
        }
    }

    /// Round the floats of two lines into the lower and upper half of each lane, sixteen lanes in each panel.
    ///
    /// # Safety
    /// The processor has these instructions; both lines hold `count` floats, `to` as many lanes, `panel` lanes from one sixteen to the next.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn pair_across(lower: *const f32, upper: *const f32, count: usize, to: *mut u32, panel: usize) {
        // SAFETY: as promised; the tail goes through buffers.
        unsafe {
            let whole = count / 16;
            for i in 0..whole {
                across(lower.add(i * 16), upper.add(i * 16), to.add(i * panel));
            }
            let rest = count - whole * 16;
            if rest > 0 {
                let (mut two, mut lanes) = ([[0_f32; 16]; 2], [0_u32; 16]);
                two[0].as_mut_ptr().copy_from_nonoverlapping(lower.add(whole * 16), rest);
                two[1].as_mut_ptr().copy_from_nonoverlapping(upper.add(whole * 16), rest);
                across(two[0].as_ptr(), two[1].as_ptr(), lanes.as_mut_ptr());
                to.add(whole * panel).copy_from_nonoverlapping(lanes.as_ptr(), rest);
            }
        }
    }

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

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn across(lower: *const f32, upper: *const f32, to: *mut u32) {
        // SAFETY: 16 floats from each, 16 lanes out; the transmutes are of 64 plain bytes.
        unsafe {
            let halves = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(upper), _mm512_loadu_ps(lower));
            let turns = _mm512_loadu_si512(TURNS.as_ptr().cast());
            let lanes = _mm512_permutexvar_epi16(turns, transmute::<__m512bh, __m512i>(halves));
            _mm512_storeu_si512(to.cast(), lanes);
        }
    }
}
