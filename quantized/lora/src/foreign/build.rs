//! Puts modules where the base has their matrices, and writes them as GGUF.

use std::collections::BTreeMap;

use translora_gguf::Writer;

use super::config::{DORA, Scales};
use super::names::{self, Place};
use super::tensors::{Module, Numbers};
use super::{ForeignError, paired_rows};
use crate::base::{Base, EMBEDDING};
use crate::read::MAGNITUDE;
use crate::{Half, LoraError};

/// Scales that differ by less are one: what is left of them is rounding.
const SAME_SCALE: f64 = 1e-9;

/// What adapts one matrix of the base: a module, or one for each of some experts.
struct Adapted {
    /// shapes: (experts, rank, in)
    a: Numbers,
    /// shapes: (experts, out, rank)
    b: Numbers,
    /// See [`Module::magnitude`].
    magnitude: Option<Numbers>,
}

/// One module and what its product is scaled by.
struct Scaled {
    module: Module,
    scale: f64,
}

/// The modules of an expert matrix, by their numbers.
type Experts = BTreeMap<usize, Scaled>;

/// Writes modules as an adapter for a base.
///
/// source: llama.cpp, `convert_lora_to_gguf.py`
/// fails: a module has no place in the base, or the rows of one cannot be brought into its order
pub(super) fn gguf(
    base: &Base,
    scales: &Scales,
    modules: BTreeMap<String, Module>,
) -> Result<Vec<u8>, LoraError> {
    let paired = names::paired(base.architecture())?;
    let (mut single, mut experts) = (BTreeMap::new(), BTreeMap::<String, Experts>::new());
    for (path, module) in modules {
        let place = names::place(base, &path)?;
        rows_have_lengths(base, &path, &place, &module)?;
        let module = match &place {
            Place::Experts { down, .. } => by_expert(base, &path, down, &module)?,
            _ => module,
        };
        let scale = scales.of(&path, module.rank())?;
        match place {
            Place::Experts { fused, down } => {
                let shape = [module.a.columns as u64, module.b.rows as u64];
                if base.shape(&down).is_some_and(|down| down[..2] == shape) {
                    put(&mut single, down, Scaled { module, scale })?;
                } else {
                    for (matrix, module) in split(base, &path, &fused, &module)? {
                        put(&mut single, matrix, Scaled { module, scale })?;
                    }
                }
            }
            Place::Matrix(matrix) => {
                put(&mut single, matrix, Scaled { module, scale })?;
            }
            Place::Fused(matrices) => {
                for (matrix, module) in split(base, &path, &matrices, &module)? {
                    put(&mut single, matrix, Scaled { module, scale })?;
                }
            }
            Place::Expert(matrix, expert) => {
                let count = base.shape(&matrix).map_or(0, |shape| shape[2]);
                if expert as u64 >= count {
                    let experts = count;
                    return Err(ForeignError::Expert {
                        matrix,
                        expert,
                        experts,
                    }
                    .into());
                }
                let of = experts.entry(matrix).or_default();
                of.insert(expert, Scaled { module, scale });
            }
        }
    }
    let mut adapted = BTreeMap::new();
    for (matrix, scaled) in single {
        adapted.insert(matrix.clone(), one(base, &matrix, paired, scaled, scales)?);
    }
    for (matrix, experts) in experts {
        if adapted.contains_key(&matrix) {
            return Err(ForeignError::Twice { matrix }.into());
        }
        let count = base.shape(&matrix).map_or(0, |shape| shape[2] as usize);
        adapted.insert(matrix.clone(), stacked(&matrix, &experts, count, scales)?);
    }
    written(base, scales.alpha as f32, &adapted)
}

