//! Fills the inputs of a traced graph for a packed sequence.
//!
//! Tokens and outputs are the pack's own. Everything else (masks with their windows and slopes,
//! positions with their sections, temperatures) is looked up, by the positions of the pack's
//! tokens, in what llama.cpp filled for a plain sequence (`Model::probe`).

use std::collections::HashMap;

use translora_llama::{
    Compute, Dtype, Filled, Graph, LlamaError, Model, Node, Op, Reading, Tensor, Trace,
};

use crate::error::TrainError;
use crate::pack::Packed;

/// What an input means.
#[derive(Clone, Debug, PartialEq)]
enum Role {
    Tokens,
    Outputs,
    /// States at the start of a sequence, and what is overwritten unread.
    Zero,
    /// Looked up by name and reader; for each axis, how many numbers it has for one token (0: the
    /// axis is not tokens).
    Table(Reading, [i64; 4]),
}

/// An input of a graph and how it is filled.
pub(crate) struct Feed {
    tensor: Tensor,
    node: Node,
    role: Role,
    /// Numbers it may hold are below this: the rows of the table that they choose from.
    limit: i64,
}

/// What llama.cpp filled, by input and reader, for a sequence of `tokens` tokens.
#[derive(Default)]
pub(crate) struct Tables {
    tokens: usize,
    found: HashMap<Reading, Filled>,
}

impl Tables {
    /// Read from llama.cpp the inputs that the traces need, for positions below `tokens` at least.
    ///
    /// fails: positions beyond a model's table of them
    pub fn cover(
        &mut self,
        model: &Model,
        traces: &[Trace; 2],
        live: &[bool],
        tokens: usize,
        threads: u32,
    ) -> Result<(), TrainError> {
        let wanted = wanted(traces, live)?;
        if tokens <= self.tokens
            && wanted
                .iter()
                .all(|reading| self.found.contains_key(reading))
        {
            return Ok(());
        }
        let table = traces[0].nodes.iter().find(|node| {
            let by = |operand: usize| {
                node.sources
                    .get(operand)
                    .copied()
                    .flatten()
                    .map(|index| &traces[0].nodes[index])
            };
            let positions = by(1).is_some_and(|ids| ids.op == Op::Input && ids.name == "inp_pos");
            node.op == Op::GetRows
                && positions
                && by(0).is_some_and(|rows| (rows.shape[1] as usize) < tokens)
        });
        if let Some(node) = table {
            let reason = format!(
                "{tokens} tokens are more than its table of positions has ({:?})",
                node.name
            );
            return Err(LlamaError::Trace(reason).into());
        }
        // Whole multiples of what llama.cpp pads to, but no position that a table of positions has
        // not.
        let most = if tokens <= model.trained_context() {
            model.trained_context()
        } else {
            usize::MAX
        };
        let tokens = tokens.max(self.tokens).next_multiple_of(256).min(most);
        if !wanted.is_empty() {
            self.found =
                model.probe(u32::try_from(tokens).unwrap_or(u32::MAX), threads, &wanted)?;
        }
        self.tokens = tokens;
        Ok(())
    }

    /// The inputs depend on a token's place among all tokens, or see later ones: sequences must not
    /// be packed together.
    pub fn keeps_sequences_apart(&self) -> bool {
        let sees_later = |filled: &Filled| {
            let [keys, queries, ..] = filled.shape;
            keys > 1 && queries > 1 && filled.values.get(1).is_some_and(|value| value.is_finite())
        };
        let known =
            |name: &str| name.contains("mask") || matches!(name, "inp_pos" | "inp_attn_scale");
        self.found.iter().any(|((name, _), filled)| {
            !known(name) && filled.shape.contains(&(self.tokens as i64)) || sees_later(filled)
        })
    }
}

/// The readings that a trace's live inputs need.
fn wanted(traces: &[Trace; 2], live: &[bool]) -> Result<Vec<Reading>, TrainError> {
    let mut wanted = Vec::new();
    for (index, _) in traces[0]
        .nodes
        .iter()
        .enumerate()
        .filter(|(index, node)| live[*index] && node.op == Op::Input)
    {
        if let Role::Table(reading, _) = role(traces, live, index)? {
            wanted.push(reading);
        }
    }
    Ok(wanted)
}

