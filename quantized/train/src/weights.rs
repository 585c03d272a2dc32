//! How frozen weights are read: where they lie, or through copies.
//!
//! The gradient of y = W x for x is Wᵀ dy. On the CPU kernels of our own read W where it lies for
//! both. Elsewhere the gradient is a MUL_MAT with Wᵀ, copied once or computed anew each time: ggml
//! has no fast product over the rows of a quantized matrix.

use std::collections::{HashMap, HashSet};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use translora_llama::{
    Compute, Dtype, Graph, Kernel, LlamaError, Model, Node, Op, Place, Plus, Storage, Tensor, Trace,
};

use crate::patterns::{adapted, attention};
use crate::reach::{AdapterIndex, Reach};

/// How products read frozen weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardWeights {
    /// ggml's products: activations are quantized for each, exactly as in llama.cpp. Gradients read
    /// transposed copies.
    Native,
    /// Kernels of our own, on the CPU, forward and backward; in f32, or in 16-bit integers with
    /// scales. No copies.
    Direct(Kernel),
    /// As ggml's own autodiff has it: gradients by OUT_PROD, which dequantizes each weight row once
    /// for each token. For comparison.
    OutProd,
}

/// What Wᵀ is, where gradients read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transpose {
    /// A copy of 16-bit floats (of F32 weights, of F32).
    #[default]
    F16,
    /// A copy of 8-bit blocks, half as large, for about 1 % of error; F16 where rows are no whole
    /// blocks.
    Q8_0,
    /// Computed in the graph for each product, and gone after it.
    Scratch,
}

impl Transpose {
    /// From the largest to the smallest.
    pub const ALL: [Self; 3] = [Self::F16, Self::Q8_0, Self::Scratch];

    /// The type of the copy of a matrix; none where there is no copy.
    fn kind(self, node: &Node) -> Option<Dtype> {
        let whole = usize::try_from(node.shape[1])
            .is_ok_and(|outputs| outputs.is_multiple_of(Dtype::Q8_0.block()));
        match self {
            Self::Scratch => None,
            _ if node.dtype == Dtype::F32 => Some(Dtype::F32),
            Self::Q8_0 if whole => Some(Dtype::Q8_0),
            Self::F16 | Self::Q8_0 => Some(Dtype::F16),
        }
    }
}

/// The copies, by weight name.
pub struct Weights {
    storage: Option<Storage>,
    transposed: HashMap<String, usize>,
    /// Where Wᵀ is computed in the graph: for each weight the index in the storage of the numbers
    /// 0, 1, 2, …, which lie where it does.
    rows: HashMap<String, usize>,
    forward: ForwardWeights,
    transpose: Transpose,
    /// The model on its device, if it is on one: then only operations that devices have are used.
    home: Option<Model>,
    dry: bool,
}

/// The weights whose transposes the gradients need.
pub(crate) fn wanted(trace: &Trace, adapter: &AdapterIndex) -> HashSet<String> {
    let Reach { live, needs, .. } = Reach::of(trace, adapter);
    let products = trace
        .nodes
        .iter()
        .enumerate()
        .filter(|(index, node)| live[*index] && node.op == Op::MulMat);
    let frozen = products.filter_map(|(_, node)| {
        let (Some(Some(weight)), Some(Some(input))) = (node.sources.first(), node.sources.get(1))
        else {
            return None;
        };
        let weight = &trace.nodes[*weight];
        // A matrix for each head (latent attention) is transposed where it is used.
        let flat = weight.op == Op::Weight && weight.shape[2..] == [1, 1];
        let wanted = flat && !adapter.contains_key(&weight.name) && needs[*input];
        wanted.then(|| weight.name.clone())
    });
    frozen.collect()
}

/// units: numbers of a matrix that are transposed at one time.
const PIECE: usize = 8 << 20;

impl Weights {
    /// No copies at all: for a graph that is built to see whether it can be, and never run.
    pub fn dry() -> Self {
        Self {
            storage: None,
            transposed: HashMap::new(),
            rows: HashMap::new(),
            forward: ForwardWeights::Native,
            transpose: Transpose::F16,
            home: None,
            dry: true,
        }
    }

