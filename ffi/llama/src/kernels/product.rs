//! Matrix products over packed panels.

use std::cell::RefCell;
use std::ffi::c_void;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use llama_cpp_sys_2 as sys;

use super::block::{Block, Parts};
use super::pack::{BLOCK_MAX, COLUMNS, Lines, Matrix, Packing, STEPS};
use super::{Lane, Tiles};

/// Rows of the first operand that one thread takes at a time where there are many matrices.
const BAND: usize = 120;
/// Columns that one thread takes at a time of a product with few rows, which are packed for each
/// anew.
const WIDE: usize = 8 * COLUMNS;
/// Steps along the reduction that are left out at a time where one operand is zero.
const SKIP: usize = STEPS / 2;

/// Which side of the weight the reduction runs along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// y = Wᵀ x: along each row of W.
    Rows,
    /// x = W y: across the rows of W.
    Columns,
}

/// Parameters of an operation beside its tensors. The graph that made it keeps it.
pub(crate) struct Call {
    pub tiles: &'static Tiles,
    /// What the result is multiplied by; for a norm its ε.
    pub scale: f32,
    /// Operands 2 and 3 are a small matrix and rows, whose product is added.
    pub adapter: bool,
    /// The last operand is added.
    pub base: bool,
    pub units: Units,
}

/// Distributes the parts of one operation: a thread that the system puts aside holds up no more
/// than the part it is at.
#[derive(Default)]
pub(crate) struct Units {
    next: AtomicUsize,
    ended: AtomicUsize,
}

impl Units {
    /// Do the parts that no other thread took. All threads of a run must come by; the last one
    /// makes ready for the next run.
    pub fn each(&self, count: usize, threads: i32, mut work: impl FnMut(usize)) {
        loop {
            let unit = self.next.fetch_add(1, Ordering::Relaxed);
            if unit >= count {
                break;
            }
            work(unit);
        }
        // ggml's barrier stands between this and the next run's first part.
        if self.ended.fetch_add(1, Ordering::AcqRel) + 1 == threads as usize {
            self.next.store(0, Ordering::Relaxed);
            self.ended.store(0, Ordering::Relaxed);
        }
    }
}

/// A thread's working memory. It stays with the thread, so that each is touched first by the core
/// that uses it.
pub(super) struct Scratch {
    pub lines: Lines,
    a: Vec<u32>,
    pub b: Box<[Line]>,
}

/// Lanes of one vector, where vectors are loaded fastest.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Line(#[expect(dead_code, reason = "read through pointers")] [u32; 16]);

thread_local! {
    pub(super) static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { lines: Lines::new(), a: Vec::new(), b: vec![Line([0; 16]); (COLUMNS + 16) * STEPS / 16].into_boxed_slice() });
}

impl Tiles {
    pub(super) fn steps(&self, depth: usize) -> usize {
        match self.lane {
            Lane::Float => depth,
            Lane::Integers(integers) => depth.div_ceil(integers.block) * integers.steps,
        }
    }

