//! Builds graphs of ggml operations. Shapes are checked here, before ggml could assert on them.

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use llama_cpp_sys_2 as sys;

pub use crate::dtype::Dtype;
use crate::error::LlamaError;
use crate::kernels::Call;
use crate::model::Model;
use crate::storage::{Shared, Storage};
use crate::trace::{Node, Op, Trace};

/// A tensor of one `Graph`; using it with another graph is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tensor {
    pub(crate) graph: u64,
    pub(crate) index: usize,
}

/// A graph under construction, and the same graph when it is run by `Compute`.
pub struct Graph {
    context: NonNull<sys::ggml_context>,
    pub(crate) id: u64,
    pub(crate) tensors: Vec<*mut sys::ggml_tensor>,
    pub(crate) cgraph: *mut sys::ggml_cgraph,
    /// Owners of memory that leaves of this graph point into.
    keep: Vec<Shared>,
    nodes_max: usize,
    /// The model on its devices, whose weights stand in for those of the traced one; then only
    /// operations that devices have are made.
    pub(crate) home: Option<Model>,
    /// The operands of all own tensors: a scheduler puts copies in their places.
    wiring: Vec<[*mut sys::ggml_tensor; 10]>,
    /// Operands that are packed already, for each kernel.
    pub(crate) packed: HashMap<(Tensor, &'static str), Tensor>,
    /// Parameters of our operations; boxed, because they hold its address.
    #[expect(clippy::vec_box, reason = "the vector may move its elements")]
    pub(crate) calls: Vec<Box<Call>>,
}

// SAFETY: the context and its tensors belong to this value alone; leaves point into memory that
// `keep` holds and nobody writes while `&mut Compute` runs.
unsafe impl Send for Graph {}

pub(crate) type Built = Result<Tensor, LlamaError>;

impl Graph {
    /// Start an empty graph of at most `nodes_max` tensors.
    pub fn new(nodes_max: usize) -> Result<Self, LlamaError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // SAFETY: plain parameters; no_alloc keeps tensor data out of the context.
        let context = unsafe {
            let bytes = nodes_max * sys::ggml_tensor_overhead()
                + sys::ggml_graph_overhead_custom(nodes_max, false);
            sys::ggml_init(sys::ggml_init_params {
                mem_size: bytes,
                mem_buffer: std::ptr::null_mut(),
                no_alloc: true,
            })
        };
        let context = NonNull::new(context).ok_or_else(|| LlamaError::Memory {
            what: "a graph".into(),
        })?;
        // SAFETY: the context has room for this graph by the size above.
        let cgraph = unsafe { sys::ggml_new_graph_custom(context.as_ptr(), nodes_max, false) };
        Ok(Self {
            context,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            tensors: Vec::new(),
            cgraph,
            keep: Vec::new(),
            nodes_max,
            home: None,
            wiring: Vec::new(),
            packed: HashMap::new(),
            calls: Vec::new(),
        })
    }

    /// As `new`, for the devices that `model` was loaded to: with its weights, and with operations
    /// that devices have.
    pub fn for_device(nodes_max: usize, model: &Model) -> Result<Self, LlamaError> {
        let mut graph = Self::new(nodes_max)?;
        graph.home = Some(model.clone());
        Ok(graph)
    }

    /// Tensors that the graph may come to, leaves of others among them.
    pub(crate) fn tensors_max(&self) -> usize {
        self.nodes_max + self.tensors.len()
    }

    /// Give all own tensors the operands that they were built with.
    pub(crate) fn rewire(&mut self) {
        if self.home.is_none() {
            return;
        }
        let first = self.wiring.is_empty();
        let mut place = 0;
        // SAFETY: tensors of the graph's own context are live, in the same order each time, and
        // nothing runs on them meanwhile.
        unsafe {
            let mut own = sys::ggml_get_first_tensor(self.ctx());
            while !own.is_null() {
                match self.wiring.get(place) {
                    Some(sources) if !first => (*own).src = *sources,
                    _ => self.wiring.push((*own).src),
                }
                place += 1;
                own = sys::ggml_get_next_tensor(self.ctx(), own);
            }
        }
    }

