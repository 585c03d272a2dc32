//! Products of llama.cpp's own graphs by our kernels. llama.cpp calls back for each node before it
//! is computed; a product that ours is faster at becomes an operation of ours then, which ggml's
//! threads run in its place.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};

use llama_cpp_sys_2 as sys;

use super::block::{Block, Parts};
use super::pack::{COLUMNS, Matrix, Packing, STEPS};
use super::product::SCRATCH;
use super::{Kernel, packed_lanes, reader};
use crate::error::LlamaError;

/// Tokens of a batch from which on ours are faster.
const TOKENS_MIN: i64 = 12;
/// Types that ggml multiplies a row and a token at a time, so that it unpacks each weight once for
/// every token: for these it has neither tiles nor another layout. A kernel of integers is faster
/// for the others, too.
const TYPES: [sys::ggml_type; 2] = [sys::GGML_TYPE_Q4_1, sys::GGML_TYPE_Q5_1];
/// As ggml keeps them for an operation.
type Parameters = [i32; 16];

/// Takes the places of products in the graphs of one context. They run one after the other, so all
/// of them share its memory.
pub(crate) struct Instead {
    kernel: Kernel,
    /// The activations in panels; grows between runs only.
    panels: Vec<u32>,
    /// Where they begin, for threads that write different ones.
    packed: *mut u32,
    /// What makes an operation ours.
    parameters: Parameters,
    progress: Progress,
}

/// What the threads of one product have begun and ended.
#[derive(Default)]
struct Progress {
    panel: AtomicUsize,
    packed: AtomicUsize,
    part: AtomicUsize,
    left: AtomicUsize,
}

impl Progress {
    fn next(counter: &AtomicUsize, count: usize) -> Option<usize> {
        Some(counter.fetch_add(1, Ordering::Relaxed)).filter(|next| *next < count)
    }