    pub(super) fn floats(&'static self) -> &'static Self {
        if let Lane::Integers(integers) = &self.lane {
            integers.floats
        } else {
            self
        }
    }

    /// The reduction in blocks of `steps` that are packed at a time.
    pub(super) fn blocks(
        &self,
        depth: usize,
        steps: usize,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        let size = match &self.lane {
            Lane::Float => steps,
            Lane::Integers(integers) => {
                steps / integers.steps * integers.block / BLOCK_MAX * BLOCK_MAX
            }
        };
        (0..depth)
            .step_by(size)
            .map(move |start| start..(start + size).min(depth))
    }
}

/// Lanes that `rows` rows of `depth` elements take when they are packed whole.
pub(crate) fn packed_lanes(tiles: &Tiles, rows: usize, depth: usize) -> usize {
    rows.next_multiple_of(tiles.rows) * tiles.steps(depth)
}

/// Pack the columns of a contiguous tensor once, for all products that read it.
///
/// # Safety
/// As `ggml_custom_op_t`: `target` was made by `Graph::packed` and is placed, `call` is what it was
/// made with.
pub(crate) unsafe extern "C" fn pack_rows(
    target: *mut sys::ggml_tensor,
    _: i32,
    threads: i32,
    call: *mut c_void,
) {
    // SAFETY: the graph made the target with room for all panels of its contiguous F32 operand;
    // threads write different panels.
    unsafe {
        let call = &*call.cast_const().cast::<Call>();
        let tiles = call.tiles;
        let source = (*target).src[0];
        let [depth, n, p, q] = (*source).ne.map(|size| size as usize);
        let (rows, steps) = (n * p * q, tiles.steps(depth));
        let matrix = Matrix::of(source, true);
        let to = (*target).data.cast::<u32>();
        SCRATCH.with_borrow_mut(|scratch| {
            call.units
                .each(rows.div_ceil(tiles.rows), threads, |panel| {
                    for part in tiles.blocks(depth, STEPS) {
                        let wanted = panel * tiles.rows..((panel + 1) * tiles.rows).min(rows);
                        let to = to
                            .add(panel * tiles.rows * steps + tiles.steps(part.start) * tiles.rows);
                        let packing = Packing {
                            tiles,
                            width: tiles.rows,
                            wanted,
                            depth: part,
                            to,
                            panel: 0,
                        };
                        packing.run(&matrix, &mut scratch.lines);
                    }
                });
        });
    }
}

/// Multiply a weight with packed rows; add the product of an adapter's second matrix and what its
/// first gave, and a base.
///
/// shapes: W [k, m], packed rows of k (`Rows`) or m (`Columns`) elements, B [r, m] or A [k, r],
/// rows of r → [m, …] or [k, …]
///
/// # Safety
/// As `ggml_custom_op_t`: `target` was made by `Graph::times` and is placed, `call` is what it was
/// made with.
pub(crate) unsafe extern "C" fn times<const COLUMNS_SIDE: bool>(
    target: *mut sys::ggml_tensor,
    _: i32,
    threads: i32,
    call: *mut c_void,
) {
    // SAFETY: the graph checked shapes and types; each part of the target is one thread's.
    unsafe {
        let call = &*call.cast_const().cast::<Call>();
        let [width, n, p, q] = (*target).ne.map(|size| size as usize);
        let rows = n * p * q;
        let parts = Parts::new(call.tiles, rows, width, threads as usize, COLUMNS);
        SCRATCH.with_borrow_mut(|scratch| {
            call.units.each(parts.count(), threads, |unit| {
                let (columns, bands) = parts.at(unit);
                let side = if COLUMNS_SIDE {
                    Side::Columns
                } else {
                    Side::Rows
                };
                part_of_times(target, call, side, &columns, bands, scratch);
            });
        });
    }
}

/// # Safety
/// As `times`, for a part of the target that is nobody else's.
unsafe fn part_of_times(
    target: *mut sys::ggml_tensor,
    call: &Call,
    side: Side,
    columns: &Range<usize>,
    bands: Range<usize>,
    scratch: &mut Scratch,
) {
    // SAFETY: as promised.
    unsafe {
        // An adapter is not rounded to integers; its kernel has panels of as many rows.
        let (tiles, fine, along) = (call.tiles, call.tiles.floats(), side == Side::Rows);
        let [weight, packed, matrix, small, ..] = (*target).src;
        let [width, n, p, q] = (*target).ne.map(|size| size as usize);
        let depth = (*weight).ne[usize::from(!along)] as usize;
        let rank = if call.adapter {
            (*matrix).ne[usize::from(!along)] as usize
        } else {
            0
        };
        let wanted = bands.start * tiles.rows..(bands.end * tiles.rows).min(n * p * q);
        pack_all(fine, small, rank, &wanted, scratch);
        let base = (*target).src[if call.adapter { 4 } else { 2 }];
        let mut block = Block {
            tiles,
            rows: n * p * q,
            bands,
            columns: columns.clone(),
            part: 0..0,
            a: std::ptr::null(),
            panel: tiles.rows * tiles.steps(depth),
            c: (*target).data.cast::<f32>(),
            stride: width,
            from: if call.base {
                (*base).data.cast::<f32>()
            } else {
                std::ptr::null_mut()
            },
        };
        for part in tiles.blocks(depth, STEPS) {
            block.a = (*packed)
                .data
                .cast::<u32>()
                .add(tiles.steps(part.start) * tiles.rows);
            block.part = part;
            block.run(
                &Matrix::of(weight, along),
                &mut scratch.lines,
                &mut scratch.b,
            );
            block.from = block.c;
        }
        (block.tiles, block.panel) = (fine, fine.rows * fine.steps(rank));
        for part in fine.blocks(rank, STEPS) {
            // The panels of the small rows begin with this part's first.
            block.a = scratch
                .a
                .as_ptr()
                .add(fine.steps(part.start) * fine.rows)
                .wrapping_sub(block.bands.start * block.panel);
            block.part = part;
            block.run(
                &Matrix::of(matrix, along),
                &mut scratch.lines,
                &mut scratch.b,
            );
        }
        if call.scale != 1.0 {
            for row in wanted {
                let line = std::slice::from_raw_parts_mut(
                    block.c.add(row * width + columns.start),
                    columns.len(),
                );
                line.iter_mut().for_each(|value| *value *= call.scale);
            }
        }
    }
}

/// Pack rows of a small contiguous tensor whole, into the thread's own memory.
///
/// # Safety
/// `source` is a placed F32 tensor with `depth` elements in each of the rows, unless `depth` is
/// zero.
unsafe fn pack_all(
    tiles: &Tiles,
    source: *const sys::ggml_tensor,
    depth: usize,
    wanted: &Range<usize>,
    scratch: &mut Scratch,
) {
    if depth == 0 {
        return;
    }
    let panel = tiles.rows * tiles.steps(depth);
    scratch.a.resize(
        scratch
            .a
            .len()
            .max(wanted.len().div_ceil(tiles.rows) * panel),
        0,
    );
    for part in tiles.blocks(depth, STEPS) {
        // SAFETY: as promised, and the memory was made long enough.
        unsafe {
            let to = scratch
                .a
                .as_mut_ptr()
                .add(tiles.steps(part.start) * tiles.rows);
            let packing = Packing {
                tiles,
                width: tiles.rows,
                wanted: wanted.clone(),
                depth: part,
                to,
                panel,
            };
            packing.run(&Matrix::of(source, true), &mut scratch.lines);
        }
    }
}

/// Multiply two F32 tensors, each with one dense dimension of its inner two, as `mul_mat` does.
///
/// shapes: a [k, m, g, …], b [k, n, h, …] → [m, n, h, …], h a multiple of g
///
/// # Safety
/// As `ggml_custom_op_t`: `target` was made by `Graph::product` and is placed, `call` is what it
/// was made with.
pub(crate) unsafe extern "C" fn product(
    target: *mut sys::ggml_tensor,
    _: i32,
    threads: i32,
    call: *mut c_void,
) {
    // SAFETY: the graph checked shapes, types and strides; each part of the target is one thread's.
    unsafe {
        let call = &*call.cast_const().cast::<Call>();
        let tiles = call.tiles;
        let [width, rows, heads, outer] = (*target).ne.map(|size| size as usize);
        let mut parts = Parts::new(tiles, rows, width, threads as usize, WIDE);
        if heads * outer > 1 || rows >= width {
            let panels = rows.div_ceil(tiles.rows);
            parts = Parts {
                columns: width,
                wide: width,
                high: (BAND / tiles.rows).min(panels),
                panels,
            };
        }
        SCRATCH.with_borrow_mut(|scratch| {
            call.units
                .each(heads * outer * parts.count(), threads, |unit| {
                    let (columns, panels) = parts.at(unit % parts.count());
                    let wanted = panels.start * tiles.rows..(panels.end * tiles.rows).min(rows);
                    Operands::of(target, unit / parts.count())
                        .multiply(tiles, columns, &wanted, scratch);
                });
        });
    }
}

/// Two F32 matrices and where their product goes.
pub(super) struct Operands {
    pub a: Matrix,
    /// Of any type where its lines run across the reduction.
    pub b: Matrix,
    pub c: *mut f32,
    pub width: usize,
    pub depth: usize,
}

impl Operands {
    /// A matrix of the target, and those of its first two operands that ggml's broadcast pairs with
    /// it.
    ///
    /// # Safety
    /// `target` is placed, its operands F32 with one dense dimension of the inner two, of the
    /// shapes that `mul_mat` wants.
    pub unsafe fn of(target: *const sys::ggml_tensor, matrix: usize) -> Self {
        // SAFETY: as promised; the indices are inside the operands' outer dimensions.
        unsafe {
            let [left, right, ..] = (*target).src;
            let [width, rows, heads, outer] = (*target).ne.map(|size| size as usize);
            let (inner, outside) = (matrix % heads, matrix / heads);
            let shared = |size: usize, of: i64, index: usize| index / (size / of as usize);
            let b = strided(
                left,
                shared(heads, (*left).ne[2], inner),
                shared(outer, (*left).ne[3], outside),
            );
            let a = strided(right, inner, outside);
            let c = (*target).data.cast::<f32>().add(matrix * rows * width);
            Self {
                a,
                b,
                c,
                width,
                depth: (*left).ne[0] as usize,
            }
        }
    }