    /// Memory that is filled before each run.
    pub fn input(&mut self, dtype: Dtype, shape: &[i64], name: &str) -> Built {
        let mut ne = [1; 4];
        if shape.is_empty() || shape.len() > 4 || shape.iter().any(|n| *n < 1) {
            return Err(LlamaError::Graph(format!("input {name}: shape {shape:?}")));
        }
        ne[..shape.len()].copy_from_slice(shape);
        self.room()?;
        // SAFETY: room was checked; the shape has four positive sizes.
        let raw = unsafe {
            let raw = sys::ggml_new_tensor_4d(self.ctx(), dtype.0, ne[0], ne[1], ne[2], ne[3]);
            sys::ggml_set_input(raw);
            set_name(raw, name);
            raw
        };
        Ok(self.push(raw))
    }

    /// A weight of the traced model, where it lies.
    pub fn weight(&mut self, trace: &Trace, node: &Node) -> Built {
        if node.op != Op::Weight {
            return Err(LlamaError::Graph(format!("{} is not a weight", node.name)));
        }
        if self.keep.is_empty() {
            self.keep.push(Shared::Model(trace.model.clone()));
            self.keep
                .extend(trace.adapters.iter().cloned().map(Shared::Adapter));
        }
        let Some(home) = &self.home else {
            return Ok(self.push(node.raw));
        };
        let raw = home.tensor(&node.name).ok_or_else(|| {
            LlamaError::Graph(format!("the model on the device has no {}", node.name))
        })?;
        // SAFETY: both are live; the model is kept by this graph.
        unsafe {
            if (*raw).ne != (*node.raw).ne || (*raw).type_ != (*node.raw).type_ {
                return Err(LlamaError::Graph(format!(
                    "{} differs on the device",
                    node.name
                )));
            }
        }
        Ok(self.push(raw))
    }

    /// A tensor of `storage`, where it lies.
    pub fn stored(&mut self, storage: &Storage, index: usize) -> Built {
        let raw = storage.tensor(index)?;
        self.keep.push(Shared::Storage(storage.clone()));
        Ok(self.push(raw))
    }

    /// Emit a traced operation again on other operands.
    ///
    /// `view` is this graph's tensor for the traced node's view source.
    pub fn replay(
        &mut self,
        node: &Node,
        sources: &[Option<Tensor>],
        view: Option<Tensor>,
    ) -> Built {
        self.room()?;
        let mut raw_sources = [std::ptr::null_mut(); 10];
        for (slot, source) in raw_sources.iter_mut().zip(sources) {
            if let Some(source) = source {
                *slot = self.raw(*source)?;
            }
        }
        let [n0, n1, n2, n3] = node.shape;
        let [_, b1, b2, b3] = node.strides;
        let root = view.map(|view| self.raw(view)).transpose()?;
        // SAFETY: room was checked. A view's extent inside its source is checked right below; a
        // fresh tensor has the traced type and shape; operation, parameters and operands are the
        // traced ones, which llama.cpp built through ggml's own checks, and the caller passes
        // operands of the traced shapes (`matches`).
        unsafe {
            let raw = match (root, node.view) {
                (Some(root), Some((_, offset))) => {
                    let last = node
                        .strides
                        .iter()
                        .zip(&node.shape)
                        .map(|(b, n)| b * usize::try_from(n - 1).unwrap_or(0))
                        .sum::<usize>();
                    if offset + last >= sys::ggml_nbytes(root) {
                        return Err(LlamaError::Graph(format!(
                            "{}: a view outside its source",
                            node.name
                        )));
                    }
                    let raw =
                        sys::ggml_view_4d(self.ctx(), root, n0, n1, n2, n3, b1, b2, b3, offset);
                    (*raw).nb = node.strides;
                    raw
                }
                (None, None) => sys::ggml_new_tensor_4d(self.ctx(), node.dtype.0, n0, n1, n2, n3),
                _ => {
                    return Err(LlamaError::Graph(format!(
                        "{}: a view source is missing, or there is one too many",
                        node.name
                    )));
                }
            };
            (*raw).op = node.raw_op;
            (*raw).op_params = node.parameters;
            (*raw).src = raw_sources;
            set_name(raw, &node.name);
            Ok(self.push(raw))
        }
    }

