//! CPU kernels of our own, run by ggml's threads as custom operations.
//!
//! Products read quantized weights where they lie: each thread turns a block of rows that fits its
//! cache into floats and multiplies it with all tokens before it goes on. No result depends on the
//! number of threads.
//!
//! Where the processor multiplies integers faster, weights and what they are multiplied with are
//! rounded to such: to 13 bits and a sign for training, which is next to nothing, and with VNNI to
//! eight for quantized weights in llama.cpp's own graphs, as ggml rounds activations there.

mod attention;
mod block;
#[cfg(target_arch = "x86_64")]
mod chunks;
mod experts;
mod instead;
#[cfg(target_arch = "x86_64")]
mod integers;
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

use chunks::{CHUNK, ToFloats, reader};
use tile::TileFn;

/// An inner loop that this processor can run: a value that exists proves it.
#[derive(Clone, Copy)]
pub struct Kernel(&'static Tiles);

/// Integers that a kernel rounds to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rounding {
    /// Elements along the reduction that share a scale.
    pub block: usize,
    /// What the largest of them becomes.
    pub most: f32,
}

/// What tells one kernel from another.
pub(crate) struct Tiles {
    name: &'static str,
    /// Results in one vector: columns of one panel of the second operand.
    lanes: usize,
    /// Rows of one panel of the first operand, a multiple of three.
    rows: usize,
    lane: Lane,
    /// How 16 lanes of up to 16 lines are interleaved; none where plain loops do.
    turn: Option<TurnFn>,
    /// By thirds of the rows, then by vectors.
    tiles: [[TileFn; 2]; 3],
}

type TurnFn = unsafe fn(&[*const u32; 16], usize, usize, *mut u32);

/// What a lane of a panel is.
#[derive(Clone, Copy)]
enum Lane {
    Float,
    /// Two or four integers that follow each other along the reduction, or what belongs to a block
    /// of them.
    Integers(Integers),
}

#[derive(Clone, Copy)]
struct Integers {
    /// Elements along the reduction that share a scale, the steps that they take, and what the
    /// largest becomes.
    block: usize,
    steps: usize,
    most: f32,
    /// A line of the first operand, a line of the second.
    along: [unsafe fn(*const f32, usize, *mut u32); 2],
    /// A block of lines of the second; none where it is not used.
    across: Option<AcrossFn>,
    /// The kernel with panels of the same sizes for what is not rounded.
    floats: &'static Tiles,
    /// The one for llama.cpp's own graphs: of bytes, where the processor has an instruction for
    /// them.
    graphs: &'static Tiles,
}

type AcrossFn = unsafe fn(&[*const f32], usize, *mut u32, usize);

static PORTABLE: Tiles = Tiles {
    name: "portable f32",
    lanes: tile::portable::LANES,
    rows: tile::portable::ROWS,
    lane: Lane::Float,
    turn: None,
    tiles: tile::portable::TILES,
};
#[cfg(target_arch = "x86_64")]
const AVX2_FLOATS: Tiles = Tiles {
    name: "AVX2 f32",
    lanes: tile::avx2::LANES,
    rows: tile::avx2::ROWS,
    lane: Lane::Float,
    turn: Some(square::turn_avx2),
    tiles: tile::avx2::TILES,
};
#[cfg(target_arch = "x86_64")]
static AVX2: Tiles = AVX2_FLOATS;
#[cfg(target_arch = "x86_64")]
const AVX512_FLOATS: Tiles = Tiles {
    name: "AVX-512 f32",
    lanes: tile::avx512::LANES,
    rows: tile::avx512::ROWS,
    lane: Lane::Float,
    turn: Some(square::turn),
    tiles: tile::avx512::TILES,
};
#[cfg(target_arch = "x86_64")]
static AVX512: Tiles = AVX512_FLOATS;
#[cfg(target_arch = "x86_64")]
static AVX2_WORDS: Tiles = Tiles {
    name: "AVX2 int16",
    lane: words(integers::across::<8>, &AVX2, &AVX2_WORDS),
    tiles: tile::avx2_words::TILES,
    ..AVX2_FLOATS
};
#[cfg(target_arch = "x86_64")]
static AVX_WORDS: Tiles = Tiles {
    name: "AVX-VNNI int16",
    lane: words(integers::across::<8>, &AVX2, &AVX_BYTES),
    tiles: tile::avx_words::TILES,
    ..AVX2_FLOATS
};
#[cfg(target_arch = "x86_64")]
static AVX_BYTES: Tiles = Tiles {
    name: "AVX-VNNI int8",
    lane: bytes(&AVX2, &AVX_BYTES),
    tiles: tile::avx_bytes::TILES,
    ..AVX2_FLOATS
};
#[cfg(target_arch = "x86_64")]
static AVX512_WORDS: Tiles = Tiles {
    name: "AVX-512 VNNI int16",
    lane: words(integers::across::<16>, &AVX512, &AVX512_BYTES),
    tiles: tile::avx512_words::TILES,
    ..AVX512_FLOATS
};
#[cfg(target_arch = "x86_64")]
static AVX512_BYTES: Tiles = Tiles {
    name: "AVX-512 VNNI int8",
    lane: bytes(&AVX512, &AVX512_BYTES),
    tiles: tile::avx512_bytes::TILES,
    ..AVX512_FLOATS
};

