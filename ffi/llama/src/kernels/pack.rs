//! Brings operands into panels: dequantized, transposed where their rows run along the reduction,
//! rounded to integers where the kernel does so.

use std::ffi::c_void;
use std::ops::Range;

use llama_cpp_sys_2 as sys;

use super::tile::words;
use super::{AcrossFn, CHUNK, Lane, Tiles, ToFloats, reader};

/// Elements along the reduction that are packed at a time: whole blocks of every type. units: steps
/// of four bytes.
pub(super) const STEPS: usize = 512;
/// Columns of the second operand that are packed at a time.
pub(super) const COLUMNS: usize = 128;
/// The widest panel of any kernel.
const WIDTH_MAX: usize = 16;
/// The longest block of any type of ggml.
pub(super) const BLOCK_MAX: usize = 256;

/// Lines of elements somewhere in memory.
pub(super) struct Matrix {
    pub data: *const u8,
    /// units: bytes between two lines.
    pub line: usize,
    /// Elements, and bytes, of one block.
    pub block: usize,
    pub block_bytes: usize,
    /// ggml's conversion, and ours, which is used where there is one. None: the elements are f32.
    pub convert: Option<unsafe extern "C" fn(*const c_void, *mut f32, i64)>,
    pub reader: Option<ToFloats>,
    /// Lines run along the reduction, so that packing transposes them; otherwise there is one line
    /// for each step.
    pub along: bool,
}

impl Matrix {
    /// The inner two dimensions of a tensor, its rows as lines.
    ///
    /// # Safety
    /// `tensor` must be placed in host memory and have a conversion to floats (`Graph` checks it),
    /// its rows dense.
    pub unsafe fn of(tensor: *const sys::ggml_tensor, along: bool) -> Self {
        // SAFETY: as promised; the traits are a static table.
        unsafe {
            let traits = &*sys::ggml_get_type_traits((*tensor).type_);
            let convert = if (*tensor).type_ == sys::GGML_TYPE_F32 {
                None
            } else {
                traits.to_float
            };
            let (block, block_bytes) = (traits.blck_size as usize, traits.type_size);
            let reader = reader((*tensor).type_);
            Self {
                data: (*tensor).data.cast(),
                line: (*tensor).nb[1],
                block,
                block_bytes,
                convert,
                reader,
                along,
            }
        }
    }

    /// Rows of `width` floats as lines.
    pub fn floats_of(values: &[f32], width: usize, along: bool) -> Self {
        let line = width * size_of::<f32>();
        Self {
            data: values.as_ptr().cast(),
            line,
            block: 1,
            block_bytes: 4,
            convert: None,
            reader: None,
            along,
        }
    }

    /// Have these elements of a line, if there is one, in the cache when they are wanted: what is
    /// read a few of at a time the processor does not foresee.
    fn expect(&self, index: usize, range: &Range<usize>) {
        #[cfg(target_arch = "x86_64")]
        {
            const CACHE_LINE: usize = 64;
            let (first, last) = (
                range.start / self.block * self.block_bytes,
                range.end.div_ceil(self.block) * self.block_bytes,
            );
            for place in (first..last).step_by(CACHE_LINE) {
                let place = self.data.wrapping_add(index * self.line + place);
                // SAFETY: reads nothing, so that any address will do.
                unsafe {
                    std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(
                        place.cast(),
                    );
                };
            }
        }
    }

    /// Elements of one line as floats: where they lie, or through `buffer`.
    ///
    /// # Safety
    /// The range lies inside line `index`; `buffer` has room for it and a block before and after.
    unsafe fn floats(&self, index: usize, range: &Range<usize>, buffer: *mut f32) -> *const f32 {
        // SAFETY: as promised; the conversion reads whole blocks of the line and writes as many
        // floats.
        unsafe {
            let line = self.data.add(index * self.line);
            if let Some(read) = self.reader {
                let first = range.start / CHUNK;
                read(line, first..range.end.div_ceil(CHUNK), buffer);
                return buffer.add(range.start - first * CHUNK);
            }
            let Some(convert) = self.convert else {
                return line.cast::<f32>().add(range.start);
            };
            let (first, last) = (range.start / self.block, range.end.div_ceil(self.block));
            convert(
                line.add(first * self.block_bytes).cast(),
                buffer,
                ((last - first) * self.block) as i64,
            );
            buffer.add(range.start - first * self.block)
        }
    }
}

