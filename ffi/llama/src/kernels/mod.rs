//! CPU kernels of our own, run by ggml's threads as custom operations.
//!
//! Products read quantized weights where they lie: each thread turns a block of rows that fits its cache into floats (or bf16) and
//! multiplies it with all tokens before it goes on. No result depends on the number of threads.

mod attention;
#[cfg(target_arch = "x86_64")]
mod bf16;
#[cfg(target_arch = "x86_64")]
mod chunks;
mod experts;
mod instead;
mod pack;
mod product;
mod rows;
#[cfg(target_arch = "x86_64")]
mod square;
#[cfg(test)]
mod tests;
mod tile;
mod turn;

pub(crate) use attention::{attention, attention_back};
pub(crate) use experts::{experts_back, experts_weights};
pub(crate) use instead::{Instead, substitute};
pub(crate) use product::{Call, Side, Units, pack_rows, packed_lanes, product, times};
pub(crate) use rows::{rms_norm_back, soft_max_back, swiglu_back};
pub(crate) use turn::turn;

use std::sync::atomic::{AtomicU8, Ordering};

use chunks::{CHUNK, Reader, reader};
use tile::TileFn;

/// An inner loop that this processor can run: a value that exists proves it.
#[derive(Clone, Copy)]
pub struct Kernel(&'static Tiles);

/// What tells one kernel from another.
pub(crate) struct Tiles {
    name: &'static str,
    /// Results in one vector: columns of one panel of the second operand.
    lanes: usize,
    /// Rows of one panel of the first operand, a multiple of three.
    rows: usize,
    /// How a lane is made of two bf16; none where it is a float.
    pairs: Option<Pairs>,
    /// How 16 lanes of up to 16 lines are interleaved; none where plain loops do.
    turn: Option<TurnFn>,
    /// By thirds of the rows, then by vectors.
    tiles: [[TileFn; 2]; 3],
}

type TurnFn = unsafe fn(&[*const u32; 16], usize, usize, *mut u32);

struct Pairs {
    along: unsafe fn(*const f32, usize, *mut u32),
    across: unsafe fn(*const f32, *const f32, usize, *mut u32, usize),
}

static PORTABLE: Tiles = Tiles {
    name: "portable f32",
    lanes: tile::portable::LANES,
    rows: tile::portable::ROWS,
    pairs: None,
    turn: None,
    tiles: tile::portable::TILES,
};
#[cfg(target_arch = "x86_64")]
static AVX2: Tiles = Tiles {
    name: "AVX2 f32",
    lanes: tile::avx2::LANES,
    rows: tile::avx2::ROWS,
    pairs: None,
    turn: Some(square::turn_avx2),
    tiles: tile::avx2::TILES,
};
#[cfg(target_arch = "x86_64")]
static AVX512: Tiles = Tiles {
    name: "AVX-512 f32",
    lanes: tile::avx512::LANES,
    rows: tile::avx512::ROWS,
    pairs: None,
    turn: Some(square::turn),
    tiles: tile::avx512::TILES,
};
#[cfg(target_arch = "x86_64")]
static BF16: Tiles = Tiles {
    name: "AVX-512 bf16",
    lanes: tile::bf16::LANES,
    rows: tile::bf16::ROWS,
    pairs: Some(Pairs { along: tile::bf16::pair_along, across: tile::bf16::pair_across }),
    turn: Some(square::turn),
    tiles: tile::bf16::TILES,
};

/// Instruction sets, each with all that stand before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// What the program was built for.
    Portable,
    Avx2,
    Avx512,
    /// AVX-512 with products of bf16.
    Bf16,
}

/// See `Level::limit`; beyond all levels where none was asked for.
static LIMIT: AtomicU8 = AtomicU8::new(u8::MAX);

impl Level {
    pub const ALL: [(&str, Self); 4] = [("portable", Self::Portable), ("avx2", Self::Avx2), ("avx512", Self::Avx512), ("bf16", Self::Bf16)];

    /// Use no instructions beyond this level from now on, in the whole process, and those of this level even if they are no gain: to measure
    /// what another processor would do. ggml's own operations are not held back.
    pub fn limit(self) {
        LIMIT.store(self as u8, Ordering::Relaxed);
    }

    /// This level may be used, as far as `limit` goes.
    fn allowed(self) -> bool {
        self as u8 <= LIMIT.load(Ordering::Relaxed)
    }
}

impl Kernel {
    /// All that this processor can run within the limit, by their levels.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self(&PORTABLE)];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected;
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && Level::Avx2.allowed() {
                all.push(Self(&AVX2));
            }
            if is_x86_feature_detected!("avx512f") && Level::Avx512.allowed() {
                all.push(Self(&AVX512));
                if chunks::able() && is_x86_feature_detected!("avx512bf16") && Level::Bf16.allowed() {
                    all.push(Self(&BF16));
                }
            }
        }
        all
    }

    /// The fastest that multiplies in f32.
    pub fn exact() -> Self {
        Self::all().into_iter().rfind(|kernel| !kernel.is_bf16()).unwrap_or(Self(&PORTABLE))
    }

    /// The fastest; where it multiplies in bf16, sums are still f32. Intel's cores take twice as long for a product of bf16 pairs as for one of
    /// floats, AMD's as long.
    pub fn fast() -> Self {
        let asked = LIMIT.load(Ordering::Relaxed) != u8::MAX;
        let best = |kernel: &Self| asked || !kernel.is_bf16() || !is_intel();
        Self::all().into_iter().rfind(best).unwrap_or(Self(&PORTABLE))
    }

    /// The one of the highest level, whether it is the fastest or not.
    pub fn highest() -> Self {
        Self::all().into_iter().next_back().unwrap_or(Self(&PORTABLE))
    }

    pub fn name(self) -> &'static str {
        self.0.name
    }

    pub fn is_bf16(self) -> bool {
        self.0.pairs.is_some()
    }

    pub(crate) fn tiles(self) -> &'static Tiles {
        self.0
    }
}

/// The processor says that Intel made it.
fn is_intel() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let said = std::arch::x86_64::__cpuid(0);
        [said.ebx, said.edx, said.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl PartialEq for Kernel {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Kernel {}

/// ggml's own conversions are all there is.
#[cfg(not(target_arch = "x86_64"))]
mod chunks {
    pub(super) const CHUNK: usize = 32;

    pub(super) struct Reader {
        pub floats: Option<unsafe extern "C" fn(*const std::ffi::c_void, *mut f32, i64)>,
        pub along: [unsafe fn(&[*const u8; 16], std::ops::Range<usize>, *mut u32); 2],
        pub across: unsafe fn(*const u8, *const u8, std::ops::Range<usize>, *mut u32, usize),
    }

    pub(super) fn reader(_: llama_cpp_sys_2::ggml_type) -> Option<&'static Reader> {
        None
    }
}
