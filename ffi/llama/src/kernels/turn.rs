//! The transpose of a tensor, in tiles.

use std::ffi::c_void;

use llama_cpp_sys_2 as sys;

const TILE: usize = 16;

/// Write the transpose of the first operand's inner two dimensions.
///
/// shapes: F32 [n, m, p, q] with dense rows → contiguous [m, n, p, q]
///
/// # Safety
/// `target` must be a placed tensor made by `Graph::transposed`; ggml gives each of `threads`
/// threads its own `thread`.
pub(crate) unsafe extern "C" fn turn(
    target: *mut sys::ggml_tensor,
    thread: i32,
    threads: i32,
    _: *mut c_void,
) {
    // SAFETY: the caller promises a placed tensor with one placed operand of the shapes above, so
    // every offset below is inside its memory; threads write disjoint bands of columns.
    unsafe {
        let source = (*target).src[0];
        let [n, m, p, q] = (*source).ne.map(|size| size as usize);
        let [_, row, plane, cube] = (*source).nb;
        let from = (*source).data.cast::<u8>();
        let to = (*target).data.cast::<f32>();
        let (thread, threads) = (thread as usize, threads as usize);
        let bands = n.div_ceil(TILE);
        for outer in 0..p * q {
            let from = from.add(outer % p * plane + outer / p * cube);
            let to = to.add(outer * n * m);
            for band in (bands * thread / threads)..(bands * (thread + 1) / threads) {
                let (left, right) = (band * TILE, ((band + 1) * TILE).min(n));
                for top in (0..m).step_by(TILE) {
                    if right - left == TILE && top + TILE <= m {
                        tile(
                            from.add(top * row + left * 4),
                            row,
                            to.add(left * m + top),
                            m,
                        );
                    } else {
                        for y in top..(top + TILE).min(m) {
                            let from = from.add(y * row).cast::<f32>();
                            (left..right).for_each(|x| *to.add(x * m + y) = *from.add(x));
                        }
                    }
                }
            }
        }
    }
}

/// One full tile, through an array that the compiler keeps in vector registers.
///
/// # Safety
/// `from` must hold TILE rows of TILE floats, `row` bytes apart; `to` TILE rows of TILE floats,
/// `stride` floats apart.
#[inline]
unsafe fn tile(from: *const u8, row: usize, to: *mut f32, stride: usize) {
    // SAFETY: as promised.
    unsafe {
        let mut block = [[0_f32; TILE]; TILE];
        for (y, line) in block.iter_mut().enumerate() {
            *line = from.add(y * row).cast::<[f32; TILE]>().read_unaligned();
        }
        #[expect(
            clippy::needless_range_loop,
            reason = "x walks over columns, which no iterator of rows gives"
        )]
        for x in 0..TILE {
            let column: [f32; TILE] = std::array::from_fn(|y| block[y][x]);
            to.add(x * stride)
                .cast::<[f32; TILE]>()
                .write_unaligned(column);
        }
    }
}
