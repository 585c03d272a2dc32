//! Reads a file of tensors, and says which half of which module each is.

use std::collections::BTreeMap;
use std::ops::Range;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use translora_gguf::{TensorKind, dequantize};

use super::ForeignError;
use super::error::Part;
use crate::{Half, LoraError};

/// Numbers in rows, of one matrix or of one for each expert. shapes: (experts, rows, columns)
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Numbers {
    pub(super) experts: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) values: Vec<f32>,
}

/// The halves of one module: y = W x + scale · B (A x).
#[derive(Clone, Debug)]
pub(super) struct Module {
    /// shapes: (experts, rank, in)
    pub(super) a: Numbers,
    /// shapes: (experts, out, rank)
    pub(super) b: Numbers,
    /// DoRA's lengths of the rows of W + scale · B A. shapes: (1, out, 1)
    pub(super) magnitude: Option<Numbers>,
}

impl Module {
    pub(super) fn rank(&self) -> usize {
        self.a.rows
    }
}

/// How the name of a tensor ends, which half it is, and whether it is stored the other way around.
///
/// source: PEFT, `get_peft_model_state_dict`; MLX, `mlx_lm/tuner/lora.py`
const HALVES: [(&str, Half, bool); 10] = [
    (".lora_A.weight", Half::A, false),
    (".lora_B.weight", Half::B, false),
    (".lora_A.default.weight", Half::A, false),
    (".lora_B.default.weight", Half::B, false),
    (".lora_embedding_A", Half::A, false),
    (".lora_embedding_B", Half::B, false),
    (".lora_embedding_A.default", Half::A, false),
    (".lora_embedding_B.default", Half::B, false),
    (".lora_a", Half::A, true),
    (".lora_b", Half::B, true),
];

/// How the name of a tensor of DoRA ends.
const MAGNITUDES: [&str; 3] = [
    ".lora_magnitude_vector.weight",
    ".lora_magnitude_vector.default.weight",
    ".lora_magnitude_vector",
];

/// Reads the modules of an adapter by their paths, without PEFT's prefix. `dora`: with the
/// magnitudes of their rows, where they have them.
///
/// fails: the file is not sound, or a tensor in it is no half of a pair of floats
pub(super) fn modules(bytes: &[u8], dora: bool) -> Result<BTreeMap<String, Module>, LoraError> {
    let file = SafeTensors::deserialize(bytes).map_err(ForeignError::Safetensors)?;
    let mut halves: BTreeMap<String, [Option<Numbers>; 2]> = BTreeMap::new();
    let mut magnitudes = BTreeMap::new();
    for (name, view) in file.iter() {
        if let Some(module) = MAGNITUDES.iter().find_map(|end| name.strip_suffix(end))
            && dora
        {
            let module = module.strip_prefix("base_model.model.").unwrap_or(module);
            magnitudes.insert(module.to_owned(), magnitude(name, &view)?);
            continue;
        }
        let end = HALVES.iter().find(|(end, ..)| name.ends_with(end));
        let (end, half, turned) = *end.ok_or_else(|| ForeignError::Tensor {
            tensor: name.to_owned(),
            what: what(name),
        })?;
        let module = &name[..name.len() - end.len()];
        let module = module.strip_prefix("base_model.model.").unwrap_or(module);
        let numbers = numbers(name, &view, turned)?;
        let place = halves.entry(module.to_owned()).or_default();
        let place = &mut place[usize::from(half == Half::B)];
        if place.replace(numbers).is_some() {
            let matrix = module.to_owned();
            return Err(ForeignError::Twice { matrix }.into());
        }
    }
    let whole = |(module, halves): (String, [Option<Numbers>; 2])| {
        let missing = |missing| LoraError::HalfMissing {
            matrix: module.clone(),
            missing,
        };
        let [a, b] = halves;
        let a = a.ok_or_else(|| missing(Half::A))?;
        let b = b.ok_or_else(|| missing(Half::B))?;
        meet(&module, &a, &b)?;
        let magnitude = magnitudes.remove(&module);
        Ok((module, Module { a, b, magnitude }))
    };
    let modules = halves
        .into_iter()
        .map(whole)
        .collect::<Result<_, LoraError>>()?;
    match magnitudes.into_keys().next() {
        None => Ok(modules),
        Some(matrix) => Err(LoraError::HalfMissing {
            matrix,
            missing: Half::A,
        }),
    }
}

