//! The keys and the types of tensors of a model over which llama.cpp or ggml ends the process.
//!
//! What llama.cpp answers with an error of its own is left to it.

use translora_gguf::{Array, Header, Tensor, TensorKind, Value, ValueKind};

/// source: llama-hparams.h
const LAYERS_MAX: u64 = 512;
const EXPERTS_MAX: u64 = 1024;
/// What ggml's kernels need of the address of a tensor. source: ggml.c, `GGML_MEM_ALIGN` and the
/// backends' own alignment
const ALIGNMENT_MIN: u64 = 32;
/// source: llama-model.cpp, `LLAMA_ROPE_SCALING_TYPES`
const SCALINGS: [&str; 4] = ["none", "linear", "yarn", "longrope"];
/// Sizes that llama.cpp divides by, and what the tensors of an architecture that has them are called.
const DIVISORS: [(&str, &str); 5] = [
    ("ssm.conv_kernel", ".ssm_"),
    ("ssm.inner_size", ".ssm_"),
    ("ssm.state_size", ".ssm_"),
    ("ssm.time_step_rank", ".ssm_"),
    ("wkv.head_size", ".time_mix_"),
];
const TOKENS: &str = "tokenizer.ggml.tokens";

/// The keys of one model.
struct Keys<'h> {
    header: &'h Header,
    architecture: &'h str,
}