fn role(traces: &[Trace; 2], live: &[bool], index: usize) -> Result<Role, TrainError> {
    let trace = &traces[0];
    let node = &trace.nodes[index];
    let reads = |reader: &&Node| reader.sources.contains(&Some(index));
    let mut readers = trace
        .nodes
        .iter()
        .enumerate()
        .filter(|(at, _)| live[*at])
        .map(|(_, reader)| reader)
        .filter(reads);
    let Some(first) = readers.clone().next() else {
        return Ok(Role::Zero);
    };
    match node.name.as_str() {
        "inp_tokens" => return Ok(Role::Tokens),
        "out_ids" => return Ok(Role::Outputs),
        // One sequence, whose state is the first and only one.
        "rs_s_copy" => return Ok(Role::Zero),
        _ if readers.all(|reader| reader.op == Op::Fill) => return Ok(Role::Zero),
        _ if !matches!(node.dtype, Dtype::F32 | Dtype::F16 | Dtype::I32) => {
            return Err(TrainError::no_rule(node, " of unknown meaning"));
        }
        _ => {}
    }
    let alone = trace
        .nodes
        .iter()
        .filter(|other| other.op == Op::Input && other.name == node.name)
        .count()
        == 1;
    let reader = if alone {
        None
    } else {
        Some(first.name.clone())
    };
    let mut axes = [0; 4];
    for (axis, of) in axes.iter_mut().enumerate() {
        let (one, two) = (node.shape[axis], traces[1].nodes[index].shape[axis]);
        if one != two {
            *of = (two - one) / i64::from(traces[1].tokens - trace.tokens);
            if *of < 1 || *of * i64::from(trace.tokens) != one {
                return Err(TrainError::no_rule(node, " of unknown meaning"));
            }
        }
    }
    Ok(Role::Table((node.name.clone(), reader), axes))
}

impl Feed {
    /// Add the input `index` of a trace to a graph. `traces`: the two that the graph's own sizes
    /// come from.
    pub fn new(
        graph: &mut Graph,
        traces: &[Trace; 2],
        live: &[bool],
        index: usize,
        node: &Node,
    ) -> Result<Self, TrainError> {
        let role = if node.op == Op::State {
            Role::Zero
        } else {
            role(traces, live, index)?
        };
        let tensor = graph.input(node.dtype, &node.shape, &node.name)?;
        let rows = traces[0].nodes.iter().filter(|reader| {
            reader.op == Op::GetRows && reader.sources.get(1) == Some(&Some(index))
        });
        let rows = rows
            .filter_map(|reader| Some(traces[0].nodes[reader.sources[0]?].shape[1]))
            .min();
        Ok(Self {
            tensor,
            node: node.clone(),
            role,
            limit: rows.unwrap_or(i64::from(i32::MAX)),
        })
    }

    pub fn tensor(&self) -> Tensor {
        self.tensor
    }

    pub fn is_tokens(&self) -> bool {
        self.role == Role::Tokens
    }

    pub fn fill(
        &self,
        compute: &mut Compute,
        graph: &Graph,
        packed: &Packed,
        tables: &Tables,
        words: i64,
    ) -> Result<(), TrainError> {
        let count = usize::try_from(self.node.elements()).unwrap_or(0);
        let tokens = packed.tokens.len() as i64;
        match &self.role {
            Role::Tokens => compute.set_ids(graph, self.tensor, &packed.tokens, words)?,
            Role::Outputs => compute.set_ids(graph, self.tensor, &packed.output_ids, tokens)?,
            Role::Zero if self.node.dtype == Dtype::I32 => {
                compute.set_ids(graph, self.tensor, &vec![0; count], 1)?;
            }
            Role::Zero => compute.set_floats(graph, self.tensor, &vec![0.0; count])?,
            Role::Table(reading, axes) => {
                let missing = || TrainError::no_rule(&self.node, " that llama.cpp never filled");
                let filled = tables.found.get(reading).ok_or_else(missing)?;
                let values = look_up(&self.node, *axes, filled, tables.tokens, packed)
                    .ok_or_else(missing)?;
                if self.node.dtype == Dtype::I32 {
                    let ids: Vec<i32> = values.iter().map(|value| *value as i32).collect();
                    compute.set_ids(graph, self.tensor, &ids, self.limit)?;
                } else {
                    compute.set_floats(graph, self.tensor, &values)?;
                }
            }
        }
        Ok(())
    }
}

/// Each number of an input: the one that llama.cpp had where the token's position was, or −∞
/// between tokens that must not meet.
fn look_up(
    node: &Node,
    axes: [i64; 4],
    filled: &Filled,
    probed: usize,
    packed: &Packed,
) -> Option<Vec<f32>> {
    let tokens = packed.tokens.len();
    // For each axis: the place in the table and, where the axis is tokens, the token.
    let places: Vec<Vec<(usize, Option<usize>)>> = (0..4)
        .map(|axis| {
            let size = usize::try_from(node.shape[axis]).unwrap_or(0);
            let place = |i: usize| match axes[axis] {
                0 => (i, None),
                _ => (
                    i / tokens * probed + packed.positions[i % tokens] as usize,
                    Some(i % tokens),
                ),
            };
            (0..size).map(place).collect()
        })
        .collect();
    let sizes = filled.shape.map(|size| usize::try_from(size).unwrap_or(0));
    let mut values = Vec::with_capacity(usize::try_from(node.elements()).unwrap_or(0));
    for (w, _) in &places[3] {
        for (z, _) in &places[2] {
            for (y, query) in &places[1] {
                let row = ((w * sizes[2] + z) * sizes[1] + y) * sizes[0];
                for (x, key) in &places[0] {
                    let apart = matches!((key, query), (Some(key), Some(query)) if !packed.sees(*query, *key));
                    values.push(if apart {
                        f32::NEG_INFINITY
                    } else {
                        *filled.values.get(row + x)?
                    });
                }
            }
        }
    }
    Some(values)
}
