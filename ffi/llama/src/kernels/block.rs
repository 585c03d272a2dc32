//! Parts of a product: how they are shared out among threads, and how one is computed.

use std::ops::Range;

use super::Tiles;
use super::pack::{Lines, Matrix, Packing, STEPS};
use super::product::Line;
use super::tile::Tile;

/// A tile of the largest kernel.
const TILE_MAX: usize = 12 * 32;

/// A result in parts: columns, and where those are few, panels of rows too. Bounds fall between
/// whole tiles, so that no sum depends on how many threads share the parts.
pub(super) struct Parts {
    pub columns: usize,
    /// Columns and panels of one part.
    pub wide: usize,
    pub high: usize,
    pub panels: usize,
}

impl Parts {
    pub fn new(
        tiles: &Tiles,
        rows: usize,
        columns: usize,
        threads: usize,
        mut wide: usize,
    ) -> Self {
        /// Parts for each thread, so that none waits long for the last.
        const EACH: usize = 3;
        let wanted = if threads > 1 { EACH * threads } else { 1 };
        while columns.div_ceil(wide) < wanted && wide > 2 * tiles.lanes {
            wide /= 2;
        }
        let panels = rows.div_ceil(tiles.rows);
        let high = panels
            .div_ceil(wanted.div_ceil(columns.div_ceil(wide)))
            .max(1);
        Self {
            columns,
            wide,
            high,
            panels,
        }
    }

    pub fn count(&self) -> usize {
        self.columns.div_ceil(self.wide) * self.panels.div_ceil(self.high)
    }

    pub fn at(&self, unit: usize) -> (Range<usize>, Range<usize>) {
        let across = self.columns.div_ceil(self.wide);
        let (left, top) = (unit % across * self.wide, unit / across * self.high);
        (
            left..(left + self.wide).min(self.columns),
            top..(top + self.high).min(self.panels),
        )
    }
}

/// One packed block of the second operand times panels of the first.
pub(super) struct Block<'a> {
    pub tiles: &'a Tiles,
    /// Rows of the whole result.
    pub rows: usize,
    /// Panels of them that are computed here.
    pub bands: Range<usize>,
    pub columns: Range<usize>,
    pub part: Range<usize>,
    /// The first operand's first panel, at this part of the reduction.
    pub a: *const u32,
    /// units: lanes between two panels of `a`.
    pub panel: usize,
    pub c: *mut f32,
    pub stride: usize,
    /// What the product is added to, laid out as `c`; null for nothing.
    pub from: *const f32,
}

impl Block<'_> {
    /// # Safety
    /// `b` holds the columns and the part of the reduction, `a` the panels, `c` the results.
    pub unsafe fn run(&self, b: &Matrix, lines: &mut Lines, packed: &mut [Line]) {
        let tiles = self.tiles;
        // Not a power of two: lines of all panels would share one set of the cache.
        let (lanes, panel) = (tiles.lanes, STEPS * tiles.lanes + 16);
        // SAFETY: at most COLUMNS columns and STEPS steps, for which `packed` has room.
        unsafe {
            let (wanted, depth) = (self.columns.clone(), self.part.clone());
            Packing {
                tiles,
                width: lanes,
                wanted,
                depth,
                to: packed.as_mut_ptr().cast(),
                panel,
            }
            .run(b, lines);
        }
        let third = tiles.rows / 3;
        let mut buffer = [0_f32; TILE_MAX];
        for band in self.bands.clone() {
            let top = band * tiles.rows;
            let rows = (self.rows - top).min(tiles.rows);
            for left in self.columns.clone().step_by(2 * lanes) {
                let columns = (self.columns.end - left).min(2 * lanes);
                let (thirds, vectors) = (rows.div_ceil(third), columns.div_ceil(lanes));
                let whole = rows == thirds * third && columns == vectors * lanes;
                // SAFETY: panels and results are inside what the caller promises; a tile that
                // reaches beyond the result goes through the buffer, which holds the largest.
                unsafe {
                    let c = self.c.add(top * self.stride + left);
                    let mut tile = Tile {
                        steps: tiles.steps(self.part.len()),
                        a: self.a.add(band * self.panel),
                        b: packed
                            .as_ptr()
                            .cast::<u32>()
                            .add((left - self.columns.start) / lanes * panel),
                        panel,
                        c,
                        stride: self.stride,
                        from: if self.from.is_null() {
                            self.from
                        } else {
                            self.from.add(top * self.stride + left)
                        },
                        from_stride: self.stride,
                    };
                    let run = tiles.tiles[thirds - 1][vectors - 1];
                    if whole {
                        run(&tile);
                        continue;
                    }
                    (tile.c, tile.stride) = (buffer.as_mut_ptr(), 2 * lanes);
                    if !tile.from.is_null() {
                        copy(tile.from, self.stride, tile.c, tile.stride, rows, columns);
                        (tile.from, tile.from_stride) = (tile.c, tile.stride);
                    }
                    run(&tile);
                    copy(tile.c, tile.stride, c, self.stride, rows, columns);
                }
            }
        }
    }
}

unsafe fn copy(
    from: *const f32,
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
    rows: usize,
    columns: usize,
) {
    for row in 0..rows {
        // SAFETY: the caller's rows and columns are inside both.
        unsafe {
            to.add(row * to_stride)
                .copy_from_nonoverlapping(from.add(row * from_stride), columns);
        };
    }
}
