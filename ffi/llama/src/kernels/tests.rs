//! Every kernel against a naive oracle, over one table of cases.

use llama_cpp_sys_2 as sys;

use super::{Kernel, Side};
use crate::{Backend, Compute, Dtype, Graph, Plus, Storage, Tensor};

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
    let turned = Naive {
        values: b.values,
        row: b.column,
        column: b.row,
    };
    let (halves_a, halves_b) = (halves(a, rows), halves(&turned, columns));
    sums_of(rows, columns, depth, |i, j, p| {
        let (left, right) = (at(a, p, i), at(&turned, p, j));
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

#[test]
fn products_of_weights_match_the_oracle() {
    for kernel in Kernel::all() {
        for (k, m, n) in SIZES {
            let (w, x, y) = (numbers(k * m, 1), numbers(k * n, 2), numbers(m * n, 3));
            let bytes: Vec<u8> = w.iter().flat_map(|value| value.to_ne_bytes()).collect();
            let weight = Some((Dtype::F32, [k as i64, m as i64], &bytes[..]));
            let ours = run(
                &[(x.clone(), [k as i64, n as i64, 1, 1])],
                weight,
                |graph, t| graph.times(kernel, t[0], t[1], Plus::NONE).unwrap(),
            );
            let (left, right) = (
                Naive {
                    values: &x,
                    row: k,
                    column: 1,
                },
                Naive {
                    values: &w,
                    row: 1,
                    column: k,
                },
            );
            check(
                &format!("times {k} {m} {n}"),
                kernel,
                &ours,
                &oracle_of(
                    kernel.for_weight(false, Side::Rows),
                    &left,
                    &right,
                    [n, m, k],
                ),
            );
            let ours = run(
                &[(y.clone(), [m as i64, n as i64, 1, 1])],
                weight,
                |graph, t| graph.times_turned(kernel, t[0], t[1], Plus::NONE).unwrap(),
            );
            let (left, right) = (
                Naive {
                    values: &y,
                    row: m,
                    column: 1,
                },
                Naive {
                    values: &w,
                    row: k,
                    column: 1,
                },
            );
            check(
                &format!("turned {k} {m} {n}"),
                kernel,
                &ours,
                &oracle_of(
                    kernel.for_weight(false, Side::Columns),
                    &left,
                    &right,
                    [n, k, m],
                ),
            );
        }
    }
}

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

/// Every type that a model file may hold its matrices in.
fn types() -> Vec<Dtype> {
    let not_in_files = [sys::GGML_TYPE_Q8_1, sys::GGML_TYPE_Q8_K];
    // SAFETY: a table look-up for each number below the table's length.
    let converts =
        |kind: sys::ggml_type| unsafe { (*sys::ggml_get_type_traits(kind)).to_float.is_some() };
    (1..sys::GGML_TYPE_COUNT)
        .filter(|kind| converts(*kind) && !not_in_files.contains(kind))
        .map(Dtype)
        .collect()
}

#[test]
fn every_type_is_read_where_it_lies() {
    let types = types();
    assert!(types.len() > 20, "{types:?}");
    for dtype in types {
        reads_where_it_lies(dtype, 512, 43, 13);
        // Rows that are no whole chunks of what is read at a time, as far as the type's blocks let
        // them.
        if dtype.block() == 1 {
            reads_where_it_lies(dtype, 43, 70, 13);
        }
    }
}

fn reads_where_it_lies(dtype: Dtype, k: usize, m: usize, n: usize) {
    let w = numbers(k * m, 5);
    let bytes = quantized(dtype, &w, k);
    let mut exact = vec![0.0; k * m];
    dtype.to_f32(&bytes, &mut exact).unwrap();
    let (x, y) = (numbers(k * n, 6), numbers(m * n, 7));
    for kernel in Kernel::all() {
        let weight = Some((dtype, [k as i64, m as i64], &bytes[..]));
        let ours = run(
            &[(x.clone(), [k as i64, n as i64, 1, 1])],
            weight,
            |graph, t| graph.times(kernel, t[0], t[1], Plus::NONE).unwrap(),
        );
        let left = Naive {
            values: &x,
            row: k,
            column: 1,
        };
        check(
            &dtype.name(),
            kernel,
            &ours,
            &oracle_of(
                kernel.for_weight(dtype.is_quantized(), Side::Rows),
                &left,
                &Naive {
                    values: &exact,
                    row: 1,
                    column: k,
                },
                [n, m, k],
            ),
        );
        let ours = run_on(
            2,
            &[(y.clone(), [m as i64, n as i64, 1, 1])],
            weight,
            |graph, t| graph.times_turned(kernel, t[0], t[1], Plus::NONE).unwrap(),
        );
        let left = Naive {
            values: &y,
            row: m,
            column: 1,
        };
        check(
            &dtype.name(),
            kernel,
            &ours,
            &oracle_of(
                kernel.for_weight(dtype.is_quantized(), Side::Columns),
                &left,
                &Naive {
                    values: &exact,
                    row: k,
                    column: 1,
                },
                [n, k, m],
            ),
        );
    }
}

/// llama.cpp's products that become ours match the oracle, twice over, whatever the number of
/// threads; others stay as they are.
#[test]
fn products_of_llama_cpp_are_taken() {
    let taken = |kernel, dtype: Dtype, (k, m, n): (usize, usize, usize), threads: u32| {
        let (w, x) = (numbers(k * m, 8), numbers(k * n, 9));
        let bytes = quantized(dtype, &w, k);
        let mut compute = Compute::cpu(Backend::init().unwrap(), threads).unwrap();
        let mut graph = Graph::new(8).unwrap();
        let storage = Storage::new(&compute, &[(dtype, [k as i64, m as i64], "w".into())]).unwrap();
        compute.write_stored(&storage, 0, &bytes).unwrap();
        let (w, leaf) = (
            graph.stored(&storage, 0).unwrap(),
            graph
                .input(Dtype::F32, &[k as i64, n as i64, 1, 1], "x")
                .unwrap(),
        );
        let result = graph.mul_mat(w, leaf).unwrap();
        graph.output(result).unwrap();
        compute.bind(&mut graph).unwrap();
        compute.set_f32(&graph, leaf, &x).unwrap();
        let mut instead = super::Instead::new(kernel).unwrap();
        // SAFETY: a placed node of a graph that runs below, while `instead` lives.
        let taken = unsafe { instead.take(graph.raw(result).unwrap()) };
        let runs = [(); 2].map(|()| {
            compute.run(&graph).unwrap();
            compute.get_f32(&graph, result).unwrap()
        });
        assert_eq!(runs[0], runs[1]);
        let mut exact = vec![0.0; k * m];
        dtype.to_f32(&bytes, &mut exact).unwrap();
        let left = Naive {
            values: &x,
            row: k,
            column: 1,
        };
        (
            taken,
            runs[0].clone(),
            oracle_of(
                kernel.for_weight(dtype.is_quantized(), Side::Rows),
                &left,
                &Naive {
                    values: &exact,
                    row: 1,
                    column: k,
                },
                [n, m, k],
            ),
        )
    };
    for kernel in Kernel::all() {
        for dtype in [
            sys::GGML_TYPE_Q4_1,
            sys::GGML_TYPE_Q5_1,
            sys::GGML_TYPE_Q8_0,
        ]
        .map(Dtype)
        {
            for size in [(32, 5, 12), (64, 300, 31), (1056, 290, 130)] {
                let (is_ours, one, sums) = taken(kernel, dtype, size, 1);
                let (_, three, _) = taken(kernel, dtype, size, 3);
                let faster = dtype.0 != sys::GGML_TYPE_Q8_0 || kernel.rounding().is_some();
                assert_eq!(is_ours, faster && super::reader(dtype.0).is_some());
                assert_eq!(one, three);
                if is_ours {
                    check(&format!("{} {size:?}", dtype.name()), kernel, &one, &sums);
                }
            }
        }
    }
    let of = |kind, n| taken(Kernel::for_graphs(), Dtype(kind), (64, 40, n), 2).0;
    assert!(!of(sys::GGML_TYPE_Q4_1, 4), "few tokens");
    assert!(
        !of(sys::GGML_TYPE_F16, 31),
        "a type that ggml has tiles for"
    );
}

/// Gradients of products with chosen matrices: some experts are chosen often, one never.
#[test]
fn experts_match_the_oracle() {
    let (k, m, experts, chosen, tokens) = (70, 33, 5, 2, 40);
    let choice = |place: usize| (place * 7 + place / 3) % (experts - 1);
    let ids: Vec<i32> = (0..chosen * tokens)
        .map(|place| choice(place) as i32)
        .collect();
    let places = |expert: usize| {
        (0..chosen * tokens)
            .filter(move |place| choice(*place) == expert)
            .collect::<Vec<usize>>()
    };
    let (w, dy) = (numbers(k * m * experts, 1), numbers(m * chosen * tokens, 2));
    let compute = |kernel: Kernel, threads: u32, x: &[f32], rows: usize, of_weights: bool| {
        let mut compute = Compute::cpu(Backend::init().unwrap(), threads).unwrap();
        let mut graph = Graph::new(64).unwrap();
        let [k, m, e, c, t] = [k, m, experts, chosen, tokens].map(|size| size as i64);
        let input = |graph: &mut Graph, shape: &[i64]| graph.input(Dtype::F32, shape, "x").unwrap();
        let (weights, gradient, x_in) = (
            input(&mut graph, &[k, m, e]),
            input(&mut graph, &[m, c, t]),
            input(&mut graph, &[k, rows as i64, t]),
        );
        let chose = graph.input(Dtype::I32, &[c, t], "ids").unwrap();
        let result = if of_weights {
            graph
                .experts_weights(kernel, x_in, gradient, chose, e)
                .unwrap()
        } else {
            graph
                .experts_back(kernel, weights, gradient, chose)
                .unwrap()
        };
        graph.output(result).unwrap();
        compute.bind(&mut graph).unwrap();
        for (tensor, values) in [(weights, &w[..]), (gradient, &dy[..]), (x_in, x)] {
            // A case reads two of them.
            _ = compute.set_f32(&graph, tensor, values);
        }
        compute.set_ids(&graph, chose, &ids, e).unwrap();
        compute.run(&graph).unwrap();
        compute.get_f32(&graph, result).unwrap()
    };
    let bits = |values: &[f32]| {
        values
            .iter()
            .map(|value| value.to_bits())
            .collect::<Vec<u32>>()
    };
    let gather = |from: &[f32], width: usize, rows: &[usize]| {
        rows.iter()
            .flat_map(|row| from[row * width..][..width].to_vec())
            .collect::<Vec<f32>>()
    };
    for kernel in Kernel::all() {
        let db = compute(kernel, 1, &[], 1, false);
        assert_eq!(bits(&db), bits(&compute(kernel, 3, &[], 1, false)));
        for rows in [1, chosen] {
            let x = numbers(k * rows * tokens, 3);
            let da = compute(kernel, 2, &x, rows, true);
            for expert in 0..experts {
                let places = places(expert);
                let dy = gather(&dy, m, &places);
                let from: Vec<usize> = places
                    .iter()
                    .map(|place| if rows == 1 { place / chosen } else { *place })
                    .collect();
                let x = gather(&x, k, &from);
                let right = oracle(
                    &Naive {
                        values: &dy,
                        row: 1,
                        column: m,
                    },
                    &Naive {
                        values: &x,
                        row: k,
                        column: 1,
                    },
                    m,
                    k,
                    places.len(),
                );
                check(
                    &format!("weights of expert {expert}"),
                    kernel,
                    &da[expert * k * m..][..k * m],
                    &right,
                );
                let w = &w[expert * k * m..][..k * m];
                let right = oracle(
                    &Naive {
                        values: &dy,
                        row: m,
                        column: 1,
                    },
                    &Naive {
                        values: w,
                        row: k,
                        column: 1,
                    },
                    places.len(),
                    k,
                    m,
                );
                check(
                    &format!("rows of expert {expert}"),
                    kernel,
                    &gather(&db, k, &places),
                    &right,
                );
            }
        }
    }
}

/// The plain conversions of `translora_gguf`, which the naive reference reads models with, give
/// ggml's numbers.
#[test]
fn plain_conversions_give_the_same_numbers() {
    let mut seen = 0;
    for kind in translora_gguf::TensorKind::ALL
        .iter()
        .filter(|kind| kind.is_dequantizable() && **kind != translora_gguf::TensorKind::F32)
    {
        let dtype = Dtype(kind.id());
        let bytes = quantized(dtype, &numbers(2048, 17), 2048);
        let (plain, mut theirs) = (
            translora_gguf::dequantize(*kind, &bytes).unwrap(),
            vec![0.0; 2048],
        );
        dtype.to_f32(&bytes, &mut theirs).unwrap();
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs().max(1e-3);
        assert!(
            plain.len() == 2048 && plain.iter().zip(&theirs).all(close),
            "{kind}"
        );
        seen += 1;
    }
    assert!(seen >= 15, "{seen}");
}

/// Where ggml's conversion is replaced, no bit may differ.
#[cfg(target_arch = "x86_64")]
#[test]
fn faster_conversions_give_the_same_bits() {
    let mut replaced = 0;
    for dtype in types() {
        let Some(read) = super::reader(dtype.0) else {
            continue;
        };
        let values = numbers(2048, 11);
        let bytes = quantized(dtype, &values, 2048);
        let (mut ours, mut theirs) = (vec![0.0; 2048], vec![0.0; 2048]);
        dtype.to_f32(&bytes, &mut theirs).unwrap();
        // SAFETY: whole blocks of the type, and as many floats; the processor was asked.
        unsafe { read(bytes.as_ptr(), 0..2048 / super::CHUNK, ours.as_mut_ptr()) };
        assert!(
            ours.iter()
                .zip(&theirs)
                .all(|(a, b)| a.to_bits() == b.to_bits()),
            "{}",
            dtype.name()
        );
        replaced += 1;
    }
    let can = Kernel::all()
        .iter()
        .any(|kernel| kernel.name().starts_with("AVX"));
    assert_eq!(replaced > 0, can);
}

/// What is no number and what is infinite is not hidden by rounding, on either side, and tiny
/// numbers come out as small as they are.
#[test]
fn rounding_hides_nothing() {
    let (k, m, n) = (64_usize, 48_usize, 13_usize);
    let bytes = quantized(Dtype::Q8_0, &numbers(k * m, 1), k);
    for kernel in Kernel::all() {
        for side in [false, true] {
            let inner = if side { m } else { k };
            for odd in [f32::NAN, f32::INFINITY, 1e-42] {
                let mut x = numbers(inner * n, 2);
                x[..inner].fill(odd.min(1e-42));
                x[5] = odd;
                let ours = run(
                    &[(x, [inner as i64, n as i64, 1, 1])],
                    Some((Dtype::Q8_0, [k as i64, m as i64], &bytes[..])),
                    |graph, t| {
                        let product = if side {
                            Graph::times_turned
                        } else {
                            Graph::times
                        };
                        product(graph, kernel, t[0], t[1], Plus::NONE).unwrap()
                    },
                );
                let (first, others) = ours.split_at(ours.len() / n);
                let right = |value: &f32| {
                    if odd == 1e-42 {
                        value.abs() < 1e-30
                    } else {
                        !value.is_finite()
                    }
                };
                assert!(first.iter().all(right), "{kernel:?} {odd}: {first:?}");
                assert!(
                    others
                        .iter()
                        .all(|value| value.is_finite() && *value != 0.0),
                    "{kernel:?} {odd}"
                );
            }
        }
    }
}

#[test]
fn strided_products_match_the_oracle() {
    for kernel in Kernel::all() {
        for (k, m, n) in SIZES {
            for (turn_a, turn_b) in [(false, false), (true, false), (false, true), (true, true)] {
                // Two heads share one matrix of `a`.
                let (heads, shared) = (4, 2);
                let (a, b) = (numbers(k * m * shared, 8), numbers(k * n * heads, 9));
                let shape = |turned: bool, lines: usize, count: usize| {
                    let (first, second) = if turned { (lines, k) } else { (k, lines) };
                    [first as i64, second as i64, count as i64, 1]
                };
                let inputs = [
                    (a.clone(), shape(turn_a, m, shared)),
                    (b.clone(), shape(turn_b, n, heads)),
                ];
                let ours = run(&inputs, None, |graph, t| {
                    let mut view = |t: Tensor, turned: bool| {
                        if turned {
                            graph.transpose(t).unwrap()
                        } else {
                            t
                        }
                    };
                    let (a, b) = (view(t[0], turn_a), view(t[1], turn_b));
                    graph.product(kernel, a, b).unwrap()
                });
                for head in 0..heads {
                    let (a, b) = (&a[head / 2 * k * m..][..k * m], &b[head * k * n..][..k * n]);
                    let (row, column) = if turn_b { (1, n) } else { (k, 1) };
                    let left = Naive {
                        values: b,
                        row,
                        column,
                    };
                    let (row, column) = if turn_a { (m, 1) } else { (1, k) };
                    let right = Naive {
                        values: a,
                        row,
                        column,
                    };
                    let what =
                        format!("product {k} {m} {n}, turned {turn_a} {turn_b}, head {head}");
                    check(
                        &what,
                        kernel,
                        &ours[head * m * n..][..m * n],
                        &oracle(&left, &right, n, m, k),
                    );
                }
            }
        }
    }
}

/// W [k, m] with an adapter [k, r] and [r, m], and a base, on both sides.
#[test]
fn what_is_added_on_the_way_matches_the_oracle() {
    for kernel in Kernel::all() {
        let plain = [
            (5, 3, 2, 1),
            (64, 48, 24, 16),
            (530, 70, 37, 33),
            (40, 300, 13, 600),
        ]
        .map(|sizes| (sizes, Dtype::F32));
        let quantized_ones = [(64, 48, 24, 16), (1088, 70, 37, 33), (96, 300, 13, 600)]
            .map(|sizes| (sizes, Dtype::Q8_0));
        for ((k, m, n, r), dtype) in plain.into_iter().chain(quantized_ones) {
            for with_base in [false, true] {
                for side in [false, true] {
                    let (inner, outer) = if side { (m, k) } else { (k, m) };
                    let way = if side { Side::Columns } else { Side::Rows };
                    let (mut w, x) = (numbers(k * m, 1), numbers(inner * n, 2));
                    let mut bytes: Vec<u8> =
                        w.iter().flat_map(|value| value.to_ne_bytes()).collect();
                    if dtype.is_quantized() {
                        bytes = quantized(dtype, &w, k);
                        dtype.to_f32(&bytes, &mut w).unwrap();
                    }
                    let (matrix, small, base) = (
                        numbers(outer * r, 3),
                        numbers(r * n, 4),
                        numbers(outer * n, 5),
                    );
                    let shape = if side { [k, r] } else { [r, m] };
                    let sized = |values: &[f32], a: usize, b: usize| {
                        (values.to_vec(), [a as i64, b as i64, 1, 1])
                    };
                    let inputs = [
                        sized(&x, inner, n),
                        sized(&matrix, shape[0], shape[1]),
                        sized(&small, r, n),
                        sized(&base, outer, n),
                    ];
                    let ours = run(
                        &inputs,
                        Some((dtype, [k as i64, m as i64], &bytes[..])),
                        |graph, t| {
                            let plus = Plus {
                                adapter: Some((t[2], t[3])),
                                base: with_base.then_some(t[4]),
                                scale: 0.5,
                            };
                            let product = if side {
                                Graph::times_turned
                            } else {
                                Graph::times
                            };
                            product(graph, kernel, t[0], t[1], plus).unwrap()
                        },
                    );
                    let naive = |values, row, column| Naive {
                        values,
                        row,
                        column,
                    };
                    let (main, low) = if side {
                        ((k, 1), (k, 1))
                    } else {
                        ((1, k), (1, r))
                    };
                    let (a, b) = (naive(&x, inner, 1), naive(&w, main.0, main.1));
                    let (mut sums, mut sizes) = oracle_of(
                        kernel.for_weight(dtype.is_quantized(), way),
                        &a,
                        &b,
                        [n, outer, inner],
                    );
                    let (more, sizes_more) = oracle(
                        &naive(&small, r, 1),
                        &naive(&matrix, low.0, low.1),
                        n,
                        outer,
                        r,
                    );
                    for i in 0..sums.len() {
                        let base = if with_base { f64::from(base[i]) } else { 0.0 };
                        sums[i] = 0.5 * (sums[i] + more[i] + base);
                        sizes[i] += sizes_more[i] + base.abs();
                    }
                    check(
                        &format!("plus {k} {m} {n} {r}, side {side}, base {with_base}"),
                        kernel,
                        &ours,
                        &(sums, sizes),
                    );
                }
            }
        }
    }
}

/// The row-wise gradients against the sums they stand for.
#[test]
fn gradients_by_rows_match_their_formulas() {
    for (width, rows) in [(1, 1), (7, 5), (64, 9), (100, 3)] {
        let shape = [width as i64, rows as i64, 1, 1];
        let [x, y, dy, base] = [1, 2, 3, 4].map(|seed| numbers(width * rows, seed));
        let inputs = [x.clone(), y.clone(), dy.clone(), base.clone()].map(|values| (values, shape));
        let wide = |values: &[f32], row: usize| -> Vec<f64> {
            values[row * width..][..width]
                .iter()
                .map(|v| f64::from(*v))
                .collect()
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let same = |what: &str, ours: &[f32], right: &dyn Fn(usize, usize) -> f64| {
            for (at, ours) in ours.iter().enumerate() {
                let right = right(at / width, at % width);
                assert!(
                    (f64::from(*ours) - right).abs() <= 1e-5 * (1.0 + right.abs()),
                    "{what} {width}: {ours} where {right} is right"
                );
            }
        };
        let ours = run(&inputs, None, |graph, t| {
            graph.soft_max_back(t[1], t[2], 0.5).unwrap()
        });
        same("soft_max", &ours, &|row, i| {
            0.5 * wide(&y, row)[i] * (wide(&dy, row)[i] - dot(&wide(&y, row), &wide(&dy, row)))
        });
        let ours = run(&inputs, None, |graph, t| {
            graph.rms_norm_back(t[0], t[2], 1e-5, Some(t[3])).unwrap()
        });
        same("rms_norm", &ours, &|row, i| {
            let (x, dy) = (wide(&x, row), wide(&dy, row));
            let r = 1.0 / (dot(&x, &x) / width as f64 + 1e-5).sqrt();
            r * (dy[i] - x[i] * dot(&x, &dy) / width as f64 * r * r)
                + f64::from(base[row * width + i])
        });
        let sigma = |row: usize, i: usize| 1.0 / (1.0 + (-wide(&x, row)[i]).exp());
        let ours = run(&inputs, None, |graph, t| {
            graph.swiglu_back(t[0], t[1], t[2]).unwrap().1
        });
        same("up", &ours, &|row, i| {
            wide(&dy, row)[i] * wide(&x, row)[i] * sigma(row, i)
        });
        let ours = run(&inputs, None, |graph, t| {
            graph.swiglu_back(t[0], t[1], t[2]).unwrap().0
        });
        same("gate", &ours, &|row, i| {
            wide(&dy, row)[i]
                * wide(&y, row)[i]
                * sigma(row, i)
                * (1.0 + wide(&x, row)[i] * (1.0 - sigma(row, i)))
        });
    }
}

/// Attention over a causal mask and over one that hides whole blocks, and the gradient for its
/// scores.
#[test]
fn attention_matches_its_formula() {
    for kernel in Kernel::all().into_iter() {
        for (d, tokens, blocked) in [(3, 5, false), (16, 150, false), (64, 130, true)] {
            let (heads, shared) = (4, 2);
            let sees =
                |query: usize, key: usize| key <= query && (!blocked || key / 50 == query / 50);
            let hidden = |i: usize| {
                if sees(i / tokens, i % tokens) {
                    0.0
                } else {
                    f32::NEG_INFINITY
                }
            };
            let mask: Vec<f32> = (0..tokens * tokens).map(hidden).collect();
            let [k, v] = [1, 2].map(|seed| numbers(d * tokens * shared, seed));
            let [q, dy] = [3, 4].map(|seed| numbers(d * tokens * heads, seed));
            let (t, d64) = (tokens as i64, d as i64);
            let inputs = [
                (k.clone(), [d64, t, shared as i64, 1]),
                (q.clone(), [d64, t, heads as i64, 1]),
                (mask, [t, t, 1, 1]),
                (v.clone(), [d64, t, shared as i64, 1]),
                (dy.clone(), [d64, t, heads as i64, 1]),
            ];
            let p = run(&inputs, None, |graph, t| {
                graph.attention(kernel, t[0], t[1], t[2], 0.5).unwrap()
            });
            let ds = run(&inputs, None, |graph, t| {
                let p = graph.attention(kernel, t[0], t[1], t[2], 0.5).unwrap();
                graph.attention_back(kernel, t[3], t[4], p, 0.5).unwrap()
            });
            for head in 0..heads {
                for query in 0..tokens {
                    let dot = |a: &[f32], b: &[f32], key: usize| -> f64 {
                        let (a, b) = (
                            &a[(head / 2 * tokens + key) * d..][..d],
                            &b[(head * tokens + query) * d..][..d],
                        );
                        a.iter()
                            .zip(b)
                            .map(|(a, b)| f64::from(*a) * f64::from(*b))
                            .sum()
                    };
                    let score = |key: usize| {
                        if sees(query, key) {
                            (0.5 * dot(&k, &q, key)).exp()
                        } else {
                            0.0
                        }
                    };
                    let sum: f64 = (0..tokens).map(score).sum();
                    let right: Vec<f64> = (0..tokens).map(|key| score(key) / sum).collect();
                    let mean: f64 = (0..tokens).map(|key| right[key] * dot(&v, &dy, key)).sum();
                    for (key, right) in right.into_iter().enumerate() {
                        let at = (head * tokens + query) * tokens + key;
                        let back = 0.5 * right * (dot(&v, &dy, key) - mean);
                        assert!(
                            (f64::from(p[at]) - right).abs() < 1e-5,
                            "{kernel:?} {tokens}: {} where {} is right",
                            p[at],
                            right
                        );
                        assert!(
                            (f64::from(ds[at]) - back).abs() < 1e-5,
                            "{kernel:?} {tokens}: {} where {back} is right",
                            ds[at]
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut graph = Graph::new(16).unwrap();
    let kernel = Kernel::exact();
    let [w, x, ids] = [
        (Dtype::F32, [4, 5]),
        (Dtype::F32, [4, 3]),
        (Dtype::I32, [4, 5]),
    ]
    .map(|(dtype, shape)| graph.input(dtype, &shape, "t").unwrap());
    assert!(graph.times(kernel, w, x, Plus::NONE).is_ok());
    assert!(graph.times_turned(kernel, w, x, Plus::NONE).is_err());
    assert!(graph.times(kernel, ids, x, Plus::NONE).is_err());
    assert!(graph.times(kernel, w, ids, Plus::NONE).is_err());
    assert!(graph.product(kernel, w, ids).is_err());
}