/// Reads the lengths of rows that DoRA learnt.
fn magnitude(name: &str, view: &TensorView<'_>) -> Result<Numbers, LoraError> {
    let [rows] = *view.shape() else {
        let (tensor, shape) = (name.to_owned(), view.shape().to_vec());
        return Err(ForeignError::Dimensions { tensor, shape }.into());
    };
    let values = dequantize(kind(name, view)?, view.data())?;
    Ok(Numbers {
        experts: 1,
        rows,
        columns: 1,
        values,
    })
}

fn kind(name: &str, view: &TensorView<'_>) -> Result<TensorKind, ForeignError> {
    match view.dtype() {
        Dtype::F32 => Ok(TensorKind::F32),
        Dtype::F16 => Ok(TensorKind::F16),
        Dtype::BF16 => Ok(TensorKind::BF16),
        kind => {
            let tensor = name.to_owned();
            Err(ForeignError::Kind { tensor, kind })
        }
    }
}

fn meet(module: &str, a: &Numbers, b: &Numbers) -> Result<(), LoraError> {
    let matrix = module.to_owned();
    if a.rows != b.columns {
        let (a, b) = (a.rows as u64, b.columns as u64);
        return Err(LoraError::Rank { matrix, a, b });
    }
    if a.experts != b.experts {
        let (a, b) = (a.experts as u64, b.experts as u64);
        return Err(LoraError::HalvesExperts { matrix, a, b });
    }
    Ok(())
}

/// What a tensor is that is no half of a pair, by its name.
fn what(name: &str) -> Part {
    let part = |word: &str| name.contains(word);
    if part("lora_magnitude_vector") || name.ends_with(".m") {
        Part::Magnitude
    } else if name.ends_with(".bias") {
        Part::Bias
    } else if part("norm") {
        Part::Norm
    } else if part("modules_to_save") || (name.ends_with(".weight") && !part("lora_")) {
        Part::Whole
    } else {
        Part::Other
    }
}

/// Turns a tensor into numbers of 32 bits, with the row that the rank counts where PEFT has it.
fn numbers(name: &str, view: &TensorView<'_>, turned: bool) -> Result<Numbers, LoraError> {
    let kind = kind(name, view)?;
    let (experts, rows, columns) = match *view.shape() {
        [rows, columns] if rows > 0 && columns > 0 => (1, rows, columns),
        // MLX's experts have PEFT's order of rows and columns.
        [experts, rows, columns] if turned && experts > 0 && rows > 0 && columns > 0 => {
            (experts, rows, columns)
        }
        ref shape => {
            let (tensor, shape) = (name.to_owned(), shape.to_vec());
            return Err(ForeignError::Dimensions { tensor, shape }.into());
        }
    };
    let numbers = Numbers {
        experts,
        rows,
        columns,
        values: dequantize(kind, view.data())?,
    };
    Ok(if turned && view.shape().len() == 2 {
        numbers.transposed()
    } else {
        numbers
    })
}

impl Numbers {
    /// Exchanges rows and columns of one matrix.
    pub(super) fn transposed(&self) -> Self {
        let (rows, columns) = (self.columns, self.rows);
        let at = |row, column| self.values[column * self.columns + row];
        let values = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        Self {
            experts: self.experts,
            rows,
            columns,
            values: values.map(|(row, column)| at(row, column)).collect(),
        }
    }

    /// Takes the same rows of each expert.
    pub(super) fn rows_of_each(&self, rows: Range<usize>) -> Self {
        let of = |expert| {
            let rows = rows.clone().map(move |row| expert * self.rows + row);
            rows.flat_map(|row| &self.values[row * self.columns..][..self.columns])
        };
        Self {
            experts: self.experts,
            rows: rows.len(),
            columns: self.columns,
            values: (0..self.experts).flat_map(of).copied().collect(),
        }
    }

    /// Takes some of the rows of one matrix, in another order.
    pub(super) fn rows(&self, rows: impl IntoIterator<Item = usize>) -> Self {
        let values: Vec<f32> = rows
            .into_iter()
            .flat_map(|row| &self.values[row * self.columns..][..self.columns])
            .copied()
            .collect();
        Self {
            experts: 1,
            rows: values.len() / self.columns,
            columns: self.columns,
            values,
        }
    }
}