/// Refuse the first key or tensor that is not what llama.cpp takes for granted, in words.
pub(super) fn check(header: &Header) -> Result<(), String> {
    let architecture = header.get("general.architecture").and_then(Value::as_str);
    let keys = Keys {
        header,
        architecture: architecture.unwrap_or_default(),
    };
    keys.alignment()?;
    keys.layers()?;
    keys.experts()?;
    keys.numbers()?;
    keys.rope()?;
    keys.tokenizer()?;
    header.tensors().iter().try_for_each(tensor)
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A number, or the numbers of all layers; none where the key is missing.
    fn counts(&self, key: &str) -> Vec<u64> {
        match self.header.get(&self.name(key)) {
            Some(Value::Array(counts)) => counts.iter().filter_map(|n| n.as_u64()).collect(),
            count => count.and_then(Value::as_u64).into_iter().collect(),
        }
    }

    fn count(&self, key: &str) -> Option<u64> {
        self.header.get(&self.name(key))?.as_u64()
    }

    fn alignment(&self) -> Result<(), String> {
        let found = self.header.get("general.alignment").and_then(Value::as_u64);
        match found.filter(|found| *found < ALIGNMENT_MIN) {
            None => Ok(()),
            Some(found) => Err(format!(
                "its general.alignment is {found}, and must be {ALIGNMENT_MIN} or more"
            )),
        }
    }

    fn layers(&self) -> Result<(), String> {
        let Some(layers) = self.count("block_count") else {
            return Ok(());
        };
        if !(1..=LAYERS_MAX).contains(&layers) {
            let key = self.name("block_count");
            return Err(format!(
                "its {key} is {layers}, and must be 1 to {LAYERS_MAX}"
            ));
        }
        let next = self.count("nextn_predict_layers").unwrap_or(0);
        if next > layers {
            let key = self.name("nextn_predict_layers");
            return Err(format!("its {key} is {next}, and it has {layers} layers"));
        }
        Ok(())
    }

    /// source: llama-model.cpp, `llama_model::load_hparams`
    fn experts(&self) -> Result<(), String> {
        let experts = self.count("expert_count").unwrap_or(0);
        if experts > EXPERTS_MAX {
            let key = self.name("expert_count");
            return Err(format!(
                "its {key} is {experts}, and must be {EXPERTS_MAX} at most"
            ));
        }
        let used = self
            .counts("expert_used_count")
            .into_iter()
            .max()
            .unwrap_or(0);
        if used > experts || (experts > 0 && used == 0) {
            let key = self.name("expert_used_count");
            return Err(format!("its {key} is {used}, and it has {experts} experts"));
        }
        let groups = self.count("expert_group_count").unwrap_or(0);
        let group = self.name("expert_group_count");
        if groups > 0 && (groups >= experts || !experts.is_multiple_of(groups)) {
            return Err(format!(
                "its {group} is {groups}, and it has {experts} experts"
            ));
        }
        let of = self.count("expert_group_used_count").unwrap_or(0);
        if groups > 1 && !(1..groups).contains(&of) {
            let key = self.name("expert_group_used_count");
            return Err(format!(
                "its {key} is {of}, and it has {groups} groups of experts"
            ));
        }
        Ok(())
    }

    /// No float of the architecture is NaN, none that scales is infinite, and what is added below a
    /// root is not below 0.
    fn numbers(&self) -> Result<(), String> {
        let own = format!("{}.", self.architecture);
        for (key, value) in self.header.metadata() {
            if !key.starts_with(&own) {
                continue;
            }
            let numbers: Vec<f64> = match value {
                Value::F32(number) => vec![f64::from(*number)],
                Value::F64(number) => vec![*number],
                Value::Array(Array::F32(numbers)) => {
                    numbers.iter().map(|x| f64::from(*x)).collect()
                }
                Value::Array(Array::F64(numbers)) => numbers.clone(),
                _ => continue,
            };
            let epsilon = key.ends_with("epsilon");
            // Some bounds are infinite where there is none.
            let bounded = epsilon || key.contains(".rope.") || key.ends_with("scale");
            let bad =
                |x: &&f64| x.is_nan() || (bounded && x.is_infinite()) || (epsilon && **x < 0.0);
            if let Some(found) = numbers.iter().find(bad) {
                let wanted = if epsilon { "0 or more" } else { "a number" };
                return Err(format!("its {key} is {found}, and must be {wanted}"));
            }
        }
        let tensors = self.header.tensors();
        for (key, part) in DIVISORS {
            // llama.cpp writes zeros for what an architecture has not.
            let has = || tensors.iter().any(|tensor| tensor.name.contains(part));
            if self.count(key) == Some(0) && has() {
                return Err(format!(
                    "its {} is 0, and must be 1 or more",
                    self.name(key)
                ));
            }
        }
        Ok(())
    }

    /// source: ggml.c, `ggml_rope_impl`; llama-model.cpp
    fn rope(&self) -> Result<(), String> {
        let scaling = self.header.get(&self.name("rope.scaling.type"));
        if let Some(found) = scaling.and_then(Value::as_str)
            && !SCALINGS.contains(&found)
        {
            let key = self.name("rope.scaling.type");
            let known = SCALINGS.join(", ");
            return Err(format!(
                "its {key} is {found:?}, and must be one of {known}"
            ));
        }
        let Some(rotated) = self.count("rope.dimension_count") else {
            return Ok(());
        };
        let heads = self.counts("attention.head_count");
        let wide = self
            .count("attention.key_length")
            .or_else(|| match heads[..] {
                [heads] => self.count("embedding_length")?.checked_div(heads),
                _ => None,
            });
        if rotated % 2 == 1 || wide.is_some_and(|wide| rotated > wide) {
            let key = self.name("rope.dimension_count");
            let wide = wide.map_or(String::new(), |wide| format!(" of {wide} at most"));
            return Err(format!(
                "its {key} is {rotated}, and must be an even number{wide}"
            ));
        }
        Ok(())
    }

    /// Lists that belong to the tokens are as long, and of the types that llama.cpp reads without
    /// asking. source: llama-vocab.cpp, `llama_vocab::impl::load`
    fn tokenizer(&self) -> Result<(), String> {
        let Some(tokens) = self.header.get(TOKENS) else {
            return Ok(());
        };
        let Some(tokens) = tokens.as_strings() else {
            return Err(format!("its {TOKENS} is no list of texts"));
        };
        if tokens.is_empty() {
            return Err(format!("its {TOKENS} is empty"));
        }
        for (key, kind) in [
            ("tokenizer.ggml.scores", ValueKind::F32),
            ("tokenizer.ggml.token_type", ValueKind::I32),
        ] {
            let Some(found) = self.header.get(key) else {
                continue;
            };
            let right = |list: &&Array| list.element_kind() == kind && list.len() == tokens.len();
            if found.as_array().filter(right).is_none() {
                let count = tokens.len();
                let found = described(found);
                let kind = format!("{kind:?}").to_lowercase();
                return Err(format!(
                    "its {key} is {found}, and must be a list of {count} {kind}, one for each token"
                ));
            }
        }
        let merges = "tokenizer.ggml.merges";
        match self.header.get(merges) {
            Some(found) if found.as_strings().is_none() => {
                let found = described(found);
                Err(format!(
                    "its {merges} is {found}, and must be a list of texts"
                ))
            }
            _ => Ok(()),
        }
    }
}

/// What stands there, in words.
fn described(found: &Value) -> String {
    match found {
        Value::Array(list) => format!("a list of {} {:?}", list.len(), list.element_kind()),
        other => format!("a {:?}", other.kind()),
    }
    .to_lowercase()
}

