//! Which values of the forward pass a training graph keeps until its backward pass, and which it
//! computes again there.
//!
//! What is not kept is computed from what is, by the same operations in the same order: the same
//! bits, for less memory and more time.

use translora_llama::{Glu, Op, Trace};

use crate::patterns::{adapted, attention};
use crate::reach::{Reach, operands};

/// How much is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Checkpoints {
    /// All but what is large and cheap: what a swiglu yields, and attention's probabilities.
    #[default]
    Most,
    /// What passes from one block to the next; the rest of a block is computed again when its turn
    /// comes.
    Blocks,
}

impl Checkpoints {
    /// For each node, whether its value is kept. `last`: the node that the gradient starts from.
    pub(crate) fn of(self, trace: &Trace, reach: &Reach, last: usize, direct: bool) -> Vec<bool> {
        match self {
            Self::Most if direct => but_cheap(trace),
            Self::Most => vec![true; trace.nodes.len()],
            Self::Blocks => {
                let mut flow = Flow::of(trace, reach, last);
                if direct {
                    flow.fuse(trace, reach);
                }
                between_blocks(&flow)
            }
        }
    }
}

fn but_cheap(trace: &Trace) -> Vec<bool> {
    let mut kept = vec![true; trace.nodes.len()];
    for (index, node) in trace.nodes.iter().enumerate() {
        match node.op {
            Op::Glu(Glu::Swiglu) => kept[index] = false,
            Op::SoftMax => kept[index] = attention(trace, index).is_none(),
            _ => {}
        }
    }
    kept
}

/// The values that the gradients need, in the order they are computed, and how long each is read.
struct Flow {
    /// Nodes that depend on the adapter, up to the last.
    moving: Vec<bool>,
    /// For each of them the last node that reads it.
    read: Vec<usize>,
    /// The node whose memory it is.
    root: Vec<usize>,
    /// units: bytes; 0 for views.
    bytes: Vec<usize>,
    last: usize,
}

impl Flow {
    fn of(trace: &Trace, reach: &Reach, last: usize) -> Self {
        let count = trace.nodes.len();
        let moves = |index: usize| {
            index <= last
                && reach.live[index]
                && reach.needs[index]
                && trace.nodes[index].op != Op::Weight
        };
        let moving: Vec<bool> = (0..count).map(moves).collect();
        let (mut read, mut root, mut bytes) = (
            vec![0; count],
            (0..count).collect::<Vec<usize>>(),
            vec![0; count],
        );
        for (index, node) in trace
            .nodes
            .iter()
            .enumerate()
            .filter(|(index, _)| *index <= last && reach.live[*index])
        {
            for operand in operands(node) {
                read[operand] = index;
            }
            match (node.op, node.view, node.sources.first()) {
                (_, Some((of, _)), _) => root[index] = root[of],
                (Op::Reshape | Op::Store, None, Some(Some(of))) => root[index] = root[*of],
                _ => {
                    bytes[index] = node
                        .dtype
                        .row_bytes(usize::try_from(node.elements()).unwrap_or(0));
                }
            }
        }
        read[last] = count;
        Self {
            moving,
            read,
            root,
            bytes,
            last,
        }
    }

    /// Count an adapted product, and attention's probabilities, as the one operation that each is.
    fn fuse(&mut self, trace: &Trace, reach: &Reach) {
        for sum in 0..=self.last {
            if let (true, Some(found)) = (self.moving[sum], adapted(trace, &reach.needs, sum)) {
                for inner in trace.nodes[sum]
                    .sources
                    .iter()
                    .flatten()
                    .chain(trace.nodes[found.scale].sources.iter().flatten())
                {
                    self.moving[*inner] = false;
                }
                self.read[found.x] = self.read[found.x].max(sum);
            }
            if let (true, Some(scores)) = (self.moving[sum], attention(trace, sum)) {
                self.moving[scores.product] = false;
                for end in [scores.k, scores.q] {
                    self.read[end] = self.read[end].max(sum);
                }
            }
        }
    }

