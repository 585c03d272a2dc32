//! What lies below the lowest adapted block never changes: its values are computed once for each
//! example and kept.
//!
//! They are taken where the fewest bytes cross from the frozen part to the rest (the stream between
//! two blocks), for each example alone, so that they do not depend on what an example is packed
//! with.

use std::collections::HashMap;

use translora_llama::{Compute, Dtype, Graph, Op, Storage, Tensor, Trace, WorkBytes};

use crate::emit::Emit;
use crate::error::TrainError;
use crate::forward::Forward;
use crate::inputs::{Feed, Tables};
use crate::pack::{Example, Packed};
use crate::patterns;
use crate::plan::PROGRAMS_MAX;
use crate::reach::{AdapterIndex, Reach, operands};
use crate::tracer::Traced;
use crate::weights::Weights;

/// units: bytes of kept values, unless the spec says otherwise.
pub const FROZEN_BYTES: usize = 1 << 30;

/// Where the frozen part of a graph ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The nodes that the rest reads, in order.
    pub nodes: Vec<usize>,
    /// units: numbers that each of them has for one token.
    pub widths: Vec<usize>,
}

impl Cut {
    /// The last of the places before any adapter that the fewest numbers cross. None where no
    /// product stands before it, or where what crosses is not one row of floats for each token.
    pub fn find(trace: &Trace, reach: &Reach) -> Option<Self> {
        let nodes = &trace.nodes;
        let adapted = (0..nodes.len()).find(|index| {
            reach.live[*index] && reach.needs[*index] && nodes[*index].op != Op::Weight
        })?;
        // A product that is one operation with what its adapter adds, wherever llama.cpp has the
        // two.
        let beside = (0..nodes.len()).filter_map(|sum| {
            patterns::adapted(trace, &reach.needs, sum).and_then(|_| nodes[sum].sources[0])
        });
        let first = beside.chain([adapted]).min()?;
        let mut moving = vec![false; nodes.len()];
        let mut read = vec![0; nodes.len()];
        for index in (0..nodes.len()).filter(|index| reach.live[*index]) {
            moving[index] = nodes[index].op == Op::Input && nodes[index].name == "inp_tokens";
            for operand in operands(&nodes[index]) {
                moving[index] |= moving[operand];
                read[operand] = index;
            }
        }
        let product =
            (0..first).find(|index| reach.live[*index] && nodes[*index].op == Op::MulMat)?;
        let crossing = |place: usize| -> Vec<usize> {
            (0..=place)
                .filter(|node| moving[*node] && read[*node] > place)
                .collect()
        };
        let rows = |index: &usize| {
            let node = &nodes[*index];
            let [_, tokens, more, outer] = node.shape;
            node.dtype == Dtype::F32
                && node.view.is_none()
                && tokens == i64::from(trace.tokens)
                && [more, outer] == [1, 1]
                && node.op != Op::Input
        };
        let width = |index: &usize| usize::try_from(nodes[*index].shape[0]).unwrap_or(0);
        let places = (product..first)
            .map(crossing)
            .filter(|nodes| !nodes.is_empty() && nodes.iter().all(rows));
        let nodes = places.min_by_key(|nodes| {
            (
                nodes.iter().map(width).sum::<usize>(),
                std::cmp::Reverse(nodes.last().copied()),
            )
        })?;
        Some(Self {
            widths: nodes.iter().map(width).collect(),
            nodes,
        })
    }

    /// What is computed once the values at the cut are there.
    pub fn above(&self, trace: &Trace) -> Vec<bool> {
        self.reached(trace, &[trace.output], true)
    }

    /// What is computed up to them.
    fn below(&self, trace: &Trace) -> Vec<bool> {
        self.reached(trace, &self.nodes, false)
    }

    fn reached(&self, trace: &Trace, from: &[usize], stop: bool) -> Vec<bool> {
        let mut reached = vec![false; trace.nodes.len()];
        from.iter().for_each(|index| reached[*index] = true);
        for index in (0..reached.len()).rev() {
            if reached[index] && !(stop && self.nodes.contains(&index)) {
                operands(&trace.nodes[index]).for_each(|operand| reached[operand] = true);
            }
        }
        reached
    }
}

/// The kept values, by the tokens that they are of.
pub(crate) struct Cache {
    /// For each node of the cut, one row for each token.
    kept: HashMap<Vec<i32>, Vec<Vec<f32>>>,
    /// How many there will be.
    wanted: usize,
    programs: HashMap<(usize, usize), FrozenProgram>,
}

impl Cache {
    /// An empty one, for the values of these examples.
    pub fn of(examples: &[Example]) -> Self {
        Self {
            kept: HashMap::new(),
            wanted: different(examples).len(),
            programs: HashMap::new(),
        }
    }

    /// units: bytes that the values of these examples take.
    pub fn bytes(examples: &[Example], cut: &Cut) -> usize {
        let tokens = different(examples).into_iter().map(<[i32]>::len);
        tokens.sum::<usize>() * cut.widths.iter().sum::<usize>() * size_of::<f32>()
    }