    /// shapes: `a` [k, m, …], `b` [k, n, …] → [m, n, …], an F32 result; `a` is broadcast over the
    /// outer two.
    pub fn mul_mat(&mut self, a: Tensor, b: Tensor) -> Built {
        let (sa, sb) = (self.shape(a)?, self.shape(b)?);
        if sa[0] != sb[0] || sb[2] % sa[2] != 0 || sb[3] % sa[3] != 0 || self.is_transposed(a)? {
            return Err(LlamaError::Graph(format!("mul_mat of {sa:?} and {sb:?}")));
        }
        // SAFETY: the conditions of ggml_can_mul_mat and its assert on transposition hold.
        self.binary(a, b, |ctx, a, b| unsafe { sys::ggml_mul_mat(ctx, a, b) })
    }

    /// The gradient of `mul_mat` for its second operand as ggml's own autodiff takes it, one weight
    /// row for each token. For comparison.
    ///
    /// shapes: W [k, m], dy [m, …] → [k, …]
    pub fn out_prod(&mut self, weight: Tensor, dy: Tensor) -> Built {
        let (sw, sy) = (self.shape(weight)?, self.shape(dy)?);
        if sw[1] != sy[0] || sw[2..] != [1, 1] || self.dtype(dy)? != Dtype::F32 {
            return Err(LlamaError::Graph(format!("out_prod of {sw:?} and {sy:?}")));
        }
        let dense = self.dense(dy)?;
        let transposed = self.transpose(dense)?;
        // SAFETY: the conditions of ggml_can_out_prod hold, and the weight is no transposed view.
        self.binary(weight, transposed, |ctx, weight, transposed| unsafe {
            sys::ggml_out_prod(ctx, weight, transposed)
        })
    }

    /// shapes: `rows [n, m]`, I32 `ids [k]` → F32 `[n, k]`
    pub fn get_rows(&mut self, rows: Tensor, ids: Tensor) -> Built {
        let (sr, si) = (self.shape(rows)?, self.shape(ids)?);
        if sr[2] != 1
            || sr[3] != 1
            || si[1] != 1
            || si[2] != 1
            || si[3] != 1
            || self.dtype(ids)? != Dtype::I32
        {
            return Err(LlamaError::Graph(format!("get_rows of {sr:?} by {si:?}")));
        }
        // SAFETY: ggml's shape conditions hold. The ids' values are the caller's to check before
        // each run (`Compute::set_ids`).
        self.binary(rows, ids, |ctx, rows, ids| unsafe {
            sys::ggml_get_rows(ctx, rows, ids)
        })
    }

    /// Keep a tensor's value readable after a run, and compute it.
    pub fn output(&mut self, a: Tensor) -> Result<(), LlamaError> {
        let raw = self.raw(a)?;
        // SAFETY: a live tensor of this graph; the graph has room for `nodes_max` nodes and the
        // context for no more tensors than that.
        unsafe {
            sys::ggml_set_output(raw);
            sys::ggml_build_forward_expand(self.cgraph, raw);
        }
        Ok(())
    }

    /// Compute everything `a` needs before whatever is added later.
    pub fn expand(&mut self, a: Tensor) -> Result<(), LlamaError> {
        let raw = self.raw(a)?;
        // SAFETY: as in `output`.
        unsafe { sys::ggml_build_forward_expand(self.cgraph, raw) };
        Ok(())
    }

    /// Nodes that a run computes, so far.
    pub fn nodes(&self) -> usize {
        // SAFETY: this graph's own.
        usize::try_from(unsafe { sys::ggml_graph_n_nodes(self.cgraph) }).unwrap_or(0)
    }

    /// What the node at a place of the run computes, and from what kind of operand.
    pub fn describe(&self, place: usize) -> String {
        let text = |text: *const std::ffi::c_char| {
            // SAFETY: ggml's names are NUL-terminated, static or part of a live tensor.
            unsafe { std::ffi::CStr::from_ptr(text) }
                .to_string_lossy()
                .into_owned()
        };
        if place >= self.nodes() {
            return String::new();
        }
        // SAFETY: a node of this graph; ggml has a description of each op and a name of each type.
        unsafe {
            let raw = sys::ggml_graph_node(self.cgraph, i32::try_from(place).unwrap_or(0));
            let op = if (*raw).op == sys::GGML_OP_CUSTOM {
                text((*raw).name.as_ptr())
            } else {
                text(sys::ggml_op_desc(raw))
            };
            let source = (*raw).src[0];
            if source.is_null() {
                op
            } else {
                format!("{op} {}", text(sys::ggml_type_name((*source).type_)))
            }
        }
    }