/// Floats of a part of a line across the reduction, with what its blocks reach beyond it.
const LINE: usize = COLUMNS + 2 * BLOCK_MAX;

/// A thread's working memory for packing.
pub(super) struct Lines {
    floats: Vec<f32>,
    lanes: Vec<u32>,
}

impl Lines {
    pub fn new() -> Self {
        let floats = (WIDTH_MAX * (2 * STEPS + 2 * BLOCK_MAX)).max(words::BLOCK * LINE);
        Self {
            floats: vec![0.0; floats],
            lanes: vec![0; (WIDTH_MAX + 1) * 2 * STEPS],
        }
    }
}

/// What to pack and where to.
pub(super) struct Packing<'a> {
    pub tiles: &'a Tiles,
    /// Lanes of one panel.
    pub width: usize,
    /// Rows (or columns) of the operand.
    pub wanted: Range<usize>,
    /// Elements along the reduction, at most `STEPS` steps.
    pub depth: Range<usize>,
    pub to: *mut u32,
    /// units: lanes between two panels.
    pub panel: usize,
}

impl Packing<'_> {
    /// Fill panels with `wanted` × `depth` of `source`; lanes beyond it with zero.
    ///
    /// # Safety
    /// The ranges lie inside `source`, `to` has room for the panels, and the processor can run the
    /// kernel.
    pub unsafe fn run(&self, source: &Matrix, lines: &mut Lines) {
        if source.along {
            // SAFETY: passed on.
            return unsafe { self.transposed(source, lines) };
        }
        let most = COLUMNS / self.width * self.width;
        for (number, start) in self.wanted.clone().step_by(most).enumerate() {
            let wanted = start..(start + most).min(self.wanted.end);
            // SAFETY: passed on, a part that the buffers hold at a time.
            unsafe {
                self.in_order(
                    source,
                    &wanted,
                    self.to.add(number * (most / self.width) * self.panel),
                    lines,
                );
            };
        }
    }

    unsafe fn transposed(&self, source: &Matrix, lines: &mut Lines) {
        let count = self.depth.len();
        let steps = self.tiles.steps(count);
        let (zeros, room) = lines.lanes.split_at_mut(2 * STEPS);
        for (number, first) in self.wanted.clone().step_by(self.width).enumerate() {
            let mut from = [zeros.as_ptr(); WIDTH_MAX];
            for (lane, index) in (first..self.wanted.end.min(first + self.width)).enumerate() {
                // SAFETY: the line is one of the operand's; each lane has its own part of the
                // buffers.
                unsafe {
                    let buffer = lines
                        .floats
                        .as_mut_ptr()
                        .add(lane * (2 * STEPS + 2 * BLOCK_MAX));
                    source.expect(index + 2, &self.depth);
                    let floats = source.floats(index, &self.depth, buffer);
                    from[lane] = floats.cast();
                    let lanes = room.as_mut_ptr().add(lane * 2 * STEPS);
                    if let Lane::Integers(integers) = &self.tiles.lane {
                        integers.along[usize::from(self.width == self.tiles.lanes)](
                            floats, count, lanes,
                        );
                        from[lane] = lanes;
                    }
                }
            }
            // SAFETY: each pointer has `steps` lanes behind it (the zeros too), the panel has room
            // for width × steps.
            unsafe {
                let to = self.to.add(number * self.panel);
                if let Some(turn) = self.tiles.turn {
                    let whole = steps / WIDTH_MAX * WIDTH_MAX;
                    (0..whole)
                        .step_by(WIDTH_MAX)
                        .for_each(|step| turn(&from, step, self.width, to.add(step * self.width)));
                    turn_rest(&from, whole..steps, self.width, to);
                    continue;
                }
                match self.width {
                    16 => turn_lines::<16>(&from, steps, to),
                    12 => turn_lines::<12>(&from, steps, to),
                    8 => turn_lines::<8>(&from, steps, to),
                    _ => turn_lines::<6>(&from, steps, to),
                }
            }
        }
    }

    unsafe fn in_order(
        &self,
        source: &Matrix,
        wanted: &Range<usize>,
        to: *mut u32,
        lines: &mut Lines,
    ) {
        match &self.tiles.lane {
            Lane::Float if source.convert.is_none() => {
                // SAFETY: passed on: the elements are floats.
                return unsafe { self.copied(source, wanted, to) };
            }
            Lane::Float => {}
            Lane::Integers(integers) => {
                // SAFETY: passed on; a caller of this has a kernel that can.
                return unsafe {
                    self.by_blocks(
                        integers.across.unwrap_unchecked(),
                        source,
                        wanted,
                        to,
                        lines,
                    );
                };
            }
        }
        let (count, width) = (wanted.len(), self.width);
        for (step, index) in self.depth.clone().enumerate() {
            // SAFETY: lines of the operand; the buffers hold COLUMNS and two blocks; panels have
            // room for every step.
            unsafe {
                let from = source
                    .floats(index, wanted, lines.floats.as_mut_ptr())
                    .cast::<u32>();
                // Panels of eight, eight at a time: all are read before any is written
                // (`floats_avx2` says why).
                let whole = if width == 8 { count / 64 } else { 0 };
                for eight in 0..whole {
                    let lanes: [[u32; 8]; 8] = from
                        .add(64 * eight)
                        .cast::<[[u32; 8]; 8]>()
                        .read_unaligned();
                    for (i, lanes) in lanes.into_iter().enumerate() {
                        to.add((8 * eight + i) * self.panel + step * width)
                            .cast::<[u32; 8]>()
                            .write_unaligned(lanes);
                    }
                }
                for (number, first) in (0..count).step_by(width).enumerate().skip(8 * whole) {
                    let to = to.add(number * self.panel + step * width);
                    let (from, here) = (from.add(first), width.min(count - first));
                    // A copy of known length is a move or two.
                    match (width, here) {
                        (16, 16) => copy_lines::<16>(from.cast(), 0, 1, to),
                        (12, 12) => copy_lines::<12>(from.cast(), 0, 1, to),
                        (8, 8) => copy_lines::<8>(from.cast(), 0, 1, to),
                        (6, 6) => copy_lines::<6>(from.cast(), 0, 1, to),
                        _ => lane_by_lane(from, here, width, to),
                    }
                }
            }
        }
    }
}

