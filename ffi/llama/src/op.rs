//! Names of the operations that a traced graph may hold.

use std::ffi::CStr;

use llama_cpp_sys_2 as sys;

/// What computes a node. Operations without a name here are carried as ggml's number, with ggml's
/// name for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A weight or an adapter matrix: memory that somebody else owns.
    Weight,
    /// Memory that the caller fills before each run.
    Input,
    /// Memory that llama.cpp keeps from one run to the next (cache rows, recurrent states); here it
    /// begins as zeros in each run.
    State,
    /// a + b, with b repeated.
    Add,
    /// a plus those rows of b that the third operand names: biases of experts.
    AddId,
    /// a − b, with b repeated.
    Sub,
    /// a ⊙ b, with b repeated.
    Mul,
    /// a ⊘ b, with b repeated.
    Div,
    /// A factor times x, plus a constant.
    Scale,
    /// x².
    Sqr,
    /// √x.
    Sqrt,
    /// The sum of each row.
    SumRows,
    /// x repeated to a larger shape.
    Repeat,
    /// b after a along one axis.
    Concat,
    /// x with every value between two bounds.
    Clamp,
    /// (x − mean) / √(variance + ε) of each row.
    Norm,
    /// x / √(mean of x² + ε) of each row.
    RmsNorm,
    /// x / max(‖x‖, ε) of each row.
    L2Norm,
    /// aᵀ b.
    MulMat,
    /// aᵀ b with the matrices that the third operand names for each token: experts.
    MulMatId,
    /// The rows of a that b names.
    GetRows,
    /// Write rows to the places that the second operand names.
    SetRows,
    /// softmax of each row, with scale, mask, slopes and sinks where they are set.
    SoftMax,
    /// Rotary position embedding.
    Rope,
    /// Its inverse.
    RopeBack,
    /// Copies into fresh memory: CONT, DUP, and CPY to nowhere in particular.
    Cont,
    /// A copy into the memory of its second operand.
    Cpy,
    /// What a state holds after all of it was written: the value itself, under the state's shape.
    Store,
    /// The same, number by number: as the transpose of the rows that are written (a cache of
    /// values).
    StoreTransposed,
    /// The same memory under another shape.
    Reshape,
    /// A part of another tensor's memory.
    View,
    /// The same memory with its axes in another order.
    Permute,
    /// The same memory with the inner two axes swapped.
    Transpose,
    /// The order of each row.
    Argsort,
    /// The places of the k largest of each row.
    TopK,
    /// One constant everywhere.
    Fill,
    /// The causal convolution of state-space layers.
    SsmConv,
    /// The recurrence of Mamba.
    SsmScan,
    /// The recurrence of gated delta nets.
    GatedDeltaNet,
    /// A function of each element.
    Unary(Unary),
    /// A gated product.
    Glu(Glu),
    /// An operation without a name here: ggml's name and number.
    Other(&'static str, u32),
}

/// Element by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unary {
    /// |x|.
    Abs,
    /// −1, 0 or 1.
    Sgn,
    /// −x.
    Neg,
    /// 1 above zero, 0 elsewhere.
    Step,
    /// tanh x.
    Tanh,
    /// max(x, 0).
    Relu,
    /// 1 / (1 + e⁻ˣ).
    Sigmoid,
    /// x Φ(x), with Φ by a tanh.
    Gelu,
    /// x sigmoid(1.702 x).
    GeluQuick,
    /// x Φ(x) with the exact normal distribution Φ.
    GeluErf,
    /// x sigmoid(x).
    Silu,
    /// eˣ.
    Exp,
    /// ln(1 + eˣ).
    Softplus,
}

/// A gate times a value; both in one tensor where there is one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glu {
    /// relu(gate) ⊙ value.
    Reglu,
    /// gelu(gate) ⊙ value.
    Geglu,
    /// The same with the exact GELU.
    GegluErf,
    /// The same with the quick GELU.
    GegluQuick,
    /// silu(gate) ⊙ value.
    Swiglu,
    /// gpt-oss: both parts clamped, the value one above.
    SwigluOai,
    /// Both parts clamped.
    SwigluClamp,
}

