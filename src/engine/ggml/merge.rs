//! Writes a base model with an adapter in its weights: W + scale · alpha / rank · B A, in the type
//! that each matrix has.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use translora_gguf::limits::MODEL_HEADER_BYTES_MAX;
use translora_gguf::{Gguf, GgufError, Parts, Tensor, TensorKind, Writer, dequantize};
use translora_llama::{Dtype, map_file};
use translora_lora::{Base, Lora, LoraError, MAGNITUDE, Pair, merging_path};

use super::of_path;
use crate::engine::{EngineError, Merged};
use crate::record::Cancel;

/// Which type an adapted matrix is written in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kinds {
    /// The type that it has in the base.
    OfBase,
    /// At least 8 bits, so that little of the adapter is lost.
    Fine,
}

impl Kinds {
    fn of(self, tensor: &Tensor) -> TensorKind {
        match tensor.kind {
            kind @ (TensorKind::F32 | TensorKind::F16 | TensorKind::BF16) => kind,
            _ if self == Self::Fine => TensorKind::Q8_0,
            kind => kind,
        }
    }
}

/// Elements that a thread turns into floats at a time.
const PIECE_ELEMENTS: usize = 1 << 16;
/// llama.cpp takes rows of this table out of A.
const EMBEDDING: &str = "token_embd.weight";

/// What adapts a matrix. shapes: `a` (experts, rank, in), `b` (experts, out, rank)
struct Change {
    a: Vec<f32>,
    b: Vec<f32>,
    rank: usize,
    /// DoRA's lengths of the rows.
    magnitude: Option<Vec<f32>>,
    /// Rows of one expert.
    rows: usize,
    scale: f32,
}

/// Sums over the numbers of a matrix.
#[derive(Clone, Copy, Default)]
struct Sums {
    weights: f64,
    changes: f64,
    errors: f64,
    error_max: f64,
}

enum Stop {
    Gguf(GgufError),
    Engine(EngineError),
}

impl From<GgufError> for Stop {
    fn from(error: GgufError) -> Self {
        Self::Gguf(error)
    }
}

/// Write `base` with `adapter` merged into it. Holds one tensor at a time.
///
/// fails: no sound adapter, or none for this base; a type that has no quantization without an
/// importance matrix; the writer
pub(super) fn merge(
    base: &Path,
    adapter: &Path,
    (scale, kinds): (f32, Kinds),
    out: &mut dyn Write,
    (threads, cancel): (usize, &Cancel),
) -> Result<Merged, EngineError> {
    let file = |source| EngineError::File {
        path: base.to_owned(),
        source,
    };
    let unfit = |error: LoraError| EngineError::of_adapter(adapter.to_owned(), error);
    let parts = Parts::open(base, MODEL_HEADER_BYTES_MAX).map_err(file)?;
    let adapter_file = merging_path(adapter, base).map_err(unfit)?;
    let bytes = map_file(&adapter_file).map_err(|error| of_path(&adapter_file, error))?;
    let gguf = Gguf::parse(&bytes).map_err(|error| unfit(error.into()))?;
    let lora = Lora::for_merging(&gguf).map_err(unfit)?;
    lora.fits(&Base::of(&parts)).map_err(unfit)?;
    let mut changes = HashMap::new();
    for pair in lora.pairs() {
        let change = Change::of(&gguf, pair, scale * lora.alpha()).map_err(|e| unfit(e.into()))?;
        changes.insert(pair.matrix.as_str(), change);
    }
    refuse_types(base, &parts, &changes, kinds)?;
    let mut maps = HashMap::new();
    for path in parts.paths() {
        let map = map_file(path).map_err(|error| of_path(path, error))?;
        maps.insert(path.clone(), map);
    }
    let mut sums = Sums::default();
    let data = |index: usize| -> Result<Cow<'_, [u8]>, Stop> {
        cancel.check().map_err(|stop| Stop::Engine(stop.into()))?;
        let tensor = &parts.tensors()[index];
        let map = parts.path_of(index).and_then(|path| maps.get(path));
        let range = tensor.offset as usize..(tensor.offset + tensor.bytes) as usize;
        let lost = || EngineError::Internal(format!("the data of {} is gone", tensor.name));
        let bytes = map.and_then(|map| map.get(range));
        let bytes = bytes.ok_or_else(|| Stop::Engine(lost()))?;
        let Some(change) = changes.get(tensor.name.as_str()) else {
            return Ok(bytes.into());
        };
        let to = Dtype::of_kind(kinds.of(tensor));
        let (bytes, more) = merged((tensor, to), bytes, change, threads).map_err(Stop::Engine)?;
        sums.add(more);
        Ok(bytes.into())
    };
    let kind = |tensor: &Tensor| match changes.get(tensor.name.as_str()) {
        Some(_) => kinds.of(tensor),
        None => tensor.kind,
    };
    let written = planned(&parts, kind).write_each(out, data);
    written.map_err(|stop| match stop {
        Stop::Engine(error) => error,
        Stop::Gguf(GgufError::Io(error)) => EngineError::Output(error),
        Stop::Gguf(error) => EngineError::Internal(error.to_string()),
    })?;
    let share = |sum: f64| (sum / sums.weights.max(f64::MIN_POSITIVE)).sqrt();
    Ok(Merged {
        dora: changes.values().any(|change| change.magnitude.is_some()),
        matrices: changes.len(),
        tensors: parts.tensors().len(),
        change: share(sums.changes),
        error: share(sums.errors),
        error_max: sums.error_max,
    })
}

