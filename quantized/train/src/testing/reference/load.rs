//! Turns a model file into floats, and refuses what the reference would compute wrongly.

use super::parts::{Linear, Norm, Rope};
use super::{Layer, ReferenceError, ReferenceModel, Result};
use std::collections::BTreeSet;
use translora_gguf::{Gguf, Tensor, Value, dequantize};

/// Turns a tensor into floats.
pub(super) fn floats(gguf: &Gguf<'_>, tensor: &Tensor) -> Result<Vec<f32>> {
    dequantize(tensor.kind, gguf.data(tensor)).map_err(|source| ReferenceError::Blocks {
        tensor: tensor.name.clone(),
        source,
    })
}

/// Turns a model file into floats.
pub(super) fn model(gguf: &Gguf<'_>) -> Result<ReferenceModel> {
    let architecture = gguf
        .get("general.architecture")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !["llama", "qwen2", "qwen3"].contains(&architecture) {
        return Err(ReferenceError::Architecture(architecture.to_owned()));
    }
    let mut loader = Loader {
        gguf,
        architecture,
        used: BTreeSet::new(),
    };
    let sizes = loader.sizes()?;
    let vocabulary = gguf
        .tensor("token_embd.weight")
        .and_then(|t| t.shape.get(1))
        .map_or(0, |&n| n as usize);
    let embedding = loader.linear("token_embd", sizes.width, vocabulary)?;
    let has_output = gguf.tensor("output.weight").is_some();
    let output = has_output
        .then(|| loader.linear("output", sizes.width, vocabulary))
        .transpose()?;
    let norm = loader.norm("output_norm", sizes.width)?;
    let rope = loader.rope(sizes.key_length)?;
    let layers = (0..loader.size("block_count")?)
        .map(|block| loader.layer(block, &sizes))
        .collect::<Result<_>>()?;
    if let Some(tensor) = gguf
        .tensors()
        .iter()
        .find(|tensor| !loader.used.contains(&tensor.name))
    {
        return Err(ReferenceError::Unexpected(tensor.name.clone()));
    }
    let Sizes {
        heads,
        kv_heads,
        key_length,
        value_length,
        ..
    } = sizes;
    Ok(ReferenceModel {
        heads,
        kv_heads,
        key_length,
        value_length,
        rope,
        embedding,
        layers,
        norm,
        output,
    })
}

/// Holds the dimensions of every layer.
struct Sizes {
    width: usize,
    feed_forward: usize,
    heads: usize,
    kv_heads: usize,
    key_length: usize,
    value_length: usize,
}

/// Takes tensors and metadata out of a file, and remembers which tensors were taken.
struct Loader<'a> {
    gguf: &'a Gguf<'a>,
    architecture: &'a str,
    used: BTreeSet<String>,
}

