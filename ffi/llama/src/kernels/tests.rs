//! Every kernel against a naive oracle, over one table of cases.

use llama_cpp_sys_2 as sys;

use super::{Kernel, Side};
use crate::{Backend, Compute, Dtype, Graph, Plus, Storage, Tensor};

mod gradients;
mod products;
mod types;

/// Numbers that look random, in −1..1.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (f64::from(state >> 8) / f64::from(1 << 23) - 1.0) as f32
    };
    (0..count).map(|_| next()).collect()
}

/// A matrix by its size and strides: element (row, column).
struct Naive<'a> {
    values: &'a [f32],
    row: usize,
    column: usize,
}

fn naive(values: &[f32], row: usize, column: usize) -> Naive<'_> {
    Naive {
        values,
        row,
        column,
    }
}

/// c[i][j] = Σ a(i, p) b(p, j), and the sum of the terms' sizes, which bounds the error of any
/// order.
fn oracle(a: &Naive, b: &Naive, rows: usize, columns: usize, depth: usize) -> (Vec<f64>, Vec<f64>) {
    sums_of(rows, columns, depth, |i, j, p| {
        let term = f64::from(a.values[i * a.row + p * a.column])
            * f64::from(b.values[p * b.row + j * b.column]);
        (term, term.abs())
    })
}

fn sums_of(
    rows: usize,
    columns: usize,
    depth: usize,
    term: impl Fn(usize, usize, usize) -> (f64, f64),
) -> (Vec<f64>, Vec<f64>) {
    let add = |sum: (f64, f64), term: (f64, f64)| (sum.0 + term.0, sum.1 + term.1);
    (0..rows * columns)
        .map(|at| {
            (0..depth)
                .map(|p| term(at / columns, at % columns, p))
                .fold((0.0, 0.0), add)
        })
        .unzip()
}

/// The same for operands that a kernel rounds to integers: with the bounds that its errors keep as
/// `check` takes them.
fn oracle_of(
    kernel: Kernel,
    a: &Naive,
    b: &Naive,
    [rows, columns, depth]: [usize; 3],
) -> (Vec<f64>, Vec<f64>) {
    let Some(super::Rounding { block, most }) = kernel.rounding() else {
        return oracle(a, b, rows, columns, depth);
    };
    let most = f64::from(most);
    let at = |from: &Naive, p: usize, i: usize| {
        f64::from(from.values[p * from.column + i * from.row]).abs()
    };
    // Half a step of each element's block.
    let halves = |from: &Naive, count: usize| {
        let mut halves = vec![0.0; count * depth];
        for (i, line) in halves.chunks_mut(depth).enumerate() {
            for (number, part) in line.chunks_mut(block).enumerate() {
                let places = number * block..number * block + part.len();
                part.fill(places.map(|p| at(from, p, i)).fold(0.0, f64::max) / (2.0 * most));
            }
        }
        halves
    };
    let transposed = naive(b.values, b.column, b.row);
    let (halves_a, halves_b) = (halves(a, rows), halves(&transposed, columns));
    sums_of(rows, columns, depth, |i, j, p| {
        let (left, right) = (at(a, p, i), at(&transposed, p, j));
        let term = f64::from(a.values[i * a.row + p * a.column])
            * f64::from(b.values[p * b.row + j * b.column]);
        let error =
            (left + halves_a[i * depth + p]) * (right + halves_b[j * depth + p]) - left * right;
        (term, term.abs() + error / SHARE)
    })
}

/// Of the terms' sizes.
const SHARE: f64 = 1e-5;

fn check(what: &str, kernel: Kernel, ours: &[f32], (sums, sizes): &(Vec<f64>, Vec<f64>)) {
    assert_eq!(ours.len(), sums.len());
    for (at, ((ours, sum), size)) in ours.iter().zip(sums).zip(sizes).enumerate() {
        let error = (f64::from(*ours) - sum).abs();
        assert!(
            error <= SHARE * size,
            "{what}, {kernel:?}, element {at}: {ours} where {sum} is right"
        );
    }
}

/// Build a graph over inputs and run it on one thread and on three; both must give the same bytes.
fn run(
    inputs: &[(Vec<f32>, [i64; 4])],
    weight: Option<(Dtype, [i64; 2], &[u8])>,
    build: impl Fn(&mut Graph, &[Tensor]) -> Tensor,
) -> Vec<f32> {
    let first = run_on(1, inputs, weight, &build);
    let more = run_on(3, inputs, weight, &build);
    assert!(
        more.iter()
            .zip(&first)
            .all(|(a, b)| a.to_bits() == b.to_bits())
    );
    first
}

fn run_on(
    threads: u32,
    inputs: &[(Vec<f32>, [i64; 4])],
    weight: Option<(Dtype, [i64; 2], &[u8])>,
    build: impl Fn(&mut Graph, &[Tensor]) -> Tensor,
) -> Vec<f32> {
    let mut compute = Compute::cpu(Backend::init().unwrap(), threads).unwrap();
    let mut graph = Graph::new(64).unwrap();
    let mut tensors = Vec::new();
    if let Some((dtype, shape, bytes)) = weight {
        let storage = Storage::new(&compute, &[(dtype, shape, "w".into())]).unwrap();
        compute.write_stored(&storage, 0, bytes).unwrap();
        tensors.push(graph.stored(&storage, 0).unwrap());
    }
    let leaves: Vec<Tensor> = inputs
        .iter()
        .map(|(_, shape)| graph.input(Dtype::F32, shape, "x").unwrap())
        .collect();
    tensors.extend(&leaves);
    let result = build(&mut graph, &tensors);
    graph.output(result).unwrap();
    compute.bind(&mut graph).unwrap();
    for (leaf, (values, _)) in leaves.iter().zip(inputs) {
        // An input that a case does not read has no memory.
        _ = compute.set_f32(&graph, *leaf, values);
    }
    compute.run(&graph).unwrap();
    compute.get_f32(&graph, result).unwrap()
}

/// A matrix as an input: its numbers, and its shape.
fn sized(values: &[f32], a: usize, b: usize) -> (Vec<f32>, [i64; 4]) {
    (values.to_vec(), [a as i64, b as i64, 1, 1])
}

/// (k, m, n): one element, odd sizes, whole tiles and blocks, more than one block of everything.
const SIZES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (3, 5, 7),
    (32, 32, 12),
    (33, 17, 13),
    (64, 48, 24),
    (257, 31, 11),
    (513, 70, 26),
    (96, 300, 50),
    (1024, 290, 130),
];

/// Rows in a type of ggml's.
fn quantized(dtype: Dtype, values: &[f32], width: usize) -> Vec<u8> {
    let mut bytes = vec![0_u8; dtype.row_bytes(values.len())];
    let importance = vec![1.0; width];
    // SAFETY: whole rows of `width`, which every block length divides; `bytes` is as long as they
    // get.
    let written = unsafe {
        let rows = values.len() / width;
        sys::ggml_quantize_chunk(
            dtype.0,
            values.as_ptr(),
            bytes.as_mut_ptr().cast(),
            0,
            rows as i64,
            width as i64,
            importance.as_ptr(),
        )
    };
    assert_eq!(written, bytes.len());
    bytes
}
