//! Recognises groups of traced nodes that our kernels compute as one operation.

use translora_llama::{Dtype, Node, Op, Trace};

/// A product with an adapter as llama.cpp builds it: Wᵀ x + s Bᵀ (Aᵀ x), by the nodes' indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Adapted {
    pub weight: usize,
    pub a: usize,
    pub b: usize,
    pub x: usize,
    /// The node of Aᵀ x; where it is part of an adapted product, its tensor is s Aᵀ x.
    pub small: usize,
    /// The node of the scale s.
    pub scale: usize,
}

/// Recognise the sum at `index` as an adapted product whose parts nobody else reads.
pub(crate) fn adapted(trace: &Trace, needs: &[bool], index: usize) -> Option<Adapted> {
    let node = |index: usize| &trace.nodes[index];
    let operand = |index: usize, number: usize| node(index).sources.get(number).copied().flatten();
    let is = |index: usize, op: Op| node(index).op == op;
    if !is(index, Op::Add) {
        return None;
    }
    let (plain, scale) = (operand(index, 0)?, operand(index, 1)?);
    let large = operand(scale, 0)?;
    let (weight, x) = (operand(plain, 0)?, operand(plain, 1)?);
    let (b, small) = (operand(large, 0)?, operand(large, 1)?);
    let (a, again) = (operand(small, 0)?, operand(small, 1)?);
    let products = [plain, large, small]
        .into_iter()
        .all(|index| is(index, Op::MulMat));
    let weights = is(weight, Op::Weight)
        && !needs[weight]
        && [a, b]
            .into_iter()
            .all(|index| is(index, Op::Weight) && needs[index]);
    let flat = [weight, a, b]
        .into_iter()
        .all(|index| node(index).shape[2..] == [1, 1]);
    let reads = readers(trace, &[plain, scale, large, small]);
    let fits = products
        && is(scale, Op::Scale)
        && node(scale).parameter_f32(1) == 0.0
        && weights
        && flat
        && again == x
        && reads == 4;
    fits.then_some(Adapted {
        weight,
        a,
        b,
        x,
        small,
        scale,
    })
}

/// How often any of these nodes is read.
pub(crate) fn readers(trace: &Trace, indices: &[usize]) -> usize {
    let all = trace.nodes.iter().flat_map(|node| {
        node.sources
            .iter()
            .flatten()
            .chain(node.view.iter().map(|(root, _)| root))
    });
    all.filter(|read| indices.contains(read)).count()
}

/// softmax(s kᵀ q + mask), by the nodes' indices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scores {
    pub k: usize,
    pub q: usize,
    pub mask: usize,
    pub product: usize,
    pub scale: f32,
}

/// Recognise the node at `index` as plain attention's probabilities, whose scores nobody else
/// reads.
pub(crate) fn attention(trace: &Trace, index: usize) -> Option<Scores> {
    let node = &trace.nodes[index];
    let operand = |node: &Node, number: usize| node.sources.get(number).copied().flatten();
    let (product, mask) = (operand(node, 0)?, operand(node, 1)?);
    let scores = &trace.nodes[product];
    let (k, q) = (operand(scores, 0)?, operand(scores, 1)?);
    let [keys, queries, ..] = node.shape;
    let bias = node.parameter_f32(1);
    let fits = node.op == Op::SoftMax
        && operand(node, 2).is_none()
        && bias == 0.0
        && scores.op == Op::MulMat
        && trace.nodes[k].op != Op::Weight
        && [k, q, mask]
            .into_iter()
            .all(|index| trace.nodes[index].dtype == Dtype::F32)
        && trace.nodes[mask].shape == [keys, queries, 1, 1]
        && readers(trace, &[product]) == 1;
    fits.then_some(Scores {
        k,
        q,
        mask,
        product,
        scale: node.parameter_f32(0),
    })
}
