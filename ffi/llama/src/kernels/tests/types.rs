//! Weights of every type, and their conversion.

use super::*;

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
        let ours = run(&[sized(&x, k, n)], weight, |graph, t| {
            graph.times(kernel, t[0], t[1], Plus::NONE).unwrap()
        });
        let rows = kernel.for_weight(dtype.is_quantized(), Side::Rows);
        let right = oracle_of(rows, &naive(&x, k, 1), &naive(&exact, 1, k), [n, m, k]);
        check(&dtype.name(), kernel, &ours, &right);
        let ours = run_on(2, &[sized(&y, m, n)], weight, |graph, t| {
            let product = graph.times_transposed(kernel, t[0], t[1], Plus::NONE);
            product.unwrap()
        });
        let columns = kernel.for_weight(dtype.is_quantized(), Side::Columns);
        let right = oracle_of(columns, &naive(&y, m, 1), &naive(&exact, k, 1), [n, k, m]);
        check(&dtype.name(), kernel, &ours, &right);
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
        assert!(plain.len() == 2048, "{kind}");
        assert!(plain.iter().zip(&theirs).all(close), "{kind}");
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
        let Some(read) = crate::kernels::reader(dtype.0) else {
            continue;
        };
        let values = numbers(2048, 11);
        let bytes = quantized(dtype, &values, 2048);
        let (mut ours, mut theirs) = (vec![0.0; 2048], vec![0.0; 2048]);
        dtype.to_f32(&bytes, &mut theirs).unwrap();
        // SAFETY: whole blocks of the type, and as many floats; the processor was checked.
        unsafe {
            read(
                bytes.as_ptr(),
                0..2048 / crate::kernels::CHUNK,
                ours.as_mut_ptr(),
            );
        };
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
