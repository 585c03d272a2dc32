//! Writes a GGUF adapter as PEFT saves one.

use std::collections::{BTreeMap, BTreeSet};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};
use serde_json::{Value as Json, json};
use translora_gguf::{Gguf, GgufError, Tensor, TensorKind, dequantize};

use super::tensors::Numbers;
use super::{CONFIG, ForeignError, WEIGHTS, names, paired_rows};
use crate::base::{Base, EMBEDDING};
use crate::{Half, Lora, LoraError, Pair};

/// The files of a PEFT folder, by their names.
pub type Files = [(&'static str, Vec<u8>); 2];

/// A tensor of PEFT: its type, shape and bytes. shapes: the row last
type Saved = (Dtype, Vec<usize>, Vec<u8>);

/// Writes an adapter as PEFT saves it: what its names, order of rows and settings are there.
///
/// Floats keep their type; quantized numbers become F32.
///
/// fails: it does not fit the base, or transformers has no module for one of its matrices
pub fn to_peft(adapter: &[u8], base: &Base) -> Result<Files, LoraError> {
    let gguf = Gguf::parse(adapter)?;
    let lora = Lora::of(&gguf)?;
    lora.fits(base)?;
    let paired = names::paired(base.architecture())?;
    let (mut tensors, mut ranks) = (BTreeMap::new(), BTreeMap::new());
    for pair in lora.pairs() {
        let name = names::module(base.architecture(), &pair.matrix);
        let name = name.ok_or_else(|| ForeignError::NoModule {
            matrix: pair.matrix.clone(),
        })?;
        let (a, b) = (half(&gguf, pair, Half::A)?, half(&gguf, pair, Half::B)?);
        for expert in 0..a.experts {
            let path = name.replace("{}", &expert.to_string());
            let mut b = b.of(expert);
            if paired && let Some(order) = paired_rows(base, &pair.matrix, b.numbers.rows)? {
                b.numbers = b.numbers.rows(inverse(&order));
            }
            let mut a = a.of(expert);
            if pair.matrix == EMBEDDING {
                a.numbers = a.numbers.transposed();
            }
            let ends = if pair.matrix == EMBEDDING {
                ["lora_embedding_A", "lora_embedding_B"]
            } else {
                ["lora_A.weight", "lora_B.weight"]
            };
            for (end, half) in ends.into_iter().zip([a, b]) {
                tensors.insert(format!("base_model.model.{path}.{end}"), half.saved());
            }
            ranks.insert(path, pair.rank);
        }
    }
    let config = config(&lora, base, &ranks);
    let config = serde_json::to_vec_pretty(&config).map_err(ForeignError::Config)?;
    Ok([(CONFIG, config), (WEIGHTS[0], weights(&tensors)?)])
}

/// A half with its type in the file.
struct Typed {
    kind: TensorKind,
    experts: usize,
    numbers: Numbers,
}

fn half(gguf: &Gguf<'_>, pair: &Pair, half: Half) -> Result<Typed, LoraError> {
    let missing = || LoraError::HalfMissing {
        matrix: pair.matrix.clone(),
        missing: half,
    };
    let tensor = gguf.tensor(&format!("{}.{half}", pair.matrix));
    let tensor = tensor.ok_or_else(missing)?;
    let side = |side| side_of(tensor, side);
    let numbers = Numbers {
        experts: side(2)?,
        rows: side(1)?,
        columns: side(0)?,
        values: dequantize(tensor.kind, gguf.data(tensor))?,
    };
    Ok(Typed {
        kind: tensor.kind,
        experts: numbers.experts,
        numbers,
    })
}

fn side_of(tensor: &Tensor, side: usize) -> Result<usize, GgufError> {
    let size = tensor.shape.get(side).copied().unwrap_or(1);
    usize::try_from(size).map_err(|_| GgufError::ShapeOverflow {
        tensor: tensor.name.clone(),
        offset: tensor.offset,
        shape: tensor.shape.clone(),
    })
}

impl Typed {
    /// Takes the matrix of one expert.
    fn of(&self, expert: usize) -> Self {
        let (rows, columns) = (self.numbers.rows, self.numbers.columns);
        let values = &self.numbers.values[expert * rows * columns..][..rows * columns];
        Self {
            kind: self.kind,
            experts: 1,
            numbers: Numbers {
                experts: 1,
                rows,
                columns,
                values: values.to_vec(),
            },
        }
    }

    fn saved(&self) -> Saved {
        let values = self.numbers.values.iter();
        let (kind, bytes) = match self.kind {
            TensorKind::F16 => (
                Dtype::F16,
                values
                    .flat_map(|x| half::f16::from_f32(*x).to_le_bytes())
                    .collect(),
            ),
            TensorKind::BF16 => (
                Dtype::BF16,
                values
                    .flat_map(|x| half::bf16::from_f32(*x).to_le_bytes())
                    .collect(),
            ),
            _ => (Dtype::F32, values.flat_map(|x| x.to_le_bytes()).collect()),
        };
        (kind, vec![self.numbers.rows, self.numbers.columns], bytes)
    }
}

/// Turns an order of rows around.
fn inverse(order: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; order.len()];
    for (to, from) in order.iter().enumerate() {
        inverse[*from] = to;
    }
    inverse
}

fn weights(tensors: &BTreeMap<String, Saved>) -> Result<Vec<u8>, ForeignError> {
    let views = tensors.iter().map(|(name, (kind, shape, bytes))| {
        Ok((name, TensorView::new(*kind, shape.clone(), bytes)?))
    });
    let views = views.collect::<Result<Vec<_>, _>>();
    let metadata = [("format".to_owned(), "pt".to_owned())];
    views
        .and_then(|views| serialize(views, Some(metadata.into())))
        .map_err(ForeignError::Safetensors)
}

/// The settings under which PEFT computes the same. Each module is scaled by alpha / rank here and
/// there.
fn config(lora: &Lora, base: &Base, ranks: &BTreeMap<String, u64>) -> Json {
    let mut count = BTreeMap::<u64, usize>::new();
    for rank in ranks.values() {
        *count.entry(*rank).or_default() += 1;
    }
    let usual = count.iter().max_by_key(|(_, count)| **count);
    let rank = usual.map_or(lora.rank(), |(rank, _)| *rank);
    let others: BTreeMap<&String, u64> = ranks
        .iter()
        .filter(|(_, of)| **of != rank)
        .map(|(path, of)| (path, *of))
        .collect();
    let alpha = f64::from(lora.alpha());
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": null,
        "r": rank,
        "lora_alpha": if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(alpha) },
        "lora_dropout": 0.0,
        "target_modules": targets(base, ranks),
        "rank_pattern": others,
        "alpha_pattern": {},
        "use_rslora": false,
        "use_dora": false,
        "bias": "none",
        "fan_in_fan_out": false,
        "modules_to_save": null,
        "inference_mode": true,
        "init_lora_weights": true,
    })
}

/// What PEFT is to adapt: the last words of the paths where that names nothing more, else the paths.
fn targets(base: &Base, ranks: &BTreeMap<String, u64>) -> Vec<String> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let short: BTreeSet<String> = ranks.keys().map(|path| last(path)).collect();
    let all = base.names().filter_map(|matrix| {
        let name = names::module(base.architecture(), matrix)?;
        short.contains(&last(&name)).then_some((matrix, name))
    });
    let more = |(matrix, name): (&str, String)| {
        let experts = base.shape(matrix).map_or(1, |shape| shape[2]);
        (0..experts).any(|expert| !ranks.contains_key(&name.replace("{}", &expert.to_string())))
    };
    if all.into_iter().any(more) {
        ranks.keys().cloned().collect()
    } else {
        short.into_iter().collect()
    }
}