    pub fn holds(&self, example: &Example) -> bool {
        self.kept.contains_key(example.input_tokens())
    }

    /// There is a program for examples of this size.
    pub fn has_program(&self, size: (usize, usize)) -> bool {
        self.programs.contains_key(&size)
    }

    pub fn add_program(&mut self, size: (usize, usize), below: FrozenProgram) {
        if self.programs.len() >= PROGRAMS_MAX {
            self.programs.clear();
        }
        self.programs.insert(size, below);
    }

    /// Compute an example's values, by the program for its size, and keep them. The last one needs
    /// no program any more.
    pub fn compute(
        &mut self,
        compute: &mut Compute,
        example: &Example,
        size: (usize, usize),
        tables: &Tables,
    ) -> Result<(), TrainError> {
        let below = self
            .programs
            .get_mut(&size)
            .ok_or_else(|| TrainError::internal("the frozen part has no program for an example"))?;
        let rows = below.run(compute, example, size, tables)?;
        self.kept.insert(example.input_tokens().to_vec(), rows);
        if self.kept.len() == self.wanted {
            self.programs.clear();
        }
        Ok(())
    }

    /// The rows of examples as their pack lays out their tokens: one array for each node of the
    /// cut, zeros at padding.
    pub fn rows(
        &self,
        run: &[&Example],
        packed: &Packed,
        widths: &[usize],
    ) -> Result<Vec<Vec<f32>>, TrainError> {
        if widths.is_empty() {
            return Ok(Vec::new());
        }
        let mut laid: Vec<Vec<f32>> = widths
            .iter()
            .map(|width| vec![0.0; width * packed.tokens.len()])
            .collect();
        for (place, (number, token)) in packed
            .places()
            .enumerate()
            .filter_map(|(place, from)| Some((place, from?)))
        {
            let rows = self
                .kept
                .get(run[number].input_tokens())
                .ok_or_else(|| TrainError::internal("an example's frozen values are missing"))?;
            for ((to, from), width) in laid.iter_mut().zip(rows).zip(widths) {
                to[place * width..][..*width].copy_from_slice(&from[token * width..][..*width]);
            }
        }
        Ok(laid)
    }
}

/// The inputs of these examples, each once.
fn different(examples: &[Example]) -> Vec<&[i32]> {
    let mut inputs: Vec<&[i32]> = examples.iter().map(Example::input_tokens).collect();
    inputs.sort_unstable();
    inputs.dedup();
    inputs
}

/// The frozen part of a graph, for one example.
pub(crate) struct FrozenProgram {
    graph: Graph,
    inputs: Vec<Feed>,
    results: Vec<Tensor>,
    widths: Vec<usize>,
    words: i64,
}

impl FrozenProgram {
    /// fails: nothing is frozen
    pub fn new(
        traced: &Traced,
        weights: &Weights,
        adapter: &Storage,
        index: &AdapterIndex,
    ) -> Result<Self, TrainError> {
        let trace = &traced.trace;
        let reach = Reach::of(trace, index);
        let Some(cut) = Cut::find(trace, &reach) else {
            return Err(TrainError::internal("no part of the graph is frozen"));
        };
        let mut graph = weights.graph(trace.nodes.len() * 4 + 256)?;
        let emit = Emit {
            trace,
            needs: &reach.needs,
            weights,
            dropping: false,
        };
        let mut pass = Forward::new(&mut graph, traced, &reach.live, emit, adapter, index);
        let below = cut.below(trace);
        pass.emit(&[], (0..below.len()).filter(|i| below[*i]))?;
        let Forward {
            forward, inputs, ..
        } = pass;
        let results = cut
            .nodes
            .iter()
            .filter_map(|node| forward[*node])
            .collect::<Vec<_>>();
        for result in &results {
            graph.output(*result)?;
        }
        Ok(Self {
            graph,
            inputs,
            results,
            widths: cut.widths,
            words: trace.nodes[trace.output].shape[0],
        })
    }

    /// units: bytes of work memory, and tensors.
    pub fn measure(mut self, compute: &mut Compute) -> Result<(WorkBytes, usize), TrainError> {
        Ok((compute.measure(&mut self.graph)?, self.graph.len()))
    }

    fn run(
        &mut self,
        compute: &mut Compute,
        example: &Example,
        (tokens, outputs): (usize, usize),
        tables: &Tables,
    ) -> Result<Vec<Vec<f32>>, TrainError> {
        let packed = Packed::new(&[example], 0, tokens, outputs);
        compute.bind(&mut self.graph)?;
        for input in &self.inputs {
            input.fill(compute, &self.graph, &packed, tables, self.words)?;
        }
        compute.run(&self.graph)?;
        let mut rows = Vec::with_capacity(self.results.len());
        for (result, width) in self.results.iter().zip(&self.widths) {
            let mut values = compute.get_f32(&self.graph, *result)?;
            values.truncate(width * example.inputs());
            values.shrink_to_fit();
            rows.push(values);
        }
        Ok(rows)
    }
}
