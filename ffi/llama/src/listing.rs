//! What a graph consists of, in plain data: for checks against what a backend says it has.

use llama_cpp_sys_2 as sys;

use crate::dtype::Dtype;
use crate::graph::Graph;

/// The type and shape of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The element type.
    pub dtype: Dtype,
    /// ggml's number of the type.
    pub number: u32,
    /// shapes: ggml order, innermost first.
    pub shape: [i64; 4],
    /// units: bytes.
    pub strides: [usize; 4],
}

/// One node of a graph that computes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// As `Placement` has it.
    pub name: String,
    /// ggml's number of the operation.
    pub op: u32,
    /// ggml's `op_params`: integers, and floats by their bits.
    pub parameters: [i32; 16],
    /// What it writes.
    pub result: Layout,
    /// Its operands by position; `None` where an optional one is absent.
    pub sources: Vec<Option<Layout>>,
}

impl Graph {
    /// The nodes of the graph so far, in order, but those that are another look at memory.
    pub fn operations(&self) -> Vec<Operation> {
        let operation = |place: usize| {
            // SAFETY: a node of this graph and its operands, all live.
            unsafe {
                let raw = &*sys::ggml_graph_node(self.cgraph, i32::try_from(place).unwrap_or(0));
                let last = raw
                    .src
                    .iter()
                    .rposition(|source| !source.is_null())
                    .map_or(0, |last| last + 1);
                let sources = raw.src[..last]
                    .iter()
                    .map(|source| source.as_ref().map(layout))
                    .collect();
                Operation {
                    name: self.describe(place),
                    op: raw.op,
                    parameters: raw.op_params,
                    result: layout(raw),
                    sources,
                }
            }
        };
        (0..self.nodes())
            .filter(|place| self.computes(*place))
            .map(operation)
            .collect()
    }
}

fn layout(tensor: &sys::ggml_tensor) -> Layout {
    Layout {
        dtype: Dtype::of(tensor.type_),
        number: tensor.type_,
        shape: tensor.ne,
        strides: tensor.nb,
    }
}
