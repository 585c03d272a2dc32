//! Tests the reference against itself: gradients against differences, packed batches against
//! separate ones.

use super::*;
use crate::testing::tiny::{TinyArchitecture, TinyShape, tiny_adapter, tiny_model};
use translora_gguf::{TensorKind, Writer};

const MODULES: [&str; 7] = [
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
];

fn small() -> TinyShape {
    TinyShape {
        width: 16,
        heads: 4,
        kv_heads: 2,
        head_length: 4,
        feed_forward: 24,
        ..TinyShape::default()
    }
}

fn model_and_lora(
    architecture: TinyArchitecture,
    shape: &TinyShape,
    modules: &[&str],
) -> (ReferenceModel, ReferenceLora) {
    let model = tiny_model(architecture, 7, shape);
    let model = Gguf::parse(&model).unwrap();
    let adapter = tiny_adapter(&model, 11, 3, 6.0, modules);
    let lora = ReferenceLora::from_gguf(&Gguf::parse(&adapter).unwrap()).unwrap();
    (ReferenceModel::from_gguf(&model).unwrap(), lora)
}

/// Compares every fifth derivative with the central difference of the loss.
fn check_gradients(model: &ReferenceModel, lora: &ReferenceLora) {
    let tokens = [104, 101, 108, 108, 111, 258];
    let targets = [None, Some(108), Some(108), Some(111), None, Some(256)];
    let weights = [1.0, 0.5, 0.25, 1.0, 1.0, 0.75];
    let positions = [0, 1, 2, 3, 4, 5];
    let loss_of = |lora: &ReferenceLora| {
        model
            .loss_and_gradients(lora, &tokens, &positions, &causal, &targets, &weights)
            .unwrap()
    };
    let (_, gradients) = loss_of(lora);
    assert!(gradients.keys().eq(lora.weights.keys()));
    let (mut difference, mut size) = (0.0, 0.0);
    for (name, (da, db)) in &gradients {
        for (is_a, derivatives) in [(true, da), (false, db)] {
            for (i, derivative) in derivatives.iter().enumerate().step_by(5) {
                let nudged = |step: f32| {
                    let mut lora = lora.clone();
                    let weight = lora.weights.get_mut(name).unwrap();
                    let parameter = if is_a {
                        &mut weight.a[i]
                    } else {
                        &mut weight.b[i]
                    };
                    *parameter += step;
                    (f64::from(*parameter), loss_of(&lora).0)
                };
                let ((high, high_loss), (low, low_loss)) = (nudged(1e-3), nudged(-1e-3));
                let expected = (high_loss - low_loss) / (high - low);
                assert!(
                    (derivative - expected).abs() <= 1e-4 * (1.0 + expected.abs()),
                    "{name} {is_a} {i}: {derivative} {expected}"
                );
                difference += (derivative - expected).powi(2);
                size += expected.powi(2);
            }
        }
    }
    assert!(
        size > 1e-3,
        "squared difference {difference}, squared size {size}"
    );
    assert!(
        difference <= 1e-10 * size,
        "squared difference {difference}, squared size {size}"
    );
}

#[test]
fn gradients_match_differences_in_every_architecture() {
    for architecture in TinyArchitecture::ALL {
        let (model, lora) = model_and_lora(architecture, &small(), &MODULES);
        check_gradients(&model, &lora);
        let untied = TinyShape {
            tied: false,
            head_length: 6,
            ..small()
        };
        let (model, lora) = model_and_lora(architecture, &untied, &["attn_k", "ffn_down"]);
        check_gradients(&model, &lora);
    }
}

fn max_difference(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .flatten()
        .zip(b.iter().flatten())
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max)
}

#[test]
fn packed_sequences_equal_separate_ones() {
    for architecture in TinyArchitecture::ALL {
        let (model, lora) = model_and_lora(architecture, &small(), &MODULES);
        let (first, second, tokens) = ([1, 2, 3], [4, 5], [1, 2, 3, 4, 5]);
        let blocks = |i: usize, j: usize| causal(i, j) && (i < 3) == (j < 3);
        let packed = model
            .forward(&lora, &tokens, &[0, 1, 2, 0, 1], &blocks)
            .unwrap();
        let separate = [
            model.forward(&lora, &first, &[0, 1, 2], &causal).unwrap(),
            model.forward(&lora, &second, &[0, 1], &causal).unwrap(),
        ];
        assert!(max_difference(&packed, &separate.concat()) < 1e-12);
    }
}