impl Op {
    /// ggml's name of the operation, for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weight => "WEIGHT",
            Self::Input => "INPUT",
            Self::State => "STATE",
            Self::Add => "ADD",
            Self::AddId => "ADD_ID",
            Self::Sub => "SUB",
            Self::Mul => "MUL",
            Self::Div => "DIV",
            Self::Scale => "SCALE",
            Self::Sqr => "SQR",
            Self::Sqrt => "SQRT",
            Self::SumRows => "SUM_ROWS",
            Self::Repeat => "REPEAT",
            Self::Concat => "CONCAT",
            Self::Clamp => "CLAMP",
            Self::Norm => "NORM",
            Self::RmsNorm => "RMS_NORM",
            Self::L2Norm => "L2_NORM",
            Self::MulMat => "MUL_MAT",
            Self::MulMatId => "MUL_MAT_ID",
            Self::GetRows => "GET_ROWS",
            Self::SetRows => "SET_ROWS",
            Self::SoftMax => "SOFT_MAX",
            Self::Rope => "ROPE",
            Self::RopeBack => "ROPE_BACK",
            Self::Cont => "CONT",
            Self::Cpy => "CPY",
            Self::Store | Self::StoreTransposed => "STORE",
            Self::Reshape => "RESHAPE",
            Self::View => "VIEW",
            Self::Permute => "PERMUTE",
            Self::Transpose => "TRANSPOSE",
            Self::Argsort => "ARGSORT",
            Self::TopK => "TOP_K",
            Self::Fill => "FILL",
            Self::SsmConv => "SSM_CONV",
            Self::SsmScan => "SSM_SCAN",
            Self::GatedDeltaNet => "GATED_DELTA_NET",
            Self::Unary(unary) => unary.name(),
            Self::Glu(glu) => glu.name(),
            Self::Other(name, _) => name,
        }
    }

    /// The node is another look at memory that an earlier node filled.
    pub fn is_look(self) -> bool {
        matches!(
            self,
            Self::View | Self::Reshape | Self::Permute | Self::Transpose
        )
    }

    /// The result are places, not values: no gradient flows through.
    pub fn is_choice(self) -> bool {
        matches!(self, Self::Argsort | Self::TopK)
    }

    /// What is computed for one token depends on the tokens before it in memory, mask or not.
    pub fn is_recurrent(self) -> bool {
        matches!(self, Self::SsmConv | Self::SsmScan | Self::GatedDeltaNet)
    }
}

impl Unary {
    fn name(self) -> &'static str {
        match self {
            Self::Abs => "ABS",
            Self::Sgn => "SGN",
            Self::Neg => "NEG",
            Self::Step => "STEP",
            Self::Tanh => "TANH",
            Self::Relu => "RELU",
            Self::Sigmoid => "SIGMOID",
            Self::Gelu => "GELU",
            Self::GeluQuick => "GELU_QUICK",
            Self::GeluErf => "GELU_ERF",
            Self::Silu => "SILU",
            Self::Exp => "EXP",
            Self::Softplus => "SOFTPLUS",
        }
    }
}

impl Glu {
    fn name(self) -> &'static str {
        match self {
            Self::Reglu => "REGLU",
            Self::Geglu => "GEGLU",
            Self::GegluErf => "GEGLU_ERF",
            Self::GegluQuick => "GEGLU_QUICK",
            Self::Swiglu => "SWIGLU",
            Self::SwigluOai => "SWIGLU_OAI",
            Self::SwigluClamp => "SWIGLU_CLAMP",
        }
    }
}

/// # Safety
/// `raw` must be a live ggml tensor.
pub(crate) unsafe fn op_of(raw: *mut sys::ggml_tensor) -> Op {
    // SAFETY: the caller promises a live tensor; ggml's names are static strings.
    unsafe {
        let other = || {
            let name = CStr::from_ptr(sys::ggml_op_desc(raw))
                .to_str()
                .unwrap_or("?");
            Op::Other(name, (*raw).op)
        };
        match (*raw).op {
            sys::GGML_OP_NONE => leaf(raw),
            sys::GGML_OP_UNARY => unary(sys::ggml_get_unary_op(raw)).map_or_else(other, Op::Unary),
            sys::GGML_OP_GLU => glu(sys::ggml_get_glu_op(raw)).map_or_else(other, Op::Glu),
            op => named(op).unwrap_or_else(other),
        }
    }
}

/// # Safety
/// `raw` must be a live ggml tensor without an operation.
unsafe fn leaf(raw: *mut sys::ggml_tensor) -> Op {
    // SAFETY: the caller promises a live tensor; a buffer that is not null is live.
    unsafe {
        let buffer = (*raw).buffer;
        if buffer.is_null() {
            return Op::Input;
        }
        let name = CStr::from_ptr((*raw).name.as_ptr()).to_bytes();
        let lent =
            sys::ggml_backend_buffer_get_usage(buffer) == sys::GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
        // Adapters lie in buffers without that mark, like llama.cpp's own memories.
        if lent || name.ends_with(b".lora_a") || name.ends_with(b".lora_b") {
            Op::Weight
        } else {
            Op::State
        }
    }
}

