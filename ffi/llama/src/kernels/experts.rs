//! Gradients of products with chosen matrices: the rows of one expert are brought together and
//! multiplied as any others.

use std::ffi::c_void;
use std::slice::{from_raw_parts, from_raw_parts_mut};

use llama_cpp_sys_2 as sys;

use super::pack::Matrix;
use super::product::{Call, Operands, SCRATCH};

/// What each expert was chosen for: places in `[chosen, tokens]`.
struct Choices<'a>(&'a [i32]);

impl<'a> Choices<'a> {
    /// # Safety
    /// `ids` is a placed, contiguous I32 tensor.
    unsafe fn of(ids: *const sys::ggml_tensor) -> Self {
        // SAFETY: as promised.
        Self(unsafe {
            from_raw_parts(
                (*ids).data.cast::<i32>(),
                (*ids).ne.iter().product::<i64>() as usize,
            )
        })
    }

    fn places(&self, expert: usize) -> Vec<usize> {
        (0..self.0.len())
            .filter(|place| self.0[*place] == expert as i32)
            .collect()
    }
}

/// Rows of a contiguous F32 tensor, one behind the other.
///
/// # Safety
/// `tensor` is placed and holds these rows of `width` numbers.
unsafe fn gathered(
    tensor: *const sys::ggml_tensor,
    width: usize,
    rows: impl Iterator<Item = usize>,
) -> Vec<f32> {
    let mut all = Vec::new();
    for row in rows {
        // SAFETY: as promised.
        all.extend_from_slice(unsafe {
            from_raw_parts((*tensor).data.cast::<f32>().add(row * width), width)
        });
    }
    all
}

/// db = a dy, for y = aᵀ b with an `a` chosen for each row of y
///
/// shapes: a [k, m, experts], dy [m, chosen, t], ids [chosen, t] → [k, chosen, t]
///
/// # Safety
/// As `ggml_custom_op_t`: `target` was made by `Graph::experts_back` and is placed, `call` is what
/// it was made with.
pub(crate) unsafe extern "C" fn experts_back(
    target: *mut sys::ggml_tensor,
    _: i32,
    threads: i32,
    call: *mut c_void,
) {
    // SAFETY: the graph checked shapes and types; each row of the target belongs to one expert,
    // which is one thread's.
    unsafe {
        let call = &*call.cast_const().cast::<Call>();
        let [weights, dy, ids, ..] = (*target).src;
        let [k, m, experts, _] = (*weights).ne.map(|size| size as usize);
        let choices = Choices::of(ids);
        SCRATCH.with_borrow_mut(|scratch| {
            call.units.each(experts, threads, |expert| {
                let places = choices.places(expert);
                if places.is_empty() {
                    return;
                }
                let dy = gathered(dy, m, places.iter().copied());
                let mut result = vec![0.0_f32; places.len() * k];
                let mut b = Matrix::of(weights, false);
                b.data = b.data.add(expert * (*weights).nb[2]);
                let product = Operands {
                    a: Matrix::floats_of(&dy, m, true),
                    b,
                    c: result.as_mut_ptr(),
                    width: k,
                    depth: m,
                };
                product.multiply(call.tiles, 0..k, &(0..places.len()), scratch);
                for (place, row) in places.iter().zip(result.chunks_exact(k)) {
                    from_raw_parts_mut((*target).data.cast::<f32>().add(place * k), k)
                        .copy_from_slice(row);
                }
            });
        });
    }
}

/// da = b dyᵀ for each `a`, over the rows that chose it
///
/// shapes: b [k, chosen or 1, t], dy [m, chosen, t], ids [chosen, t] → [k, m, experts]
///
/// # Safety
/// As `ggml_custom_op_t`: `target` was made by `Graph::experts_weights` and is placed, `call` is
/// what it was made with.
pub(crate) unsafe extern "C" fn experts_weights(
    target: *mut sys::ggml_tensor,
    _: i32,
    threads: i32,
    call: *mut c_void,
) {
    // SAFETY: the graph checked shapes and types; each matrix of the target is one thread's.
    unsafe {
        let call = &*call.cast_const().cast::<Call>();
        let [b, dy, ids, ..] = (*target).src;
        let ([k, rows, ..], [m, chosen, ..]) = (
            (*b).ne.map(|size| size as usize),
            (*dy).ne.map(|size| size as usize),
        );
        let choices = Choices::of(ids);
        SCRATCH.with_borrow_mut(|scratch| {
            call.units
                .each((*target).ne[2] as usize, threads, |expert| {
                    let c = (*target).data.cast::<f32>().add(expert * k * m);
                    let places = choices.places(expert);
                    if places.is_empty() {
                        return from_raw_parts_mut(c, k * m).fill(0.0);
                    }
                    let dy = gathered(dy, m, places.iter().copied());
                    let b = gathered(
                        b,
                        k,
                        places
                            .iter()
                            .map(|place| if rows == 1 { place / chosen } else { *place }),
                    );
                    let depth = places.len();
                    let product = Operands {
                        a: Matrix::floats_of(&dy, m, false),
                        b: Matrix::floats_of(&b, k, false),
                        c,
                        width: k,
                        depth,
                    };
                    product.multiply(call.tiles, 0..k, &(0..m), scratch);
                });
        });
    }
}
