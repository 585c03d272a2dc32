//! Reads llama.cpp's own forward graph of a training context into plain data.

use std::collections::HashMap;
use std::ffi::CStr;

use llama_cpp_sys_2 as sys;

use crate::context::Context;
use crate::error::LlamaError;
use crate::graph::Dtype;
use crate::log::{self, Reason};
use crate::model::{Adapter, Model};
pub use crate::op::Op;
use crate::op::op_of;

/// A forward graph: nodes in execution order, each with its operands before it.
///
/// The trace keeps the model and the adapters alive whose tensors it names.
pub struct Trace {
    /// Leaves and operations; operands are indices into this list.
    pub nodes: Vec<Node>,
    /// Index of the logits.
    pub output: usize,
    /// Tokens it was traced for.
    pub tokens: u32,
    pub(crate) model: Model,
    pub(crate) adapters: Vec<Adapter>,
}

/// One tensor of a traced graph.
#[derive(Clone, Debug)]
pub struct Node {
    /// ggml's name of the tensor: that of the file for a weight.
    pub name: String,
    /// What computes it.
    pub op: Op,
    /// The element type.
    pub dtype: Dtype,
    /// shapes: ggml order, innermost first.
    pub shape: [i64; 4],
    /// units: bytes.
    pub strides: [usize; 4],
    /// Operands by position; `None` where an optional one is absent.
    pub sources: Vec<Option<usize>>,
    /// For views: the tensor whose memory this is, and the byte offset into it.
    pub view: Option<(usize, usize)>,
    /// ggml's `op_params`: integers, and floats by their bits.
    pub parameters: [i32; 16],
    pub(crate) raw_op: sys::ggml_op,
    /// Weights only: the tensor itself, kept alive by the trace's model and adapters. Null
    /// otherwise.
    pub(crate) raw: *mut sys::ggml_tensor,
}

impl Node {
    /// A float parameter of the op, as ggml stores it.
    pub fn parameter_f32(&self, index: usize) -> f32 {
        f32::from_bits(self.parameters[index].cast_unsigned())
    }

    /// Number of elements: the product of the shape.
    pub fn elements(&self) -> i64 {
        self.shape.iter().product()
    }
}

impl Context {
    /// Trace the forward graph of a full context (`params().context` tokens, one sequence) with
    /// logits at `outputs` of them, adapters included.
    ///
    /// source: llama.cpp `llama_graph_reserve` (src/llama-ext.h)
    pub fn trace(&mut self, outputs: u32) -> Result<Trace, LlamaError> {
        let tokens = self.params().context;
        if !self.is_training() || outputs == 0 || outputs > tokens {
            return Err(LlamaError::Trace(format!(
                "{outputs} outputs of {tokens} tokens; only a training context traces"
            )));
        }
        let (mark, mut reason) = (log::mark(), Reason::new());
        let (buffer, size) = reason.pointer();
        // SAFETY: context alive, sizes checked; exceptions end in the shim.
        let graph = unsafe {
            crate::shim::translora_graph_reserve(self.raw(), tokens, outputs, buffer, size)
        };
        if graph.is_null() {
            return Err(LlamaError::Trace(
                reason.or_log(mark, "llama.cpp built no graph"),
            ));
        }
        let mut reader = Reader {
            nodes: Vec::new(),
            index: HashMap::new(),
        };
        // SAFETY: the graph is valid until the next reserve on this context, which needs `&mut
        // self`; tensors are read, not kept, except weights, which the model and adapters below
        // own.
        unsafe {
            for i in 0..sys::ggml_graph_n_nodes(graph) {
                reader.read(sys::ggml_graph_node(graph, i));
            }
        }
        let named = reader
            .nodes
            .iter()
            .rposition(|node| node.name == "result_output");
        let output = named
            .or(reader.nodes.len().checked_sub(1))
            .ok_or_else(|| LlamaError::Trace("an empty graph".into()))?;
        let adapters = self
            .adapters()
            .iter()
            .map(|(adapter, _)| adapter.clone())
            .collect();
        Ok(Trace {
            nodes: reader.nodes,
            output,
            tokens,
            model: self.model().clone(),
            adapters,
        })
    }
}

