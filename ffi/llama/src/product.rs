//! Operations by kernels of our own, on the CPU: weights are read where they lie, in whatever type.

use std::ffi::c_void;

use llama_cpp_sys_2 as sys;

use crate::dtype::Dtype;
use crate::error::LlamaError;
use crate::graph::{Built, Graph, Tensor, set_name};
use crate::kernels::{self, Call, Kernel, Side, Units, pack_rows, packed_lanes};

type Operation = unsafe extern "C" fn(*mut sys::ggml_tensor, i32, i32, *mut c_void);

/// What is added to a product with a weight on the way.
#[derive(Clone, Copy, Debug)]
pub struct Plus {
    /// A low-rank matrix, and the rows that its product is taken with: B and A x for `times`, A and
    /// Bᵀ y for `times_transposed`.
    pub adapter: Option<(Tensor, Tensor)>,
    /// A tensor of the result's shape.
    pub base: Option<Tensor>,
    /// What all of it is multiplied by.
    pub scale: f32,
}

impl Plus {
    /// Nothing.
    pub const NONE: Self = Self {
        adapter: None,
        base: None,
        scale: 1.0,
    };
}

impl Graph {
    /// y = Wᵀ x, as `mul_mat`, but `x` is not quantized.
    ///
    /// shapes: W [k, m], x [k, …], B [r, m], A x [r, …] → [m, …]
    pub fn times(&mut self, kernel: Kernel, weight: Tensor, x: Tensor, plus: Plus) -> Built {
        self.weight_product(kernel, weight, x, Side::Rows, plus)
    }

    /// x = W y: the gradient of `times` for x, from the same rows of W.
    ///
    /// shapes: W [k, m], y [m, …], A [k, r], Bᵀ y [r, …] → [k, …]
    pub fn times_transposed(
        &mut self,
        kernel: Kernel,
        weight: Tensor,
        y: Tensor,
        plus: Plus,
    ) -> Built {
        self.weight_product(kernel, weight, y, Side::Columns, plus)
    }

    fn weight_product(
        &mut self,
        kernel: Kernel,
        weight: Tensor,
        x: Tensor,
        side: Side,
        plus: Plus,
    ) -> Built {
        let (name, operation): (_, Operation) = if side == Side::Rows {
            ("times", kernels::times::<false>)
        } else {
            ("times_transposed", kernels::times::<true>)
        };
        let sx = self.shape(x)?;
        let mut shape = sx;
        shape[0] = self.side(weight, x, side)?;
        let kernel = kernel.for_weight(self.dtype(weight)?.is_quantized(), side);
        let packed = self.packed(kernel, x)?;
        let mut sources = vec![weight, packed];
        if let Some((matrix, small)) = plus.adapter {
            if self.side(matrix, small, side)? != shape[0] || self.shape(small)?[1..] != shape[1..]
            {
                return Err(LlamaError::Graph(format!(
                    "{name} {shape:?} plus {:?}",
                    self.shape(matrix)?
                )));
            }
            sources.extend([matrix, self.dense(small)?]);
        }
        if let Some(base) = plus.base {
            self.like(base, shape, name)?;
            sources.push(self.dense(base)?);
        }
        let call = Call {
            scale: plus.scale,
            adapter: plus.adapter.is_some(),
            base: plus.base.is_some(),
            ..plain(kernel)
        };
        // SAFETY: the operation needs weights with dense rows of types that convert to floats, of
        // these shapes, rows packed for this kernel, and contiguous F32 for the rest.
        unsafe { self.custom(name, operation, call, shape, &sources) }
    }

    /// The size of a product of `matrix` with rows `x` along this side.
    fn side(&self, matrix: Tensor, x: Tensor, side: Side) -> Result<i64, LlamaError> {
        let (sm, sx) = (self.shape(matrix)?, self.shape(x)?);
        let (over, result) = if side == Side::Rows {
            (sm[0], sm[1])
        } else {
            (sm[1], sm[0])
        };
        if sm[2..] != [1, 1] || over != sx[0] || self.dtype(x)? != Dtype::F32 {
            return Err(LlamaError::Graph(format!(
                "product of a weight {sm:?} and {sx:?} ({side:?})"
            )));
        }
        self.readable(matrix)?;
        Ok(result)
    }

