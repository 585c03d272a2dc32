//! Copies of frozen weights in the layouts that gradients need.
//!
//! The gradient of y = W x for x is Wᵀ dy, which ggml computes fast only as a MUL_MAT with Wᵀ in memory. Quantized weights are
//! additionally kept as F16 for the forward pass where that is asked for: on a CPU without int8 dot products a K- or Q4-quant
//! matrix product runs at half the speed of F16 or less (ARCHITECTURE.md has the measurement).

use std::collections::HashMap;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use translora_llama::{Compute, Dtype, Graph, LlamaError, Node, Storage, Tensor, Trace};

/// How the forward pass reads quantized weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardWeights {
    /// As they lie: activations are quantized for each product, exactly as in llama.cpp.
    Native,
    /// As F16 copies: exact weights (to 2⁻¹¹), activations in F16.
    F16,
}

/// Which copies one weight needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub transposed: bool,
    pub forward: bool,
}

/// The copies, by weight name.
pub struct Weights {
    storage: Option<Storage>,
    transposed: HashMap<String, usize>,
    copies: HashMap<String, usize>,
    pub(crate) forward: ForwardWeights,
    dry: bool,
}

impl Weights {
    /// No copies at all: for a graph that is built to see whether it can be, and never run.
    pub fn dry() -> Self {
        Self { storage: None, transposed: HashMap::new(), copies: HashMap::new(), forward: ForwardWeights::Native, dry: true }
    }

    /// Make the wanted copies of a trace's weights.
    ///
    /// shapes: W is [in, out]; its transpose [out, in]
    pub fn prepare(
        trace: &Trace,
        compute: &mut Compute,
        wanted: &HashMap<String, Wanted>,
        forward: ForwardWeights,
    ) -> Result<Self, LlamaError> {
        let mut shapes = Vec::new();
        let (mut transposed, mut copies) = (HashMap::new(), HashMap::new());
        let named = |node: &&Node| wanted.contains_key(&node.name);
        let sources: Vec<&Node> = trace.nodes.iter().filter(named).collect();
        for node in &sources {
            let [inputs, outputs, ..] = node.shape;
            let kind = if node.dtype == Dtype::F32 { Dtype::F32 } else { Dtype::F16 };
            let wanted = wanted[&node.name];
            if wanted.transposed {
                transposed.insert(node.name.clone(), shapes.len());
                shapes.push((kind, [outputs, inputs], format!("{}.t", node.name)));
            }
            if wanted.forward {
                copies.insert(node.name.clone(), shapes.len());
                shapes.push((Dtype::F16, [inputs, outputs], format!("{}.f16", node.name)));
            }
        }
        if shapes.is_empty() {
            return Ok(Self { storage: None, transposed, copies, forward, dry: false });
        }
        let storage = Storage::new(compute, &shapes)?;
        for node in sources {
            let values = floats(trace, node)?;
            let width = usize::try_from(node.shape[0]).unwrap_or(1);
            if let Some(index) = transposed.get(&node.name) {
                let bytes = if node.dtype == Dtype::F32 { transpose_f32(&values, width) } else { transpose_f16(&values, width) };
                compute.write_stored(&storage, *index, &bytes)?;
            }
            if let Some(index) = copies.get(&node.name) {
                compute.write_stored(&storage, *index, &halves(&values))?;
            }
        }
        Ok(Self { storage: Some(storage), transposed, copies, forward, dry: false })
    }

    /// The transposed copy of a weight as a leaf of `graph`; `None` if there is none.
    pub(crate) fn transposed(&self, graph: &mut Graph, node: &Node) -> Result<Option<Tensor>, LlamaError> {
        if self.dry {
            let [inputs, outputs, planes, more] = node.shape;
            return graph.input(Dtype::F32, &[outputs, inputs, planes, more], "dry").map(Some);
        }
        let copy = self.transposed.get(&node.name).zip(self.storage.as_ref());
        copy.map(|(index, storage)| graph.stored(storage, *index)).transpose()
    }

    /// The F16 copy of a weight as a leaf of `graph`; `None` if the weight is read as it lies.
    pub(crate) fn copy(&self, graph: &mut Graph, name: &str) -> Result<Option<Tensor>, LlamaError> {
        let copy = self.copies.get(name).zip(self.storage.as_ref());
        copy.map(|(index, storage)| graph.stored(storage, *index)).transpose()
    }

    /// units: bytes of all copies.
    pub fn bytes(&self) -> usize {
        self.storage.as_ref().map_or(0, Storage::bytes)
    }
}

fn floats(trace: &Trace, node: &Node) -> Result<Vec<f32>, LlamaError> {
    let bytes = trace.weight_bytes(node)?;
    let mut values = vec![0.0; usize::try_from(node.elements()).unwrap_or(0)];
    match node.dtype {
        Dtype::F16 => {
            let raw: Vec<f16> = bytes.as_chunks::<2>().0.iter().map(|raw| f16::from_ne_bytes(*raw)).collect();
            raw.convert_to_f32_slice(&mut values);
        }
        Dtype::BF16 => {
            let raw: Vec<bf16> = bytes.as_chunks::<2>().0.iter().map(|raw| bf16::from_ne_bytes(*raw)).collect();
            raw.convert_to_f32_slice(&mut values);
        }
        other => other.to_f32(&bytes, &mut values)?,
    }
    Ok(values)
}

fn to_halves(values: &[f32]) -> Vec<f16> {
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(values);
    halves
}

fn halves(values: &[f32]) -> Vec<u8> {
    to_halves(values).iter().flat_map(|half| half.to_ne_bytes()).collect()
}

fn transpose_f16(values: &[f32], width: usize) -> Vec<u8> {
    transpose(&to_halves(values), width).iter().flat_map(|half| half.to_ne_bytes()).collect()
}

fn transpose_f32(values: &[f32], width: usize) -> Vec<u8> {
    transpose(values, width).iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// Turn rows of `width` into columns, in tiles that stay in the cache.
fn transpose<T: Copy + Default>(values: &[T], width: usize) -> Vec<T> {
    const TILE: usize = 64;
    let height = values.len() / width.max(1);
    let mut out = vec![T::default(); values.len()];
    for top in (0..height).step_by(TILE) {
        for left in (0..width).step_by(TILE) {
            for row in top..(top + TILE).min(height) {
                for column in left..(left + TILE).min(width) {
                    out[column * height + row] = values[row * width + column];
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::transpose;

    #[test]
    fn transpose_of_uneven_tiles() {
        let (width, height) = (70, 131);
        let values: Vec<usize> = (0..width * height).collect();
        let turned = transpose(&values, width);
        assert!((0..height).all(|row| (0..width).all(|column| turned[column * height + row] == values[row * width + column])));
    }
}
