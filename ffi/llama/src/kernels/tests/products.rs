//! Products of matrices, with all that is added on the way.

use super::*;

#[test]
fn products_of_weights_match_the_oracle() {
    for kernel in Kernel::all() {
        for (k, m, n) in SIZES {
            let (w, x, y) = (numbers(k * m, 1), numbers(k * n, 2), numbers(m * n, 3));
            let bytes: Vec<u8> = w.iter().flat_map(|value| value.to_ne_bytes()).collect();
            let weight = Some((Dtype::F32, [k as i64, m as i64], &bytes[..]));
            let ours = run(&[sized(&x, k, n)], weight, |graph, t| {
                graph.times(kernel, t[0], t[1], Plus::NONE).unwrap()
            });
            let rows = kernel.for_weight(false, Side::Rows);
            let right = oracle_of(rows, &naive(&x, k, 1), &naive(&w, 1, k), [n, m, k]);
            check(&format!("times {k} {m} {n}"), kernel, &ours, &right);
            let ours = run(&[sized(&y, m, n)], weight, |graph, t| {
                let product = graph.times_transposed(kernel, t[0], t[1], Plus::NONE);
                product.unwrap()
            });
            let columns = kernel.for_weight(false, Side::Columns);
            let right = oracle_of(columns, &naive(&y, m, 1), &naive(&w, k, 1), [n, k, m]);
            check(&format!("transposed {k} {m} {n}"), kernel, &ours, &right);
        }
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
        let mut instead = crate::kernels::Instead::new(kernel).unwrap();
        // SAFETY: a placed node of a graph that runs below, while `instead` lives.
        let taken = unsafe { instead.take(graph.raw(result).unwrap()) };
        let runs = [(); 2].map(|()| {
            compute.run(&graph).unwrap();
            compute.get_f32(&graph, result).unwrap()
        });
        assert_eq!(runs[0], runs[1]);
        let mut exact = vec![0.0; k * m];
        dtype.to_f32(&bytes, &mut exact).unwrap();
        let rows = kernel.for_weight(dtype.is_quantized(), Side::Rows);
        let right = oracle_of(rows, &naive(&x, k, 1), &naive(&exact, 1, k), [n, m, k]);
        (taken, runs[0].clone(), right)
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
                assert_eq!(is_ours, faster && crate::kernels::reader(dtype.0).is_some());
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
                            Graph::times_transposed
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
                let shape = |transposed: bool, lines: usize, count: usize| {
                    let (first, second) = if transposed { (lines, k) } else { (k, lines) };
                    [first as i64, second as i64, count as i64, 1]
                };
                let inputs = [
                    (a.clone(), shape(turn_a, m, shared)),
                    (b.clone(), shape(turn_b, n, heads)),
                ];
                let ours = run(&inputs, None, |graph, t| {
                    let mut view = |t: Tensor, transposed: bool| {
                        if transposed {
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
                    let left = if turn_b {
                        naive(b, 1, n)
                    } else {
                        naive(b, k, 1)
                    };
                    let right = if turn_a {
                        naive(a, m, 1)
                    } else {
                        naive(a, 1, k)
                    };
                    let right = oracle(&left, &right, n, m, k);
                    let what = format!("{k} {m} {n}, transposed {turn_a} {turn_b}, head {head}");
                    check(&what, kernel, &ours[head * m * n..][..m * n], &right);
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
                                Graph::times_transposed
                            } else {
                                Graph::times
                            };
                            product(graph, kernel, t[0], t[1], plus).unwrap()
                        },
                    );
                    let (main, low) = if side {
                        ((k, 1), (k, 1))
                    } else {
                        ((1, k), (1, r))
                    };
                    let (a, b) = (naive(&x, inner, 1), naive(&w, main.0, main.1));
                    let rounded = kernel.for_weight(dtype.is_quantized(), way);
                    let (mut sums, mut sizes) = oracle_of(rounded, &a, &b, [n, outer, inner]);
                    let (a, b) = (naive(&small, r, 1), naive(&matrix, low.0, low.1));
                    let (more, sizes_more) = oracle(&a, &b, n, outer, r);
                    for i in 0..sums.len() {
                        let base = if with_base { f64::from(base[i]) } else { 0.0 };
                        sums[i] = 0.5 * (sums[i] + more[i] + base);
                        sizes[i] += sizes_more[i] + base.abs();
                    }
                    let what = format!("plus {k} {m} {n} {r}, side {side}, base {with_base}");
                    check(&what, kernel, &ours, &(sums, sizes));
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
    assert!(graph.times_transposed(kernel, w, x, Plus::NONE).is_err());
    assert!(graph.times(kernel, ids, x, Plus::NONE).is_err());
    assert!(graph.times(kernel, w, ids, Plus::NONE).is_err());
    assert!(graph.product(kernel, w, ids).is_err());
}