    /// aᵀ b of two F32 tensors, as `mul_mat`, but either may be a transposed view.
    ///
    /// shapes: a [k, m, g, …], b [k, n, h, …] → [m, n, h, …], h a multiple of g
    pub fn product(&mut self, kernel: Kernel, a: Tensor, b: Tensor) -> Built {
        let shape = self.product_shape(a, b)?;
        let (a, b) = (self.lined(a)?, self.lined(b)?);
        // SAFETY: the operation needs F32 operands that ggml_can_mul_mat, each with one dense
        // dimension of the inner two.
        unsafe {
            self.custom(
                "product",
                kernels::product,
                plain(kernel.floats()),
                shape,
                &[a, b],
            )
        }
    }

    /// The gradient of a product with chosen matrices for its second operand.
    ///
    /// shapes: weights [k, m, experts], dy [m, chosen, t], ids [chosen, t] → [k, chosen, t]
    pub fn experts_back(
        &mut self,
        kernel: Kernel,
        weights: Tensor,
        dy: Tensor,
        ids: Tensor,
    ) -> Built {
        let (sw, sd) = (self.shape(weights)?, self.shape(dy)?);
        if sw[1] != sd[0] || sw[3] != 1 {
            return Err(LlamaError::Graph(format!(
                "gradient through experts {sw:?} of {sd:?}"
            )));
        }
        self.readable(weights)?;
        let (dy, ids) = (self.dense(dy)?, self.choices(ids, sd)?);
        // SAFETY: the operation needs a readable matrix for each expert, contiguous rows, and one
        // choice for each of them.
        unsafe {
            self.custom(
                "experts_back",
                kernels::experts_back,
                plain(kernel.floats()),
                [sw[0], sd[1], sd[2], 1],
                &[weights, dy, ids],
            )
        }
    }

    /// The gradient of a product with chosen matrices for these.
    ///
    /// shapes: x [k, chosen or 1, t], dy [m, chosen, t], ids [chosen, t] → [k, m, experts]
    pub fn experts_weights(
        &mut self,
        kernel: Kernel,
        x: Tensor,
        dy: Tensor,
        ids: Tensor,
        experts: i64,
    ) -> Built {
        let (sx, sd) = (self.shape(x)?, self.shape(dy)?);
        if (sx[1] != 1 && sx[1] != sd[1])
            || sx[2..] != [sd[2], 1]
            || experts < 1
            || self.dtype(x)? != Dtype::F32
        {
            return Err(LlamaError::Graph(format!(
                "gradient of experts from {sx:?} and {sd:?}"
            )));
        }
        let (x, dy, ids) = (self.dense(x)?, self.dense(dy)?, self.choices(ids, sd)?);
        // SAFETY: the operation needs contiguous rows, and one choice for each of them.
        unsafe {
            self.custom(
                "experts_weights",
                kernels::experts_weights,
                plain(kernel.floats()),
                [sx[0], sd[0], experts, 1],
                &[x, dy, ids],
            )
        }
    }

    /// The choices of experts for rows of shape `rows`, contiguous.
    fn choices(&mut self, ids: Tensor, rows: [i64; 4]) -> Built {
        let shape = self.shape(ids)?;
        if self.dtype(ids)? != Dtype::I32 || shape != [rows[1], rows[2], 1, 1] || rows[3] != 1 {
            return Err(LlamaError::Graph(format!(
                "choices {shape:?} for rows {rows:?}"
            )));
        }
        self.cont(ids)
    }

    fn product_shape(&self, a: Tensor, b: Tensor) -> Result<[i64; 4], LlamaError> {
        let (sa, sb) = (self.shape(a)?, self.shape(b)?);
        let floats = self.dtype(a)? == Dtype::F32 && self.dtype(b)? == Dtype::F32;
        if sa[0] != sb[0] || sb[2] % sa[2] != 0 || sb[3] % sa[3] != 0 || !floats {
            return Err(LlamaError::Graph(format!("product of {sa:?} and {sb:?}")));
        }
        Ok([sa[1], sb[1], sb[2], sb[3]])
    }

    /// softmax(scale kᵀ q + mask): attention's probabilities.
    ///
    /// shapes: k [d, keys, g, 1], q [d, queries, h, 1], F32 mask [keys, queries] → [keys, queries,
    /// h, 1], h a multiple of g
    pub fn attention(
        &mut self,
        kernel: Kernel,
        k: Tensor,
        q: Tensor,
        mask: Tensor,
        scale: f32,
    ) -> Built {
        let shape = self.product_shape(k, q)?;
        self.like(mask, [shape[0], shape[1], 1, 1], "mask of attention")?;
        let operands = [self.lined(k)?, self.lined(q)?, self.dense(mask)?];
        let call = Call {
            scale,
            ..plain(kernel.floats())
        };
        // SAFETY: the operation needs F32 operands that ggml_can_mul_mat, each with one dense
        // dimension of the inner two, and a contiguous mask for all heads.
        unsafe { self.custom("attention", kernels::attention, call, shape, &operands) }
    }

