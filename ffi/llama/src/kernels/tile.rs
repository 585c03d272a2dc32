//! The inner loops of a product: a tile of results in registers, one loop for each instruction set.
//!
//! A packed operand is made of panels. A panel holds, for each step along the reduction, one lane
//! of four bytes for each of its rows (or columns): a float, or two or four consecutive ones as
//! integers.
//!
//! Integers come in blocks that share a scale, which follows them. Bytes of the first operand are
//! signed, those of the second 128 more than they stand for, because that is what processors
//! multiply; with the first operand's scale comes −128 times the sum of its bytes.

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

/// Blocks of words of 16 bits.
pub mod words {
    /// Elements along the reduction.
    pub const BLOCK: usize = 64;
    /// Steps of words.
    pub const DATA: usize = BLOCK / 2;
    /// Steps of all.
    pub const STEPS: usize = DATA + 1;
}

/// Blocks of bytes.
pub mod bytes {
    pub const BLOCK: usize = 32;
    pub const DATA: usize = BLOCK / 4;
    pub const STEPS: usize = DATA + 2;
}

/// The most rows of any kernel.
const ROWS_MAX: usize = 12;

/// Repeat a statement for each row that a tile has. Written out, because the compiler keeps an
/// array in registers only where no index into it varies.
macro_rules! each_row {
    ($r:ident, $body:block) => { each_row!($r, $body, 0 1 2 3 4 5 6 7 8 9 10 11) };
    ($r:ident, $body:block, $($index:literal)*) => {$(
        if $index < R {
            const $r: usize = $index;
            $body
        }
    )*};
}

/// Write the sums of a tile to its results, with what they are added to.
macro_rules! store_sums {
    ($t:ident, $sums:ident) => {
        let from = !$t.from.is_null();
        each_row!(ROW, {
            let sums = $sums[ROW];
            let (c, old) = (
                $t.c.add(ROW * $t.stride),
                $t.from.wrapping_add(ROW * $t.from_stride),
            );
            store(
                c,
                if from {
                    add(load(old.cast()), sums[0])
                } else {
                    sums[0]
                },
            );
            if N > 1 {
                let (c, old) = (c.add(LANES), old.wrapping_add(LANES).cast());
                store(
                    c,
                    if from {
                        add(load(old), sums[1])
                    } else {
                        sums[1]
                    },
                );
            }
        });
    };
}

/// The tiles of a module by thirds of the panel's rows, then by vectors.
macro_rules! all_tiles {
    () => {
        pub const TILES: [[super::TileFn; 2]; 3] = [
            [tile::<{ ROWS / 3 }, 1>, tile::<{ ROWS / 3 }, 2>],
            [tile::<{ ROWS / 3 * 2 }, 1>, tile::<{ ROWS / 3 * 2 }, 2>],
            [tile::<ROWS, 1>, tile::<ROWS, 2>],
        ];
    };
}

/// Write one loop over helpers of the surrounding module: `zero`, `load`, `spread`, `step`,
/// `store`, `add`.
macro_rules! tile {
    ($(#[$feature:meta])*) => {
        /// Compute `R` rows of `N` vectors.
        ///
        /// # Safety
        /// The processor has this module's instructions; `a` and `b` are packed panels of `steps`
        /// steps, `c` has `R` rows of `N` vectors.
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
                store_sums!(t, sums);
            }
        }

        all_tiles!();
    };
}