    /// The node at a place is more than another look at memory.
    pub(crate) fn computes(&self, place: usize) -> bool {
        let empty = [
            sys::GGML_OP_NONE,
            sys::GGML_OP_VIEW,
            sys::GGML_OP_RESHAPE,
            sys::GGML_OP_PERMUTE,
            sys::GGML_OP_TRANSPOSE,
        ];
        // SAFETY: a node of this graph.
        place < self.nodes()
            && !empty.contains(unsafe {
                &(*sys::ggml_graph_node(self.cgraph, i32::try_from(place).unwrap_or(0))).op
            })
    }

    /// shapes: ggml order, innermost first.
    pub fn shape(&self, a: Tensor) -> Result<[i64; 4], LlamaError> {
        // SAFETY: a live tensor of this graph.
        Ok(unsafe { (*self.raw(a)?).ne })
    }

    /// The element type.
    ///
    /// fails: a tensor of another graph.
    pub fn dtype(&self, a: Tensor) -> Result<Dtype, LlamaError> {
        // SAFETY: a live tensor of this graph.
        Ok(Dtype(unsafe { (*self.raw(a)?).type_ }))
    }

    /// Tensors built so far.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Nothing was built yet.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    pub(crate) fn raw(&self, a: Tensor) -> Result<*mut sys::ggml_tensor, LlamaError> {
        if a.graph == self.id {
            Ok(self.tensors[a.index])
        } else {
            Err(LlamaError::Graph("a tensor of another graph".into()))
        }
    }

    pub(crate) fn ctx(&self) -> *mut sys::ggml_context {
        self.context.as_ptr()
    }

    pub(crate) fn push(&mut self, raw: *mut sys::ggml_tensor) -> Tensor {
        self.tensors.push(raw);
        Tensor {
            graph: self.id,
            index: self.tensors.len() - 1,
        }
    }

    pub(crate) fn room(&self) -> Result<(), LlamaError> {
        // Leaves of others take no room; counting them anyway keeps the check on the safe side.
        if self.tensors.len() + 2 > self.nodes_max {
            return Err(LlamaError::Graph(format!(
                "more than {} tensors",
                self.nodes_max
            )));
        }
        Ok(())
    }

    fn is_transposed(&self, a: Tensor) -> Result<bool, LlamaError> {
        // SAFETY: a live tensor of this graph.
        Ok(unsafe { sys::ggml_is_transposed(self.raw(a)?) })
    }

    pub(crate) fn unary(
        &mut self,
        a: Tensor,
        make: impl FnOnce(*mut sys::ggml_context, *mut sys::ggml_tensor) -> *mut sys::ggml_tensor,
    ) -> Built {
        let a = self.raw(a)?;
        self.room()?;
        let raw = make(self.ctx(), a);
        Ok(self.push(raw))
    }

    pub(crate) fn binary(
        &mut self,
        a: Tensor,
        b: Tensor,
        make: impl FnOnce(
            *mut sys::ggml_context,
            *mut sys::ggml_tensor,
            *mut sys::ggml_tensor,
        ) -> *mut sys::ggml_tensor,
    ) -> Built {
        let (a, b) = (self.raw(a)?, self.raw(b)?);
        self.room()?;
        let raw = make(self.ctx(), a, b);
        Ok(self.push(raw))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: the only owner; leaves of others are not freed with the context.
        unsafe { sys::ggml_free(self.ctx()) }
    }
}

/// # Safety
/// `raw` must be a live ggml tensor.
pub(crate) unsafe fn set_name(raw: *mut sys::ggml_tensor, name: &str) {
    // SAFETY: the caller promises a live tensor; the array's last byte stays NUL.
    let slot = unsafe { &mut (*raw).name };
    slot.fill(0);
    let room = slot.len() - 1;
    for (slot, byte) in slot[..room].iter_mut().zip(name.bytes()) {
        *slot = byte.cast_signed();
    }
}