    /// The gradient for attention's scores, from what its probabilities `p` were multiplied with
    /// and the gradient of the result.
    ///
    /// shapes: v [d, keys, g, 1], dy [d, queries, h, 1], p [keys, queries, h, 1] → [keys, queries,
    /// h, 1]
    pub fn attention_back(
        &mut self,
        kernel: Kernel,
        v: Tensor,
        dy: Tensor,
        p: Tensor,
        scale: f32,
    ) -> Built {
        let shape = self.product_shape(v, dy)?;
        self.like(p, shape, "probabilities of attention")?;
        let operands = [self.lined(v)?, self.lined(dy)?, self.dense(p)?];
        let call = Call {
            scale,
            ..plain(kernel.floats())
        };
        // SAFETY: as for `attention`, and contiguous probabilities of the result's shape.
        unsafe {
            self.custom(
                "attention_back",
                kernels::attention_back,
                call,
                shape,
                &operands,
            )
        }
    }

    /// The gradient of `softmax(scale x + …)` for x, from its result.
    pub fn soft_max_back(&mut self, y: Tensor, dy: Tensor, scale: f32) -> Built {
        let call = Call {
            scale,
            ..plain(Kernel::exact())
        };
        self.alike("soft_max_back", kernels::soft_max_back, call, &[y, dy])
    }

    /// The gradient of `x / √(mean x² + epsilon)` for x, plus `base`.
    pub fn rms_norm_back(
        &mut self,
        x: Tensor,
        dy: Tensor,
        epsilon: f32,
        base: Option<Tensor>,
    ) -> Built {
        let call = Call {
            scale: epsilon,
            base: base.is_some(),
            ..plain(Kernel::exact())
        };
        let operands: Vec<Tensor> = [x, dy].into_iter().chain(base).collect();
        self.alike("rms_norm_back", kernels::rms_norm_back, call, &operands)
    }

    /// The gradients of `silu(gate) ⊙ up` for the gate and for what it lets through.
    pub fn swiglu_back(
        &mut self,
        gate: Tensor,
        up: Tensor,
        dy: Tensor,
    ) -> Result<(Tensor, Tensor), LlamaError> {
        let shape = self.shape(gate)?;
        let mut operands = Vec::with_capacity(3);
        for operand in [gate, up, dy] {
            self.like(operand, shape, "swiglu_back")?;
            operands.push(self.dense(operand)?);
        }
        let [n0, n1, n2, n3] = shape;
        // SAFETY: the operation needs contiguous F32 operands of one shape and room for two of
        // them.
        let both = unsafe {
            self.custom(
                "swiglu_back",
                kernels::swiglu_back,
                plain(Kernel::exact()),
                [n0, n1, n2, 2 * n3],
                &operands,
            )?
        };
        Ok((self.half(both, shape, 0)?, self.half(both, shape, 1)?))
    }

    /// One half of a contiguous tensor with twice as much in its last dimension, as a view.
    fn half(&mut self, both: Tensor, shape: [i64; 4], number: usize) -> Built {
        let raw = self.raw(both)?;
        self.room()?;
        let [n0, n1, n2, n3] = shape;
        // SAFETY: room was checked; each half lies inside the tensor that was just made.
        let view = unsafe {
            let [_, b1, b2, b3] = (*raw).nb;
            sys::ggml_view_4d(
                self.ctx(),
                raw,
                n0,
                n1,
                n2,
                n3,
                b1,
                b2,
                b3,
                number * sys::ggml_nbytes(raw) / 2,
            )
        };
        Ok(self.push(view))
    }

    /// An operation over F32 tensors of one shape.
    fn alike(
        &mut self,
        name: &str,
        operation: Operation,
        call: Call,
        operands: &[Tensor],
    ) -> Built {
        let shape = self.shape(operands[0])?;
        let mut dense = Vec::with_capacity(operands.len());
        for operand in operands {
            self.like(*operand, shape, name)?;
            dense.push(self.dense(*operand)?);
        }
        // SAFETY: the callers pass operations that need contiguous F32 tensors of one shape.
        unsafe { self.custom(name, operation, call, shape, &dense) }
    }

