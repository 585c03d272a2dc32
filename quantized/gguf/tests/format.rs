//! Tests the format on tiny files made here: whole, cut at every byte, and damaged.

use translora_gguf::{Array, Gguf, GgufError, Header, TensorKind, Value, ValueKind, Writer};

/// Makes a file with a value of every type, two tensors and an empty array.
fn small_file() -> Vec<u8> {
    let mut writer = Writer::new();
    writer
        .set("general.architecture", "llama")
        .set("general.alignment", 64u32);
    writer
        .set("n.u8", 8u8)
        .set("n.i8", -8i8)
        .set("n.u16", 16u16)
        .set("n.i16", -16i16)
        .set("n.i32", -32i32);
    writer
        .set("n.u64", u64::MAX)
        .set("n.i64", i64::MIN)
        .set("n.f32", 0.5f32)
        .set("n.f64", 0.25f64)
        .set("n.bool", true);
    writer
        .set("tokens", vec!["ä".to_owned(), String::new()])
        .set("scores", vec![1f32, -1.0])
        .set("none", Vec::<i32>::new());
    writer.tensor_f32("a.weight", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    writer.tensor("b.weight", TensorKind::Q8_0, &[32], vec![7u8; 34]);
    writer.to_bytes().expect("it is sound")
}

/// Writes again what was parsed.
fn rewrite(bytes: &[u8]) -> Vec<u8> {
    let gguf = Gguf::parse(bytes).expect("it is sound");
    Writer::copy_of(&gguf).to_bytes().expect("it is sound")
}

#[test]
fn values_and_tensors_survive() {
    let bytes = small_file();
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!((gguf.version(), gguf.alignment()), (3, 64));
    assert_eq!(
        gguf.get("general.architecture").and_then(Value::as_str),
        Some("llama")
    );
    assert_eq!(gguf.get("n.u64").and_then(Value::as_u64), Some(u64::MAX));
    assert_eq!(gguf.get("n.i8").and_then(Value::as_i64), Some(-8));
    assert_eq!(gguf.get("n.i8").and_then(Value::as_u64), None);
    assert_eq!(gguf.get("n.f32").and_then(Value::as_f64), Some(0.5));
    assert_eq!(gguf.get("n.bool").and_then(Value::as_bool), Some(true));
    assert_eq!(
        gguf.get("tokens").and_then(Value::as_strings).unwrap(),
        ["ä", ""]
    );
    let scores: Vec<_> = gguf
        .get("scores")
        .and_then(Value::as_array)
        .unwrap()
        .iter()
        .collect();
    assert_eq!(scores, [Value::F32(1.0), Value::F32(-1.0)]);
    let empty = gguf.get("none").and_then(Value::as_array).unwrap();
    assert_eq!(empty.element_kind(), ValueKind::I32);
    assert!(empty.is_empty());
    assert_eq!(gguf.metadata().nth(2).unwrap().0, "n.u8");
    let a = gguf.tensor("a.weight").unwrap();
    assert_eq!(a.kind, TensorKind::F32);
    assert_eq!(a.shape.as_slice(), [3, 2].as_slice());
    assert_eq!(a.bytes, 24);
    assert_eq!(a.elements(), 6);
    assert_eq!(gguf.data(a)[20..], 6f32.to_le_bytes());
    assert_eq!(gguf.data(&gguf.tensors()[1]), [7; 34]);
    assert!(gguf.tensors().iter().all(|tensor| tensor.offset % 64 == 0));
    assert!(gguf.tensor("c.weight").is_none() && gguf.get("n").is_none());
}

#[test]
fn parse_then_write_gives_the_same_bytes() {
    let bytes = small_file();
    assert_eq!(rewrite(&bytes), bytes);
    let bare = Writer::new().to_bytes().unwrap();
    assert_eq!(rewrite(&bare), bare);
}

#[test]
fn version_2_is_read() {
    let mut bytes = small_file();
    bytes[4] = 2;
    assert_eq!(Gguf::parse(&bytes).unwrap().version(), 2);
}

#[test]
fn a_file_cut_at_any_byte_is_truncated_and_says_by_how_much() {
    let bytes = small_file();
    let end = Gguf::parse(&bytes)
        .unwrap()
        .tensors()
        .iter()
        .map(|t| (t.offset + t.bytes) as usize)
        .max()
        .unwrap();
    for cut in 1..end {
        match Gguf::parse(&bytes[..cut]) {
            Err(GgufError::Truncated {
                missing, offset, ..
            }) => {
                assert!(missing > 0, "cut at {cut}: {missing}");
                assert!(missing as usize <= end - cut, "cut at {cut}: {missing}");
                assert!(offset as usize <= cut, "cut at {cut}: {missing}");
            }
            other => panic!("cut at {cut}: {other:?}"),
        }
    }
    let Err(GgufError::Truncated { place, missing, .. }) = Gguf::parse(&bytes[..end - 5]) else {
        panic!("not truncated")
    };
    assert_eq!((place.as_str(), missing), ("the data of \"b.weight\"", 5));
}

#[test]
fn a_header_is_read_out_of_the_first_bytes_as_out_of_all() {
    let bytes = small_file();
    let whole = Gguf::parse(&bytes).unwrap();
    let data = whole.tensors()[0].offset as usize;
    let mut needed = None;
    for cut in 0..=bytes.len() {
        match Header::parse(&bytes[..cut], bytes.len() as u64).unwrap() {
            None => assert!(
                needed.is_none() && cut < data,
                "{cut} bytes are too few, but fewer were enough"
            ),
            Some(header) => {
                needed = needed.or(Some(cut));
                assert_eq!(header.tensors(), whole.tensors());
                assert!(header.metadata().eq(whole.metadata()));
            }
        }
    }
    assert!(needed.is_some_and(|needed| needed <= data));
    let end = whole
        .tensors()
        .iter()
        .map(|t| t.offset + t.bytes)
        .max()
        .unwrap();
    for file_bytes in 0..end {
        let message = Gguf::parse(&bytes[..file_bytes as usize])
            .unwrap_err()
            .to_string();
        for cut in [0, 40, file_bytes.min(data as u64), file_bytes] {
            match Header::parse(&bytes[..cut.min(file_bytes) as usize], file_bytes) {
                Ok(found) => assert!(found.is_none(), "cut at {cut} of {file_bytes}"),
                Err(error) => {
                    assert_eq!(error.to_string(), message, "cut at {cut} of {file_bytes}");
                }
            }
        }
    }
}

#[test]
fn damaged_files_never_panic() {
    let bytes = small_file();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for _ in 0..50_000 {
        let mut damaged = bytes.clone();
        for _ in 0..=next(3) {
            match next(4) {
                0 => damaged[next(bytes.len())] = 0xff,
                _ => damaged[next(bytes.len())] ^= 1 << next(8),
            }
        }
        if let Ok(gguf) = Gguf::parse(&damaged) {
            gguf.tensors()
                .iter()
                .for_each(|tensor| assert_eq!(gguf.data(tensor).len() as u64, tensor.bytes));
        }
    }
}

/// Replaces the only occurrence of `from`.
fn patched(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let hits: Vec<_> = (0..bytes.len() - from.len())
        .filter(|&at| bytes[at..].starts_with(from))
        .collect();
    assert_eq!(hits.len(), 1, "the pattern is not unique");
    [&bytes[..hits[0]], to, &bytes[hits[0] + from.len()..]].concat()
}

/// Lays out the description of tensor `b.weight` of [`small_file`].
fn description(name: &str, row: u64, kind: u32, offset: u64) -> Vec<u8> {
    let mut out = (name.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&1u32.to_le_bytes());
    out.extend_from_slice(&row.to_le_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    out
}

#[test]
fn bad_tensors_are_refused_by_name() {
    let bytes = small_file();
    let good = description("b.weight", 32, 8, 64);
    let refusal = |name, row, kind, offset| {
        Gguf::parse(&patched(
            &bytes,
            &good,
            &description(name, row, kind, offset),
        ))
        .unwrap_err()
        .to_string()
    };
    let expect = |message: String, part: &str| assert!(message.contains(part), "{message}");
    expect(
        refusal("a.weight", 32, 8, 64),
        "tensor \"a.weight\" appears twice",
    );
    expect(
        refusal("b.weight", 33, 8, 64),
        "rows of 33 elements, expected a multiple of 32 for q8_0",
    );
    expect(refusal("b.weight", 0, 8, 64), "shape [0] has no elements");
    expect(refusal("b.weight", u64::MAX - 31, 8, 64), "overflows");
    expect(refusal("b.weight", 32, 4, 64), "unknown tensor type 4");
    expect(refusal("b.weight", 32, 31, 64), "unknown tensor type 31");
    expect(
        refusal("b.weight", 32, 8, 65),
        "data offset 65 is not a multiple of 64",
    );
    expect(
        refusal("b.weight", 32, 8, 0),
        "tensors \"a.weight\" and \"b.weight\" overlap",
    );
    expect(
        refusal("b.weight", 32, 8, u64::MAX - 63),
        "truncated in the data of \"b.weight\"",
    );
    expect(
        refusal("b.weight", 1 << 40, 8, 64),
        "truncated in the data of \"b.weight\"",
    );
}

#[test]
fn what_is_no_gguf_is_called_what_it_is() {
    let error = Gguf::parse(b"").unwrap_err().to_string();
    assert_eq!(error, "this is an empty file, and no GGUF file");
    let error = Gguf::parse(b"PAR1").unwrap_err().to_string();
    assert_eq!(error, "this is a file of Parquet, and no GGUF file");
}

#[test]
fn bad_headers_and_values_are_refused() {
    let bytes = small_file();
    let with = |at: usize, patch: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        Gguf::parse(&bytes).unwrap_err()
    };
    assert!(matches!(with(0, b"GGML"), GgufError::Magic { .. }));
    assert!(matches!(with(4, &3u32.to_be_bytes()), GgufError::BigEndian));
    assert!(matches!(with(4, &[1]), GgufError::Version { found: 1 }));
    assert!(matches!(
        with(8, &[255; 8]),
        GgufError::Limit {
            unit: "tensors",
            offset: 8,
            ..
        }
    ));
    assert!(matches!(
        with(16, &[255; 8]),
        GgufError::Limit {
            unit: "metadata keys",
            offset: 16,
            ..
        }
    ));
    assert!(matches!(
        with(24, &[255; 8]),
        GgufError::Limit {
            limit: 65_535,
            offset: 24,
            ..
        }
    ));
    let value = |key: &str, from: &[u8], to: &[u8]| {
        let (from, to) = (
            [key.as_bytes(), from].concat(),
            [key.as_bytes(), to].concat(),
        );
        Gguf::parse(&patched(&bytes, &from, &to)).unwrap_err()
    };
    assert!(matches!(
        value("n.bool", &[7, 0, 0, 0, 1], &[7, 0, 0, 0, 2]),
        GgufError::Bool { found: 2, .. }
    ));
    assert!(matches!(
        value("n.bool", &[7, 0, 0, 0], &[13, 0, 0, 0]),
        GgufError::ValueKind { found: 13, .. }
    ));
    assert!(matches!(
        value("none", &[9, 0, 0, 0, 5], &[9, 0, 0, 0, 9]),
        GgufError::NestedArray { .. }
    ));
    assert!(matches!(
        value("general.alignment", &[4, 0, 0, 0, 64], &[4, 0, 0, 0, 63]),
        GgufError::Alignment { .. }
    ));
    let duplicate = Gguf::parse(&patched(&bytes, b"n.u16", b"n.i16")).unwrap_err();
    assert!(
        matches!(duplicate, GgufError::DuplicateKey { ref key, .. } if key == "n.i16"),
        "{duplicate}"
    );
    let utf8 = Gguf::parse(&patched(&bytes, "ä".as_bytes(), &[0xc3, 0x28])).unwrap_err();
    assert!(
        utf8.to_string()
            .contains("the value of \"tokens\": not UTF-8"),
        "{utf8}"
    );
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let refusal = |fill: &dyn Fn(&mut Writer<'static>)| {
        let mut writer = Writer::new();
        fill(&mut writer);
        writer.to_bytes().unwrap_err()
    };
    assert!(matches!(
        refusal(&|w| {
            w.set("", 1u32);
        }),
        GgufError::EmptyName { .. }
    ));
    assert!(matches!(
        refusal(&|w| {
            w.set("general.alignment", 48u32);
        }),
        GgufError::Alignment { .. }
    ));
    assert!(matches!(
        refusal(&|w| {
            w.set("k".repeat(65_536), 1u32);
        }),
        GgufError::Limit { .. }
    ));
    assert!(matches!(
        refusal(&|w| {
            w.tensor_f32("t".repeat(64), &[1], &[0.0]);
        }),
        GgufError::Limit { .. }
    ));
    assert!(matches!(
        refusal(&|w| {
            w.tensor_f32("t", &[], &[0.0]);
        }),
        GgufError::EmptyShape { .. }
    ));
    assert!(matches!(
        refusal(&|w| {
            w.tensor_f32("t", &[2], &[0.0]);
        }),
        GgufError::DataSize {
            expected: 8,
            got: 4,
            ..
        }
    ));
    assert!(matches!(
        refusal(&|w| {
            w.tensor_f32("t", &[1], &[0.0])
                .tensor_f32("t", &[1], &[0.0]);
        }),
        GgufError::DuplicateTensor { .. }
    ));
}

#[test]
fn a_large_vocabulary_survives() {
    let tokens: Vec<String> = (0..150_000).map(|n| format!("token-{n}")).collect();
    let mut writer = Writer::new();
    writer.set("tokenizer.ggml.tokens", tokens.clone());
    let bytes = writer.to_bytes().unwrap();
    assert_eq!(
        Gguf::parse(&bytes)
            .unwrap()
            .get("tokenizer.ggml.tokens")
            .and_then(Value::as_strings),
        Some(&tokens[..])
    );
}

#[test]
fn array_elements_are_kept_by_position() {
    let mut array = Array::from(vec![10u32, 11, 12, 13]);
    array.retain_positions(|position| position % 2 == 1);
    assert_eq!(array, Array::from(vec![11u32, 13]));
}

#[test]
fn every_kind_is_found_by_its_number() {
    for &kind in TensorKind::ALL {
        assert_eq!(TensorKind::from_id(kind.id()), Some(kind));
    }
    assert_eq!(TensorKind::from_id(43), None);
    assert_eq!(TensorKind::Q4_K.bytes(&[512, 3]), Some(6 * 144));
}

#[test]
fn data_that_is_supplied_later_makes_the_same_file() {
    let numbers = |n: usize| -> Vec<u8> { (0..n).flat_map(|x| (x as f32).to_le_bytes()).collect() };
    let (mut whole, mut later) = (Writer::new(), Writer::new());
    for (name, size) in [("a", 3_u64), ("b", 40), ("c", 1)] {
        whole.tensor(name, TensorKind::F32, &[size], numbers(size as usize));
        later.later(name, TensorKind::F32, &[size]);
    }
    let mut bytes = Vec::new();
    let sizes = [3, 40, 1];
    let data = |index: usize| Ok::<_, GgufError>(numbers(sizes[index]).into());
    later
        .write_each(&mut bytes, data)
        .expect("the sizes are right");
    assert_eq!(bytes, whole.to_bytes().expect("the sizes are right"));
    let short = |_| Ok::<_, GgufError>(numbers(2).into());
    let error = later.write_each(Vec::new(), short).expect_err("too short");
    assert!(
        matches!(
            error,
            GgufError::DataSize {
                expected: 12,
                got: 8,
                ..
            }
        ),
        "{error}"
    );
}
