//! Gradients of what works row by row or element by element, in one pass over memory each.

use std::ffi::c_void;

use llama_cpp_sys_2 as sys;

use super::product::Call;

/// Numbers that are summed side by side, so that the compiler can use vectors.
const WIDE: usize = 16;

/// Numbers that a thread takes at a time, about.
const PART: usize = 1 << 14;

/// A part of a contiguous F32 tensor: its first number and how many there are, in whole rows.
#[derive(Clone, Copy)]
struct Part {
    first: usize,
    length: usize,
    width: usize,
}

/// Hand out the rows of tensors of one shape.
///
/// # Safety
/// `tensor` is live, and `call` what its operation was made with.
unsafe fn by_rows(
    tensor: *const sys::ggml_tensor,
    call: *const c_void,
    threads: i32,
    mut work: impl FnMut(&Call, Part),
) {
    // SAFETY: as promised.
    let (call, [width, n, p, q]) = unsafe {
        (
            &*call.cast::<Call>(),
            (*tensor).ne.map(|size| size as usize),
        )
    };
    let (rows, size) = (n * p * q, PART.div_ceil(width));
    call.units.each(rows.div_ceil(size), threads, |unit| {
        let first = unit * size;
        let length = size.min(rows - first) * width;
        work(
            call,
            Part {
                first: first * width,
                length,
                width,
            },
        );
    });
}

/// A part of an operand.
///
/// # Safety
/// `tensor` is placed, contiguous, F32 and holds the part; nobody writes it meanwhile.
unsafe fn read<'a>(tensor: *const sys::ggml_tensor, part: Part) -> &'a [f32] {
    // SAFETY: as promised.
    unsafe { std::slice::from_raw_parts((*tensor).data.cast::<f32>().add(part.first), part.length) }
}

/// A part of the result, `behind` numbers further on.
///
/// # Safety
/// As `read`, and nobody else reads or writes the part meanwhile.
unsafe fn written<'a>(tensor: *const sys::ggml_tensor, behind: usize, part: Part) -> &'a mut [f32] {
    // SAFETY: as promised.
    unsafe {
        std::slice::from_raw_parts_mut(
            (*tensor).data.cast::<f32>().add(behind + part.first),
            part.length,
        )
    }
}

/// Σ f(a, b) over two rows, in an order that the number of threads does not change.
fn sum(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0_f32; WIDE];
    let (wide_a, rest_a) = a.as_chunks::<WIDE>();
    let (wide_b, rest_b) = b.as_chunks::<WIDE>();
    for (a, b) in wide_a.iter().zip(wide_b) {
        for i in 0..WIDE {
            sums[i] += f(a[i], b[i]);
        }
    }
    sums.iter().sum::<f32>()
        + rest_a
            .iter()
            .zip(rest_b)
            .map(|(a, b)| f(*a, *b))
            .sum::<f32>()
}

/// dx = s y ⊙ (dy − Σ y ⊙ dy), for y = softmax(s x + …)
///
/// # Safety
/// As `ggml_custom_op_t`: made by `Graph::soft_max_back`, with y, dy and the result of one shape,
/// contiguous.
pub(crate) unsafe extern "C" fn soft_max_back(
    target: *mut sys::ggml_tensor,
    _: i32,
    threads: i32,
    call: *mut c_void,
) {
    // SAFETY: as promised.
    unsafe {
        let [y, dy, ..] = (*target).src;
        by_rows(target, call, threads, |call, part| {
            let dx = written(target, 0, part);
            dx.copy_from_slice(read(dy, part));
            for (dx, y) in dx
                .chunks_exact_mut(part.width)
                .zip(read(y, part).chunks_exact(part.width))
            {
                soft_max_row_back(dx, y, call.scale);
            }
        });
    }
}

/// Turn dy into dx, for one row.
pub(super) fn soft_max_row_back(dy: &mut [f32], y: &[f32], scale: f32) {
    let mean = sum(y, dy, |y, dy| y * dy);
    for (dy, y) in dy.iter_mut().zip(y) {
        *dy = scale * y * (*dy - mean);
    }
}