    /// Make what a trace's gradients need beside the weights themselves: for `Native` the
    /// transposes named in `wanted`. `home` is the model where it is on a device.
    ///
    /// shapes: W is [in, out]; its transpose [out, in]
    pub fn prepare(
        trace: &Trace,
        compute: &mut Compute,
        wanted: &HashSet<String>,
        (forward, transpose): (ForwardWeights, Transpose),
        home: Option<Model>,
    ) -> Result<Self, LlamaError> {
        let mut this = Self {
            storage: None,
            transposed: HashMap::new(),
            rows: HashMap::new(),
            forward,
            transpose,
            home,
            dry: false,
        };
        let sources: Vec<&Node> = match forward {
            ForwardWeights::Native => trace
                .nodes
                .iter()
                .filter(|node| wanted.contains(&node.name))
                .collect(),
            ForwardWeights::Direct(_) | ForwardWeights::OutProd => Vec::new(),
        };
        if sources.is_empty() {
            return Ok(this);
        }
        let place = |name: &str| {
            this.home
                .as_ref()
                .map_or_else(Place::default, |home| compute.beside(home, name))
        };
        let (mut shapes, mut places) = (Vec::new(), Vec::new());
        for node in &sources {
            let [inputs, outputs, ..] = node.shape;
            let Some(kind) = transpose.kind(node) else {
                continue;
            };
            this.transposed.insert(node.name.clone(), shapes.len());
            shapes.push((kind, [outputs, inputs], format!("{}.t", node.name)));
            places.push(place(&node.name));
        }
        let most = sources.iter().map(|node| node.shape[1]).max().unwrap_or(1);
        if transpose == Transpose::Scratch {
            for node in &sources {
                let here = place(&node.name);
                let known = places.iter().position(|place| *place == here);
                let rows = known.unwrap_or(places.len());
                if known.is_none() {
                    shapes.push((Dtype::I32, [most, 1], "rows".into()));
                    places.push(here);
                }
                this.rows.insert(node.name.clone(), rows);
            }
        }
        let storage = Storage::placed(compute, &shapes, &places)?;
        for (index, node) in sources
            .iter()
            .filter(|node| transpose.kind(node).is_some())
            .enumerate()
        {
            write_transposed(trace, node, compute, &storage, (index, shapes[index].0))?;
        }
        let numbers: Vec<u8> = (0..most)
            .flat_map(|row| (row as i32).to_ne_bytes())
            .collect();
        for rows in (0..shapes.len()).filter(|index| shapes[*index].0 == Dtype::I32) {
            compute.write_stored(&storage, rows, &numbers)?;
        }
        this.storage = Some(storage);
        Ok(this)
    }

    /// Bytes of the copies that `prepare` would make on devices.
    pub fn bytes_of(
        trace: &Trace,
        compute: &Compute,
        wanted: &HashSet<String>,
        transpose: Transpose,
        home: &Model,
    ) -> usize {
        let one = |node: &Node| {
            transpose.kind(node).map_or(0, |kind| {
                kind.row_bytes(usize::try_from(node.elements()).unwrap_or(0))
            })
        };
        let there = |node: &&Node| {
            wanted.contains(&node.name) && compute.is_device(compute.beside(home, &node.name))
        };
        trace.nodes.iter().filter(there).map(one).sum()
    }

    /// Free the copies; what needs them cannot be built any more.
    pub(crate) fn drop_copies(&mut self) {
        self.transposed.clear();
        self.rows.clear();
        self.storage = None;
    }

    /// How gradients read the frozen weights.
    pub(crate) fn reading(&self) -> (ForwardWeights, Transpose) {
        (self.forward, self.transpose)
    }

    /// An empty graph of at most `nodes_max` tensors, for where the weights are.
    pub(crate) fn graph(&self, nodes_max: usize) -> Result<Graph, LlamaError> {
        match &self.home {
            Some(model) => Graph::for_device(nodes_max, model),
            None => Graph::new(nodes_max),
        }
    }