/// source: ggml-cpu.c, the types that have `vec_dot`; ggml-cpu/ops.cpp, what is added and multiplied
/// element by element
fn tensor(tensor: &Tensor) -> Result<(), String> {
    use TensorKind::{F64, I8, I16, I32, I64, Q8_1, Q8_K};

    let (name, kind) = (&tensor.name, tensor.kind);
    // A table that says which expert a token goes to.
    let is_table = kind == I32 && name.contains("tid2eid");
    if matches!(kind, F64 | I8 | I16 | I32 | I64 | Q8_1 | Q8_K) && !is_table {
        return Err(format!(
            "its tensor {name:?} is of type {kind}, and there is no product for that"
        ));
    }
    let is_vector = tensor.shape[1..].iter().all(|size| *size == 1);
    if is_vector && kind.block_elements() > 1 {
        return Err(format!(
            "its tensor {name:?} is a vector of type {kind}, and vectors are not quantized"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use translora_gguf::{Gguf, Writer};

    use super::*;

    type Change = fn(&mut Writer<'_>);

    fn checked(change: Change) -> Result<(), String> {
        let mut writer = Writer::new();
        writer.set("general.architecture", "llama");
        for (key, count) in [
            ("block_count", 2_u32),
            ("embedding_length", 64),
            ("attention.head_count", 4),
            ("rope.dimension_count", 16),
        ] {
            writer.set(format!("llama.{key}"), count);
        }
        writer
            .set("llama.attention.layer_norm_rms_epsilon", 1e-5_f32)
            .set("llama.rope.freq_base", 1e4_f32)
            .set(TOKENS, vec!["a".to_owned(), "b".to_owned()])
            .set("tokenizer.ggml.token_type", vec![1_i32, 1])
            .set("tokenizer.ggml.merges", vec!["a b".to_owned()]);
        writer.tensor_f32("output_norm.weight", &[64], &[1.0; 64]);
        change(&mut writer);
        check(&Gguf::parse(&writer.to_bytes().expect("small")).expect("whole"))
    }

    /// A change to a sound model, and what is said of it; nothing where it is still one.
    #[test]
    fn a_table_of_keys() {
        let rows: &[(Change, &str)] = &[
            (|_| {}, ""),
            (|w| _ = w.set("general.alignment", 64_u32), ""),
            (
                |w| _ = w.set("general.alignment", 8_u32),
                "general.alignment is 8",
            ),
            (
                |w| _ = w.set("llama.block_count", 0_u32),
                "block_count is 0",
            ),
            (|w| _ = w.set("llama.block_count", 512_u32), ""),
            (|w| _ = w.set("llama.block_count", 513_u32), "1 to 512"),
            (
                |w| _ = w.set("llama.nextn_predict_layers", 3_u32),
                "has 2 layers",
            ),
            (
                |w| _ = w.set("llama.expert_count", 1025_u32),
                "1024 at most",
            ),
            (
                |w| _ = w.set("llama.expert_count", 4_u32),
                "expert_used_count is 0",
            ),
            (
                |w| _ = w.set("llama.expert_used_count", 2_u32),
                "has 0 experts",
            ),
            (
                |w| {
                    _ = w
                        .set("llama.expert_count", 4_u32)
                        .set("llama.expert_used_count", 2_u32);
                },
                "",
            ),
            (
                |w| _ = w.set("llama.attention.layer_norm_rms_epsilon", -1e-5_f32),
                "must be 0 or more",
            ),
            (
                |w| _ = w.set("llama.attention.layer_norm_rms_epsilon", f32::NAN),
                "epsilon is NaN",
            ),
            (
                |w| _ = w.set("llama.rope.freq_base", f32::INFINITY),
                "freq_base is inf",
            ),
            (
                |w| _ = w.set("llama.rope.scaling.type", "spiral"),
                "must be one of none",
            ),
            (
                |w| _ = w.set("llama.rope.dimension_count", 15_u32),
                "an even number",
            ),
            (
                |w| _ = w.set("llama.rope.dimension_count", 32_u32),
                "of 16 at most",
            ),
            (
                |w| {
                    w.set("llama.ssm.state_size", 0_u32);
                    w.tensor_f32("blk.0.ssm_a", &[64], &[1.0; 64]);
                },
                "state_size is 0",
            ),
            (|w| _ = w.set("llama.ssm.state_size", 0_u32), ""),
            (|w| _ = w.set(TOKENS, vec![1_u32]), "no list of texts"),
            (|w| _ = w.set(TOKENS, Vec::<String>::new()), "is empty"),
            (
                |w| _ = w.set("tokenizer.ggml.token_type", vec![1_i32]),
                "a list of 2 i32, one for each token",
            ),
            (
                |w| _ = w.set("tokenizer.ggml.scores", vec![1_u8, 2]),
                "a list of 2 u8",
            ),
            (
                |w| _ = w.set("tokenizer.ggml.merges", vec![1_u32]),
                "a list of texts",
            ),
            (
                |w| {
                    w.retain_tensors(|part| {
                        part.kind = TensorKind::I32;
                        true
                    });
                },
                "there is no product",
            ),
        ];
        for (number, (change, says)) in rows.iter().enumerate() {
            match checked(*change) {
                Ok(()) => assert_eq!(*says, "", "row {number}"),
                Err(said) => assert!(!says.is_empty() && said.contains(says), "{number}: {said}"),
            }
        }
    }
}