#[test]
fn a_shared_prefix_equals_two_whole_sequences() {
    let (model, lora) = model_and_lora(TinyArchitecture::Qwen3, &small(), &MODULES);
    // Tokens 0 and 1 are the prefix of both 2, 3 and 4, 5.
    let branches = |i: usize, j: usize| causal(i, j) && (j < 2 || (i < 4) == (j < 4));
    let packed = model
        .forward(&lora, &[9, 8, 1, 2, 3, 4], &[0, 1, 2, 3, 2, 3], &branches)
        .unwrap();
    let second = model
        .forward(&lora, &[9, 8, 3, 4], &[0, 1, 2, 3], &causal)
        .unwrap();
    assert!(max_difference(&packed[4..], &second[2..]) < 1e-12);
}

#[test]
fn positions_matter_by_their_distance_only() {
    for architecture in TinyArchitecture::ALL {
        let (model, lora) = model_and_lora(architecture, &small(), &MODULES);
        let at = |positions: &[i32]| {
            model
                .forward(&lora, &[1, 2, 3], positions, &causal)
                .unwrap()
        };
        assert!(max_difference(&at(&[0, 1, 2]), &at(&[7, 8, 9])) < 1e-9);
        assert!(max_difference(&at(&[0, 1, 2]), &at(&[0, 1, 3])) > 1e-6);
    }
}

#[test]
fn an_adapter_changes_the_logits_and_one_without_b_does_not() {
    let (model, mut lora) = model_and_lora(TinyArchitecture::Llama, &small(), &["attn_v"]);
    let logits = |lora: &ReferenceLora| model.forward(lora, &[1, 2], &[0, 1], &causal).unwrap();
    let bare = logits(&ReferenceLora::default());
    assert!(max_difference(&bare, &logits(&lora)) > 1e-3);
    lora.weights
        .values_mut()
        .for_each(|weight| weight.b.fill(0.0));
    assert_eq!(bare, logits(&lora));
}

#[test]
fn quantized_models_are_near_the_whole_one() {
    let logits = |kind| {
        let bytes = tiny_model(
            TinyArchitecture::Qwen2,
            3,
            &TinyShape {
                kind,
                ..TinyShape::default()
            },
        );
        let model = ReferenceModel::from_gguf(&Gguf::parse(&bytes).unwrap()).unwrap();
        model
            .forward(
                &ReferenceLora::default(),
                &[65, 66, 67],
                &[0, 1, 2],
                &causal,
            )
            .unwrap()
    };
    let whole = logits(TensorKind::F32);
    assert!(max_difference(&whole, &logits(TensorKind::F16)) < 0.02);
    assert!(max_difference(&whole, &logits(TensorKind::Q8_0)) < 0.5);
}

#[test]
fn what_does_not_fit_is_refused() {
    let (model, lora) = model_and_lora(TinyArchitecture::Llama, &small(), &["attn_q"]);
    let (other, _) = model_and_lora(
        TinyArchitecture::Llama,
        &TinyShape {
            width: 24,
            ..small()
        },
        &["attn_q"],
    );
    assert!(matches!(
        other.forward(&lora, &[1], &[0], &causal),
        Err(ReferenceError::Lora(_))
    ));
    assert!(matches!(
        model.forward(&lora, &[259], &[0], &causal),
        Err(ReferenceError::Batch(_))
    ));
    assert!(matches!(
        model.forward(&lora, &[1, 2], &[0], &causal),
        Err(ReferenceError::Batch(_))
    ));
    let bytes = tiny_model(TinyArchitecture::Qwen3, 1, &small());
    let qwen3 = Gguf::parse(&bytes).unwrap();
    let renamed = |from: &str, to: &str| {
        let mut writer = Writer::copy_of(&qwen3);
        writer.retain_tensors(|tensor| {
            tensor.name = tensor.name.replace(from, to);
            true
        });
        writer.tensor_f32("extra", &[1], &[0.0]);
        let bytes = writer.to_bytes().unwrap();
        ReferenceModel::from_gguf(&Gguf::parse(&bytes).unwrap()).unwrap_err()
    };
    assert!(
        matches!(renamed("blk.1.ffn_up", "blk.1.ffn_fused"), ReferenceError::Missing(name) if name == "blk.1.ffn_up.weight")
    );
    assert!(matches!(
        renamed("blk.1.", "blk.2."),
        ReferenceError::Missing(_)
    ));
    assert!(matches!(renamed("blk", "blk"), ReferenceError::Unexpected(name) if name == "extra"));
}