impl Loader<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn size(&self, key: &str) -> Result<usize> {
        let key = self.key(key);
        let size = self
            .gguf
            .get(&key)
            .and_then(Value::as_u64)
            .and_then(|n| u32::try_from(n).ok());
        size.map(|n| n as usize)
            .ok_or(ReferenceError::Metadata(key))
    }

    fn size_or(&self, key: &str, absent: usize) -> Result<usize> {
        if self.gguf.get(&self.key(key)).is_none() {
            Ok(absent)
        } else {
            self.size(key)
        }
    }

    fn float(&self, key: &str) -> Option<f64> {
        self.gguf.get(&self.key(key)).and_then(Value::as_f64)
    }

    /// Takes a tensor of exactly this shape; `None` where there is none of the name.
    fn optional(&mut self, name: String, shape: &[usize]) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.gguf.tensor(&name) else {
            return Ok(None);
        };
        let expected: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        if tensor.shape != expected {
            return Err(ReferenceError::Shape {
                tensor: name,
                expected,
                got: tensor.shape.clone(),
            });
        }
        self.used.insert(name);
        floats(self.gguf, tensor).map(Some)
    }

    fn linear(&mut self, stem: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        let name = format!("{stem}.weight");
        let weight = self
            .optional(name.clone(), &[inputs, outputs])?
            .ok_or(ReferenceError::Missing(name.clone()))?;
        let bias = self.optional(format!("{stem}.bias"), &[outputs])?;
        Ok(Linear {
            name,
            inputs,
            outputs,
            weight,
            bias,
        })
    }

    fn norm(&mut self, stem: &str, width: usize) -> Result<Norm> {
        let key = "attention.layer_norm_rms_epsilon";
        let epsilon = self
            .float(key)
            .ok_or_else(|| ReferenceError::Metadata(self.key(key)))?;
        let name = format!("{stem}.weight");
        let weight = self
            .optional(name.clone(), &[width])?
            .ok_or(ReferenceError::Missing(name))?;
        Ok(Norm { weight, epsilon })
    }

    fn sizes(&self) -> Result<Sizes> {
        let width = self.size("embedding_length")?;
        let heads = self.size("attention.head_count")?;
        let kv_heads = self.size_or("attention.head_count_kv", heads)?;
        if heads == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(ReferenceError::Metadata(
                self.key("attention.head_count_kv"),
            ));
        }
        let key_length = self.size_or("attention.key_length", width / heads)?;
        let value_length = self.size_or("attention.value_length", width / heads)?;
        Ok(Sizes {
            width,
            feed_forward: self.size("feed_forward_length")?,
            heads,
            kv_heads,
            key_length,
            value_length,
        })
    }

    fn layer(&mut self, block: usize, sizes: &Sizes) -> Result<Layer> {
        let &Sizes {
            width,
            feed_forward,
            heads,
            kv_heads,
            key_length,
            value_length,
        } = sizes;
        let stem = |part: &str| format!("blk.{block}.{part}");
        let norms_heads = self.architecture == "qwen3";
        let mut head_norm = |part| {
            norms_heads
                .then(|| self.norm(&stem(part), key_length))
                .transpose()
        };
        Ok(Layer {
            q_norm: head_norm("attn_q_norm")?,
            k_norm: head_norm("attn_k_norm")?,
            attn_norm: self.norm(&stem("attn_norm"), width)?,
            q: self.linear(&stem("attn_q"), width, heads * key_length)?,
            k: self.linear(&stem("attn_k"), width, kv_heads * key_length)?,
            v: self.linear(&stem("attn_v"), width, kv_heads * value_length)?,
            output: self.linear(&stem("attn_output"), heads * value_length, width)?,
            ffn_norm: self.norm(&stem("ffn_norm"), width)?,
            gate: self.linear(&stem("ffn_gate"), width, feed_forward)?,
            up: self.linear(&stem("ffn_up"), width, feed_forward)?,
            down: self.linear(&stem("ffn_down"), feed_forward, width)?,
        })
    }

    /// Computes the angles: base^(−2i/n) / (linear scale · the file's own factor for the pair).
    fn rope(&mut self, key_length: usize) -> Result<Rope> {
        let rotated = self.size_or("rope.dimension_count", key_length)?;
        if rotated == 0 || rotated % 2 == 1 || rotated > key_length {
            return Err(ReferenceError::Metadata(self.key("rope.dimension_count")));
        }
        let kind_key = self.key("rope.scaling.type");
        let scale = match self.gguf.get(&kind_key).map(Value::as_str) {
            Some(Some("none")) => 1.0,
            None | Some(Some("linear")) => self
                .float("rope.scaling.factor")
                .filter(|&scale| scale != 0.0)
                .unwrap_or(1.0),
            Some(_) => return Err(ReferenceError::Metadata(kind_key)),
        };
        let base = self.float("rope.freq_base").unwrap_or(10_000.0);
        let factors = self
            .optional("rope_freqs.weight".into(), &[rotated / 2])?
            .unwrap_or_else(|| vec![1.0; rotated / 2]);
        let power = |i: usize| base.powf(-2.0 * i as f64 / rotated as f64);
        let frequencies = factors
            .iter()
            .enumerate()
            .map(|(i, &factor)| power(i) / (scale * f64::from(factor)))
            .collect();
        Ok(Rope {
            interleaved: self.architecture == "llama",
            frequencies,
        })
    }
}
