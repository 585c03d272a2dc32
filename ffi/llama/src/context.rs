use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use crate::error::LlamaError;
use crate::kernels::{Instead, Kernel, substitute};
use crate::log::{self, Reason};
use crate::model::{Adapter, Model};
use crate::probe::{Watch, look};

/// An inference state of one model: KV cache, compute buffers, active adapters. Not shared between
/// threads.
pub struct Context {
    raw: NonNull<sys::llama_context>,
    model: Model,
    adapters: Vec<(Adapter, f32)>,
    params: ContextParams,
    /// What llama.cpp calls while it decodes.
    _instead: Option<Box<Instead>>,
    training: bool,
    /// Other adapters than at the last decode: llama.cpp then lays out its graph anew and counts
    /// the model's adapters meanwhile.
    switched: bool,
}

// SAFETY: a llama_context has no thread affinity; `&mut self` on everything that computes keeps it
// to one thread at a time.
unsafe impl Send for Context {}

/// Sizes of a context. units: tokens, sequences, threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextParams {
    /// Cells of the KV cache, shared by all sequences.
    pub context: u32,
    /// Most tokens of one `decode`. units: tokens
    pub batch: u32,
    /// Most tokens computed at once; a batch is cut into such parts. units: tokens
    pub ubatch: u32,
    /// Most sequences in the cache.
    pub sequences: u32,
    /// CPU threads of a decode.
    pub threads: u32,
    /// F32 cache and no flash attention, for comparisons; inference uses an F16 cache.
    pub exact: bool,
    /// Products of quantized weights in wide batches are taken from llama.cpp's graph by this
    /// kernel of ours, where the model is on the CPU; none for ggml's products.
    pub kernel: Option<Kernel>,
}

/// Tokens to decode together. Each belongs to one sequence.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    tokens: Vec<i32>,
    positions: Vec<i32>,
    sequences: Vec<i32>,
    outputs: Vec<i8>,
}

impl Batch {
    /// Remove all tokens and keep the memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.outputs.clear();
    }

    /// Add a token and say whether its logits are wanted. Returns its row, for `Context::logits`.
    pub fn push(&mut self, token: i32, position: i32, sequence: i32, output: bool) -> usize {
        self.tokens.push(token);
        self.positions.push(position);
        self.sequences.push(sequence);
        self.outputs.push(i8::from(output));
        self.tokens.len() - 1
    }

    /// Tokens in the batch.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The batch has no token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

impl Context {
    /// Make an inference context.
    ///
    /// fails: too little memory, or sizes the model refuses.
    pub fn new(model: &Model, params: &ContextParams) -> Result<Self, LlamaError> {
        Self::make(model, params, std::ptr::null_mut())
    }

    /// As `new`, with `watch` called for every node. It must outlive the context, which the caller
    /// sees to.
    pub(crate) fn watched(
        model: &Model,
        params: &ContextParams,
        watch: &mut Watch,
    ) -> Result<Self, LlamaError> {
        Self::make(model, params, std::ptr::from_mut(watch))
    }

    /// Make a context in training mode, for `trace`: attention reads the K and V of the current
    /// batch. `tokens` is rounded up to what llama.cpp pads contexts to.
    ///
    /// source: llama.cpp `llama_context::opt_init`
    pub fn training(model: &Model, tokens: u32, threads: u32) -> Result<Self, LlamaError> {
        let tokens = tokens.next_multiple_of(256);
        let params = ContextParams {
            context: tokens,
            batch: tokens,
            ubatch: tokens,
            sequences: 1,
            threads,
            exact: true,
            kernel: None,
        };
        let mut context = Self::make(model, &params, std::ptr::null_mut())?;
        let (mark, mut reason) = (log::mark(), Reason::new());
        let (buffer, size) = reason.pointer();
        // SAFETY: both alive; n_ctx == n_batch == n_ubatch, as the call requires; exceptions end in
        // the shim.
        if !unsafe {
            crate::shim::translora_training_mode(context.raw.as_ptr(), model.raw(), buffer, size)
        } {
            return Err(LlamaError::Trace(
                reason.or_log(mark, "training mode was refused"),
            ));
        }
        context.training = true;
        Ok(context)
    }