#[cfg(target_arch = "x86_64")]
const fn words(across: AcrossFn, floats: &'static Tiles, graphs: &'static Tiles) -> Lane {
    Lane::Integers(Integers {
        block: tile::words::BLOCK,
        steps: tile::words::STEPS,
        most: integers::WORD_MAX,
        along: integers::WORDS,
        across: Some(across),
        floats,
        graphs,
    })
}

#[cfg(target_arch = "x86_64")]
const fn bytes(floats: &'static Tiles, graphs: &'static Tiles) -> Lane {
    Lane::Integers(Integers {
        block: tile::bytes::BLOCK,
        steps: tile::bytes::STEPS,
        most: integers::BYTE_MAX,
        along: integers::BYTES,
        across: None,
        floats,
        graphs,
    })
}

/// Instruction sets, each with all that stand before it and that the processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// What the program was built for.
    Portable,
    /// AVX2 with FMA: eight floats at once.
    Avx2,
    /// AVX2 with products of integers.
    AvxVnni,
    /// AVX-512F: sixteen floats at once.
    Avx512,
    /// AVX-512 with products of integers.
    Avx512Vnni,
}

/// See `Level::limit`; beyond all levels where none was set.
static LIMIT: AtomicU8 = AtomicU8::new(u8::MAX);

impl Level {
    /// All levels with their names on the command line, from the least.
    pub const ALL: [(&str, Self); 5] = [
        ("portable", Self::Portable),
        ("avx2", Self::Avx2),
        ("avx-vnni", Self::AvxVnni),
        ("avx512", Self::Avx512),
        ("avx512-vnni", Self::Avx512Vnni),
    ];

    /// Use no instructions beyond this level from now on, in the whole process, and those of this
    /// level even if they are no gain: to measure what another processor would do. ggml's own
    /// operations are not held back.
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
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && Level::Avx2.allowed()
            {
                all.extend([Self(&AVX2), Self(&AVX2_WORDS)]);
                if is_x86_feature_detected!("avxvnni") && Level::AvxVnni.allowed() {
                    all.extend([Self(&AVX_BYTES), Self(&AVX_WORDS)]);
                }
            }
            if is_x86_feature_detected!("avx512f") && Level::Avx512.allowed() {
                all.push(Self(&AVX512));
                if is_x86_feature_detected!("avx512vnni") && Level::Avx512Vnni.allowed() {
                    all.extend([Self(&AVX512_BYTES), Self(&AVX512_WORDS)]);
                }
            }
        }
        all
    }

    /// The fastest that multiplies in f32.
    pub fn exact() -> Self {
        Self::all()
            .into_iter()
            .rfind(|kernel| matches!(kernel.0.lane, Lane::Float))
            .unwrap_or(Self(&PORTABLE))
    }

    /// The fastest to train with; where it multiplies integers, sums of blocks are still f32.
    pub fn fast() -> Self {
        Self::all()
            .into_iter()
            .next_back()
            .unwrap_or(Self(&PORTABLE))
    }

    /// The fastest for llama.cpp's own graphs, where ggml rounds to eight bits what it multiplies
    /// quantized weights with.
    pub fn for_graphs() -> Self {
        let fast = Self::fast();
        if let Lane::Integers(integers) = &fast.0.lane {
            Self(integers.graphs)
        } else {
            fast
        }
    }

    /// The instruction set and the type it multiplies, `AVX2 int16` for example.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// What it rounds to, if to integers.
    pub fn rounding(self) -> Option<Rounding> {
        let Lane::Integers(integers) = &self.0.lane else {
            return None;
        };
        Some(Rounding {
            block: integers.block,
            most: integers.most,
        })
    }

    /// The kernel for what is not to be rounded to integers.
    pub fn floats(self) -> Self {
        Self(self.0.floats())
    }

    /// The kernel for a weight: bytes are for quantized ones, along their rows.
    pub(crate) fn for_weight(self, quantized: bool, side: Side) -> Self {
        match &self.0.lane {
            Lane::Integers(Integers { across: None, .. })
                if !quantized || side == Side::Columns =>
            {
                self.floats()
            }
            _ => self,
        }
    }

    pub(crate) fn tiles(self) -> &'static Tiles {
        self.0
    }
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

    pub(super) type ToFloats = unsafe fn(*const u8, std::ops::Range<usize>, *mut f32);

    pub(super) fn reader(_: llama_cpp_sys_2::ggml_type) -> Option<ToFloats> {
        None
    }
}