    /// Until all panels are packed. Threads that pack are running, unless the system put one aside:
    /// then this one goes aside, too.
    fn wait(&self, panels: usize) {
        const SPINS: usize = 1 << 10;
        let mut spins = 0;
        while self.packed.load(Ordering::Acquire) < panels {
            spins += 1;
            if spins % SPINS == 0 {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// All threads come by; the last one makes ready for the next product, before which ggml's
    /// barrier stands.
    fn leave(&self, threads: i32) {
        if self.left.fetch_add(1, Ordering::AcqRel) + 1 == threads as usize {
            [&self.panel, &self.packed, &self.part, &self.left]
                .into_iter()
                .for_each(|counter| counter.store(0, Ordering::Relaxed));
        }
    }
}

impl Instead {
    /// Boxed: ggml keeps its address, which holds as long as the box is not dropped.
    ///
    /// fails: no memory for one operation.
    pub fn new(kernel: Kernel) -> Result<Box<Self>, LlamaError> {
        let mut instead = Box::new(Self {
            kernel,
            panels: Vec::new(),
            packed: std::ptr::null_mut(),
            parameters: Parameters::default(),
            progress: Progress::default(),
        });
        instead.parameters = parameters(std::ptr::from_ref::<Self>(&instead).cast_mut().cast())?;
        Ok(instead)
    }

    /// Make this node our own operation, if it is a product that we are faster at.
    ///
    /// # Safety
    /// `node` is a live, placed node that the CPU's backend is about to compute, and nothing of
    /// this context runs.
    pub unsafe fn take(&mut self, node: *mut sys::ggml_tensor) -> bool {
        // SAFETY: as promised; a product has two operands.
        unsafe {
            if !ours(node, self.kernel) {
                return false;
            }
            let [_, x, ..] = (*node).src;
            let [depth, rows @ ..] = (*x).ne.map(|size| size as usize);
            let lanes = packed_lanes(self.kernel.tiles(), rows.iter().product(), depth);
            self.panels.resize(self.panels.len().max(lanes), 0);
            self.packed = self.panels.as_mut_ptr();
            (*node).op = sys::GGML_OP_CUSTOM;
            (*node).op_params = self.parameters;
            true
        }
    }
}

/// Called before a node is computed. Wants to see none of the results, so that a graph is computed
/// in one go.
///
/// # Safety
/// `user` must be the live `Instead` of the context whose node this is; called by ggml.
pub(crate) unsafe extern "C" fn substitute(
    node: *mut sys::ggml_tensor,
    ask: bool,
    user: *mut c_void,
) -> bool {
    if ask {
        // SAFETY: as promised; ggml calls for all nodes that it computes together before it
        // computes them.
        unsafe { (*user.cast::<Instead>()).take(node) };
    }
    false
}

/// A product of a quantized weight that this kernel is faster at, in the host's memory, which we
/// can read, with contiguous rows of floats, enough of them.
unsafe fn ours(node: *const sys::ggml_tensor, kernel: Kernel) -> bool {
    // SAFETY: the caller's node is live, its operands too.
    unsafe {
        // The first parameter sets a precision, which ours has; the second says what else the
        // weight is.
        if (*node).op != sys::GGML_OP_MUL_MAT || (*node).op_params[1] != 0 {
            return false;
        }
        let [weight, x, ..] = (*node).src;
        let kind = (*weight).type_;
        let [width, _, p, q] = (*weight).ne;
        let [_, rows @ ..] = (*x).ne;
        rows.iter().product::<i64>() >= TOKENS_MIN
            && (TYPES.contains(&kind) || kernel.rounding().is_some())
            && reader(kind).is_some()
            && (*weight).nb[0] == sys::ggml_type_size(kind)
            && width % sys::ggml_blck_size(kind) == 0
            && (p, q) == (1, 1)
            && (*x).type_ == sys::GGML_TYPE_F32
            && sys::ggml_is_contiguous(x)
            && [weight, x, node.cast_mut()]
                .into_iter()
                .all(|tensor| hosted(tensor))
    }
}

unsafe fn hosted(tensor: *const sys::ggml_tensor) -> bool {
    // SAFETY: the caller's tensor is live; a view's owner lives as long as the view.
    unsafe {
        let buffer = if (*tensor).view_src.is_null() {
            (*tensor).buffer
        } else {
            (*(*tensor).view_src).buffer
        };
        !buffer.is_null() && sys::ggml_backend_buffer_is_host(buffer)
    }
}

/// The parameters that make ggml call `product` with `user`: those of an operation that is made for
/// their sake.
fn parameters(user: *mut c_void) -> Result<Parameters, LlamaError> {
    let missing = || LlamaError::Memory {
        what: "an operation".into(),
    };
    // SAFETY: plain parameters; the context has room for two tensors and lives until they were
    // read.
    unsafe {
        let mem_size = 2 * sys::ggml_tensor_overhead();
        let context = sys::ggml_init(sys::ggml_init_params {
            mem_size,
            mem_buffer: std::ptr::null_mut(),
            no_alloc: true,
        });
        if context.is_null() {
            return Err(missing());
        }
        let mut operands = [sys::ggml_new_tensor_1d(context, sys::GGML_TYPE_F32, 1)];
        let product = sys::ggml_custom_4d(
            context,
            sys::GGML_TYPE_F32,
            1,
            1,
            1,
            1,
            operands.as_mut_ptr(),
            1,
            Some(product),
            -1,
            user,
        );
        let parameters = if product.is_null() {
            None
        } else {
            Some((*product).op_params)
        };
        sys::ggml_free(context);
        parameters.ok_or_else(missing)
    }
}

/// # Safety
/// As `ggml_custom_op_t`: `target` was taken by the live `Instead` that `user` is.
unsafe extern "C" fn product(
    target: *mut sys::ggml_tensor,
    _: i32,
    threads: i32,
    user: *mut c_void,
) {
    // SAFETY: `take` looked at shapes, types and memory, and made room for all panels; threads
    // write different panels and different parts of the target.
    unsafe {
        let instead = &*user.cast_const().cast::<Instead>();
        let (tiles, progress) = (instead.kernel.tiles(), &instead.progress);
        let [weight, x, ..] = (*target).src;
        let [width, n, p, q] = (*target).ne.map(|size| size as usize);
        let (rows, depth) = (n * p * q, (*weight).ne[0] as usize);
        let (steps, panels) = (tiles.steps(depth), rows.div_ceil(tiles.rows));
        let parts = Parts::new(tiles, rows, width, threads as usize, COLUMNS);
        let packed = instead.packed;
        SCRATCH.with_borrow_mut(|scratch| {
            let x = Matrix {
                line: depth * size_of::<f32>(),
                ..Matrix::of(x, true)
            };
            while let Some(panel) = Progress::next(&progress.panel, panels) {
                for depth in tiles.blocks(depth, STEPS) {
                    let wanted = panel * tiles.rows..((panel + 1) * tiles.rows).min(rows);
                    let to = packed
                        .add(panel * tiles.rows * steps + tiles.steps(depth.start) * tiles.rows);
                    Packing {
                        tiles,
                        width: tiles.rows,
                        wanted,
                        depth,
                        to,
                        panel: 0,
                    }
                    .run(&x, &mut scratch.lines);
                }
                progress.packed.fetch_add(1, Ordering::Release);
            }
            progress.wait(panels);
            while let Some(part) = Progress::next(&progress.part, parts.count()) {
                let (columns, bands) = parts.at(part);
                let c = (*target).data.cast::<f32>();
                let mut block = Block {
                    tiles,
                    rows,
                    bands,
                    columns,
                    part: 0..0,
                    a: packed,
                    panel: tiles.rows * steps,
                    c,
                    stride: width,
                    from: std::ptr::null(),
                };
                for depth in tiles.blocks(depth, STEPS) {
                    block.a = packed.add(tiles.steps(depth.start) * tiles.rows);
                    block.part = depth;
                    block.run(
                        &Matrix::of(weight, true),
                        &mut scratch.lines,
                        &mut scratch.b,
                    );
                    block.from = c;
                }
            }
        });
        progress.leave(threads);
    }
}
