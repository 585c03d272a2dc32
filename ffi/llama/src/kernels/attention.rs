//! Attention's probabilities and their gradient: scores never leave the cache, and what a mask
//! hides is not computed.

use std::ffi::c_void;
use std::ops::Range;

use llama_cpp_sys_2 as sys;

use super::product::{Call, Operands, SCRATCH, Scratch};
use super::rows::{exp, soft_max_row_back};

/// Queries that one thread takes at a time. units: panels of rows.
const PANELS: usize = 5;

/// softmax(s kᵀ q + mask)
///
/// shapes: k [d, keys, g], q [d, queries, h], mask [keys, queries] → [keys, queries, h], h a
/// multiple of g
///
/// # Safety
/// As `ggml_custom_op_t`: `target` was made by `Graph::attention` and is placed, `call` is what it
/// was made with.
pub(crate) unsafe extern "C" fn attention(
    target: *mut sys::ggml_tensor,
    _: i32,
    threads: i32,
    call: *mut c_void,
) {
    // SAFETY: the graph checked shapes and types; each row of the target is one thread's.
    unsafe {
        let call = &*call.cast_const().cast::<Call>();
        let mask = (*target).src[2];
        by_bands(target, call, threads, |matrix, queries, scratch| {
            let [keys, rows, ..] = (*target).ne.map(|size| size as usize);
            let masks = |query: usize| {
                std::slice::from_raw_parts(
                    (*mask)
                        .data
                        .cast::<u8>()
                        .add(query * (*mask).nb[1])
                        .cast::<f32>(),
                    keys,
                )
            };
            let seen = queries
                .clone()
                .map(|query| last(masks(query), |value| *value > f32::NEG_INFINITY))
                .max()
                .unwrap_or(0);
            Operands::of(target, matrix).multiply(call.tiles, 0..seen, &queries, scratch);
            for query in queries {
                let row = (*target)
                    .data
                    .cast::<f32>()
                    .add((matrix * rows + query) * keys);
                let row = std::slice::from_raw_parts_mut(row, keys);
                row[seen..].fill(0.0);
                soft_max_row(&mut row[..seen], &masks(query)[..seen], call.scale);
            }
        });
    }
}

/// The gradient for the scores: s p ⊙ (dp − Σ p ⊙ dp) with dp = v dy
///
/// shapes: vᵀ [d, keys, g], dy [d, queries, h], p [keys, queries, h] → [keys, queries, h]
///
/// # Safety
/// As `ggml_custom_op_t`: `target` was made by `Graph::attention_back` and is placed, `call` is
/// what it was made with.
pub(crate) unsafe extern "C" fn attention_back(
    target: *mut sys::ggml_tensor,
    _: i32,
    threads: i32,
    call: *mut c_void,
) {
    // SAFETY: the graph checked shapes and types; each row of the target is one thread's.
    unsafe {
        let call = &*call.cast_const().cast::<Call>();
        let probabilities = (*target).src[2];
        by_bands(target, call, threads, |matrix, queries, scratch| {
            let [keys, rows, ..] = (*target).ne.map(|size| size as usize);
            let at = |query: usize| (matrix * rows + query) * keys;
            let p = |query: usize| {
                std::slice::from_raw_parts((*probabilities).data.cast::<f32>().add(at(query)), keys)
            };
            let seen = queries
                .clone()
                .map(|query| last(p(query), |value| *value != 0.0))
                .max()
                .unwrap_or(0);
            Operands::of(target, matrix).multiply(call.tiles, 0..seen, &queries, scratch);
            for query in queries {
                let row = std::slice::from_raw_parts_mut(
                    (*target).data.cast::<f32>().add(at(query)),
                    keys,
                );
                row[seen..].fill(0.0);
                soft_max_row_back(&mut row[..seen], &p(query)[..seen], call.scale);
            }
        });
    }
}

/// Hand out each matrix and band of rows of the target.
///
/// # Safety
/// `target` is a live tensor, and `call` what its operation was made with.
unsafe fn by_bands(
    target: *const sys::ggml_tensor,
    call: &Call,
    threads: i32,
    mut work: impl FnMut(usize, Range<usize>, &mut Scratch),
) {
    // SAFETY: reads a live tensor.
    let [_, rows, p, q] = unsafe { (*target).ne }.map(|size| size as usize);
    let band = PANELS * call.tiles.rows;
    let bands = rows.div_ceil(band);
    SCRATCH.with_borrow_mut(|scratch| {
        call.units.each(p * q * bands, threads, |unit| {
            let first = unit % bands * band;
            work(unit / bands, first..(first + band).min(rows), scratch);
        });
    });
}

/// How many elements there are up to the last one that counts, in whole sixteens.
fn last(row: &[f32], counts: impl Fn(&f32) -> bool) -> usize {
    let any = |chunk: &[f32]| chunk.iter().fold(false, |any, value| any | counts(value));
    let found = row
        .chunks(16)
        .rposition(any)
        .map_or(0, |last| 16 * (last + 1));
    found.min(row.len())
}

fn soft_max_row(row: &mut [f32], mask: &[f32], scale: f32) {
    let mut most = [f32::NEG_INFINITY; 16];
    for (value, mask) in row.iter_mut().zip(mask) {
        *value = *value * scale + mask;
    }
    let (wide, rest) = row.as_chunks::<16>();
    for chunk in wide {
        for i in 0..16 {
            most[i] = if chunk[i] > most[i] {
                chunk[i]
            } else {
                most[i]
            };
        }
    }
    let most = most
        .into_iter()
        .chain(rest.iter().copied())
        .fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0_f32; 16];
    let (wide, rest) = row.as_chunks_mut::<16>();
    for chunk in wide {
        for i in 0..16 {
            chunk[i] = masked_exp(chunk[i] - most);
            sums[i] += chunk[i];
        }
    }
    let mut sum = sums.iter().sum::<f32>();
    for value in rest {
        *value = masked_exp(*value - most);
        sum += *value;
    }
    let inverse = 1.0 / sum;
    row.iter_mut().for_each(|value| *value *= inverse);
}

/// e^x, and nothing at all for what a mask hides.
#[inline(always)]
fn masked_exp(x: f32) -> f32 {
    let e = exp(x);
    if x < -87.0 { 0.0 } else { e }
}