fn named(op: sys::ggml_op) -> Option<Op> {
    Some(match op {
        sys::GGML_OP_ADD => Op::Add,
        sys::GGML_OP_ADD_ID => Op::AddId,
        sys::GGML_OP_SUB => Op::Sub,
        sys::GGML_OP_MUL => Op::Mul,
        sys::GGML_OP_DIV => Op::Div,
        sys::GGML_OP_SCALE => Op::Scale,
        sys::GGML_OP_SQR => Op::Sqr,
        sys::GGML_OP_SQRT => Op::Sqrt,
        sys::GGML_OP_SUM_ROWS => Op::SumRows,
        sys::GGML_OP_REPEAT => Op::Repeat,
        sys::GGML_OP_CONCAT => Op::Concat,
        sys::GGML_OP_CLAMP => Op::Clamp,
        sys::GGML_OP_NORM => Op::Norm,
        sys::GGML_OP_RMS_NORM => Op::RmsNorm,
        sys::GGML_OP_L2_NORM => Op::L2Norm,
        sys::GGML_OP_MUL_MAT => Op::MulMat,
        sys::GGML_OP_MUL_MAT_ID => Op::MulMatId,
        sys::GGML_OP_GET_ROWS => Op::GetRows,
        sys::GGML_OP_SET_ROWS => Op::SetRows,
        sys::GGML_OP_SOFT_MAX => Op::SoftMax,
        sys::GGML_OP_ROPE => Op::Rope,
        sys::GGML_OP_ROPE_BACK => Op::RopeBack,
        sys::GGML_OP_CONT | sys::GGML_OP_DUP => Op::Cont,
        sys::GGML_OP_CPY => Op::Cpy,
        sys::GGML_OP_RESHAPE => Op::Reshape,
        sys::GGML_OP_VIEW => Op::View,
        sys::GGML_OP_PERMUTE => Op::Permute,
        sys::GGML_OP_TRANSPOSE => Op::Transpose,
        sys::GGML_OP_ARGSORT => Op::Argsort,
        sys::GGML_OP_TOP_K => Op::TopK,
        sys::GGML_OP_FILL => Op::Fill,
        sys::GGML_OP_SSM_CONV => Op::SsmConv,
        sys::GGML_OP_SSM_SCAN => Op::SsmScan,
        sys::GGML_OP_GATED_DELTA_NET => Op::GatedDeltaNet,
        _ => return None,
    })
}

fn unary(op: sys::ggml_unary_op) -> Option<Unary> {
    Some(match op {
        sys::GGML_UNARY_OP_ABS => Unary::Abs,
        sys::GGML_UNARY_OP_SGN => Unary::Sgn,
        sys::GGML_UNARY_OP_NEG => Unary::Neg,
        sys::GGML_UNARY_OP_STEP => Unary::Step,
        sys::GGML_UNARY_OP_TANH => Unary::Tanh,
        sys::GGML_UNARY_OP_RELU => Unary::Relu,
        sys::GGML_UNARY_OP_SIGMOID => Unary::Sigmoid,
        sys::GGML_UNARY_OP_GELU => Unary::Gelu,
        sys::GGML_UNARY_OP_GELU_QUICK => Unary::GeluQuick,
        sys::GGML_UNARY_OP_GELU_ERF => Unary::GeluErf,
        sys::GGML_UNARY_OP_SILU => Unary::Silu,
        sys::GGML_UNARY_OP_EXP => Unary::Exp,
        sys::GGML_UNARY_OP_SOFTPLUS => Unary::Softplus,
        _ => return None,
    })
}

fn glu(op: sys::ggml_glu_op) -> Option<Glu> {
    Some(match op {
        sys::GGML_GLU_OP_REGLU => Glu::Reglu,
        sys::GGML_GLU_OP_GEGLU => Glu::Geglu,
        sys::GGML_GLU_OP_GEGLU_ERF => Glu::GegluErf,
        sys::GGML_GLU_OP_GEGLU_QUICK => Glu::GegluQuick,
        sys::GGML_GLU_OP_SWIGLU => Glu::Swiglu,
        sys::GGML_GLU_OP_SWIGLU_OAI => Glu::SwigluOai,
        sys::GGML_GLU_OP_SWIGLU_CLAMP => Glu::SwigluClamp,
        _ => return None,
    })
}
