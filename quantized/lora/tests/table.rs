//! Every way to be no sound adapter, and what is said of it.
#![allow(clippy::too_many_lines, reason = "tables of cases are long")]

use translora_gguf::{Gguf, TensorKind, Value, Writer};
use translora_lora::{Base, Lora, LoraError};

const Q: &str = "blk.0.attn_q.weight";
const EXPERTS: &str = "blk.0.ffn_up_exps.weight";
const WORDS: &str = "token_embd.weight";

/// A base with a matrix, a norm vector, a mixture of two and a table of words.
fn base(ties_output: bool) -> Base {
    let mut tensors = vec![
        (Q, [4, 6, 1]),
        ("blk.0.attn_norm.weight", [4, 1, 1]),
        (EXPERTS, [4, 8, 2]),
        (WORDS, [4, 9, 1]),
    ];
    if !ties_output {
        tensors.push((Base::OUTPUT, [4, 9, 1]));
    }
    let tensors = tensors
        .into_iter()
        .map(|(name, shape)| (name.to_owned(), shape));
    Base::new("llama".into(), tensors)
}

/// An adapter under construction.
struct File(Writer<'static>);

impl File {
    fn new() -> Self {
        let mut writer = Writer::new();
        writer
            .set("general.type", "adapter")
            .set("adapter.type", "lora");
        writer
            .set("general.architecture", "llama")
            .set("adapter.lora.alpha", 8.0_f32);
        Self(writer)
    }

    fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.set(key, value);
        self
    }

    fn tensor(mut self, name: &str, shape: &[u64], value: f32) -> Self {
        let count = shape.iter().product::<u64>() as usize;
        self.0.tensor_f32(name, shape, &vec![value; count]);
        self
    }

    fn pair(self, matrix: &str, a: &[u64], b: &[u64]) -> Self {
        let half = |half: &str| format!("{matrix}.lora_{half}");
        self.tensor(&half("a"), a, 0.5).tensor(&half("b"), b, 0.5)
    }

    fn raw(mut self, name: &str, kind: TensorKind, shape: &[u64], byte: u8) -> Self {
        let bytes = kind.bytes(shape).expect("it fits") as usize;
        self.0.tensor(name, kind, shape, vec![byte; bytes]);
        self
    }

    fn checked(&self, base: &Base) -> Result<Lora, LoraError> {
        let lora = Lora::read(&self.0.to_bytes().expect("it keeps the limits"))?;
        lora.fits(base).map(|()| lora)
    }
}

/// With one sound pair.
fn sound() -> File {
    File::new().pair(Q, &[4, 2], &[2, 6])
}

#[test]
fn what_is_sound_is_described() {
    let file = sound()
        .pair(EXPERTS, &[4, 3, 2], &[3, 8, 2])
        .pair(WORDS, &[2, 9], &[2, 4]);
    let lora = file.checked(&base(false)).expect("sound");
    assert_eq!((lora.rank(), lora.alpha(), lora.made_for()), (3, 8.0, None));
    let pairs: Vec<_> = lora
        .pairs()
        .iter()
        .map(|pair| (pair.matrix.as_str(), pair.shape, pair.experts))
        .collect();
    assert_eq!(
        pairs,
        [(Q, [4, 6], 1), (EXPERTS, [4, 8], 2), (WORDS, [4, 9], 1)]
    );
    let named = sound()
        .set("translora.model.sha256", "of a base")
        .checked(&base(false));
    assert_eq!(named.expect("sound").made_for(), Some("of a base"));
    let negative = sound()
        .set("adapter.lora.alpha", -8.0_f32)
        .checked(&base(false));
    assert_eq!(negative.expect("a task taken away").alpha(), -8.0);
}