    /// Compute some columns of some rows, which begin with a whole panel.
    ///
    /// # Safety
    /// The ranges lie inside the result, which no other thread touches there.
    pub unsafe fn multiply(
        &self,
        tiles: &'static Tiles,
        columns: Range<usize>,
        wanted: &Range<usize>,
        scratch: &mut Scratch,
    ) {
        let panels = wanted.len().div_ceil(tiles.rows);
        let panel = STEPS * tiles.rows;
        scratch.a.resize(scratch.a.len().max(panels * panel), 0);
        // SAFETY: as promised.
        let c = unsafe { self.c.add(wanted.start * self.width) };
        let mut from: *const f32 = std::ptr::null();
        for depth in tiles.blocks(self.depth, SKIP) {
            let last = depth.end == self.depth;
            let to = scratch.a.as_mut_ptr();
            // SAFETY: as promised, and the memory was made long enough.
            unsafe {
                let packing = Packing {
                    tiles,
                    width: tiles.rows,
                    wanted: wanted.clone(),
                    depth: depth.clone(),
                    to,
                    panel,
                };
                packing.run(&self.a, &mut scratch.lines);
            }
            // What a mask hides is zero, often for all of these rows.
            let used = tiles.steps(depth.len()) * tiles.rows;
            if (!last || !from.is_null())
                && scratch
                    .a
                    .chunks(panel)
                    .take(panels)
                    .all(|panel| panel[..used].iter().all(|lane| *lane == 0))
            {
                continue;
            }
            for start in columns.clone().step_by(COLUMNS) {
                let block = Block {
                    tiles,
                    rows: wanted.len(),
                    bands: 0..panels,
                    columns: start..(start + COLUMNS).min(columns.end),
                    part: depth.clone(),
                    a: to,
                    panel,
                    c,
                    stride: self.width,
                    from,
                };
                // SAFETY: as promised.
                unsafe { block.run(&self.b, &mut scratch.lines, &mut scratch.b) };
            }
            from = c;
        }
    }
}

/// One matrix of an F32 tensor whose dense dimension is the first or the second.
unsafe fn strided(tensor: *const sys::ggml_tensor, inner: usize, outside: usize) -> Matrix {
    // SAFETY: a live, placed tensor; the indices are inside its outer dimensions.
    unsafe {
        let nb = (*tensor).nb;
        let along = nb[0] == size_of::<f32>();
        let data = (*tensor)
            .data
            .cast::<u8>()
            .add(inner * nb[2] + outside * nb[3]);
        Matrix {
            data,
            line: if along { nb[1] } else { nb[0] },
            block: 1,
            block_bytes: 4,
            convert: None,
            reader: None,
            along,
        }
    }
}