    fn make(model: &Model, params: &ContextParams, watch: *mut Watch) -> Result<Self, LlamaError> {
        let (mark, mut reason) = (log::mark(), Reason::new());
        let kernel = params
            .kernel
            .filter(|_| watch.is_null() && !model.is_on_device() && !crate::backend::accelerated());
        let mut instead = kernel.map(Instead::new).transpose()?;
        // SAFETY: defaults with plain values replaced; model alive; exceptions end in the shim.
        let raw = unsafe {
            let mut raw_params = sys::llama_context_default_params();
            raw_params.n_ctx = params.context;
            raw_params.n_batch = params.batch;
            raw_params.n_ubatch = params.ubatch;
            raw_params.n_seq_max = params.sequences;
            raw_params.n_threads = i32::try_from(params.threads).unwrap_or(1);
            raw_params.n_threads_batch = raw_params.n_threads;
            if params.exact {
                raw_params.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_DISABLED;
                raw_params.type_k = sys::GGML_TYPE_F32;
                raw_params.type_v = sys::GGML_TYPE_F32;
            }
            if !watch.is_null() {
                raw_params.cb_eval = Some(look);
                raw_params.cb_eval_user_data = watch.cast();
            }
            if let Some(instead) = &mut instead {
                raw_params.cb_eval = Some(substitute);
                raw_params.cb_eval_user_data = std::ptr::from_mut::<Instead>(instead).cast();
            }
            raw_params.kv_unified = true;
            raw_params.no_perf = true;
            let (buffer, size) = reason.pointer();
            let _guard = model.lock_adapters();
            crate::shim::translora_context(model.raw(), raw_params, buffer, size)
        };
        let failed = || LlamaError::Context {
            tokens: params.context,
            reason: reason.or_log(mark, "llama.cpp gave no reason"),
        };
        let raw = NonNull::new(raw).ok_or_else(failed)?;
        Ok(Self {
            raw,
            model: model.clone(),
            adapters: Vec::new(),
            params: params.clone(),
            _instead: instead,
            training: false,
            switched: true,
        })
    }

    /// The model that computes here.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The sizes that the context was made with.
    pub fn params(&self) -> &ContextParams {
        &self.params
    }

    /// Replace the active adapters and forget the KV they did not make.
    ///
    /// fails: an adapter of another model.
    pub fn set_adapters(&mut self, adapters: &[(Adapter, f32)]) -> Result<(), LlamaError> {
        self.switch_adapters(adapters)?;
        if !self.training {
            self.clear();
        }
        Ok(())
    }

    /// Replace the active adapters and keep the KV. The caller sees to it that a sequence is only
    /// gone on with under the adapters that made it: llama.cpp would mix them without a word.
    ///
    /// fails: an adapter of another model.
    pub fn switch_adapters(&mut self, adapters: &[(Adapter, f32)]) -> Result<(), LlamaError> {
        for (adapter, _) in adapters {
            if adapter.model().raw() != self.model.raw() {
                return Err(LlamaError::AdapterLoad {
                    path: adapter.model().path().to_owned(),
                    reason: "the adapter was loaded onto another model".into(),
                });
            }
        }
        let mut raw: Vec<*mut sys::llama_adapter_lora> = adapters
            .iter()
            .map(|(adapter, _)| adapter.0.raw.as_ptr())
            .collect();
        let mut scales: Vec<f32> = adapters.iter().map(|(_, scale)| *scale).collect();
        // SAFETY: both arrays hold `raw.len()` items and outlive the call; the adapters live on in
        // `self.adapters`.
        unsafe {
            sys::llama_set_adapters_lora(
                self.raw.as_ptr(),
                raw.as_mut_ptr(),
                raw.len(),
                scales.as_mut_ptr(),
            )
        };
        self.adapters = adapters.to_vec();
        self.switched = true;
        Ok(())
    }

    /// The active adapters with their scales.
    pub fn adapters(&self) -> &[(Adapter, f32)] {
        &self.adapters
    }

    /// Forget all sequences.
    pub fn clear(&mut self) {
        // SAFETY: the memory belongs to this context; null (no memory) is allowed.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.raw.as_ptr()), false) }
    }

    /// Forget one sequence from position `from` on.
    pub fn truncate(&mut self, sequence: i32, from: i32) {
        // SAFETY: as in `clear`.
        unsafe {
            sys::llama_memory_seq_rm(sys::llama_get_memory(self.raw.as_ptr()), sequence, from, -1)
        };
    }