    /// The nodes at or before each that are read after it, for those after which a block may end,
    /// with the bytes of their memory.
    fn cuts(&self) -> Vec<Cut> {
        let (mut open, mut cuts, mut inside) = (Vec::<usize>::new(), Vec::new(), 0);
        for index in (0..=self.last).filter(|index| self.moving[*index]) {
            open.push(index);
            open.retain(|node| self.read[*node] > index);
            inside += self.bytes[index];
            let mut roots: Vec<usize> = open.iter().map(|node| self.root[*node]).collect();
            roots.sort_unstable();
            roots.dedup();
            let bytes = roots.iter().map(|root| self.bytes[*root]).sum();
            cuts.push(Cut {
                crossing: open.clone(),
                bytes,
                before: inside,
            });
        }
        cuts
    }
}

/// A place between two nodes where a block may end.
struct Cut {
    crossing: Vec<usize>,
    /// Of what crosses it.
    bytes: usize,
    /// Of all values before it.
    before: usize,
}

/// Cut the flow where little crosses it, into pieces that are small beside what is kept between
/// them.
fn between_blocks(flow: &Flow) -> Vec<bool> {
    let cuts = flow.cuts();
    let mut kept: Vec<bool> = flow.moving.iter().map(|moving| !moving).collect();
    kept[flow.last] = true;
    let whole = cuts.last().map_or(0, |cut| cut.before);
    let largest = flow
        .bytes
        .iter()
        .zip(&flow.moving)
        .filter(|(_, moving)| **moving)
        .map(|(bytes, _)| *bytes)
        .max()
        .unwrap_or(0);
    let mut best: Option<(usize, Vec<usize>)> = None;
    let mut limit = whole;
    while limit > largest {
        if let Some((sum, chosen)) = cheapest(&cuts, limit)
            && best
                .as_ref()
                .is_none_or(|(least, _)| sum + 2 * limit < *least)
        {
            best = Some((sum + 2 * limit, chosen));
        }
        limit -= limit / 5 + 1;
    }
    for node in best
        .iter()
        .flat_map(|(_, chosen)| chosen)
        .flat_map(|at| &cuts[*at].crossing)
    {
        kept[*node] = true;
    }
    kept
}

/// The cuts with the least bytes crossing them that leave no piece larger than `limit`; always the
/// last one.
fn cheapest(cuts: &[Cut], limit: usize) -> Option<(usize, Vec<usize>)> {
    // For each cut the least sum of a way there, and the cut before it on that way.
    let mut ways: Vec<Option<(usize, Option<usize>)>> = Vec::with_capacity(cuts.len());
    let mut first = 0;
    for cut in cuts {
        while first < ways.len() && cut.before - cuts[first].before > limit {
            first += 1;
        }
        let start = (cut.before <= limit).then_some((cut.bytes, None));
        let more = (first..ways.len()).filter_map(|at| Some((ways[at]?.0 + cut.bytes, Some(at))));
        ways.push(start.into_iter().chain(more).min_by_key(|(sum, _)| *sum));
    }
    let (sum, mut before) = ways.last().copied().flatten()?;
    let mut chosen = vec![cuts.len() - 1];
    while let Some(at) = before {
        chosen.push(at);
        before = ways[at]?.1;
    }
    Some((sum, chosen))
}

#[cfg(test)]
mod tests {
    use super::{Flow, between_blocks};

    /// Four blocks of a stream of 10 bytes with 100 bytes inside each: the stream is kept between
    /// them and nothing else.
    #[test]
    fn a_chain_is_cut_at_its_stream() {
        // stream, inside, inside, stream, …; the inside is read by the next stream, as is the
        // stream before.
        let count = 13;
        let stream = |index: usize| index.is_multiple_of(3);
        let read = (0..count)
            .map(|index| {
                if stream(index) {
                    index + 3
                } else {
                    index.next_multiple_of(3)
                }
            })
            .collect();
        let bytes = (0..count)
            .map(|index| if stream(index) { 10 } else { 50 })
            .collect();
        let flow = Flow {
            moving: vec![true; count],
            read,
            root: (0..count).collect(),
            bytes,
            last: count - 1,
        };
        let kept = between_blocks(&flow);
        assert_eq!(
            (0..count).filter(|index| kept[*index]).collect::<Vec<_>>(),
            [0, 3, 6, 9, 12]
        );
    }
}