impl Trace {
    /// Derive the graph for another number of tokens from two traces: what is equal in both does
    /// not depend on it, the rest is proportional to it, to its square, or linear.
    ///
    /// llama.cpp pads contexts to 256 tokens and a training graph spans its whole context, so only
    /// multiples of that can be traced.
    ///
    /// fails: the two differ in more than sizes, or a size comes out broken.
    pub fn resized(&self, other: &Self, tokens: u32) -> Result<Self, LlamaError> {
        let refuse = |name: &str| {
            LlamaError::Trace(format!("{name} does not scale with the number of tokens"))
        };
        if self.nodes.len() != other.nodes.len()
            || self.output != other.output
            || self.tokens == other.tokens
        {
            return Err(refuse("the graph"));
        }
        let size = Sizes {
            one: i64::from(self.tokens),
            two: i64::from(other.tokens),
            wanted: i64::from(tokens),
        };
        let mut nodes = self.nodes.clone();
        for (node, twin) in nodes.iter_mut().zip(&other.nodes) {
            if node.op != twin.op
                || node.sources != twin.sources
                || (!node.op.is_look() && node.parameters != twin.parameters)
            {
                return Err(refuse(&node.name));
            }
            for (value, twin) in node.shape.iter_mut().zip(twin.shape) {
                *value = size.at(*value, twin).ok_or_else(|| refuse(&node.name))?;
            }
            let bytes = |value: usize, twin: usize| -> Option<usize> {
                size.at(value.try_into().ok()?, twin.try_into().ok()?)?
                    .try_into()
                    .ok()
            };
            for (value, twin) in node.strides.iter_mut().zip(twin.strides) {
                *value = bytes(*value, twin).ok_or_else(|| refuse(&node.name))?;
            }
            if let (Some((_, offset)), Some((_, twin))) = (&mut node.view, twin.view) {
                *offset = bytes(*offset, twin).ok_or_else(|| refuse(&node.name))?;
            }
        }
        Ok(Self {
            nodes,
            output: self.output,
            tokens,
            model: self.model.clone(),
            adapters: self.adapters.clone(),
        })
    }
}

/// Two traced numbers of tokens and a third.
struct Sizes {
    one: i64,
    two: i64,
    wanted: i64,
}

impl Sizes {
    /// What is `a` at one and `b` at two, at the third.
    fn at(&self, a: i64, b: i64) -> Option<i64> {
        let Self { one, two, wanted } = *self;
        let exact = |numerator: i64, denominator: i64| {
            (numerator % denominator == 0).then(|| numerator / denominator)
        };
        if a == b {
            Some(a)
        } else if a * two == b * one {
            exact(a * wanted, one)
        } else if a * two * two == b * one * one {
            exact(a * wanted * wanted, one * one)
        } else {
            Some(a + exact((b - a) * (wanted - one), two - one)?)
        }
    }
}

struct Reader {
    nodes: Vec<Node>,
    index: HashMap<*mut sys::ggml_tensor, usize>,
}

impl Reader {
    /// Append a tensor after all that it reads.
    ///
    /// # Safety
    /// `raw` and everything it refers to must be live ggml tensors.
    unsafe fn read(&mut self, raw: *mut sys::ggml_tensor) -> usize {
        if let Some(index) = self.index.get(&raw) {
            return *index;
        }
        // SAFETY: the caller promises live tensors.
        let tensor = unsafe { &*raw };
        // A cast is a CPY onto itself.
        let cast = tensor.op == sys::GGML_OP_CPY && tensor.src[1] == raw;
        let last = tensor
            .src
            .iter()
            .rposition(|source| !source.is_null())
            .map_or(0, |last| last + 1);
        let count = if cast { 1 } else { last };
        let mut sources = Vec::with_capacity(count);
        for source in &tensor.src[..count] {
            sources.push(if source.is_null() {
                None
            } else {
                // SAFETY: as above; not null.
                Some(unsafe { self.read(*source) })
            });
        }
        // SAFETY: as above; not null.
        let view = (!tensor.view_src.is_null())
            .then(|| (unsafe { self.read(tensor.view_src) }, tensor.view_offs));
        // SAFETY: ggml keeps names NUL-terminated.
        let name = unsafe { CStr::from_ptr(tensor.name.as_ptr()) }
            .to_string_lossy()
            .into_owned();
        let op = if cast {
            Op::Cont
        } else {
            // SAFETY: as above.
            unsafe { op_of(raw) }
        };
        self.nodes.push(Node {
            name,
            op,
            dtype: Dtype::of(tensor.type_),
            shape: tensor.ne,
            strides: tensor.nb,
            sources,
            view,
            parameters: tensor.op_params,
            raw_op: if cast { sys::GGML_OP_DUP } else { tensor.op },
            raw: if op == Op::Weight {
                raw
            } else {
                std::ptr::null_mut()
            },
        });
        self.index.insert(raw, self.nodes.len() - 1);
        self.nodes.len() - 1
    }
}