    /// Let `to` begin with all of `from`, sharing its cells.
    pub fn fork(&mut self, from: i32, to: i32) {
        // SAFETY: as in `clear`.
        unsafe {
            sys::llama_memory_seq_cp(sys::llama_get_memory(self.raw.as_ptr()), from, to, -1, -1);
        }
    }

    /// Run the model over a batch.
    ///
    /// fails: more tokens than `batch` allows, a token or sequence out of range, no room in the KV
    /// cache, a failed computation.
    pub fn decode(&mut self, batch: &Batch) -> Result<(), LlamaError> {
        self.check(batch)?;
        let mut counts = vec![1_i32; batch.len()];
        let mut ids = batch.sequences.clone();
        let mut pointers: Vec<*mut i32> = ids.iter_mut().map(std::ptr::from_mut).collect();
        let raw = sys::llama_batch {
            n_tokens: i32::try_from(batch.len()).unwrap_or(i32::MAX),
            token: batch.tokens.as_ptr().cast_mut(),
            embd: std::ptr::null_mut(),
            pos: batch.positions.as_ptr().cast_mut(),
            n_seq_id: counts.as_mut_ptr(),
            seq_id: pointers.as_mut_ptr(),
            logits: batch.outputs.as_ptr().cast_mut(),
        };
        let (mark, mut reason) = (log::mark(), Reason::new());
        let (buffer, size) = reason.pointer();
        let guard = self.switched.then(|| self.model.lock_adapters());
        // SAFETY: every array holds `n_tokens` items and outlives the call, which only reads them;
        // values checked above.
        let code = unsafe { crate::shim::translora_decode(self.raw.as_ptr(), raw, buffer, size) };
        drop(guard);
        if code == 0 {
            self.switched = false;
            return Ok(());
        }
        let fallback = if code == 1 {
            "no room in the KV cache"
        } else {
            "llama.cpp gave no reason"
        };
        Err(LlamaError::Decode {
            code,
            reason: reason.or_log(mark, fallback),
        })
    }

    /// Refuse what llama.cpp would assert on.
    fn check(&self, batch: &Batch) -> Result<(), LlamaError> {
        let refuse = |reason: String| Err(LlamaError::Decode { code: -1, reason });
        if self.training {
            return refuse("a training context only traces".into());
        }
        if batch.is_empty() || batch.len() > self.params.batch as usize {
            return refuse(format!(
                "{} tokens in a batch of at most {}",
                batch.len(),
                self.params.batch
            ));
        }
        let words = self.model.vocab().len();
        if let Some(token) = batch
            .tokens
            .iter()
            .find(|token| usize::try_from(**token).map_or(true, |token| token >= words))
        {
            return refuse(format!("token {token} of a vocabulary of {words}"));
        }
        if let Some(sequence) = batch
            .sequences
            .iter()
            .find(|s| u32::try_from(**s).map_or(true, |s| s >= self.params.sequences))
        {
            return refuse(format!("sequence {sequence} of {}", self.params.sequences));
        }
        Ok(())
    }

    /// The logits of one row of the last batch.
    ///
    /// shapes: vocabulary
    pub fn logits(&self, row: usize) -> Result<&[f32], LlamaError> {
        let missing = || LlamaError::Decode {
            code: -1,
            reason: format!("row {row} of the last batch has no logits"),
        };
        let index = i32::try_from(row).map_err(|_| missing())?;
        // SAFETY: llama.cpp returns null for rows without output; otherwise a row of vocabulary
        // size that lives until the next decode, which needs `&mut self`.
        unsafe {
            let raw = sys::llama_get_logits_ith(self.raw.as_ptr(), index);
            if raw.is_null() {
                Err(missing())
            } else {
                Ok(std::slice::from_raw_parts(raw, self.model.vocab().len()))
            }
        }
    }

    pub(crate) fn raw(&self) -> *mut sys::llama_context {
        self.raw.as_ptr()
    }

    pub(crate) fn is_training(&self) -> bool {
        self.training
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the only owner; the model and the adapters outlive it.
        unsafe { sys::llama_free(self.raw.as_ptr()) }
    }
}
