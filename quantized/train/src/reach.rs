//! Reads a trace: what the logits depend on, what depends on an adapter, where gradients can flow.

use std::collections::{HashMap, HashSet};

use translora_llama::{Node, Op, Trace};

/// `blk.0.attn_q.weight.lora_b` → its index in the adapter's storage
pub(crate) type AdapterIndex = HashMap<String, usize>;

/// What each node of a trace has to do with the logits and with the adapter.
pub(crate) struct Reach {
    /// The logits depend on it.
    pub live: Vec<bool>,
    /// It depends on an adapter matrix, by values and not by choices alone.
    pub needs: Vec<bool>,
    /// A gradient of the logits flows to it.
    pub flows: Vec<bool>,
}

impl Reach {
    pub fn of(trace: &Trace, adapter: &AdapterIndex) -> Self {
        let count = trace.nodes.len();
        let (mut live, mut needs, mut flows) =
            (vec![false; count], vec![false; count], vec![false; count]);
        live[trace.output] = true;
        for index in (0..=trace.output).rev().filter(|index| *index < count) {
            if live[index] {
                for operand in operands(&trace.nodes[index]) {
                    live[operand] = true;
                }
            }
        }
        for (index, node) in trace.nodes.iter().enumerate() {
            let leaf = node.op == Op::Weight && adapter.contains_key(&node.name);
            needs[index] = leaf
                || !node.op.is_choice()
                    && node.sources.iter().flatten().any(|source| needs[*source]);
        }
        flows[trace.output] = true;
        for index in (0..=trace.output).rev() {
            if flows[index] && needs[index] {
                for source in trace.nodes[index].sources.iter().flatten() {
                    flows[*source] |= needs[*source];
                }
            }
        }
        Self { live, needs, flows }
    }
}

/// What a node reads, the memory of a view among it.
pub(crate) fn operands(node: &Node) -> impl Iterator<Item = usize> {
    node.sources
        .iter()
        .flatten()
        .copied()
        .chain(node.view.map(|(root, _)| root))
}

/// Where each adapter matrix is first used: its name and the node that reads it, for those that a
/// gradient can reach.
pub(crate) fn trained(trace: &Trace, adapter: &AdapterIndex) -> HashMap<String, usize> {
    let Reach { flows, .. } = Reach::of(trace, adapter);
    let mut found = HashMap::new();
    for (index, node) in trace
        .nodes
        .iter()
        .enumerate()
        .filter(|(index, _)| flows[*index])
    {
        for source in node
            .sources
            .iter()
            .flatten()
            .filter(|source| flows[**source])
        {
            let leaf = &trace.nodes[*source];
            if leaf.op == Op::Weight && adapter.contains_key(&leaf.name) {
                found.entry(leaf.name.clone()).or_insert(index);
            }
        }
    }
    found
}

/// Make a plain value of what llama.cpp writes into its memories and reads back at once (cache
/// rows, in a training context all of them): `SET_ROWS` of as many rows as there are becomes
/// `Store` (`StoreTransposed` where llama.cpp scatters single numbers, as it does for a cache of
/// values without flash attention), and whoever read the memory afterwards reads that.
///
/// Returns the nodes that read a memory after a part of it was written, which is nothing a training
/// graph can repeat.
pub(crate) fn replace_stores(trace: &mut Trace) -> HashSet<usize> {
    let mut latest: HashMap<usize, usize> = HashMap::new();
    let (mut dirty, mut broken) = (HashSet::new(), HashSet::new());
    for index in 0..trace.nodes.len() {
        let mut node = trace.nodes[index].clone();
        for slot in node.sources.iter_mut().flatten() {
            *slot = latest.get(slot).copied().unwrap_or(*slot);
        }
        if let Some((root, _)) = &mut node.view {
            *root = latest.get(root).copied().unwrap_or(*root);
        }
        let state = node
            .view
            .map(|(root, _)| root)
            .filter(|root| trace.nodes[*root].op == Op::State);
        match (node.op, state) {
            (Op::SetRows, Some(state)) => {
                let rows = node.sources.first().copied().flatten();
                let whole = rows.is_some_and(|rows| {
                    trace.nodes[rows].elements() == trace.nodes[state].elements()
                });
                let by_input = node
                    .sources
                    .get(1)
                    .copied()
                    .flatten()
                    .is_some_and(|ids| trace.nodes[ids].op == Op::Input);
                if whole && by_input {
                    let scattered = rows.is_some_and(|rows| trace.nodes[rows].shape[0] == 1)
                        && trace.nodes[state].shape[0] != 1;
                    node.op = if scattered {
                        Op::StoreTransposed
                    } else {
                        Op::Store
                    };
                    node.shape = trace.nodes[state].shape;
                    node.strides = trace.nodes[state].strides;
                    node.sources.truncate(1);
                    node.view = None;
                    latest.insert(state, index);
                } else {
                    dirty.insert(state);
                }
            }
            (Op::Cpy, Some(state)) => {
                dirty.insert(state);
            }
            _ if operands(&node).any(|operand| dirty.contains(&operand)) => {
                broken.insert(index);
            }
            _ => {}
        }
        trace.nodes[index] = node;
    }
    broken
}
