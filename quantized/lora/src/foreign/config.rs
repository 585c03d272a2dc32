//! What an `adapter_config.json` says: the scale of each module, and what a GGUF cannot hold.

use std::fmt;
use std::marker::PhantomData;

use regex::{Regex, RegexBuilder};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::ForeignError;

/// The longest configuration. units: bytes
pub(super) const CONFIG_BYTES_MAX: u64 = 4 << 20;
/// What a pattern of modules may compile to. units: bytes
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// How the modules of an adapter are scaled.
#[derive(Debug)]
pub(super) struct Scales {
    /// The alpha that is written: each pair is scaled by alpha / rank.
    pub(super) alpha: f64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Peft(Box<Peft>),
    /// One factor for all modules, whatever their rank.
    Mlx(f64),
}

#[derive(Debug)]
struct Peft {
    rank: usize,
    alpha: f64,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
    rank_stabilized: bool,
}

/// PEFT's `LoraConfig`, as far as it changes what an adapter computes.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PeftFile {
    peft_type: Option<String>,
    r: Option<usize>,
    lora_alpha: Option<f64>,
    rank_pattern: Ordered<usize>,
    alpha_pattern: Ordered<f64>,
    use_rslora: Option<bool>,
    init_lora_weights: Option<Value>,
}

/// An object whose keys keep their order: the first pattern that matches counts.
#[derive(Debug)]
struct Ordered<T>(Vec<(String, T)>);

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Pairs<T> {
            type Value = Ordered<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of patterns and numbers")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Ordered::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Ordered(pairs))
            }
        }
        deserializer.deserialize_any(Pairs(PhantomData))
    }
}

/// MLX's configuration of a fine-tuning run.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MlxFile {
    fine_tune_type: Option<String>,
    lora_parameters: Option<MlxParameters>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MlxParameters {
    rank: Option<usize>,
    scale: Option<f64>,
}

/// The key of the one that can be merged all the same.
pub(super) const DORA: &str = "use_dora";

/// Keys of PEFT under which an adapter computes something else than scaled products.
const VARIANTS: [(&str, &str); 11] = [
    (DORA, "DoRA"),
    ("use_qalora", "QALoRA"),
    ("use_bdlora", "block-diagonal LoRA"),
    ("alora_invocation_tokens", "an activated LoRA"),
    ("arrow_config", "Arrow, which mixes several adapters"),
    ("kasa_config", "KaSA"),
    ("monteclora_config", "MonteCLoRA"),
    ("layer_replication", "layers that are copies of others"),
    ("modules_to_save", "modules that are trained whole"),
    ("trainable_token_indices", "tokens that are trained whole"),
    ("lora_bias", "a bias on B"),
];

/// Initializations under which the matrices of the base are no longer those of the base's file.
const MOVES_THE_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

impl Scales {
    /// Reads a configuration.
    ///
    /// fails: another method than LoRA, a variant that a GGUF cannot hold (of those `dora` alone may
    /// be allowed), or no alpha
    pub(super) fn read(json: &[u8], dora: bool) -> Result<Self, ForeignError> {
        let value: Value = serde_json::from_slice(json).map_err(ForeignError::Config)?;
        if value.get("peft_type").is_some() {
            Self::peft(&value, json, dora)
        } else if value.get("lora_parameters").is_some() || value.get("fine_tune_type").is_some() {
            Self::mlx(json)
        } else {
            Err(ForeignError::Unknown)
        }
    }

    fn peft(value: &Value, json: &[u8], dora: bool) -> Result<Self, ForeignError> {
        let is_set = |key: &str| match value.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(items)) => !items.is_empty(),
            Some(_) => true,
        };
        let mut variants = VARIANTS
            .into_iter()
            .filter(|(key, _)| !dora || *key != DORA);
        let variant = variants.find(|(key, _)| is_set(key));
        let file: PeftFile = serde_json::from_slice(json).map_err(ForeignError::Config)?;
        let method = file.peft_type.unwrap_or_default();
        if !method.eq_ignore_ascii_case("lora") {
            return Err(ForeignError::Method { found: method });
        }
        if let Some((key, what)) = variant {
            return Err(ForeignError::Variant { key, what });
        }
        if let Some(Value::String(found)) = &file.init_lora_weights
            && MOVES_THE_BASE.iter().any(|name| found.starts_with(name))
        {
            return Err(ForeignError::Variant {
                key: "init_lora_weights",
                what: "an adapter for a base whose weights were changed before training",
            });
        }
        let rank = file.r.ok_or(ForeignError::NoKey { key: "r" })?;
        let alpha = number("lora_alpha", file.lora_alpha)?;
        for (_, alpha) in &file.alpha_pattern.0 {
            number("alpha_pattern", Some(*alpha))?;
        }
        let rank_stabilized = file.use_rslora.unwrap_or(false);
        Ok(Self {
            alpha: if rank_stabilized {
                alpha * (rank as f64).sqrt()
            } else {
                alpha
            },
            kind: Kind::Peft(Box::new(Peft {
                rank,
                alpha,
                ranks: patterns(file.rank_pattern)?,
                alphas: patterns(file.alpha_pattern)?,
                rank_stabilized,
            })),
        })
    }

    fn mlx(json: &[u8]) -> Result<Self, ForeignError> {
        let file: MlxFile = serde_json::from_slice(json).map_err(ForeignError::Config)?;
        let method = file.fine_tune_type.unwrap_or_else(|| "lora".into());
        if method != "lora" {
            return Err(ForeignError::Method { found: method });
        }
        let parameters = file.lora_parameters.unwrap_or_default();
        let scale = number("scale", parameters.scale)?;
        let rank = parameters.rank.ok_or(ForeignError::NoKey { key: "rank" })?;
        Ok(Self {
            alpha: scale * rank as f64,
            kind: Kind::Mlx(scale),
        })
    }

    /// Gives what B · A of a module is scaled by.
    ///
    /// fails: its rank is another than the configuration gives it
    pub(super) fn of(&self, module: &str, rank: usize) -> Result<f64, ForeignError> {
        let peft = match &self.kind {
            Kind::Mlx(scale) => return Ok(*scale),
            Kind::Peft(peft) => peft,
        };
        let config = find(&peft.ranks, module).unwrap_or(peft.rank);
        if config != rank {
            return Err(ForeignError::Rank {
                module: module.to_owned(),
                found: rank,
                config,
            });
        }
        let alpha = find(&peft.alphas, module).unwrap_or(peft.alpha);
        let rank = rank as f64;
        Ok(alpha
            / if peft.rank_stabilized {
                rank.sqrt()
            } else {
                rank
            })
    }
}

fn number(key: &'static str, found: Option<f64>) -> Result<f64, ForeignError> {
    match found {
        Some(number) if number.is_finite() && number != 0.0 => Ok(number),
        Some(found) => Err(ForeignError::Number { key, found }),
        None => Err(ForeignError::NoKey { key }),
    }
}

/// PEFT matches a pattern against the end of a module's path, from a dot on.
///
/// source: PEFT, `get_pattern_key`
fn patterns<T>(from: Ordered<T>) -> Result<Vec<(Regex, T)>, ForeignError> {
    from.0
        .into_iter()
        .map(|(pattern, value)| {
            let regex = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{pattern})$"))
                .size_limit(PATTERN_BYTES_MAX)
                .build()
                .map_err(|source| ForeignError::Pattern {
                    pattern,
                    source: Box::new(source),
                })?;
            Ok((regex, value))
        })
        .collect()
}

fn find<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    let matching = patterns.iter().find(|(regex, _)| regex.is_match(module));
    matching.map(|(_, value)| *value)
}