/// The file that is written: one, also where the base is split.
fn planned(parts: &Parts, kind: impl Fn(&Tensor) -> TensorKind) -> Writer<'static> {
    let mut writer = Writer::new();
    for (key, value) in parts.metadata() {
        if !key.starts_with("split.") {
            writer.set(key, value.clone());
        }
    }
    for tensor in parts.tensors() {
        writer.later(tensor.name.as_str(), kind(tensor), &tensor.shape);
    }
    writer
}

/// Some types are only made from measured weights, which nobody has here.
fn refuse_types(
    base: &Path,
    parts: &Parts,
    changes: &HashMap<&str, Change>,
    kinds: Kinds,
) -> Result<(), EngineError> {
    let changed = |tensor: &&Tensor| changes.contains_key(tensor.name.as_str());
    for tensor in parts.tensors().iter().filter(changed) {
        let row = tensor.shape.first().copied().unwrap_or(1) as usize;
        let zeros = vec![0.0; row];
        if Dtype::of_kind(kinds.of(tensor))
            .from_f32(&zeros, row)
            .is_err()
        {
            return Err(EngineError::Unmergeable {
                path: base.to_owned(),
                reason: format!(
                    "{} is of type {}, which is made with an importance matrix only",
                    tensor.name, tensor.kind
                ),
            });
        }
    }
    Ok(())
}

impl Change {
    fn of(gguf: &Gguf<'_>, pair: &Pair, scale: f32) -> Result<Self, GgufError> {
        let half = |half: &str| match gguf.tensor(&format!("{}.{half}", pair.matrix)) {
            Some(tensor) => dequantize(tensor.kind, gguf.data(tensor)),
            None => Ok(Vec::new()),
        };
        let (mut a, mut b) = (half("lora_a")?, half("lora_b")?);
        let rank = pair.rank as usize;
        let mut rows = pair.shape[1] as usize;
        if pair.matrix == EMBEDDING {
            // A has a row for each word, B one for each number of a word.
            let width = b.len() / rank;
            let turned = (0..rank).flat_map(|k| (0..width).map(move |i| (i, k)));
            let turned = turned.map(|(i, k)| b[i * rank + k]).collect();
            (b, a) = (a, turned);
            rows = b.len() / rank;
        }
        let magnitude = gguf.tensor(&format!("{}{MAGNITUDE}", pair.matrix));
        let magnitude = magnitude.map(|rows| dequantize(rows.kind, gguf.data(rows)));
        Ok(Self {
            a,
            b,
            rank,
            magnitude: magnitude.transpose()?,
            rows,
            scale: scale / rank as f32,
        })
    }

    /// Adds what changes a row to `weights`, and answers the sum of the squares of it.
    fn add(&self, row: usize, weights: &mut [f32], change: &mut [f32]) -> f64 {
        let expert = row / self.rows;
        change.fill(0.0);
        for k in 0..self.rank {
            let factor = self.scale * self.b[row * self.rank + k];
            let a = &self.a[(expert * self.rank + k) * weights.len()..][..weights.len()];
            for (to, from) in change.iter_mut().zip(a) {
                *to += factor * from;
            }
        }
        for (weight, change) in weights.iter_mut().zip(change.iter()) {
            *weight += *change;
        }
        self.stretch(row, weights, change);
        change.iter().map(|change| f64::from(*change).powi(2)).sum()
    }