/// DoRA scales the rows of plain matrices only; of others PEFT takes other lengths.
fn rows_have_lengths(
    base: &Base,
    path: &str,
    place: &Place,
    module: &Module,
) -> Result<(), LoraError> {
    let Some(magnitude) = &module.magnitude else {
        return Ok(());
    };
    let plain = match place {
        Place::Matrix(matrix) => {
            matrix != EMBEDDING && base.shape(matrix).is_none_or(|s| s[2] == 1)
        }
        Place::Fused(_) => true,
        Place::Experts { .. } | Place::Expert(..) => false,
    };
    if !plain {
        let (key, what) = (DORA, "DoRA on experts or on a table of words");
        return Err(ForeignError::Variant { key, what }.into());
    }
    if magnitude.rows != module.b.rows {
        let (tensor, shape) = (path.to_owned(), vec![magnitude.rows]);
        return Err(ForeignError::Dimensions { tensor, shape }.into());
    }
    Ok(())
}

fn put(
    single: &mut BTreeMap<String, Scaled>,
    matrix: String,
    scaled: Scaled,
) -> Result<(), ForeignError> {
    if single.contains_key(&matrix) {
        return Err(ForeignError::Twice { matrix });
    }
    single.insert(matrix, scaled);
    Ok(())
}

/// Splits a module by the rows of the matrices that it holds. A is the same for all of them.
fn split(
    base: &Base,
    path: &str,
    matrices: &[String],
    module: &Module,
) -> Result<Vec<(String, Module)>, ForeignError> {
    let rows = |matrix: &String| base.shape(matrix).map_or(0, |shape| shape[1]);
    let expected: u64 = matrices.iter().map(rows).sum();
    if expected != module.b.rows as u64 {
        return Err(ForeignError::Fused {
            module: path.to_owned(),
            rows: module.b.rows,
            expected,
        });
    }
    let mut from = 0;
    let part = |matrix: &String| {
        let to = from + rows(matrix) as usize;
        let b = module.b.rows_of_each(from..to);
        let magnitude = module.magnitude.as_ref();
        let magnitude = magnitude.map(|all| all.rows_of_each(from..to));
        from = to;
        let a = module.a.clone();
        (matrix.clone(), Module { a, b, magnitude })
    };
    Ok(matrices.iter().map(part).collect())
}

/// Takes a parameter apart that holds the experts of a layer: A has the rows of one after the other,
/// B the columns of all in turn.
///
/// source: PEFT, `ParamWrapper.get_delta_weight`
fn by_expert(
    base: &Base,
    path: &str,
    matrix: &str,
    module: &Module,
) -> Result<Module, ForeignError> {
    let experts = base.shape(matrix).map_or(1, |shape| shape[2] as usize);
    if !module.rank().is_multiple_of(experts) || module.a.experts != 1 {
        return Err(ForeignError::Rank {
            module: path.to_owned(),
            found: module.rank(),
            config: experts,
        });
    }
    let (rank, outputs) = (module.rank() / experts, module.b.rows);
    let places = (0..experts).flat_map(|expert| (0..outputs * rank).map(move |at| (expert, at)));
    let values = places.map(|(expert, at)| module.b.values[at * experts + expert]);
    Ok(Module {
        a: Numbers {
            experts,
            rows: rank,
            ..module.a.clone()
        },
        b: Numbers {
            experts,
            rows: outputs,
            columns: rank,
            values: values.collect(),
        },
        magnitude: None,
    })
}

/// Brings one module into the order of the base, with its scale.
fn one(
    base: &Base,
    matrix: &str,
    paired: bool,
    scaled: Scaled,
    scales: &Scales,
) -> Result<Adapted, LoraError> {
    let Scaled { module, scale } = scaled;
    let rank = module.rank();
    let Module {
        mut a,
        mut b,
        mut magnitude,
    } = module;
    let mut pair = [a.columns as u64, b.rows as u64];
    if matrix == EMBEDDING {
        // A word goes in, a row of the table comes out.
        pair.reverse();
    }
    let base_shape = base.shape(matrix);
    if let Some([inputs, outputs, _]) = base_shape
        && [inputs, outputs] != pair
    {
        return Err(LoraError::Shape {
            matrix: matrix.to_owned(),
            base: [inputs, outputs],
            pair,
        });
    }
    if paired && let Some(order) = paired_rows(base, matrix, b.rows)? {
        magnitude = magnitude.map(|all| all.rows(order.iter().copied()));
        b = b.rows(order);
    }
    if matrix == EMBEDDING {
        // llama.cpp takes rows of the table out of A.
        a = a.transposed();
    }
    fold(&mut b.values, scale, scales.alpha, rank);
    Ok(Adapted { a, b, magnitude })
}