impl Packing<'_> {
    /// As `in_order`, for the second operand, of which blocks of lines share a scale in each lane.
    unsafe fn by_blocks(
        &self,
        across: AcrossFn,
        source: &Matrix,
        wanted: &Range<usize>,
        to: *mut u32,
        lines: &mut Lines,
    ) {
        /// Lines that are prefetched.
        const AHEAD: usize = 12;
        for (number, first) in self.depth.clone().step_by(words::BLOCK).enumerate() {
            let mut from = [std::ptr::null(); words::BLOCK];
            let here = first..self.depth.end.min(first + words::BLOCK);
            // SAFETY: lines of the operand; the buffers hold so many lines of COLUMNS and two
            // blocks each; panels have room for every step.
            unsafe {
                for (line, (from, index)) in from.iter_mut().zip(here.clone()).enumerate() {
                    source.expect(index + AHEAD, wanted);
                    *from =
                        source.floats(index, wanted, lines.floats.as_mut_ptr().add(line * LINE));
                }
                across(
                    &from[..here.len()],
                    wanted.len(),
                    to.add(number * words::STEPS * self.width),
                    self.panel,
                );
            }
        }
    }

    /// As `in_order`, for floats that stay floats.
    unsafe fn copied(&self, source: &Matrix, wanted: &Range<usize>, to: *mut u32) {
        for (number, first) in wanted.clone().step_by(self.width).enumerate() {
            let here = self.width.min(wanted.end - first);
            // SAFETY: lines of the operand; the panel has room for every step.
            unsafe {
                let from = source
                    .data
                    .add(self.depth.start * source.line)
                    .cast::<f32>()
                    .add(first)
                    .cast::<u8>();
                let to = to.add(number * self.panel);
                let steps = self.depth.len();
                match (self.width, here) {
                    (16, 16) => copy_lines::<16>(from, source.line, steps, to),
                    (12, 12) => copy_lines::<12>(from, source.line, steps, to),
                    (8, 8) => copy_lines::<8>(from, source.line, steps, to),
                    (6, 6) => copy_lines::<6>(from, source.line, steps, to),
                    (width, _) => {
                        for step in 0..steps {
                            let (from, to) = (
                                from.add(step * source.line).cast::<u32>(),
                                to.add(step * width),
                            );
                            lane_by_lane(from, here, width, to);
                        }
                    }
                }
            }
        }
    }
}