#[test]
fn what_is_unsound_is_refused_by_name() {
    let (a, b) = (&format!("{Q}.lora_a"), &format!("{Q}.lora_b"));
    let alpha = |value: Value| sound().set("adapter.lora.alpha", value);
    let q = |a: &[u64], b: &[u64]| File::new().pair(Q, a, b);
    let experts = |a: &[u64], b: &[u64]| File::new().pair(EXPERTS, a, b);
    let filled = |of_a: f32, of_b: f32| {
        let file = File::new().tensor(a, &[4, 2], of_a);
        file.tensor(b, &[2, 6], of_b)
    };
    let elsewhere = File::new().pair("blk.1.attn_q.weight", &[4, 2], &[2, 6]);
    let norm = File::new().pair("blk.0.attn_norm.weight", &[4, 2], &[2, 1]);
    let alora = sound().set("adapter.alora.invocation_tokens", vec![1_u32]);
    let architecture = |value: Value| sound().set("general.architecture", value);
    let cases: Vec<(File, &str)> = vec![
        (sound().set("general.type", "model"), "is \"model\""),
        (sound().set("general.type", 3_u32), "must be a string"),
        (sound().set("adapter.type", true), "adapter.type is a bool"),
        (
            sound().set("adapter.type", "control_vector"),
            "not \"lora\"",
        ),
        (architecture(vec![1_u8].into()), "an array of u8"),
        (architecture("qwen3".into()), "architecture \"qwen3\""),
        (
            alpha(8.0_f64.into()),
            "is a f64, and must be a 32-bit float",
        ),
        (alpha(8_u32.into()), "alpha is a u32"),
        (alpha(8_i32.into()), "alpha is a i32"),
        (alpha("8".into()), "alpha is a string"),
        (alpha(vec![8.0_f32].into()), "alpha is an array of f32"),
        (alpha(0.0_f32.into()), "alpha is 0"),
        (alpha(f32::NAN.into()), "alpha is NaN"),
        (alpha(f32::INFINITY.into()), "alpha is inf"),
        (alpha(f32::MAX.into()), "at most 1000000"),
        (alora, "activated LoRA"),
        (File::new(), "it adapts nothing: there is no tensor in it"),
        (filled(0.5, 0.0), "A or B of every pair is zero"),
        (filled(0.5, f32::NAN), "NaN at element 0"),
        (filled(f32::INFINITY, 0.5), "inf at element 0"),
        (
            File::new().tensor(a, &[4, 2], 0.5),
            "no blk.0.attn_q.weight.lora_b",
        ),
        (
            File::new().tensor(b, &[2, 6], 0.5),
            "no blk.0.attn_q.weight.lora_a",
        ),
        (
            sound().tensor("blk.0.attn_norm.weight", &[4], 1.0),
            "no half",
        ),
        (sound().tensor("blk.0.attn_q.bias", &[6], 1.0), "no half"),
        (q(&[4, 2], &[3, 6]), "differ in rank: A has 2, B has 3"),
        (q(&[4, 2, 1, 2], &[2, 6]), "[4, 2, 1, 2]"),
        (
            q(&[5, 2], &[2, 6]),
            "4×6 in the base, and the adapter's pair is for 5×6",
        ),
        (q(&[4, 2], &[2, 7]), "for 4×7"),
        (
            q(&[4, 2, 2], &[2, 6, 2]),
            "1 experts in the base, and the adapter is for 2",
        ),
        (
            experts(&[4, 3, 2], &[3, 8, 1]),
            "in experts: A has 2, B has 1",
        ),
        (
            experts(&[4, 3], &[3, 8]),
            "2 experts in the base, and the adapter is for 1",
        ),
        (experts(&[4, 3, 8], &[3, 8, 8]), "the adapter is for 8"),
        (elsewhere, "the base has no \"blk.1.attn_q"),
        (norm, "is a vector in the base"),
    ];
    for (file, said) in cases {
        let error = file.checked(&base(false)).expect_err(said);
        assert!(error.to_string().contains(said), "{said}: {error}");
    }
    let words = File::new().pair(WORDS, &[2, 9], &[2, 4]);
    assert!(words.checked(&base(false)).is_ok());
    assert!(matches!(
        words.checked(&base(true)),
        Err(LoraError::TiedEmbedding)
    ));
    assert!(matches!(Lora::read(b"GGUF"), Err(LoraError::Gguf(_))));
}

#[test]
fn what_misses_a_key_says_which() {
    for missing in [
        "general.type",
        "adapter.type",
        "general.architecture",
        "adapter.lora.alpha",
    ] {
        let bytes = sound().0.to_bytes().expect("small");
        let gguf = Gguf::parse(&bytes).expect("whole");
        let mut less = Writer::new();
        for (key, value) in gguf.metadata().filter(|(key, _)| *key != missing) {
            less.set(key, value.clone());
        }
        let error = Lora::read(&less.to_bytes().expect("small")).expect_err(missing);
        assert!(
            error
                .to_string()
                .contains(&format!("its {missing} is missing")),
            "{error}"
        );
    }
}

/// Every type of elements that a file can have is taken or refused, never passed on unseen.
#[test]
fn every_type_of_numbers_is_looked_at() {
    let (a, b) = (format!("{Q}.lora_a"), format!("{Q}.lora_b"));
    for kind in TensorKind::ALL.iter().copied() {
        let row = kind.block_elements();
        let file = |byte| {
            let file = File::new()
                .raw(&a, kind, &[row, row], byte)
                .raw(&b, kind, &[row, 6], byte);
            Lora::read(&file.0.to_bytes().expect("small"))
        };
        match file(0x12) {
            Ok(lora) => assert!(kind.is_dequantizable() && lora.rank() == row, "{kind}"),
            Err(LoraError::Kind { kind: named, .. }) => {
                assert!(named == kind && !kind.is_dequantizable(), "{kind}");
            }
            Err(other) => panic!("{kind}: {other}"),
        }
        if kind.is_dequantizable() {
            assert!(
                matches!(file(0xFF), Err(LoraError::NotFinite { .. })),
                "{kind}"
            );
        }
    }
}
