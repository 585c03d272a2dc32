//! Gradients of experts, rows and attention.

use super::*;

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
                let (a, b) = (naive(&dy, 1, m), naive(&x, k, 1));
                let right = oracle(&a, &b, m, k, places.len());
                let ours = &da[expert * k * m..][..k * m];
                check(&format!("weights of expert {expert}"), kernel, ours, &right);
                let (a, b) = (naive(&dy, m, 1), naive(&w[expert * k * m..][..k * m], k, 1));
                let right = oracle(&a, &b, places.len(), k, m);
                let ours = gather(&db, k, &places);
                check(&format!("rows of expert {expert}"), kernel, &ours, &right);
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