    /// Only operations that devices have may be used.
    pub(crate) fn on_device(&self) -> bool {
        self.home.is_some()
    }

    /// The kernel that reads weights where they lie, if that is how they are read.
    pub(crate) fn direct(&self) -> Option<Kernel> {
        match self.forward {
            ForwardWeights::Direct(kernel) => Some(kernel),
            ForwardWeights::Native | ForwardWeights::OutProd => None,
        }
    }

    /// The result of a traced node where it is not ggml's own operation: a product, or (if `whole`
    /// sums may be one operation) the sum of one and its adapter's.
    pub(crate) fn product(
        &self,
        graph: &mut Graph,
        trace: &Trace,
        needs: &[bool],
        index: usize,
        forward: &mut [Option<Tensor>],
        whole: bool,
    ) -> Result<Option<Tensor>, LlamaError> {
        let Some(kernel) = self.direct() else {
            return Ok(None);
        };
        let node = &trace.nodes[index];
        if let Some(found) = adapted(trace, needs, index).filter(|_| whole)
            && let [Some(weight), Some(a), Some(b), Some(x)] =
                [found.weight, found.a, found.b, found.x].map(|index| forward[index])
        {
            let scale = trace.nodes[found.scale].parameter_f32(0);
            let small = graph.times(
                kernel,
                a,
                x,
                Plus {
                    scale,
                    ..Plus::NONE
                },
            )?;
            forward[found.small] = Some(small);
            return graph
                .times(
                    kernel,
                    weight,
                    x,
                    Plus {
                        adapter: Some((b, small)),
                        ..Plus::NONE
                    },
                )
                .map(Some);
        }
        if let Some(scores) = attention(trace, index)
            && let [Some(k), Some(q), Some(mask)] =
                [scores.k, scores.q, scores.mask].map(|index| forward[index])
        {
            // In f32 always: a softmax magnifies what is rounded off its scores.
            return graph
                .attention(Kernel::exact(), k, q, mask, scores.scale)
                .map(Some);
        }
        let operand = |number: usize| {
            node.sources
                .get(number)
                .copied()
                .flatten()
                .and_then(|index| forward[index])
        };
        let (Op::MulMat, Some(a), Some(b)) = (node.op, operand(0), operand(1)) else {
            return Ok(None);
        };
        let weight = node.sources[0].is_some_and(|index| trace.nodes[index].op == Op::Weight);
        if weight && graph.shape(a)?[2..] == [1, 1] {
            return graph.times(kernel, a, b, Plus::NONE).map(Some);
        }
        let floats = graph.dtype(a)? == Dtype::F32 && graph.dtype(b)? == Dtype::F32;
        if floats {
            graph.product(Kernel::exact(), a, b).map(Some)
        } else {
            Ok(None)
        }
    }

    /// W dy: the gradient of Wᵀ x for x. `tensor` is the weight `node` in `graph`. None where its
    /// transpose is missing.
    ///
    /// shapes: W [k, m], dy [m, …] → [k, …]
    pub(crate) fn transposed_product(
        &self,
        graph: &mut Graph,
        node: &Node,
        tensor: Tensor,
        dy: Tensor,
    ) -> Result<Option<Tensor>, LlamaError> {
        if let Some(kernel) = self.direct() {
            return graph
                .times_transposed(kernel, tensor, dy, Plus::NONE)
                .map(Some);
        }
        if self.forward == ForwardWeights::OutProd {
            return graph.out_prod(tensor, dy).map(Some);
        }
        let transposed = match self.transposed(graph, node)? {
            Some(transposed) => transposed,
            None => match self.transpose_again(graph, node, tensor)? {
                Some(transposed) => transposed,
                None => return Ok(None),
            },
        };
        graph.mul_mat(transposed, dy).map(Some)
    }