/// Puts the modules of experts one after the other. One that was not adapted is zero; one of lower
/// rank has zeros in the rest.
fn stacked(
    matrix: &str,
    experts: &Experts,
    count: usize,
    scales: &Scales,
) -> Result<Adapted, LoraError> {
    let rank = experts.values().map(|of| of.module.rank()).max();
    let first = experts.values().next();
    let (Some(rank), Some(first)) = (rank, first) else {
        return Err(LoraError::Nothing {
            reason: "there is no tensor in it",
        });
    };
    let (inputs, outputs) = (first.module.a.columns, first.module.b.rows);
    let zeros = |rows: usize, columns: usize| Numbers {
        experts: count,
        rows,
        columns,
        values: vec![0.0; count * rows * columns],
    };
    let (mut a, mut b) = (zeros(rank, inputs), zeros(outputs, rank));
    for (expert, Scaled { module, scale }) in experts {
        let (of_a, of_b) = (&module.a, &module.b);
        if (of_a.columns, of_b.rows, of_a.experts) != (inputs, outputs, 1) {
            return Err(LoraError::Shape {
                matrix: matrix.to_owned(),
                base: [inputs as u64, outputs as u64],
                pair: [of_a.columns as u64, of_b.rows as u64],
            });
        }
        a.values[expert * rank * inputs..][..of_a.values.len()].copy_from_slice(&of_a.values);
        let place = &mut b.values[expert * outputs * rank..][..outputs * rank];
        let rows = place.chunks_exact_mut(rank);
        for (to, from) in rows.zip(of_b.values.chunks_exact(of_b.columns)) {
            to[..from.len()].copy_from_slice(from);
        }
        fold(place, *scale, scales.alpha, rank);
    }
    let magnitude = None;
    Ok(Adapted { a, b, magnitude })
}

/// Multiplies B by what its scale differs from alpha / rank, which llama.cpp applies: a GGUF has one
/// alpha.
fn fold(b: &mut [f32], scale: f64, alpha: f64, rank: usize) {
    let factor = scale * rank as f64 / alpha;
    if (factor - 1.0).abs() > SAME_SCALE {
        b.iter_mut()
            .for_each(|value| *value = (f64::from(*value) * factor) as f32);
    }
}

fn written(
    base: &Base,
    alpha: f32,
    adapted: &BTreeMap<String, Adapted>,
) -> Result<Vec<u8>, LoraError> {
    let mut writer = Writer::new();
    writer
        .set("general.architecture", base.architecture())
        .set("general.type", "adapter")
        .set("adapter.type", "lora")
        .set("adapter.lora.alpha", alpha);
    for (matrix, Adapted { a, b, magnitude }) in adapted {
        if let Some(rows) = magnitude {
            let name = format!("{matrix}{MAGNITUDE}");
            writer.tensor_f32(name, &[rows.rows as u64], &rows.values);
        }
        for (half, numbers) in [(Half::A, a), (Half::B, b)] {
            let sizes = [numbers.columns, numbers.rows, numbers.experts].map(|n| n as u64);
            let sides = if numbers.experts == 1 { 2 } else { 3 };
            writer.tensor_f32(format!("{matrix}.{half}"), &sizes[..sides], &numbers.values);
        }
    }
    Ok(writer.to_bytes()?)
}