    /// Gives a row of the sum the length that DoRA learnt for it.
    ///
    /// source: PEFT, `DoraLinearLayer`: magnitude · (W + scale · B A) / ‖W + scale · B A‖ by rows
    fn stretch(&self, row: usize, weights: &mut [f32], change: &mut [f32]) {
        let Some(length) = self.magnitude.as_ref().and_then(|rows| rows.get(row)) else {
            return;
        };
        let norm = weights
            .iter()
            .map(|weight| f64::from(*weight).powi(2))
            .sum::<f64>()
            .sqrt();
        if norm == 0.0 {
            return;
        }
        let factor = (f64::from(*length) / norm) as f32;
        for (weight, change) in weights.iter_mut().zip(change) {
            let before = *weight - *change;
            *weight *= factor;
            *change = *weight - before;
        }
    }
}

impl Sums {
    fn add(&mut self, other: Self) {
        self.weights += other.weights;
        self.changes += other.changes;
        self.errors += other.errors;
        self.error_max = self.error_max.max(other.error_max);
    }
}

/// Merges one matrix, on several threads.
fn merged(
    (tensor, to): (&Tensor, Dtype),
    bytes: &[u8],
    change: &Change,
    threads: usize,
) -> Result<(Vec<u8>, Sums), EngineError> {
    let kind = Dtype::of_kind(tensor.kind);
    let row = tensor.shape.first().copied().unwrap_or(1) as usize;
    let row_bytes = kind.row_bytes(row);
    let rows = bytes.len() / row_bytes;
    let each = rows.div_ceil(threads.max(1)).max(1);
    let work =
        |(number, bytes): (usize, &[u8])| some_rows((kind, to), row, bytes, number * each, change);
    let pieces = bytes.chunks(each * row_bytes).enumerate();
    let done: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = pieces
            .map(|piece| scope.spawn(move || work(piece)))
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            let panicked = |_| Err(EngineError::Internal("merging panicked".into()));
            thread.join().unwrap_or_else(panicked)
        };
        threads.into_iter().map(join).collect()
    });
    let (mut out, mut sums) = (Vec::with_capacity(bytes.len()), Sums::default());
    for part in done {
        let (bytes, more) = part?;
        out.extend(bytes);
        sums.add(more);
    }
    Ok((out, sums))
}

fn some_rows(
    (kind, to): (Dtype, Dtype),
    row: usize,
    bytes: &[u8],
    first: usize,
    change: &Change,
) -> Result<(Vec<u8>, Sums), EngineError> {
    let internal = |error: translora_llama::LlamaError| EngineError::Internal(error.to_string());
    let row_bytes = kind.row_bytes(row);
    let at_once = (PIECE_ELEMENTS / row).max(1);
    let (mut out, mut sums) = (Vec::with_capacity(bytes.len()), Sums::default());
    let mut delta = vec![0.0; row];
    for (piece, bytes) in bytes.chunks(at_once * row_bytes).enumerate() {
        let mut values = vec![0.0; bytes.len() / row_bytes * row];
        for (values, bytes) in values.chunks_mut(row).zip(bytes.chunks(row_bytes)) {
            kind.to_f32(bytes, values).map_err(internal)?;
        }
        for (n, values) in values.chunks_mut(row).enumerate() {
            let row = first + piece * at_once + n;
            sums.changes += change.add(row, values, &mut delta);
        }
        let made = to.from_f32(&values, row).map_err(internal)?;
        let mut back = vec![0.0; row];
        for (values, bytes) in values.chunks(row).zip(made.chunks(to.row_bytes(row))) {
            to.to_f32(bytes, &mut back).map_err(internal)?;
            for (value, back) in values.iter().zip(&back) {
                let error = f64::from(value - back).abs();
                sums.weights += f64::from(*value).powi(2);
                sums.errors += error.powi(2);
                sums.error_max = sums.error_max.max(error);
            }
        }
        out.extend(made);
    }
    Ok((out, sums))
}