    /// Wᵀ in fresh memory: rows as floats, transposed.
    fn transpose_again(
        &self,
        graph: &mut Graph,
        node: &Node,
        tensor: Tensor,
    ) -> Result<Option<Tensor>, LlamaError> {
        let (Some(rows), Some(storage)) = (self.rows.get(&node.name), &self.storage) else {
            return Ok(None);
        };
        let dtype = graph.dtype(tensor)?;
        if matches!(dtype, Dtype::F32 | Dtype::F16) {
            let transposed = graph.transpose(tensor)?;
            return graph.cont(transposed).map(Some);
        }
        let height = graph.shape(tensor)?[1];
        let all = graph.stored(storage, *rows)?;
        let ids = graph.slice(all, 0, 0, height)?;
        let floats = graph.get_rows(tensor, ids)?;
        let transposed = graph.transpose(floats)?;
        graph.to_f16(transposed).map(Some)
    }

    /// The transposed copy of a weight as a leaf of `graph`; `None` if there is none.
    pub(crate) fn transposed(
        &self,
        graph: &mut Graph,
        node: &Node,
    ) -> Result<Option<Tensor>, LlamaError> {
        if self.dry {
            let [inputs, outputs, planes, more] = node.shape;
            return graph
                .input(Dtype::F32, &[outputs, inputs, planes, more], "dry")
                .map(Some);
        }
        let copy = self.transposed.get(&node.name).zip(self.storage.as_ref());
        copy.map(|(index, storage)| graph.stored(storage, *index))
            .transpose()
    }

    /// units: bytes of all copies.
    pub fn bytes(&self) -> usize {
        self.storage.as_ref().map_or(0, Storage::bytes)
    }

    /// units: bytes of those on devices.
    pub fn device_bytes(&self) -> usize {
        self.storage.as_ref().map_or(0, Storage::device_bytes)
    }
}

/// Write Wᵀ, some of its rows at a time: so many columns of W are read, transposed and sent to the
/// device.
fn write_transposed(
    trace: &Trace,
    node: &Node,
    compute: &mut Compute,
    storage: &Storage,
    (index, kind): (usize, Dtype),
) -> Result<(), LlamaError> {
    let [width, height, ..] = node.shape.map(|n| usize::try_from(n).unwrap_or(0));
    let block = node.dtype.block();
    let step = (PIECE / height.max(1) / block * block)
        .max(block)
        .min(width.max(1));
    for first in (0..width).step_by(step) {
        let count = step.min(width - first);
        let values = floats(
            node.dtype,
            &trace.weight_columns(node, first, count)?,
            height * count,
        )?;
        let bytes = if kind == Dtype::F32 {
            transpose(&values, count)
                .iter()
                .flat_map(|value| value.to_ne_bytes())
                .collect()
        } else if kind == Dtype::F16 {
            transpose(&to_halves(&values), count)
                .iter()
                .flat_map(|half| half.to_ne_bytes())
                .collect()
        } else {
            kind.from_f32(&transpose(&values, count), height)?
        };
        compute.write_part(storage, index, first * kind.row_bytes(height), &bytes)?;
    }
    Ok(())
}

fn floats(dtype: Dtype, bytes: &[u8], count: usize) -> Result<Vec<f32>, LlamaError> {
    let mut values = vec![0.0; count];
    match dtype {
        Dtype::F16 => {
            let raw: Vec<f16> = bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|raw| f16::from_ne_bytes(*raw))
                .collect();
            raw.convert_to_f32_slice(&mut values);
        }
        Dtype::BF16 => {
            let raw: Vec<bf16> = bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|raw| bf16::from_ne_bytes(*raw))
                .collect();
            raw.convert_to_f32_slice(&mut values);
        }
        other => other.to_f32(bytes, &mut values)?,
    }
    Ok(values)
}

fn to_halves(values: &[f32]) -> Vec<f16> {
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(values);
    halves
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
        let transposed = transpose(&values, width);
        assert!((0..height).all(|row| {
            (0..width)
                .all(|column| transposed[column * height + row] == values[row * width + column])
        }));
    }
}