/// The same for integers in blocks, over the surrounding module's names for the processor's
/// instructions.
macro_rules! tile_of_integers {
    ($feature:literal, $blocks:ident) => {
        /// Compute `R` rows of `N` vectors.
        ///
        /// # Safety
        /// As the tiles of floats; `steps` are whole blocks.
        #[target_feature(enable = $feature)]
        unsafe fn tile<const R: usize, const N: usize>(t: &Tile) {
            use super::$blocks::{DATA, STEPS};
            // SAFETY: the caller promises operands of these sizes.
            unsafe {
                let integer = |from: *const u32| spread_integer(*from.cast::<i32>());
                let mut sums = [[zero(); 2]; super::ROWS_MAX];
                let (mut a, mut b) = (t.a, t.b);
                for _ in 0..t.steps / STEPS {
                    let mut block = [[zero_integers(); 2]; super::ROWS_MAX];
                    if STEPS > DATA + 1 {
                        each_row!(ROW, {
                            block[ROW] = [integer(a.add((DATA + 1) * ROWS + ROW)); 2]
                        });
                    }
                    for _ in 0..DATA {
                        let first = load_integers(b.cast());
                        let second = if N > 1 {
                            load_integers(b.add(t.panel).cast())
                        } else {
                            first
                        };
                        each_row!(ROW, {
                            let value = integer(a.add(ROW));
                            block[ROW][0] = dot(block[ROW][0], first, value);
                            if N > 1 {
                                block[ROW][1] = dot(block[ROW][1], second, value);
                            }
                        });
                        a = a.add(ROWS);
                        b = b.add(LANES);
                    }
                    let first = load(b.cast());
                    let second = if N > 1 {
                        load(b.add(t.panel).cast())
                    } else {
                        first
                    };
                    each_row!(ROW, {
                        let scale = spread(*a.add(ROW).cast::<f32>());
                        sums[ROW][0] = multiply_add(
                            floats(block[ROW][0]),
                            multiply(first, scale),
                            sums[ROW][0],
                        );
                        if N > 1 {
                            sums[ROW][1] = multiply_add(
                                floats(block[ROW][1]),
                                multiply(second, scale),
                                sums[ROW][1],
                            );
                        }
                    });
                    a = a.add((STEPS - DATA) * ROWS);
                    b = b.add((STEPS - DATA) * LANES);
                }
                store_sums!(t, sums);
            }
        }

        all_tiles!();
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
        __m256, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps,
        _mm256_setzero_ps, _mm256_storeu_ps,
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
    use std::arch::x86_64::{
        __m512, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_storeu_ps,
    };

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

/// Names for what multiplies integers, 16 lanes at once.
#[cfg(target_arch = "x86_64")]
mod names_512 {
    pub use std::arch::x86_64::{
        _mm512_add_ps as add, _mm512_cvtepi32_ps as floats, _mm512_fmadd_ps as multiply_add,
        _mm512_loadu_ps as load, _mm512_loadu_si512 as load_integers, _mm512_mul_ps as multiply,
        _mm512_set1_epi32 as spread_integer, _mm512_set1_ps as spread, _mm512_setzero_ps as zero,
        _mm512_setzero_si512 as zero_integers, _mm512_storeu_ps as store,
    };

    pub use super::Tile;
    pub use super::avx512::{LANES, ROWS};
}

/// The same for eight lanes.
#[cfg(target_arch = "x86_64")]
mod names_256 {
    pub use std::arch::x86_64::{
        _mm256_add_ps as add, _mm256_cvtepi32_ps as floats, _mm256_fmadd_ps as multiply_add,
        _mm256_loadu_ps as load, _mm256_loadu_si256 as load_integers, _mm256_mul_ps as multiply,
        _mm256_set1_epi32 as spread_integer, _mm256_set1_ps as spread, _mm256_setzero_ps as zero,
        _mm256_setzero_si256 as zero_integers, _mm256_storeu_ps as store,
    };

    pub use super::Tile;
    pub use super::avx2::{LANES, ROWS};
}

/// A lane holds two words, and one instruction multiplies and adds both.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512_words {
    use std::arch::x86_64::_mm512_dpwssd_epi32 as dot;

    use super::names_512::*;

    tile_of_integers!("avx512f,avx512vnni", words);
}

/// A lane holds four bytes, and one instruction multiplies and adds all of them.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512_bytes {
    use std::arch::x86_64::_mm512_dpbusd_epi32 as dot;

    use super::names_512::*;

    tile_of_integers!("avx512f,avx512vnni", bytes);
}

/// As `avx512_words`.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx_words {
    use std::arch::x86_64::_mm256_dpwssd_avx_epi32 as dot;

    use super::names_256::*;

    tile_of_integers!("avx2,fma,avxvnni", words);
}

/// As `avx512_bytes`.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx_bytes {
    use std::arch::x86_64::_mm256_dpbusd_avx_epi32 as dot;

    use super::names_256::*;

    tile_of_integers!("avx2,fma,avxvnni", bytes);
}

/// As `avx512_words`, by two instructions, for processors without VNNI: a product takes their
/// multipliers half as long as one of floats.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx2_words {
    use std::arch::x86_64::{__m256i, _mm256_add_epi32, _mm256_madd_epi16};

    use super::names_256::*;

    #[inline]
    #[target_feature(enable = "avx2")]
    fn dot(sum: __m256i, second: __m256i, first: __m256i) -> __m256i {
        _mm256_add_epi32(sum, _mm256_madd_epi16(second, first))
    }

    tile_of_integers!("avx2,fma", words);
}