/// dx = r (dy − y mean(y ⊙ dy)) + base, for y = r x and r = 1 / √(mean x² + ε); base may be absent
///
/// # Safety
/// As `ggml_custom_op_t`: made by `Graph::rms_norm_back`, with x, dy, base and the result of one
/// shape, contiguous.
pub(crate) unsafe extern "C" fn rms_norm_back(
    target: *mut sys::ggml_tensor,
    _: i32,
    threads: i32,
    call: *mut c_void,
) {
    // SAFETY: as promised.
    unsafe {
        let [x, dy, base, ..] = (*target).src;
        by_rows(target, call, threads, |call, part| {
            let dx = written(target, 0, part);
            let rows = read(x, part)
                .chunks_exact(part.width)
                .zip(read(dy, part).chunks_exact(part.width));
            for (dx, (x, dy)) in dx.chunks_exact_mut(part.width).zip(rows) {
                let inverse = 1.0 / part.width as f32;
                let r = 1.0 / (sum(x, x, |a, b| a * b) * inverse + call.scale).sqrt();
                let along = sum(x, dy, |x, dy| x * dy) * inverse * r * r;
                for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                    *dx = r * (dy - x * along);
                }
            }
            if call.base {
                dx.iter_mut()
                    .zip(read(base, part))
                    .for_each(|(dx, base)| *dx += base);
            }
        });
    }
}

/// e^x to about two units in the last place, without branches; 0 and ∞ where f32 has no other
/// number.
///
/// source: Cephes `expf` (argument reduction by ln 2 in two parts, degree-6 polynomial)
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// A sum with this has no room for bits below one.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let n = x * std::f32::consts::LOG2_E + ROUND;
    let bits = n.to_bits();
    let n = n - ROUND;
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let p = ((((1.987_569_1e-4 * r + 1.398_199_9e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r
        + 0.166_666_66)
        * r
        + 0.5;
    let y = p * r * r + r + 1.0;
    // After the sum, n stands in the low bits of the mantissa.
    y * f32::from_bits((bits << 23).wrapping_add(127 << 23))
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// dg = dy ⊙ u ⊙ silu′(g) and, behind it, du = dy ⊙ silu(g), for y = silu(g) ⊙ u; silu′(g) = σ(g)
/// (1 + g (1 − σ(g)))
///
/// # Safety
/// As `ggml_custom_op_t`: made by `Graph::swiglu_back`, with g, u and dy of one shape, contiguous,
/// and a result as large as two.
pub(crate) unsafe extern "C" fn swiglu_back(
    target: *mut sys::ggml_tensor,
    _: i32,
    threads: i32,
    call: *mut c_void,
) {
    // SAFETY: as promised: each half of the result is laid out as an operand, and the threads'
    // parts do not overlap.
    unsafe {
        let [gate, up, dy, ..] = (*target).src;
        let half = (*gate).ne.iter().product::<i64>() as usize;
        by_rows(gate, call, threads, |_, part| {
            let (dg, du) = (written(target, 0, part), written(target, half, part));
            let operands = read(gate, part)
                .iter()
                .zip(read(up, part))
                .zip(read(dy, part));
            for ((dg, du), ((g, u), dy)) in dg.iter_mut().zip(du).zip(operands) {
                let s = sigmoid(*g);
                *dg = *dy * *u * s * (1.0 + *g * (1.0 - s));
                *du = *dy * *g * s;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_exponential_is_right_to_seven_digits() {
        for i in -8_700..8_700 {
            let x = i as f32 / 100.0;
            let (ours, right) = (f64::from(super::exp(x)), f64::from(x).exp());
            assert!(
                (ours - right).abs() <= 4e-7 * right,
                "{x}: {ours} where {right} is right"
            );
        }
        assert_eq!(super::sigmoid(200.0), 1.0);
        assert!(super::sigmoid(-200.0) < 1e-37);
    }
}