/// Copy `W` lanes of each of some lines, `line` bytes apart.
///
/// # Safety
/// The lines hold them, and `to` has room for `W * steps`.
unsafe fn copy_lines<const W: usize>(from: *const u8, line: usize, steps: usize, to: *mut u32) {
    /// Lines that are read before any is written.
    const PART: usize = 4;
    // SAFETY: as promised.
    unsafe {
        let read = |step: usize| from.add(step * line).cast::<[u32; W]>().read_unaligned();
        let write = |step: usize, lanes: [u32; W]| {
            to.add(step * W).cast::<[u32; W]>().write_unaligned(lanes);
        };
        let whole = steps / PART * PART;
        for start in (0..whole).step_by(PART) {
            let lanes: [[u32; W]; PART] = std::array::from_fn(|i| read(start + i));
            lanes
                .into_iter()
                .enumerate()
                .for_each(|(i, lanes)| write(start + i, lanes));
        }
        (whole..steps).for_each(|step| write(step, read(step)));
    }
}

/// Copy `here` lanes and fill up with zeros to `width`: volatile, for else the compiler makes calls
/// of these few.
///
/// # Safety
/// `from` holds `here` lanes, `to` has room for `width`.
unsafe fn lane_by_lane(from: *const u32, here: usize, width: usize, to: *mut u32) {
    // SAFETY: as promised.
    unsafe {
        (0..here).for_each(|lane| to.add(lane).write_volatile(*from.add(lane)));
        (here..width).for_each(|lane| to.add(lane).write_volatile(0));
    }
}

/// Interleave `W` lines.
///
/// # Safety
/// Each of the first `W` pointers has `steps` lanes behind it, `to` room for `W * steps`.
unsafe fn turn_lines<const W: usize>(from: &[*const u32; WIDTH_MAX], steps: usize, to: *mut u32) {
    const PART: usize = 16;
    // SAFETY: as promised.
    unsafe {
        let whole = steps / PART * PART;
        for start in (0..whole).step_by(PART) {
            // Always a square, which the compiler turns in registers.
            let mut block = [[0_u32; PART]; PART];
            for (line, from) in block.iter_mut().zip(from).take(W) {
                *line = from.add(start).cast::<[u32; PART]>().read_unaligned();
            }
            #[expect(
                clippy::needless_range_loop,
                reason = "x walks over columns, which no iterator of rows gives"
            )]
            for x in 0..PART {
                let column: [u32; PART] = std::array::from_fn(|y| block[y][x]);
                to.add((start + x) * W)
                    .cast::<[u32; W]>()
                    .write_unaligned(*column.first_chunk().unwrap_unchecked());
            }
        }
        turn_rest(from, whole..steps, W, to);
    }
}

/// Interleave some steps, lane by lane.
///
/// # Safety
/// As `turn_lines`.
unsafe fn turn_rest(
    from: &[*const u32; WIDTH_MAX],
    steps: Range<usize>,
    width: usize,
    to: *mut u32,
) {
    for step in steps {
        for (lane, from) in from.iter().take(width).enumerate() {
            // SAFETY: as promised.
            unsafe { *to.add(step * width + lane) = *from.add(step) };
        }
    }
}