    fn like(&self, operand: Tensor, shape: [i64; 4], name: &str) -> Result<(), LlamaError> {
        let found = self.shape(operand)?;
        if found == shape && self.dtype(operand)? == Dtype::F32 {
            return Ok(());
        }
        Err(LlamaError::Graph(format!(
            "{name} of {shape:?} and {found:?}"
        )))
    }

    /// The tensor itself if one of its inner dimensions is dense, else a copy.
    fn lined(&mut self, a: Tensor) -> Built {
        // SAFETY: reads a live tensor.
        let [first, second, ..] = unsafe { (*self.raw(a)?).nb };
        let float = size_of::<f32>();
        if first == float || second == float {
            Ok(a)
        } else {
            self.cont(a)
        }
    }

    /// `x` in panels, made once for all products with this kernel.
    fn packed(&mut self, kernel: Kernel, x: Tensor) -> Built {
        if let Some(packed) = self.packed.get(&(x, kernel.name())) {
            return Ok(*packed);
        }
        let dense = self.dense(x)?;
        let [depth, n, p, q] = self
            .shape(dense)?
            .map(|size| usize::try_from(size).unwrap_or(0));
        let lanes = packed_lanes(kernel.tiles(), n * p * q, depth);
        let lanes =
            i64::try_from(lanes).map_err(|_| LlamaError::Graph(format!("{lanes} lanes")))?;
        // SAFETY: the operation needs a contiguous F32 operand and room for its panels.
        let packed =
            unsafe { self.custom("pack", pack_rows, plain(kernel), [lanes, 1, 1, 1], &[dense])? };
        self.packed.insert((x, kernel.name()), packed);
        Ok(packed)
    }

    /// Refuse a weight that the kernels cannot read: on another device, repacked, or of a type
    /// without conversion.
    fn readable(&self, weight: Tensor) -> Result<(), LlamaError> {
        let raw = self.raw(weight)?;
        // SAFETY: a live tensor; the traits are a static table.
        let (host, dense, converts) = unsafe {
            let kind = (*raw).type_;
            let buffer = if (*raw).buffer.is_null() && !(*raw).view_src.is_null() {
                (*(*raw).view_src).buffer
            } else {
                (*raw).buffer
            };
            let host = buffer.is_null() || sys::ggml_backend_buffer_is_host(buffer);
            let converts =
                kind == sys::GGML_TYPE_F32 || (*sys::ggml_get_type_traits(kind)).to_float.is_some();
            (host, (*raw).nb[0] == sys::ggml_type_size(kind), converts)
        };
        if host && dense && converts {
            return Ok(());
        }
        Err(LlamaError::Graph(format!(
            "a weight of {} that the processor cannot read where it lies",
            self.dtype(weight)?.name()
        )))
    }

    /// Append an operation of ours.
    ///
    /// # Safety
    /// The operation with `call` reads and writes nothing beyond the sources and an F32 result of
    /// `shape`.
    unsafe fn custom(
        &mut self,
        name: &str,
        operation: Operation,
        call: Call,
        shape: [i64; 4],
        sources: &[Tensor],
    ) -> Built {
        let mut raws = sources
            .iter()
            .map(|source| self.raw(*source))
            .collect::<Result<Vec<_>, _>>()?;
        self.room()?;
        let count = i32::try_from(raws.len()).unwrap_or(0);
        let [n0, n1, n2, n3] = shape;
        let call = Box::new(call);
        let parameters = std::ptr::from_ref::<Call>(&call).cast_mut().cast();
        self.calls.push(call);
        // SAFETY: room was checked; the sources are live and copied by the call; its parameters
        // live as long as this graph.
        let raw = unsafe {
            sys::ggml_custom_4d(
                self.ctx(),
                sys::GGML_TYPE_F32,
                n0,
                n1,
                n2,
                n3,
                raws.as_mut_ptr(),
                count,
                Some(operation),
                -1,
                parameters,
            )
        };
        // SAFETY: the tensor that was just made.
        unsafe { set_name(raw, name) };
        Ok(self.push(raw))
    }
}

fn plain(kernel: Kernel) -> Call {
    Call {
        tiles: kernel.tiles(),
        scale: 1.0,
        adapter: false,
        base: false,
        units: Units::default(),
    }
}
